/* The raw tier: one call, one clone, no fallback. And the probe that asks the kernel for its verdict. */
#include "core.h"

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

/* An entry for a child that shares memory: it exits at once, with the status that is its argument. */
int
sc_entry_exit(void *status)
{
    return (int)(intptr_t)status;
}

/* A child with memory of its own goes on in Python, so CPython's fork hooks run around the call, as around os.fork. */
static PyObject *
sc_twice(long pid, bool hooks)
{
    if (hooks) {
        if (pid == 0) PyOS_AfterFork_Child();
        else PyOS_AfterFork_Parent();
    }
    return pid < 0 ? sc_oserror(pid) : PyLong_FromLong(pid);
}

/* lowlevel_clone3(flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, cgroup,
                   size, entry, argument) */
PyObject *
sc_lowlevel_clone3(PyObject *module, PyObject *arguments)
{
    (void)module;
    unsigned long long flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, cgroup, entry, argument;
    Py_ssize_t size;
    PyObject *set_tid;
    if (!PyArg_ParseTuple(arguments, "KKKKKKKKO!KnKK", &flags, &pidfd, &child_tid, &parent_tid, &exit_signal, &stack,
                          &stack_size, &tls, &PyTuple_Type, &set_tid, &cgroup, &size, &entry, &argument))
        return NULL;
    pid_t tids[64] = {0};
    Py_ssize_t count = PyTuple_GET_SIZE(set_tid);
    if (count > 64) count = 64;
    for (Py_ssize_t i = 0; i < count; i++) {
        tids[i] = (pid_t)PyLong_AsLong(PyTuple_GET_ITEM(set_tid, i));
        if (PyErr_Occurred()) return NULL;
    }
    struct {
        struct clone_args args;
        char newer[4096]; /* a size beyond this kernel's is read too, and must be zero */
    } block = {.args = {.flags = flags, .pidfd = pidfd, .child_tid = child_tid, .parent_tid = parent_tid,
                        .exit_signal = exit_signal, .stack = stack, .stack_size = stack_size, .tls = tls,
                        .set_tid = count ? (uintptr_t)tids : 0, .set_tid_size = (uint64_t)count, .cgroup = cgroup}};
    bool hooks = !(flags & CLONE_VM);
    if (hooks) PyOS_BeforeFork();
    return sc_twice(sc_arch_clone3(&block.args, (size_t)size, (sc_entry)(uintptr_t)entry, (void *)(uintptr_t)argument), hooks);
}

/* lowlevel_clone(flags, stack, parent_tid, child_tid, tls, entry, argument) */
PyObject *
sc_lowlevel_clone(PyObject *module, PyObject *arguments)
{
    (void)module;
    unsigned long long flags, stack, parent_tid, child_tid, tls, entry, argument;
    if (!PyArg_ParseTuple(arguments, "KKKKKKK", &flags, &stack, &parent_tid, &child_tid, &tls, &entry, &argument)) return NULL;
    bool hooks = !(flags & CLONE_VM);
    if (hooks) PyOS_BeforeFork();
    long pid = sc_arch_clone((unsigned long)flags, (uintptr_t)stack, (int *)(uintptr_t)parent_tid,
                             (int *)(uintptr_t)child_tid, (uintptr_t)tls, (sc_entry)(uintptr_t)entry,
                             (void *)(uintptr_t)argument);
    return sc_twice(pid, hooks);
}

/* --- the probe */

#define SC_PROBE_STACK 16384

typedef struct {
    char *stack;
    int cleared, pidfd, parent_tid;
    uint64_t flags;
    int exit_signal;
    bool old_call;
    int cgroup;
} sc_probe;

/* The kernel wakes the word at the child's exit if CHILD_CLEARTID was among the flags; otherwise the pidfd, or the wait,
   tells. A thread that neither tells of is waited for by its tid's absence. */
