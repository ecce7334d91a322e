/* births program|thread|call COUNT: what a trace is to slow down as little as it can. Prints the nanoseconds it took. */
#define _GNU_SOURCE
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

static void *
nothing(void *argument)
{
    return argument;
}

static int
program(void)
{
    pid_t pid;
    int status;
    char *words[] = {"true", NULL};
    return posix_spawn(&pid, "/bin/true", NULL, NULL, words, environ) || waitpid(pid, &status, 0) != pid;
}

static int
thread(void)
{
    pthread_t thread;
    return pthread_create(&thread, NULL, nothing, NULL) || pthread_join(thread, NULL);
}

static int
call(void)
{
    struct stat found;
    return stat("/etc/passwd", &found);
}

int
main(int count, char **words)
{
    struct timespec began, ended;
    if (count != 3) return 2;
    int (*once)(void) = words[1][0] == 'p' ? program : words[1][0] == 't' ? thread : call;
    clock_gettime(CLOCK_MONOTONIC, &began);
    for (int i = 0; i < atoi(words[2]); i++)
        if (once()) return 1;
    clock_gettime(CLOCK_MONOTONIC, &ended);
    printf("%lld\n", (ended.tv_sec - began.tv_sec) * 1000000000LL + ended.tv_nsec - began.tv_nsec);
    return 0;
}
