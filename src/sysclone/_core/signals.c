/* A child's signal mask and handlers, by raw calls: it may be running on another task's thread-local storage.

   Handlers that the creator installed must not run in a child that shares its memory: CPython's marks the shared
   interpreter, and the creator's main thread would answer for the child. */
#include "core.h"

#include <signal.h>

void
sc_signals_block(uint64_t *old)
{
    uint64_t all = SC_ALL_SIGNALS;
    sc_raw4(SYS_rt_sigprocmask, SIG_SETMASK, &all, old, SC_SIGSET_BYTES);
}

void
sc_signals_set(const uint64_t *mask)
{
    sc_raw4(SYS_rt_sigprocmask, SIG_SETMASK, mask, 0, SC_SIGSET_BYTES);
}

void
sc_signals_clear_handlers(void)
{
    for (int sig = 1; sig <= 64; sig++) {
        sc_kernel_sigaction action = {0};
        if (sig == SIGKILL || sig == SIGSTOP || sc_raw4(SYS_rt_sigaction, sig, 0, &action, SC_SIGSET_BYTES) < 0
            || action.handler == (uintptr_t)SIG_DFL || action.handler == (uintptr_t)SIG_IGN)
            continue;
        sc_kernel_sigaction reset = {.handler = (uintptr_t)SIG_DFL};
        sc_raw4(SYS_rt_sigaction, sig, &reset, 0, SC_SIGSET_BYTES);
    }
}

/* Ends this task by sig's default action, so that the wait status tells the truth. */
void
sc_signals_die(int sig)
{
    sc_kernel_sigaction reset = {.handler = (uintptr_t)SIG_DFL};
    uint64_t open_mask = SC_ALL_SIGNALS & ~(1ULL << (sig - 1));
    sc_raw4(SYS_rt_sigaction, sig, &reset, 0, SC_SIGSET_BYTES);
    sc_raw3(SYS_tgkill, sc_raw0(SYS_getpid), sc_raw0(SYS_gettid), sig);
    sc_signals_set(&open_mask);
}

/* set_disposition(sig, ignored): SIG_IGN or SIG_DFL in this process's kernel table, past Python's own, which a child that
   runs on borrowed memory shares with its creator. */
PyObject *
sc_set_disposition(PyObject *module, PyObject *args)
{
    (void)module;
    int sig, ignored;
    if (!PyArg_ParseTuple(args, "ip:set_disposition", &sig, &ignored)) return NULL;
    sc_kernel_sigaction reset = {.handler = (uintptr_t)(ignored ? SIG_IGN : SIG_DFL)};
    long answer = sc_raw4(SYS_rt_sigaction, sig, &reset, 0, SC_SIGSET_BYTES);
    if (answer < 0) return sc_oserror(answer);
    Py_RETURN_NONE;
}
