"""What runs in a worker: one call, or call after call. Of the executor it sees a socket and a page, and nothing else."""

from __future__ import annotations

import itertools
import os
import pickle
import socket
import sys
import time
import traceback

from .. import _core
from .._errors import Cancelled
from .._zygote.importing import import_main
from . import _channel
from ._board import LANE_FREE, LANE_LOST, LANE_USED
from ._lane import Lane, LaneEnd
from ._limits import start_cpu_clock, stop_cpu_clock
from ._told import Told, Untold

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Final, NoReturn

    from .._data.transport import Descriptor
    from ._board import Board
    from ._limits import Limits

LATE: Final = 0.002
"""Seconds after a call's time in which the executor ends it, and knows more of it; then the worker's own timer does."""

_NEEDS_CREATOR: Final = (AttributeError, ImportError)


def run_once(
    limits: Limits | None, cpu_seconds: float | None, light: bool, fn: Callable[..., Any], args: Any, kwargs: Any
) -> Any:
    """One call in a process of its own."""
    if limits is not None:
        limits.apply()
    if cpu_seconds is not None:
        start_cpu_clock(cpu_seconds, light)
    return fn(*args, **kwargs)


def run_chunk(
    fn: Callable[..., Any],
    items: list[Any],
    many: bool,
    begin: Callable[[int], None] | None,
    values: list[Any],
) -> Any:
    """Several calls, one after the other, up to the first that raises: what they returned, and what that one raised.

    Args:
        fn: the function.
        items: an argument for each call, or its arguments.
        many: whether they are tuples of arguments.
        begin: is told of each item before; None where nothing has to be known of single items.
        values: gets what they return, at once.
    """
    try:
        if begin is None:
            values.extend(itertools.starmap(fn, items) if many else map(fn, items))
        for index, item in enumerate(items if begin is not None else ()):
            begin(index)  # type: ignore[misc]
            values.append(fn(*item) if many else fn(item))
    except Exception as e:
        return values, e
    return values, None


def begin_item(since: list[Any], values: list[Any], limit: int, item: int) -> None:
    """In a light process, before each item of a chunk.

    Args:
        since: what is told: the item, and the moment of its beginning.
        values: of the items before.
        limit: nanoseconds for each; 0 for no limit.
        item: its index.
    """
    if limit and _core.light_due(limit):
        del values[item - 1 :]  # it was the last one whose time was over, as it came to its end
        raise Cancelled
    since[:] = [item, time.monotonic()]


def run_chunk_there(
    fn: Callable[..., Any],
    items: list[Any],
    many: bool,
    begin: Callable[[int], None] | None,
    told: Told | None,
    number: int,
) -> Any:
    """The same in a process of its own memory: the exception as what can be handed over, and each result told at once.

    Args:
        fn, items, many, begin: as of run_chunk.
        told: where they are told; None for a single item.
        number: the call's.
    """
    values: list[Any] = []
    if told is None:
        values, exception = run_chunk(fn, items, many, begin, values)
        return values, None if exception is None else portable(exception)
    told.begin(number)
    given = iter(items) if begin is None else _announced(items, begin)
    try:
        told.add_all(itertools.starmap(fn, given) if many else map(fn, given), values)
    except Untold as e:
        values.pop()
        return values, ("told", str(e), "")
    except Exception as e:
        return values, portable(e)
    return values, None


def _announced(items: list[Any], begin: Callable[[int], None]) -> Iterator[Any]:
    """The items, each told of before it is given."""
    for index, item in enumerate(items):
        begin(index)
        yield item


