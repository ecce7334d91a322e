"""What goes between an executor and a warm worker: packets of messages, large data and fds in a letter beside them.

1. A packet is whole or not there: SOCK_SEQPACKET. Nobody ever reads half a message of a worker that was killed. It holds
   one message, or several calls that are small.
2. What is larger than a packet lies in a memfd that goes with it (`_data.transport`): nothing has to be read before the writer
   can go on, so no two can wait for each other, and large buffers are the receiver's without a copy.
3. Small calls are what there are most of: they are tried with the plain pickler first, which knows no fds and no views.
"""

from __future__ import annotations

import functools
import os
import pickle
import select
import socket
import struct

from .. import _core
from .._data.result import RemoteTraceback
from .._data.transport import LEAST_OUT_OF_BAND, Packed, pack_with, read_letter, receive_fds, send_fds, write_letter
from .._data.transport import pack as pack_anything
from .._data.unpicklable import blame
from .._errors import ResultError
from ._lane import MOST, Lane, LaneEnd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

CALL: Final = 1
END: Final = 2
CHUNK: Final = 3

VALUE: Final = 1
RAISED: Final = 2
UNPICKLABLE: Final = 3
UNREADABLE: Final = 4
STALE: Final = 5

_LETTER: Final = 1
_BY_LANE: Final = 2

# The kind, whether it is a letter or in a lane, how many fds come with it, how long the letter's table is; then the
# call's number, two numbers of seconds, the length of the data, or where the letter has its table; and the number that it
# is offered under.
_HEAD: Final = struct.Struct("=BBHIqddQI")
INLINE: Final = 32 * 1024
"""Bytes of a message up to which it needs no letter, and of a packet of several."""
_PACKET: Final = 64 * 1024
_ROOM_MS: Final = 200


_FLAT: Final = frozenset({bytes, bytearray, str})


class Unreadable(Exception):
    """A message came whose data cannot be had here."""


_NO_DATA: Final = "the data did not arrive: likely no file descriptor is left (RLIMIT_NOFILE)"


class _Large(Exception):
    """There is a buffer that is to be out of band."""


def _in_band(buffer: pickle.PickleBuffer) -> bool:
    try:
        if buffer.raw().nbytes < LEAST_OUT_OF_BAND:
            return True
    except BufferError:
        return True
    raise _Large


def is_large(value: object) -> bool:
    """Whether an object's pickle is large for what is in the object itself."""
    return type(value) in _FLAT and len(value) >= LEAST_OUT_OF_BAND  # type: ignore[arg-type]


def pack(value: object, by_value: bool = False, large: bool = False) -> Packed:
    """Make an object ready to cross; with cloudpickle, where it is installed, what pickle alone cannot.

    Args:
        value: anything.
        by_value: cloudpickle first, so that functions of the main module go along.
        large: whether there is a large bytes object in it, which is not to be copied into the pickle.

    Raises:
        Exception: it cannot be pickled; see `refused`.
    """
    pickler = _cloudpickler() if by_value else None
    if pickler is not None:
        return pack_with(pickler, value)
    if large:
        return pack_anything(value, _cloudpickler)
    try:
        data = pickle.dumps(value, 5, buffer_callback=_in_band)
    except Exception:
        return pack_anything(value, _cloudpickler)
    packed = Packed()
    packed.pieces.append(data)
    packed.length = len(data)
    return packed


@functools.cache
def _cloudpickler() -> Any:
    """cloudpickle's class, or None where it is not installed."""
    try:
        import cloudpickle  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        return None
    return cloudpickle.Pickler


def pack_in_band(value: object) -> Packed:
    """The same, with everything but fds within the pickle.

    Raises:
        Exception: it cannot be pickled.
    """
    return pack_anything(value, _cloudpickler, out_of_band=False)


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


def is_small(packed: Packed) -> bool:
    """Whether it needs no letter."""
    return packed.is_small and packed.length <= INLINE


def fits_lane(packed: Packed) -> bool:
    """Whether it may go by a lane: large, and all in the pickle."""
    return packed.is_small and INLINE < packed.length <= MOST


def small(kind: int, number: int, extra: float, packed: Packed, limit: float | None = None, offer: int = 0) -> bytes:
    """One message that needs no letter, for a packet of its own or with others."""
    return b"".join((_HEAD.pack(kind, 0, 0, 0, number, extra, limit or 0.0, packed.length, offer), *packed.pieces))


