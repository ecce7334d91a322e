"""What quick workers are given before they ask for it, and how it comes to another if they turn out to be slow.

A worker that answers at once would wait for its next call as long as another thread needs to wake up. So it has some
ahead, for a few milliseconds by what the last ones took, and only where the queue is longer than the workers are many.
None of them waits there for anything but its turn: what is not begun with goes back to the front of the queue when the
worker ends or is to be ended, when it comes to a call that takes long, and when another has nothing to do.

All of it is done under the lock.
"""

from __future__ import annotations

import time
from collections import deque

from ._channel import INLINE
from ._state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from ._calls import Call
    from ._workers import Worker

_SLOW: Final = 0.02
"""Seconds after which a worker is not expected to come to what it has ahead soon."""

_HEAD_ROOM: Final = 64


class Ahead(State):
    """Gives calls ahead, and takes them back."""

    def _give_ahead(self, worker: Worker) -> None:
        """Give a worker that is quick what comes next in the queue, before it has to ask for it."""
        room = worker.room()
        if self.tasks_per_worker is not None:
            room = min(room, self.tasks_per_worker - worker.calls)
        if 2 * len(worker.ahead) > room:
            return
        calls: list[Call] = []
        length = 0
        while self._pending and len(worker.ahead) + len(calls) < room:
            call = self._pending[0]
            if not call.future.done():
                if call.options.spec != worker.spec or not call.is_small:
                    break
                length += call.packed.length + _HEAD_ROOM  # type: ignore[union-attr]
                if length > INLINE:
                    break
                calls.append(call)
            self._pending.popleft()
        if not calls:
            return
        for call in calls:
            call.worker = worker
        worker.calls += len(calls)
        worker.ahead += calls
        self._loaded.add(worker)
        try:
            worker.give_more(calls)  # type: ignore[attr-defined]
        except OSError:
            self._take_back(worker)  # it is gone, or has no room; if they cannot be sent at all, that is told elsewhere

    def _take_back(self, worker: Worker, most: int | None = None) -> None:
        """Put what a worker has ahead and has not begun with back to the front of the queue, the last first."""
        kept: deque[Call] = deque()
        while worker.ahead:
            call = worker.ahead.pop()
            if most == 0 or not worker.take_back(call):
                kept.appendleft(call)
                continue
            most = None if most is None else most - 1
            call.worker = None
            worker.calls -= 1
            self._pending.appendleft(call)
        worker.ahead = kept
        if not kept:
            self._loaded.discard(worker)

    def _take_back_from_slow(self, now: float, but: Worker) -> None:
        """Nothing is to wait behind a call that turns out to be long, while what came after it is begun with elsewhere."""
        for worker in list(self._loaded):
            if worker is not but and now - worker.begun_at > _SLOW:
                self._take_back(worker)

    def _share_out(self) -> None:
        """The queue is empty: half of what the fullest worker has ahead is for one that has nothing to do."""
        room = self._has_room()
        workers = [worker for worker in self._loaded if room or self._idle.get(worker.spec)]
        if workers:
            fullest = max(workers, key=lambda worker: len(worker.ahead))
            self._take_back(fullest, (len(fullest.ahead) + 1) // 2)

    def _drop(self, call: Call) -> bool:
        """Take a cancelled call from the worker that has it and has not begun with it; False where none has, or it has."""
        worker = call.worker
        if worker is None or worker not in self._workers or worker.ended:
            return False
        # Whoever is handing it over comes back to it afterwards; until then the worker is to get nothing else.
        if (worker.call is call and worker.sending) or not worker.take_back(call):
            return False
        # An interrupt of the thread that cancels has it do all this again.
        if worker.call is call:
            self._next(worker, time.monotonic())
        elif call in worker.ahead:
            worker.ahead.remove(call)
            if not worker.ahead:
                self._loaded.discard(worker)
        worker.calls -= 1
        call.worker = None
        return True

    def _next(self, worker: Worker, now: float) -> None:
        """A worker is at the next of the calls that it has ahead, or has nothing to do."""
        if not worker.ahead:
            self._rest(worker)
            return
        call = worker.call = worker.ahead[0]
        del worker.ahead[0]  # no call from C or Python in between, at whose end an interrupt could come
        if not worker.ahead:
            self._loaded.discard(worker)
        worker.begun_at = now
        if not call.future._begin():
            self._cancelled.append(call)
        if call.options.timeout is not None:
            self._note_limit(worker, call, now + call.options.timeout)
