/* The guardian: kills, when the program has ended in whatever way, those of its light processes that the kernel will not.

   PR_SET_PDEATHSIG is sent at the end of the thread that made a process, and to its children alone. That leaves two which
   would wait for ever for a GIL whose holder is gone: a sibling, whose parent is the program's own parent, and threads that
   a function left behind whose caller may end before the program.

   1. The guardian is a task of its own, so SIGKILL of the program does not reach it. It is made when the first of those is,
      and ends with the last; it shares the memory, and so sees the list, and nothing else: no fd of the program's, no
      directory.
   2. It borrows nobody's storage: it has a stack and a thread pointer of its own, makes raw calls alone, and every signal
      is blocked.
   3. The kernel tells it of its maker's end by a signal that it waits for. A maker is a thread: the program has ended when
      the parent is another one too.
   4. It opens its pidfds itself. Between a sibling's clone and that, the kernel (CLONE_PARENT_SETTID) or the sibling has
      put the number in the list; and whoever finds that the guardian has made its last round ends by itself.
   5. Its killing takes no lock: the last holder may be dead. The others' lock is taken by threads of the program alone. */
#include "core.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

#define SC_GUARD_STACK 16384
#define SC_GUARD_BLOCK 128

enum sc_guard_state { SC_FREE = 0, SC_RESERVED, SC_ASKED, SC_WATCHED, SC_RELEASED };

struct sc_guarded {
    int state;
    pid_t pid;
    int pidfd; /* in the guardian's own table */
};

typedef struct sc_guard_block {
    struct sc_guard_block *next;
    sc_guarded slots[SC_GUARD_BLOCK];
} sc_guard_block;

static sc_guard_block sc_guard_first;
static int sc_guard_lock, sc_guard_count;
static pid_t sc_guard_owner;  /* the process whose end is watched for: the program's own */
static pid_t sc_guard_pid;    /* a child of ours until it has been reaped: no stranger's number */
static int sc_guard_word;     /* -1 while it lives; the kernel writes 0 at its end */
static int sc_guard_quit;
static int sc_guard_over;     /* its last round has begun */
static char sc_guard_stack[SC_GUARD_STACK] __attribute__((aligned(64)));
static uintptr_t sc_guard_storage[64]; /* what a stack protector and its like find by the thread pointer */
static const uint64_t sc_guard_bell = 1ULL << (SIGUSR1 - 1);

void
sc_guard_begin(void)
{
    sc_guard_owner = (pid_t)sc_raw0(SYS_getpid);
}

/* Whether this is the program itself, and no light process of its. */
bool
sc_guard_is_owner(void)
{
    return sc_raw0(SYS_getpid) == sc_guard_owner;
}

/* In a forked child: the guardian is its creator's, and so is what it watches. */
void
sc_guard_after_fork(void)
{
    sc_guard_lock = sc_guard_count = sc_guard_word = sc_guard_quit = sc_guard_over = 0;
    sc_guard_pid = 0;
    for (sc_guard_block *b = &sc_guard_first; b; b = b->next)
        for (int i = 0; i < SC_GUARD_BLOCK; i++) b->slots[i].state = SC_FREE;
    sc_guard_begin();
}

/* --- the guardian's side */

static void
sc_guard_kill(sc_guarded *slot)
{
    int state = __atomic_load_n(&slot->state, __ATOMIC_SEQ_CST);
    pid_t pid = __atomic_load_n(&slot->pid, __ATOMIC_SEQ_CST);
    if (state == SC_WATCHED && slot->pidfd >= 0) sc_raw4(SYS_pidfd_send_signal, slot->pidfd, SIGKILL, 0, 0);
    else if (state != SC_FREE && state != SC_RELEASED && pid > 0) sc_raw2(SYS_kill, pid, SIGKILL);
}

