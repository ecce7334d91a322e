"""The raw tier: one function, one system call, typed; for those who build their own.

Nothing here falls back, retries (except where a call was interrupted by a signal whose handler did not raise) or checks:
the kernel answers. Every function raises the OSError of the kernel's errno.
"""

from __future__ import annotations

import os

from . import _core
from ._errors import ContextError
from ._flags import CSIGNAL, Clone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

ENTRY_EXIT: Final[int] = _core.ENTRY_EXIT
"""The address of a C function for clone's entry: the child exits at once, with the status that is its argument."""

P_ALL: Final = 0
P_PID: Final = 1
P_PGID: Final = 2
P_PIDFD: Final = 3
WNOHANG: Final = 1
WSTOPPED: Final = 2
WEXITED: Final = 4
WCONTINUED: Final = 8
WNOWAIT: Final = 0x01000000
__WNOTHREAD: Final = 0x20000000
__WALL: Final = 0x40000000
__WCLONE: Final = 0x80000000

KCMP_FILE: Final = 0
KCMP_VM: Final = 1
KCMP_FILES: Final = 2
KCMP_FS: Final = 3
KCMP_SIGHAND: Final = 4
KCMP_IO: Final = 5
KCMP_SYSVSEM: Final = 6

PIDFD_NONBLOCK: Final = os.O_NONBLOCK
PIDFD_THREAD: Final = os.O_EXCL
PIDFD_SIGNAL_THREAD: Final = 1
PIDFD_SIGNAL_THREAD_GROUP: Final = 2
PIDFD_SIGNAL_PROCESS_GROUP: Final = 4

PIDFD_INFO_PID: Final = 1
PIDFD_INFO_CREDS: Final = 2
PIDFD_INFO_CGROUPID: Final = 4
PIDFD_INFO_EXIT: Final = 8

CLONE_ARGS_SIZE_VER0: Final = 64
CLONE_ARGS_SIZE_VER1: Final = 80
CLONE_ARGS_SIZE_VER2: Final = 88


class CloneArgs:
    """struct clone_args, every field of it, in the kernel's names and units.

    Args:
        flags: CLONE_*, without the exit signal.
        pidfd, child_tid, parent_tid: addresses of an int, for the flags that ask for them; 0 for none.
        exit_signal: 0 to 64.
        stack, stack_size: the lowest address of the child's stack and its bytes; 0 and 0 for the caller's own.
        tls: what CLONE_SETTLS sets.
        set_tid: process ids, innermost pid namespace first (Linux 5.5).
        cgroup: an fd of a version 2 cgroup, for CLONE_INTO_CGROUP (Linux 5.7).

    See clone(2).
    """

    __slots__ = (
        "cgroup",
        "child_tid",
        "exit_signal",
        "flags",
        "parent_tid",
        "pidfd",
        "set_tid",
        "stack",
        "stack_size",
        "tls",
    )

    flags: int
    pidfd: int
    child_tid: int
    parent_tid: int
    exit_signal: int
    stack: int
    stack_size: int
    tls: int
    set_tid: tuple[int, ...]
    cgroup: int

    def __init__(
        self,
        flags: int = 0,
        pidfd: int = 0,
        child_tid: int = 0,
        parent_tid: int = 0,
        exit_signal: int = 0,
        stack: int = 0,
        stack_size: int = 0,
        tls: int = 0,
        set_tid: tuple[int, ...] = (),
        cgroup: int = 0,
    ) -> None:
        self.flags = flags
        self.pidfd = pidfd
        self.child_tid = child_tid
        self.parent_tid = parent_tid
        self.exit_signal = exit_signal
        self.stack = stack
        self.stack_size = stack_size
        self.tls = tls
        self.set_tid = set_tid
        self.cgroup = cgroup

    def __repr__(self) -> str:
        set_fields = (f"{name}={getattr(self, name)!r}" for name in self.__slots__ if getattr(self, name))
        return f"CloneArgs({', '.join(set_fields)})"


