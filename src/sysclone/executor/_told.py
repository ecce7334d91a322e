"""What a worker has come to within a chunk of a map: each item's result, told as it is there.

The results of a chunk come back together when it is done. A worker that dies in its midst, or is ended, would take those
that it has along, and nobody may run them again. So it lays each into a memfd that its executor has too, and
counts it when it is whole. Numbers and short texts, of which there may be a million a second, are written into a mapping by
the extension; what does not fit there goes to the file behind it.
"""

from __future__ import annotations

import os
import pickle
import struct
import sys

from .._data.memory import create, map_fd, write_all
from .._data.transport import Descriptor
from . import _channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Final

SIZE: Final = 1 << 18
BEGIN: Final = 16
_HEAD: Final = struct.Struct("=qq")  # the call, and how many results there are
_COUNT: Final = struct.Struct("=q")
_ENTRY: Final = struct.Struct("=cq")  # what it is, and its number or length: see mapping.c
_PICKLE: Final = b"p"
_NOT_TOLD: Final = b"-"  # the result has fds, which no file holds
_PLAIN: Final[dict[bytes, Callable[[bytes, int], Any]]] = {
    b"i": lambda _data, number: number,
    b"f": lambda _data, number: struct.unpack("=d", number.to_bytes(8, sys.byteorder, signed=True))[0],
    b"n": lambda _data, _number: None,
    b"t": lambda _data, _number: True,
    b"u": lambda _data, _number: False,
    b"b": lambda data, _length: data,
    b"s": lambda data, _length: data.decode(),
    _PICKLE: lambda data, _length: pickle.loads(data),
}
_WITH_DATA: Final = (b"b", b"s", _PICKLE)


class Untold(Exception):
    """A result cannot be handed over, and why."""


class Told:
    """The results of one worker's chunk so far. The executor closes it; a worker keeps it until its end."""

    def __init__(self) -> None:
        self._fd = create("sysclone-told")
        try:
            os.ftruncate(self._fd, SIZE)
            self._map()
        except BaseException:
            os.close(self._fd)
            raise
        self._beyond = False

    def _map(self) -> None:
        self._inode = os.fstat(self._fd).st_ino
        self._mapping = map_fd(self._fd, SIZE, shared=True)
        self._view = self._mapping.view()

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (Descriptor(self._fd),)

    # --- the worker's side

    def begin(self, call: int) -> None:
        """The worker begins with a chunk."""
        _HEAD.pack_into(self._view, 0, call, 0)
        if self._beyond:
            self._beyond = False
            if self._is_here():
                os.ftruncate(self._fd, SIZE)

    def add_all(self, results: Iterator[Any], values: list[Any]) -> None:
        """Add what the iterator gives to the values, and tell each at once.

        Raises:
            Untold: the last of the values cannot be told.
            BaseException: what the iterator raised.
        """
        at, end = self._mapping.tell(results, values, BEGIN)
        while not end:
            at = self.add(at, values[-1])
            at, end = self._mapping.tell(results, values, at)

    def add(self, at: int, value: object) -> int:
        """One more result, of any type and size; gives where the next one goes.

        Raises:
            Untold: it cannot be pickled, or there is no room for it.
        """
        try:
            data = pickle.dumps(value, 5)
        except Exception:
            data = _with_all_means(value)
        entry = _ENTRY.pack(_PICKLE if data else _NOT_TOLD, len(data))
        begin = at + _ENTRY.size
        end = begin + len(data)
        if end <= SIZE:
            self._view[at:begin] = entry
            self._view[begin:end] = data
        else:
            self._beyond = True
            if not self._is_here():
                raise Untold(
                    f"the result of {len(data)} bytes could not be handed over: a function has closed its file"
                )
            try:
                os.pwrite(self._fd, entry, at)
                write_all(self._fd, begin, data)
            except OSError as e:
                raise Untold(f"the result of {len(data)} bytes could not be handed over: {e}") from None
        (count,) = _COUNT.unpack_from(self._view, 8)
        _COUNT.pack_into(self._view, 8, count + 1)
        return end

    def _is_here(self) -> bool:
        """Whether the number stands for the file: a function may have closed it, and have another there."""
        try:
            return os.fstat(self._fd).st_ino == self._inode
        except OSError:
            return False

    # --- the executor's side

    def read(self, call: int) -> list[Any]:
        """The results of a chunk whose worker has come to its end, up to the first that cannot be had here."""
        number, count = _HEAD.unpack_from(self._view, 0)
        values: list[Any] = []
        at = BEGIN
        for _ in range(count if number == call else 0):
            try:
                kind, length = _ENTRY.unpack(_read(self._fd, at, _ENTRY.size))
                if kind == _NOT_TOLD:
                    break
                at += _ENTRY.size
                data = b""
                if kind in _WITH_DATA:
                    data = _read(self._fd, at, length)
                    at += length
                values.append(_PLAIN[kind](data, length))
            except Exception:
                break
        return values

    def close(self) -> None:
        """Let go of it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._view.release()
            self._mapping.close()
            os.close(fd)


def _read(fd: int, at: int, length: int) -> bytes:
    parts = []
    while length:
        part = os.pread(fd, length, at)
        if not part:
            raise EOFError
        parts.append(part)
        at += len(part)
        length -= len(part)
    return b"".join(parts)


def _with_all_means(value: object) -> bytes:
    """The pickle of what pickle alone does not take; empty where it holds fds.

    Raises:
        Untold: it cannot be pickled.
    """
    try:
        packed = _channel.pack_in_band(value)
    except Exception as e:
        words = _channel.why_not("the return value", value) or f"the return value cannot be pickled: {e}"
        raise Untold(words) from None
    data = packed.inline() if packed.is_small else b""
    packed.close()
    return data


def _arrived(descriptor: Descriptor) -> Told:
    told = Told.__new__(Told)
    told._fd = descriptor.detach()
    told._map()
    told._beyond = False
    return told
