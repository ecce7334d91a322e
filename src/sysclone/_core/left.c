/* The end of threads that a function left behind.

   Nobody is parked for them any more. Where they are killed, or one of them ends or crashes their process, one of them may have
   had the GIL, and the others are waited for at the interpreter's end and by whoever joins them. So for each process that is
   left a thread of the program sleeps on its pidfd. It has no thread state until there is somebody to bury. */
#include "core.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

struct sc_left {
    pthread_t thread;
    int pidfd; /* borrowed */
    int over;
    PyObject *bury; /* owned: a function of no arguments */
};

static bool
sc_is_ending(void)
{
#if PY_VERSION_HEX >= 0x030d0000
    return !Py_IsInitialized() || Py_IsFinalizing();
#else
    return !Py_IsInitialized() || _Py_IsFinalizing();
#endif
}

static void *
sc_left_main(void *argument)
{
    sc_left *left = argument;
    struct pollfd end = {.fd = left->pidfd, .events = POLLIN};
    sc_raw5(SYS_prctl, PR_SET_NAME, "sysclone-left", 0, 0, 0);
    while (sc_raw5(SYS_ppoll, &end, 1, 0, 0, 0) == -EINTR) {
    }
    siginfo_t info = {0};
    long known = sc_raw5(SYS_waitid, P_PIDFD, left->pidfd, &info, WEXITED | WNOHANG | WNOWAIT | __WALL, 0);
    bool ended_well = known == 0 && info.si_code == CLD_EXITED && info.si_status == 0;
    if (!sc_is_ending() && (!ended_well || sc_bury_next(false))) sc_gil_mend(NULL);
    if (!sc_is_ending()) {
        PyGILState_STATE state = PyGILState_Ensure();
        PyObject *answer = PyObject_CallNoArgs(left->bury);
        if (!answer) PyErr_WriteUnraisable(left->bury);
        Py_XDECREF(answer);
        PyGILState_Release(state);
    }
    __atomic_store_n(&left->over, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

/* Watches the process of pidfd, which stays open until sc_left_free. NULL where no thread can be had, and in a light process,
   whose own end would have to wait for that thread's. */
sc_left *
sc_left_watch(int pidfd, PyObject *bury)
{
    sc_left *left = sc_guard_is_owner() ? PyMem_RawCalloc(1, sizeof *left) : NULL;
    if (!left) return NULL;
    left->pidfd = pidfd;
    left->bury = Py_NewRef(bury);
    uint64_t old;
    sc_signals_block(&old);
    int error = pthread_create(&left->thread, NULL, sc_left_main, left);
    sc_signals_set(&old);
    if (!error) return left;
    Py_DECREF(left->bury);
    PyMem_RawFree(left);
    return NULL;
}

/* Whether the process has ended and what it took with it is buried. */
bool
sc_left_is_over(const sc_left *left)
{
    return __atomic_load_n(&left->over, __ATOMIC_SEQ_CST);
}

void
sc_left_free(sc_left *left)
{
    pthread_join(left->thread, NULL);
    Py_DECREF(left->bury);
    PyMem_RawFree(left);
}
