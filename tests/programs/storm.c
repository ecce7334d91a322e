/* storm ROUNDS SEED: a child with threads that fork, vfork and clone; it is killed after a random while, in whatever it
   is doing: before a first stop, between a birth and its event, in a vfork. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void *
busy(void *way)
{
    for (;;) {
        pid_t pid = (long)way % 3 == 0   ? fork()
                    : (long)way % 3 == 1 ? vfork()
                                         : syscall(SYS_clone, SIGCHLD | ((long)way & 4 ? CLONE_PARENT : 0), 0, 0, 0, 0);
        if (pid == 0) _exit(0);
        if (pid > 0) waitpid(pid, 0, 0);
    }
    return 0;
}

int
main(int count, char **words)
{
    (void)count;
    srand((unsigned)atoi(words[2]));
    for (int i = 0; i < atoi(words[1]); i++) {
        pid_t pid = fork();
        if (pid == 0) {
            for (long way = 0; way < 4; way++) {
                pthread_t thread;
                pthread_create(&thread, 0, busy, (void *)way);
            }
            busy((void *)4);
        }
        usleep((unsigned)(rand() % 5000));
        kill(pid, SIGKILL);
        waitpid(pid, 0, 0);
    }
    while (waitpid(-1, 0, __WALL) > 0) {
    }
    return 0;
}
