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
#include <sys/wait.h>
#include <time.h>

#ifndef __WALL
#define __WALL 0x40000000
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x1000
#endif

#if defined(__x86_64__)
/* The register of a call's first argument is the caller's again afterwards, and its child has it too. */
#define SC_ARGUMENT_IS_KEPT 1
#else
#define SC_ARGUMENT_IS_KEPT 0
#endif

#define SC_SIGNAL_BIT(n) (1ULL << ((n)-1))
#define SC_COMMAND_SIGNAL SIGUSR1 /* somebody has written a command */
#define SC_OWNER_SIGNAL SIGUSR2   /* the thread that made us has ended */
#define SC_TELL_AFTER 20000000L   /* nanoseconds that a record may wait for more to come */
#define SC_HUNT_AFTER 20000000L   /* nanoseconds between two looks for children whose creator has gone */
#define SC_ORPHAN_AFTER 1000000000L
#define SC_FEW_TASKS 64
#define SC_OPTIONS (PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC)

typedef struct {
    uintptr_t handler;
    unsigned long flags;
    uintptr_t restorer;
    uint64_t mask;
} sc_kernel_sigaction;

static long
sc_ptrace(long request, int32_t tid, uintptr_t address, uintptr_t data)
{
    return sc_raw4(SYS_ptrace, request, tid, address, data);
}

/* --- records */

static void
sc_tell_attached(sc_tracer *t, sc_traced *task)
{
    sc_status_file status;
    bool found = sc_look_status(task->tid, &status);
    sc_record *r = sc_queue_reserve(&t->queue, 0);
    r->kind = SC_ATTACHED;
    r->tid = task->tid;
    r->nanoseconds = sc_now();
    r->other = found ? status.group : task->tid;
    task->group = r->other;
    if (found) {
        task->depth = (uint8_t)status.depth;
        r->done.parent_tid = status.parent;
        r->done.pid_count = status.depth < 4 ? status.depth : 4;
        for (int i = 0; i < 4; i++) r->done.pids[i] = status.pids[i];
    }
    sc_queue_commit(&t->queue, r, 0);
}

static void
sc_tell_exit(sc_tracer *t, int32_t tid, int status)
{
    sc_record *r = sc_queue_reserve(&t->queue, 0);
    r->kind = SC_EXIT;
    r->tid = tid;
    r->nanoseconds = sc_now();
    r->done.result = status;
    sc_queue_commit(&t->queue, r, 0);
}

/* --- going on */

static void
sc_resume(sc_tracer *t, sc_traced *task, int sig)
{
    if (t->leaving && !task->held) {
        sc_ptrace(PTRACE_DETACH, task->tid, 0, (uintptr_t)sig);
        sc_tasks_remove(&t->tasks, task);
        return;
    }
    if (t->killing) sc_raw2(SYS_kill, task->tid, SIGKILL);
    long how = t->mode == SC_MODE_ALL || (t->mode == SC_MODE_FILTER && task->in_call) ? PTRACE_SYSCALL : PTRACE_CONT;
    /* ESRCH: it was killed meanwhile, and its end will be told. */
    sc_ptrace(how, task->tid, 0, (uintptr_t)sig);
}

static void
sc_release(sc_tracer *t, sc_traced *task)
{
    if (task->held) t->tasks.held--;
    task->held = false;
    if (task->fix_argument) {
        if (SC_ARGUMENT_IS_KEPT) sc_set_argument(task->tid, (uint32_t)task->flags, task->argument);
        task->fix_argument = false;
    }
    if (task->listening && !t->leaving && !t->killing) sc_ptrace(PTRACE_LISTEN, task->tid, 0, 0);
    else sc_resume(t, task, 0);
}

/* A held child goes on; one that was killed in that stop is told of now. */
static void
sc_let_go(sc_tracer *t, sc_traced *task)
{
    if (!task->ghost) {
        sc_release(t, task);
        return;
    }
    sc_tell_exit(t, task->tid, (int)task->argument);
    sc_tasks_remove(&t->tasks, task);
}

/* --- calls */

