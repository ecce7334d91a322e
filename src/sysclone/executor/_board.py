"""The pages that a worker and its executor both see: how far the worker has come, and which calls it may begin with.

The worker writes which item it is at and since when, before it begins with it; the executor looks there when a time is
over or the worker has died. Nobody waits on it.

A call that was given to a worker is offered there, under a number that each worker counts by itself. Worker and executor
both change the offer by a compare-and-exchange: the worker takes it before it begins, or the executor takes it back, and
then the worker passes it over. So a call that waits in a worker's socket can be given to another, and runs once.
"""

from __future__ import annotations

import os
import struct

from .. import _core
from .._data.memory import create, map_fd
from .._data.transport import Descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

SIZE: Final = 8192
_ITEM: Final = struct.Struct("=qd")
_CALL: Final = struct.Struct("=q")
_OFFER: Final = struct.Struct("=I")

OFFERS: Final = 1024
"""How many calls may be offered at once; a word each, from the second page's beginning."""

LANE_FREE: Final = 0
LANE_USED: Final = 1
LANE_LOST: Final = 2
"""What the executor has not got, and the worker has to make anew."""

_LANE_AT: Final = 32
_FIRST: Final = 1024  # the index of the first word
_COUNTED: Final = 1 << 30
_OFFERED: Final = 1
_TAKEN: Final = 2
_TAKEN_BACK: Final = 3


class Board:
    """One worker's pages: the call it is at, the item of it, and when that began (time.monotonic).

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

    # --- offers: a word is the number, and in its last two bits what became of it

    def offer(self, number: int) -> None:
        """The executor is about to give the worker a call under a number; not more than OFFERS are open at once."""
        _OFFER.pack_into(self._view, 4 * (_FIRST + number % OFFERS), number % _COUNTED << 2 | _OFFERED)

    def take(self, number: int) -> bool:
        """The worker begins with it; False where it was taken back."""
        return self._exchange(number, _TAKEN) == _OFFERED

    def take_back(self, number: int) -> bool:
        """The executor wants it back, or has it; False where the worker has begun with it."""
        return self._exchange(number, _TAKEN_BACK) in (_OFFERED, _TAKEN_BACK)

    def _exchange(self, number: int, what: int) -> int:
        """What became of it before; -1 where the word is another offer's."""
        word = number % _COUNTED << 2
        was = _core.exchange(self._view, _FIRST + number % OFFERS, word | _OFFERED, word | what)
        return was - word if 0 <= was - word <= _TAKEN_BACK else -1

    def is_open(self, number: int) -> bool:
        """Whether an offer was neither taken nor taken back."""
        word: int = _OFFER.unpack_from(self._view, 4 * (_FIRST + number % OFFERS))[0]
        return word == number % _COUNTED << 2 | _OFFERED

    # --- the lane that the worker's answers come by

    @property
    def lane(self) -> int:
        """Whether it may be written to: the executor says when it has read, the worker when it writes."""
        word: int = _OFFER.unpack_from(self._view, _LANE_AT)[0]
        return word

    @lane.setter
    def lane(self, word: int) -> None:
        _OFFER.pack_into(self._view, _LANE_AT, word)

    def close(self) -> None:
        """Let go of the pages."""
        self.close_fd()
        self._view.release()
        self._mapping.close()


def _arrived(descriptor: Descriptor) -> Board:
    board = Board.__new__(Board)
    board._fd = -1
    board._map(descriptor.fileno())
    return board
