/* Light processes whose own threads outlive their function.

   The function's end is the exit of the group's leader; the leader stays a zombie until its last thread has ended, and
   waiting for it then would be waiting for them. So its pidfd is kept here and reaped at a later call. Guarded by the GIL. */
#include "core.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

/* A number is one of the table of the process that opened it. */
typedef struct {
    int pidfd;
    pid_t owner;
    sc_guarded *guarded; /* or NULL */
    PyObject *keep;      /* owned, or NULL: what the task needs until its end */
} sc_pending_end;

static sc_pending_end *sc_pending;
static size_t sc_pending_count, sc_pending_room;

/* Takes pidfd, and a reference to keep, which may be NULL. A negative one (the table was full) is a zombie that stays until the program ends. */
void
sc_reap_later(int pidfd, sc_guarded *guarded, PyObject *keep)
{
    if (pidfd < 0) return;
    if (sc_pending_count == sc_pending_room) {
        size_t room = sc_pending_room ? 2 * sc_pending_room : 16;
        sc_pending_end *grown = PyMem_RawRealloc(sc_pending, room * sizeof *grown);
        if (!grown) {
            sc_raw1(SYS_close, pidfd);
            return;
        }
        sc_pending = grown;
        sc_pending_room = room;
    }
    sc_pending[sc_pending_count++] = (sc_pending_end){.pidfd = pidfd, .owner = (pid_t)sc_raw0(SYS_getpid),
                                                       .guarded = guarded, .keep = Py_XNewRef(keep)};
}

/* Reaps those that have ended meanwhile; one comparison when there are none. */
void
sc_reap_ended(void)
{
    for (size_t i = 0; i < sc_pending_count;) {
        siginfo_t info = {0};
        if (sc_pending[i].owner != sc_raw0(SYS_getpid)) {
            i++;
            continue;
        }
        long answer = sc_raw5(SYS_waitid, P_PIDFD, sc_pending[i].pidfd, &info, WEXITED | WNOHANG | __WALL, 0);
        /* A sibling is its parent's to reap: its pidfd tells of its last thread's end. */
        if (answer == -ECHILD) {
            struct pollfd end = {.fd = sc_pending[i].pidfd, .events = POLLIN};
            struct timespec now = {0};
            answer = sc_raw5(SYS_ppoll, &end, 1, &now, 0, 0) == 0 ? 0 : -ECHILD;
        }
        if (answer == 0 && !info.si_pid) {
            i++;
            continue;
        }
        sc_pending_end ended = sc_pending[i];
        sc_pending[i] = sc_pending[--sc_pending_count];
        sc_raw1(SYS_close, ended.pidfd);
        if (ended.guarded) sc_guard_release(ended.guarded);
        Py_XDECREF(ended.keep);
    }
}

/* reap_pending() -> how many are left after reaping those that have ended. */
PyObject *
sc_reap_pending(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    sc_reap_ended();
    return PyLong_FromSize_t(sc_pending_count);
}

/* reap_later(pidfd, keep=None): a child that will end some time, and is reaped at a later call. Takes the pidfd; keep is
   let go of then. */
PyObject *
sc_reap_later_py(PyObject *module, PyObject *args)
{
    (void)module;
    int pidfd;
    PyObject *keep = NULL;
    if (!PyArg_ParseTuple(args, "i|O:reap_later", &pidfd, &keep)) return NULL;
    sc_reap_later(pidfd, NULL, keep);
    Py_RETURN_NONE;
}
