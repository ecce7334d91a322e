"""What a trace tells, as plain values: one event a system call, an end, or a task that was there before.

Named tuples: they cannot be changed, and making one costs next to nothing. Flags, statuses and structs are kept as the
numbers they came as, and become objects when they are asked for.

Every event begins with the same four fields:

    time: seconds of CLOCK_MONOTONIC, at the call's entry. It never goes back; Trace.epoch is what to add for CLOCK_REALTIME.
    pid: the process (thread group) that it happened to, and tid: the task, both in the tracer's pid namespace.
    call: the system call's name; "exit", "attach" and "task_newtask" for what is no call.
"""

from __future__ import annotations

import functools
from typing import NamedTuple, TypeAlias

from .._errors import error_name
from .._flags import CSIGNAL, Clone, format_flags, format_signal
from .._task.status import Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

STRUCT_FIELDS: Final = (
    "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls", "set_tid", "set_tid_size",
    "cgroup",
)  # fmt: skip
"""struct clone_args, in the kernel's order; what stands in CloneEvent.struct."""

_THREAD: Final = int(Clone.THREAD)
_PIDFD: Final = int(Clone.PIDFD)
_PARENT_TID: Final = int(Clone.PARENT_SETTID)
_CHILD_TID: Final = int(Clone.CHILD_SETTID | Clone.CHILD_CLEARTID)
_TLS: Final = int(Clone.SETTLS)
_FORK: Final = 0
_VFORK: Final = int(Clone.VM | Clone.VFORK)


class CloneEvent(NamedTuple):
    """A task was made, or was to be made: clone, clone3, fork, vfork.

    Attributes:
        struct: the eleven numbers of struct clone_args, in STRUCT_FIELDS' order; for the other calls what they amount to.
            Addresses are the caller's. Empty where the struct could not be read.
        size: clone3's second argument; 0 for the other calls.
        set_tid: the pids that were asked for, innermost pid namespace first.
        child: the new task's id in the tracer's pid namespace; None where none was made.
        result: what the call returned to its caller: the id in the *caller's* pid namespace; None where it failed, and
            where it did not return.
        errno: why it failed; None where it did not. 513 (ERESTARTNOINTR) is a call that a signal interrupted, and that
            the kernel makes again.
        child_pids: the new task's ids, outermost pid namespace first, where it is in a pid namespace inside the tracer's;
            else empty.
        parent_tid, pidfd: what the kernel wrote there, for CLONE_PARENT_SETTID and CLONE_PIDFD; None otherwise.
        words: the call's own arguments, as they were in the registers.
        duration: seconds from entry to result.
        machine: "" for this machine's own calls, "i386", "x32" or "arm" for others.
    """

    time: float
    pid: int
    tid: int
    call: str
    struct: tuple[int, ...]
    size: int = 0
    set_tid: tuple[int, ...] = ()
    child: int | None = None
    result: int | None = None
    errno: int | None = None
    child_pids: tuple[int, ...] = ()
    parent_tid: int | None = None
    pidfd: int | None = None
    words: tuple[int, ...] = ()
    duration: float = 0.0
    machine: str = ""

    @property
    def flags(self) -> Clone:
        """The switches, without the exit signal."""
        return Clone(self.struct[0]) if self.struct else Clone(0)

    @property
    def exit_signal(self) -> int:
        """The signal that the child's parent is to get at its end."""
        return self.struct[4] if self.struct else 0

    @property
    def is_thread(self) -> bool:
        """Whether the new task is a thread of the caller's process."""
        return bool(self.struct) and bool(self.struct[0] & _THREAD)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data for JSON."""
        told = _begin(self, self.struct[0] if self.struct else 0) | _outcome(self.result, self.errno)
        told["exit_signal"] = format_signal(self.exit_signal) if self.exit_signal else None
        told["child"] = self.child
        if self.child_pids:
            told["child_pids"] = list(self.child_pids)
        told["args"] = dict(zip(STRUCT_FIELDS, self.struct, strict=False)) if self.struct else None
        if self.set_tid:
            told["set_tid"] = list(self.set_tid)
        if self.size:
            told["size"] = self.size
        for name in ("parent_tid", "pidfd"):
            if getattr(self, name) is not None:
                told[name] = getattr(self, name)
        return told | _end(self.duration, self.machine)


class UnshareEvent(NamedTuple):
    """A task gave up sharing: unshare.

    Attributes:
        word: the flags as a number.
        result, errno: 0 or why it failed; both None where the call did not return.
    """

    time: float
    pid: int
    tid: int
    call: str
    word: int
    result: int | None = None
    errno: int | None = None
    duration: float = 0.0
    machine: str = ""

    @property
    def flags(self) -> Clone:
        """What was unshared."""
        return Clone(self.word)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data for JSON."""
        return _begin(self, self.word) | _outcome(self.result, self.errno) | _end(self.duration, self.machine)