def clone3(args: CloneArgs, *, size: int = CLONE_ARGS_SIZE_VER2, entry: int = 0, argument: int = 0) -> int:
    """clone3(struct clone_args *, size_t): make a task. clone(2), Linux 5.3.

    With memory copied and no entry, Python goes on in the child too, and CPython's fork hooks run around the call, as for
    os.fork; libc's do not: in a program with threads the child may wait for ever for a lock of malloc's.

    Args:
        args: the struct. The addresses in it are yours to keep alive.
        size: the size to tell the kernel: 64, 80 or 88; anything else to see it refused.
        entry: the address of a C function int (*)(void *) that the child calls on args.stack, exiting with what it
            returns; it runs on the caller's thread-local storage and may use neither libc nor Python. Needed with CLONE_VM.
        argument: what entry is called with: an address or a number.

    Returns:
        The new task's id; 0 in a child without entry.

    Raises:
        ContextError: CLONE_VM without entry: the child would return on the frames that the caller is using.
        OSError: the kernel's answer.
    """
    _check_entry(args.flags, entry)
    return _core.clone3(
        args.flags,
        args.pidfd,
        args.child_tid,
        args.parent_tid,
        args.exit_signal,
        args.stack,
        args.stack_size,
        args.tls,
        tuple(args.set_tid),
        args.cgroup,
        size,
        entry,
        argument,
    )


def clone(
    flags: int,
    stack: int = 0,
    parent_tid: int = 0,
    child_tid: int = 0,
    tls: int = 0,
    *,
    entry: int = 0,
    argument: int = 0,
) -> int:
    """long clone(unsigned long flags, void *stack, int *parent_tid, int *child_tid, unsigned long tls): the old call.

    The arguments stand in x86-64's order; on other machines they are passed in theirs. Unlike the library function of the
    same name, the call itself takes no function: entry is this module's. clone(2).

    Args:
        flags: CLONE_* in bits 8 to 31, the exit signal in bits 0 to 7.
        stack: the *highest* address of the child's stack; 0 for the caller's own.
        parent_tid: for CLONE_PARENT_SETTID, and for CLONE_PIDFD, which uses the same slot.
        child_tid, tls: as in CloneArgs.
        entry, argument: as of clone3.

    Returns:
        The new task's id; 0 in a child without entry.
    """
    _check_entry(flags, entry)
    return _core.clone(flags, stack, parent_tid, child_tid, tls, entry, argument)


def _check_entry(flags: int, entry: int) -> None:
    if flags & Clone.VM and not entry:
        raise ContextError(
            "CLONE_VM without entry=: the child would return into Python on frames that the caller is using; "
            "sysclone.call runs a Python function there",
            field="entry",
        )


def unshare(flags: int) -> None:
    """unshare(2): give the calling thread its own of what it shared.

    Args:
        flags: CLONE_FS, CLONE_FILES, CLONE_SYSVSEM, CLONE_NEW*. NEWUSER and the like fail with EINVAL in a program with
            threads; in a light process they do not.
    """
    _core.unshare(int(flags))


def setns(fd: int, nstype: int = 0) -> None:
    """setns(2): move the calling thread into a namespace.

    Args:
        fd: borrowed: of a /proc/PID/ns file, or a pidfd (Linux 5.8).
        nstype: the CLONE_NEW* flag it must be, 0 for any; for a pidfd, all that are to be entered.
    """
    _core.setns(fd, int(nstype))


def kcmp(pid1: int, pid2: int, type: int, idx1: int = 0, idx2: int = 0) -> int:  # noqa: A002 (the manual's name)
    """kcmp(2): compare what two tasks hold.

    Args:
        pid1, pid2: task ids.
        type: KCMP_VM, KCMP_FILES, KCMP_FS, KCMP_SIGHAND, KCMP_IO, KCMP_SYSVSEM, or KCMP_FILE with two fds.
        idx1, idx2: fds, for KCMP_FILE.

    Returns:
        0 where it is one and the same; 1 and 2 for less and greater in the kernel's order; 3 where there is none.

    Raises:
        PermissionError: one of them may not be looked at.
        ProcessLookupError: one of them is gone.
    """
    return _core.kcmp(pid1, pid2, type, idx1, idx2)


