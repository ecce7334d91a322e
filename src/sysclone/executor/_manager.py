"""The one thread that waits for an executor's processes.

1. It sleeps in epoll_wait on the processes' fds, on their sockets, and on an eventfd that other threads write to. There
   is no thread for a call, and nothing is looked at again and again, but the RSS of what is limited by it.
2. It alone ends, reaps and closes processes, so no fd is closed while another thread uses it. The exceptions: a thread
   that submits may hand its call to an idle worker; `Worker.sending` counts those, and the worker is not closed before
   they are done. And a thread that waits for the result of a light process may take its end upon itself (`help`).
3. The lock is held over the lists and counters, over the packet of a small call and over nothing else: never over a
   clone, over pickling, over a future's condition or over a callback.
4. Callbacks of futures run on a thread of their own, made for the first: a slow one delays no time limit.
5. fds are taken out of the epoll before they are closed: a child that was copied meanwhile has the same open files, and
   they would be reported for ever.
"""

from __future__ import annotations

import heapq
import os
import select
import threading
import time
from collections import Counter, deque

from .._errors import CloneError, ResultError, TaskTimeout
from .._task import STOP_PATIENCE
from .._zygote import Zygote
from . import _reasons
from ._callbacks import Callbacks
from ._workers import MAKERS, OnceLight, Outcome, Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from ._calls import Call
    from ._groups import Group
    from ._options import Spec

RSS_PERIOD: Final = 0.05
_RETIRE_PATIENCE: Final = 5.0
_GROUP_PERIOD: Final = 0.02
_GROUP_PATIENCE: Final = 5.0
_TRIES: Final = 3
_EVENTS: Final = 256
_READ: Final = select.EPOLLIN


