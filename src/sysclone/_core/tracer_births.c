/* The calls of a stopped task: what it asks for, and what came of it. A rule of tracer.c's holds: raw calls alone. */
#include "tracer.h"

#include <linux/ptrace.h>
#include <linux/sched.h>

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x1000
#endif

bool
sc_makes_tasks(int call)
{
    return call <= SC_VFORK;
}

static bool
sc_read_info(int32_t tid, struct ptrace_syscall_info *info)
{
    return sc_ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof *info, (uintptr_t)info) > 0;
}

/* What the event needs to know of the call when it comes. CLONE_UNTRACED would make a child that has the filter and
   no tracer, so that each call of its that makes a task were answered with ENOSYS: the kernel is given the flags without
   it, in a register or in a copy of the struct, and the register is put back. */
static void
sc_note_clone(sc_traced *task, const sc_record *r, uint32_t arch)
{
    const uint64_t *s = (const uint64_t *)(r + 1);
    bool modern = r->call == SC_CLONE3;
    task->flags = task->parent_tid_at = task->pidfd_at = 0;
    task->fix_argument = false;
    if (modern && !(r->has & SC_HAS_STRUCT)) return;
    if (r->call == SC_FORK || r->call == SC_VFORK) return;
    task->flags = modern ? s[0] : r->words[0];
    task->parent_tid_at = modern ? s[3] : r->words[2];
    task->pidfd_at = modern ? s[1] : r->words[2];
    if (!(task->flags & CLONE_UNTRACED)) return;
    uint64_t flags = task->flags & ~(uint64_t)CLONE_UNTRACED;
    /* The old call's flags may well be 0 without it; a copy of the struct is never there. */
    uint64_t value = modern ? sc_copy_struct(task->tid, r->words[0], (size_t)r->words[1], flags) : flags;
    if ((value || !modern) && sc_set_argument(task->tid, arch, value)) {
        task->argument = r->words[0];
        task->fix_argument = true;
    }
}

/* Puts a caller's register back; arch is the call's. */
static void
sc_restore_argument(sc_traced *task, uint32_t arch)
{
    if (task->fix_argument && SC_ARGUMENT_IS_KEPT) sc_set_argument(task->tid, arch, task->argument);
    task->fix_argument = false;
}

static sc_record *
sc_begin_entry(sc_tracer *t, sc_traced *task, enum sc_call call, enum sc_machine machine, const uint64_t words[6], size_t *extra)
{
    sc_record *r = sc_queue_reserve(&t->queue, call == SC_EXECVE || call == SC_EXECVEAT ? SC_EXTRA_ROOM : 1024);
    r->kind = SC_ENTRY;
    r->tid = task->tid;
    r->nanoseconds = sc_now();
    r->call = (uint8_t)call;
    r->machine = (uint8_t)machine;
    for (int i = 0; i < 6; i++) r->words[i] = words[i];
    if (call == SC_CLONE3) sc_look_clone3(task->tid, r, extra);
    if (call == SC_EXECVE || call == SC_EXECVEAT) sc_look_exec(task->tid, r, extra);
    return r;
}

static void
sc_enter_call(sc_tracer *t, sc_traced *task, const struct ptrace_syscall_info *info)
{
    enum sc_call call;
    enum sc_machine machine;
    /* entry and seccomp begin alike. */
    if (!sc_call_find(info->arch, info->entry.nr, &call, &machine)) return;
    size_t extra = 0;
    uint64_t words[6];
    for (int i = 0; i < 6; i++) words[i] = info->entry.args[i];
    sc_record *r = sc_begin_entry(t, task, call, machine, words, &extra);
    if (sc_makes_tasks(call)) sc_note_clone(task, r, info->arch);
    sc_queue_commit(&t->queue, r, extra);
    task->in_call = true;
    task->call = (uint8_t)call;
    task->since = r->nanoseconds;
    if (sc_makes_tasks(call)) t->caller = task->tid;
    if (call == SC_UNSHARE) task->flags = words[0];
    if (call == SC_SETNS) task->flags = words[1];
}

static void
sc_tell_result(sc_tracer *t, sc_traced *task, int64_t result)
{
    sc_record *r = sc_queue_reserve(&t->queue, 0);
    r->kind = SC_DONE;
    r->tid = task->tid;
    r->nanoseconds = sc_now();
    r->done.result = result;
    sc_queue_commit(&t->queue, r, 0);
}

static void
sc_call_returned(sc_tracer *t, sc_traced *task, const struct ptrace_syscall_info *info)
{
    sc_restore_argument(task, info->arch);
    if (!task->in_call) return;
    task->in_call = false;
    bool changes_pids = task->call == SC_UNSHARE ? task->flags & CLONE_NEWPID
                                                 : task->call == SC_SETNS && (!task->flags || task->flags & CLONE_NEWPID);
    if (info->exit.rval == 0 && changes_pids) task->new_pids = true;
    sc_tell_result(t, task, info->exit.rval);
}

/* In the modes without system-call stops the event is all there is, and the caller's registers still hold its call. */
static void
sc_late_entry(sc_tracer *t, sc_traced *task, int event)
{
    uint32_t arch;
    uint64_t number, words[6];
    enum sc_call call;
    enum sc_machine machine;
    size_t extra = 0;
    if (!sc_look_registers(task->tid, &arch, &number, words) || !sc_call_find(arch, number, &call, &machine)
        || !sc_makes_tasks(call)) {
        call = event == PTRACE_EVENT_VFORK ? SC_VFORK : event == PTRACE_EVENT_FORK ? SC_FORK : SC_CLONE;
        machine = SC_NATIVE;
        for (int i = 0; i < 6; i++) words[i] = 0;
    }
    sc_record *r = sc_begin_entry(t, task, call, machine, words, &extra);
    task->flags = task->parent_tid_at = task->pidfd_at = 0;
    const uint64_t *s = (const uint64_t *)(r + 1);
    if (call == SC_CLONE3 && r->has & SC_HAS_STRUCT) {
        task->flags = s[0];
        task->parent_tid_at = s[3];
        task->pidfd_at = s[1];
    } else if (call == SC_CLONE) {
        task->flags = words[0];
        task->parent_tid_at = task->pidfd_at = words[2];
    }
    sc_queue_commit(&t->queue, r, extra);
}