def send(
    sock: socket.socket,
    kind: int,
    number: int,
    extra: float,
    packed: Packed,
    limit: float | None = None,
    offer: int = 0,
    lane: Lane | None = None,
) -> bool:
    """Send one message.

    Args:
        sock: a SOCK_SEQPACKET socket.
        kind: what it is.
        number: the call's.
        extra: with a call, the processor seconds that it may take; with an answer, the seconds that it took.
        packed: its object; what is not small is done with.
        limit: the seconds that a call may take.
        offer: the number that the call is offered under.
        lane: for what is large and has no buffers; free to be written to. None where there is none.

    Returns:
        Whether it is in the lane.

    Raises:
        OSError: the other is gone, or there is no memory or fd for the data.
    """
    if is_small(packed):
        data = small(kind, number, extra, packed, limit, offer)
        try:
            _core.packet_send(sock.fileno(), data)
        except BlockingIOError:
            if not sock.getblocking():
                _await_room(sock)
            sock.sendmsg([data], [], socket.MSG_NOSIGNAL)
        return False
    if lane is not None and fits_lane(packed):
        try:
            fd = lane.write(packed)
        except OSError:
            pass  # a letter takes less room
        else:
            _send_by_lane(sock, lane, fd, (kind, number, extra, limit or 0.0, packed.length, offer))
            return True
    memfd, at, length = write_letter(packed)
    try:
        fds = [memfd, *packed.fds]
        send_fds(sock, fds, _HEAD.pack(kind, _LETTER, len(fds), length, number, extra, limit or 0.0, at, offer))
    finally:
        os.close(memfd)
        packed.close()
    return False


def _await_room(sock: socket.socket) -> None:
    """It is full of calls that were taken back, which the worker is about to read and pass over, unless it is stopped."""
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    poll.poll(_ROOM_MS)


def _send_by_lane(sock: socket.socket, lane: Lane, fd: int, what: tuple[int, int, float, float, int, int]) -> None:
    kind, *rest = what
    fds = [fd] if fd >= 0 else []
    try:
        send_fds(sock, fds, _HEAD.pack(kind, _BY_LANE, len(fds), 0, *rest))
    except BaseException:
        lane.close()  # whether the other has it is not known
        raise
    finally:
        if fd >= 0:
            os.close(fd)


class Message:
    """One message that came: its object is unpickled by load()."""

    __slots__ = ("_at", "_count", "_data", "_fds", "_lane", "_length", "extra", "kind", "limit", "number", "offer")

    def __init__(self, kind: int, number: int, extra: float, limit: float, offer: int, data: Any) -> None:
        self.kind = kind
        self.number = number
        self.extra = extra
        self.limit = limit
        self.offer = offer
        self._data = data
        self._fds: list[int] = []
        self._count = 0
        self._lane: LaneEnd | None = None
        self._at = self._length = 0

    def load(self) -> Any:
        """The object; to be called once.

        Raises:
            Unreadable: its fds did not arrive: this process has none left for them.
            Exception: it cannot be unpickled.
        """
        if self._lane is not None:
            return self._load_from(self._lane)
        if not self._count:
            return pickle.loads(self._data)
        fds, self._fds = self._fds, []
        if len(fds) < self._count:
            for fd in fds:
                os.close(fd)
            raise Unreadable(_NO_DATA)
        return read_letter(fds, self._at, self._length)

    def _load_from(self, lane: LaneEnd) -> Any:
        data = lane.read(self._length)
        if data is None:
            raise Unreadable(_NO_DATA)
        with data:
            return pickle.loads(data)

    @property
    def by_lane(self) -> bool:
        """Whether it is in the lane: nothing else may be written there until it is loaded."""
        return self._lane is not None

    def drop(self) -> None:
        """Let go of it unread."""
        fds, self._fds = self._fds, []
        for fd in fds:
            os.close(fd)


def receive(sock: socket.socket, lane: LaneEnd, wait: bool = True) -> list[Message]:
    """Receive a packet: the messages in it; none when the other is gone.

    Args:
        sock: as of send.
        lane: what large pickles of the other's are read from.
        wait: whether to wait for one.

    Raises:
        BlockingIOError: there is none, and it is not to be waited for.
    """
    try:
        packet, fds = receive_fds(sock, _PACKET) if wait else _core.packet_receive(sock.fileno(), _PACKET)
    except ConnectionResetError:
        # Told once, where the other has gone and left something unread; what it had sent before comes after that.
        packet, fds = receive_fds(sock, _PACKET)
    found = []
    at = 0
    whole = memoryview(packet)
    while at < len(packet):
        kind, letter, count, length, number, extra, limit, where, offer = _HEAD.unpack_from(packet, at)
        at += _HEAD.size
        if letter == _BY_LANE:
            message = Message(kind, number, extra, limit, offer, b"")
            message._lane, message._length = lane, where
            _open_lane(lane, fds, count)
        elif letter:
            message = Message(kind, number, extra, limit, offer, b"")
            message._count, message._length, message._at = count, length, where
            message._fds = _all_fds(sock, fds, count)
        else:
            message = Message(kind, number, extra, limit, offer, whole[at : at + where])
            at += where
        found.append(message)
    return found


def _open_lane(lane: LaneEnd, fds: list[int], count: int) -> None:
    """A new lane's fd is with the first message that is in it, if it came."""
    if not count:
        return
    lane.close()
    if fds:
        try:
            lane.open(fds.pop())
        except OSError:
            return  # told of when the message is loaded


def _all_fds(sock: socket.socket, fds: list[int], count: int) -> list[int]:
    """A letter's fds: those that came with it, and the rest of them in the packets behind."""
    while 0 < len(fds) < count:
        more = receive_fds(sock, 1)[1]
        if not more:
            break
        fds += more
    return fds
