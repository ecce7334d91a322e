/* The raw tier: one call, one clone, no fallback. And the probe that asks the kernel for its verdict. */
#include "core.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
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
    uint64_t exit_signal;
    bool old_call;
    int cgroup;
} sc_probe;

/* A child that shares this memory is done with its stack when the kernel clears the word; one of ours is then reaped.
   A sibling is its parent's to reap, but its end is waited for: a pid namespace's init that shares handlers sets SIGCHLD
   to ignored in them late in its exit. */
static void
sc_probe_wait(sc_probe *p, long pid)
{
    int word, status;
    if (p->flags & CLONE_VM)
        while ((word = __atomic_load_n(&p->cleared, __ATOMIC_ACQUIRE))) sc_raw6(SYS_futex, &p->cleared, FUTEX_WAIT, word, 0, 0, 0);
    if (p->flags & CLONE_THREAD) return;
    if (p->flags & CLONE_PARENT) {
        struct pollfd ended = {.fd = (int)sc_raw2(SYS_pidfd_open, pid, 0), .events = POLLIN};
        if (ended.fd < 0) return;
        sc_raw5(SYS_ppoll, &ended, 1, 0, 0, 0);
        sc_raw1(SYS_close, ended.fd);
        return;
    }
    while (sc_raw4(SYS_wait4, pid, &status, __WALL, 0) == -EINTR) {
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
    /* No rule speaks of this switch, and it tells when the stack may be used again. */
    if (shares) p->flags |= CLONE_CHILD_CLEARTID;
    uintptr_t tls = sc_arch_thread_pointer();
    long pid;
    if (p->old_call) {
        int *third = p->flags & CLONE_PIDFD ? &p->pidfd : &p->parent_tid;
        pid = sc_arch_clone((unsigned long)p->flags, shares ? (uintptr_t)p->stack + SC_PROBE_STACK : 0, third, &p->cleared,
                            tls, sc_entry_exit, NULL);
    } else {
        struct clone_args args = {.flags = p->flags, .pidfd = (uintptr_t)&p->pidfd, .child_tid = (uintptr_t)&p->cleared,
                                  .parent_tid = (uintptr_t)&p->parent_tid, .exit_signal = p->exit_signal,
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
    unsigned long long flags, exit_signal;
    sc_probe probe = {.cgroup = -1};
    if (!PyArg_ParseTuple(arguments, "KK|i", &flags, &exit_signal, &probe.cgroup)) return NULL;
    probe.flags = flags;
    probe.exit_signal = exit_signal;
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