class SetnsEvent(NamedTuple):
    """A task joined namespaces: setns.

    Attributes:
        fd: the caller's fd of a namespace, or of a process.
        word: which kinds, as a number; 0 for whatever the fd is.
        result, errno: as of UnshareEvent.
    """

    time: float
    pid: int
    tid: int
    call: str
    fd: int
    word: int
    result: int | None = None
    errno: int | None = None
    duration: float = 0.0
    machine: str = ""

    @property
    def flags(self) -> Clone:
        """The kinds of namespace that were asked for."""
        return Clone(self.word)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data for JSON."""
        told = _begin(self, self.word) | {"fd": self.fd} | _outcome(self.result, self.errno)
        return told | _end(self.duration, self.machine)


class ExecEvent(NamedTuple):
    """A task began another program: execve, execveat. Every other thread of its process ends by it.

    Attributes:
        path: the program's name as it was given; None where it could not be read.
        argv: its arguments as they were given; None where they could not be read, or argv was NULL.
        words: the call's own arguments, as they were in the registers.
        env_count: how many variables its environment has; None where they could not be read.
        truncated: there were more arguments, or longer ones, than were read.
        result, errno: as of UnshareEvent.
        tid: the task that called; when it was not the leader of its process, it has the leader's id (pid) afterwards.
        at_flags: execveat's flags; dirfd its first argument.
    """

    time: float
    pid: int
    tid: int
    call: str
    path: str | None
    argv: tuple[str, ...] | None
    words: tuple[int, ...] = ()
    env_count: int | None = None
    truncated: bool = False
    result: int | None = None
    errno: int | None = None
    dirfd: int | None = None
    at_flags: int = 0
    duration: float = 0.0
    machine: str = ""

    @property
    def flags(self) -> Clone:
        """Nothing: exec has no clone flags."""
        return Clone(0)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data for JSON."""
        told = _begin(self, 0) | _outcome(self.result, self.errno)
        told["path"] = self.path
        told["argv"] = None if self.argv is None else list(self.argv)
        told["env_count"] = self.env_count
        if self.truncated:
            told["truncated"] = True
        if self.dirfd is not None:
            told["dirfd"] = self.dirfd
        if self.at_flags:
            told["at_flags"] = self.at_flags
        return told | _end(self.duration, self.machine)


class ExitEvent(NamedTuple):
    """A task ended.

    Attributes:
        word: the wait status; None where nobody saw one.
        superseded_by: the thread whose exec ended this leader, and took its id; None for any other end.
    """

    time: float
    pid: int
    tid: int
    call: str
    word: int | None
    superseded_by: int | None = None

    @property
    def flags(self) -> Clone:
        """Nothing: an end has no clone flags."""
        return Clone(0)

    @property
    def status(self) -> Status:
        """How it ended."""
        if self.superseded_by is not None:
            return Status.unknown(f"thread {self.superseded_by} of its process called exec")
        return Status.unknown("how it ended was not seen") if self.word is None else Status.from_wait(self.word)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data for JSON. `result` is subprocess's number: the exit code, or minus the signal."""
        status = self.status
        told = _begin(self, 0) | {"result": status.returncode}
        if status.exit_code is not None:
            told["exit_code"] = status.exit_code
        if status.signal is not None:
            told["signal"] = format_signal(status.signal)
            told["core_dumped"] = status.core_dumped
        if self.superseded_by is not None:
            told["superseded_by"] = self.superseded_by
        return told


class AttachEvent(NamedTuple):
    """A task that was there before the trace, or that appeared in it without a call that was seen.

    Attributes:
        name: its name (comm).
        argv: its process's command line; empty for kernel threads and where it may not be read.
        parent: its parent process's pid; 0 where that is unknown.
        pids: its ids, outermost pid namespace first, where it is in a pid namespace inside the tracer's; else empty.
    """

    time: float
    pid: int
    tid: int
    call: str
    name: str
    argv: tuple[str, ...] = ()
    parent: int = 0
    pids: tuple[int, ...] = ()

    @property
    def flags(self) -> Clone:
        """Nothing: how it was made was not seen."""
        return Clone(0)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data for JSON."""
        told = _begin(self, 0) | {"result": 0, "name": self.name, "argv": list(self.argv), "parent": self.parent}
        return told | ({"pids": list(self.pids)} if self.pids else {})


Event: TypeAlias = CloneEvent | UnshareEvent | SetnsEvent | ExecEvent | ExitEvent | AttachEvent


def old_struct(word: int, stack: int, parent_tid: int, child_tid: int, tls: int) -> tuple[int, ...]:
    """The old call's arguments as struct clone_args: what its flags do not ask for is 0, and the pidfd has its own place."""
    flags = word & 0xFFFFFFFF & ~CSIGNAL
    pidfd = parent_tid if flags & _PIDFD else 0
    parent_tid = parent_tid if flags & _PARENT_TID else 0
    child_tid = child_tid if flags & _CHILD_TID else 0
    return (flags, pidfd, child_tid, parent_tid, word & CSIGNAL, stack, 0, tls if flags & _TLS else 0, 0, 0, 0)


def fork_struct(vfork: bool, signal: int) -> tuple[int, ...]:
    """What fork and vfork amount to."""
    return (_VFORK if vfork else _FORK, 0, 0, 0, signal, 0, 0, 0, 0, 0, 0)


@functools.lru_cache(512)
def _flag_names(flags: int) -> tuple[str, ...]:
    return tuple(format_flags(flags).split("|")) if flags else ()


def flag_names(flags: int) -> list[str]:
    """The C names, in the order of their bits; what has no name is one number."""
    return list(_flag_names(flags))


def _begin(event: Event, flags: int) -> dict[str, Any]:
    return {
        "call": event.call,
        "pid": event.pid,
        "tid": event.tid,
        "time": event.time,
        "flags": flag_names(flags),
    }


def _outcome(result: int | None, errno: int | None) -> dict[str, Any]:
    if errno is not None:
        return {"errno": errno, "error": KERNEL_ERRNOS.get(errno) or error_name(errno)}
    return {"result": result}


KERNEL_ERRNOS: Final = {
    512: "ERESTARTSYS", 513: "ERESTARTNOINTR", 514: "ERESTARTNOHAND", 516: "ERESTART_RESTARTBLOCK",
}  # fmt: skip
"""What a tracer sees where a signal interrupted a call; the caller never does."""


def _end(duration: float, machine: str) -> dict[str, Any]:
    told: dict[str, Any] = {"duration": duration}
    if machine:
        told["machine"] = machine
    return told
