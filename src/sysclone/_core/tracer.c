/* The tracer: a task of its own that stops others at the calls that make and change tasks, and tells what it saw.

   1. It is a process of its own that shares this one's memory: the tasks it traces, and its waiting for them, are no
      business of the program's other threads, whose waits would otherwise take its stops away, and whose children its
      own waits would take. It has no exit signal, so a plain wait of the program's does not find it either.
   2. It runs on the creating thread's thread-local storage, which that thread goes on using: so the rule of the files
      tracer*.c is raw system calls and nothing else: no libc, no errno, no Python. A test holds them to it.
   3. It never waits for the reader, who may be a task that it has stopped.
   4. A child's first stop may come before its creator's event, and from a plain wait usually does. The child is kept
      in that stop until the event: so its creation is told before anything that it does. A creator that is killed
      in between has no event; then nobody is waited for any longer.
   5. Its program may die by SIGKILL. The filter would then answer ENOSYS to every call that makes a task: so it goes on
      unheard until the last task has ended, or kills them, as was asked for.
   6. Signals, job control and stops by others pass through: PTRACE_SEIZE, PTRACE_LISTEN. */
#include "tracer.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/ptrace.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

#ifndef __WALL
#define __WALL 0x40000000
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif

#define SC_SIGNAL_BIT(n) (1ULL << ((n)-1))
#define SC_COMMAND_SIGNAL SIGUSR1 /* somebody has written a command */
#define SC_OWNER_SIGNAL SIGUSR2   /* the thread that made us has ended */
#define SC_TICK 20000000L         /* nanoseconds that a record may wait for more to come */
#define SC_FEW_TASKS 64
#define SC_OPTIONS (PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC)

/* --- the timer */

static void
sc_tick(sc_tracer *t, bool on)
{
    struct itimerval timer = {{0, on ? SC_TICK / 1000 : 0}, {0, on ? SC_TICK / 1000 : 0}};
    t->ticks = on;
    sc_raw3(SYS_setitimer, ITIMER_REAL, &timer, 0);
}

/* --- commands */

static void
sc_stop_and_go(sc_tracer *t, int32_t tid)
{
    int status;
    if (sc_ptrace(PTRACE_INTERRUPT, tid, 0, 0) < 0) return;
    while (sc_raw4(SYS_wait4, tid, &status, __WALL, 0) == -EINTR) {
    }
    if (WIFSTOPPED(status)) sc_stopped(t, tid, status);
    else sc_ended(t, tid, status);
}

static long
sc_seize(sc_tracer *t, int32_t tid)
{
    uintptr_t options = SC_OPTIONS;
    if (t->kill_on_exit) options |= PTRACE_O_EXITKILL;
    if (t->mode != SC_MODE_EVENTS) options |= PTRACE_O_TRACESYSGOOD;
    if (t->mode == SC_MODE_FILTER) options |= PTRACE_O_TRACESECCOMP;
    sc_traced *known = sc_tasks_find(&t->tasks, tid);
    if (known) return -EALREADY;
    long answer = sc_ptrace(PTRACE_SEIZE, tid, 0, options);
    if (answer < 0) return answer;
    sc_traced *task = sc_tasks_add(&t->tasks, tid);
    if (!task) return -ENOMEM;
    task->started = task->announced = true;
    sc_tell_attached(t, task);
    if (t->mode == SC_MODE_ALL) sc_stop_and_go(t, tid);
    return 0;
}

static void
sc_for_each_task(sc_tracer *t, bool kill)
{
    for (int32_t tid = t->tasks.first; tid;) {
        sc_traced *task = sc_tasks_find(&t->tasks, tid);
        tid = task->next;
        if (task->ghost) {
            sc_let_go(t, task);
        } else if (kill) {
            sc_raw2(SYS_kill, task->tid, SIGKILL);
        } else if (task->held) {
            sc_release(t, task);
        } else {
            sc_ptrace(PTRACE_INTERRUPT, task->tid, 0, 0);
        }
    }
}

static void
sc_obey(sc_tracer *t)
{
    int command = __atomic_load_n(&t->command, __ATOMIC_ACQUIRE);
    if (command == SC_NOTHING) return;
    if (command == SC_SEIZE) {
        for (int i = 0; i < t->tid_count; i++) t->tids[i] = (int32_t)sc_seize(t, t->tids[i]);
    } else if (command == SC_KILL) {
        t->killing = true;
        sc_for_each_task(t, true);
    } else if (command == SC_DETACH) {
        t->leaving = true;
        sc_for_each_task(t, false);
    } else if (command == SC_KEEP) {
        t->queue.silent = true;
        sc_raw5(SYS_prctl, PR_SET_PDEATHSIG, t->kill_on_exit ? SC_OWNER_SIGNAL : 0, 0, 0, 0);
    }
    __atomic_store_n(&t->command, SC_NOTHING, __ATOMIC_RELEASE);
    sc_raw6(SYS_futex, &t->command, FUTEX_WAKE, INT32_MAX, 0, 0, 0);
}

