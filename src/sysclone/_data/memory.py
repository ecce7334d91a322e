"""Memory that has a name: memfds, the mappings made of them, and finding the one that a buffer lies in.

A buffer that lies in such memory crosses to another process by its memfd, and is not copied. An fd is a number of one
process's table: each region knows whose, since a light process has the same objects and another table.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from errno import ENOMEM
from weakref import ref

from .. import _core
from .._errors import CloneError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, Self

PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_LOOKED_FOR: Final = 1 << 26
"""From this size on a memfd is only filled after a look at the memory that is left: to find out by filling it is to be
killed."""


def create(name: str, sealable: bool = False) -> int:
    """A new memfd, the caller's.

    Raises:
        CloneError: the kernel refused.
    """
    flags = os.MFD_CLOEXEC | (os.MFD_ALLOW_SEALING if sealable else 0)
    try:
        return os.memfd_create(name, flags)
    except OSError as e:
        raise CloneError(e.errno or 0, step=f"memfd_create({name})") from None


def map_fd(fd: int, length: int, *, offset: int = 0, writable: bool = True, shared: bool = False) -> _core.Mapping:
    """Map an fd, or with -1 anonymous memory.

    Raises:
        CloneError: the kernel refused.
    """
    try:
        return _core.Mapping(fd, length, offset, writable, shared)
    except OSError as e:
        raise CloneError(e.errno or 0, step=f"mmap({length} bytes)") from None


def write_all(fd: int, at: int, data: Any) -> int:
    """Write a buffer whole at an offset; gives the offset after it."""
    with memoryview(data) as whole, whole.cast("B") as left:
        done = 0
        while done < len(left):
            done += os.pwrite(fd, left[done:], at + done)
        return at + done


def check_room(length: int) -> None:
    """Refuse what cannot fit: a memfd that grows beyond the memory of the machine brings the OOM killer.

    Raises:
        CloneError: ENOMEM, with what there is.
    """
    if length < _LOOKED_FOR:
        return
    room = _available()
    if room is not None and length > room:
        raise CloneError(
            ENOMEM,
            step=f"memfd of {length} bytes",
            hint=f"likely: it does not fit: {room} bytes of memory and swap are available (/proc/meminfo)",
        )


def _available() -> int | None:
    try:
        with open("/proc/meminfo", "rb") as f:
            rows = dict(line.split(b":", 1) for line in f)
        return sum(int(rows[key].split()[0]) * 1024 for key in (b"MemAvailable", b"SwapFree"))
    except (OSError, KeyError, ValueError, IndexError):
        return None


class Region(_core.Mapping):
    """A memfd mapped for as long as there are views of it.

    Args:
        fd: the memfd, taken over.
        length: bytes to map.
        writable: whether it is mapped for writing; shared in any case.
    """

    __slots__ = ("__weakref__", "fd", "inode", "owner")

    fd: int
    inode: int
    owner: int

    def __new__(cls, fd: int, length: int, *, writable: bool) -> Self:
        try:
            inode = os.fstat(fd).st_ino
            self = super().__new__(cls, fd, length, 0, writable, True)
        except OSError as e:
            os.close(fd)
            raise CloneError(e.errno or 0, step=f"mmap(memfd, {length} bytes)") from None
        self.fd, self.inode, self.owner = fd, inode, os.getpid()
        _enter(self)
        return self

    def is_here(self) -> bool:
        """Whether the number stands for this memory in the calling process too."""
        if self.fd < 0:
            return False
        try:
            return os.fstat(self.fd).st_ino == self.inode
        except OSError:
            return False

    def close_fd(self) -> None:
        """Let go of the fd; what is mapped stays. In another process's table the number is not touched."""
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        if os.getpid() == self.owner:
            os.close(fd)
        else:
            _left.append((self.owner, fd))

    def __del__(self) -> None:
        if getattr(self, "fd", -1) >= 0 and os is not None:
            self.close_fd()


# Regions by address, sorted; a list of starts beside it for bisect. Dead ones are swept when one is entered.
_starts: list[int] = []
_regions: list[ref[Region]] = []
# fds of regions that died in a light process: closed by their owner at its next region.
_left: list[tuple[int, int]] = []


def _enter(region: Region) -> None:
    mine = os.getpid()
    for one in [one for one in _left if one[0] == mine]:
        _left.remove(one)
        os.close(one[1])
    alive = [(found.address, entry) for entry in _regions if (found := entry()) is not None]
    alive.append((region.address, ref(region)))
    alive.sort(key=lambda pair: pair[0])
    _starts[:] = [start for start, _ in alive]
    _regions[:] = [entry for _, entry in alive]


def find(address: int, length: int) -> Region | None:
    """The region that a stretch of memory lies in, if this process has its fd."""
    at = bisect_right(_starts, address) - 1
    region = _regions[at]() if 0 <= at < len(_regions) else None
    if region is None or address + length > region.address + len(region) or not region.is_here():
        return None
    return region


def result_buffer(nbytes: int) -> memoryview:
    """Memory to make a large result in: what lies there is not copied when it is returned to another process.

    numpy.frombuffer(sysclone.result_buffer(n), dtype) is an array in it. It must not be changed any more after it was
    handed over: the receiver sees this very memory until it writes to it.

    Args:
        nbytes: how many bytes, zeroed, at least 1.

    Returns:
        A writable memoryview, which keeps the memory alive.

    Raises:
        CloneError: the kernel refused, or there is not so much memory.

    Works in any process; see memfd_create(2).
    """
    if nbytes < 1:
        raise ValueError(f"nbytes={nbytes}: at least 1 is needed")
    check_room(nbytes)
    fd = create("sysclone-result")
    try:
        os.ftruncate(fd, nbytes)
    except OSError as e:
        os.close(fd)
        raise CloneError(e.errno or 0, step=f"ftruncate(memfd, {nbytes})") from None
    return Region(fd, nbytes, writable=True).view()
