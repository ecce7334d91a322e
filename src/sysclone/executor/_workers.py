"""The processes of an executor, seen from its manager: one for a call, or one for call after call.

The manager's thread alone starts, ends, reaps and closes them. Other threads may hand a call to an idle one, which they
have taken out of the idle ones under the manager's lock.
"""

from __future__ import annotations

import functools
import os
import socket
import time

from .. import _call, _copied_task, _core, _light_task
from .._copied_task import CopiedTask
from .._errors import Cancelled, ResultError, TaskExited, TaskFailed, TaskKilled, TaskLost, TaskTimeout
from .._status import Status
from .._transport import Descriptor, Packed
from . import _channel, _reasons
from ._board import Board
from ._limits import prepare
from ._loop import LightServer, Server, run_chunk, run_chunk_there, run_once, serve_fresh

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from .._api import Context
    from .._light_task import LightTask
    from .._task import Task
    from .._zygote import Zygote
    from ._calls import Call
    from ._options import Options, Spec

_KILL: Final = 9
_SIGNAL_GROUP: Final = 4
_HERE: Final = frozenset((__file__, *(one.__file__ for one in (_call, _copied_task, _light_task))))


class Outcome:
    """What came of a call: a value, or an exception."""

    __slots__ = ("exception", "value")

    def __init__(self, value: Any, exception: BaseException | None) -> None:
        self.value = value
        self.exception = exception