/* The program that we belong to has ended, perhaps without a word. */
static void
sc_owner_ended(sc_tracer *t)
{
    t->owner_is_gone = t->queue.silent = true;
    if (t->kill_on_exit) {
        t->killing = true;
        sc_for_each_task(t, true);
    } else if (t->mode != SC_MODE_FILTER) {
        t->leaving = true;
        sc_for_each_task(t, false);
    }
}

/* --- the loop */

/* It sleeps in wait4, not for a signal: then a stopping task's processor goes to the tracer at once, instead of another
   one's being woken, which costs more than all else. So what comes by signal may come just before that sleep, and its
   handler does not trust its interruption: it sets off a timer that interrupts again until the loop has looked. */
static void
sc_tracer_poked(int sig)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    sc_tracer *t = *(sc_tracer **)(here & ~(uintptr_t)(SC_TRACER_STACK - 1));
    if (sig == SIGALRM) {
        t->ticked = true;
        return;
    }
    if (sig == SC_OWNER_SIGNAL) t->owner_signalled = true;
    t->poked = true;
    sc_tick(t, true);
}

#if defined(__x86_64__)
#define SC_SA_RESTORER 0x04000000
__asm__(".text\n"
        ".hidden sc_tracer_return\n"
        ".type sc_tracer_return, @function\n"
        "sc_tracer_return:\n"
        "    mov $15, %eax\n"
        "    syscall\n");
void sc_tracer_return(void);
#else
#define SC_SA_RESTORER 0
#endif

static void
sc_handle(int sig)
{
    sc_kernel_sigaction action = {.handler = (uintptr_t)sc_tracer_poked, .flags = SC_SA_RESTORER, .mask = ~0ULL};
#if defined(__x86_64__)
    action.restorer = (uintptr_t)sc_tracer_return;
#endif
    sc_raw4(SYS_rt_sigaction, sig, &action, 0, 8);
}

/* SIGCHLD says whose stop it was, which is worth having where looking through all tasks is dear; unblocked it is dropped. */
static void
sc_listen_to_children(sc_tracer *t, bool listen)
{
    uint64_t mask = ~(SC_SIGNAL_BIT(SC_COMMAND_SIGNAL) | SC_SIGNAL_BIT(SC_OWNER_SIGNAL) | SC_SIGNAL_BIT(SIGALRM));
    if (!listen) mask &= ~SC_SIGNAL_BIT(SIGCHLD);
    sc_raw4(SYS_rt_sigprocmask, SIG_SETMASK, &mask, 0, 8);
    t->listens = listen;
    t->next_look = 0;
}

/* Takes one stop or end, of a task or (-1) of any; false when there is none, or when a signal came first. */
static bool
sc_take_stop(sc_tracer *t, long whose, int how)
{
    int status = 0;
    long tid = sc_raw4(SYS_wait4, whose, &status, __WALL | how, 0);
    if (tid <= 0) return false;
    if (WIFSTOPPED(status)) sc_stopped(t, (int32_t)tid, status);
    else if (WIFEXITED(status) || WIFSIGNALED(status)) sc_ended(t, (int32_t)tid, status);
    return true;
}

/* A creator's event and its child's first stop come together, and only one of them is signalled. */
static void
sc_take_expected(sc_tracer *t, int32_t signalled)
{
    sc_take_stop(t, signalled, WNOHANG);
    if (t->caller && t->caller != signalled) sc_take_stop(t, t->caller, WNOHANG);
    if (t->child && t->child != signalled) sc_take_stop(t, t->child, WNOHANG);
}

/* With many tasks, the kernel's looking at one after the other would be most of the time. SIGCHLD names one, but only the
   first of several until it is taken: so all are looked through as well, no more often than makes a fifth of the time. */
static bool
sc_wait_among_many(sc_tracer *t)
{
    uint64_t awaited = SC_SIGNAL_BIT(SIGCHLD);
    int64_t began = sc_now(), pause = SC_TICK;
    bool found = false;
    if (began < t->next_look) {
        pause = t->next_look - began;
    } else {
        found = sc_take_stop(t, -1, WNOHANG);
        int64_t ended = sc_now();
        t->next_look = ended + 4 * (ended - began);
        if (found) pause = 4 * (ended - began);
    }
    siginfo_t info = {0};
    struct timespec limit = {.tv_nsec = pause < SC_TICK ? pause : SC_TICK};
    if (sc_raw4(SYS_rt_sigtimedwait, &awaited, &info, &limit, 8) == SIGCHLD) sc_take_expected(t, info.si_pid);
    return found;
}

