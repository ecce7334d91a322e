/* A task that does nothing but be there: it keeps new namespaces while fds to them are opened, and a pid namespace, which
   lives as long as its first process, until it is let go.

   It shares the creator's memory, so it costs none, and runs on a stack of its own by raw calls alone. It ends when the
   pipe that it reads has no writer left, so also when its creator is killed. */
#include "core.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

#define SC_HOLD_STACK 16384

static int
sc_hold_main(void *argument)
{
    long fd = (long)(intptr_t)argument, got;
    char byte;
    uint64_t all = ~0ULL;
    sc_signals_clear_handlers();
    sc_signals_set(&all);
    /* As an init it is the parent of orphans: ignored, SIGCHLD lets them be reaped by the kernel. */
    struct {
        uintptr_t handler;
        unsigned long flags;
        uintptr_t restorer;
        uint64_t mask;
    } ignore = {.handler = (uintptr_t)SIG_IGN};
    sc_raw4(SYS_rt_sigaction, SIGCHLD, &ignore, 0, SC_SIGSET_BYTES);
    if (fd > 0) sc_raw3(SYS_close_range, 0, fd - 1, 0);
    sc_raw3(SYS_close_range, fd + 1, 0x7fffffff, 0);
    do got = sc_raw3(SYS_read, fd, &byte, 1);
    while (got > 0 || got == -EINTR);
    return 0;
}

static void
sc_hold_free(PyObject *capsule)
{
    munmap(PyCapsule_GetPointer(capsule, NULL), SC_HOLD_STACK);
}

/* hold(plan, fd) -> (pid, pidfd, stack): fd is the reading end of a pipe, borrowed. The pidfd is the caller's. stack is to
   be let go of when the task has ended, not before. A refusal has its step as the OSError's file name. */
PyObject *
sc_hold(PyObject *module, PyObject *args)
{
    sc_state *state = sc_get_state(module);
    PyObject *plan_object;
    int fd;
    if (!PyArg_ParseTuple(args, "O!i:hold", state->plan_type, &plan_object, &fd)) return NULL;
    const sc_plan *plan = (sc_plan *)plan_object;
    char *stack = mmap(NULL, SC_HOLD_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stack == MAP_FAILED) return PyErr_SetFromErrnoWithFilename(PyExc_OSError, "mmap");
    SC_UNPOISON(stack, SC_HOLD_STACK);
    int pidfd = -1;
    sc_clone_request request = {.plan = &plan->clone, .more_flags = CLONE_VM | CLONE_PIDFD, .pidfd = &pidfd,
                                .stack_low = (uintptr_t)stack, .stack_bytes = SC_HOLD_STACK};
    const char *step = "";
    uint64_t old;
    long pid, refused = 0;
    Py_BEGIN_ALLOW_THREADS
    sc_signals_block(&old);
    pid = sc_clone_joined(&request, &plan->newborn, sc_hold_main, (void *)(intptr_t)fd, &step);
    if (pid > 0 && pidfd < 0) pidfd = (int)sc_raw2(SYS_pidfd_open, pid, 0);
    if (pid > 0) refused = pidfd < 0 ? pidfd : sc_newborn_settle(&plan->newborn, pid, &step);
    if (refused < 0) {
        sc_raw2(SYS_kill, pid, SIGKILL);
        while (sc_raw4(SYS_wait4, pid, 0, __WALL, 0) == -EINTR) {
        }
        if (pidfd >= 0) sc_raw1(SYS_close, pidfd);
        pid = refused;
    }
    sc_signals_set(&old);
    Py_END_ALLOW_THREADS
    if (pid < 0) {
        munmap(stack, SC_HOLD_STACK);
        errno = (int)-pid;
        return PyErr_SetFromErrnoWithFilename(PyExc_OSError, step ? step : "");
    }
    PyObject *capsule = PyCapsule_New(stack, NULL, sc_hold_free);
    return capsule ? Py_BuildValue("liN", pid, pidfd, capsule) : NULL;
}