static bool
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
    uint64_t value = modern ? sc_copy_struct(task->tid, r->words[0], (size_t)r->words[1], flags) : flags;
    if (value && sc_set_argument(task->tid, arch, value)) {
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

static void
sc_made(sc_tracer *t, sc_traced *task, int event)
{
    unsigned long message = 0;
    sc_ptrace(PTRACE_GETEVENTMSG, task->tid, 0, (uintptr_t)&message);
    if (!task->in_call) sc_late_entry(t, task, event);
    sc_traced *child = sc_tasks_find(&t->tasks, (int32_t)message);
    if (!child) child = sc_tasks_add(&t->tasks, (int32_t)message);
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
static void
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

/* --- stops */

/* A held child that began when no call that makes tasks was under way, or longer ago than any that is, has lost its creator
   before its event. Without system-call stops it is not known who is in a call: then time must tell. */
static void
sc_release_orphans(sc_tracer *t)
{
    int64_t now = sc_now(), oldest = INT64_MAX;
    if (t->mode == SC_MODE_EVENTS) oldest = now - SC_ORPHAN_AFTER;
    for (int32_t tid = t->mode == SC_MODE_EVENTS ? 0 : t->tasks.first; tid;) {
        sc_traced *task = sc_tasks_find(&t->tasks, tid);
        if (task->in_call && sc_makes_tasks(task->call) && task->since < oldest) oldest = task->since;
        tid = task->next;
    }
    for (int32_t tid = t->tasks.first; tid;) {
        sc_traced *task = sc_tasks_find(&t->tasks, tid);
        tid = task->next;
        if (!task->held || task->since >= oldest) continue;
        sc_tell_attached(t, task);
        sc_let_go(t, task);
    }
    t->next_hunt = now + SC_HUNT_AFTER;
}

static void
sc_first_stop(sc_tracer *t, sc_traced *task, int sig)
{
    task->started = true;
    if (t->child == task->tid) t->child = 0;
    task->since = sc_now();
    task->listening = sig != SIGTRAP;
    task->held = true;
    t->tasks.held++;
    if (task->announced || t->killing) sc_release(t, task);
}

static void
sc_system_call_stop(sc_tracer *t, sc_traced *task)
{
    struct ptrace_syscall_info info;
    if (!sc_read_info(task->tid, &info)) return;
    if (info.op == PTRACE_SYSCALL_INFO_EXIT) sc_call_returned(t, task, &info);
    else if (info.op == PTRACE_SYSCALL_INFO_SECCOMP || info.op == PTRACE_SYSCALL_INFO_ENTRY) sc_enter_call(t, task, &info);
}

static void
sc_stopped(sc_tracer *t, int32_t tid, int status)
{
    int event = status >> 16, sig = WSTOPSIG(status), deliver = 0;
    sc_traced *task = sc_tasks_find(&t->tasks, tid);
    if (!task) task = sc_tasks_add(&t->tasks, tid);
    if (!task) { /* no memory: it runs on, and is not told of */
        sc_ptrace(PTRACE_CONT, tid, 0, 0);
        return;
    }
    t->stops++;
    if (event != PTRACE_EVENT_STOP) task->started = true;
    if (event == PTRACE_EVENT_STOP) {
        if (!task->started) {
            sc_first_stop(t, task, sig);
            return;
        }
        /* SIGTRAP: it was interrupted by us, or continued. Anything else is a stop of job control, and it stays in it. */
        task->listening = sig != SIGTRAP;
        if (task->listening && !t->killing && !t->leaving) {
            sc_ptrace(PTRACE_LISTEN, tid, 0, 0);
            return;
        }
    } else if (event == PTRACE_EVENT_SECCOMP) {
        if (t->mode == SC_MODE_FILTER) sc_system_call_stop(t, task);
    } else if (event == PTRACE_EVENT_CLONE || event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK) {
        sc_made(t, task, event);
    } else if (event == PTRACE_EVENT_EXEC) {
        sc_executed(t, task);
    } else if (event == 0) {
        if (sig == (SIGTRAP | 0x80)) sc_system_call_stop(t, task);
        else deliver = sig;
    }
    sc_resume(t, task, deliver);
}

static void
sc_ended(sc_tracer *t, int32_t tid, int status)
{
    sc_traced *task = sc_tasks_find(&t->tasks, tid);
    if (!task && (task = sc_tasks_add(&t->tasks, tid))) {
        /* Killed before its first stop, and its creator's event is not here: perhaps it was killed too. */
        task->since = sc_now();
        task->held = true;
        t->tasks.held++;
    }
    if (task && task->held && !t->killing && !t->leaving) {
        task->ghost = true;
        task->argument = (uint64_t)status;
    } else {
        if (task) sc_tasks_remove(&t->tasks, task);
        sc_tell_exit(t, tid, status);
    }
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

/* Takes one stop or end, of a task or (-1) of any; false when there is none. */
static bool
sc_take_stop(sc_tracer *t, long whose)
{
    int status = 0;
    long tid;
    while ((tid = sc_raw4(SYS_wait4, whose, &status, __WALL | WNOHANG, 0)) == -EINTR) {
    }
    if (tid <= 0) return false;
    if (WIFSTOPPED(status)) sc_stopped(t, (int32_t)tid, status);
    else if (WIFEXITED(status) || WIFSIGNALED(status)) sc_ended(t, (int32_t)tid, status);
    return true;
}

/* A creator's event and its child's first stop come together, and only one of them is signalled. */
static void
sc_take_expected(sc_tracer *t, int32_t signalled)
{
    sc_take_stop(t, signalled);
    if (t->caller && t->caller != signalled) sc_take_stop(t, t->caller);
    if (t->child && t->child != signalled) sc_take_stop(t, t->child);
}

/* Takes what there is. SIGCHLD says whose stop it was, but only the first of several until it is taken: so any task is
   asked for as well, and the kernel then looks at one after the other. With many tasks that would be most of the time: it
   is done no more often than makes a fifth of it. Answers in how many nanoseconds it is due again, or -1 for not at all. */
static int64_t
sc_take_stops(sc_tracer *t)
{
    if (t->tasks.count <= SC_FEW_TASKS) {
        while (sc_take_stop(t, -1)) {
        }
        return -1;
    }
    int64_t began = sc_now();
    if (began < t->next_look) return t->next_look - began;
    bool found = sc_take_stop(t, -1);
    int64_t ended = sc_now();
    t->next_look = ended + 4 * (ended - began);
    /* One that finds nothing is enough, until the next signal. */
    return found ? t->next_look - ended : -1;
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
    /* An ignored SIGCHLD would be sent to nobody, and a blocked one waits. */
    sc_raw4(SYS_rt_sigaction, SIGCHLD, &usual, 0, 8);
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
    sc_raw5(SYS_prctl, PR_SET_PDEATHSIG, SC_OWNER_SIGNAL, 0, 0, 0);
    uint64_t awaited = SC_SIGNAL_BIT(SIGCHLD) | SC_SIGNAL_BIT(SC_COMMAND_SIGNAL) | SC_SIGNAL_BIT(SC_OWNER_SIGNAL);
    for (;;) {
        sc_obey(t);
        int64_t due = sc_take_stops(t);
        if (t->tasks.held && sc_now() >= t->next_hunt) sc_release_orphans(t);
        if (!t->tasks.count) break;
        siginfo_t info = {0};
        bool looks_again = due >= 0 && due < SC_TELL_AFTER;
        struct timespec soon = {.tv_nsec = looks_again ? due : SC_TELL_AFTER};
        bool limited = due >= 0 || t->queue.unsaid || t->tasks.held;
        long sig = sc_raw4(SYS_rt_sigtimedwait, &awaited, &info, limited ? &soon : 0, 8);
        if (sig == SIGCHLD && t->tasks.count > SC_FEW_TASKS) sc_take_expected(t, info.si_pid);
        if (sig == -EAGAIN && !looks_again && t->queue.unsaid) sc_queue_tell(&t->queue);
        if (sig == SC_OWNER_SIGNAL && !t->owner_is_gone && sc_raw0(SYS_getppid) != t->owner) sc_owner_ended(t);
    }
    __atomic_store_n(&t->done, 1, __ATOMIC_RELEASE);
    sc_queue_tell(&t->queue);
    /* A command that came too late is answered by that. */
    sc_raw6(SYS_futex, &t->command, FUTEX_WAKE, INT32_MAX, 0, 0, 0);
    return 0;
}
