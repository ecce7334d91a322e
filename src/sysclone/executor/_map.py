"""map over any number of items: a few calls ahead of who reads, in chunks whose size follows the time they take."""

from __future__ import annotations

import time
from collections import deque
from itertools import islice

from .._errors import TaskTimeout
from ._channel import restored
from ._options import whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Final

    from ._future import Future
    from ._progress import Bar

CHUNK_SECONDS: Final = 0.02
"""What a chunk is to take: long against a round trip, short against what people wait for."""

LARGEST_CHUNK: Final = 16384
_GROWTH: Final = 4
_AHEAD: Final = 2


class ChunkSize:
    """How many items the next chunk has: fixed, or by the time the last ones took."""

    def __init__(self, fixed: int | None) -> None:
        self._fixed = fixed
        self.now = fixed or 1

    def learn(self, items: int, seconds: float) -> None:
        """A chunk of so many items took so long."""
        if self._fixed is None:
            wanted = int(items * CHUNK_SECONDS / max(seconds, 1e-6))
            self.now = max(1, min(wanted, self.now * _GROWTH, LARGEST_CHUNK))


def results(
    submit: Callable[[list[Any]], Future[Any]],
    iterables: tuple[Iterable[Any], ...],
    *,
    workers: int,
    timeout: float | None,
    chunksize: int | None,
    adapt: bool,
    buffersize: int | None,
    bar: Bar | None,
) -> Iterator[Any]:
    """An iterator over fn's results, in order.

    Args:
        submit: starts one chunk.
        iterables: read only as far as results are near.
        workers: how many run at once.
        timeout: seconds from now for all of them; None for no limit.
        chunksize: items a call; None lets it adapt, or is 1.
        adapt: whether it may.
        buffersize: how many items may be ahead of the reader at most; None is a few chunks a worker.
        bar: to draw on, or None.
    """
    chunksize = whole(chunksize, "chunksize", 1)
    buffersize = whole(buffersize, "buffersize", 1)
    end = None if timeout is None else time.monotonic() + timeout
    size = ChunkSize(chunksize if chunksize is not None or adapt else 1)
    items = zip(*iterables, strict=False) if len(iterables) != 1 else iter(iterables[0])
    window = _Window(submit, items, size, workers * _AHEAD + 1, buffersize)
    try:
        window.fill()
    except BaseException:
        window.cancel()
        raise
    return _read(window, end, timeout, bar)


class _Window:
    """The chunks that are on their way, oldest first."""

    def __init__(
        self,
        submit: Callable[[list[Any]], Future[Any]],
        items: Iterator[Any],
        size: ChunkSize,
        most_chunks: int,
        most_items: int | None,
    ) -> None:
        self._submit = submit
        self._items = items
        self.size = size
        self._most_chunks = most_chunks
        self._most_items = most_items
        self._ahead = 0
        self.chunks: deque[tuple[Future[Any], int]] = deque()

    def fill(self) -> None:
        """Start chunks until enough are on their way or there are no more items."""
        while len(self.chunks) < self._most_chunks:
            room = self.size.now
            if self._most_items is not None:
                room = min(room, self._most_items - self._ahead)
            chunk = list(islice(self._items, room)) if room > 0 else []
            if not chunk:
                return
            self._ahead += len(chunk)
            self.chunks.append((self._submit(chunk), len(chunk)))

    def take(self) -> tuple[Future[Any], int]:
        """The oldest chunk."""
        future, count = self.chunks.popleft()
        self._ahead -= count
        return future, count

    def cancel(self) -> None:
        """End those that are on their way."""
        for future, _ in self.chunks:
            future.cancel()
        self.chunks.clear()


def _read(window: _Window, end: float | None, timeout: float | None, bar: Bar | None) -> Iterator[Any]:
    try:
        while window.chunks:
            future, count = window.take()
            try:
                values, exception = _answer(future, end, timeout)
            except BaseException:
                future.cancel()
                raise
            if future.seconds is not None:
                window.size.learn(count, future.seconds)
            del future
            window.fill()
            values.reverse()
            while values:
                yield values.pop()
                if bar is not None:
                    bar.advance()
            if exception is not None:
                raise exception
    finally:
        window.cancel()
        if bar is not None:
            bar.close()


def _answer(future: Future[Any], end: float | None, timeout: float | None) -> tuple[list[Any], BaseException | None]:
    left = None if end is None else max(0.0, end - time.monotonic())
    try:
        values, exception = future.result(left)
    except TimeoutError as e:
        if future.done() or isinstance(e, TaskTimeout):
            raise
        raise TimeoutError(f"the results did not come in {timeout:g} s") from None
    if isinstance(exception, tuple):
        exception = restored(exception, None)
    return values, exception