static void
sc_guard_answer(sc_guarded *slot)
{
    int state = __atomic_load_n(&slot->state, __ATOMIC_SEQ_CST);
    if (state == SC_ASKED) {
        slot->pidfd = (int)sc_raw2(SYS_pidfd_open, slot->pid, 0);
        if (slot->pidfd == -ESRCH) slot->pid = 0; /* a sibling that has ended, and that its parent has reaped */
        __atomic_store_n(&slot->state, SC_WATCHED, __ATOMIC_SEQ_CST);
        sc_raw6(SYS_futex, &slot->state, FUTEX_WAKE, INT32_MAX, 0, 0, 0);
    } else if (state == SC_RELEASED) {
        if (slot->pidfd >= 0) sc_raw1(SYS_close, slot->pidfd);
        slot->pid = 0;
        __atomic_store_n(&slot->state, SC_FREE, __ATOMIC_SEQ_CST);
    }
}

static void
sc_guard_round(void (*act)(sc_guarded *))
{
    for (sc_guard_block *b = &sc_guard_first; b; b = __atomic_load_n(&b->next, __ATOMIC_SEQ_CST))
        for (int i = 0; i < SC_GUARD_BLOCK; i++)
            if (__atomic_load_n(&b->slots[i].state, __ATOMIC_SEQ_CST) != SC_FREE) act(&b->slots[i]);
}

static int
sc_guard_main(void *argument)
{
    (void)argument;
    sc_raw3(SYS_close_range, 0, ~0U, 0);
    sc_raw1(SYS_chdir, "/");
    sc_raw5(SYS_prctl, PR_SET_NAME, "sysclone-guard", 0, 0, 0);
    sc_raw5(SYS_prctl, PR_SET_PDEATHSIG, SIGUSR1, 0, 0, 0);
    while (sc_raw0(SYS_getppid) == sc_guard_owner) {
        sc_guard_round(sc_guard_answer);
        if (__atomic_load_n(&sc_guard_quit, __ATOMIC_SEQ_CST)) return 0;
        sc_raw4(SYS_rt_sigtimedwait, &sc_guard_bell, 0, 0, SC_SIGSET_BYTES);
    }
    __atomic_store_n(&sc_guard_over, 1, __ATOMIC_SEQ_CST);
    sc_guard_round(sc_guard_kill);
    return 0;
}

/* --- the program's side: with the GIL or from a parked thread, raw calls alone, never from a light process */

/* With the lock. */
static void
sc_guard_reap(void)
{
    int word;
    while ((word = __atomic_load_n(&sc_guard_word, __ATOMIC_SEQ_CST)))
        sc_raw6(SYS_futex, &sc_guard_word, FUTEX_WAIT, word, 0, 0, 0);
    while (sc_guard_pid && sc_raw4(SYS_wait4, sc_guard_pid, 0, __WALL, 0) == -EINTR) {
    }
    sc_guard_pid = 0;
}

/* With the lock: makes the guardian, unless it lives. One that somebody killed is made again, and asked again. */
static long
sc_guard_make(void)
{
    if (sc_guard_pid && __atomic_load_n(&sc_guard_word, __ATOMIC_SEQ_CST)) return 0;
    if (sc_guard_pid) sc_guard_reap();
    for (sc_guard_block *b = &sc_guard_first; b; b = b->next)
        for (int i = 0; i < SC_GUARD_BLOCK; i++) {
            int *state = &b->slots[i].state;
            if (*state == SC_WATCHED) __atomic_store_n(state, SC_ASKED, __ATOMIC_SEQ_CST);
            if (*state == SC_RELEASED) __atomic_store_n(state, SC_FREE, __ATOMIC_SEQ_CST);
        }
    sc_guard_quit = 0;
    __atomic_store_n(&sc_guard_word, -1, __ATOMIC_SEQ_CST);
    sc_clone_plan plan = {.flags = CLONE_VM | CLONE_SETTLS | CLONE_CHILD_CLEARTID, .cgroup = -1};
    sc_clone_request request = {.plan = &plan, .child_tid = &sc_guard_word, .stack_low = (uintptr_t)sc_guard_stack,
                                .stack_bytes = sizeof sc_guard_stack, .tls = (uintptr_t)&sc_guard_storage[32]};
    uint64_t old, all = ~0ULL;
    sc_raw4(SYS_rt_sigprocmask, SIG_SETMASK, &all, &old, SC_SIGSET_BYTES);
    long pid = sc_clone(&request, sc_guard_main, NULL);
    sc_raw4(SYS_rt_sigprocmask, SIG_SETMASK, &old, 0, SC_SIGSET_BYTES);
    if (pid < 0) {
        sc_guard_word = 0;
        return pid;
    }
    sc_guard_pid = (pid_t)pid;
    return 0;
}

