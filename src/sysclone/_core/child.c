/* A program's child between its birth and execve.

   The rule of this file: the child shares its creator's memory and runs on its thread-local storage, so it calls
   nothing but raw system calls and what is in this file: no libc, no allocation, no Python. (setup and let_go are the
   exception, and are called only where the creator's thread has parked with the GIL for them.) Held to it by a test on
   the symbols of the compiled file. Credentials are changed by raw calls because libc's would change every thread of
   the creator's. */
#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>

#include "arch.h"

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

#ifndef AT_EMPTY_PATH
#define AT_EMPTY_PATH 0x1000
#endif

#define SC_MASK_BYTES 8

static void
sc_reset_handlers(const sc_child *c)
{
    for (int sig = 1; !*c->handlers_cleared && sig <= 64; sig++) {
        sc_kernel_sigaction action = {0}, reset = {.handler = (uintptr_t)SIG_DFL};
        if (sig == SIGKILL || sig == SIGSTOP) continue;
        if (sc_raw4(SYS_rt_sigaction, sig, 0, &action, SC_MASK_BYTES) < 0) continue;
        if (action.handler != (uintptr_t)SIG_DFL && action.handler != (uintptr_t)SIG_IGN)
            sc_raw4(SYS_rt_sigaction, sig, &reset, 0, SC_MASK_BYTES);
    }
    /* The two that Python ignores and programs expect to end them. */
    static const int ignored[] = {SIGPIPE, SIGXFSZ};
    for (int i = 0; c->restore_ignored && i < 2; i++) {
        sc_kernel_sigaction reset = {.handler = (uintptr_t)SIG_DFL};
        sc_raw4(SYS_rt_sigaction, ignored[i], &reset, 0, SC_MASK_BYTES);
    }
}

static long
sc_move_stdio(sc_child *c)
{
    /* A source that is itself 0, 1 or 2 but not yet in place would be overwritten: move it up first. */
    for (int target = 0; target < 3; target++) {
        int source = c->stdio[target];
        if (source < 0 || source == target || source > 2) continue;
        long moved = sc_raw3(SYS_fcntl, source, F_DUPFD_CLOEXEC, 3);
        c->place = target;
        if (moved < 0) return moved;
        c->stdio[target] = (int)moved;
    }
    for (int target = 0; target < 3; target++) {
        int source = c->stdio[target];
        if (source < 0) continue;
        c->place = target;
        long done = source == target ? sc_raw3(SYS_fcntl, target, F_SETFD, 0) : sc_raw3(SYS_dup3, source, target, 0);
        if (done < 0) return done;
    }
    return 0;
}

/* Before 5.9 there is no close_range: the open ones are read from /proc, in pieces that no close can upset. */
static void
sc_close_listed(long low, long high)
{
    long dir = sc_raw4(SYS_openat, AT_FDCWD, "/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (dir < 0) {
        for (long fd = low; fd <= high && fd < 65536; fd++) sc_raw1(SYS_close, fd);
        return;
    }
    char block[1024] __attribute__((aligned(8)));
    long length;
    while ((length = sc_raw3(SYS_getdents64, dir, block, sizeof block)) > 0) {
        for (long at = 0; at < length; at += *(unsigned short *)(block + at + 16)) {
            long fd = 0;
            const char *name = block + at + 19;
            if (*name < '0' || *name > '9') continue;
            for (; *name; name++) fd = fd * 10 + (*name - '0');
            if (fd >= low && fd <= high && fd != dir) sc_raw1(SYS_close, fd);
        }
    }
    sc_raw1(SYS_close, dir);
}

static void
sc_close_range(long low, long high)
{
    if (low <= high && sc_raw3(SYS_close_range, low, high, 0) < 0) sc_close_listed(low, high);
}

