/* Which tasks of many hold one memory, one file table, …: the share groups, by kcmp, in O(n log n) calls.

   kcmp orders the kernel's objects. So one representative of each group is kept in a sorted table, and a task finds its
   group by binary search; a thread is compared with its leader first, which is nearly always the answer. What that
   meets on a living system, and what answers each:

   1. Nothing equals nothing: tasks without an I/O context are all equal. A dead child of ours, not waited for, is known
      to have no memory, files, fs, I/O context and undo list, and stands in the table: what equals it has nothing.
      Where we are not dumpable and have no CAP_SYS_PTRACE, it may not be looked at either (since Linux 7.1, and stable
      kernels before it): then nothing is said of I/O contexts and undo lists, and the caller has to know who is dead.
      It gives its I/O context up just after it has become a zombie. Two dead children never share one, so they are
      equal when, and only when, neither has any.
   2. Tasks change while they are looked at. Between two living tasks sharing only ends and never begins: it is inherited at
      clone and lost by exec, unshare and exit. So each claim is asked once more after all searching is done. What holds
      then has held for all of a group at the moment when the second asking began.
      A thread that was found by its leader is not asked again: the leader is, and one thread for all of them.
   3. A representative that changes spoils the order for searches after it. The order is checked from end to end, before
      and after the second asking. What is out of order is searched again, a few times, and is then called unsettled.
   4. A representative that has ended, or may not be looked at any more, is taken out, and its group searched again.
   5. kcmp says EPERM and ESRCH without saying of whom: the task is then compared with itself.

   Nothing here is Python's: the search runs outside of the GIL, on copies. */
#include "core.h"

#include <errno.h>
#include <linux/futex.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#define SC_GROUPS_STACK 16384
#define SC_GROUPS_ROUNDS 6
#define SC_GROUPS_KINDS 6
#define SC_GROUPS_PATIENCE 2000 /* times 50 µs */

/* A label is the index of the group's representative, or one of these. */
enum { SC_NOTHING = -1, SC_DENIED = -2, SC_GONE = -3, SC_UNSETTLED = -4, SC_UNPLACED = -5 };

typedef struct {
    int n, kind;
    const int *tids, *leaders;
    int nothing;  /* the pid of a task that has none of this kind, or 0 where every task has one */
    int *labels;  /* out; a thread that equals its leader has the leader's */
    bool *follows; /* it was found by its leader */
    bool *doubtful, *vouched;
    int *table;   /* representatives by the kernel's order: indices, SC_NOTHING for the dead child */
    int count;
    uint64_t calls;
    int failed; /* an errno that is about neither task */
} sc_search;

/* --- asking */

static int
sc_groups_tid(const sc_search *s, int index)
{
    return index == SC_NOTHING ? s->nothing : s->tids[index];
}

static long
sc_groups_compare(sc_search *s, int one, int other)
{
    s->calls++;
    return sc_raw5(SYS_kcmp, sc_groups_tid(s, one), sc_groups_tid(s, other), s->kind, 0, 0);
}

/* Whether an error is this task's own; then it has its label. */
static bool
sc_groups_is_out(sc_search *s, int index)
{
    if (index == SC_NOTHING) return false;
    long answer = sc_groups_compare(s, index, index);
    if (answer == -EPERM || answer == -EACCES) s->labels[index] = SC_DENIED;
    else if (answer == -ESRCH) s->labels[index] = SC_GONE;
    else {
        if (answer < 0) s->failed = (int)-answer;
        return false;
    }
    return true;
}

/* --- the table */

/* Takes a representative out, and all that was found by it. */
static void
sc_groups_dissolve(sc_search *s, int rep)
{
    for (int at = 0; at < s->count; at++)
        if (s->table[at] == rep) {
            memmove(s->table + at, s->table + at + 1, (size_t)(--s->count - at) * sizeof *s->table);
            break;
        }
    for (int i = 0; i < s->n; i++)
        if (s->labels[i] == rep) s->labels[i] = SC_UNPLACED;
}

