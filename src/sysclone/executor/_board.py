"""The page that a worker and its executor both see: how far the worker has come.

The worker writes which item it is at and since when, before it begins with it; the executor looks there when a time is
over or the worker has died. Nobody waits on it.
"""

from __future__ import annotations

import os
import struct

from .._data.memory import create, map_fd
from .._data.transport import Descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

SIZE: Final = 4096
_ITEM: Final = struct.Struct("=qd")
_CALL: Final = struct.Struct("=q")


class Board:
    """One worker's page: the call it is at, the item of it, and when that began (time.monotonic).

    Args:
        named: whether it is for a process that does not inherit it: then it can be pickled along until close_fd().
    """

    def __init__(self, named: bool = False) -> None:
        self._fd = -1
        if named:
            self._fd = create("sysclone-board")
            os.ftruncate(self._fd, SIZE)
        self._map(self._fd)
        self.begin(-1, -1, 0.0)

    def _map(self, fd: int) -> None:
        self._mapping = map_fd(fd, SIZE, shared=True)
        self._view = self._mapping.view()

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (Descriptor(self._fd),)

    def close_fd(self) -> None:
        """It has been sent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def begin(self, call: int, item: int, now: float) -> None:
        """The worker begins with an item of a call."""
        _ITEM.pack_into(self._view, 8, item, now)
        _CALL.pack_into(self._view, 0, call)

    def read(self) -> tuple[int, int, float]:
        """The call, the item, and the moment it began."""
        item, since = _ITEM.unpack_from(self._view, 8)
        return _CALL.unpack_from(self._view, 0)[0], item, since

    def close(self) -> None:
        """Let go of the page."""
        self.close_fd()
        self._view.release()
        self._mapping.close()


def _arrived(descriptor: Descriptor) -> Board:
    board = Board.__new__(Board)
    board._fd = -1
    board._map(descriptor.fileno())
    return board
