"""What goes between an executor and a warm worker: one packet a message, large data and fds in a letter beside it.

1. A packet is whole or not there: SOCK_SEQPACKET. Nobody ever reads half a message of a worker that was killed.
2. What is larger than a packet lies in a memfd that goes with it (`_data.transport`): nothing has to be read before the writer
   can go on, so no two can wait for each other, and large buffers are the receiver's without a copy.
3. Small calls are what there are most of: they are tried with the plain pickler first, which knows no fds and no views.
"""

from __future__ import annotations

import functools
import os
import pickle
import socket
import struct

from .._data.result import RemoteTraceback
from .._data.transport import LEAST_OUT_OF_BAND, Packed, pack_with, read_letter, receive_fds, send_fds, write_letter
from .._data.transport import pack as pack_anything
from .._data.unpicklable import blame
from .._errors import ResultError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

CALL: Final = 1
END: Final = 2
CHUNK: Final = 3

VALUE: Final = 1
RAISED: Final = 2
UNPICKLABLE: Final = 3
UNREADABLE: Final = 4
STALE: Final = 5

# The kind, whether it is a letter, how many fds come with it; then the call's number, a number that goes with it, and
# the length of the data, or where the letter has its table and how long that is.
_HEAD: Final = struct.Struct("=BBHIqdQ")
_INLINE: Final = 32 * 1024
_PACKET: Final = 64 * 1024


class Unreadable(Exception):
    """A message came whose data cannot be had here."""


class _Large(Exception):
    """There is a buffer that is to be out of band."""


class _Sink:
    __slots__ = ("write",)

    def __init__(self, write: Callable[[Any], object]) -> None:
        self.write = write


def _in_band(buffer: pickle.PickleBuffer) -> bool:
    try:
        if buffer.raw().nbytes < LEAST_OUT_OF_BAND:
            return True
    except BufferError:
        return True
    raise _Large


def pack(value: object, by_value: bool = False) -> Packed:
    """Make an object ready to cross; with cloudpickle, where it is installed, what pickle alone cannot.

    Args:
        value: anything.
        by_value: cloudpickle first, so that functions of the main module go along.

    Raises:
        Exception: it cannot be pickled; see `refused`.
    """
    pickler = _cloudpickler() if by_value else None
    if pickler is not None:
        return pack_with(pickler, value)
    chunks: list[Any] = []
    try:
        pickle.Pickler(_Sink(chunks.append), 5, buffer_callback=_in_band).dump(value)
    except Exception:
        return pack_anything(value, _cloudpickler)
    packed = Packed()
    packed.pieces = chunks
    packed.length = sum(map(len, chunks))
    return packed


@functools.cache
def _cloudpickler() -> Any:
    """cloudpickle's class, or None where it is not installed."""
    try:
        import cloudpickle  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        return None
    return cloudpickle.Pickler


def refused(fn: object, args: object, kwargs: object) -> ResultError:
    """The error that says which part of a call cannot be pickled."""
    for name, part in (("the function", fn), ("the arguments args", args), ("the arguments kwargs", kwargs)):
        text = why_not(name, part)
        if text:
            if part is fn and _cloudpickler() is None:
                text += ". cloudpickle takes lambdas and closures along: pip install 'sysclone[fresh]'"
            return ResultError(text)
    return ResultError("the call as a whole cannot be pickled")


def why_not(what: str, value: object) -> str:
    """Which part of an object cannot be pickled; empty where it can be."""
    try:
        pack_anything(value, _cloudpickler).close()
    except Exception as e:
        return blame(what, value, e, _cloudpickler)
    return ""


def restored(value: Any, pid: int | None) -> BaseException:
    """An exception that was handed over, with its traceback there as the cause."""
    how, data, text = value
    if how == "told":
        return ResultError(data, pid=pid)
    try:
        exception: BaseException = pickle.loads(data)
    except Exception as e:
        return ResultError(
            f"the exception came but cannot be unpickled here: {type(e).__name__}: {e}\n\n{text}", pid=pid
        )
    exception.__cause__ = RemoteTraceback(text)
    return exception


# --- sending and receiving


def send(sock: socket.socket, kind: int, number: int, extra: float, packed: Packed) -> None:
    """Send one message.

    Args:
        sock: a SOCK_SEQPACKET socket.
        kind: what it is.
        number: the call's.
        extra: a number that goes with it.
        packed: its object, which is done with.

    Raises:
        OSError: the other is gone, or there is no memory or fd for the data.
    """
    if packed.is_small and packed.length <= _INLINE:
        head = _HEAD.pack(kind, 0, 0, 0, number, extra, packed.length)
        sock.sendmsg([head, *packed.pieces], [], socket.MSG_NOSIGNAL)
        return
    memfd, at, length = write_letter(packed)
    try:
        fds = [memfd, *packed.fds]
        send_fds(sock.fileno(), fds, _HEAD.pack(kind, 1, len(fds), length, number, extra, at))
    finally:
        os.close(memfd)
        packed.close()


class Message:
    """One message that came: its object is unpickled by load()."""

    __slots__ = ("_at", "_count", "_data", "_fds", "_length", "extra", "kind", "number")

    def __init__(self, kind: int, number: int, extra: float, data: Any) -> None:
        self.kind = kind
        self.number = number
        self.extra = extra
        self._data = data
        self._fds: list[int] = []
        self._count = 0
        self._at = self._length = 0

    def load(self) -> Any:
        """The object; to be called once.

        Raises:
            Unreadable: its fds did not arrive: this process has none left for them.
            Exception: it cannot be unpickled.
        """
        if not self._count:
            return pickle.loads(self._data)
        fds, self._fds = self._fds, []
        if len(fds) < self._count:
            for fd in fds:
                os.close(fd)
            raise Unreadable("the data did not arrive: likely no file descriptor is left (RLIMIT_NOFILE)")
        return read_letter(fds, self._at, self._length)


def receive(sock: socket.socket) -> Message | None:
    """Receive one message; None when the other is gone.

    Raises:
        BlockingIOError: there is none, and the socket does not wait.
    """
    packet, fds = receive_fds(sock.fileno(), _PACKET)
    if not packet:
        return None
    kind, letter, count, length, number, extra, at = _HEAD.unpack_from(packet)
    message = Message(kind, number, extra, memoryview(packet)[_HEAD.size : _HEAD.size + (0 if letter else at)])
    if letter:
        message._count, message._length, message._at = count, length, at
        while 0 < len(fds) < count:
            more = receive_fds(sock.fileno(), 1)[1]
            if not more:
                break
            fds += more
        message._fds = fds
    return message
