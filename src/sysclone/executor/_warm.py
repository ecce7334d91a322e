"""The processes that run call after call."""

from __future__ import annotations

import functools
import os
import signal
import socket
import time

from .. import _call, _core
from .._data.transport import Descriptor, Packed
from .._errors import ResultError, TaskKilled, TaskLost, TaskTimeout
from .._task.copied import CopiedTask
from . import _channel, _reasons
from ._board import LANE_FREE, LANE_LOST, Board
from ._lane import Lane, LaneEnd
from ._loop import LightServer, Server, begin_item, run_chunk, serve_fresh
from ._told import Told
from ._workers import Answer, Outcome, Worker, end_group, end_what_is_left, fresh_task, stripped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Final

    from .._task.light import LightTask
    from ._calls import Call
    from ._options import Options


AHEAD_SECONDS: Final = 0.005
"""What the calls that a worker has ahead may take together: as long as a thread waits for the GIL at most."""

MOST_AHEAD: Final = 256
_SLOWING: Final = 0.75


class WarmCopied(Worker):
    """A copied process for call after call."""

    warm = True
    task: CopiedTask

    def _start(self, call: Call) -> None:
        self._board = Board(named=self.zygote is not None)
        try:
            self._told = Told()
        except BaseException:
            self._board.close()
            raise
        self._offers = 0
        # Not for one whose memory or files are limited: that is the calls' own.
        self._lane = None if self.spec.limited else Lane()
        self._answers = LaneEnd()
        self._pace: float | None = None
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            self._close_pages()
            raise
        self._sock = ours
        ours.setblocking(False)
        try:
            self.task = self._launch(call, theirs.fileno())
        except BaseException:
            ours.close()
            self._close_pages()
            raise
        finally:
            theirs.close()

    def _close_pages(self) -> None:
        self._told.close()
        self._board.close()

    def told(self, call: Call) -> list[Any]:
        """From its file."""
        return self._told.read(call.number)

    def _launch(self, call: Call, theirs: int) -> CopiedTask:
        server = Server(theirs, self._sock.fileno(), self._board, self._told, self.limits, self._lane is not None)
        return _call.start_copied(self.spec.context, server, (), {})

    def fds(self) -> list[tuple[int, str]]:
        """Its socket, and its pidfd."""
        return [(self._sock.fileno(), "on_answer"), (self.task.fileno(), "on_end")]

    def give(self, call: Call) -> None:
        """Hand it a call.

        Raises:
            OSError: it is gone, or there is no memory or fd for the data.
        """
        if call.packed is None:
            call.pack()
        assert call.packed is not None
        self.begun_at = time.monotonic()
        self._offer(call)
        options = call.options
        cpu = options.cpu_seconds or 0.0
        # Whoever is given a call so has nothing else: what was in the lane is read, or was taken back.
        _channel.send(self._sock, call.kind, call.number, cpu, call.packed, options.timeout, call.offer, self._lane)

    def _offer(self, call: Call) -> None:
        self._offers += 1
        call.offer = self._offers
        self._board.offer(call.offer)

    def give_more(self, calls: Sequence[Call]) -> None:
        """Hand it several small calls that it has ahead, in one packet.

        Raises:
            OSError: it is gone, or there is no memory for them.
        """
        parts = []
        for call in calls:
            assert call.packed is not None
            self._offer(call)
            options = call.options
            cpu = options.cpu_seconds or 0.0
            parts.append(_channel.small(call.kind, call.number, cpu, call.packed, options.timeout, call.offer))
        _core.packet_send(self._sock.fileno(), b"".join(parts))

    def room(self) -> int:
        """As many as it will be through with before another thread has the GIL; none where each takes longer."""
        return 0 if self._pace is None else min(MOST_AHEAD, int(AHEAD_SECONDS / max(self._pace, 1e-6)))

    def take_back(self, call: Call) -> bool:
        """By the offer."""
        return self._board.take_back(call.offer)

    def take(self) -> list[Answer]:
        """Its answers, if there are any.

        Raises:
            EOFError: there are none, and its end of the socket is closed.
        """
        answers: list[Answer] = []
        # More cannot come: not to find that out saves a call of the kernel's.
        while len(answers) <= len(self.ahead):
            try:
                messages = _channel.receive(self._sock, self._answers, wait=False)
            except BlockingIOError:
                break
            if not messages and not answers:
                raise EOFError
            if not messages:
                break
            answers += [self._answer(message) for message in messages]
        return answers

    def _answer(self, message: _channel.Message) -> Answer:
        if message.kind == _channel.STALE:
            return Answer(message.number, None, str(message.load()), None)
        seconds = message.extra
        self._pace = seconds if self._pace is None else max(seconds, self._pace * _SLOWING)
        return Answer(message.number, self._read(message), "", seconds)

    def _read(self, message: _channel.Message) -> Outcome:
        pid = self.task.pid
        lane = LANE_FREE
        try:
            value = message.load()
        except Exception as e:
            lane = LANE_LOST if isinstance(e, _channel.Unreadable) else LANE_FREE
            error = ResultError(f"the result came but cannot be unpickled here: {type(e).__name__}: {e}", pid=pid)
            error.__cause__ = e
            return self._failed(message.number, error)
        finally:
            if message.by_lane:
                self._board.lane = lane
        if message.kind == _channel.VALUE:
            return Outcome(value, None)
        if message.kind == _channel.RAISED:
            return self._failed(message.number, _channel.restored(value, pid))
        if message.kind == _channel.UNREADABLE:
            if self._lane is not None:
                self._lane.close()  # it may not have come there
            return Outcome(None, ResultError(f"the call could not begin: {value}", pid=pid))
        return self._failed(message.number, ResultError(str(value), pid=pid))

    def _failed(self, number: int, error: BaseException) -> Outcome:
        values = self._told.read(number)
        return Outcome(None, error).after(values) if values else Outcome(None, error)

    def progress(self) -> tuple[int, float] | None:
        """From its page; None while it has not begun with the call that it was given."""
        number, item, since = self._board.read()
        if self.call is None or number != self.call.number or item < 0:
            return None
        return item, since

    def end(self, why: str) -> None:
        """SIGKILL to the process and to what it has started in its process group."""
        self.why = self.why or why
        end_group(self.task)
        self.task.cancel()

    def retire(self) -> None:
        """Tell it to end when it is done."""
        self.retired_at = time.monotonic()
        try:
            _channel.send(self._sock, _channel.END, 0, 0.0, Packed())
        except OSError:
            self.end("retire")

    def outcome(self, options: Options, oom: _reasons.OomWatch) -> Outcome:
        """What came of the call that it was at when it ended."""
        if not self.why and self._ended_by_itself(options.timeout):
            self.why = "timeout"
        outcome = super().outcome(options, oom)
        end_what_is_left(self.task)
        if outcome.exception is None:
            # The loop came to its end in the midst of a call: its socket was closed by the function.
            text = "the worker ended before its function returned, having lost its socket to the executor"
            outcome = Outcome(None, ResultError(text, pid=self.task.pid))
        return outcome

    def _ended_by_itself(self, timeout: float | None) -> bool:
        """Whether it died of its own timer, before this program came to end it."""
        status, progress = self.task.status, self.progress()
        if timeout is None or progress is None or status is None or status.signal != signal.SIGKILL:
            return False
        return progress[1] + timeout <= time.monotonic()

    def reap(self) -> None:
        """If it died of a signal, nothing that it has started in its group lives on."""
        super().reap()
        end_what_is_left(self.task)

    def died_before(self, outcome: Outcome) -> bool:
        """Whether it ended before it took its call."""
        assert self.call is not None
        return not self.why and self._board.is_open(self.call.offer)

    def close(self) -> None:
        """Let go of the task, the socket and the page."""
        self._sock.close()
        self._close_pages()
        self._answers.close()
        if self._lane is not None:
            self._lane.close()
        super().close()

    def forget(self) -> None:
        """In a forked child: close what belongs to the parent's executor."""
        fd = self._sock.detach()
        if fd >= 0:
            os.close(fd)