def futex_wait(address: int, expected: int, timeout: float | None = None) -> bool:
    """futex(2), FUTEX_WAIT: sleep while the 32-bit word at address is expected.

    Not private, so that the kernel's own wake of a CLONE_CHILD_CLEARTID word is heard.

    Args:
        address: of an aligned 32-bit word in this process.
        expected: its value, 0 to 2**32 - 1.
        timeout: seconds; None waits for ever.

    Returns:
        True when woken, False when the word differed already.

    Raises:
        TimeoutError: nobody woke it in time.
        InterruptedError: a signal arrived.
    """
    ns = -1 if timeout is None else max(0, int(timeout * 1e9))
    return _core.futex_wait(address, expected & 0xFFFFFFFF, ns)


def futex_wake(address: int, count: int = 1) -> int:
    """futex(2), FUTEX_WAKE: wake at most count sleepers; returns how many were woken."""
    return _core.futex_wake(address, count)


def gettid() -> int:
    """gettid(2): the id of the calling task; in a light process not the id that libc remembers."""
    return _core.gettid()


def pidfd_open(pid: int, flags: int = 0) -> int:
    """pidfd_open(2), Linux 5.3.

    Args:
        pid: of a process; with PIDFD_THREAD (Linux 6.9) of any task.
        flags: PIDFD_NONBLOCK, PIDFD_THREAD.

    Returns:
        A new fd, close-on-exec, the caller's to close.
    """
    return _core.pidfd_open(pid, flags)


def pidfd_send_signal(pidfd: int, sig: int, flags: int = 0) -> None:
    """pidfd_send_signal(2), Linux 5.1.

    Args:
        pidfd: borrowed.
        sig: 0 to 64; 0 only asks.
        flags: PIDFD_SIGNAL_* (Linux 6.9).
    """
    _core.pidfd_send_signal(pidfd, int(sig), flags)


def pidfd_getfd(pidfd: int, fd: int, flags: int = 0) -> int:
    """pidfd_getfd(2), Linux 5.6: a copy of another process's fd.

    Args:
        pidfd: borrowed.
        fd: the number in that process.
        flags: 0.

    Returns:
        A new fd, close-on-exec, the caller's to close.
    """
    return _core.pidfd_getfd(pidfd, fd, flags)


class PidfdInfo:
    """What ioctl(PIDFD_GET_INFO) tells; a field is None where the kernel left it out.

    Attributes:
        mask: PIDFD_INFO_* bits of what was told.
        pid, tgid, ppid: ids in the caller's pid namespace.
        ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid: ids in the caller's user namespace.
        cgroupid: of its version 2 cgroup.
        exit_code: the wait status, once it was reaped (Linux 6.15).
    """

    __slots__ = (
        "cgroupid",
        "egid",
        "euid",
        "exit_code",
        "fsgid",
        "fsuid",
        "mask",
        "pid",
        "ppid",
        "rgid",
        "ruid",
        "sgid",
        "suid",
        "tgid",
    )

    def __init__(self, record: tuple[int, ...]) -> None:
        mask = record[0]
        self.mask: int = mask
        self.cgroupid: int | None = record[1] if mask & PIDFD_INFO_CGROUPID else None
        with_pid, with_creds = bool(mask & PIDFD_INFO_PID), bool(mask & PIDFD_INFO_CREDS)
        self.pid: int | None = record[2] if with_pid else None
        self.tgid: int | None = record[3] if with_pid else None
        self.ppid: int | None = record[4] if with_pid else None
        self.ruid: int | None = record[5] if with_creds else None
        self.rgid: int | None = record[6] if with_creds else None
        self.euid: int | None = record[7] if with_creds else None
        self.egid: int | None = record[8] if with_creds else None
        self.suid: int | None = record[9] if with_creds else None
        self.sgid: int | None = record[10] if with_creds else None
        self.fsuid: int | None = record[11] if with_creds else None
        self.fsgid: int | None = record[12] if with_creds else None
        self.exit_code: int | None = record[13] if mask & PIDFD_INFO_EXIT else None

    def __repr__(self) -> str:
        told = (f"{name}={getattr(self, name)}" for name in self.__slots__ if getattr(self, name) is not None)
        return f"PidfdInfo({', '.join(told)})"


