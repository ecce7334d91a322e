/* A light process: a Python function in a task of its own that shares its creator's memory.

   A task made with CLONE_VM and no thread library has no thread-local storage, so neither libc nor CPython can run in
   it. So it borrows: the thread that calls clone parks, blocked in the kernel and touching nothing, until the child
   has ended, and the child runs as that thread: its thread-local storage, its PyThreadState, its stack below the
   parked frame. What follows from that, and what answers it:

   1. The parked thread may not touch errno, malloc, or anything else in thread-local storage: raw calls alone.
   2. It waits on the word that the kernel clears at the child's exit (CLONE_CHILD_CLEARTID), not by CLONE_VFORK, whose
      sleep no signal or request interrupts. Whoever wants it to look changes the word and wakes it.
   3. A signal for the parked thread would run a handler on storage that is in use: all are blocked while it waits,
      except libc's own two, whose handlers are made for any moment.
   4. The child must not return through the parked frames, nor end its thread group while other threads of it run: it
      leaves by exit(2), from assembly.
   5. A child that dies by itself leaves the thread state in the middle of its frames: tstate.c puts it back.
   6. A child that outlived its creator would wait for ever for a GIL whose holder is gone: PR_SET_PDEATHSIG, which is
      sent when the creating *thread* ends; that thread is parked, so it ends with the process alone.
   7. A child killed while it waits for the GIL can leave libc's condition variable waiting for it. So the signals that
      end a process by default are caught in the child and become an exception there, and stop.c kills only where it
      is seen to be safe. SIGKILL, and a fault of its own, strike as they always do. */
#include "core.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

/* Between the parked frame and the child's stack: the parked thread's own calls, and a signal frame of libc's. */
#define SC_PARKED_ROOM (64 * 1024)
#define SC_LEAST_STACK (192 * 1024)
/* What is taken to be left of a stack of which nothing is known. */
#define SC_SURE_STACK ((uintptr_t)2 << 20)
#define SC_REAP_TRIES 60

static __thread uintptr_t sc_stack_low_cached;

/* The lowest address of this thread's stack, without its guard. */
uintptr_t
sc_stack_low(void)
{
    if (!sc_stack_low_cached) {
        pthread_attr_t attr;
        void *low = NULL;
        size_t size = 0, guard = 0;
        /* The main thread's stands in a file of /proc, and there may be no fd to be had for that. */
        if (pthread_getattr_np(pthread_self(), &attr)) return (uintptr_t)__builtin_frame_address(0) - SC_SURE_STACK;
        pthread_attr_getstack(&attr, &low, &size);
        pthread_attr_getguardsize(&attr, &guard);
        pthread_attr_destroy(&attr);
        sc_stack_low_cached = (uintptr_t)low + guard + 4096;
    }
    return sc_stack_low_cached;
}

/* Reaps the child, if it is to be had soon: unless it is to be waited for, which the caller does without the GIL. */
void
sc_light_reap(sc_light *l, bool wait)
{
    l->lives_on = false;
    if (!l->own_group || (l->plan->clone.flags & CLONE_PARENT) || l->threads_left) return;
    /* The word is cleared a few microseconds before there is a zombie. More than that may be for ever, for one who holds
       the GIL: a pid namespace's init waits for its members, an exec'ed program for its end. */
    long got = 0;
    for (int n = 0; got == 0 && n < (wait ? 1 : SC_REAP_TRIES); n++) {
        do got = sc_raw4(SYS_wait4, l->pid, &l->status, __WALL | (wait ? 0 : WNOHANG), &l->usage);
        while (got == -EINTR);
    }
    l->lives_on = got == 0;
    l->status_known = got == l->pid;
}

