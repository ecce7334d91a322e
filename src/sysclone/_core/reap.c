/* Light processes whose own threads outlive their function.

   The function's end is the exit of the group's leader; the leader stays a zombie until its last thread has ended, and
   waiting for it then would be waiting for them. So its pidfd is kept here and reaped at a later call. Guarded by the GIL,
   or where there is none by a lock. */
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
    sc_left *left;       /* who watches it, or NULL */
    PyObject *keep;      /* owned, or NULL: what the task needs until its end */
} sc_pending_end;

static sc_pending_end *sc_pending;
static size_t sc_pending_count, sc_pending_room;

#ifdef Py_GIL_DISABLED
static PyMutex sc_pending_lock;
#define SC_PENDING_LOCK() PyMutex_Lock(&sc_pending_lock)
#define SC_PENDING_UNLOCK() PyMutex_Unlock(&sc_pending_lock)
#else
#define SC_PENDING_LOCK() ((void)0)
#define SC_PENDING_UNLOCK() ((void)0)
#endif

static bool
sc_pending_add(int pidfd, sc_guarded *guarded, sc_left *left, PyObject *keep)
{
    if (sc_pending_count == sc_pending_room) {
        size_t room = sc_pending_room ? 2 * sc_pending_room : 16;
        sc_pending_end *grown = PyMem_RawRealloc(sc_pending, room * sizeof *grown);
        if (!grown) return false;
        sc_pending = grown;
        sc_pending_room = room;
    }
    sc_pending[sc_pending_count++] = (sc_pending_end){.pidfd = pidfd, .owner = (pid_t)sc_raw0(SYS_getpid),
                                                      .guarded = guarded, .left = left, .keep = Py_XNewRef(keep)};
    return true;
}

/* Takes pidfd, and what else is not NULL: left, and a reference to keep. A negative pidfd (the table was full) is a zombie
   that stays until the program ends. */
void
sc_reap_later(int pidfd, sc_guarded *guarded, sc_left *left, PyObject *keep)
{
    if (pidfd < 0) return;
    SC_PENDING_LOCK();
    bool added = sc_pending_add(pidfd, guarded, left, keep);
    SC_PENDING_UNLOCK();
    if (!added && !left) sc_raw1(SYS_close, pidfd);
}

/* Whether it has ended, and is reaped by that. */
static bool
sc_pending_is_over(const sc_pending_end *p)
{
    if (p->left && !sc_left_is_over(p->left)) return false;
    siginfo_t info = {0};
    long answer = sc_raw5(SYS_waitid, P_PIDFD, p->pidfd, &info, WEXITED | WNOHANG | __WALL, 0);
    /* A sibling is its parent's to reap: its pidfd tells of its last thread's end. */
    if (answer == -ECHILD) {
        struct pollfd end = {.fd = p->pidfd, .events = POLLIN};
        struct timespec now = {0};
        return sc_raw5(SYS_ppoll, &end, 1, &now, 0, 0) != 0;
    }
    return answer != 0 || info.si_pid;
}

/* Takes the first one from *at on that has ended off the list. */
static bool
sc_reap_next(size_t *at, sc_pending_end *ended)
{
    for (; *at < sc_pending_count; ++*at) {
        if (sc_pending[*at].owner != sc_raw0(SYS_getpid) || !sc_pending_is_over(&sc_pending[*at])) continue;
        *ended = sc_pending[*at];
        sc_pending[*at] = sc_pending[--sc_pending_count];
        return true;
    }
    return false;
}

/* Reaps those that have ended meanwhile; one comparison when there are none. */
void
sc_reap_ended(void)
{
    bool found = __atomic_load_n(&sc_pending_count, __ATOMIC_RELAXED) > 0;
    for (size_t at = 0; found;) {
        sc_pending_end ended;
        SC_PENDING_LOCK();
        found = sc_reap_next(&at, &ended);
        SC_PENDING_UNLOCK();
        if (!found) break;
        if (ended.left) sc_left_free(ended.left);
        sc_raw1(SYS_close, ended.pidfd);
        if (ended.guarded) sc_guard_release(ended.guarded);
        Py_XDECREF(ended.keep); /* whose end may come here again */
    }
}

/* In a forked child: they are its creator's, also where the child has the creator's number, in another pid namespace. Their
   fds may be in a table that is shared, and stay. */
void
sc_reap_after_fork(void)
{
    sc_pending_count = 0;
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
    sc_reap_later(pidfd, NULL, NULL, keep);
    Py_RETURN_NONE;
}