/* The ids of a new task, where its creator and the tracer know it by different ones. */
static void
sc_tell_pids(sc_record *r, const sc_traced *caller, sc_traced *child)
{
    sc_status_file status;
    if (!sc_look_status(child->tid, &status)) return;
    child->depth = (uint8_t)status.depth;
    r->done.pid_count = status.depth < 4 ? status.depth : 4;
    for (int i = 0; i < 4; i++) r->done.pids[i] = status.pids[i];
    if (caller->depth <= r->done.pid_count) r->done.result = status.pids[caller->depth - 1];
}

/* The child began with the creator's registers. */
static void
sc_restore_both(sc_traced *task, sc_traced *child)
{
    struct ptrace_syscall_info info;
    uint32_t arch = sc_read_info(task->tid, &info) ? info.arch : sc_call_tables[SC_NATIVE].arch;
    if (!child->ghost) {
        child->fix_argument = true;
        child->argument = task->argument;
        child->flags = arch;
    }
    sc_restore_argument(task, arch);
}

void
sc_made(sc_tracer *t, sc_traced *task, int event)
{
    unsigned long message = 0;
    sc_ptrace(PTRACE_GETEVENTMSG, task->tid, 0, (uintptr_t)&message);
    if (!task->in_call) sc_late_entry(t, task, event);
    sc_traced *child = sc_tasks_find(&t->tasks, (int32_t)message);
    if (child && child->announced) { /* the id is used again, and of the one before no end was seen: sc_forget_all */
        sc_forget(t, child);
        child = NULL;
    }
    /* Without system-call stops a child may have been taken for an orphan (sc_release_orphans), and have ended by now. */
    if (!child && (t->mode != SC_MODE_EVENTS || sc_is_traced((int32_t)message)))
        child = sc_tasks_add(&t->tasks, (int32_t)message);
    sc_record *r = sc_queue_reserve(&t->queue, 0);
    r->kind = SC_DONE;
    r->tid = task->tid;
    r->other = (int32_t)message;
    r->nanoseconds = sc_now();
    r->done.result = (int64_t)message;
    if (task->flags & CLONE_PARENT_SETTID && sc_look_int(task->tid, task->parent_tid_at, &r->done.parent_tid))
        r->has |= SC_HAS_PARENT_TID;
    if (task->flags & CLONE_PIDFD && sc_look_int(task->tid, task->pidfd_at, &r->done.pidfd)) r->has |= SC_HAS_PIDFD;
    if (child && (task->depth > 1 || task->new_pids || task->flags & CLONE_NEWPID)) sc_tell_pids(r, task, child);
    sc_queue_commit(&t->queue, r, 0);
    if (child) {
        child->announced = true;
        t->child = child->started ? 0 : child->tid;
        if (task->fix_argument) sc_restore_both(task, child);
        if (child->held) sc_let_go(t, child);
    }
    task->in_call = false;
}

/* Without system-call stops the new program is all that can be read. */
static void
sc_late_exec(sc_tracer *t, int32_t tid, int32_t caller)
{
    size_t extra = 0;
    sc_record *r = sc_queue_reserve(&t->queue, SC_EXTRA_ROOM);
    r->kind = SC_ENTRY;
    r->tid = caller;
    r->nanoseconds = sc_now();
    r->call = SC_EXECVE;
    sc_look_program(tid, r, &extra);
    sc_queue_commit(&t->queue, r, extra);
}

/* The caller of exec has its leader's id now; every other thread has ended, the leader without a word. */
void
sc_executed(sc_tracer *t, sc_traced *task)
{
    unsigned long message = 0;
    sc_ptrace(PTRACE_GETEVENTMSG, task->tid, 0, (uintptr_t)&message);
    int32_t former = (int32_t)message;
    sc_traced *caller = former && former != task->tid ? sc_tasks_find(&t->tasks, former) : task;
    if (caller != task) {
        task->in_call = false;
        if (caller) {
            task->depth = caller->depth;
            task->new_pids = caller->new_pids;
        }
    }
    if (!(caller ? caller->in_call : false)) sc_late_exec(t, task->tid, former ? former : task->tid);
    if (caller && caller != task) sc_tasks_remove(&t->tasks, caller);
    sc_record *r = sc_queue_reserve(&t->queue, 0);
    r->kind = SC_EXEC;
    r->tid = task->tid;
    r->other = former ? former : task->tid;
    r->nanoseconds = sc_now();
    sc_queue_commit(&t->queue, r, 0);
    task->in_call = false;
}

void
sc_system_call_stop(sc_tracer *t, sc_traced *task)
{
    struct ptrace_syscall_info info;
    if (!sc_read_info(task->tid, &info)) return;
    if (info.op == PTRACE_SYSCALL_INFO_EXIT) sc_call_returned(t, task, &info);
    else if (info.op == PTRACE_SYSCALL_INFO_SECCOMP || info.op == PTRACE_SYSCALL_INFO_ENTRY) sc_enter_call(t, task, &info);
}
