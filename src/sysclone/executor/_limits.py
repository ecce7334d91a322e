"""The limits of a process: what the executor makes for it, and what it does to itself before it begins with a call."""

from __future__ import annotations

import os
import signal

from .. import _core
from .._data.transport import Descriptor
from .._errors import CloneError, Unsupported
from .._flags import Share
from .._steps.descriptors import is_open
from ._groups import Group

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from ._options import Spec

_KILL: Final = 9


class Limits:
    """What a process sets on itself: plain data that goes along with it.

    Attributes:
        memory_bytes: for RLIMIT_AS, beyond what it has; None where a cgroup or a look at its RSS does it.
        files: how many more it may open.
        processes: for RLIMIT_NPROC; None where a cgroup does it.
        enter: fds of cgroup.procs files, to move itself in by.
        copied: whether it is a process with memory of its own, to be ended with its creator and with its own children.
        creator: the pid of who made it.
    """

    __slots__ = ("_shared_table", "copied", "creator", "enter", "files", "memory_bytes", "processes")

    def __init__(self, spec: Spec, memory_by: str | None, group: Group | None, copied: bool) -> None:
        self.memory_bytes = spec.memory_bytes if memory_by == "RLIMIT_AS" else None
        self.files = spec.files
        self.processes = None if group is not None and group.counts_processes else spec.processes
        self.enter = [] if group is None else group.open()
        self.copied = copied
        self.creator = os.getpid()
        self._shared_table = Share.FILES in spec.context.share

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to set."""
        return (
            bool(self.enter)
            or self.copied
            or any(one is not None for one in (self.memory_bytes, self.files, self.processes))
        )

    def close(self) -> None:
        """The creator's copies of the fds, once the process has its own; in a shared table it closes them itself."""
        for fd in () if self._shared_table else self.enter:
            os.close(fd)

    def __reduce__(self) -> tuple[Any, ...]:
        plain = {name: getattr(self, name) for name in self.__slots__ if name != "enter"}
        return _arrived, (plain, [Descriptor(fd) for fd in self.enter])

    def apply(self) -> None:
        """In the process itself, once.

        Raises:
            CloneError: the kernel refused one of them.
        """
        if self.copied:
            self._detach()
        for fd in self.enter:
            try:
                os.write(fd, b"0")
            except OSError as e:
                raise CloneError(e.errno or 0, step="write(cgroup.procs)") from None
            os.close(fd)
        if self.files is not None or self.memory_bytes is not None or self.processes is not None:
            self._set_resource_limits()

    def _detach(self) -> None:
        """A process group of its own, and an end with its creator."""
        os.setpgid(0, 0)
        _core.death_signal(_KILL)
        # The creator may have died before that. In a new pid namespace it cannot be seen: 0.
        if os.getppid() not in (self.creator, 0):
            os._exit(1)
        try:
            signal.set_wakeup_fd(-1)
        except ValueError:
            pass

    def _set_resource_limits(self) -> None:
        import resource

        if self.memory_bytes is not None:
            with open("/proc/self/statm") as f:
                pages = int(f.read().split()[0])
            _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + self.memory_bytes)
        if self.processes is not None:
            _lower(resource.RLIMIT_NPROC, _tasks_of_this_user() + self.processes)
        if self.files is not None:
            _lower(resource.RLIMIT_NOFILE, _number_after(self.files))


def _lower(which: int, most: int) -> None:
    """Both limits to most, or what they are if that is less."""
    import resource

    _soft, hard = resource.getrlimit(which)
    value = most if hard == resource.RLIM_INFINITY else min(most, hard)
    try:
        resource.setrlimit(which, (value, value))
    except (OSError, ValueError) as e:
        raise CloneError(getattr(e, "errno", 0) or 22, step=f"setrlimit({which}, {value})") from None


def _tasks_of_this_user() -> int:
    """How many processes and threads RLIMIT_NPROC counts now."""
    count = 0
    for name in os.listdir("/proc"):
        try:
            if name.isdecimal() and os.stat(f"/proc/{name}").st_uid == os.getuid():
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            continue
    return count


def _number_after(files: int) -> int:
    """The file number below which so many are free now: RLIMIT_NOFILE limits the number, not the count."""
    used = {int(name) for name in os.listdir("/proc/self/fd")}
    # The directory's own fd is in there, and closed by now.
    used = {fd for fd in used if is_open(fd)}
    number = free = 0
    while free < files:
        free += number not in used
        number += 1
    return number


def _arrived(plain: dict[str, Any], enter: list[Descriptor]) -> Limits:
    limits = Limits.__new__(Limits)
    limits.enter = [descriptor.detach() for descriptor in enter]
    for name, value in plain.items():
        setattr(limits, name, value)
    return limits


# --- processor time, for each call anew


def start_cpu_clock(seconds: float, light: bool) -> None:
    """Let this process be ended after so much more processor time.

    RLIMIT_CPU counts whole seconds and sends SIGXCPU; a copied process has a timer for the fraction too, whose SIGPROF
    would strike a light one anywhere.
    """
    import math
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = used.ru_utime + used.ru_stime
    _soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = max(1, math.ceil(spent + seconds))
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
    if not light:
        # The creator's handlers came along with its memory.
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, seconds, 1.0)


def stop_cpu_clock(light: bool) -> None:
    """Take it back, at the end of a call."""
    import resource

    _soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
    if not light:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


# --- the executor's side


def prepare(spec: Spec, copied: bool) -> tuple[Limits, Group | None, str | None]:
    """What a process of a spec needs: what it sets itself, its cgroups, and by what its memory is limited.

    Raises:
        CloneError: a cgroup was asked for and cannot be made.
        Unsupported: nothing here can limit the number of root's processes.
    """
    wants_group = spec.memory_bytes is not None and spec.memory_by in (None, "cgroup")
    group: Group | None = None
    if wants_group or spec.processes is not None:
        group = _group(spec, wants_group)
    memory_by = None
    if spec.memory_bytes is not None:
        by_group = group.memory_by if group is not None else None
        memory_by = by_group or ("watched RSS" if spec.memory_by == "rss" else "RLIMIT_AS")
    try:
        return Limits(spec, memory_by, group, copied), group, memory_by
    except BaseException:
        if group is not None:
            group.close()
        raise


def _group(spec: Spec, memory: bool) -> Group | None:
    """The cgroups that can be had, or None."""
    memory_bytes = spec.memory_bytes if memory else None
    try:
        return Group.make(memory_bytes, spec.processes)
    except OSError as e:
        if spec.memory_by == "cgroup":
            raise CloneError(e.errno or 0, step="mkdir(cgroup)", hint=f"likely: {e.strerror}") from None
        if spec.processes is not None and os.geteuid() == 0:
            raise Unsupported("limit on root's processes without a pids cgroup", reason=str(e)) from None
    if memory_bytes is not None and spec.processes is not None:
        try:
            return Group.make(memory_bytes, None)
        except OSError:
            pass
    return None