static void
sc_groups_place(sc_search *s, int index)
{
    int low = 0, high = s->count;
    s->follows[index] = false;
    while (low < high && !s->failed) {
        int middle = low + (high - low) / 2, rep = s->table[middle];
        long answer = sc_groups_compare(s, index, rep);
        if (answer == 0) {
            s->labels[index] = rep;
            return;
        }
        if (answer == 1) high = middle;
        else if (answer == 2) low = middle + 1;
        else if (answer > 0) { /* different, and the kernel tells no order: nothing can be searched */
            s->labels[index] = SC_UNSETTLED;
            return;
        } else {
            if (sc_groups_is_out(s, index)) return;
            if (rep == SC_NOTHING) { /* somebody else has waited for our dead child */
                s->failed = ECHILD;
                return;
            }
            sc_groups_dissolve(s, rep);
            sc_groups_is_out(s, rep);
            low = 0, high = s->count;
        }
    }
    if (s->failed) return;
    /* A table of one's own kind still empty has told nothing of this task. */
    if (s->count == 0 && sc_groups_is_out(s, index)) return;
    memmove(s->table + low + 1, s->table + low, (size_t)(s->count++ - low) * sizeof *s->table);
    s->table[low] = index;
    s->labels[index] = index;
}

static bool
sc_groups_is_placed(const sc_search *s, int index)
{
    return s->labels[index] >= SC_NOTHING;
}

/* --- searching, and asking again */

static void
sc_groups_search(sc_search *s)
{
    for (int i = 0; i < s->n && !s->failed; i++)
        if (s->leaders[i] == i && s->labels[i] == SC_UNPLACED) sc_groups_place(s, i);
    for (int i = 0; i < s->n && !s->failed; i++) {
        int leader = s->leaders[i];
        if (s->labels[i] != SC_UNPLACED) continue;
        if (leader != i && sc_groups_is_placed(s, leader) && sc_groups_compare(s, i, leader) == 0) {
            s->labels[i] = s->labels[leader];
            s->follows[i] = true;
        } else sc_groups_place(s, i);
    }
}

/* Marks neighbours in the table that are not in order. */
static void
sc_groups_check_order(sc_search *s)
{
    for (int at = 0; at + 1 < s->count; at++)
        if (sc_groups_compare(s, s->table[at], s->table[at + 1]) != 1)
            for (int k = at; k < at + 2; k++)
                if (s->table[k] != SC_NOTHING) s->doubtful[s->table[k]] = true;
}

/* Marks who is not where it was found. A representative is vouched for by whoever equals it still. */
static void
sc_groups_ask_again(sc_search *s)
{
    for (int i = 0; i < s->n; i++) {
        if (!sc_groups_is_placed(s, i) || s->labels[i] == i) continue;
        int other = s->follows[i] ? s->leaders[i] : s->labels[i];
        if (s->follows[i] && (s->labels[other] != other || s->vouched[other])) continue;
        if (sc_groups_compare(s, i, other) != 0) {
            s->doubtful[i] = true;
            if (s->follows[i]) s->doubtful[other] = true;
        } else if (other >= 0) s->vouched[other] = true;
    }
    /* With nothing beside it in the table, a representative was in no comparison but these. */
    int only = s->count == 1 ? s->table[0] : SC_NOTHING;
    if (only >= 0 && sc_groups_compare(s, only, only) != 0) s->doubtful[only] = true;
}

/* Unplaces what does not hold any more, and gives how many tasks that are. Threads go with the leader that found them. */
static int
sc_groups_verify(sc_search *s)
{
    memset(s->doubtful, 0, (size_t)s->n);
    memset(s->vouched, 0, (size_t)s->n);
    sc_groups_check_order(s);
    sc_groups_ask_again(s);
    sc_groups_check_order(s);

    int left = 0;
    for (int i = 0; i < s->n; i++)
        if (s->doubtful[i] && s->labels[i] == i) sc_groups_dissolve(s, i);
    for (int i = 0; i < s->n; i++) {
        int leader = s->leaders[i];
        if (s->follows[i] && (s->doubtful[leader] || !sc_groups_is_placed(s, leader))) s->doubtful[i] = true;
    }
    for (int i = 0; i < s->n; i++) {
        if (s->doubtful[i] && sc_groups_is_placed(s, i)) s->labels[i] = SC_UNPLACED;
        if (s->labels[i] == SC_UNPLACED) {
            s->follows[i] = false;
            left++;
        }
    }
    return left;
}

