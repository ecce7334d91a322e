// The floor of a look at many tasks: the same search by kcmp, and the same reading of /proc, in plain C.
//
// The search believes what it is told: it asks nothing twice, and calls two that have nothing sharers.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const char *const FILES[] = {"stat", "status", "cgroup", "stat"};
static const char *const NAMESPACES[] = {"user", "mnt", "pid", "net", "uts", "ipc", "cgroup", "time", "pid_for_children", "time_for_children"};

#define COUNT(array) (int)(sizeof(array) / sizeof *(array))

static int64_t
seeing_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static long
seeing_compare(int one, int other, int kind)
{
    return syscall(SYS_kcmp, one, other, kind, 0, 0);
}

static int
seeing_place(int kind, const int *tids, int task, int *table, int *count, int *label)
{
    int low = 0, high = *count;
    while (low < high) {
        int middle = (low + high) / 2;
        long answer = seeing_compare(tids[task], tids[table[middle]], kind);
        if (answer < 0) {
            return errno;
        }
        if (answer == 0) {
            *label = table[middle];
            return 0;
        }
        if (answer == 1) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    memmove(table + low + 1, table + low, (size_t)((*count)++ - low) * sizeof *table);
    table[low] = *label = task;
    return 0;
}

static int
seeing_groups(const int *tids, const int *leaders, int n, int *table, int *labels)
{
    for (int kind = KCMP_VM; kind <= KCMP_SYSVSEM; kind++) {
        int count = 0, error = 0;
        for (int i = 0; i < n && !error; i++) {
            if (leaders[i] == i) {
                error = seeing_place(kind, tids, i, table, &count, &labels[i]);
            }
        }
        for (int i = 0; i < n && !error; i++) {
            if (leaders[i] == i) {
                continue;
            }
            if (seeing_compare(tids[i], tids[leaders[i]], kind) == 0) {
                labels[i] = labels[leaders[i]];
            } else {
                error = seeing_place(kind, tids, i, table, &count, &labels[i]);
            }
        }
        if (error) {
            return error;
        }
    }
    return 0;
}

// The six kinds of a crowd; count comes first in both arrays.
int
sc_floors_groups(int n, int64_t *each, const int *tids, const int *leaders)
{
    int count = tids[0], error = 0;
    int *work = malloc(2 * (size_t)count * sizeof *work);
    for (int i = 0; i < n && !error; i++) {
        int64_t start = seeing_now();
        error = seeing_groups(tids + 1, leaders + 1, count, work, work + count);
        each[i] = seeing_now() - start;
    }
    free(work);
    return error;
}

static void
seeing_read(int pid, int tid)
{
    char path[64], text[8192];
    for (int k = 0; k < COUNT(FILES); k++) {
        snprintf(path, sizeof path, "/proc/%d/task/%d/%s", pid, tid, FILES[k]);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
            if (read(fd, text, sizeof text) < 0) {
                text[0] = 0;
            }
            close(fd);
        }
    }
    snprintf(path, sizeof path, "/proc/%d/task/%d/ns", pid, tid);
    int folder = open(path, O_PATH | O_CLOEXEC);
    for (int k = 0; k < COUNT(NAMESPACES); k++) {
        if (readlinkat(folder, NAMESPACES[k], text, sizeof text) < 0) {
            text[0] = 0;
        }
    }
    close(folder);
}

// The six kinds, and what /proc says of each task: what a whole look asks the kernel.
int
sc_floors_look(int n, int64_t *each, const int *tids, const int *leaders)
{
    int count = tids[0], error = 0;
    int *work = malloc(2 * (size_t)count * sizeof *work);
    for (int i = 0; i < n && !error; i++) {
        int64_t start = seeing_now();
        error = seeing_groups(tids + 1, leaders + 1, count, work, work + count);
        for (int k = 1; k <= count; k++) {
            seeing_read(tids[1 + leaders[k]], tids[k]);
        }
        each[i] = seeing_now() - start;
    }
    free(work);
    return error;
}
