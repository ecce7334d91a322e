/* clone3 with every switch, or as much of it as an older or filtered kernel takes.

   1. clone3 missing (ENOSYS) or refused by a seccomp filter (EPERM or ENOSYS to every clone3): the old call,
      when nothing that was asked for needs the new one. An EPERM that has another cause must not lead there:
      clone3 of a null struct of size 0 answers EINVAL wherever the call is let through.
   2. E2BIG: a kernel older than set_tid (5.5) or cgroup (5.7): the smaller struct, when the fields are not used.
   3. CLEAR_SIGHAND unknown to the kernel (before 5.5) or to the old call: left off; the child resets handlers itself.
   4. PIDFD unknown (before 5.2): left off; the caller opens one. */
#include "core.h"

#include <errno.h>
#include <signal.h>

#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x100000000ULL
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif
#define SC_NEWTIME 0x80ULL
#define SC_CSIGNAL 0xffULL

static bool
sc_clone3_is_refused(void)
{
    long answer = sc_raw2(SYS_clone3, 0, 0);
    return answer == -ENOSYS || answer == -EPERM;
}

static long
sc_clone_new(sc_clone_request *r, uint64_t flags, sc_entry entry, void *argument)
{
    const sc_clone_plan *plan = r->plan;
    struct clone_args args = {
        .flags = flags,
        .pidfd = (uintptr_t)r->pidfd,
        .child_tid = (uintptr_t)r->child_tid,
        .parent_tid = (uintptr_t)r->parent_tid,
        .exit_signal = (uint64_t)plan->exit_signal,
        .stack = r->stack_bytes ? r->stack_low : 0,
        .stack_size = r->stack_bytes,
        .tls = r->tls,
        .set_tid = plan->tid_count ? (uintptr_t)plan->tids : 0,
        .set_tid_size = (uint64_t)plan->tid_count,
        .cgroup = flags & CLONE_INTO_CGROUP ? (uint64_t)plan->cgroup : 0,
    };
    long pid = sc_arch_clone3(&args, sizeof args, entry, argument);
    if (pid == -E2BIG && !(flags & CLONE_INTO_CGROUP))
        pid = sc_arch_clone3(&args, plan->tid_count ? 80 : 64, entry, argument);
    return pid;
}

static long
sc_clone_old(sc_clone_request *r, uint64_t flags, sc_entry entry, void *argument)
{
    int *parent_tid = flags & CLONE_PIDFD ? r->pidfd : r->parent_tid;
    uintptr_t top = r->stack_bytes ? r->stack_low + r->stack_bytes : 0;
    return sc_arch_clone((unsigned long)(flags | (uint64_t)r->plan->exit_signal), top, parent_tid, r->child_tid, r->tls,
                         entry, argument);
}

static bool
sc_old_call_will_do(const sc_clone_plan *plan, uint64_t flags)
{
    uint64_t beyond = flags & ~CLONE_CLEAR_SIGHAND;
    return !(beyond >> 32) && !(beyond & SC_CSIGNAL) && !plan->tid_count && plan->exit_signal <= 64;
}

long
sc_clone(sc_clone_request *r, sc_entry entry, void *argument)
{
    uint64_t flags = r->plan->flags | r->more_flags;
    bool old_call = r->plan->old_call;
    for (;;) {
        /* The old call has one place for both. */
        if (old_call && (flags & CLONE_PARENT_SETTID)) flags &= ~(uint64_t)(CLONE_PIDFD & r->more_flags);
        r->cleared_handlers = !old_call && (flags & CLONE_CLEAR_SIGHAND);
        r->has_pidfd = flags & CLONE_PIDFD;
        long pid = old_call ? sc_clone_old(r, flags & ~CLONE_CLEAR_SIGHAND, entry, argument)
                            : sc_clone_new(r, flags, entry, argument);
        if (pid >= 0) return pid;
        if (!old_call && (pid == -ENOSYS || pid == -EPERM) && sc_old_call_will_do(r->plan, flags)
            && sc_clone3_is_refused()) {
            old_call = true;
            continue;
        }
        /* An unknown flag is EINVAL, like every other mistake: leave off only what this code itself added. */
        if (pid == -EINVAL && !old_call && (r->more_flags & flags & CLONE_CLEAR_SIGHAND)) {
            flags &= ~CLONE_CLEAR_SIGHAND;
            continue;
        }
        if (pid == -EINVAL && (r->more_flags & flags & CLONE_PIDFD)) {
            flags &= ~(uint64_t)CLONE_PIDFD;
            continue;
        }
        return pid;
    }
}