class Server:
    """The loop of a warm worker that has memory of its own."""

    def __init__(self, fd: int, other: int, board: Board, told: Told, limits: Limits, lanes: bool) -> None:
        self._fd = fd
        self._other = other
        self._board = board
        self._told = told
        self._limits = limits
        self._calls = LaneEnd()
        self._answers = Lane() if lanes else None

    def __call__(self) -> None:
        """Serve until told to end, or until the executor is gone."""
        if self._other >= 0:
            os.close(self._other)
        self._limits.apply()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=self._fd)
        while self._serve_packet(sock):
            pass
        sock.detach()

    def _serve_packet(self, sock: socket.socket) -> bool:
        """The calls of one packet; False where there will be no more."""
        try:
            messages = _channel.receive(sock, self._calls)
        except OSError:
            return False  # a function has closed it
        if not messages:
            return False
        messages.reverse()
        while messages:
            message = messages.pop()
            if message.kind == _channel.END:
                return False
            if not self._board.take(message.offer):
                message.drop()
                continue
            try:
                self._serve(sock, message)
            except OSError:
                return False  # nobody hears what comes of the next one either
        return True

    def _serve(self, sock: socket.socket, message: _channel.Message) -> None:
        number = message.number
        try:
            call = message.load()
        except _channel.Unreadable as e:
            _send_text(sock, _channel.UNREADABLE, number, str(e))
            return
        except BaseException as e:
            kind = _channel.STALE if isinstance(e, _NEEDS_CREATOR) else _channel.UNREADABLE
            _send_text(sock, kind, number, f"it came but cannot be unpickled: {type(e).__name__}: {e}")
            return
        begin = time.monotonic()
        self._board.begin(number, 0, begin)
        kind, value = self._run(call, message)
        seconds = time.monotonic() - begin
        del call
        _flush()
        if kind == _channel.VALUE:
            self._send_value(sock, number, seconds, value)
        else:
            _send_exception(sock, number, seconds, value)

    def _send_value(self, sock: socket.socket, number: int, seconds: float, value: object) -> None:
        try:
            packed = _channel.pack(value, large=_channel.is_large(value))
        except Exception as e:
            words = _channel.why_not("the return value", value) or f"the return value cannot be pickled: {e}"
            _send_text(sock, _channel.UNPICKLABLE, number, words)
            return
        lane = self._free_lane() if _channel.fits_lane(packed) else None
        if lane is not None:
            self._board.lane = LANE_USED
        try:
            by_lane = _channel.send(sock, _channel.VALUE, number, seconds, packed, lane=lane)
            if lane is not None and not by_lane:
                self._board.lane = LANE_FREE
        except OSError as e:
            if lane is not None:
                self._board.lane = LANE_FREE
            text = f"the result of {packed.total} bytes could not be handed over: {e}"
            _send_text(sock, _channel.UNPICKLABLE, number, text)

    def _free_lane(self) -> Lane | None:
        """The lane for large answers, unless the executor has not yet read what is there."""
        word = self._board.lane
        if self._answers is None or word == LANE_USED:
            return None
        if word == LANE_LOST:
            self._answers.close()
        return self._answers

    def _run(self, call: Any, message: _channel.Message) -> tuple[int, Any]:
        cpu = message.extra
        try:
            self._start_clocks(message)
            if message.kind == _channel.CHUNK:
                return _channel.VALUE, self._chunk(message, *call)
            fn, args, kwargs = call
            return _channel.VALUE, fn(*args, **kwargs)
        except SystemExit as e:
            _exit(e)
        except BaseException as e:
            return _channel.RAISED, e
        finally:
            if message.limit > 0:
                _core.kill_self_after(-1)
            if cpu > 0:
                stop_cpu_clock(False)

    @staticmethod
    def _start_clocks(message: _channel.Message) -> None:
        """The kernel's, which keep time whatever the executor is at."""
        if message.limit > 0:
            _core.kill_self_after(int((message.limit + LATE) * 1e9))
        if message.extra > 0:
            start_cpu_clock(message.extra, False)

    def _chunk(
        self, message: _channel.Message, fn: Callable[..., Any], items: list[Any], many: bool, each: bool
    ) -> Any:
        def begin(index: int) -> None:
            self._board.begin(message.number, index, time.monotonic())
            if index:
                self._start_clocks(message)

        told = self._told if len(items) > 1 else None
        return run_chunk_there(fn, items, many, begin if each else None, told, message.number)


def serve_fresh(
    sock: Descriptor, board: Board, told: Told, limits: Limits, lanes: bool, main: tuple[str, str] | None
) -> None:
    """The same in a fresh process, with the program's main module imported if its first call needs that."""
    if main is not None:
        import_main(*main)
    Server(sock.detach(), -1, board, told, limits, lanes)()


def _exit(e: SystemExit) -> NoReturn:
    """The function wants its process to end: it does, and the executor sees with what status."""
    code = e.code
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    _flush()
    os._exit((code or 0) & 0xFF)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):
            pass


def portable(exception: BaseException) -> tuple[str, Any, str]:
    """An exception as what can be handed over: ("raised", its pickle, its traceback), or ("told", words, "")."""
    text = "".join(traceback.format_exception(exception))
    try:
        data = pickle.dumps(exception, 5)
        pickle.loads(data)
    except Exception as e:
        words = _channel.why_not("the exception", exception)
        if not words:
            words = (
                f"the exception, of type {type(exception).__qualname__}, cannot be unpickled: {type(e).__name__}: {e}"
            )
        return "told", f"{words}\n\n{text}", ""
    return "raised", data, text


def _send_exception(sock: socket.socket, number: int, seconds: float, exception: BaseException) -> None:
    try:
        packed = _channel.pack(portable(exception))
        _channel.send(sock, _channel.RAISED, number, seconds, packed)
    except OSError as e:
        _send_text(sock, _channel.UNPICKLABLE, number, f"the exception could not be handed over: {e}")


def _send_text(sock: socket.socket, kind: int, number: int, text: str) -> None:
    """Say in words what has become of a call.

    Raises:
        OSError: the executor is gone, or a function has closed the socket.
    """
    _channel.send(sock, kind, number, 0.0, _channel.pack(text[:8192]))


class LightServer:
    """The loop of a warm light worker: calls and results are objects in the memory that it shares."""

    def __init__(self, inbox: int, outbox: int, limits: Limits) -> None:
        self.inbox = inbox
        self.outbox = outbox
        self.limits = limits
        self.call: tuple[Callable[..., Any], Any, Any, float | None, int] | None = None
        self.answer: tuple[int, Any] | None = None

    def __call__(self) -> None:
        """Serve until told to end, by None in place of a call."""
        self.limits.apply()
        while True:
            os.eventfd_read(self.inbox)
            call, self.call = self.call, None
            if call is None:
                return
            self.answer = self._run(*call)
            # Its time was over as it came to its end: nothing else may be struck by the exception that is on its way.
            late = call[-1] > 0 and _core.light_due(0)
            del call
            os.eventfd_write(self.outbox, 1)
            if late:
                return

    @staticmethod
    def _run(fn: Callable[..., Any], args: Any, kwargs: Any, cpu: float | None, limit: int) -> tuple[int, Any]:
        try:
            if cpu is not None:
                start_cpu_clock(cpu, True)
            try:
                if limit:
                    _core.light_due(limit)
                return _channel.VALUE, fn(*args, **kwargs)
            finally:
                if cpu is not None:
                    stop_cpu_clock(True)
        except Exception as e:
            return _channel.RAISED, e