static void
sc_groups_of_kind(sc_search *s)
{
    for (int i = 0; i < s->n; i++) s->labels[i] = SC_UNPLACED, s->follows[i] = false;
    s->count = 0;
    if (s->nothing) s->table[s->count++] = SC_NOTHING;
    int left = s->n;
    for (int round = 0; left && round < SC_GROUPS_ROUNDS && !s->failed; round++) {
        sc_groups_search(s);
        left = s->failed ? 0 : sc_groups_verify(s);
    }
    for (int i = 0; i < s->n; i++)
        if (s->labels[i] == SC_UNPLACED) s->labels[i] = SC_UNSETTLED;
}

/* --- a task that has nothing */

typedef struct {
    int pid;
    int cleared;
} sc_dead;

/* With exit signal 0 nobody is told, it is not reaped by itself where SIGCHLD is ignored, and waitpid(-1) without __WALL
   does not find it. */
static long
sc_dead_make(sc_dead *dead, char *stack)
{
    dead->cleared = -1;
    long pid = sc_arch_clone(CLONE_VM | CLONE_CHILD_CLEARTID, (uintptr_t)stack + SC_GROUPS_STACK, NULL, &dead->cleared,
                             sc_arch_thread_pointer(), sc_entry_exit, NULL);
    if (pid < 0) return pid;
    dead->pid = (int)pid;
    int word;
    while ((word = __atomic_load_n(&dead->cleared, __ATOMIC_ACQUIRE)))
        sc_raw6(SYS_futex, &dead->cleared, FUTEX_WAIT, word, 0, 0, 0);
    siginfo_t info;
    long answer;
    while ((answer = sc_raw5(SYS_waitid, P_PID, pid, &info, WEXITED | WNOWAIT | __WALL, 0)) == -EINTR) {
    }
    return answer;
}

/* Whether it is still ours, and so its pid still its own: whoever waits for all children with __WALL reaps it too. */
static bool
sc_dead_is_there(const sc_dead *dead)
{
    siginfo_t info = {0};
    return sc_raw5(SYS_waitid, P_PID, dead->pid, &info, WEXITED | WNOWAIT | WNOHANG | __WALL, 0) == 0 &&
           info.si_pid == dead->pid;
}

static void
sc_dead_reap(const sc_dead *dead)
{
    siginfo_t info;
    if (dead->pid) sc_raw5(SYS_waitid, P_PID, dead->pid, &info, WEXITED | WNOHANG | __WALL, 0);
}

/* Two of them, equal in what they do not have. */
static long
sc_dead_make_both(sc_dead dead[2], char *stack)
{
    long answer = sc_dead_make(&dead[0], stack);
    if (answer >= 0) answer = sc_dead_make(&dead[1], stack);
    for (int patience = SC_GROUPS_PATIENCE; answer >= 0 && patience; patience--) {
        answer = sc_raw5(SYS_kcmp, dead[0].pid, dead[1].pid, KCMP_IO, 0, 0);
        if (answer == 0) return 0;
        struct timespec pause = {.tv_nsec = 50000};
        sc_raw2(SYS_nanosleep, &pause, 0);
    }
    return answer < 0 ? answer : -EAGAIN;
}

/* --- the entry */

typedef struct {
    int n, kinds[SC_GROUPS_KINDS], kind_count;
    int *block; /* tids, leaders, table, and labels for each kind */
    bool *flags; /* follows, doubtful, vouched */
    bool blind;  /* out: our dead child may not be looked at */
    uint64_t calls;
} sc_groups_job;

