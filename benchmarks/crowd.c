// A crowd to look at: PROCESSES processes of THREADS threads each, which wait until standard input is closed.
//
// Prints one line for each process: its threads' ids, its own first.

#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int tell;

static void *
thread_wait(void *unused)
{
    int tid = (int)syscall(SYS_gettid);
    if (write(tell, &tid, sizeof tid) != sizeof tid) {
        _exit(1);
    }
    pause();
    return unused;
}

static void
process_wait(int threads)
{
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    for (int i = 1; i < threads; i++) {
        pthread_t thread;
        if (pthread_create(&thread, &small, thread_wait, NULL)) {
            _exit(1);
        }
    }
    char end;
    _exit(read(0, &end, 1) < 0);
}

int
main(int argc, char **argv)
{
    int processes = argc > 2 ? atoi(argv[1]) : 0, threads = argc > 2 ? atoi(argv[2]) : 0;
    for (int p = 0; p < processes; p++) {
        int ends[2];
        if (pipe2(ends, O_CLOEXEC)) {
            return 1;
        }
        tell = ends[1];
        pid_t pid = fork();
        if (pid == 0) {
            close(ends[0]);
            close(1); // whoever reads it waits for its end
            process_wait(threads);
        }
        close(ends[1]);
        printf("%d", pid);
        int tid;
        for (int i = 1; i < threads && read(ends[0], &tid, sizeof tid) == sizeof tid; i++) {
            printf(" %d", tid);
        }
        printf("\n");
        close(ends[0]);
    }
    fflush(stdout);
    fclose(stdout);
    while (wait(NULL) > 0) {
    }
    return 0;
}