class Worker:
    """One process.

    Attributes:
        warm: whether it takes call after call.
        copied: whether it has memory of its own.
        keeps_time: whether it ends by itself when the call's time is over.
        spec: what it is made with.
        zygote: whom a fresh one is cloned from.
        call: what it is at, or None.
        begun_at: when it was given that (time.monotonic).
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
    task: Task

    def __init__(self, spec: Spec, zygote: Zygote | None) -> None:
        self.spec = spec
        self.zygote = zygote
        self.call: Call | None = None
        self.begun_at = 0.0
        self.calls = 0
        self.why = ""
        self.over: int | None = None
        self.sending = 0
        self.ended = False
        self.sent_last = False
        self.helped = False
        self.retired_at: float | None = None
        self.base_rss = 0
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

    def outcome(self, options: Options, oom: _reasons.OomWatch) -> Outcome:
        """What came of its call, now that its process has ended."""
        try:
            return Outcome(self.task.result(), None)
        except BaseException as e:
            return Outcome(None, self._reason(_stripped(e), options, oom))

    def reap(self) -> None:
        """Its process has ended, and what came of its call is known or not asked for."""
        self.task.wait()

    def died_before(self, outcome: Outcome) -> bool:
        """Whether it was killed before it began with its call."""
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


class OnceLight(Worker):
    """A light process for one call."""

    copied = False
    task: LightTask

    def _start(self, call: Call) -> None:
        options = call.options
        context = options.timed
        fn, args, kwargs = call.fn, call.args, call.kwargs
        self._since: list[Any] = [0, time.monotonic()]
        self.keeps_time = call.items is None
        if call.items is not None:
            context = options.spec.context
            fn, args, kwargs = run_chunk, (fn, call.items, call.many, self._begin if call.each else None), {}
        if self.limits.is_needed or options.cpu_seconds is not None:
            args = (self.limits, options.cpu_seconds, True, fn, args, kwargs)
            fn, kwargs = run_once, {}
        self.task = _call.start_light(context, fn, args, kwargs)
        self.fd = self.task.fileno()

    def fds(self) -> list[tuple[int, str]]:
        """The eventfd of its end."""
        return [(self.fd, "on_end")]

    def _begin(self, item: int) -> None:
        self._since[:] = [item, time.monotonic()]

    def progress(self) -> tuple[int, float] | None:
        """The item and its moment, straight from the memory that is shared."""
        return self._since[0], self._since[1]


class OnceCopied(Worker):
    """A copied process for one call."""

    task: CopiedTask

    def _start(self, call: Call) -> None:
        options = call.options
        self._board: Board | None = None
        context = options.timed
        fn, args, kwargs = call.fn, call.args, call.kwargs
        if call.items is not None:
            self._board = board = Board(named=self.zygote is not None)
            context = options.spec.context
            begin = functools.partial(_note_on, board, call.number) if call.each else None
            fn, args, kwargs = run_chunk_there, (fn, call.items, call.many, begin), {}
        try:
            self.task = self._make(context, (self.limits, options.cpu_seconds, False, fn, args, kwargs))
        except BaseException:
            self._close_board()
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
        _end_what_is_left(self.task)
        return outcome

    def reap(self) -> None:
        """Nor does it after it was ended."""
        super().reap()
        _end_what_is_left(self.task)

    def _close_board(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None

    def close(self) -> None:
        """Let go of the task and the page."""
        self._close_board()
        super().close()


class OnceFresh(OnceCopied):
    """A fresh process for one call."""

    def _make(self, context: Context, arguments: tuple[Any, ...]) -> CopiedTask:
        task = _fresh_task(self.zygote, context, run_once, *arguments)
        if self._board is not None:
            self._board.close_fd()
        return task


class WarmCopied(Worker):
    """A copied process for call after call."""

    warm = True
    task: CopiedTask

    def _start(self, call: Call) -> None:
        self._board = Board(named=self.zygote is not None)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock = ours
        ours.setblocking(False)
        try:
            self.task = self._launch(call, theirs.fileno())
        except BaseException:
            ours.close()
            self._board.close()
            raise
        finally:
            theirs.close()

    def _launch(self, call: Call, theirs: int) -> CopiedTask:
        server = Server(theirs, self._sock.fileno(), self._board, self.limits)
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
        _channel.send(self._sock, call.kind, call.number, call.options.cpu_seconds or 0.0, call.packed)

    def take(self) -> tuple[Outcome | None, str]:
        """Its answer, if there is one: what came of the call, or None and why it has to go to another worker.

        Raises:
            BlockingIOError: there is none.
            EOFError: its end of the socket is closed.
        """
        message = _channel.receive(self._sock)
        if message is None:
            raise EOFError
        if message.kind == _channel.STALE:
            return None, str(message.load())
        return self._read(message), ""

    def _read(self, message: _channel.Message) -> Outcome:
        pid = self.task.pid
        try:
            value = message.load()
        except Exception as e:
            error = ResultError(f"the result came but cannot be unpickled here: {type(e).__name__}: {e}", pid=pid)
            error.__cause__ = e
            return Outcome(None, error)
        if message.kind == _channel.VALUE:
            return Outcome(value, None)
        if message.kind == _channel.RAISED:
            return Outcome(None, _channel.restored(value, pid))
        if message.kind == _channel.UNREADABLE:
            return Outcome(None, ResultError(f"the call could not begin: {value}", pid=pid))
        return Outcome(None, ResultError(str(value), pid=pid))

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
        outcome = super().outcome(options, oom)
        _end_what_is_left(self.task)
        if outcome.exception is None:
            # The loop came to its end in the midst of a call: its socket was closed by the function.
            text = "the worker ended before its function returned, having lost its socket to the executor"
            outcome = Outcome(None, ResultError(text, pid=self.task.pid))
        return outcome

    def reap(self) -> None:
        """If it died of a signal, nothing that it has started in its group lives on."""
        super().reap()
        _end_what_is_left(self.task)

    def died_before(self, outcome: Outcome) -> bool:
        """Whether it was killed before it took its call from the socket."""
        assert self.call is not None
        died = isinstance(outcome.exception, (TaskKilled, TaskLost)) and not self.why
        return died and self._board.read()[0] != self.call.number

    def close(self) -> None:
        """Let go of the task, the socket and the page."""
        self._sock.close()
        self._board.close()
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
        task = _fresh_task(
            self.zygote, self.spec.context, serve_fresh, Descriptor(theirs), self._board, self.limits, main
        )
        self._board.close_fd()
        return task


class WarmLight(Worker):
    """A light process for call after call: functions, arguments and results are the very objects."""

    warm = True
    copied = False
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
        if call.items is not None:
            fn, args, kwargs = run_chunk, (fn, call.items, call.many, self._begin if call.each else None), {}
        self._server.call = (fn, args, kwargs, call.options.cpu_seconds)
        os.eventfd_write(self._inbox, 1)

    def _begin(self, item: int) -> None:
        self._since[:] = [item, time.monotonic()]

    def take(self) -> tuple[Outcome | None, str]:
        """Its answer.

        Raises:
            BlockingIOError: there is none.
        """
        os.eventfd_read(self._outbox)
        answer, self._server.answer = self._server.answer, None
        assert answer is not None
        kind, value = answer
        if kind == _channel.VALUE:
            return Outcome(value, None), ""
        return Outcome(None, _stripped(value)), ""

    def progress(self) -> tuple[int, float] | None:
        """The item and its moment, straight from the memory that is shared."""
        return self._since[0], self._since[1]

    def retire(self) -> None:
        """Tell it to end when it is done."""
        self.retired_at = time.monotonic()
        self._server.call = None
        os.eventfd_write(self._inbox, 1)

    def died_before(self, outcome: Outcome) -> bool:
        """Whether it was killed before it took its call."""
        return isinstance(outcome.exception, (TaskKilled, TaskLost)) and not self.why and self._server.call is not None

    def close(self) -> None:
        """Let go of the task and the eventfds."""
        os.close(self._inbox)
        os.close(self._outbox)
        super().close()

    def forget(self) -> None:
        """In a forked child: close what belongs to the parent's executor."""
        os.close(self._inbox)
        os.close(self._outbox)


def _fresh_task(zygote: Zygote | None, context: Context, fn: Callable[..., Any], *arguments: Any) -> CopiedTask:
    assert zygote is not None
    task = zygote.start_in(context, fn, *arguments)
    assert isinstance(task, CopiedTask)
    return task


def _note_on(board: Board, number: int, item: int) -> None:
    board.begin(number, item, time.monotonic())


def _end_what_is_left(task: Task) -> None:
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


def _stripped(e: BaseException) -> BaseException:
    """Without the frames of the executor itself: they would keep alive what they hold."""
    tb = e.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename in _HERE:
        tb = tb.tb_next
    return e.with_traceback(tb)


MAKERS: Final[dict[tuple[str, bool], type[Worker]]] = {
    ("light", False): OnceLight,
    ("light", True): WarmLight,
    ("copied", False): OnceCopied,
    ("copied", True): WarmCopied,
    ("fresh", False): OnceFresh,
    ("fresh", True): WarmFresh,
}