static long
sc_close_fds(sc_child *c)
{
    long low = 3;
    for (size_t i = 0; i < c->keep_count; i++) {
        int fd = c->keep[i];
        c->place = (int)i;
        long flags = sc_raw2(SYS_fcntl, fd, F_GETFD);
        if (flags < 0) return flags;
        sc_raw3(SYS_fcntl, fd, F_SETFD, flags & ~(long)FD_CLOEXEC);
        if (!c->close_others || fd < low) continue;
        sc_close_range(low, fd - 1);
        low = fd + 1;
    }
    if (c->close_others) sc_close_range(low, 0x7fffffff);
    if (c->exec_fd >= 0 && !c->exec_fd_stays) return sc_raw3(SYS_fcntl, c->exec_fd, F_SETFD, FD_CLOEXEC);
    return 0;
}

static long
sc_exec(sc_child *c)
{
    long first = -ENOENT;
    if (c->exec_fd >= 0) return sc_raw6(SYS_execveat, c->exec_fd, "", c->argv, c->envp, AT_EMPTY_PATH, 0);
    for (int i = 0; c->paths[i]; i++) {
        long error = sc_raw3(SYS_execve, c->paths[i], c->argv, c->envp);
        /* The first refusal that is more than "not here" is the one worth telling. */
        if (i == 0 || (first == -ENOENT || first == -ENOTDIR)) {
            if (i == 0 || (error != -ENOENT && error != -ENOTDIR)) {
                first = error;
                c->place = i;
            }
        }
    }
    return first;
}

static int
sc_wait_until_ready(int *word)
{
    int ready;
    while (!(ready = __atomic_load_n(word, __ATOMIC_SEQ_CST))) sc_raw6(SYS_futex, word, FUTEX_WAIT, 0, 0, 0, 0);
    return ready;
}

#define SC_TRY(name, call)                \
    do {                                  \
        long answer_ = (call);            \
        if (answer_ < 0) {                \
            c->step = name;               \
            c->error = (int)-answer_;     \
            return 127;                   \
        }                                 \
    } while (0)

int
sc_child_main(void *argument)
{
    sc_child *c = argument;
    if (c->ready && sc_wait_until_ready(c->ready) < 0) return 127;
    /* Handlers first: with signals open, the creator's would run here, in memory that is the creator's. */
    sc_reset_handlers(c);
    SC_TRY(SC_STEP_DUP, sc_move_stdio(c));
    if (c->cwd) SC_TRY(SC_STEP_CHDIR, sc_raw1(SYS_chdir, c->cwd));
    if (c->umask >= 0) sc_raw1(SYS_umask, c->umask);
    if (c->setsid) SC_TRY(SC_STEP_SETSID, sc_raw0(SYS_setsid));
    /* Its group becomes the foreground one. */
    if (c->terminal >= 0) SC_TRY(SC_STEP_TERMINAL, sc_raw3(SYS_ioctl, c->terminal, TIOCSCTTY, 0));
    if (c->is_subreaper) SC_TRY(SC_STEP_SUBREAPER, sc_raw5(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
    if (c->pgid >= 0) SC_TRY(SC_STEP_SETPGID, sc_raw2(SYS_setpgid, 0, c->pgid));
    if (c->group_count >= 0) SC_TRY(SC_STEP_SETGROUPS, sc_raw2(SYS_setgroups, c->group_count, c->groups));
    if (c->gid >= 0) SC_TRY(SC_STEP_SETGID, sc_raw2(SYS_setregid, c->gid, c->gid));
    if (c->uid >= 0) SC_TRY(SC_STEP_SETUID, sc_raw2(SYS_setreuid, c->uid, c->uid));
    if (c->setup) {
        SC_TRY(SC_STEP_SETUP, c->setup(c->setup_argument));
        c->let_go(c->setup_argument);
    }
    SC_TRY(SC_STEP_CLOSE, sc_close_fds(c));
    sc_raw4(SYS_rt_sigprocmask, SIG_SETMASK, &c->mask, 0, SC_MASK_BYTES);
    SC_TRY(SC_STEP_EXEC, sc_exec(c));
    return 127;
}
