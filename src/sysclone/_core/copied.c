/* Copied processes: Python goes on in a copy of the memory, as after os.fork, with every other switch free.

   1. Another thread may hold a lock of libc's (malloc's, above all) at the moment of a raw clone, and nobody in the
      child would ever let go of it. libc's fork takes those locks first. So where fork's own flags are all that is
      asked, libc's fork makes the child (SC_FORK).
   2. With namespaces and the rest, in a program with threads: libc's fork, and then, in its child, which has one
      thread, clone3 with CLONE_PARENT: the result is the caller's own child (SC_FORK_THEN_CLONE).
   3. Only a raw clone shares the file table, cwd, I/O context or undo lists with the caller itself, or leaves with
      another signal (SC_RAW).
   4. A pid that was opened after the fact may be another's: the child could have ended and been reaped by a stranger.
      The child waits at a gate in shared memory until its creator has opened its pidfd. CLONE_PIDFD needs no gate.
   5. The clone of a zygote (SC_OF_ZYGOTE) is its owner's child, by CLONE_PARENT. Where it is born in other namespaces, a
      copy of the zygote enters them and clones it, since there is no way back out of a user namespace: an intermediate
      that is the owner's child too, and the owner's to reap; it tells its pid in the page. The zygote sleeps (CLONE_VFORK)
      until it is gone.
   6. libc keeps the thread's id: the child of a raw clone sets it as libc's fork does, at the address libc told the
      kernel (CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID at PR_GET_TID_ADDRESS). */
#include "core.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum sc_way { SC_FORK = 0, SC_FORK_THEN_CLONE = 1, SC_RAW = 2, SC_OF_ZYGOTE = 3 };

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

#define SC_GATE_PATIENCE_S 10

/* At the start of the shared page. */
typedef struct {
    int gate; /* 0 shut, 1 open */
    int pid;  /* of the child made by an intermediate, or -errno */
    int result[1]; /* _result.py's */
    int refused;   /* 1 + the index of the namespace that could not be joined */
    int others[11]; /* _result.py's */
    int between;    /* the pid of a zygote's intermediate */
} sc_page;

static long
sc_clone_raw_copy(const sc_plan *plan, uint64_t more, int *pidfd)
{
    int *tid_address = NULL;
    sc_raw5(SYS_prctl, PR_GET_TID_ADDRESS, &tid_address, 0, 0, 0);
    if (tid_address) more |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
    sc_clone_request request = {
        .plan = &plan->clone,
        .more_flags = more | (plan->clear_handlers ? CLONE_CLEAR_SIGHAND : 0),
        .pidfd = pidfd,
        .child_tid = tid_address,
    };
    long pid = sc_clone(&request, NULL, NULL);
    if (pid == 0 && plan->clear_handlers && !request.cleared_handlers) sc_signals_clear_handlers();
    return pid;
}

/* In the intermediate: it makes the child, tells its pid, and is gone. Returns in the child alone. */
static void
sc_clone_on_behalf(const sc_plan *plan, sc_page *page)
{
    sc_plan sibling = *plan;
    sibling.clone.flags |= CLONE_PARENT;
    sibling.clone.exit_signal = 0;
    int failed = -1;
    long pid = sc_join_all(&plan->newborn, &failed);
    if (pid == 0) pid = sc_clone_raw_copy(&sibling, 0, NULL);
    if (pid == 0) return;
    page->refused = failed + 1;
    page->pid = (int)pid;
    sc_raw1(SYS_exit_group, 0);
}

static long
sc_fork(const sc_plan *plan, enum sc_way way, sc_page *page)
{
    long pid = fork();
    if (pid < 0) return -errno;
    if (pid == 0) {
        if (way == SC_FORK_THEN_CLONE) sc_clone_on_behalf(plan, page);
        return 0;
    }
    if (way == SC_FORK) return pid;
    int status;
    while (sc_raw4(SYS_wait4, pid, &status, __WALL, 0) == -EINTR) {
    }
    return page->pid ? page->pid : -ECHILD;
}

static long
sc_clone_of_zygote(const sc_plan *plan, sc_page *page, int *pidfd)
{
    sc_plan sibling = *plan;
    sibling.clone.flags |= CLONE_PARENT;
    sibling.clone.exit_signal = 0;
    if (!plan->newborn.join_count) return sc_clone_raw_copy(&sibling, CLONE_PIDFD, pidfd);
    sc_plan between = {.clone = {.flags = CLONE_PARENT | CLONE_VFORK, .cgroup = -1}};
    long pid = sc_clone_raw_copy(&between, 0, NULL);
    if (pid < 0) return pid;
    if (pid == 0) {
        page->between = (int)sc_raw0(SYS_getpid);
        sc_clone_on_behalf(plan, page);
        return 0;
    }
    return page->pid ? page->pid : -ECHILD;
}

