"""The page that a warm worker and its executor both see: how far the worker has come.

The worker writes which item it is at and since when, before it begins with it; the executor looks there when a time is
over or the worker has died. Nobody waits on it.
"""

from __future__ import annotations

import mmap
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

SIZE: Final = 4096
_ITEM: Final = struct.Struct("=qd")
_CALL: Final = struct.Struct("=q")


class Board:
    """One worker's page: the call it is at, the item of it, and when that began (time.monotonic)."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, SIZE)
        self.begin(-1, -1, 0.0)

    def begin(self, call: int, item: int, now: float) -> None:
        """The worker begins with an item of a call."""
        _ITEM.pack_into(self._map, 8, item, now)
        _CALL.pack_into(self._map, 0, call)

    def read(self) -> tuple[int, int, float]:
        """The call, the item, and the moment it began."""
        item, since = _ITEM.unpack_from(self._map, 8)
        return _CALL.unpack_from(self._map, 0)[0], item, since

    def close(self) -> None:
        """Let go of the page."""
        self._map.close()
