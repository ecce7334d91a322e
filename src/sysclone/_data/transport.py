"""How an object crosses from one process to another: a pickle, its large buffers beside it in a memfd, and fds.

What is packed is either inline, a few bytes, or a letter: a memfd that holds the pickle and the buffers, each at an
address that suits it, with a table of where they stand. The receiver maps the memfd, and the buffers are its objects'
own memory: private, so that a write there changes nobody else's, and unmapped with the last of them.

    memfd: [pickle][buffer]...[buffer][table]        fds: the memfd, then those that the table and the pickle speak of
"""

from __future__ import annotations

import _thread
import os
import pickle

from .. import _core
from .._errors import CloneError
from .memory import PAGE, check_room, create, find, map_fd, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Final

LEAST_OUT_OF_BAND: Final = 1 << 16
"""A smaller buffer stays in the pickle: it is copied sooner than it is mapped."""

_ALIGNMENT: Final = 64
_FIELD: Final[Any] = vars(pickle.Pickler)["dispatch_table"]
MOST_FDS: Final = 253  # SCM_MAX_FD

CONTINUED: Final = b"\0"
"""The data of each message but the first, where many fds need more than one."""

# How objects of a type are packed where pickle alone cannot: by what `packing` enters here.
_REDUCERS: dict[type, Any] = {}
# The same for types of modules that may never be loaded, by name.
_LATE_REDUCERS: dict[tuple[str, str], Any] = {}


def packing(kind: type, reducer: Callable[[Packed, Any], tuple[Any, ...]]) -> None:
    """Enter how objects of a type are packed: reducer(packed, object) gives what __reduce__ would."""
    _REDUCERS[kind] = reducer


class _Table:
    """A dispatch table that knows the reducers above, and then another table."""

    def __init__(self, packed: Packed, rest: Any) -> None:
        self._packed = packed
        self._rest = rest

    def __getitem__(self, kind: type) -> Any:
        reducer = _REDUCERS.get(kind) or _LATE_REDUCERS.get((kind.__module__, kind.__qualname__))
        if reducer is None:
            return self._rest[kind]
        return lambda one: reducer(self._packed, one)


class Packed:
    """An object made ready to cross: the pieces of its pickle, its large buffers, and the fds that go with it."""

    __slots__ = ("_own", "buffers", "fds", "length", "pieces")

    def __init__(self) -> None:
        self.pieces: list[Any] = []
        self.length = 0
        # Each the memory of a PickleBuffer, or the index of an fd with the offset and the length in it.
        self.buffers: list[memoryview | tuple[int, int, int]] = []
        self.fds: list[int] = []
        self._own: list[int] = []

    def write(self, piece: Any) -> int:
        """What the pickler calls with each piece; a large bytes object comes as itself."""
        # Anything else may be a view of memory that the pickler is about to let go of.
        piece = piece if isinstance(piece, (bytes, bytearray)) else bytes(piece)
        self.pieces.append(piece)
        self.length += len(piece)
        return len(piece)

    def take_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        """What the pickler calls with each buffer; false takes it out of the pickle."""
        try:
            raw = buffer.raw()
        except BufferError:
            return True
        if raw.nbytes < LEAST_OUT_OF_BAND:
            return True
        address, length = _core.address_of(raw)
        region = find(address, length)
        self.buffers.append(raw if region is None else (self.add_fd(region.fd), address - region.address, length))
        return False

    def add_fd(self, fd: int, *, own: bool = False) -> int:
        """Send an fd along, borrowed until then unless own; gives its place among them."""
        if fd in self.fds:
            return self.fds.index(fd)
        self.fds.append(fd)
        if own:
            self._own.append(fd)
        return len(self.fds) - 1

    @property
    def is_small(self) -> bool:
        """Whether the pickle is all there is."""
        return not self.buffers and not self.fds

    def inline(self) -> bytes:
        """The pickle."""
        return b"".join(self.pieces)

    @property
    def total(self) -> int:
        """The bytes of the pickle and of the buffers that are not in shared memory already."""
        return self.length + sum(one.nbytes for one in self.buffers if isinstance(one, memoryview))

    def close(self) -> None:
        """Close the fds that were made for it."""
        while self._own:
            os.close(self._own.pop())


def pack(value: object, fallback: Callable[[], Any] | None = None, *, out_of_band: bool = True) -> Packed:
    """Pickle an object, its large buffers out of band.

    Args:
        value: any object.
        fallback: gives the class to try where pickle.Pickler fails, such as cloudpickle's, or None.
        out_of_band: whether large buffers may leave the pickle.

    Raises:
        Exception: what the pickler or the object's own code raised.
    """
    try:
        return pack_with(pickle.Pickler, value, out_of_band=out_of_band)
    except Exception:
        pickler = fallback() if fallback is not None else None
        if pickler is None:
            raise
    return pack_with(pickler, value, out_of_band=out_of_band)