/* Clones, parks, reaps. The caller has set plan, function, ts, attach; with attach it holds no GIL, without it does. */
__attribute__((noinline)) void
sc_light_run(sc_light *l)
{
    const sc_clone_plan *plan = &l->plan->clone;
    uint64_t old;
    sc_signals_block(&old);
    sc_light *outer = l->outer = sc_caught_by;
    if (!l->attach) l->mask = old;
    l->own_group = !(plan->flags & CLONE_THREAD);
    l->creator = (pid_t)sc_raw0(SYS_getpid);
    l->grandparent = (pid_t)sc_raw0(SYS_getppid);
    l->attention = -1;
    l->pidfd = -1;
    bool mixed = (plan->flags & CLONE_SIGHAND) && (plan->flags & CLONE_NEWPID);
    struct sigaction before;
    if (mixed) sigaction(SIGCHLD, NULL, &before);
    uintptr_t top = ((uintptr_t)__builtin_frame_address(0) - SC_PARKED_ROOM) & ~(uintptr_t)15;
    uintptr_t low = l->plan->stack_bytes ? top - l->plan->stack_bytes : sc_stack_low();
    uint64_t more = CLONE_CHILD_CLEARTID;
    if (l->want_pidfd && l->own_group) more |= CLONE_PIDFD;
    if (l->plan->clear_handlers) more |= CLONE_CLEAR_SIGHAND;
    long refused = 0;
    if (plan->flags & CLONE_PARENT) l->guarded = sc_guard_reserve(0, &refused);
    if (plan->flags & CLONE_VFORK || l->guarded || outer) more |= CLONE_PARENT_SETTID;
    l->request = (sc_clone_request){
        .plan = plan,
        .more_flags = more,
        .pidfd = &l->pidfd,
        .parent_tid = l->guarded ? sc_guard_number(l->guarded) : &l->parent_tid,
        .child_tid = &l->attention,
        .stack_low = low,
        .stack_bytes = top - low,
        .tls = plan->flags & CLONE_SETTLS ? sc_arch_thread_pointer() : 0,
    };
    const sc_newborn *newborn = &l->plan->newborn;
    bool held = newborn->undumpable && !newborn->waits;
    if (outer) __atomic_store_n(&outer->inner, l, __ATOMIC_SEQ_CST);
    if (held) sc_dumpable_hold();
    if (refused < 0) {
        l->failed_step = "clone3(guardian)";
        l->pid = refused;
    } else {
        l->pid = sc_clone_joined(&l->request, newborn, sc_light_child, l, &l->failed_step);
    }
    if (l->pid > 0 && l->guarded && !(plan->flags & CLONE_VFORK)) sc_guard_watch(l->guarded, (pid_t)l->pid);
    if (l->pid > 0 && newborn->waits) {
        bool hold = newborn->undumpable && !held;
        refused = sc_newborn_release(newborn, l->pid, &l->ready, hold, &l->failed_step);
        held |= hold;
    }
    if (l->pid > 0 && refused < 0) {
        sc_light_park(l);
        sc_light_reap(l, true);
        if (l->pidfd >= 0) sc_raw1(SYS_close, l->pidfd);
        l->pidfd = -1;
        l->pid = refused;
    }
    if (l->pid > 0 && l->want_pidfd && l->own_group && !l->request.has_pidfd)
        l->pidfd = (int)sc_raw2(SYS_pidfd_open, l->pid, 0);
    __atomic_store_n(&l->started, 1, __ATOMIC_SEQ_CST);
    if (l->attach) sc_raw6(SYS_futex, &l->started, FUTEX_WAKE, INT32_MAX, 0, 0, 0);
    if (l->pid > 0) {
        sc_light_park(l);
        sc_light_end_inner(l);
        SC_UNPOISON(low, top - low);
        sc_light_reap(l, false);
        if (l->end == SC_DIED && !l->killed) sc_unpark_dead(low, top - low);
        if (l->end == SC_DIED && !l->killed && l->own_group) sc_gil_mend(l->ts);
        /* The init of a pid namespace sets SIGCHLD to ignored at its end, in handlers that it shares with this process. */
        if (mixed) sigaction(SIGCHLD, &before, NULL);
    }
    if (outer) __atomic_store_n(&outer->inner, NULL, __ATOMIC_SEQ_CST);
    if (held) sc_dumpable_release();
    if (l->guarded && !l->threads_left) {
        sc_guard_release(l->guarded);
        l->guarded = NULL;
    }
    sc_caught_by = outer;
    sc_signals_set(&old);
}

bool
sc_light_has_room(const sc_plan *plan)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0), low = sc_stack_low();
    uintptr_t least = plan->stack_bytes > SC_LEAST_STACK ? plan->stack_bytes : SC_LEAST_STACK;
    return here > low && here - low > least + SC_PARKED_ROOM + 8192;
}

/* With the GIL, on l->ts, when the child is gone. */
void
sc_light_settle(sc_light *l, const sc_state *state)
{
    if (l->end == SC_DIED) {
        /* A collection would walk frames that are not in order yet. */
        int collecting = PyGC_Disable();
        l->frames = sc_frames_of_the_dead(&l->saved);
        PyObject *watched = sc_frames_watched(&l->saved);
        sc_tstate_restore(&l->saved);
        if (collecting) PyGC_Enable();
        sc_tstate_restore_loop(&l->saved);
        if (watched) sc_frames_tell(&l->saved, watched);
        Py_XDECREF(watched);
    }
    /* A helper is lent to others' functions after this one. */
    if (l->attach && sc_tstate_is_watched(l->ts)) sc_tstate_unwatch();
    for (int i = 0; i < l->pokes; i++) Py_INCREF(l->cancelled);
    /* An exception that was set and not met would strike this thread in the middle of something else. */
    while (l->pokes && sc_tstate_is_poked(l->ts, l->cancelled)) {
        PyObject *answer = PyObject_CallNoArgs(state->absorb);
        if (answer) Py_DECREF(answer);
        else PyErr_Clear();
    }
    if (l->threads_left && (l->guarded || !(l->plan->clone.flags & CLONE_PARENT))) {
        int pidfd = (int)sc_raw2(SYS_pidfd_open, l->pid, 0);
        sc_reap_later(pidfd, l->guarded, pidfd < 0 ? NULL : sc_left_watch(pidfd, state->bury), NULL);
    }
}

