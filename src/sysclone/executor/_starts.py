"""How calls come to processes: to idle ones, to new ones, or to none because the kernel refuses."""

from __future__ import annotations

import time
from collections import deque

from .._task.task import STOP_PATIENCE
from .._zygote.zygote import Zygote
from ._channel import INLINE
from ._once import OnceCopied, OnceFresh, OnceLight
from ._state import State
from ._warm import WarmCopied, WarmFresh, WarmLight
from ._workers import Outcome, Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from ._calls import Call

SLOW: Final = 0.02
"""Seconds after which a worker is not expected to come to what it has ahead soon."""

HEAD_ROOM: Final = 64

MAKERS: Final[dict[tuple[str, bool], type[Worker]]] = {
    ("light", False): OnceLight,
    ("light", True): WarmLight,
    ("copied", False): OnceCopied,
    ("copied", True): WarmCopied,
    ("fresh", False): OnceFresh,
    ("fresh", True): WarmFresh,
}


class Starts(State):
    """Begins with what waits in the queue."""

    def _start_pending(self) -> None:
        while True:
            with self._lock:
                while self._pending and self._pending[0].future.done():
                    self._pending.popleft()
                if not self._pending and self._loaded:
                    self._share_out()
                if not self._pending:
                    return
                call = self._pending[0]
                worker = self._reserve(call) if self.warm else None
                if worker is None and call.future.done():
                    continue
                if worker is None and not self._has_room():
                    self._make_room(call)
                    return
                self._pending.popleft()
                if worker is None and not call.future._begin():
                    continue
                if worker is None:
                    self._starting.add(call)
            if worker is not None:
                self._hand(worker, call)
            else:
                self._start(call)

    # --- what workers have ahead; all of it under the lock

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
                length += call.packed.length + HEAD_ROOM  # type: ignore[union-attr]
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
            if worker is not but and now - worker.begun_at > SLOW:
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
        if worker is None or worker not in self._workers or worker.ended or not worker.take_back(call):
            return False
        call.worker = None
        worker.calls -= 1
        if worker.call is call:
            self._next(worker, time.monotonic())
        else:
            worker.ahead.remove(call)
            if not worker.ahead:
                self._loaded.discard(worker)
        return True

    def _next(self, worker: Worker, now: float) -> None:
        """A worker is at the next of the calls that it has ahead, or has nothing to do."""
        if not worker.ahead:
            self._rest(worker)
            return
        call = worker.call = worker.ahead.popleft()
        if not worker.ahead:
            self._loaded.discard(worker)
        worker.begun_at = now
        if not call.future._begin():
            self._cancelled.append(call)
        if call.options.timeout is not None:
            self._note_limit(worker, call, now + call.options.timeout)

    def _make_room(self, call: Call) -> None:
        """All places are taken: an idle worker that is made otherwise has to go. Under the lock."""
        for workers in self._idle.values():
            if workers:
                self._retire(workers.pop(0))
                return

    def _start(self, call: Call) -> None:
        """Make a process for a call, its place being counted already. In any thread, without the lock."""
        worker = None
        try:
            worker = MAKERS[self.kind, self.warm](call.options.spec, self._zygote())
            worker.start(call)
        except BaseException as e:
            self._not_started(call, e)
            return
        with self._lock:
            self._starting.discard(call)
            self._workers.add(worker)
            self.counts["started"] += 1
            self.memory_by = worker.memory_by or self.memory_by
            call.worker = worker
            if worker.memory_by == "watched RSS":
                self._watched.add(worker)
                self._poke()
            worker.sending += self.warm
            self._listen_to(worker)
            if not self.warm:
                if call.options.timeout is not None:
                    grace = STOP_PATIENCE if worker.keeps_time else 0.0
                    self._note_limit(worker, call, worker.begun_at + call.options.timeout + grace)
                if call.future.cancelled():
                    self._cancelled.append(call)
                    self._poke()
        if self.warm:
            self._hand(worker, call)

    def _not_started(self, call: Call, e: BaseException) -> None:
        with self._lock:
            self._starting.discard(call)
            again = self.warm and any(one.spec == call.options.spec for one in self._workers)
            if again:  # those that are there will come to it
                call.future._withdraw()
                self._pending.appendleft(call)
            elif self._closing or self._pending:
                self._poke()
        if not again:
            self._settle(call, Outcome(None, e.with_traceback(None)))

    def _zygote(self) -> Zygote | None:
        """Of a fresh executor, its own: made in the manager's thread, whose end is the death signal of its tasks."""
        if self.kind == "fresh" and self.zygote is None:
            self.zygote = Zygote((__package__, "resource", *self.preload))
        return self.zygote
