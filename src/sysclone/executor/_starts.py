"""How calls come to processes: to idle ones, to new ones, or to none because the kernel refuses."""

from __future__ import annotations

import threading

from .._zygote.zygote import Zygote
from ._ahead import Ahead
from ._once import OnceCopied, OnceFresh, OnceLight
from ._warm import WarmCopied, WarmFresh, WarmLight
from ._workers import Outcome, Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from ._calls import Call

MAKERS: Final[dict[tuple[str, bool], type[Worker]]] = {
    ("light", False): OnceLight,
    ("light", True): WarmLight,
    ("copied", False): OnceCopied,
    ("copied", True): WarmCopied,
    ("fresh", False): OnceFresh,
    ("fresh", True): WarmFresh,
}


class Starts(Ahead):
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
            self._note_started(worker, call)
        except BaseException as e:
            if worker is not None and worker in self._workers:
                raise  # an interrupt: submit() gives the call up
            self._not_started(call, e)
            if worker is not None and worker.begun_at:
                worker.end("cancel")
            if threading.current_thread() is not self.thread and not isinstance(e, Exception):
                raise
            return
        if self.warm:
            self._hand(worker, call)

    def _note_started(self, worker: Worker, call: Call) -> None:
        """The process is there: it is the manager's."""
        try:
            self._take_in(worker, call)
        except BaseException:
            self._take_in(worker, call)  # an interrupt: its end is to be heard of all the same
            raise

    def _take_in(self, worker: Worker, call: Call) -> None:
        # What is not to be done twice has no call of a function in it, at which an interrupt could come.
        with self._lock:
            self._starting.discard(call)
            self.memory_by = worker.memory_by or self.memory_by
            call.worker = worker
            worker.number = call.number
            if worker not in self._workers:
                self.counts["started"] += 1
                self._workers.add(worker)
            if worker.memory_by == "watched RSS":
                self._watched.add(worker)
                self._poke()
            if self.warm and call.handed_to is not worker:
                call.handed_to = worker
                worker.sending += 1
            self._listen_to(worker)
            if not self.warm:
                if call.options.timeout is not None:
                    self._note_limit(worker, call, self._due(worker, worker.begun_at, call.options.timeout))
                if call.future.cancelled():
                    self._cancelled.append(call)
                    self._poke()

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