def pidfd_info(
    pidfd: int, mask: int = PIDFD_INFO_PID | PIDFD_INFO_CREDS | PIDFD_INFO_CGROUPID | PIDFD_INFO_EXIT
) -> PidfdInfo:
    """ioctl(pidfd, PIDFD_GET_INFO): what the kernel tells of a process, Linux 6.13; its exit status, 6.15. See pidfd_open(2).

    Args:
        pidfd: borrowed.
        mask: what to ask for, PIDFD_INFO_*.

    Raises:
        OSError: ENOTTY before Linux 6.13; ESRCH for a process that was reaped, where its status is not kept.
    """
    return PidfdInfo(_core.pidfd_info(pidfd, mask))


class WaitResult:
    """What waitid(2) tells.

    Attributes:
        pid, uid: of the task.
        signo: SIGCHLD.
        status: the exit code, or the signal.
        code: CLD_EXITED, CLD_KILLED, CLD_DUMPED, CLD_STOPPED, CLD_TRAPPED or CLD_CONTINUED.
        rusage: the fields of struct rusage, in order.
    """

    __slots__ = ("code", "pid", "rusage", "signo", "status", "uid")

    pid: int
    uid: int
    signo: int
    status: int
    code: int
    rusage: tuple[float, ...]

    def __init__(self, record: tuple[int, int, int, int, int, tuple[float, ...]]) -> None:
        self.pid, self.uid, self.signo, self.status, self.code, self.rusage = record

    def __repr__(self) -> str:
        return f"WaitResult(pid={self.pid}, code={self.code}, status={self.status})"


def waitid(idtype: int, id: int, options: int) -> WaitResult | None:  # noqa: A002 (the manual's name)
    """waitid(2), with the options that os.waitid has no names for, and the rusage.

    Args:
        idtype: P_ALL, P_PID, P_PGID or P_PIDFD (Linux 5.4).
        id: the id, or a borrowed pidfd.
        options: WEXITED, WSTOPPED, WCONTINUED; WNOHANG, WNOWAIT; __WALL for any exit signal, __WCLONE for those other
            than SIGCHLD alone, __WNOTHREAD for children of this thread alone.

    Returns:
        What changed, or None when nothing has (WNOHANG).

    Raises:
        ChildProcessError: there is no such child.
    """
    answer = _core.waitid(idtype, id, options)
    return None if answer is None else WaitResult(answer)


def __getattr__(name: str) -> Clone:
    if name.startswith("CLONE_") and name[6:] in Clone.__members__:
        return Clone[name[6:]]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *(f"CLONE_{name}" for name in Clone.__members__)])


__all__ = [
    "CLONE_ARGS_SIZE_VER0",
    "CLONE_ARGS_SIZE_VER1",
    "CLONE_ARGS_SIZE_VER2",
    "CSIGNAL",
    "ENTRY_EXIT",
    "KCMP_FILE",
    "KCMP_FILES",
    "KCMP_FS",
    "KCMP_IO",
    "KCMP_SIGHAND",
    "KCMP_SYSVSEM",
    "KCMP_VM",
    "PIDFD_INFO_CGROUPID",
    "PIDFD_INFO_CREDS",
    "PIDFD_INFO_EXIT",
    "PIDFD_INFO_PID",
    "PIDFD_NONBLOCK",
    "PIDFD_SIGNAL_PROCESS_GROUP",
    "PIDFD_SIGNAL_THREAD",
    "PIDFD_SIGNAL_THREAD_GROUP",
    "PIDFD_THREAD",
    "P_ALL",
    "P_PGID",
    "P_PID",
    "P_PIDFD",
    "WCONTINUED",
    "WEXITED",
    "WNOHANG",
    "WNOWAIT",
    "WSTOPPED",
    "__WALL",
    "__WCLONE",
    "__WNOTHREAD",
    "Clone",
    "CloneArgs",
    "PidfdInfo",
    "WaitResult",
    "clone",
    "clone3",
    "futex_wait",
    "futex_wake",
    "gettid",
    "kcmp",
    "pidfd_getfd",
    "pidfd_info",
    "pidfd_open",
    "pidfd_send_signal",
    "setns",
    "unshare",
    "waitid",
]
