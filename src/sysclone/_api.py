"""Context, which is a description with verbs, and the verbs that take the usual one."""

from __future__ import annotations

import signal

from . import _call
from ._context.description import Description
from ._flags import Share

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from typing import Any, ParamSpec, Self, TypeVar

    from ._task.task import Task

    P = ParamSpec("P")
    R = TypeVar("R")


class Context(Description):
    """What a new task shares, what is new, whose child it is, which signal it leaves with, its stack, cgroup and limits.

    Plain data: immutable, compared by value, made at no cost. `Context()` shares nothing, as fork. With Share.VM its
    functions run in light processes, which see and change the caller's memory; without, in copied ones, whose results
    come back by pickle.

    Args:
        share: what is the caller's own: VM (memory), FILES (file table), FS (cwd, root, umask), SIGHAND (signal handlers),
            SYSVSEM (semaphore undo lists), IO (I/O context), THREAD (the thread group: the same pid).
        new: namespaces to make: USER, MOUNT, PID, NET, UTS, IPC, CGROUP, TIME.
        join: open namespaces to be born in (setns), before new ones are made: Namespaces, borrowed.
        parent: "caller", or "sibling" for a child of the caller's parent (CLONE_PARENT).
        exit_signal: the signal its parent gets at its end, 0 to 64; None is SIGCHLD, and 0 for siblings and threads. A
            sibling with a signal needs the old call, which takes the signal and ignores it.
        stack_bytes: the stack the function must have, 16 KiB to 64 TiB; None is what the borrowed thread has.
        tid: the process id to have, or ids, innermost pid namespace first (set_tid; Linux 5.5, CAP_CHECKPOINT_RESTORE).
        cgroup: a cgroup's directory, as a path or a borrowed fd: born there in version 2 (Linux 5.7), moved there else.
        clear_signal_handlers: start with default handlers (CLONE_CLEAR_SIGHAND); None: light processes with handlers of
            their own do, so that the creator's never run in its memory under another pid.
        ptrace, untraced: CLONE_PTRACE, CLONE_UNTRACED.
        suspend_caller: CLONE_VFORK: the calling thread sleeps in the kernel until the child ends.
        timeout: seconds until the function or program is ended; None for no limit.
        uid_map, gid_map: the ids of a new user namespace, written while the child waits: "root" (the creator's own id is 0
            there), "current" (it keeps its number), "auto" (0, and from 1 on what /etc/subuid and /etc/subgid grant), or
            tuples (inside, outside, count). More than one's own id needs CAP_SETUID and CAP_SETGID, or newuidmap(1).
        loopback: lo up, in a new or joined net namespace.
        uid, gid: real, effective and saved, 0 to 2**32 - 2, by raw calls: the creator's stay as they are.
        groups: the supplementary groups, at most 65,536.
        capabilities: Capabilities, or the names of those to have and no others; see Capabilities.only.
        securebits: 0 to 0xFFF (prctl(2), PR_SET_SECUREBITS; needs CAP_SETPCAP, but for those above 0xFF, of Linux 6.14).
        no_new_privs: no exec may give privilege any more (PR_SET_NO_NEW_PRIVS, Linux 3.5).
        memory_exclude: buffers whose whole pages a copied process is to go without: a large one then costs the copy
            nothing, and touching it there is a SIGSEGV (MADV_DONTFORK, undone in the caller after the clone).
        memory_wipe: buffers that a copied process is to find zeroed: private anonymous memory alone (MADV_WIPEONFORK,
            Linux 4.14).
        cwd: the working directory, as a path or a borrowed fd; with root, a path in it.
        root: the root directory, as a path or a borrowed fd; the cwd is in it. With new=MOUNT by pivot_root(2), so that
            nothing of the old one is left; else by chroot(2). Needs CAP_SYS_CHROOT, or CAP_SYS_ADMIN to pivot.
        umask: 0 to 0o777.
        session: a session and process group of its own.
        process_group: the process group to be in; 0 for one of its own.
        controlling_terminal: the terminal of the new session, as a path or a borrowed fd.
        foreground: the terminal whose foreground process group the task's own becomes, as a path or a borrowed fd.
        limits: resource limits by name, "NOFILE" or "RLIMIT_NOFILE": a number for both, or (soft, hard); -1 for no limit, None
            to leave one.
        nice: -20 to 19; the value itself.
        scheduling: a Scheduling, or "other", "batch" or "idle".
        affinity: the CPUs to run on.
        io_priority: "idle", "best-effort" or "realtime", alone or with a level of 0 (first) to 7.
        oom_score_adj: -1000 to 1000. Below what it was needs CAP_SYS_RESOURCE.
        timer_slack_ns: how much later its timers may come; 0 is what it was born with.
        memory_policy: where new memory comes from: a mode of set_mempolicy(2), alone or with nodes.
        parent_death_signal: the signal it gets when the thread that made it ends, and at once if that has ended before.
        signal_mask: the signals that are blocked in it; None is as in the creator.
        ignored_signals, default_signals: what is ignored, and what has its default action again. Both last over exec.
        fds: descriptors by the number that they have there; borrowed, placed all at once, swaps too, and open over exec.
        environment: the whole of it, for copied and fresh processes and programs.
        argv0: a program's own name, its first argument.
        executable: a program by path or borrowed fd (execveat(2)) instead of by its first argument.
        personality: the execution domain, with its flags: personality(2).
        hostname, domainname: of a new or joined UTS namespace; 1 to 64 bytes.
        propagation: of a new mount namespace: "private", which it is where nothing is said, "slave", "shared", "unbindable"
            or "unchanged".
        mounts: Mount values, made in order, in a new or joined mount namespace.
        time_offsets: seconds by which "monotonic" and "boottime" are ahead in a new time namespace. Linux 5.6.
        keyring: the name of a session keyring to join, or True for one without a name.
        landlock: a Landlock. Linux 5.13.
        seccomp: a SeccompFilter, or a program of the kernel's in bytes.
        setup: a function without arguments that is called in the task, after all of the above: with the new ids, before
            no_new_privs and limits of memory. What it raises, the start raises.

    Raises:
        ContextError: the kernel would refuse the combination, or a value is out of range; `field` names it.

    See clone(2).
    """

    __slots__ = ()

    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run fn(*args, **kwargs) in a task of this context, and give what it returns.

        Returns:
            With Share.VM the very object; otherwise a copy of it, by pickle.

        Raises:
            CloneError: the kernel refused the task.
            TaskExited, TaskKilled, TaskLost: it ended without returning or raising.
            TaskTimeout: it was not done in time.
            ResultError: a copied process's result cannot be pickled.
            BaseException: what fn raised; from a copied process with its traceback there as the cause.
        """
        return _call.call(self, fn, *args, **kwargs)

    def start(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Task:
        """Run fn(*args, **kwargs) in a task of this context, and do not wait.

        Returns:
            A Task, whose result() gives and raises as call() does.

        Raises:
            CloneError: the kernel refused the task.
        """
        return _call.start(self, fn, *args, **kwargs)

    def run(self, args: Any, **keywords: Any) -> subprocess.CompletedProcess[Any]:
        """Run a program in this context: `sysclone.run(args, context=self, …)`."""
        from ._popen.run import run

        return run(args, context=self, **keywords)

    @classmethod
    def light(cls) -> Self:
        """A light process: memory is shared, nothing else. What `sysclone.call` and `start` use."""
        return cls(share=Share.VM)

    @classmethod
    def fork(cls) -> Self:
        """fork(2): nothing is shared."""
        return cls()

    @classmethod
    def vfork(cls) -> Self:
        """vfork(2): memory is shared and the calling thread sleeps until the child ends."""
        return cls(share=Share.VM, suspend_caller=True)

    @classmethod
    def thread(cls) -> Self:
        """glibc's (NPTL's) pthread_create: everything is shared, the pid too."""
        everything = Share.VM | Share.FS | Share.FILES | Share.SIGHAND | Share.THREAD | Share.SYSVSEM
        return cls(share=everything)

    @classmethod
    def linuxthreads(cls) -> Self:
        """LinuxThreads, glibc's threads before 2003: as much as a process may share; each thread has its own pid."""
        return cls(share=Share.VM | Share.FS | Share.FILES | Share.SIGHAND, exit_signal=int(signal.SIGCHLD))


_LIGHT = Context.light()


def call(fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Run fn(*args, **kwargs) in a light process, and give what it returns: the same object, no pickling.

    The function has a pid, a file table, a cwd and signal handlers of its own, and the caller's memory. A light process
    is no security boundary: it shares memory. See Context.call for what is raised.
    """
    return _call.call(_LIGHT, fn, *args, **kwargs)


def start(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Task:
    """Run fn(*args, **kwargs) in a light process, and do not wait: gives a Task."""
    return _call.start(_LIGHT, fn, *args, **kwargs)