static void
sc_probe_wait(sc_probe *p, long pid)
{
    if (p->flags & CLONE_CHILD_CLEARTID) {
        int word;
        while ((word = __atomic_load_n(&p->cleared, __ATOMIC_ACQUIRE))) sc_raw6(SYS_futex, &p->cleared, FUTEX_WAIT, word, 0, 0, 0);
    }
    if (p->flags & CLONE_THREAD) {
        struct timespec pause = {.tv_nsec = 20000};
        while (sc_raw3(SYS_tgkill, sc_raw0(SYS_getpid), pid, 0) == 0) sc_raw2(SYS_nanosleep, &pause, 0);
        return;
    }
    int status;
    while (sc_raw4(SYS_wait4, pid, &status, __WALL, 0) == -EINTR) {
    }
    if (p->flags & CLONE_PARENT) {
        /* A sibling: not ours to wait for; only its memory use must be over. */
        struct timespec pause = {.tv_nsec = 20000};
        for (int look = 0; look < 500 && sc_raw2(SYS_kill, pid, 0) == 0; look++) sc_raw2(SYS_nanosleep, &pause, 0);
    }
}

static long
sc_probe_run(sc_probe *p)
{
    uint64_t old;
    sc_signals_block(&old);
    p->cleared = -1;
    p->pidfd = -1;
    bool shares = p->flags & CLONE_VM;
    uintptr_t tls = sc_arch_thread_pointer();
    long pid;
    if (p->old_call) {
        int *third = p->flags & CLONE_PIDFD ? &p->pidfd : &p->parent_tid;
        pid = sc_arch_clone((unsigned long)p->flags, shares ? (uintptr_t)p->stack + SC_PROBE_STACK : 0, third, &p->cleared,
                            tls, sc_entry_exit, NULL);
    } else {
        struct clone_args args = {.flags = p->flags, .pidfd = (uintptr_t)&p->pidfd, .child_tid = (uintptr_t)&p->cleared,
                                  .parent_tid = (uintptr_t)&p->parent_tid, .exit_signal = (uint64_t)p->exit_signal,
                                  .stack = shares ? (uintptr_t)p->stack : 0, .stack_size = shares ? SC_PROBE_STACK : 0,
                                  .tls = tls, .cgroup = (uint64_t)p->cgroup};
        pid = sc_arch_clone3(&args, sizeof args, sc_entry_exit, NULL);
    }
    if (pid > 0) sc_probe_wait(p, pid);
    if (pid > 0 && p->pidfd >= 0) sc_raw1(SYS_close, p->pidfd);
    sc_signals_set(&old);
    return pid;
}

static PyObject *
sc_probe_answer(sc_probe *p)
{
    p->stack = mmap(NULL, SC_PROBE_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p->stack == MAP_FAILED) return sc_oserror(-errno);
    long pid = sc_probe_run(p);
    munmap(p->stack, SC_PROBE_STACK);
    return PyLong_FromLong(pid < 0 ? -pid : 0);
}

/* probe_clone3(flags, exit_signal, cgroup=-1) -> 0 or the errno. Makes one child, which exits at once. */
PyObject *
sc_probe_clone3(PyObject *module, PyObject *arguments)
{
    (void)module;
    unsigned long long flags;
    sc_probe probe = {.cgroup = -1};
    if (!PyArg_ParseTuple(arguments, "Ki|i", &flags, &probe.exit_signal, &probe.cgroup)) return NULL;
    probe.flags = flags;
    return sc_probe_answer(&probe);
}

/* probe_clone(flags with the signal in the low byte) -> 0 or the errno. */
PyObject *
sc_probe_clone(PyObject *module, PyObject *arguments)
{
    (void)module;
    unsigned long long flags;
    if (!PyArg_ParseTuple(arguments, "K", &flags)) return NULL;
    sc_probe probe = {.flags = flags, .old_call = true};
    return sc_probe_answer(&probe);
}
