// The floors: what the kernel and libc take for an operation when no Python is in the way.
//
// Every function does its operation n times, stores the nanoseconds of each in each[0..n), and returns 0 or an errno.
// bench.py loads this into the process that it measures, so that a floor pays for the same page tables as ours does.

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STACK_BYTES (256 * 1024)

extern char **environ;

struct program {
    char *argv[2];
    volatile int exec_errno; // written by the child: the memory is shared until it execs
};

static int64_t
floors_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t); // the clock of time.perf_counter_ns
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static int
floors_reap(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR) {
            return errno;
        }
    }
    return status == 0 ? 0 : ECHILD;
}

static int
child_exit(void *unused)
{
    (void)unused;
    _exit(0);
}

static int
child_exec(void *argument)
{
    struct program *program = argument;
    execve(program->argv[0], program->argv, environ);
    program->exec_errno = errno;
    _exit(127);
}

static void *
thread_exit(void *unused)
{
    return unused;
}

// n children that share memory, one after another on one stack: CLONE_VFORK keeps two from ever being on it together.
static int
floors_clone(int n, int64_t *each, int (*child)(void *), void *argument)
{
    char *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stack == MAP_FAILED) {
        return errno;
    }
    int error = 0;
    for (int i = 0; i < n && !error; i++) {
        int64_t start = floors_now();
        pid_t pid = clone(child, stack + STACK_BYTES, CLONE_VM | CLONE_VFORK | SIGCHLD, argument);
        error = pid < 0 ? errno : floors_reap(pid);
        each[i] = floors_now() - start;
    }
    munmap(stack, STACK_BYTES);
    return error;
}

// clone(CLONE_VM|CLONE_VFORK|SIGCHLD), _exit, waitpid.
int
sc_floors_clone_exit(int n, int64_t *each)
{
    return floors_clone(n, each, child_exit, NULL);
}

// clone(CLONE_VM|CLONE_VFORK|SIGCHLD), execve of path with no arguments, waitpid.
int
sc_floors_clone_exec(int n, int64_t *each, char *path)
{
    struct program program = {.argv = {path, NULL}};
    int error = floors_clone(n, each, child_exec, &program);
    return program.exec_errno ? program.exec_errno : error;
}

// fork, _exit, waitpid.
int
sc_floors_fork_exit(int n, int64_t *each)
{
    int error = 0;
    for (int i = 0; i < n && !error; i++) {
        int64_t start = floors_now();
        pid_t pid = fork();
        if (pid == 0) {
            _exit(0);
        }
        error = pid < 0 ? errno : floors_reap(pid);
        each[i] = floors_now() - start;
    }
    return error;
}

// pthread_create, pthread_join.
int
sc_floors_thread(int n, int64_t *each)
{
    int error = 0;
    for (int i = 0; i < n && !error; i++) {
        pthread_t thread;
        int64_t start = floors_now();
        error = pthread_create(&thread, NULL, thread_exit, NULL);
        if (!error) {
            error = pthread_join(thread, NULL);
        }
        each[i] = floors_now() - start;
    }
    return error;
}
