/* Stopping a child that may hold or await the GIL, from its parked thread, by raw calls alone.

   First an exception is set in it, then, if it is blocked in the kernel and so cannot meet that, it is killed. Either
   may do harm at the wrong moment: a SIGKILL that strikes in the GIL's condition variable (glibc before 2.41 counts
   waiters there) or in the allocator leaves the program hanging; an exception, or a kill, between the taking of a lock
   that the whole program shares and its release leaves it locked. So, with the child frozen by SIGSTOP:

   1. While a frame of its stack is in a module that keeps such locks (logging, threading, importlib, … : the shield),
      nothing is done. Elsewhere the exception can strike no later than the entry of the next Python function.
   2. It is killed only where it has been blocked in one system call without a moment's running from look to look
      (the same registers and count of voluntary switches): whatever runs will meet the exception.
   3. The call is no futex, and none of the allocator's. restart_syscall goes on with the call that was seen there when
      it was frozen before.
   4. It is outside Python (its thread state is detached) and alone in its thread group.

   Otherwise it goes on, and the parked thread tries again. */
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <time.h>

/* How long a stop may take to take effect on a busy machine, looked for at growing distances. */
#define SC_FREEZE_PATIENCE_NS 2000000000LL
#define SC_FREEZE_LONGEST_NS 5000000LL

