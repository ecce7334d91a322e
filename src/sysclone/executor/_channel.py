"""What goes between an executor and a warm worker: one packet a message, large data in a memfd beside it.

1. A packet is whole or not there: SOCK_SEQPACKET. Nobody ever reads half a message of a worker that was killed.
2. What is larger than a packet goes into a memfd, written once and mapped by who receives it: nothing has to be read
   before the writer can go on, so no two can wait for each other. Buffers that pickle gives out of band (protocol 5)
   are not copied again: the object that arrives lives in the mapping.
3. A pickler writes large bytes objects straight to its file, uncopied: here a list, which writev takes.
"""

from __future__ import annotations

import array
import functools
import mmap
import os
import pickle
import socket
import struct

from .._blame import blame
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

_HEAD: Final = struct.Struct("=BBHIqd")
_LENGTH: Final = struct.Struct("=Q")
_INLINE: Final = 32 * 1024
_OUT_OF_BAND: Final = 128 * 1024
_PACKET: Final = 64 * 1024
_MOST_BUFFERS: Final = 1024
_ALIGN: Final = 4096
_MOST_VECTORS: Final = 1000
_FD_ROOM: Final = socket.CMSG_SPACE(array.array("i").itemsize)


class Unreadable(Exception):
    """A message came whose data cannot be had here."""


class Packed:
    """A pickled object: chunks of the stream, and buffers beside it."""

    __slots__ = ("buffers", "chunks", "length")

    def __init__(self, chunks: list[Any], buffers: list[memoryview]) -> None:
        self.chunks = chunks
        self.buffers = buffers
        self.length = sum(len(chunk) for chunk in chunks)

    @property
    def is_small(self) -> bool:
        """Whether it fits into a packet."""
        return not self.buffers and self.length <= _INLINE


class _Sink:
    __slots__ = ("write",)

    def __init__(self, write: Callable[[Any], object]) -> None:
        self.write = write


def pack(value: object, by_value: bool = False) -> Packed:
    """Pickle a value; with cloudpickle, where it is installed, what pickle alone cannot.

    Args:
        value: anything.
        by_value: cloudpickle first, so that functions of the main module go along.

    Raises:
        Exception: it cannot be pickled; see `refused`.
    """
    if by_value and _cloudpickle() is not None:
        return _pack(_cloudpickle().Pickler, value)
    try:
        return _pack(pickle.Pickler, value)
    except Exception:
        if _cloudpickle() is None:
            raise
    return _pack(_cloudpickle().Pickler, value)


def _pack(pickler: Any, value: object) -> Packed:
    chunks: list[Any] = []
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < _OUT_OF_BAND or len(buffers) >= _MOST_BUFFERS:
            view.release()
            return True
        buffers.append(view)
        return False

    pickler(_Sink(chunks.append), 5, buffer_callback=keep).dump(value)
    return Packed(chunks, buffers)


@functools.cache
def _cloudpickle() -> Any:
    """The module, or None where it is not installed."""
    try:
        import cloudpickle  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        return None
    return cloudpickle


def _try(value: object) -> None:
    pack(value)


def refused(fn: object, args: object, kwargs: object) -> ResultError:
    """The error that says which part of a call cannot be pickled."""
    for path, part in (("the function", fn), ("the arguments args", args), ("the arguments kwargs", kwargs)):
        try:
            _try(part)
        except Exception:
            text = blame(part, path, _try)
            if path == "the function" and _cloudpickle() is None:
                text += ". cloudpickle takes lambdas and closures: pip install 'sysclone[cloudpickle]'"
            return ResultError(text)
    return ResultError("the call as a whole cannot be pickled")


def why_not(what: str, value: object) -> str:
    """Which part of a result cannot be pickled."""
    return blame(value, what, _try)


# --- sending and receiving


def send(sock: socket.socket, kind: int, number: int, extra: float, packed: Packed) -> None:
    """Send one message.

    Args:
        sock: a SOCK_SEQPACKET socket.
        kind: what it is.
        number: the call's.
        extra: a number that goes with it.
        packed: its object.

    Raises:
        OSError: the other is gone, or there is no memory or fd for the data.
    """
    if packed.is_small:
        sock.sendmsg([_HEAD.pack(kind, 0, 0, packed.length, number, extra), *packed.chunks])
        return
    head = _HEAD.pack(kind, 1, len(packed.buffers), packed.length & 0xFFFFFFFF, number, extra)
    lengths = b"".join(map(_LENGTH.pack, (packed.length, *(view.nbytes for view in packed.buffers))))
    fd = _store(packed)
    try:
        sock.sendmsg([head, lengths], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
    finally:
        os.close(fd)


def _store(packed: Packed) -> int:
    fd = os.memfd_create("sysclone-data", os.MFD_CLOEXEC)
    try:
        at = _write(fd, packed.chunks, 0)
        for view in packed.buffers:
            at = _write(fd, [view], -(-at // _ALIGN) * _ALIGN)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _write(fd: int, pieces: list[Any], at: int) -> int:
    views = [memoryview(piece).cast("B") for piece in pieces if len(piece)]
    while views:
        done = os.pwritev(fd, views[:_MOST_VECTORS], at)
        at += done
        while views and done >= views[0].nbytes:
            done -= views.pop(0).nbytes
        if done:
            views[0] = views[0][done:]
    return at


class Message:
    """One message that came: its data is unpickled by load()."""

    __slots__ = ("_data", "_fd", "_lengths", "extra", "kind", "number")

    def __init__(self, kind: int, number: int, extra: float, data: Any, fd: int, lengths: list[int]) -> None:
        self.kind = kind
        self.number = number
        self.extra = extra
        self._data = data
        self._fd = fd
        self._lengths = lengths

    def load(self) -> Any:
        """The object.

        Raises:
            Unreadable: the memfd did not arrive: this process had no fd left for it.
            Exception: it cannot be unpickled.
        """
        if not self._lengths:
            return pickle.loads(self._data)
        if self._fd < 0:
            raise Unreadable("the data did not arrive: likely no file descriptor is left (RLIMIT_NOFILE)")
        fd, self._fd = self._fd, -1
        spans = []
        at = 0
        for length in self._lengths:
            spans.append((at, at + length))
            at = -(-(at + length) // _ALIGN) * _ALIGN
        try:
            memory = mmap.mmap(fd, spans[-1][1])
        finally:
            os.close(fd)
        view = memoryview(memory)
        stream, *buffers = (view[low:high] for low, high in spans)
        return pickle.loads(stream, buffers=buffers)

    def drop(self) -> None:
        """Let go of the data unread."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def receive(sock: socket.socket) -> Message | None:
    """Receive one message; None when the other is gone.

    Raises:
        BlockingIOError: there is none, and the socket does not wait.
    """
    packet, ancillary, _, _ = sock.recvmsg(_PACKET, _FD_ROOM, socket.MSG_CMSG_CLOEXEC)
    if not packet:
        return None
    kind, large, buffers, length, number, extra = _HEAD.unpack_from(packet)
    if not large:
        return Message(kind, number, extra, memoryview(packet)[_HEAD.size : _HEAD.size + length], -1, [])
    fd = -1
    for level, what, data in ancillary:
        if level == socket.SOL_SOCKET and what == socket.SCM_RIGHTS and len(data) >= 4:
            fd = array.array("i", data[:4])[0]
    lengths = [_LENGTH.unpack_from(packet, _HEAD.size + 8 * i)[0] for i in range(buffers + 1)]
    return Message(kind, number, extra, None, fd, lengths)
