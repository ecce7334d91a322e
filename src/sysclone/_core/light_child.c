/* The child's side of a light process: from its first instruction on the borrowed thread to its last. light.c says what
   holds on both sides. */
#include "core.h"

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/prctl.h>

static int
sc_exit_code(PyObject *exception)
{
    if (!PyErr_GivenExceptionMatches(exception, PyExc_SystemExit)) return 1;
    PyObject *code = PyObject_GetAttrString(exception, "code");
    int answer = 1;
    if (code == Py_None) answer = 0;
    else if (code && PyLong_Check(code)) answer = (int)(PyLong_AsLongLong(code) & 0xff);
    Py_XDECREF(code);
    PyErr_Clear();
    return answer;
}

/* Takes the exception that is set, with its traceback. */
PyObject *
sc_raised(void)
{
#if PY_VERSION_HEX >= 0x030c0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback) PyException_SetTraceback(value, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
#endif
}

static void
sc_call_function(sc_light *l)
{
    PyObject *value = PyObject_Vectorcall(l->fn, l->args, (size_t)l->nargs, l->kwnames);
    if (value) {
        l->value = value;
        l->exit_code = 0;
        l->end = SC_RETURNED;
    } else {
        PyObject *exception = sc_raised();
        l->exit_code = sc_exit_code(exception);
        l->value = exception;
        l->end = SC_RAISED;
    }
}

/* The thread that made this process may end before those that are left here, and its end is then no sign of the program's:
   the guardian is to have them instead. It is the parked thread that can speak to it, unless that sleeps in vfork. Where
   there is no guardian to be had they die with the thread that made them, rather than outlive the program. */
static void
sc_light_leave(sc_light *l)
{
    if (l->guarded) return;
    if (!(l->plan->clone.flags & CLONE_VFORK)) {
        int word;
        __atomic_store_n(&l->leaving, SC_LEAVING, __ATOMIC_SEQ_CST);
        sc_light_call_attention(l);
        while ((word = __atomic_load_n(&l->leaving, __ATOMIC_SEQ_CST)) == SC_LEAVING)
            sc_raw6(SYS_futex, &l->leaving, FUTEX_WAIT, word, 0, 0, 0);
        if (word == SC_GUARDED) sc_raw5(SYS_prctl, PR_SET_PDEATHSIG, 0, 0, 0, 0);
    }
}

int
sc_light_child(void *argument)
{
    sc_light *l = argument;
    if (l->plan->clone.flags & CLONE_VFORK) {
        /* The parked thread returns from clone only when all is over: the child announces itself. */
        l->pid = l->guarded ? *sc_guard_number(l->guarded) : l->parent_tid;
        __atomic_store_n(&l->started, 1, __ATOMIC_SEQ_CST);
        if (l->attach) sc_raw6(SYS_futex, &l->started, FUTEX_WAKE, INT32_MAX, 0, 0, 0);
    }
    if (l->own_group && !l->guarded) {
        sc_raw5(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        /* The parent may have died before the line above. In a new pid namespace it cannot be seen: 0. */
        l->parent = (pid_t)sc_raw0(SYS_getppid);
        if (l->parent && l->parent != (l->plan->clone.flags & CLONE_PARENT ? l->grandparent : l->creator)) return 1;
    } else {
        l->parent = (pid_t)sc_raw0(SYS_getppid);
        if (l->guarded && !sc_guard_enter(l->guarded)) return 1;
    }
    if (l->plan->newborn.waits) {
        int ready;
        while (!(ready = __atomic_load_n(&l->ready, __ATOMIC_SEQ_CST))) sc_raw6(SYS_futex, &l->ready, FUTEX_WAIT, 0, 0, 0, 0);
        if (ready < 0) return 1;
    }
    sc_caught_by = l;
    if (l->plan->clear_handlers) {
        if (!l->request.cleared_handlers) sc_signals_clear_handlers();
        sc_caught_arm();
    }
    sc_signals_set(&l->mask);
    if (l->attach) PyEval_RestoreThread(l->ts);
    sc_call_function(l);
    if (l->attach) PyEval_SaveThread();
    sc_caught_by = NULL;
    /* Whatever came of the function: a signal that ends a process was sent, and the wait status tells of it. */
    if (l->stop_signal) sc_signals_die(l->stop_signal);
    l->threads_left = l->own_group && sc_has_threads();
    if (l->threads_left && !l->lasting) sc_light_leave(l);
    return l->exit_code;
}

/* Whether this process has other threads. No effect: unshare(CLONE_THREAD) is EINVAL where it has. */
bool
sc_has_threads(void)
{
    long answer = sc_raw1(SYS_unshare, CLONE_THREAD);
    return answer == -EINVAL || (answer < 0 && sc_thread_count() > 1); /* a seccomp filter may refuse the question */
}

/* light_rearm(): in a light process whose credentials have changed: the kernel has forgotten that it dies with its creator. */
PyObject *
sc_light_rearm(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    sc_light *l = sc_caught_by;
    if (l && l->own_group && !l->guarded) {
        sc_raw5(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        /* The parent may have died meanwhile. In a pid namespace of its own this cannot be seen: 0. */
        if (sc_raw0(SYS_getppid) != l->parent) sc_signals_die(SIGKILL);
    }
    Py_RETURN_NONE;
}
