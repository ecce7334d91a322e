"""What a program started: found from it downwards, each held by a pidfd before anything is done to it.

A number is believed only like this: a pidfd of it is opened, then its parent is read, then the pidfd must still be alive.
What was read in between was then said of the very process that the pidfd holds.
"""

from __future__ import annotations

import os
import select
import signal
import time

from .. import _core
from .._errors import CloneError
from .._inspect.proc import Stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Final, Self

PR_SET_CHILD_SUBREAPER: Final = 36
_PASSES: Final = 200
_PAUSE_MS: Final = 2


class Members:
    """Processes of a tree, by pid, each with a pidfd; the pidfds are closed on leaving."""

    def __init__(self) -> None:
        self.pidfds: dict[int, int] = {}
        self.refused: dict[int, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        for fd in self.pidfds.values():
            os.close(fd)
        self.pidfds.clear()

    def send(self, number: int, pids: list[int] | None = None) -> None:
        """Send a signal to all, or to some; who refuses it is noted, who has ended is let be."""
        for pid in self.pidfds if pids is None else pids:
            try:
                _core.pidfd_send_signal(self.pidfds[pid], number, 0)
            except ProcessLookupError:
                continue
            except OSError as e:
                self.refused[pid] = e.errno or 0

    def wait(self, seconds: float | None) -> bool:
        """Whether all ended within that time; None is for ever."""
        deadline = None if seconds is None else time.monotonic() + seconds
        poll = select.poll()
        left = set(self.pidfds.values())
        for fd in left:
            poll.register(fd, select.POLLIN)
        while left:
            patience = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = poll.poll(None if patience is None else min(patience, 1e6) * 1000)
            for fd, _ in ready:
                left.discard(fd)
                poll.unregister(fd)
            if not ready and patience == 0:
                return False
        return True

    def reap(self) -> None:
        """Wait for those that have ended and are children of this process; others' are theirs."""
        for fd in self.pidfds.values():
            try:
                _core.waitid(3, fd, os.WEXITED | os.WNOHANG | 0x40000000)
            except OSError:
                continue

    def check(self, number: int) -> None:
        """Raise where one refused a signal.

        Raises:
            CloneError: with the first that refused.
        """
        for pid, errno in self.refused.items():
            raise CloneError(errno, step=f"pidfd_send_signal({pid}, {signal.Signals(number).name})")

    def take(self, pid: int, belongs: Callable[[Stat], bool]) -> bool:
        """Hold a process, if `belongs` (a function of its Stat) says so of it; whether it is a new member."""
        if pid in self.pidfds:
            return False
        try:
            fd = _core.pidfd_open(pid, 0)
        except OSError:
            return False
        stat = stat_of(pid)
        if stat is not None and belongs(stat) and is_alive(fd):
            self.pidfds[pid] = fd
            return True
        os.close(fd)
        return False

    def add_below(self, root: int) -> int:
        """Take every living process that comes from root, which the caller holds; how many are new."""
        new, queue = 0, [root]
        while queue:
            parent = queue.pop()
            for child in children_of(parent):
                new += self.take(child, _child_of(parent))
                if child in self.pidfds:
                    queue.append(child)
        return new

    def add_marked(self, mark: bytes, but: int) -> int:
        """Take those children of this process, but for one, that carry a mark in their environment; how many are new."""
        new, me = 0, os.getpid()
        for child in children_of(me):
            if child != but:
                new += self.take(
                    child, lambda stat: stat.ppid == me and not stat.is_zombie and has_mark(stat.tid, mark)
                )
        return new

    def add_cgroup(self, directory: int) -> int:
        """Take every process of a cgroup and of those below it; how many are new."""
        new = 0
        for pid in processes_of_cgroup(directory):
            new += self.take(pid, lambda stat: not stat.is_zombie and stat.tid in processes_of_cgroup(directory))
        return new

    def still(self) -> bool:
        """Whether none of them runs: each is stopped, dead, or blocked where it cannot fork."""
        stats = [stat_of(pid) for pid in self.pidfds]
        return all(stat is None or stat.state in "TtZXD" for stat in stats)


def _child_of(parent: int) -> Callable[[Stat], bool]:
    return lambda stat: stat.ppid == parent and not stat.is_zombie


def freeze(members: Members, root_pidfd: int, look: Callable[[], int]) -> None:
    """Stop a tree, so that nothing in it forks while it is taken: until a look finds nobody new and nobody runs.

    Args:
        members: who is taken; the top is not among them.
        root_pidfd: the top; -1 where it has ended.
        look: takes who is new, and answers how many.
    """
    poll = select.poll()
    for _ in range(_PASSES):
        if root_pidfd >= 0:
            _send(root_pidfd, signal.SIGSTOP)
        new = look()
        members.send(signal.SIGSTOP)
        if not new and members.still():
            return
        poll.poll(_PAUSE_MS)


def _send(pidfd: int, number: int) -> None:
    try:
        _core.pidfd_send_signal(pidfd, number, 0)
    except OSError:
        pass


def is_alive(pidfd: int) -> bool:
    """Whether a process has not been reaped."""
    try:
        _core.pidfd_send_signal(pidfd, 0, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def stat_of(pid: int) -> Stat | None:
    """What /proc says of a number now."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return Stat(file.read())
    except (OSError, ValueError, IndexError):
        return None


def children_of(pid: int) -> list[int]:
    """The children of a process, zombies too: of each of its threads."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    except FileNotFoundError:
        if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
            return _children_by_parent(pid)
    except OSError:
        pass
    return found


def _children_by_parent(pid: int) -> list[int]:
    """A kernel without CONFIG_PROC_CHILDREN: everybody is asked for their parent."""
    stats = [stat_of(int(name)) for name in os.listdir("/proc") if name.isdecimal()]
    return [stat.tid for stat in stats if stat is not None and stat.ppid == pid]


def has_mark(pid: int, mark: bytes) -> bool:
    """Whether a process began with a variable of the environment: b"NAME=value"."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return mark in file.read().split(b"\0")
    except OSError:
        return False


def processes_of_cgroup(directory: int) -> list[int]:
    """The processes of a cgroup and of those below it, by an fd of its directory."""
    found: list[int] = []
    for inner in _directories(directory):
        try:
            fd = os.open("cgroup.procs", os.O_RDONLY | os.O_CLOEXEC, dir_fd=inner)
        except OSError:
            continue
        with open(fd, "rb") as file:
            try:
                found += map(int, file.read().split())
            except OSError:  # EOPNOTSUPP: a threaded cgroup's processes stand at its top
                continue
    return found


def _directories(top: int) -> Iterator[int]:
    yield top
    with os.scandir(top) as entries:
        names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    for name in names:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=top)
        except OSError:
            continue
        try:
            yield from _directories(fd)
        finally:
            os.close(fd)