static sc_guarded *
sc_guard_find(void)
{
    for (sc_guard_block *b = &sc_guard_first;; b = b->next) {
        for (int i = 0; i < SC_GUARD_BLOCK; i++)
            if (__atomic_load_n(&b->slots[i].state, __ATOMIC_SEQ_CST) == SC_FREE) return &b->slots[i];
        if (b->next) continue;
        long room = sc_raw6(SYS_mmap, 0, sizeof *b, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (room < 0 && room > -4096) return NULL;
        __atomic_store_n(&b->next, (sc_guard_block *)room, __ATOMIC_SEQ_CST);
    }
}

/* A place on the list for a process that is yet to be made, or whose number is known. NULL with *error, which is 0 where
   the caller is itself a light process: its own end is not what is watched for. */
sc_guarded *
sc_guard_reserve(pid_t pid, long *error)
{
    *error = 0;
    if (!sc_guard_is_owner()) return NULL;
    sc_lock(&sc_guard_lock);
    *error = sc_guard_make();
    sc_guarded *slot = *error ? NULL : sc_guard_find();
    if (slot) {
        slot->pid = pid;
        slot->pidfd = -1;
        __atomic_store_n(&slot->state, SC_RESERVED, __ATOMIC_SEQ_CST);
        sc_guard_count++;
    } else if (!*error) {
        *error = -ENOMEM;
    }
    sc_unlock(&sc_guard_lock);
    return slot;
}

/* Where a reserved place is to be filled with the number, by the kernel. */
pid_t *
sc_guard_number(sc_guarded *slot)
{
    return &slot->pid;
}

/* In the process itself, before it does anything. Answers false where it came too late, and is to end. */
bool
sc_guard_enter(sc_guarded *slot)
{
    if (!__atomic_load_n(&slot->pid, __ATOMIC_SEQ_CST))
        __atomic_store_n(&slot->pid, (pid_t)sc_raw0(SYS_getpid), __ATOMIC_SEQ_CST);
    return !__atomic_load_n(&sc_guard_over, __ATOMIC_SEQ_CST);
}

/* pid has been made and not been reaped. Returns when the guardian has it by a pidfd. */
void
sc_guard_watch(sc_guarded *slot, pid_t pid)
{
    slot->pid = pid;
    __atomic_store_n(&slot->state, SC_ASKED, __ATOMIC_SEQ_CST);
    struct timespec moment = {.tv_nsec = 100000000};
    while (__atomic_load_n(&slot->state, __ATOMIC_SEQ_CST) == SC_ASKED) {
        sc_lock(&sc_guard_lock);
        long error = sc_guard_make(); /* it may have been killed */
        if (!error) sc_raw2(SYS_kill, sc_guard_pid, SIGUSR1);
        sc_unlock(&sc_guard_lock);
        if (error) return;
        sc_raw6(SYS_futex, &slot->state, FUTEX_WAIT, SC_ASKED, &moment, 0, 0);
    }
}

/* When the process has ended, or was never made. The guardian ends with the last. */
void
sc_guard_release(sc_guarded *slot)
{
    sc_lock(&sc_guard_lock);
    bool known = __atomic_load_n(&slot->state, __ATOMIC_SEQ_CST) == SC_WATCHED;
    if (!known) slot->pid = 0;
    __atomic_store_n(&slot->state, known ? SC_RELEASED : SC_FREE, __ATOMIC_SEQ_CST);
    bool last = !--sc_guard_count;
    if (last) __atomic_store_n(&sc_guard_quit, 1, __ATOMIC_SEQ_CST);
    if (sc_guard_pid && (known || last)) sc_raw2(SYS_kill, sc_guard_pid, SIGUSR1);
    if (last && sc_guard_pid) sc_guard_reap();
    sc_unlock(&sc_guard_lock);
}