def pack_with(pickler: Callable[..., Any], value: object, *, out_of_band: bool = True) -> Packed:
    """The same with one class, which takes the arguments of pickle.Pickler."""
    import copyreg

    packed = Packed()
    try:
        one = pickler(packed, 5, buffer_callback=packed.take_buffer if out_of_band else None)
        # A subclass's own table hides the field that the C code looks at.
        _FIELD.__set__(one, _Table(packed, getattr(one, "dispatch_table", copyreg.dispatch_table)))
        one.dump(value)
    except BaseException:
        packed.close()
        raise
    return packed


# --- letters


def write_letter(packed: Packed) -> tuple[int, int, int]:
    """Lay a packed object out in a memfd.

    Returns:
        The memfd, the caller's; where its table begins, and the table's length.

    Raises:
        CloneError: the kernel refused, or there is not so much memory: nothing stays behind.
    """
    size = packed.total
    check_room(size)
    fd = create("sysclone")
    try:
        at = 0
        for piece in packed.pieces:
            at = write_all(fd, at, piece)
        where: list[tuple[int, int, int]] = []
        for one in packed.buffers:
            if not isinstance(one, memoryview):
                where.append((one[0] + 1, one[1], one[2]))
                continue
            step = _ALIGNMENT if one.nbytes < 16 * PAGE else PAGE
            at = -(-at // step) * step
            where.append((0, at, one.nbytes))
            at = write_all(fd, at, one)
        table = pickle.dumps((packed.length, where, len(packed.fds)), 5)
        write_all(fd, at, table)
    except BaseException as e:
        os.close(fd)
        if isinstance(e, OSError) and not isinstance(e, CloneError):
            raise CloneError(e.errno or 0, step=f"write(memfd, {size} bytes)") from None
        raise
    return fd, at, len(table)


def read_letter(fds: list[int], table_at: int, table_length: int) -> Any:
    """The object of a letter; its fds are closed or become the object's.

    Args:
        fds: the memfd, and those that came with it: taken over.
        table_at, table_length: where the memfd has its table.

    Raises:
        CloneError: the kernel refused to map it.
        Exception: what unpickling raised.
    """
    try:
        length, where, _ = pickle.loads(os.pread(fds[0], table_length, table_at))
        views = _map_all(fds, where, length)
        return unpickle(views[0], fds[1:], views[1:], fds)
    finally:
        for fd in fds:
            if fd >= 0:
                os.close(fd)


def unpickle(data: Any, arrived: Sequence[int], buffers: Sequence[Any] = (), taken: list[int] | None = None) -> Any:
    """Unpickle with the fds that came with it; one that an object has taken is -1 in `taken` afterwards."""
    before = getattr(_arriving, "fds", None)
    _arriving.fds = (arrived, taken)
    try:
        return pickle.loads(data, buffers=buffers)
    finally:
        _arriving.fds = before


def _map_all(fds: list[int], where: Sequence[tuple[int, int, int]], length: int) -> list[memoryview]:
    """The pickle, then each buffer."""
    end = max([length, *(at + size for index, at, size in where if index == 0)])
    whole = map_fd(fds[0], max(end, 1)).view()
    views = [whole[:length].toreadonly()]
    for index, at, size in where:
        if index == 0:
            views.append(whole[at : at + size])
        else:
            low = at // PAGE * PAGE
            views.append(map_fd(fds[index], at - low + size, offset=low).view()[at - low :])
    return views


class _Arriving(_thread._local):
    fds: tuple[Sequence[int], list[int] | None] | None = None


_arriving = _Arriving()


def take_fd(index: int) -> int:
    """While unpickling: an fd that came along, the caller's from now on.

    Raises:
        pickle.UnpicklingError: none came.
    """
    if _arriving.fds is None:
        raise pickle.UnpicklingError("an fd was pickled, and no fd can come with a plain pickle")
    arrived, taken = _arriving.fds
    fd = arrived[index]
    if taken is None:
        return os.dup(fd)
    # The first to ask has the fd itself.
    if fd in taken:
        taken[taken.index(fd)] = -1
        return fd
    return os.dup(fd)


# --- fds over a socket


def _borrowed(sock: Any) -> Any:
    """A socket object for an fd: of a copy, since an interrupt may drop it, and it closes what it has."""
    import _socket

    if not isinstance(sock, int):
        return sock
    return _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, os.dup(sock))


