"""The processes that run one call."""

from __future__ import annotations

import functools
import time

from .. import _call
from .._task.copied import CopiedTask
from .._task.light import STOP_CANCEL, LightTask
from .._task.progress import forget
from . import _reasons
from ._board import Board
from ._loop import begin_item, run_chunk, run_chunk_there, run_once
from ._told import Told
from ._workers import Outcome, Worker, end_group, end_what_is_left, fresh_task, note_on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .. import _core
    from .._api import Context
    from ._calls import Call
    from ._options import Options


class OnceLight(Worker):
    """A light process for one call.

    Nothing here is done that costs as much as a microsecond and can wait: its Task is made for who asks for it.
    """

    copied = False
    keeps_time = True
    job: _core.Job
    _task: LightTask | None = None

    def _start(self, call: Call) -> None:
        options = call.options
        context = options.timed
        fn, args, kwargs = call.fn, call.args, call.kwargs
        self._since: list[Any] = [0, time.monotonic()]
        self._values: list[Any] = []
        if call.items is not None:
            context = options.spec.context
            begin = functools.partial(begin_item, self._since, self._values, call.limit_ns) if call.each else None
            args = (fn, call.items, call.many, begin, self._values)
            fn, kwargs = run_chunk, {}
        if self.limits.is_needed or options.cpu_seconds is not None:
            args = (self.limits, options.cpu_seconds, True, fn, args, kwargs)
            fn, kwargs = run_once, {}
        if self.limits.enter:  # the files by which it enters its cgroup are closed when it has its own
            self.job = _call.start_light(context, fn, args, kwargs)._job
        else:
            self.job = _call.start_soon(context, fn, args, kwargs)

    @property
    def task(self) -> LightTask:
        """Its Task, made now."""
        if self._task is None:
            self._task = LightTask(self.job, "call", False)
        return self._task

    def was_refused(self) -> bool:
        """Whether its clone came to nothing."""
        return self.job.pid < 0

    def fds(self) -> list[tuple[int, str]]:
        """None: the executor's bell rings at its end."""
        return []

    def done(self) -> bool:
        """Whether its function has ended."""
        return self.job.done()

    def end(self, why: str) -> None:
        """End it where that is safe."""
        self.why = self.why or why
        self.job.stop(STOP_CANCEL)

    def result(self) -> Any:
        """What its function returned, or raised."""
        return self.job.result()

    def reap(self) -> None:
        """Its parked thread has done that."""
        self.job.wait()

    def close(self) -> None:
        """Let go of the process; what it said of its progress was nobody's."""
        if self._task is None:
            forget(self.job.pid)
        self.job.close()
        self.call = None

    def told(self, call: Call) -> list[Any]:
        """The very list."""
        return list(self._values)

    def progress(self) -> tuple[int, float] | None:
        """The item and its moment, straight from the memory that is shared."""
        return self._since[0], self._since[1]


class OnceCopied(Worker):
    """A copied process for one call."""

    task: CopiedTask

    def _start(self, call: Call) -> None:
        options = call.options
        self._board: Board | None = None
        self._told: Told | None = None
        context = options.timed
        fn, args, kwargs = call.fn, call.args, call.kwargs
        if call.items is not None:
            self._board = board = Board(named=self.zygote is not None)
            context = options.spec.context
            begin = functools.partial(note_on, board, call.number) if call.each else None
            try:
                self._told = Told() if len(call.items) > 1 else None
            except BaseException:
                self._close_pages()
                raise
            fn, args, kwargs = run_chunk_there, (fn, call.items, call.many, begin, self._told, call.number), {}
        try:
            self.task = self._make(context, (self.limits, options.cpu_seconds, False, fn, args, kwargs))
        except BaseException:
            self._close_pages()
            raise

    def _make(self, context: Context, arguments: tuple[Any, ...]) -> CopiedTask:
        return _call.start_copied(context, run_once, arguments, {})

    def progress(self) -> tuple[int, float] | None:
        """Of a call with items, from its page."""
        if self._board is None:
            return None
        number, item, since = self._board.read()
        return (item, since) if number >= 0 else None

    def end(self, why: str) -> None:
        """SIGKILL to the process and to what it has started in its process group."""
        self.why = self.why or why
        end_group(self.task)
        self.task.cancel()

    def outcome(self, options: Options, oom: _reasons.OomWatch) -> Outcome:
        """What came of its call; if it died of a signal, nothing that it has started in its group lives on."""
        outcome = super().outcome(options, oom)
        end_what_is_left(self.task)
        return outcome

    def reap(self) -> None:
        """Nor does it after it was ended."""
        super().reap()
        end_what_is_left(self.task)

    def told(self, call: Call) -> list[Any]:
        """From its file."""
        return [] if self._told is None else self._told.read(call.number)

    def _close_pages(self) -> None:
        board, self._board = self._board, None
        if board is not None:
            board.close()
        told, self._told = self._told, None
        if told is not None:
            told.close()

    def close(self) -> None:
        """Let go of the task and the pages."""
        self._close_pages()
        super().close()


class OnceFresh(OnceCopied):
    """A fresh process for one call."""

    def _make(self, context: Context, arguments: tuple[Any, ...]) -> CopiedTask:
        task = fresh_task(self.zygote, context, run_once, *arguments)
        if self._board is not None:
            self._board.close_fd()
        return task
