"""How calls come to their end: by an answer, by the end of their process, or because somebody ends them."""

from __future__ import annotations

import heapq
import os
import time

from .._errors import ResultError, TaskTimeout
from .._task.task import STOP_PATIENCE
from . import _reasons
from ._once import OnceLight
from ._starts import Starts
from ._state import RSS_PERIOD
from ._workers import Answer, Outcome, Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from ._calls import Call

_GROUP_PATIENCE: Final = 5.0


class Ends(Starts):
    """Answers to what the processes do, and ends those that are late, unwanted or too large."""

    def on_answer(self, worker: Worker) -> None:
        """A warm worker has answered."""
        try:
            answers = worker.take()  # type: ignore[attr-defined]
        except EOFError:
            self._unlisten(worker.fds()[0][0])  # its end of the socket is closed
            return
        if not answers:
            return
        with self._lock:
            ended = self._accept(worker, answers)
            self._go_on(worker)
        if self._pending or self._loaded:
            self._start_pending()  # the worker has the next call before anybody is told of this one
        for call, outcome in ended:
            self._settle(call, outcome)

    def _accept(self, worker: Worker, answers: list[Answer]) -> list[tuple[Call, Outcome]]:
        """The calls that a worker's answers are about, in the order in which it has them; under the lock."""
        ended: list[tuple[Call, Outcome]] = []
        for answer in answers:
            call = worker.call
            if call is None or call.number != answer.number:
                continue
            worker.call = worker.ahead.popleft() if worker.ahead else None
            call.worker = None
            outcome = answer.outcome
            if outcome is not None:
                seconds = answer.seconds
                self._note_time(call, time.monotonic() - worker.begun_at if seconds is None else seconds)
                if outcome.exception is not None:
                    outcome.exception = _reasons.annotate(outcome.exception, call.options, worker.memory_by)
            else:
                outcome = self._send_elsewhere(worker, call, answer.why)
            if outcome is not None:
                ended.append((call, outcome))
        return ended

    def _go_on(self, worker: Worker) -> None:
        """A worker has answered and is at the next call, or is given one; under the lock."""
        now = time.monotonic()
        if worker.call is not None:
            worker.ahead.appendleft(worker.call)
            worker.call = None
        if self._loaded:
            self._take_back_from_slow(now, but=worker)
        if self._pending and not worker.why and worker.retired_at is None:
            self._give_ahead(worker)
        if not worker.ahead:
            self._loaded.discard(worker)
        self._next(worker, now)

    def _send_elsewhere(self, worker: Worker, call: Call, why: str) -> Outcome | None:
        """A worker does not know the call's function: it was copied before that came to be. A new one will."""
        if worker.retired_at is None:
            self._retire(worker)
        self._take_back(worker)
        if self._requeue(call):
            return None
        return Outcome(None, ResultError(f"the call came to a worker, but {why}", pid=worker.task.pid))

    def on_end(self, worker: Worker) -> None:
        """A process has ended."""
        with self._lock:
            # An event may be older than the fd that bears its number now.
            if (worker.ended and not worker.sent_last) or worker.helped or not worker.done():
                return
            idle = self._idle.get(worker.spec)
            if idle is not None and worker in idle:
                idle.remove(worker)
            worker.ended = True
            self._listen_no_more(worker)
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
            outcome = _after_what_came(worker, call, worker.outcome(call.options, self._oom))
        with self._lock:
            self._take_back(worker)
        requeued = False
        if call is not None and outcome is not None and worker.died_before(outcome):
            with self._lock:
                requeued = self._requeue(call)
        self._bury(worker, None if requeued else call)
        if call is not None and outcome is not None and not requeued:
            self._settle(call, outcome)

    def _last_answer(self, worker: Worker) -> None:
        """What it had answered before it ended."""
        try:
            answers = worker.take()  # type: ignore[attr-defined]
        except EOFError:
            return
        with self._lock:
            ended = self._accept(worker, answers)
        for call, outcome in ended:
            self._settle(call, outcome)

    def _bury(self, worker: Worker, call: Call | None) -> None:
        group = worker.group
        with self._lock:
            if call is not None:
                self._note_time(call, time.monotonic() - worker.begun_at)
            if worker.warm and worker.retired_at is None:
                self.counts["lost"] += 1
            self.counts["started"] -= worker.was_refused()
            self._workers.discard(worker)
            self._stuck.discard(worker)
            self._watched.discard(worker)
        worker.close()
        if group is not None and not group.close():
            self._groups.append((time.monotonic() + _GROUP_PATIENCE, group))

    def _end_cancelled(self) -> None:
        while self._cancelled:
            call = self._cancelled.popleft()
            worker = call.worker
            if worker is None or not call.future.cancelled() or worker.ended:
                continue
            if worker.call is call and worker.sending:
                continue  # whoever is handing it over puts it back here
            with self._lock:
                dropped = self._drop(call)
            if not dropped and self._end(worker, call, "cancel"):
                self._give_up_later(worker, call)

    def _end(self, worker: Worker, call: Call, why: str) -> bool:
        """End a worker that is at a call; False where it is not.

        Nothing else may be lost by it: what it has ahead is taken back first, and if it has begun with any of that, then
        its answer to this call is on its way.
        """
        with self._lock:
            self._take_back(worker)
            if worker.call is not call or worker.ahead:
                return False
        worker.end(why)
        return True

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
                self._end_retired(worker)
            elif worker.call is call and worker in self._workers and not worker.ended:
                self._end_one(worker, call, now)

    def _end_one(self, worker: Worker, call: Call, now: float) -> None:
        timeout = call.options.timeout
        if worker.why:
            self._give_up(worker, call)
            return
        assert timeout is not None
        progress = worker.progress()
        due = self._due(worker, worker.begun_at if progress is None else progress[1], timeout)
        if due > now:
            with self._lock:
                self._note_limit(worker, call, due)
            return
        # Not of a light one: each look at /proc is a wait for the GIL, which such a call may be using.
        state = _reasons.state_of(worker.task.pid) if worker.copied else ""
        if not self._end(worker, call, "timeout"):
            return
        if not worker.copied:
            self._give_up_later(worker, call)
            return
        with self._lock:
            self._note_time(call, now - worker.begun_at)
        outcome = Outcome(None, _reasons.of_timeout(worker.task.pid, timeout, False, state))
        self._settle(call, _after_what_came(worker, call, outcome))

    def _end_retired(self, worker: Worker) -> None:
        """A worker was told to end, and has not."""
        if worker not in self._workers:
            return
        if worker.call is None:
            worker.end("retire")
            return
        with self._lock:  # it had begun with a call before it heard of that
            self._retire_later(worker)

    def _give_up(self, worker: Worker, call: Call) -> None:
        """A light process that cannot be stopped now: it goes on, and its place goes to another."""
        if worker.copied:
            return
        with self._lock:
            self._workers.discard(worker)
            self._stuck.add(worker)
            self.counts["stuck"] += 1
            self._note_time(call, time.monotonic() - worker.begun_at)
        seconds = call.options.timeout or 0.0
        outcome = Outcome(None, TaskTimeout(pid=worker.task.pid, seconds=seconds, still_running=True))
        self._settle(call, _after_what_came(worker, call, outcome))

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
                self._end(worker, worker.call, "memory")

    def _close_groups(self) -> None:
        now = time.monotonic()
        self._groups = [(until, group) for until, group in self._groups if not group.close() and now < until]

    def help(self, call: Call, seconds: float) -> None:
        """Wait for a call's process in the calling thread, for a moment, in place of the manager: two wake-ups less.

        The process is not listened to meanwhile; what ends it goes on as ever.
        """
        worker = call.worker
        if not isinstance(worker, OnceLight) or os.getpid() != self.pid:
            return
        mine = done = False
        try:
            with self._lock:
                if worker.call is not call or worker.ended or worker.helped or worker.spec.limited:
                    return
                mine = worker.helped = True
                self._listen_no_more(worker)
            done = worker.job.wait(seconds)
            with self._lock:
                if done:
                    worker.ended = True
                else:
                    self._listen_to(worker)
                    mine = False
                worker.helped = False
            if done:
                self._finish(worker, call)
        except BaseException:
            # An interrupt, at any point. The manager begins anew, with what may be done twice.
            if mine:
                with self._lock:
                    worker.helped = worker.ended = False
                    self._listen_to(worker)
                    self._let_go.append(worker)
                    self._poke()
            raise
        if done and (self._pending or self._closing):
            with self._lock:
                self._poke()


def _after_what_came(worker: Worker, call: Call, outcome: Outcome) -> Outcome:
    """Of a map's chunk: the results of the items before the one that failed are not lost by that."""
    if call.items is None or outcome.exception is None:
        return outcome
    values = worker.told(call)
    return Outcome((values, None), None) if len(values) == len(call.items) else outcome.after(values)
