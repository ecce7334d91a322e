"""What an executor's threads share: its queue, its processes, its clock, and the moves that each is made by."""

from __future__ import annotations

import heapq
import os
import select
import threading
import time
from collections import Counter, deque
from contextlib import suppress

from .. import _core
from .._errors import CloneError, TaskTimeout
from .._zygote.zygote import Zygote
from ._callbacks import Callbacks
from ._workers import Outcome, Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from . import _reasons
    from ._calls import Call
    from ._groups import Group
    from ._options import Spec

RSS_PERIOD: Final = 0.05
GROUP_PERIOD: Final = 0.02
COUNTED: Final = ("submitted", "done", "failed", "cancelled", "timed_out", "started", "lost", "stuck")
_RETIRE_PATIENCE: Final = 5.0
_TRIES: Final = 3
_GRACE: Final = 0.1
"""Seconds for a process that keeps its time: one that ended then has the GIL to itself, and not this thread at its side."""

_LATE_ROOM: Final = 64
READ: Final = select.EPOLLIN


class State:
    """The lists and counters of one executor, under its lock; see _manager.

    Attributes:
        pid: the process that it belongs to: nobody else has its fds and its thread.
        at_exit: "wait" or "cancel": what becomes of the calls at interpreter exit.
    """

    _oom: _reasons.OomWatch

    def __init__(
        self,
        kind: str,
        max_workers: int,
        tasks_per_worker: int | None,
        preload: tuple[str, ...],
        name: str,
        at_exit: str,
    ) -> None:
        self.kind = kind
        self.max_workers = max_workers
        self.tasks_per_worker = tasks_per_worker
        self.warm = tasks_per_worker != 1
        self.packs = self.warm and kind != "light"
        # A light process is made sooner than another thread is woken.
        self.starts_here = not self.warm and kind == "light"
        self.preload = preload
        self.zygote: Zygote | None = None
        self.name = name
        self.at_exit = at_exit
        self.pid = os.getpid()
        self.counts: Counter[str] = Counter()
        self.run_seconds = 0.0
        self.memory_by: str | None = None
        self.thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._pending: deque[Call] = deque()
        self._idle: dict[Spec, list[Worker]] = {}
        self._workers: set[Worker] = set()
        self._loaded: set[Worker] = set()
        self._starting: set[Call] = set()
        self._stuck: set[Worker] = set()
        self._cancelled: deque[Call] = deque()
        self._let_go: deque[Worker] = deque()
        self._late: list[tuple[float, int, Worker, Call | None]] = []
        self._late_count = 0
        self._groups: list[tuple[float, Group]] = []
        self._watched: set[Worker] = set()
        self._next_rss = 0.0
        self._closing = False
        self._woken = False
        self._broken: BaseException | None = None
        self._answers: dict[int, tuple[Worker, str]] = {}
        self._heeded: dict[int, Worker] = {}
        self._bell: _core.Bell | None = None
        self._wake = -1
        self._epoll: select.epoll | None = None
        self._callbacks = Callbacks(f"{name} callbacks")

    def check_open(self) -> None:
        """Raise as submit does where no call is taken any more."""
        if self._closing:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def stats(self) -> dict[str, Any]:
        """Counters and the state of the moment."""
        with self._lock:
            busy = sum(worker.call is not None for worker in self._workers)
            return {
                "kind": self.kind,
                "max_workers": self.max_workers,
                "workers": len(self._workers),
                "busy": busy,
                "idle": len(self._workers) - busy,
                "pending": sum(not call.future.done() for call in self._waiting()),
                **{name: self.counts[name] for name in COUNTED},
                "run_seconds": self.run_seconds,
                "memory_by": self.memory_by,
            }

    def _waiting(self) -> list[Call]:
        """Those that have not begun, as far as is known."""
        return [*self._pending, *(call for worker in self._loaded for call in worker.ahead)]

    def forget(self) -> None:
        """In a copy of the process: close what is the other's. Nothing here works there but saying so."""
        self._lock = threading.Lock()
        self._closing = True
        self.thread = None
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1
        for worker in self._workers:
            if worker.warm:
                worker.forget()  # type: ignore[attr-defined]
        # What the workers see is the other's too: nothing here may take a call back.
        self._workers = set()
        self._loaded = set()

    def _poke(self) -> None:
        """Wake the manager; under the lock, so that the eventfd is there."""
        if not self._woken and self._wake >= 0:
            self._woken = True
            os.eventfd_write(self._wake, 1)

    def _close_fds(self) -> None:
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None
        if self._bell is not None:
            self._bell.close()
        os.close(self._wake)
        self._wake = -1

    def _reserve(self, call: Call) -> Worker | None:
        """An idle worker for a call, no longer idle, under the lock; None where there is none."""
        idle = self._idle.get(call.options.spec)
        if not idle or not call.future._begin():
            return None
        # No call from here on: at the end of one, an interrupt would leave the worker neither idle nor the call's.
        worker = idle[-1]
        call.worker = worker
        call.offer = 0
        worker.call = call
        worker.calls += 1
        worker.sending += 1
        call.handed_to = worker
        del idle[-1]
        return worker

    def _hand(self, worker: Worker, call: Call) -> None:
        """Give a call to a worker that was reserved for it. In any thread, without the lock."""
        timeout = call.options.timeout
        problem = None
        try:
            worker.give(call)  # type: ignore[attr-defined]
        except OSError as e:
            problem = e
        with self._lock:
            call.handed_to = None
            worker.sending -= 1
            if timeout is not None:
                self._note_limit(worker, call, self._due(worker, worker.begun_at, timeout))
            if worker.ended and not worker.sending:
                self._let_go.append(worker)
                self._poke()
            elif call.future.cancelled():
                self._cancelled.append(call)
                self._poke()
            if isinstance(problem, (BrokenPipeError, ConnectionResetError)):
                problem = None  # its end is told elsewhere
            # Nothing was sent: it is the call's fault or the machine's, and the worker is as good as before.
            if problem is not None and not worker.ended and worker.call is call:
                self._rest(worker)
                if self._pending:
                    self._poke()
        if problem is not None:
            self._settle(call, Outcome(None, CloneError(problem.errno or 0, step="sendmsg(to a worker)")))

    @staticmethod
    def _due(worker: Worker, since: float, timeout: float) -> float:
        """When to look at a call that has had its time."""
        return since + timeout + (_GRACE if worker.keeps_time else 0.0)

    def _note_limit(self, worker: Worker, call: Call, when: float) -> None:
        if len(self._late) > _LATE_ROOM * (1 + len(self._workers)):
            self._late = [one for one in self._late if one[3] is None or one[2].call is one[3]]
            heapq.heapify(self._late)
        self._late_count += 1
        earlier = not self._late or when < self._late[0][0]
        heapq.heappush(self._late, (when, self._late_count, worker, call))
        if earlier and threading.current_thread() is not self.thread:
            self._poke()

    def _has_room(self) -> bool:
        return len(self._workers) + len(self._starting) < self.max_workers

    def _listen_to(self, worker: Worker) -> None:
        assert self._epoll is not None
        assert self._bell is not None
        for fd, method in worker.fds():
            self._answers[fd] = (worker, method)
            with suppress(FileExistsError):  # it is done again after an interrupt
                self._epoll.register(fd, READ)
        if worker.job is not None:
            self._heeded[worker.number] = worker
            self._bell.heed(worker.job, worker.number)

    def _listen_no_more(self, worker: Worker) -> None:
        for fd, _ in worker.fds():
            self._unlisten(fd)
        if worker.job is not None and self._bell is not None and self._heeded.pop(worker.number, None) is not None:
            self._bell.hush(worker.job)

    def _unlisten(self, fd: int) -> None:
        if self._answers.pop(fd, None) is not None and self._epoll is not None:
            self._epoll.unregister(fd)

    def _rest(self, worker: Worker) -> None:
        """A worker is free for the next call, or has had its number of calls; under the lock."""
        spent = self.tasks_per_worker is not None and worker.calls >= self.tasks_per_worker
        if worker.why or worker.retired_at is not None:
            pass
        elif spent:
            self._retire(worker)
        else:
            idle = self._idle.setdefault(worker.spec, [])
            idle += (worker,)
        worker.call = None

    def _retire(self, worker: Worker) -> None:
        """Tell a worker to end, and see that it does. Under the lock."""
        self._retire_later(worker)
        worker.retire()  # type: ignore[attr-defined]

    def _retire_later(self, worker: Worker) -> None:
        self._late_count += 1
        heapq.heappush(self._late, (time.monotonic() + _RETIRE_PATIENCE, self._late_count, worker, None))

    def _requeue(self, call: Call) -> bool:
        """A call that has not begun is to go to another worker; False where that was tried often enough."""
        call.tries += 1
        if call.tries > _TRIES:
            return False
        call.worker = None
        if not call.is_small:
            call.packed = None  # what was sent is spent: its fds may be closed
        call.future._withdraw()
        self._pending.appendleft(call)
        return True

    def _note_time(self, call: Call, seconds: float) -> None:
        if call.future.seconds is None:
            call.future.seconds = seconds
            self.run_seconds += seconds

    def _settle(self, call: Call, outcome: Outcome) -> None:
        future = call.future
        call.forget()
        if future._settle(outcome.value, outcome.exception):
            self.counts["done" if outcome.failure is None else "failed"] += 1
            self.counts["timed_out"] += isinstance(outcome.failure, TaskTimeout)
            if future._has_callbacks():
                self._callbacks.run(future)