static long
sc_make_copy(const sc_plan *plan, enum sc_way way, sc_page *page, int *pidfd)
{
    if (way == SC_RAW) return sc_clone_raw_copy(plan, CLONE_PIDFD, pidfd);
    if (way == SC_OF_ZYGOTE) return sc_clone_of_zygote(plan, page, pidfd);
    return sc_fork(plan, way, page);
}

static bool
sc_has_gate(const sc_plan *plan, enum sc_way way)
{
    if (plan->newborn.waits || way == SC_FORK || way == SC_FORK_THEN_CLONE) return true;
    return way == SC_OF_ZYGOTE && plan->newborn.join_count;
}

static void
sc_wait_at_gate(sc_page *page)
{
    struct timespec patience = {.tv_sec = SC_GATE_PATIENCE_S};
    while (!__atomic_load_n(&page->gate, __ATOMIC_ACQUIRE))
        if (sc_raw6(SYS_futex, &page->gate, FUTEX_WAIT, 0, &patience, 0, 0) == -ETIMEDOUT) break;
}

/* A child that is still behind its gate: it has done nothing yet, and is ours by its number. */
static void
sc_give_up(long pid, int pidfd)
{
    sc_raw2(SYS_kill, pid, SIGKILL);
    while (sc_raw4(SYS_wait4, pid, 0, __WALL, 0) == -EINTR) {
    }
    if (pidfd >= 0) sc_raw1(SYS_close, pidfd);
}

/* copied(plan, way, page, ranges=(), made=[]) -> (pid, pidfd) in the creator, (0, -1) in the child. page is a writable buffer
   in memory that stays shared, zeroed, of 64 bytes or more; ranges are left out of the copy (mapping.c). The pidfd is the
   caller's; negative errno when there is none. The creator's answer is appended to made too: an interrupt right after the
   call loses what it returns. */
PyObject *
sc_copied(PyObject *module, PyObject *args)
{
    sc_state *state = sc_get_state(module);
    PyObject *plan_object;
    PyObject *ranges = NULL, *made = NULL;
    int way;
    Py_buffer buffer;
    if (!PyArg_ParseTuple(args, "O!iw*|O!O!:copied", state->plan_type, &plan_object, &way, &buffer, &PyTuple_Type, &ranges,
                          &PyList_Type, &made))
        return NULL;
    if (ranges && !sc_ranges_check(ranges)) {
        PyBuffer_Release(&buffer);
        return NULL;
    }
    const sc_plan *plan = (sc_plan *)plan_object;
    sc_page *page = buffer.buf;
    int pidfd = -1;
    const char *step = "";
    PyOS_BeforeFork();
    long pid = ranges ? sc_ranges_leave_out(ranges) : 0;
    if (pid < 0) step = "madvise";
    else {
        pid = sc_make_copy(plan, (enum sc_way)way, page, &pidfd);
        if (pid && ranges) sc_ranges_take_back(ranges);
    }
    if (pid == 0) {
        PyOS_AfterFork_Child();
        if (sc_has_gate(plan, (enum sc_way)way)) sc_wait_at_gate(page);
        PyBuffer_Release(&buffer);
        return Py_BuildValue("ii", 0, -1);
    }
    if (pid > 0 && pidfd < 0) pidfd = (int)sc_raw2(SYS_pidfd_open, pid, 0);
    if (pid > 0 && pidfd < 0) {
        /* The file table is full. */
        sc_give_up(pid, -1);
        pid = pidfd;
        step = "pidfd_open";
    }
    if (pid < 0 && page->refused) step = sc_join_step(plan->newborn.joins[page->refused - 1].kind);
    if (pid > 0 && plan->newborn.waits) {
        const char *refused_step = NULL;
        long refused;
        Py_BEGIN_ALLOW_THREADS
        refused = sc_newborn_settle(&plan->newborn, pid, &refused_step);
        if (refused < 0) sc_give_up(pid, pidfd);
        Py_END_ALLOW_THREADS
        if (refused < 0) pid = refused, step = refused_step;
    }
    __atomic_store_n(&page->gate, 1, __ATOMIC_RELEASE);
    sc_raw6(SYS_futex, &page->gate, FUTEX_WAKE, INT32_MAX, 0, 0, 0);
    PyOS_AfterFork_Parent();
    PyBuffer_Release(&buffer);
    if (pid < 0) {
        errno = (int)-pid;
        return PyErr_SetFromErrnoWithFilename(PyExc_OSError, step);
    }
    PyObject *answer = Py_BuildValue("li", pid, pidfd);
    if (answer && made && PyList_Append(made, answer) < 0) Py_CLEAR(answer);
    if (!answer) sc_give_up(pid, pidfd);
    return answer;
}

