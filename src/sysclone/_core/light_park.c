/* What a parked thread does while a light process runs as it: it sleeps on one word, and looks when somebody changes that or
   it is time to. A request to stop, a timeout, the program's signals and threads that are left all come to it here. Raw
   calls alone: light.c says why. */
#include "core.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

/* How soon, and later how often, a parked main thread looks for the program's signals. */
#define SC_ANSWER_FIRST_NS 20000000LL
#define SC_ANSWER_LONGEST_NS 100000000LL
/* From attempt to attempt. */
#define SC_FIRST_PAUSE_NS 1000000LL
#define SC_LONGEST_PAUSE_NS 64000000LL
#define SC_SHIELD_TRIES 1000

static int64_t
sc_now_ns(void)
{
    struct timespec t;
    sc_raw2(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
    return t.tv_sec * SC_NANOSECONDS + t.tv_nsec;
}

void
sc_light_call_attention(sc_light *l)
{
    int word = __atomic_load_n(&l->attention, __ATOMIC_SEQ_CST);
    while (word && !__atomic_compare_exchange_n(&l->attention, &word, word - 1, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
    }
    /* Not FUTEX_PRIVATE: the kernel's own wake at exit is not, and the two must meet. */
    if (word) sc_raw6(SYS_futex, &l->attention, FUTEX_WAKE, INT32_MAX, 0, 0, 0);
}

/* From any thread of the program, from the child's own signal handler, or from the parked thread: no locks, no GIL. */
void
sc_light_request_stop(sc_light *l, enum sc_stop why)
{
    int none = SC_GO_ON;
    if (__atomic_compare_exchange_n(&l->stop, &none, (int)why, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        sc_light_call_attention(l);
}

static void
sc_guard_the_left(sc_light *l)
{
    long error;
    l->guarded = sc_guard_reserve((pid_t)l->pid, &error);
    if (l->guarded) sc_guard_watch(l->guarded, (pid_t)l->pid);
    __atomic_store_n(&l->leaving, l->guarded ? SC_GUARDED : SC_UNGUARDED, __ATOMIC_SEQ_CST);
    sc_raw6(SYS_futex, &l->leaving, FUTEX_WAKE, INT32_MAX, 0, 0, 0);
}

void
sc_light_park(sc_light *l)
{
    int64_t deadline = l->plan->timeout_ns >= 0 ? sc_now_ns() + l->plan->timeout_ns : -1;
    int64_t try_at = -1, pause = SC_FIRST_PAUSE_NS;
    int tries = 0;
    bool answers = l->main_thread && l->own_group && l->plan->clear_handlers && !(l->plan->clone.flags & CLONE_PARENT);
    int64_t answer_every = SC_ANSWER_FIRST_NS, answer_at = answers ? sc_now_ns() + answer_every : -1;
    uint64_t ours = 0;
    sc_sight sight = {.switches = -1};
    int word;
    while ((word = __atomic_load_n(&l->attention, __ATOMIC_SEQ_CST))) {
        int64_t wake_at = deadline;
        if (__atomic_load_n(&l->leaving, __ATOMIC_SEQ_CST) == SC_LEAVING) {
            sc_guard_the_left(l);
            continue;
        }
        if (__atomic_load_n(&l->stop, __ATOMIC_SEQ_CST)) {
            int64_t now = sc_now_ns();
            if (now >= try_at) {
                bool clear = sc_stop_try(l, &sight);
                if (++tries > (clear ? 3 : SC_SHIELD_TRIES) && pause < SC_LONGEST_PAUSE_NS) pause += pause / 2;
                /* Off the beat of a function that loops through the shield. */
                try_at = sc_now_ns() + pause + (clear ? 0 : tries * 7919 % 1000 * 1000);
                continue;
            }
            wake_at = try_at;
        } else {
            if (deadline >= 0 && sc_now_ns() >= deadline) {
                sc_light_request_stop(l, SC_STOP_TIMEOUT);
                continue;
            }
            int64_t due = __atomic_load_n(&l->due, __ATOMIC_SEQ_CST);
            if (due > 0 && sc_now_ns() >= due) {
                if (__atomic_compare_exchange_n(&l->due, &due, SC_PAST, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
                    sc_light_request_stop(l, SC_STOP_TIMEOUT);
                continue;
            }
            if (due > 0) wake_at = wake_at < 0 || due < wake_at ? due : wake_at;
            /* The child looks at this after it has changed what it is due: one of the two sees the other's. */
            __atomic_store_n(&l->wakes_at, wake_at < 0 ? INT64_MAX : wake_at, __ATOMIC_SEQ_CST);
            if (__atomic_load_n(&l->due, __ATOMIC_SEQ_CST) != due) continue;
        }
        if (answer_at >= 0) wake_at = wake_at < 0 || answer_at < wake_at ? answer_at : wake_at;
        struct timespec at = {.tv_sec = wake_at / SC_NANOSECONDS, .tv_nsec = wake_at % SC_NANOSECONDS};
        sc_raw6(SYS_futex, &l->attention, FUTEX_WAIT_BITSET, word, wake_at < 0 ? NULL : &at, 0, FUTEX_BITSET_MATCH_ANY);
        if (answer_at >= 0 && sc_now_ns() >= answer_at) {
            if (answer_every == SC_ANSWER_FIRST_NS) ours = sc_caught_open(l);
            sc_caught_forward(l, ours);
            if (answer_every < SC_ANSWER_LONGEST_NS) answer_every += answer_every / 2;
            answer_at = ours ? sc_now_ns() + answer_every : -1;
        }
    }
}

/* light_due(nanoseconds) -> whether the time that was set before was over, and a stop is under way: then none is set. For one
   who runs one function after the other, each with a time of its own: its parked thread keeps it, and needs no GIL for that.
   It is woken only where it would sleep too long, so short calls cost next to nothing. */
PyObject *
sc_light_due(PyObject *module, PyObject *args)
{
    (void)module;
    long long nanoseconds;
    if (!PyArg_ParseTuple(args, "L:light_due", &nanoseconds)) return NULL;
    sc_light *l = sc_caught_by;
    if (!l || nanoseconds < 0) {
        PyErr_SetString(PyExc_ValueError, l ? "light_due: less than no time" : "light_due: not in a light process");
        return NULL;
    }
    int64_t due = nanoseconds ? sc_now_ns() + nanoseconds : 0, was = __atomic_load_n(&l->due, __ATOMIC_SEQ_CST);
    while (was != SC_PAST && !__atomic_compare_exchange_n(&l->due, &was, due, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
    }
    if (was != SC_PAST && due && __atomic_load_n(&l->wakes_at, __ATOMIC_SEQ_CST) > due) sc_light_call_attention(l);
    return PyBool_FromLong(was == SC_PAST);
}

/* One that was killed while it was itself parked: what ran as this thread for it dies too, and until then this thread's
   storage is in use. A child has been sent a SIGKILL by the kernel; a sibling is a child of this process. */
void
sc_light_end_inner(sc_light *l)
{
    struct timespec patience = {.tv_sec = 2};
    sc_light *inner = __atomic_load_n(&l->inner, __ATOMIC_SEQ_CST);
    if (!inner || l->end != SC_DIED) return;
    /* It may have died before it heard of its child; the kernel writes the number before that runs. */
    pid_t pid = (pid_t)(inner->pid ? inner->pid : *inner->request.parent_tid);
    if (pid <= 0) return;
    bool sibling = inner->plan->clone.flags & CLONE_PARENT && inner->own_group;
    siginfo_t info;
    /* A number of another pid namespace's is a stranger's here; there it dies with its init. */
    sibling = sibling && l->parent && sc_raw5(SYS_waitid, P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT | __WALL, 0) == 0;
    if (sibling) sc_raw2(SYS_kill, pid, SIGKILL);
    for (int word, n = 0; n < 3 && (word = __atomic_load_n(&inner->attention, __ATOMIC_SEQ_CST)); n++)
        sc_raw6(SYS_futex, &inner->attention, FUTEX_WAIT, word, &patience, 0, 0);
    while (sibling && sc_raw4(SYS_wait4, pid, 0, __WALL, 0) == -EINTR) {
    }
    sc_light_end_inner(inner);
}