/* What came by signal, and what is done now and then. */
static void
sc_look_up(sc_tracer *t)
{
    if (__atomic_exchange_n(&t->poked, false, __ATOMIC_SEQ_CST)) sc_obey(t);
    if (__atomic_exchange_n(&t->owner_signalled, false, __ATOMIC_SEQ_CST) && !t->owner_is_gone
        && sc_raw0(SYS_getppid) != t->owner)
        sc_owner_ended(t);
    if (__atomic_exchange_n(&t->ticked, false, __ATOMIC_SEQ_CST)) {
        if (t->queue.unsaid) sc_queue_tell(&t->queue);
        else if (!t->tasks.held && !t->poked) sc_tick(t, false);
    }
    if (!t->ticks && (t->queue.unsaid || t->tasks.held)) sc_tick(t, true);
    if (t->tasks.held && sc_now() >= t->next_hunt) sc_release_orphans(t);
}

/* Whether any task is traced, or (0: any) this one. One that was made by a task that is no more may not have stopped yet:
   nothing is known of it, and it must not be left with the filter alone. */
bool
sc_is_traced(int32_t tid)
{
    int how = WEXITED | WSTOPPED | WNOHANG | WNOWAIT | __WALL;
    return sc_raw5(SYS_waitid, tid ? P_PID : P_ALL, tid, 0, how, 0) != -ECHILD;
}

/* Until the first command there is nothing to wait for but it, and to die with the creating thread is right. */
static void
sc_wait_for_first_command(sc_tracer *t)
{
    while (__atomic_load_n(&t->command, __ATOMIC_ACQUIRE) == SC_NOTHING)
        sc_raw6(SYS_futex, &t->command, FUTEX_WAIT, SC_NOTHING, 0, 0, 0);
}

static void
sc_settle_in(sc_tracer *t)
{
    uint64_t all = ~0ULL;
    sc_raw4(SYS_rt_sigprocmask, SIG_SETMASK, &all, 0, 8);
    sc_kernel_sigaction usual = {.handler = (uintptr_t)SIG_DFL};
    /* An ignored SIGCHLD would not be sent even while it is blocked. */
    sc_raw4(SYS_rt_sigaction, SIGCHLD, &usual, 0, 8);
    sc_handle(SC_COMMAND_SIGNAL);
    sc_handle(SC_OWNER_SIGNAL);
    sc_handle(SIGALRM);
    static const char name[] = "sysclone-tracer";
    sc_raw5(SYS_prctl, PR_SET_NAME, name, 0, 0, 0);
    sc_raw5(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    /* Its file table is a copy: the far ends of the program's pipes must not stay open because of it. */
    if (t->event_fd > 0) sc_raw3(SYS_close_range, 0, t->event_fd - 1, 0);
    if (sc_raw3(SYS_close_range, t->event_fd + 1, ~0U, 0) == -ENOSYS)
        for (int fd = 0; fd < 65536; fd++)
            if (fd != t->event_fd) sc_raw1(SYS_close, fd);
    sc_raw1(SYS_chdir, "/");
}

int
sc_tracer_main(void *tracer)
{
    sc_tracer *t = tracer;
    sc_settle_in(t);
    if (sc_raw0(SYS_getppid) != t->owner) return 0;
    sc_wait_for_first_command(t);
    sc_listen_to_children(t, false);
    sc_raw5(SYS_prctl, PR_SET_PDEATHSIG, SC_OWNER_SIGNAL, 0, 0, 0);
    if (sc_raw0(SYS_getppid) != t->owner) return 0;
    sc_obey(t);
    while (t->tasks.count || sc_is_traced(0)) {
        if (t->listens ? t->tasks.count < SC_FEW_TASKS / 2 : t->tasks.count > SC_FEW_TASKS) sc_listen_to_children(t, !t->listens);
        bool found = t->listens ? sc_wait_among_many(t) : sc_take_stop(t, -1, 0);
        if (!found && !sc_is_traced(0)) sc_forget_all(t);
        sc_look_up(t);
    }
    sc_tick(t, false);
    __atomic_store_n(&t->done, 1, __ATOMIC_RELEASE);
    sc_queue_tell(&t->queue);
    /* A command that came too late is answered by that. */
    sc_raw6(SYS_futex, &t->command, FUTEX_WAKE, INT32_MAX, 0, 0, 0);
    return 0;
}