/* (pid, end, status or None, exit code, stop, stop signal, value, frames, threads left) */
PyObject *
sc_light_outcome(sc_light *l)
{
    PyObject *status = l->status_known ? PyLong_FromLong(l->status) : Py_NewRef(Py_None);
    return Py_BuildValue("liNiiiOOi", l->pid, (int)l->end, status, l->exit_code, l->stop, l->stop_signal,
                         l->value ? l->value : Py_None, l->frames ? l->frames : Py_None, (int)l->threads_left);
}

/* What call() and result() give: the value, or NULL with the exception set. Borrows l->value. */
PyObject *
sc_light_answer(sc_light *l, sc_state *state)
{
    bool by_exit = l->end == SC_RAISED && PyErr_GivenExceptionMatches(l->value, PyExc_SystemExit);
    bool by_stop = l->end == SC_RAISED && l->stop && PyErr_GivenExceptionMatches(l->value, l->cancelled);
    if (l->end == SC_RETURNED && !l->stop_signal) return Py_NewRef(l->value);
    if (l->end == SC_RAISED && !by_exit && !by_stop && !l->stop_signal) {
        PyObject *traceback = PyException_GetTraceback(l->value);
        PyErr_Restore(Py_NewRef(Py_TYPE(l->value)), Py_NewRef(l->value), traceback);
        return NULL;
    }
    PyObject *outcome = sc_light_outcome(l);
    PyObject *exception = outcome ? PyObject_CallFunctionObjArgs(state->ended, (PyObject *)l->plan, outcome, NULL) : NULL;
    Py_XDECREF(outcome);
    if (exception) {
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
        Py_DECREF(exception);
    }
    return NULL;
}

PyObject *
sc_clone_failed(sc_state *state, PyObject *plan, long minus_errno, const char *step)
{
    PyObject *exception = PyObject_CallFunction(state->clone_failed, "Ols", plan, -minus_errno, step);
    if (exception) {
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
        Py_DECREF(exception);
    }
    return NULL;
}

/* light_call(plan, fn, *args, **kwargs) -> what fn returns; raises what it raises. */
PyObject *
sc_light_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    sc_state *state = sc_get_state(module);
    if (nargs < 2 || !PyObject_TypeCheck(args[0], state->plan_type)) {
        PyErr_SetString(PyExc_TypeError, "light_call(plan, fn, *args, **kwargs)");
        return NULL;
    }
    const sc_plan *plan = (sc_plan *)args[0];
    sc_reap_ended();
    if (!sc_light_has_room(plan)) {
        PyObject *job = sc_start(module, args, nargs, kwnames);
        PyObject *answer = job ? PyObject_CallMethod(job, "result", NULL) : NULL;
        Py_XDECREF(job);
        return answer;
    }
    sc_light l = {
        .plan = plan,
        .fn = args[1],
        .args = args + 2,
        .nargs = nargs - 2,
        .kwnames = kwnames,
        .cancelled = state->cancelled,
        .shield = state->shield,
        .ts = PyThreadState_Get(),
        .main_thread = sc_is_main_thread(),
        .python_handler = state->python_handler,
        .lasting = sc_raw0(SYS_gettid) == sc_raw0(SYS_getpid),
    };
    sc_tstate_save(&l.saved, l.ts);
    sc_tstate_save_loop(&l.saved);
    sc_light_run(&l);
    if (l.pid < 0) {
        sc_tstate_drop_loop(&l.saved);
        return sc_clone_failed(state, args[0], l.pid, l.failed_step ? l.failed_step : "clone");
    }
    if (!sc_tstate_attached(l.ts)) PyEval_RestoreThread(l.ts);
    if (l.end == SC_DIED || l.pokes || l.threads_left) sc_light_settle(&l, state);
    if (l.lives_on) {
        Py_BEGIN_ALLOW_THREADS
        sc_light_reap(&l, true);
        Py_END_ALLOW_THREADS
    }
    if (l.end == SC_DIED && l.own_group) sc_pool_bury((pid_t)l.pid);
    PyObject *answer = sc_light_answer(&l, state);
    Py_XDECREF(l.value);
    Py_XDECREF(l.frames);
    sc_tstate_drop_loop(&l.saved);
    /* What came too late for the function. */
    for (int n = 1; l.forwarded && n < 32; n++)
        if (l.forwarded >> n & 1) PyErr_SetInterruptEx(n);
    return answer;
}