class Manager:
    """The processes, the queue and the thread of one executor.

    Attributes:
        pid: the process that it belongs to: nobody else has its fds and its thread.
        at_exit: "wait" or "cancel": what becomes of the calls at interpreter exit.
    """

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
        self._maker = MAKERS[kind, self.warm]
        self._lock = threading.Lock()
        self._pending: deque[Call] = deque()
        self._idle: dict[Spec, list[Worker]] = {}
        self._workers: set[Worker] = set()
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
        self._wake = -1
        self._epoll: select.epoll | None = None
        self._callbacks = Callbacks(f"{name} callbacks")

    # --- what other threads call

    def submit(self, call: Call) -> None:
        """Take a call.

        Raises:
            RuntimeError: the executor was shut down, or belongs to another process.
            CloneError: there is no fd or thread for the manager.
        """
        if os.getpid() != self.pid:
            raise RuntimeError(
                f"this Executor belongs to process {self.pid}: make one of its own in process {os.getpid()}"
            )
        worker = None
        with self._lock:
            if self._broken is not None:
                raise RuntimeError("the executor's manager has failed") from self._broken
            if self._closing:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self.thread is None:
                self._begin()
            self.counts["submitted"] += 1
            here = False
            if not self._pending:
                worker = self._reserve(call) if self.warm else None
                here = self.starts_here and not call.options.spec.limited and self._has_room() and call.future._begin()
            if here:
                self._starting.add(call)
            elif worker is None:
                self._pending.append(call)
                self._poke()
        if worker is not None:
            self._hand(worker, call)
        elif here:
            self._start(call)

    def cancelled(self, call: Call) -> None:
        """A future was cancelled: called by its cancel(), in any thread."""
        self._cancelled.append(call)
        with self._lock:
            self.counts["cancelled"] += 1
            self._poke()

    def close(self, cancel_pending: bool, cancel_running: bool) -> None:
        """Take no more calls."""
        with self._lock:
            self._closing = True
            calls = list(self._pending) if cancel_pending or cancel_running else []
            if cancel_running:
                calls += self._starting
                calls += [worker.call for worker in self._workers if worker.call is not None]
            self._poke()
        for call in calls:
            call.future.cancel()

    def join(self) -> None:
        """Wait until every process is gone and every callback has run."""
        thread = self.thread
        if thread is None or os.getpid() != self.pid or threading.current_thread() in (thread, self._callbacks.thread):
            return
        thread.join()
        self._callbacks.join()

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
                "pending": sum(not call.future.done() for call in self._pending),
                **{name: self.counts[name] for name in COUNTED},
                "run_seconds": self.run_seconds,
                "memory_by": self.memory_by,
            }

    def _poke(self) -> None:
        """Wake the manager; under the lock, so that the eventfd is there."""
        if not self._woken and self._wake >= 0:
            self._woken = True
            os.eventfd_write(self._wake, 1)

    def _begin(self) -> None:
        self._oom = _reasons.OomWatch()
        try:
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            try:
                self._epoll = select.epoll()
                self._epoll.register(self._wake, _READ)
            except OSError:
                os.close(self._wake)
                self._wake = -1
                raise
        except OSError as e:
            raise CloneError(e.errno or 0, step="epoll_create(executor)") from None
        thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        try:
            thread.start()
        except RuntimeError as e:
            self._close_fds()
            raise RuntimeError(f"no thread for the executor's manager: {e}") from e
        self.thread = thread
        LIVE.add(self)

    def check_open(self) -> None:
        """Raise as submit does where no call is taken any more."""
        if self._closing:
            raise RuntimeError("cannot schedule new futures after shutdown")

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

    # --- handing a call to an idle worker

    def _reserve(self, call: Call) -> Worker | None:
        """An idle worker for a call, no longer idle, under the lock; None where there is none."""
        idle = self._idle.get(call.options.spec)
        if not idle or not call.future._begin():
            return None
        worker = idle.pop()
        worker.call = call
        worker.calls += 1
        worker.sending += 1
        call.worker = worker
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
            worker.sending -= 1
            if timeout is not None:
                self._note_limit(worker, call, worker.begun_at + timeout)
            if worker.ended and not worker.sending:
                self._let_go.append(worker)
                self._poke()
            elif call.future.cancelled():
                self._cancelled.append(call)
                self._poke()
        if problem is not None and not isinstance(problem, (BrokenPipeError, ConnectionResetError)):
            # Nothing was sent: it is the call's fault or the machine's, and the worker is as good as before.
            error = CloneError(problem.errno or 0, step="sendmsg(to a worker)")
            self._settle(call, Outcome(None, error))
            with self._lock:
                if not worker.ended and worker.call is call:
                    self._rest(worker)

    def _note_limit(self, worker: Worker, call: Call, when: float) -> None:
        self._late_count += 1
        earlier = not self._late or when < self._late[0][0]
        heapq.heappush(self._late, (when, self._late_count, worker, call))
        if earlier:
            self._poke()

    # --- the thread

    def _run(self) -> None:
        try:
            while True:
                self._listen()
                # Whoever waits for a future that was just settled waits for the GIL now: nothing is called for nothing.
                if self._cancelled:
                    self._end_cancelled()
                while self._let_go:
                    self.on_end(self._let_go.popleft())
                if self._late:
                    self._end_late()
                if self._watched:
                    self._look_at_memory()
                if self._groups:
                    self._close_groups()
                if self._pending:
                    self._start_pending()
                if self._closing and self._is_over():
                    break
        except BaseException as e:
            self._fail(e)
        if self.zygote is not None:
            self.zygote.close()
        self._callbacks.close()
        LIVE.discard(self)

    def _is_over(self) -> bool:
        with self._lock:
            if not self._closing or self._pending:
                return False
            for workers in self._idle.values():
                for worker in workers:
                    self._retire(worker)
                workers.clear()
            if self._workers or self._starting or self._groups:
                return False
            # A light process that cannot be stopped goes on; the end of the interpreter waits for it, as for a thread.
            for worker in self._stuck:
                for fd, _ in worker.fds():
                    self._unlisten(fd)
            self._close_fds()
            return True

    def _close_fds(self) -> None:
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None
        os.close(self._wake)
        self._wake = -1

    def _fail(self, e: BaseException) -> None:
        """A fault of the manager's own: nobody is to wait for ever."""
        with self._lock:
            self._broken = e
            self._closing = True
            calls = [*self._pending, *(worker.call for worker in self._workers if worker.call is not None)]
            self._pending.clear()
        for worker in list(self._workers):
            try:
                worker.end("retire")
            except Exception:
                continue
        for call in calls:
            error = RuntimeError(f"the executor's manager has failed: {type(e).__name__}: {e}")
            error.__cause__ = e
            self._settle(call, Outcome(None, error))
        with self._lock:
            self._close_fds()

    def _listen(self) -> None:
        assert self._epoll is not None
        for fd, _ in self._epoll.poll(self._patience(), _EVENTS):
            if fd == self._wake:
                with self._lock:
                    self._woken = False
                    os.eventfd_read(fd)
                continue
            found = self._answers.get(fd)
            if found is not None:
                worker, method = found
                getattr(self, method)(worker)

    def _patience(self) -> float | None:
        """Seconds until there is something to do without an event."""
        if not (self._late or self._groups or self._watched):
            return None
        now = time.monotonic()
        moments = []
        with self._lock:
            if self._late:
                moments.append(self._late[0][0])
        if self._groups:
            moments.append(now + _GROUP_PERIOD)
        if self._watched:
            moments.append(self._next_rss)
        return max(0.0, min(moments) - now) if moments else None

    # --- events

    def on_answer(self, worker: Worker) -> None:
        """A warm worker has answered."""
        try:
            outcome, why = worker.take()  # type: ignore[attr-defined]
        except BlockingIOError:
            return
        except (EOFError, ConnectionResetError):
            self._unlisten(worker.fds()[0][0])  # its end of the socket is closed
            return
        call = worker.call
        if call is None:
            return
        now = time.monotonic()
        if outcome is None:
            self._send_elsewhere(worker, call, why)
            return
        if outcome.exception is not None:
            outcome.exception = _reasons.annotate(outcome.exception, call.options, worker.memory_by)
        with self._lock:
            self._note_time(worker, call, now)
            call.worker = None
            self._rest(worker)
        self._settle(call, outcome)

    def _note_time(self, worker: Worker, call: Call, now: float) -> None:
        call.future.seconds = now - worker.begun_at
        self.run_seconds += call.future.seconds

    def _rest(self, worker: Worker) -> None:
        """A worker is free for the next call, or has had its number of calls; under the lock."""
        worker.call = None
        spent = self.tasks_per_worker is not None and worker.calls >= self.tasks_per_worker
        if worker.why or worker.retired_at is not None:
            return
        if spent:
            self._retire(worker)
        else:
            self._idle.setdefault(worker.spec, []).append(worker)

    def _send_elsewhere(self, worker: Worker, call: Call, why: str) -> None:
        """A worker does not know the call's function: it was copied before that came to be. A new one will."""
        with self._lock:
            worker.call = None
            self._retire(worker)
            again = self._requeue(call)
        if not again:
            self._settle(call, Outcome(None, ResultError(f"the call came to a worker, but {why}", pid=worker.task.pid)))

    def _requeue(self, call: Call) -> bool:
        """A call that has not begun is to go to another worker; False where that was tried often enough."""
        call.tries += 1
        if call.tries > _TRIES:
            return False
        call.worker = None
        call.packed = None  # what was sent is spent: its fds may be closed
        call.future._withdraw()
        self._pending.appendleft(call)
        return True

    def _retire(self, worker: Worker) -> None:
        """Tell a worker to end, and see that it does. Under the lock."""
        worker.retire()  # type: ignore[attr-defined]
        self._late_count += 1
        heapq.heappush(self._late, (time.monotonic() + _RETIRE_PATIENCE, self._late_count, worker, None))

    def on_end(self, worker: Worker) -> None:
        """A process has ended."""
        with self._lock:
            # An event may be older than the fd that bears its number now.
            if (worker.ended and not worker.sent_last) or worker.helped or not worker.task.done():
                return
            idle = self._idle.get(worker.spec)
            if idle is not None and worker in idle:
                idle.remove(worker)
            worker.ended = True
            for fd, _ in worker.fds():
                self._unlisten(fd)
            worker.sent_last = worker.sending > 0
            if worker.sending:
                return
        if worker.warm and worker.call is not None:
            self._last_answer(worker)
        self._finish(worker, worker.call)

    def _finish(self, worker: Worker, call: Call | None) -> None:
        """A process has ended, and is this thread's: what came of its call, and its end."""
        outcome = None
        if call is None or call.future.done():
            worker.reap()
        else:
            outcome = worker.outcome(call.options, self._oom)
        requeued = False
        if call is not None and outcome is not None and worker.died_before(outcome):
            with self._lock:
                requeued = self._requeue(call)
        self._bury(worker, call)
        if call is not None and outcome is not None and not requeued:
            self._settle(call, outcome)

    def _last_answer(self, worker: Worker) -> None:
        """What it had answered before it ended."""
        try:
            outcome, _ = worker.take()  # type: ignore[attr-defined]
        except (BlockingIOError, EOFError, ConnectionResetError):
            return
        if outcome is not None and worker.call is not None:
            call, worker.call = worker.call, None
            self._settle(call, outcome)

    def _bury(self, worker: Worker, call: Call | None) -> None:
        group = worker.group
        with self._lock:
            if call is not None:
                self._note_time(worker, call, time.monotonic())
            if worker.warm and worker.retired_at is None:
                self.counts["lost"] += 1
            self._workers.discard(worker)
            self._stuck.discard(worker)
            self._watched.discard(worker)
        worker.close()
        if group is not None and not group.close():
            self._groups.append((time.monotonic() + _GROUP_PATIENCE, group))

    def _settle(self, call: Call, outcome: Outcome) -> None:
        future = call.future
        call.forget()
        if future._settle(outcome.value, outcome.exception):
            self.counts["done" if outcome.exception is None else "failed"] += 1
            self.counts["timed_out"] += isinstance(outcome.exception, TaskTimeout)
            if future._has_callbacks():
                self._callbacks.run(future)

    def _unlisten(self, fd: int) -> None:
        if self._answers.pop(fd, None) is not None and self._epoll is not None:
            self._epoll.unregister(fd)

    # --- ends that are asked for

    def _end_cancelled(self) -> None:
        while self._cancelled:
            call = self._cancelled.popleft()
            worker = call.worker
            if worker is None or worker.call is not call:
                continue
            if call.future.cancelled() and not worker.ended:
                worker.end("cancel")
                self._give_up_later(worker, call)

    def _give_up_later(self, worker: Worker, call: Call) -> None:
        """A light process may not be able to end at this moment: its place is not to be lost for that."""
        with self._lock:
            self._note_limit(worker, call, time.monotonic() + STOP_PATIENCE)

    def _end_late(self) -> None:
        while True:
            now = time.monotonic()
            with self._lock:
                if not self._late or self._late[0][0] > now:
                    return
                _, _, worker, call = heapq.heappop(self._late)
            if call is None:
                if worker in self._workers:
                    worker.end("retire")
            elif worker.call is call and worker in self._workers and not worker.ended:
                self._end_one(worker, call, now)

    def _end_one(self, worker: Worker, call: Call, now: float) -> None:
        timeout = call.options.timeout
        if worker.why or worker.keeps_time:
            self._give_up(worker, call)
            return
        assert timeout is not None
        progress = worker.progress()
        due = (worker.begun_at if progress is None else progress[1]) + timeout
        if due > now:
            with self._lock:
                self._note_limit(worker, call, due)
            return
        state = _reasons.state_of(worker.task.pid)
        worker.end("timeout")
        if not worker.copied:
            self._give_up_later(worker, call)
            return
        self._settle(call, Outcome(None, _reasons.of_timeout(worker.task.pid, timeout, False, state)))

    def _give_up(self, worker: Worker, call: Call) -> None:
        """A light process that cannot be stopped now: it goes on, and its place goes to another."""
        if worker.copied:
            return
        with self._lock:
            self._workers.discard(worker)
            self._stuck.add(worker)
            self.counts["stuck"] += 1
        seconds = call.options.timeout or 0.0
        self._settle(call, Outcome(None, TaskTimeout(pid=worker.task.pid, seconds=seconds, still_running=True)))

    # --- memory that is looked at

    def _look_at_memory(self) -> None:
        now = time.monotonic()
        if now < self._next_rss:
            return
        self._next_rss = now + RSS_PERIOD
        for worker in self._watched:
            limit = worker.spec.memory_bytes
            if worker.call is None or worker.why or limit is None:
                continue
            more = worker.rss_bytes() - worker.base_rss
            if more > limit:
                worker.over = more
                worker.end("memory")

    def _close_groups(self) -> None:
        now = time.monotonic()
        self._groups = [(until, group) for until, group in self._groups if not group.close() and now < until]

    # --- beginnings

    def _start_pending(self) -> None:
        while True:
            with self._lock:
                while self._pending and self._pending[0].future.done():
                    self._pending.popleft()
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

    def _has_room(self) -> bool:
        return len(self._workers) + len(self._starting) < self.max_workers

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
            worker = self._maker(call.options.spec, self._zygote())
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

    def _zygote(self) -> Zygote | None:
        """Of a fresh executor, its own: made in the manager's thread, whose end is the death signal of its tasks."""
        if self.kind == "fresh" and self.zygote is None:
            self.zygote = Zygote((__package__, "resource", *self.preload))
        return self.zygote

    def _listen_to(self, worker: Worker) -> None:
        assert self._epoll is not None
        for fd, method in worker.fds():
            self._answers[fd] = (worker, method)
            self._epoll.register(fd, _READ)

    def _not_started(self, call: Call, e: BaseException) -> None:
        with self._lock:
            self._starting.discard(call)
            again = self.warm and any(one.spec == call.options.spec for one in self._workers)
            if again:  # those that are there will come to it
                call.future._withdraw()
                self._pending.appendleft(call)
            elif self._closing:
                self._poke()
        if not again:
            self._settle(call, Outcome(None, e.with_traceback(None)))

    # --- the thread that waits for a light process's result

    def help(self, call: Call, seconds: float) -> None:
        """Wait for a call's process in the calling thread, for a moment, in place of the manager: two wake-ups less.

        The process is not listened to meanwhile; what ends it goes on as ever.
        """
        worker = call.worker
        if not isinstance(worker, OnceLight) or os.getpid() != self.pid:
            return
        with self._lock:
            if worker.call is not call or worker.ended or worker.helped or worker.spec.limited:
                return
            worker.helped = True
            self._unlisten(worker.fd)
        done = False
        try:
            done = worker.task._job.wait(seconds)
        finally:
            with self._lock:
                worker.helped = False
                if done:
                    worker.ended = True
                else:
                    self._listen_to(worker)
        if done:
            self._finish(worker, call)
            if self._pending or self._closing:
                with self._lock:
                    self._poke()


LIVE: set[Manager] = set()
COUNTED: Final = ("submitted", "done", "failed", "cancelled", "timed_out", "started", "lost", "stuck")
