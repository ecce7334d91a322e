// The floor of a sandbox: namespaces, id maps and a /proc of its own, when no Python is in the way.
//
// As in floors.c: n times, nanoseconds into each[0..n), 0 or an errno back.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SANDBOX_STACK_BYTES (256 * 1024)

extern char **environ;

struct sandbox {
    char *argv[2];
    char uid_map[64], gid_map[64];
    volatile int error; // written by the child: the memory is shared until it execs
};

static int
sandbox_write(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        return -1;
    }
    ssize_t written = write(fd, text, strlen(text));
    int error = errno;
    close(fd);
    errno = error;
    return written == (ssize_t)strlen(text) ? 0 : -1;
}

// Its own maps, written by itself, so that nobody waits for anybody.
static int
sandbox_child(void *argument)
{
    struct sandbox *sandbox = argument;
    if (!sandbox_write("/proc/self/setgroups", "deny") && !sandbox_write("/proc/self/uid_map", sandbox->uid_map)
        && !sandbox_write("/proc/self/gid_map", sandbox->gid_map) && !mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL)
        && !mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL)) {
        execve(sandbox->argv[0], sandbox->argv, environ);
    }
    sandbox->error = errno;
    _exit(127);
}

// clone(CLONE_VM|CLONE_VFORK and new user, mount and pid namespaces), maps, /proc, execve of path, waitpid.
int
sc_floors_sandbox(int n, int64_t *each, char *path)
{
    struct sandbox sandbox = {.argv = {path, NULL}};
    snprintf(sandbox.uid_map, sizeof sandbox.uid_map, "0 %u 1\n", (unsigned)geteuid());
    snprintf(sandbox.gid_map, sizeof sandbox.gid_map, "0 %u 1\n", (unsigned)getegid());
    const int flags = CLONE_VM | CLONE_VFORK | CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | SIGCHLD;
    char *stack =
        mmap(NULL, SANDBOX_STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stack == MAP_FAILED) {
        return errno;
    }
    int error = 0;
    for (int i = 0; i < n && !error; i++) {
        struct timespec start, end;
        clock_gettime(CLOCK_MONOTONIC, &start);
        pid_t pid = clone(sandbox_child, stack + SANDBOX_STACK_BYTES, flags, &sandbox);
        int status = 0;
        if (pid < 0) {
            error = errno;
        } else {
            while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
            }
            error = sandbox.error ? sandbox.error : status ? ECHILD : 0;
        }
        clock_gettime(CLOCK_MONOTONIC, &end);
        each[i] = (end.tv_sec - start.tv_sec) * INT64_C(1000000000) + end.tv_nsec - start.tv_nsec;
    }
    munmap(stack, SANDBOX_STACK_BYTES);
    return error;
}