/* Reads /proc/<pid>/<name>, or /proc/self/<name> for 0, into text, with a final NUL. Returns the length or -errno. */
static long
sc_read_proc(long pid, const char *name, char *text, size_t room)
{
    char path[64];
    sc_proc_path(path, pid, name);
    long fd = sc_raw4(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return fd;
    long length = sc_raw3(SYS_read, fd, text, room - 1);
    sc_raw1(SYS_close, fd);
    if (length >= 0) text[length] = 0;
    return length;
}

/* The fields of /proc/PID/stat after the name in parentheses: the state is the first, num_threads the eighteenth. */
static char
sc_state_of(long pid, long *threads)
{
    char text[1024];
    long length = sc_read_proc(pid, "stat", text, sizeof text);
    if (length <= 0) return 0;
    long at = length;
    while (at > 0 && text[at - 1] != ')') at--;
    if (at + 1 >= length) return 0;
    char state = text[at + 1];
    long field = 0, value = 0;
    for (long i = at; i < length && field <= 18; i++) {
        if (text[i] == ' ') field++, value = 0;
        else if (field == 18 && text[i] >= '0' && text[i] <= '9') *threads = value = value * 10 + (text[i] - '0');
    }
    return state;
}

/* How many threads this process has; 0 where /proc cannot be read. */
long
sc_thread_count(void)
{
    long threads = 0;
    sc_state_of(0, &threads);
    return threads;
}

static bool
sc_same_text(const char *a, const char *b)
{
    while (*a && *a == *b) a++, b++;
    return *a == *b;
}

/* The number after name in /proc/PID/status, or -1. */
static long
sc_switches_of(long pid)
{
    static const char name[] = "\nvoluntary_ctxt_switches:";
    char text[4096];
    long length = sc_read_proc(pid, "status", text, sizeof text);
    for (long i = 0; i + (long)sizeof name < length; i++) {
        size_t n = 0;
        while (n < sizeof name - 1 && text[i + (long)n] == name[n]) n++;
        if (n < sizeof name - 1) continue;
        long value = 0;
        for (const char *c = text + i + n; *c && *c != '\n'; c++)
            if (*c >= '0' && *c <= '9') value = value * 10 + (*c - '0');
        return value;
    }
    return -1;
}

/* The number at the head of /proc/PID/syscall, or -1 where it is in user code. *tail is what follows it. */
static long
sc_call_number(const char *text, const char **tail)
{
    long number = 0;
    if (*text < '0' || *text > '9') return -1;
    for (; *text >= '0' && *text <= '9'; text++) number = number * 10 + (*text - '0');
    *tail = text;
    return number;
}

/* Looks without freezing it. Answers whether it is where it was at the last look, and has not run since. */
static bool
sc_is_still(sc_light *l, sc_sight *sight)
{
    char call[sizeof sight->call];
    long switches = sc_switches_of(l->pid);
    if (sc_read_proc(l->pid, "syscall", call, sizeof call) <= 0) call[0] = 0;
    bool still = call[0] >= '0' && call[0] <= '9' && switches >= 0 && switches == sight->switches
                 && sc_same_text(call, sight->call);
    sight->switches = switches;
    for (size_t i = 0; i < sizeof call; i++) sight->call[i] = call[i];
    return still;
}

/* Frozen: which call it is in, seeing through restart_syscall. */
static long
sc_frozen_call(sc_light *l, sc_sight *sight)
{
    char text[sizeof sight->call];
    const char *tail = "", *frozen_tail = "";
    if (sc_read_proc(l->pid, "syscall", text, sizeof text) <= 0) return -1;
    long number = sc_call_number(text, &tail);
    if (number == SYS_restart_syscall) {
        long before = sc_call_number(sight->frozen, &frozen_tail);
        return before >= 0 && sc_same_text(tail, frozen_tail) ? before : number;
    }
    for (size_t i = 0; i < sizeof text; i++) sight->frozen[i] = text[i];
    return number;
}

static bool
sc_is_safe_call(long number)
{
    static const long unsafe[] = {SYS_futex, SYS_restart_syscall, 449 /* futex_waitv */, SYS_mmap, SYS_munmap,
                                  SYS_mremap, SYS_madvise, SYS_mprotect, SYS_brk};
    for (size_t i = 0; i < sizeof unsafe / sizeof *unsafe; i++)
        if (number == unsafe[i]) return false;
    return number >= 0;
}

/* Stops it by pidfd and waits until that has taken effect. Answers how many threads it has, 0 where it failed. */
static long
sc_freeze(sc_light *l, long pidfd)
{
    if (sc_raw4(SYS_pidfd_send_signal, pidfd, SIGSTOP, 0, 0) != 0) return 0;
    struct timespec pause = {.tv_nsec = 50000};
    for (int64_t waited = 0; waited < SC_FREEZE_PATIENCE_NS; waited += pause.tv_nsec) {
        long threads = 0;
        char state = sc_state_of(l->pid, &threads);
        int word = __atomic_load_n(&l->attention, __ATOMIC_SEQ_CST);
        if (!word) return 0;
        if (state == 'T' || state == 't') return threads;
        if (waited && pause.tv_nsec < SC_FREEZE_LONGEST_NS) pause.tv_nsec *= 2;
        sc_raw6(SYS_futex, &l->attention, FUTEX_WAIT, word, &pause, 0, 0);
    }
    return 0;
}

/* One attempt on a child that was asked to stop. Answers false where the shield was in the way: to be tried again soon. */
bool
sc_stop_try(sc_light *l, sc_sight *sight)
{
    long fd = !l->own_group ? -1 : l->pidfd >= 0 ? l->pidfd : sc_raw2(SYS_pidfd_open, l->pid, 0);
    if (fd < 0) {
        /* A thread of this process cannot be frozen alone: the exception is all there is, at whatever moment. */
        if (sc_tstate_poke(l->ts, l->cancelled)) l->pokes++;
        return true;
    }
    bool still = sc_is_still(l, sight);
    /* The first time to set the exception; then only when there is a chance to kill, or the exception was swallowed. */
    bool idle = sight->told && !still && sc_tstate_is_poked(l->ts, l->cancelled), killed = false, shielded = false;
    /* Opened by number: the child's own only if it was alive after the opening. */
    if (!idle && __atomic_load_n(&l->attention, __ATOMIC_SEQ_CST)) {
        long threads = sc_freeze(l, fd), call = sc_frozen_call(l, sight);
        shielded = threads && sc_frames_are_shielded(&l->saved, l->shield);
        if (threads && !shielded) {
            if (sc_tstate_poke(l->ts, l->cancelled)) l->pokes++;
            killed = sight->told && still && threads == 1 && sc_is_safe_call(call)
                     && !sc_tstate_attached(l->ts);
            l->killed = killed;
            sight->told = true;
        }
        sc_raw4(SYS_pidfd_send_signal, fd, killed ? SIGKILL : SIGCONT, 0, 0);
        if (!still) sight->switches = -1;
    }
    if (l->pidfd < 0) sc_raw1(SYS_close, fd);
    return !shielded;
}
