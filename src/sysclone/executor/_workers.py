"""The processes of an executor, seen from its manager: one for a call, or one for call after call.

The manager's thread alone starts, ends, reaps and closes them. Other threads may hand a call to an idle one, which they
have taken out of the idle ones under the manager's lock.
"""

from __future__ import annotations

import os
import time
from collections import deque

from .. import _call, _core
from .._errors import Cancelled, TaskExited, TaskFailed, TaskKilled, TaskLost, TaskTimeout
from .._task import copied, light
from .._task.copied import CopiedTask
from .._task.status import Status
from . import _reasons
from ._board import Board
from ._limits import prepare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from .._api import Context
    from .._task.task import Task
    from .._zygote.zygote import Zygote
    from ._calls import Call
    from ._options import Options, Spec

_KILL: Final = 9
_SIGNAL_GROUP: Final = 4
_HERE: Final = os.path.dirname(__file__) + os.sep
_BELOW: Final = frozenset(one.__file__ for one in (_call, copied, light))


class Outcome:
    """What came of a call: a value, or an exception.

    Attributes:
        failure: the exception; also one that stands in the value, of a map's chunk of which a part is there.
    """

    __slots__ = ("exception", "failure", "value")

    def __init__(self, value: Any, exception: BaseException | None, within: BaseException | None = None) -> None:
        self.value = value
        self.exception = exception
        self.failure = exception or within

    def after(self, values: list[Any]) -> Outcome:
        """The same failure, which came after these results of its chunk."""
        assert self.exception is not None
        return Outcome((values, self.exception), None, self.exception)


class Answer:
    """What a worker said of a call: what came of it, or None and why it has to go to another worker."""

    __slots__ = ("number", "outcome", "seconds", "why")

    def __init__(self, number: int, outcome: Outcome | None, why: str, seconds: float | None) -> None:
        self.number = number
        self.outcome = outcome
        self.why = why
        self.seconds = seconds


