/* The GIL's mutexes and condition variables, after a child that was killed at any moment.

   A task that dies leaves the GIL locked, if it or a thread of its had it; and, up to glibc 2.40, where it awaited the GIL, what
   glibc counts of it: a waiter and a reference to a group, for which the next who changes groups waits for ever, with the GIL's
   mutex in hand. Its parked thread can set that right, because it is that thread to libc, and because everything that uses a
   condition variable holds its mutex:

   1. It takes the mutexes. One whose owner, as libc wrote it, is this very thread, was the dead one's; one whose owner is for
      long no thread that lives, was that of a thread which died with it. One that another holds for long while it waits for a
      group's references is waiting for the dead one's: that reference is taken back.
   2. With the mutexes held nobody comes to the condition variables. Their groups are marked as closed and woken, so all who
      live leave, to wait for the mutexes. What is left over then is the dead one's.
   3. They are set to nothing, as new. A GIL that the dead one had taken, or not yet dropped, is free again.
   4. The mutexes are let go of as if somebody waited: a wake that the dead one was given is given again.

   A newer glibc counts nobody, so there the condition variables are let be; who waits for the GIL looks again by himself, every
   switch interval. Nothing can be done about other locks: the allocator's, and those of the program. */
#include "tstate.h"

#include <errno.h>
#ifdef __GLIBC__
#include <gnu/libc-version.h>
#endif
#include <linux/futex.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* With the GIL, which the dead child had: whoever lets go of it on request waits until another has it, and there may be none
   but dead ones who asked. Those who live ask again, every switch interval. */
static void
sc_forget_request(PyThreadState *ts)
{
#if SC_PY(13)
    __atomic_fetch_and(&ts->eval_breaker, ~(uintptr_t)_PY_GIL_DROP_REQUEST_BIT, __ATOMIC_SEQ_CST);
#else
    /* The word that sums up all requests stays set until one takes the GIL: who looks closer finds none. */
    __atomic_store_n(&ts->interp->ceval.gil_drop_request._value, 0, __ATOMIC_SEQ_CST);
#endif
}

/* Steps of a millisecond. A living thread that is in the midst of something may be kept from the processor for so long. */
#define SC_LAG_MS 300
#define SC_PATIENCE_MS 1000
#define SC_TRIES 20

#if defined(__GLIBC__)

static int sc_gil_turn; /* one at a time */

void
sc_gil_after_fork(void)
{
    sc_gil_turn = 0;
}

static void
sc_pause(void)
{
    struct timespec moment = {.tv_nsec = 1000000};
    sc_raw4(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &moment, 0);
}

/* --- what glibc counts */

typedef struct {
    unsigned refs[2], lock;
    int since[3];
} sc_stuck;

#if __GLIBC__ == 2 && __GLIBC_MINOR__ < 41 && !SC_PY(14)

static bool
sc_counts_waiters(void)
{
    static int answer;
    if (!answer) answer = atoi(gnu_get_libc_version() + 2) < 41 ? 1 : -1;
    return answer > 0;
}

static void
sc_wake_all(unsigned *word)
{
    /* libc's are private, unlike ours. */
    sc_raw6(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT32_MAX, 0, 0, 0);
}

/* Whoever changes groups has waited for this group's references for long. Takes one back. */
static void
sc_take_reference(pthread_cond_t *cond, int group)
{
    unsigned *refs = &cond->__data.__g_refs[group];
    if (__atomic_fetch_sub(refs, 2, __ATOMIC_SEQ_CST) != 3) return;
    __atomic_fetch_and(refs, ~1U, __ATOMIC_SEQ_CST);
    sc_wake_all(refs);
}

/* The lock inside it, which the dead one had. */
static void
sc_break_open(pthread_cond_t *cond)
{
    __atomic_fetch_and(&cond->__data.__g1_orig_size, ~3U, __ATOMIC_SEQ_CST);
    sc_wake_all(&cond->__data.__g1_orig_size);
}

static void
sc_unstick(pthread_cond_t *cond, sc_stuck *stuck, int now)
{
    for (int g = 0; g < 2; g++) {
        unsigned refs = __atomic_load_n(&cond->__data.__g_refs[g], __ATOMIC_SEQ_CST);
        if (refs != stuck->refs[g] || !(refs & 1) || refs < 2) stuck->refs[g] = refs, stuck->since[g] = now;
        else if (now - stuck->since[g] >= SC_LAG_MS) sc_take_reference(cond, g), stuck->since[g] = now;
    }
    /* Whoever waits for references has that lock, and is not to be robbed of it. */
    bool waits = stuck->refs[0] & 1 || stuck->refs[1] & 1;
    unsigned lock = __atomic_load_n(&cond->__data.__g1_orig_size, __ATOMIC_SEQ_CST);
    if (waits || !(lock & 3) || lock != stuck->lock) stuck->lock = lock, stuck->since[2] = now;
    else if (now - stuck->since[2] >= SC_LAG_MS) sc_break_open(cond), stuck->since[2] = now;
}

