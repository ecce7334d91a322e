"""Files by raw calls, for steps: they take none of Python's own ways, which a change of root would lead elsewhere."""

from __future__ import annotations

import os

from .. import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

AT_FDCWD: Final = -100


def at_path(path: str, flags: int) -> int:
    """openat(2) from the cwd, with O_CLOEXEC. The fd is the caller's."""
    return _core.syscall("openat", AT_FDCWD, os.fsencode(path), flags | os.O_CLOEXEC, 0)


def close(fd: int) -> None:
    """close(2)."""
    _core.syscall("close", fd)


def with_fd(where: str | int, flags: int, act: Callable[[int], object]) -> None:
    """Do something with a borrowed fd, or with a path's that is closed afterwards."""
    if isinstance(where, int):
        act(where)
        return
    fd = at_path(where, flags)
    try:
        act(fd)
    finally:
        close(fd)


def write_file(path: str, text: bytes) -> None:
    """All in one write: what files of /proc take."""
    fd = at_path(path, os.O_WRONLY)
    try:
        _core.syscall("write", fd, text, len(text))
    finally:
        close(fd)
