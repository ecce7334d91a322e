/* A child that is born in other namespaces than its creator's.

   The creator cannot enter them itself: setns into a user or mount namespace, or a new pid namespace for its children, is
   for processes with one thread and a cwd of their own, and there would be no way back. So an intermediate, made with
   CLONE_VM | CLONE_FILES and on a small stack of its own, enters them by raw calls and makes the child with CLONE_PARENT,
   in the shared file table: the child is the creator's own, with its pid, pidfd and exit signal (which the kernel takes
   from the intermediate), and is in every joined namespace from its first instruction on, the pid namespace too.

   The order is nsenter's: first all but the user namespace, since who leaves privilege behind needs it for the rest, then
   that, then what was refused before it, since who enters one gains privilege over what it owns. */
#include "core.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

#define SC_BETWEEN_STACK 16384

static long
sc_enter(const sc_newborn *n, bool user, uint32_t *entered, bool last, int *failed)
{
    for (int i = 0; i < n->join_count; i++) {
        const sc_join *join = &n->joins[i];
        if (*entered >> i & 1 || (join->kind == CLONE_NEWUSER) != user) continue;
        long answer = sc_raw2(SYS_setns, join->fd, join->kind);
        if (answer == 0) *entered |= 1U << i;
        else if (last || answer != -EPERM) {
            *failed = i;
            return answer;
        }
    }
    return 0;
}

/* In a process with one thread of its own: enters them all. Answers 0, or -errno with the index of the refused one. */
long
sc_join_all(const sc_newborn *n, int *failed)
{
    uint32_t entered = 0;
    long answer = sc_enter(n, false, &entered, false, failed);
    if (answer == 0) answer = sc_enter(n, true, &entered, true, failed);
    return answer == 0 ? sc_enter(n, false, &entered, true, failed) : answer;
}

const char *
sc_join_step(int kind)
{
    switch (kind) {
    case CLONE_NEWUSER: return "setns(user)";
    case CLONE_NEWNS: return "setns(mnt)";
    case CLONE_NEWPID: return "setns(pid)";
    case CLONE_NEWNET: return "setns(net)";
    case CLONE_NEWUTS: return "setns(uts)";
    case CLONE_NEWIPC: return "setns(ipc)";
    case CLONE_NEWCGROUP: return "setns(cgroup)";
    default: return "setns(time)";
    }
}

typedef struct {
    const sc_newborn *newborn;
    sc_clone_request *request;
    sc_entry entry;
    void *argument;
    long pid; /* the child's, or -errno */
    int failed, attention;
} sc_between;

static int
sc_between_main(void *argument)
{
    sc_between *b = argument;
    long answer = sc_join_all(b->newborn, &b->failed);
    if (answer < 0) {
        b->pid = answer;
        return 1;
    }
    sc_clone_plan inner = *b->request->plan;
    inner.flags |= CLONE_PARENT;
    inner.exit_signal = 0;
    b->request->plan = &inner;
    b->pid = sc_clone(b->request, b->entry, b->argument);
    return 0;
}

/* sc_clone, by way of an intermediate where the plan joins namespaces. *step names what was refused, where it is not the
   clone. */
long
sc_clone_joined(sc_clone_request *request, const sc_newborn *newborn, sc_entry entry, void *argument, const char **step)
{
    if (!newborn->join_count) return sc_clone(request, entry, argument);
    char stack[SC_BETWEEN_STACK] __attribute__((aligned(16)));
    const sc_clone_plan *plan = request->plan;
    uint64_t handed_on = plan->flags & (CLONE_FS | CLONE_SIGHAND | CLONE_SYSVSEM | CLONE_IO);
    sc_between b = {.newborn = newborn, .request = request, .entry = entry, .argument = argument, .pid = -ECANCELED,
                    .failed = -1, .attention = -1};
    sc_clone_plan outer = {.flags = CLONE_VM | CLONE_FILES | CLONE_CHILD_CLEARTID | handed_on,
                           .exit_signal = plan->exit_signal, .cgroup = -1};
    sc_clone_request between = {.plan = &outer, .child_tid = &b.attention, .stack_low = (uintptr_t)stack,
                                .stack_bytes = sizeof stack};
    long pid = sc_clone(&between, sc_between_main, &b);
    if (pid < 0) return pid;
    int word;
    while ((word = __atomic_load_n(&b.attention, __ATOMIC_SEQ_CST)))
        sc_raw6(SYS_futex, &b.attention, FUTEX_WAIT, word, 0, 0, 0);
    while (sc_raw4(SYS_wait4, pid, 0, __WALL, 0) == -EINTR) {
    }
    request->plan = plan;
    if (b.failed >= 0) *step = sc_join_step(newborn->joins[b.failed].kind);
    return b.pid;
}