/* With its mutex: sends away all who live, and forgets the rest. */
static void
sc_renew(pthread_cond_t *cond)
{
    unsigned *wrefs = &cond->__data.__wrefs, *lock = &cond->__data.__g1_orig_size, last = ~0U;
    for (int quiet = 0; quiet < SC_LAG_MS; quiet++) {
        unsigned now = __atomic_load_n(wrefs, __ATOMIC_SEQ_CST);
        if (!(now >> 3) && !(*lock & 3)) break;
        if (now != last) last = now, quiet = 0;
        /* Who comes out may need it. */
        if (quiet == SC_LAG_MS / 2 && (__atomic_load_n(lock, __ATOMIC_SEQ_CST) & 3)) sc_break_open(cond);
        for (int g = 0; g < 2; g++) {
            __atomic_fetch_or(&cond->__data.__g_signals[g], 1, __ATOMIC_SEQ_CST);
            sc_wake_all(&cond->__data.__g_signals[g]);
        }
        sc_pause();
    }
    unsigned kind = *wrefs & 7; /* which clock */
    memset(cond, 0, sizeof *cond);
    cond->__data.__wrefs = kind;
}

#else

static bool
sc_counts_waiters(void)
{
    return false;
}

static void
sc_unstick(pthread_cond_t *cond, sc_stuck *stuck, int now)
{
    (void)cond, (void)stuck, (void)now;
}

static void
sc_renew(pthread_cond_t *cond)
{
    (void)cond;
}

#endif

/* --- the mutexes */

/* This thread's id as libc knows it, which in a light process is not its own. */
static int
sc_own_number(void)
{
    pthread_mutex_t probe = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&probe);
    int number = probe.__data.__owner;
    pthread_mutex_unlock(&probe);
    return number;
}

/* Takes mutex, which the dead one may hold. conds: what its holder may be stuck in. */
static bool
sc_seize(pthread_mutex_t *mutex, pthread_cond_t *const conds[2])
{
    sc_stuck stuck[2] = {0};
    int mine = sc_own_number(), lost = 0;
    for (int now = 0; now < SC_PATIENCE_MS; now++) {
        if (pthread_mutex_trylock(mutex) == 0) return true;
        int owner = __atomic_load_n(&mutex->__data.__owner, __ATOMIC_SEQ_CST);
        if (owner == mine) return true;
        /* Between the word and the owner there are some instructions; and a thread that ends gives its thread state back before
           the GIL. */
        int lives = owner ? sc_bury_lives(owner) : 0;
        if (lives >= 0) lost = lives ? 0 : lost + 1;
        if (lost > 2 * SC_LAG_MS) return true;
        for (int i = 0; i < 2 && sc_counts_waiters(); i++) sc_unstick(conds[i], &stuck[i], now);
        sc_pause();
    }
    return false;
}

static void
sc_let_go(pthread_mutex_t *mutex)
{
    __atomic_store_n(&mutex->__data.__lock, 2, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(mutex);
}

/* --- the GIL */

/* With its mutex: a GIL that the dead one had taken and not been given, or had not yet dropped; or that a thread has which
   died with it. */
static void
sc_free_of(struct _gil_runtime_state *gil, PyThreadState *ts)
{
#if SC_PY(13)
    bool locked = _Py_atomic_load_int_relaxed(&gil->locked);
    PyThreadState *holder = gil->last_holder;
#else
    bool locked = _Py_atomic_load_relaxed(&gil->locked);
    PyThreadState *holder = (PyThreadState *)_Py_atomic_load_relaxed(&gil->last_holder);
#endif
    if (!locked || (ts && sc_tstate_attached(ts)) || (holder != ts && !sc_bury_is_dead(holder))) return;
#if SC_PY(13)
    _Py_atomic_store_int_relaxed(&gil->locked, 0);
#elif SC_PY(12)
    _Py_atomic_store_relaxed(&gil->locked, 0);
#else
    _Py_atomic_store_relaxed(&gil->locked, 0);
    if (holder != ts) _Py_atomic_store_relaxed(&_PyRuntime.gilstate.tstate_current, 0);
#endif
}

static bool
sc_try_to_mend(struct _gil_runtime_state *gil, PyThreadState *ts)
{
    pthread_cond_t *const conds[2] = {&gil->cond, &gil->switch_cond};
    if (!sc_seize(&gil->mutex, conds)) return false;
    bool both = sc_seize(&gil->switch_mutex, conds);
    if (both) {
        if (sc_counts_waiters()) sc_renew(&gil->switch_cond);
        sc_let_go(&gil->switch_mutex);
        if (sc_counts_waiters()) sc_renew(&gil->cond);
        sc_free_of(gil, ts);
    }
    sc_let_go(&gil->mutex);
    return both;
}

/* Of a child that died: called by its parked thread, ts, which has the GIL only if the child had; or without one, for threads
   that a function had left. Not in a light process, which may itself be killed in the midst of it. */
void
sc_gil_mend(PyThreadState *ts)
{
    if (ts && sc_tstate_attached(ts)) sc_forget_request(ts);
    if (!sc_guard_is_owner()) return;
#if SC_PY(12)
    struct _gil_runtime_state *gil = PyInterpreterState_Main()->ceval.gil;
#else
    struct _gil_runtime_state *gil = &_PyRuntime.ceval.gil;
#endif
    bool mended = false;
    for (int n = 0; n < SC_TRIES && !mended; n++) {
        sc_lock(&sc_gil_turn);
        mended = sc_try_to_mend(gil, ts);
        sc_unlock(&sc_gil_turn);
        /* A mutex may be another dead one's, whose thread waits for its turn at this. */
        if (!mended) sc_pause();
    }
}

#else

void
sc_gil_after_fork(void)
{
}

void
sc_gil_mend(PyThreadState *ts)
{
    if (ts && sc_tstate_attached(ts)) sc_forget_request(ts);
}

#endif