class WarmFresh(WarmCopied):
    """A fresh process for call after call."""

    def _launch(self, call: Call, theirs: int) -> CopiedTask:
        main = call.main()
        task = fresh_task(
            self.zygote,
            self.spec.context,
            serve_fresh,
            Descriptor(theirs),
            self._board,
            self._told,
            self.limits,
            self._lane is not None,
            main,
        )
        self._board.close_fd()
        return task


class WarmLight(Worker):
    """A light process for call after call: functions, arguments and results are the very objects."""

    warm = True
    copied = False
    keeps_time = True
    task: LightTask

    def _start(self, call: Call) -> None:
        self._inbox = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            self._outbox = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except BaseException:
            os.close(self._inbox)
            raise
        self._server = LightServer(self._inbox, self._outbox, self.limits)
        self._since: list[Any] = [0, 0.0]
        self._values: list[Any] = []
        try:
            self.task = _call.start_light(self.spec.context, self._server, (), {})
        except BaseException:
            os.close(self._inbox)
            os.close(self._outbox)
            raise

    def fds(self) -> list[tuple[int, str]]:
        """The eventfd of its answers, and that of its end."""
        return [(self._outbox, "on_answer"), (self.task.fileno(), "on_end")]

    def give(self, call: Call) -> None:
        """Hand it a call."""
        self.begun_at = time.monotonic()
        self._since[:] = [0, self.begun_at]
        fn, args, kwargs = call.fn, call.args, call.kwargs
        limit = call.limit_ns
        if call.items is not None:
            self._values = []
            begin = functools.partial(begin_item, self._since, self._values, limit) if call.each else None
            args = (fn, call.items, call.many, begin, self._values)
            fn, kwargs = run_chunk, {}
        self._server.call = (fn, args, kwargs, call.options.cpu_seconds, limit)
        os.eventfd_write(self._inbox, 1)

    def told(self, call: Call) -> list[Any]:
        """The very list."""
        return list(self._values)

    def take(self) -> list[Answer]:
        """Its answer, if there is one."""
        try:
            os.eventfd_read(self._outbox)
        except BlockingIOError:
            return []
        answer, self._server.answer = self._server.answer, None
        assert answer is not None
        assert self.call is not None
        kind, value = answer
        outcome = Outcome(value, None) if kind == _channel.VALUE else Outcome(None, stripped(value))
        return [Answer(self.call.number, outcome, "", None)]

    def progress(self) -> tuple[int, float] | None:
        """The item and its moment, straight from the memory that is shared."""
        return self._since[0], self._since[1]

    def retire(self) -> None:
        """Tell it to end when it is done."""
        self.retired_at = time.monotonic()
        self._server.call = None
        os.eventfd_write(self._inbox, 1)

    def died_before(self, outcome: Outcome) -> bool:
        """Whether it was killed, or asked to stop for the call before, and has not taken its call."""
        died = outcome.failure is None or isinstance(outcome.failure, (TaskKilled, TaskLost, TaskTimeout))
        return died and not self.why and self._server.call is not None

    def close(self) -> None:
        """Let go of the task and the eventfds."""
        os.close(self._inbox)
        os.close(self._outbox)
        super().close()

    def forget(self) -> None:
        """In a forked child: close what belongs to the parent's executor."""
        os.close(self._inbox)
        os.close(self._outbox)