/* copied_call(plan, way, page, ranges=()) -> (0, -1, 0, 0) in the child; in the creator, once it has ended, (pid, pidfd,
   si_code, si_status), with an si_code of 0 where the status is not to be had. An exception that a signal handler raises
   meanwhile ends the child. In one call, because what Python code touches after a clone is copied page by page. */
PyObject *
sc_copied_call(PyObject *module, PyObject *args)
{
    PyObject *made = sc_copied(module, args);
    long pid;
    int pidfd;
    if (!made || !PyArg_ParseTuple(made, "li", &pid, &pidfd)) return NULL;
    Py_DECREF(made);
    siginfo_t info = {0};
    long answer = 0;
    while (pid) {
        Py_BEGIN_ALLOW_THREADS
        answer = sc_raw5(SYS_waitid, P_PIDFD, pidfd, &info, WEXITED | __WALL, 0);
        Py_END_ALLOW_THREADS
        if (answer != -EINTR) break;
        if (PyErr_CheckSignals() < 0) {
            sc_raw4(SYS_pidfd_send_signal, pidfd, SIGKILL, 0, 0);
            while (sc_raw5(SYS_waitid, P_PIDFD, pidfd, &info, WEXITED | __WALL, 0) == -EINTR) {
            }
            sc_raw1(SYS_close, pidfd);
            return NULL;
        }
    }
    return Py_BuildValue("liii", pid, pidfd, answer < 0 ? 0 : info.si_code, info.si_status);
}

/* single_threaded() -> whether this process has one thread and shares its memory with nobody. */
PyObject *
sc_single_threaded(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    /* unshare(CLONE_VM) does nothing where that is so, and is EINVAL where it is not. */
    long answer = sc_raw1(SYS_unshare, CLONE_VM);
    return PyBool_FromLong(answer == 0 || (answer != -EINVAL && sc_thread_count() <= 1));
}

/* kill_self_after(ns): a timer of the kernel's that sends SIGKILL to this process; with -1 it is stopped. Gone at exec, not
   inherited by fork: a copy of a process that has one makes its own. */
PyObject *
sc_kill_self_after(PyObject *module, PyObject *args)
{
    (void)module;
    long long ns;
    if (!PyArg_ParseTuple(args, "L:kill_self_after", &ns)) return NULL;
    static int id;
    static long owner;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
    long pid = sc_raw0(SYS_getpid), answer = 0;
    if (owner != pid && ns < 0) Py_RETURN_NONE;
    struct itimerspec when = {.it_value = {0}};
    if (ns >= 0) when.it_value = (struct timespec){.tv_sec = ns / SC_NANOSECONDS, .tv_nsec = ns % SC_NANOSECONDS};
    if (owner == pid) answer = sc_raw4(SYS_timer_settime, id, 0, &when, 0);
    /* EINVAL: a copy in another pid namespace has the same number, and no timer. */
    if (owner != pid || answer == -EINVAL) {
        answer = sc_raw3(SYS_timer_create, CLOCK_MONOTONIC, &event, &id);
        if (answer == 0) answer = sc_raw4(SYS_timer_settime, id, 0, &when, 0);
        if (answer == 0) owner = pid;
    }
    if (answer < 0) return sc_oserror(answer);
    Py_RETURN_NONE;
}

/* death_signal(sig): the signal that this process gets when the thread that made it ends; 0 for none. */
PyObject *
sc_death_signal(PyObject *module, PyObject *args)
{
    (void)module;
    int sig;
    if (!PyArg_ParseTuple(args, "i:death_signal", &sig)) return NULL;
    long answer = sc_raw5(SYS_prctl, PR_SET_PDEATHSIG, sig, 0, 0, 0);
    if (answer < 0) return sc_oserror(answer);
    Py_RETURN_NONE;
}
