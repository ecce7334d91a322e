"""What goes to a zygote with one call: a message, and fds in an order that both sides know.

    page, result socket [cwd] [stdio] [cgroup] [joined namespaces] [fds that the Context names] [spill] [letter, its fds]

A message is small in any case: what may be large (a Context with a filter, an environment) is spilled to a memfd.
"""

from __future__ import annotations

import os
import pickle

from .._data.memory import create, write_all
from .._data.transport import MOST_FDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

ROOM: Final = 65536
"""Bytes that the largest message takes."""

SPILLED: Final = 16384
"""From so many bytes on, the Context and what the caller is are spilled."""

BEGUN: Final = 1
REVOKED: Final = 2
_LIMITS: Final = 16  # RLIM_NLIMITS
# What goes with a request beside the page and the socket, in this order.
HAS_CWD: Final = 1
HAS_STDIO: Final = 2
HAS_CGROUP: Final = 4
HAS_SPILL: Final = 8
HAS_LETTER: Final = 16
IS_NOTHING: Final = 32  # a request for an answer alone


class Request:
    """One task to be made: what the owner sends, as a tuple of these fields.

    Attributes:
        number: of the request; its answer has the same.
        flags: what came along.
        total: how many fds.
        joined, borrowed: how many of them are namespaces, and how many the Context names.
        context: its pickle; b"" where it is spilled, with what the caller is.
        caller: the pickle of what the task is to have of the caller's: `ambient`.
        born_in_cgroup: whether the cgroup is of version 2.
        inline: the call's pickle, where there is no letter.
        table: where the letter has its table.
        main: the main module, if the task has to import it.
    """

    __slots__ = (
        "born_in_cgroup", "borrowed", "caller", "context", "fds", "flags", "inline", "joined", "main", "number", "table",
        "total",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        flags: int,
        total: int = 0,
        joined: int = 0,
        borrowed: int = 0,
        context: bytes = b"",
        caller: bytes = b"",
        born_in_cgroup: bool = False,
        inline: bytes = b"",
        table: tuple[int, int] = (0, 0),
        main: tuple[str, str] | None = None,
    ) -> None:
        self.number = number
        self.flags = flags
        self.total = total
        self.joined = joined
        self.borrowed = borrowed
        self.context = context
        self.caller = caller
        self.born_in_cgroup = born_in_cgroup
        self.inline = inline
        self.table = table
        self.main = main
        self.fds: list[int] = []

    def take(self, count: int) -> list[int]:
        """The next fds that came along."""
        taken, self.fds = self.fds[:count], self.fds[count:]
        return taken

    @property
    def messages(self) -> int:
        """In how many messages its fds come."""
        return max(1, -(-self.total // MOST_FDS))

    @property
    def joined_at(self) -> int:
        """Where the joined namespaces are among its fds, before any was taken."""
        flags = self.flags
        return 2 + bool(flags & HAS_CWD) + 3 * bool(flags & HAS_STDIO) + bool(flags & HAS_CGROUP)

    def fetch(self) -> None:
        """Read what was spilled."""
        if self.flags & HAS_SPILL:
            fd = self.fds[self.joined_at + self.joined + self.borrowed]
            self.context, self.caller = pickle.loads(os.pread(fd, os.fstat(fd).st_size, 0))


def spill(context: bytes, caller: bytes) -> int:
    """A memfd with both, yours to close.

    Raises:
        CloneError, OSError: there is no memory or fd for it.
    """
    fd = create("sysclone-context")
    try:
        write_all(fd, 0, pickle.dumps((context, caller), 5))
    except BaseException:
        os.close(fd)
        raise
    return fd


def nothing(number: int) -> bytes:
    """A request for an answer alone."""
    return pickle.dumps((number, IS_NOTHING), 5)


class Inherited:
    """What tasks have of the caller's as of the moment that they are asked for, each a bool; else it is the zygote's."""

    __slots__ = ("cwd", "environment", "limits", "stdio", "umask")

    def __init__(self, stdio: bool, cwd: bool, environment: bool, umask: bool, limits: bool) -> None:
        self.stdio = bool(stdio)
        self.cwd = bool(cwd)
        self.environment = bool(environment)
        self.umask = bool(umask)
        self.limits = bool(limits)


def ambient(inherited: Inherited) -> bytes:
    """The environment, the calling thread's umask, and the limits, as far as tasks are to have them."""
    found: dict[str, Any] = {}
    if inherited.environment:
        found["environment"] = tuple(os.environ.items())
    if inherited.umask:
        found["umask"] = _umask()
    if inherited.limits:
        import resource

        found["limits"] = [resource.getrlimit(which) for which in range(_LIMITS)]
    return pickle.dumps(found, 5) if found else b""


def _umask() -> int:
    """The calling thread's; umask(2) would change it for a moment, for all who share it. Linux 4.7."""
    with open("/proc/thread-self/status", "rb") as f:
        return next(int(line.split()[1], 8) for line in f if line.startswith(b"Umask:"))
