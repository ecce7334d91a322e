/* The signals of a light process: those that would end it are caught there, and those of the program are answered while
   its main thread is lent out.

   1. A default action would strike anywhere, also in the GIL's condition variable: what people, supervisors, timers and
      limits send becomes a request to stop, and the child ends itself by that very signal when its function has unwound.
   2. The handler runs on the parked thread's storage, in the child. Where it runs in neither, in a thread that the
      function started or in a process that was forked from it, it must not speak for the child.
   3. CPython's own handlers keep and restore errno, which is the child's while the thread is parked: they never run on
      it. It takes those signals from the queue and hands them to the function. */
#include "core.h"

#include <errno.h>
#include <signal.h>
#include <time.h>

__thread sc_light *sc_caught_by;

/* --- the child's side */

/* Those that people, supervisors, timers and limits send; a system call each, in every light call. */
static const int sc_ending_signals[] = {SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGTERM, SIGXCPU};

/* Runs in the child, on its borrowed storage; a thread that its function started has none of ours and lets it be.

   SIGINT is the program's: its main thread answers, here too if the function runs on its identity. In the child it only
   ends a system call, so that the function looks; the terminal, a killer of the group, and the parked thread send it. */
static void
sc_on_signal(int sig)
{
    sc_light *l = sc_caught_by;
    if (!l) return;
    /* A process that was just forked from this one, and has not come to sc_caught_after_fork. */
    if (sc_raw0(SYS_getppid) != l->parent) {
        sc_signals_die(sig);
        return;
    }
    if (sig == SIGINT) {
        int kept = errno;
        uint32_t forwarded = __atomic_exchange_n(&l->forwarded, 0, __ATOMIC_SEQ_CST);
        for (int n = 1; n < 32; n++)
            if (forwarded >> n & 1) PyErr_SetInterruptEx(n);
        errno = kept;
        return;
    }
    int none = 0;
    __atomic_compare_exchange_n(&l->stop_signal, &none, sig, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    sc_light_request_stop(l, SC_STOP_SIGNAL);
}

void
sc_caught_arm(void)
{
    struct sigaction action = {.sa_handler = sc_on_signal}, old;
    sigfillset(&action.sa_mask);
    for (size_t i = 0; i < sizeof sc_ending_signals / sizeof *sc_ending_signals; i++) {
        int sig = sc_ending_signals[i];
        action.sa_flags = sig == SIGINT ? 0 : SA_RESTART;
        sigaction(sig, &action, &old);
        /* What the program ignores stays ignored. */
        if (old.sa_handler == SIG_IGN) sigaction(sig, &old, NULL);
    }
}

/* In a process forked from a light one: its signals are its own again. */
void
sc_caught_after_fork(void)
{
    if (!sc_caught_by) return;
    PyOS_sighandler_t interrupt = sc_caught_by->python_handler;
    sc_caught_by = NULL;
    for (size_t i = 0; i < sizeof sc_ending_signals / sizeof *sc_ending_signals; i++) {
        struct sigaction action;
        int sig = sc_ending_signals[i];
        if (sigaction(sig, NULL, &action) < 0 || action.sa_handler != sc_on_signal) continue;
        struct sigaction reset = {.sa_handler = sig == SIGINT && interrupt ? interrupt : SIG_DFL};
        sigaction(sig, &reset, NULL);
    }
}

/* --- the parked thread's side */

/* A main thread that is parked for long still answers the program's signals. Those that the kernel answers are opened.
   Those with CPython's own handler stay blocked, because a handler that ran here would keep and restore an errno that is
   the child's at that moment: they are taken from the queue now and then, and handed to the child, who marks them as
   that handler would and is out of its system call to see. Others' handlers wait until the function has ended. */
uint64_t
sc_caught_open(sc_light *l)
{
    uint64_t closed = SC_ALL_SIGNALS, ours = 0;
    for (int sig = 1; sig < 32; sig++) {
        struct sigaction action;
        if ((l->mask >> (sig - 1) & 1) || sigaction(sig, NULL, &action) < 0) continue;
        if (action.sa_handler == SIG_DFL) closed &= ~(1ULL << (sig - 1));
        else if (l->python_handler && action.sa_handler == l->python_handler) ours |= 1ULL << (sig - 1);
        /* In a light process that waits for one of its own: what is handed to it is handed on. */
        else if (sig == SIGINT && l->outer && action.sa_handler == sc_on_signal) ours |= 1ULL << (sig - 1), l->hands_on = true;
    }
    sc_signals_set(&closed);
    return ours;
}

void
sc_caught_forward(sc_light *l, uint64_t ours)
{
    struct timespec now = {0};
    long sig;
    while (ours && (sig = sc_raw4(SYS_rt_sigtimedwait, &ours, 0, &now, SC_SIGSET_BYTES)) > 0) {
        uint32_t taken = sig == SIGINT && l->hands_on ? __atomic_exchange_n(&l->outer->forwarded, 0, __ATOMIC_SEQ_CST) : 1U << sig;
        __atomic_fetch_or(&l->forwarded, taken, __ATOMIC_SEQ_CST);
        /* By number: alive, or unreaped and ours. */
        if (__atomic_load_n(&l->attention, __ATOMIC_SEQ_CST)) sc_raw2(SYS_kill, l->pid, SIGINT);
    }
}