def send_fds(sock: Any, fds: Sequence[int], data: bytes = CONTINUED) -> None:
    """Send fds, in as many messages as that takes; the first carries the data.

    Args:
        sock: a socket of whole messages, or its fd; borrowed.

    Raises:
        OSError: as of sendmsg(2).
    """
    import _socket

    end = _borrowed(sock)
    try:
        for at in range(0, max(len(fds), 1), MOST_FDS):
            part = b"".join(fd.to_bytes(4, "little") for fd in fds[at : at + MOST_FDS])
            rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, part)] if part else []
            end.sendmsg([data if at == 0 else CONTINUED], rights, _socket.MSG_NOSIGNAL)
    finally:
        if end is not sock:
            end.close()


def receive_fds(sock: Any, room: int = 1) -> tuple[bytes, list[int]]:
    """One message and the fds in it, the caller's; b"" at the end of the stream.

    Args:
        sock: as of send_fds.
        room: for so many bytes.

    Raises:
        OSError: as of recvmsg(2).
    """
    import _socket

    end = _borrowed(sock)
    try:
        data, ancillary, _, _ = end.recvmsg(room, _socket.CMSG_SPACE(4 * MOST_FDS), _socket.MSG_CMSG_CLOEXEC)
    finally:
        if end is not sock:
            end.close()
    fds = [
        int.from_bytes(part[i : i + 4], "little")
        for level, kind, part in ancillary
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS)
        for i in range(0, len(part) - 3, 4)
    ]
    return data, fds


# --- what pickle leaves out


def _reduce_memoryview(packed: Packed, view: memoryview) -> tuple[Any, ...]:
    if not view.c_contiguous:
        return _rebuild_view, (view.tobytes(), view.format, view.shape)
    return _rebuild_view, (pickle.PickleBuffer(view), view.format, view.shape)


def _rebuild_view(data: Any, form: Any, shape: tuple[int, ...]) -> Any:
    flat = memoryview(data).cast("B")
    if len(shape) == 1:
        return flat if form == "B" else flat.cast(form)
    return flat.cast(form, shape)


def _reduce_socket(packed: Packed, sock: Any) -> tuple[Any, ...]:
    return _rebuild_socket, (packed.add_fd(sock.fileno()), sock.family, sock.type, sock.proto)


def _rebuild_socket(index: int, family: int, kind: int, protocol: int) -> Any:
    import socket

    return socket.socket(family, kind, protocol, fileno=take_fd(index))


def _reduce_connection(packed: Packed, connection: Any) -> tuple[Any, ...]:
    return _rebuild_connection, (packed.add_fd(connection.fileno()), connection.readable, connection.writable)


def _rebuild_connection(index: int, readable: bool, writable: bool) -> Any:
    from multiprocessing.connection import Connection

    return Connection(take_fd(index), readable, writable)


class Descriptor:
    """An fd that crosses to another process with the object it is part of, as a number of that process's own.

    Wrap it among the arguments of a fresh process, or in a result: `zygote.call(read, Descriptor(fd))`. The function
    gets a Descriptor; its `fileno()` is the number there.

    Args:
        fd: borrowed: close it yourself. The receiver's is closed with its Descriptor, unless `detach()` takes it.

    See unix(7), SCM_RIGHTS.
    """

    __slots__ = ("_fd", "_own")

    def __init__(self, fd: int) -> None:
        self._fd = int(fd)
        self._own = False

    def fileno(self) -> int:
        """The fd, borrowed.

        Raises:
            ValueError: it was detached.
        """
        if self._fd < 0:
            raise ValueError("the fd was detached")
        return self._fd

    def detach(self) -> int:
        """The fd, the caller's from now on."""
        fd, self._fd = self.fileno(), -1
        return fd

    def __reduce__(self) -> tuple[Any, ...]:
        raise pickle.PicklingError("an fd crosses with the arguments and results of tasks, and not in a plain pickle")

    def __del__(self) -> None:
        if getattr(self, "_own", False) and self._fd >= 0 and os is not None:
            os.close(self._fd)

    def __repr__(self) -> str:
        return f"Descriptor({self._fd})"


def _rebuild_descriptor(index: int) -> Descriptor:
    one = Descriptor(take_fd(index))
    one._own = True
    return one


packing(memoryview, _reduce_memoryview)
packing(Descriptor, lambda packed, one: (_rebuild_descriptor, (packed.add_fd(one.fileno()),)))
_LATE_REDUCERS["socket", "socket"] = _reduce_socket
_LATE_REDUCERS["multiprocessing.connection", "Connection"] = _reduce_connection