class Worker:
    """One process.

    Attributes:
        warm: whether it takes call after call.
        copied: whether it has memory of its own.
        keeps_time: whether it ends by itself when the call's time is over.
        job: of a light process for one call, what the bell tells of, as this number; see State.
        task: its Task.
        spec: what it is made with.
        zygote: whom a fresh one is cloned from.
        call: what it is at, or None.
        ahead: what it was given beyond that, in order. All but the first of these can be taken back at any time; the
            first too, unless the worker has begun with it, and then its answer to the call before is on its way.
        begun_at: when it came to what it is at (time.monotonic).
        calls: how many it has been given.
        why: why it is being ended: "timeout", "cancel", "memory", "retire", or empty.
        over: by how much its RSS was over the limit, where it is ended for that.
        sending: how many threads are handing it something at this moment: its fds may not be closed meanwhile.
        ended: whether it was seen to have ended: nobody else is to see that again.
        sent_last: whether its end has to wait for such a thread.
        helped: whether a thread that wants its result waits for it in the manager's place.
        retired_at: when it was told to end by itself.
    """

    warm = False
    copied = True
    keeps_time = False
    call: Call | None = None
    begun_at = 0.0
    calls = 0
    why = ""
    over: int | None = None
    sending = 0
    ended = False
    sent_last = False
    helped = False
    retired_at: float | None = None
    base_rss = 0
    job: _core.Job | None = None
    number = 0
    if TYPE_CHECKING:

        @property
        def task(self) -> Task: ...

    def __init__(self, spec: Spec, zygote: Zygote | None) -> None:
        self.spec = spec
        self.zygote = zygote
        self.ahead: deque[Call] = deque()
        self.limits, self.group, self.memory_by = prepare(spec, self.copied)

    def start(self, call: Call) -> None:
        """Make the process, for this call.

        Raises:
            CloneError: the kernel refused something.
        """
        self.call = call
        self.calls += 1
        try:
            self._start(call)
        except BaseException:
            self._unmade()
            raise
        finally:
            self.limits.close()
        self.begun_at = time.monotonic()
        if self.memory_by == "watched RSS":
            self.base_rss = self.rss_bytes()

    def _start(self, call: Call) -> None:
        raise NotImplementedError

    def _unmade(self) -> None:
        if self.group is not None:
            self.group.close()

    def fds(self) -> list[tuple[int, str]]:
        """The fds to listen to, each with the name of the method that answers."""
        return [(self.task.fileno(), "on_end")]

    def progress(self) -> tuple[int, float] | None:
        """The item that it is at and since when; None where it does not tell."""
        return None

    def room(self) -> int:
        """How many calls it may have ahead."""
        return 0

    def take_back(self, call: Call) -> bool:
        """Whether a call that it was given is not begun with, and now never will be. Under the lock."""
        return False

    def told(self, call: Call) -> list[Any]:
        """What the items of a call have come to, as far as it got."""
        return []

    def end(self, why: str) -> None:
        """End it, whatever it is at."""
        self.why = self.why or why
        self.task.cancel()

    def rss_bytes(self) -> int:
        """What it holds in memory now; 0 where it is gone."""
        try:
            with open(f"/proc/{self.task.pid}/statm") as f:
                return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")
        except (OSError, IndexError):
            return 0

    def done(self) -> bool:
        """Whether its process, or its function, has ended."""
        return self.task.done()

    def was_refused(self) -> bool:
        """Whether the kernel would not make it, which start() may be too early to know."""
        return False

    def result(self) -> Any:
        """What came of its function."""
        return self.task.result()

    def outcome(self, options: Options, oom: _reasons.OomWatch) -> Outcome:
        """What came of its call, now that its process has ended."""
        try:
            return Outcome(self.result(), None)
        except BaseException as e:
            return Outcome(None, self._reason(stripped(e), options, oom))

    def reap(self) -> None:
        """Its process has ended, and what came of its call is known or not asked for."""
        self.task.wait()

    def died_before(self, outcome: Outcome) -> bool:
        """Whether it ended before it began with its call."""
        return False

    def _reason(self, e: BaseException, options: Options, oom: _reasons.OomWatch) -> BaseException:
        if self.why == "timeout" and isinstance(e, (Cancelled, TaskFailed)):
            return _reasons.of_timeout(self.task.pid, options.timeout or 0.0, False, "")
        if isinstance(e, (TaskExited, TaskKilled, TaskLost)) and e.pid == self.task.pid:
            status = self.task.status or Status.unknown("it was not seen")
            better = _reasons.of_death(
                self.task.pid,
                status,
                options,
                group=self.group,
                memory_by=self.memory_by,
                over=self.over if self.why == "memory" else None,
                oom=oom,
            )
            better.__cause__ = e.__cause__
            for note in getattr(e, "__notes__", ()):
                better.add_note(note)
            return better
        if isinstance(e, TaskTimeout) and e.pid == self.task.pid:
            e.seconds = options.timeout or e.seconds
            return e
        return _reasons.annotate(e, options, self.memory_by)

    def close(self) -> None:
        """Let go of everything, its process having ended."""
        self.task.close()
        self.call = None


def fresh_task(zygote: Zygote | None, context: Context, fn: Callable[..., Any], *arguments: Any) -> CopiedTask:
    assert zygote is not None
    task = zygote.start_in(context, fn, *arguments)
    assert isinstance(task, CopiedTask)
    return task


def note_on(board: Board, number: int, item: int) -> None:
    board.begin(number, item, time.monotonic())


def end_what_is_left(task: Task) -> None:
    status = task.status
    if status is None or status.signal is not None or not status.known:
        end_group(task)


def end_group(task: Task) -> None:
    """SIGKILL to every process in the process group that a task leads, if it leads one."""
    try:
        _core.pidfd_send_signal(task.pidfd, _KILL, _SIGNAL_GROUP)
    except ProcessLookupError:
        return
    except OSError:
        # Before Linux 6.9. The group's number is the task's own as long as nobody has waited for it.
        try:
            _core.pidfd_send_signal(task.pidfd, 0, 0)
            os.killpg(task.pid, _KILL)
        except OSError:
            return


def stripped(e: BaseException) -> BaseException:
    """Without the frames of the executor itself: they would keep alive what they hold."""
    tb = e.__traceback__
    while tb is not None and _is_ours(tb.tb_frame.f_code.co_filename):
        tb = tb.tb_next
    return e.with_traceback(tb)


def _is_ours(file: str) -> bool:
    return file.startswith(_HERE) or file in _BELOW
