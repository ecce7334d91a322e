/* A task that has stopped or ended: what it was, and how it goes on. A rule of tracer.c's holds: raw calls alone. */
#include "tracer.h"

#include <linux/ptrace.h>
#include <signal.h>
#include <sys/wait.h>

#define SC_HUNT_AFTER 20000000L /* nanoseconds between two looks for children whose creator has gone */
#define SC_ORPHAN_AFTER 1000000000L

/* --- records */

void
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

void
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
void
sc_let_go(sc_tracer *t, sc_traced *task)
{
    if (!task->ghost) {
        sc_release(t, task);
        return;
    }
    sc_tell_exit(t, task->tid, (int)task->argument);
    sc_tasks_remove(&t->tasks, task);
}

/* --- stops */

/* A held child that began when no call that makes tasks was under way, or longer ago than any that is, has lost its creator
   before its event. Without system-call stops it is not known who is in a call: then time must tell. */
void
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

void
sc_forget(sc_tracer *t, sc_traced *task)
{
    if (!task->ghost) task->argument = SC_UNSEEN_STATUS;
    task->ghost = true;
    sc_let_go(t, task);
}

/* Nobody is traced any more, and yet some are known: threads that were killed in an exec, after they had taken their
   leader's id and before their event. The end of that id was told; of their own nobody will tell. */
void
sc_forget_all(sc_tracer *t)
{
    for (int32_t tid = t->tasks.first; tid;) {
        sc_traced *task = sc_tasks_find(&t->tasks, tid);
        tid = task->next;
        if (task->ghost) sc_tell_attached(t, task); /* its creator has gone, too */
        sc_forget(t, task);
    }
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

void
sc_stopped(sc_tracer *t, int32_t tid, int status)
{
    int event = status >> 16, sig = WSTOPSIG(status), deliver = 0;
    sc_traced *task = sc_tasks_find(&t->tasks, tid);
    if (task && event == PTRACE_EVENT_STOP && task->in_call && task->call >= SC_EXECVE) {
        /* From an exec no such stop comes before its event or its return: the id is another's now, see sc_forget_all. */
        sc_forget(t, task);
        task = NULL;
    }
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

void
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