static long
sc_groups_run(sc_groups_job *job)
{
    size_t n = (size_t)job->n;
    char *stack = mmap(NULL, SC_GROUPS_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED) return -errno;
    uint64_t old;
    sc_signals_block(&old);
    sc_dead dead[2] = {{0}, {0}};
    long answer = sc_dead_make_both(dead, stack);
    sc_signals_set(&old);
    if (answer == -EPERM && dead[1].pid) job->blind = true, answer = 0;
    for (int k = 0; k < job->kind_count && answer >= 0; k++) {
        sc_search search = {
            .n = job->n,
            .kind = job->kinds[k],
            .tids = job->block,
            .leaders = job->block + n,
            .table = job->block + 2 * n,
            .labels = job->block + 3 * n + 1 + (size_t)k * n,
            .follows = job->flags,
            .doubtful = job->flags + n,
            .vouched = job->flags + 2 * n,
            .nothing = job->kinds[k] == KCMP_SIGHAND || job->blind ? 0 : dead[0].pid,
        };
        if (job->blind && (search.kind == KCMP_IO || search.kind == KCMP_SYSVSEM))
            for (size_t i = 0; i < n; i++) search.labels[i] = SC_DENIED;
        else sc_groups_of_kind(&search);
        job->calls += search.calls;
        answer = -search.failed;
    }
    if (answer >= 0 && !sc_dead_is_there(&dead[0])) answer = -ECHILD;
    sc_dead_reap(&dead[0]);
    sc_dead_reap(&dead[1]);
    munmap(stack, SC_GROUPS_STACK);
    return answer;
}

static PyObject *
sc_groups_result(const sc_groups_job *job)
{
    PyObject *labels = PyTuple_New(job->kind_count);
    if (!labels) return NULL;
    for (int k = 0; k < job->kind_count; k++) {
        size_t n = (size_t)job->n;
        const char *from = (const char *)(job->block + 3 * n + 1 + (size_t)k * n);
        PyObject *one = PyBytes_FromStringAndSize(from, (Py_ssize_t)(n * sizeof(int)));
        if (!one) {
            Py_DECREF(labels);
            return NULL;
        }
        PyTuple_SET_ITEM(labels, k, one);
    }
    return Py_BuildValue("NKO", labels, (unsigned long long)job->calls, job->blind ? Py_True : Py_False);
}

static int
sc_groups_kinds(PyObject *kinds, sc_groups_job *job)
{
    Py_ssize_t count = PyTuple_GET_SIZE(kinds);
    if (count > SC_GROUPS_KINDS) {
        PyErr_SetString(PyExc_ValueError, "groups: more kinds than there are");
        return -1;
    }
    for (Py_ssize_t k = 0; k < count; k++) {
        long kind = PyLong_AsLong(PyTuple_GET_ITEM(kinds, k));
        if (kind == -1 && PyErr_Occurred()) return -1;
        if (kind < KCMP_VM || kind > KCMP_SYSVSEM) {
            PyErr_SetString(PyExc_ValueError, "groups: no such kind");
            return -1;
        }
        job->kinds[k] = (int)kind;
    }
    job->kind_count = (int)count;
    return 0;
}

/* groups(tids, leaders, kinds) -> (a label of each task for each kind, calls, whether it was blind to the dead). tids and leaders are ints in native order:
   a leader is the index of the task's thread group leader, or the task's own. */
PyObject *
sc_groups(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer tids, leaders;
    PyObject *kinds, *result = NULL;
    sc_groups_job job = {0};
    if (!PyArg_ParseTuple(args, "y*y*O!:groups", &tids, &leaders, &PyTuple_Type, &kinds)) return NULL;
    if (tids.len != leaders.len || tids.len % (Py_ssize_t)sizeof(int) || tids.len > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "groups: tids and leaders are ints, as many of the one as of the other");
        goto done;
    }
    if (sc_groups_kinds(kinds, &job) < 0) goto done;
    job.n = (int)(tids.len / (Py_ssize_t)sizeof(int));
    size_t n = (size_t)job.n;
    job.block = malloc(((3 + SC_GROUPS_KINDS) * n + 1) * sizeof(int));
    job.flags = malloc(3 * n + 1);
    if (!job.block || !job.flags) {
        PyErr_NoMemory();
        goto done;
    }
    memcpy(job.block, tids.buf, n * sizeof(int));
    memcpy(job.block + n, leaders.buf, n * sizeof(int));
    for (size_t i = 0; i < n; i++)
        if (job.block[n + i] < 0 || job.block[n + i] >= job.n) {
            PyErr_SetString(PyExc_ValueError, "groups: a leader is an index");
            goto done;
        }
    long answer;
    Py_BEGIN_ALLOW_THREADS
    answer = sc_groups_run(&job);
    Py_END_ALLOW_THREADS
    result = answer < 0 ? sc_oserror(answer) : sc_groups_result(&job);
done:
    free(job.block);
    free(job.flags);
    PyBuffer_Release(&tids);
    PyBuffer_Release(&leaders);
    return result;
}
