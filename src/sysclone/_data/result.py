"""The memory in which a process leaves its result: shared from its birth, read when it has ended.

Never a pipe: a pipe fills, and then the child waits for a reader that waits for the child.

A page starts with the gate and the pid that the C core writes (copied.c), then what became of the function, and how far
it has come. A small result stands in the page itself. A large one, and one with fds, is a letter (`_data.transport`): its fds lie
in a socket, where they stay when the child is gone; one message and the few that follow it for many fds fit in any.
"""

from __future__ import annotations

import os
from _struct import Struct

from .. import _core
from .._errors import CloneError, ResultError
from .memory import create, map_fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Final

    from .transport import Packed

SIZE: Final = 65536
HEAD: Final = 512
NOTHING: Final = 0
VALUE: Final = 1
RAISED: Final = 2
UNPICKLABLE: Final = 3
_LETTER: Final = 16  # beside the kind: the result is a letter

# Words of 32 bits: 0, 1, 3 and 15 are copied.c's; 2 is the kind; the claim is what a fresh process is begun under.
PID: Final = 1
_KIND: Final = 2
CLAIM: Final = 14
BETWEEN: Final = 15
_LENGTH: Final = Struct("<QQ")  # at 16: the inline length, or the table's place and length
_LENGTH_AT: Final = 16
# A count that is odd while the rest is written, the length of the text, done, total (negative: unknown), the text.
_PROGRESS: Final = Struct("<IIdd")
_WORD: Final = Struct("<I")
_SAID: Final = Struct("<Idd")  # all of _PROGRESS but the count
_PROGRESS_AT: Final = 32
_TEXT_AT: Final = 64
_TEXT_ROOM: Final = HEAD - _TEXT_AT


# Handed over as they are: what every pickle of theirs comes to.
_SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})
_pickle: Any = None
_transport: Any = None


def _load() -> None:
    """Load what children will need, before they are made: an import in each costs more than the clone."""
    global _pickle, _transport
    if _transport is None:
        import pickle

        from . import transport

        _pickle, _transport = pickle, transport


class RemoteTraceback(Exception):
    """Stands as the cause of an exception that came from another process, with the traceback it had there as text."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def load() -> None:
    """Load what handing a result over needs, before a task becomes who cannot read it, or has other files in its place."""
    import linecache  # noqa: F401
    import pickle  # noqa: F401
    import tokenize  # noqa: F401
    import traceback  # noqa: F401

    from . import transport, unpicklable  # noqa: F401


class ResultPage:
    """One child's result. The creator closes it; the child only writes.

    Args:
        named: whether the page is a memfd, for a child that does not inherit it; `fd` is then its fd, to be sent.
    """

    def __init__(self, named: bool = False) -> None:
        self.fd = -1
        try:
            _load()
        except (ImportError, OSError):
            pass  # with a full file table; what is needed is told of below, or loaded later
        try:
            self._ours, self.theirs = _core.socketpair()
        except OSError as e:
            raise CloneError(e.errno or 0, step="socketpair(AF_UNIX)") from None
        try:
            if named:
                self.fd = create("sysclone-page")
                os.ftruncate(self.fd, SIZE)
            self.map: _core.Mapping | None = map_fd(self.fd, SIZE, shared=True)
        except BaseException:
            self.map = None
            self.close()
            raise
        self._view = self.map.view()

    def keep_clear(self, numbers: Iterable[int]) -> None:
        """Before the child is made: let no fd of this have one of these numbers, which the child will have others at."""
        import fcntl

        taken = set(numbers)
        for name in ("_ours", "theirs", "fd"):
            fd = getattr(self, name)
            if fd in taken:
                try:
                    setattr(self, name, fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, max(taken) + 1))
                except OSError as e:
                    raise CloneError(e.errno or 0, step=f"fcntl(F_DUPFD_CLOEXEC, {fd})") from None
                os.close(fd)

    @classmethod
    def arrived(cls, page: int, theirs: int) -> ResultPage:
        """The child's end of a named page, from the fds that were sent, which it takes over."""
        _load()
        self = cls.__new__(cls)
        self.fd = self._ours = -1
        self.theirs = theirs
        try:
            self.map = map_fd(page, SIZE, shared=True)
        finally:
            os.close(page)
        self._view = self.map.view()
        return self

    def close_theirs(self) -> None:
        """In the creator, once the child has its own: let go of the fds that are the child's."""
        # Forgotten first: whoever is interrupted in between must not close a number twice.
        fds = (self.theirs, self.fd)
        self.theirs = self.fd = -1
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    def close(self) -> None:
        """Let go of the memory and the fds."""
        self.close_theirs()
        ours, self._ours = self._ours, -1
        if ours >= 0:
            os.close(ours)
        mapping, self.map = self.map, None
        if mapping is not None:
            self._view.release()
            mapping.close()

    # --- the child's side

    def write_value(self, value: object, fallback: Callable[[], Any] | None = None) -> bool:
        """Hand a value over, or say why it cannot be; whether it was handed over."""
        if type(value) in _SCALARS:
            _load()
            data = _pickle.dumps(value, 5)
            if len(data) <= SIZE - HEAD:
                self._write_small(VALUE, data)
                return True
        _load()
        try:
            packed = _transport.pack(value, fallback)
        except Exception as e:
            from .unpicklable import blame

            self._write_words(blame("the return value", value, e, fallback) + _ADVICE)
            return False
        return self._write(VALUE, packed)

    def write_exception(self, exception: BaseException, fallback: Callable[[], Any] | None = None) -> None:
        """Hand an exception over with its traceback as text; one that cannot be pickled is told of in words."""
        import traceback

        _load()
        text = "".join(traceback.format_exception(exception))
        try:
            inner = _pickled_exception(exception, fallback)
            # A failing copy is better told of here, with the traceback, than found out there.
            _pickle.loads(inner)
        except Exception as e:
            from .unpicklable import blame

            self._write_words(f"{blame('the exception', exception, e, fallback)}{_ADVICE}\n\n{text}")
        else:
            self._write(RAISED, _transport.pack((text, inner)))

    def _write_words(self, words: str) -> None:
        self._write(UNPICKLABLE, _transport.pack(words))

    def _write(self, kind: int, packed: Packed) -> bool:
        if packed.is_small and packed.length <= SIZE - HEAD:
            self._write_small(kind, packed.inline())
            return True
        try:
            table_at, table_length = self._send(packed)
        except OSError as e:
            self._write_words(f"the result of {packed.total} bytes could not be handed over: {e}")
            return False
        finally:
            packed.close()
        _LENGTH.pack_into(self._view, _LENGTH_AT, table_at, table_length)
        _WORD.pack_into(self._view, 4 * _KIND, kind | _LETTER)
        return True

    def _write_small(self, kind: int, data: bytes) -> None:
        view = self._view
        view[HEAD : HEAD + len(data)] = data
        _LENGTH.pack_into(view, _LENGTH_AT, len(data), 0)
        _WORD.pack_into(view, 4 * _KIND, kind)

    def _send(self, packed: Packed) -> tuple[int, int]:
        memfd, table_at, table_length = _transport.write_letter(packed)
        try:
            _transport.send_fds(self.theirs, [memfd, *packed.fds])
        finally:
            os.close(memfd)
        return table_at, table_length

    def write_progress(self, done: float, total: float | None, text: str) -> None:
        """Say how far the function has come."""
        data = text.encode()[:_TEXT_ROOM]
        count = _PROGRESS.unpack_from(self._view, _PROGRESS_AT)[0] | 1
        _WORD.pack_into(self._view, _PROGRESS_AT, count)
        self._view[_TEXT_AT : _TEXT_AT + len(data)] = data
        _SAID.pack_into(self._view, _PROGRESS_AT + 4, len(data), done, -1.0 if total is None else total)
        _WORD.pack_into(self._view, _PROGRESS_AT, (count + 1) & 0xFFFFFFFF)

    # --- the creator's side

    def read_progress(self) -> tuple[float, float | None, str] | None:
        """What was said last: how much is done, of how much, and a text; None before the first time."""
        for _ in range(1000 if self.map is not None else 0):
            count, length, done, total = _PROGRESS.unpack_from(self._view, _PROGRESS_AT)
            text = bytes(self._view[_TEXT_AT : _TEXT_AT + min(length, _TEXT_ROOM)])
            if count & 1 == 0 and _PROGRESS.unpack_from(self._view, _PROGRESS_AT)[0] == count:
                return (done, None if total < 0 else total, text.decode(errors="ignore")) if count else None
        return None

    def set_word(self, index: int, value: int) -> None:
        """Set one of them."""
        _WORD.pack_into(self._view, 4 * index, value)

    def exchange(self, index: int, expected: int, desired: int) -> int:
        """Set one of them if it is as expected; gives what it was."""
        return _core.exchange(self._view, index, expected, desired)

    def word(self, index: int) -> int:
        """One of the words at the page's head."""
        return int.from_bytes(self._view[4 * index : 4 * index + 4], "little")

    def kind(self) -> int:
        """Which kind of result stands there."""
        return self.word(_KIND) & ~_LETTER if self.map is not None else NOTHING

    def read(self) -> Any:
        """The value; raises the exception that stands there, or ResultError. To be called once."""
        _load()
        kind = self.word(_KIND)
        if kind == VALUE:
            length = self.word(_LENGTH_AT // 4)
            try:
                # A copy: what it is read from is unmapped as soon as it is read.
                return _pickle.loads(bytes(self._view[HEAD : HEAD + length]))
            except Exception as e:
                raise ResultError(_NOT_HERE.format(type(e).__name__, e)) from e
        return self._read(kind & ~_LETTER)

    def _read(self, kind: int) -> Any:
        try:
            answer = self._open()
        except Exception as e:
            raise ResultError(_NOT_HERE.format(type(e).__name__, e)) from e
        if kind == VALUE:
            return answer
        if kind == UNPICKLABLE:
            raise ResultError(answer)
        text, inner = answer
        try:
            exception = _pickle.loads(inner)
        except Exception as e:
            problem = f"an exception came but cannot be unpickled here: {type(e).__name__}: {e}\n\n{text}"
            raise ResultError(problem) from RemoteTraceback(text)
        exception.__cause__ = RemoteTraceback(text)
        raise exception

    def _open(self) -> Any:
        first, second = _LENGTH.unpack_from(self._view, _LENGTH_AT)
        if not self.word(_KIND) & _LETTER:
            return _transport.unpickle(bytes(self._view[HEAD : HEAD + first]), ())
        _, fds = _transport.receive_fds(self._ours)
        try:
            missing = _letter_fds(fds, first, second) - len(fds)
            while missing > 0:
                more = _transport.receive_fds(self._ours)[1]
                fds += more
                missing -= len(more)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        return _transport.read_letter(fds, first, second)


def _letter_fds(fds: list[int], table_at: int, table_length: int) -> int:
    """How many fds belong to a letter, by its own table."""
    count: int = _pickle.loads(os.pread(fds[0], table_length, table_at))[2]
    return count + 1


def _pickled_exception(exception: BaseException, fallback: Callable[[], Any] | None) -> bytes:
    packed: Packed = _transport.pack(exception, fallback, out_of_band=False)
    if packed.fds:
        packed.close()
        raise _pickle.PicklingError("an exception cannot hold an fd across processes")
    return packed.inline()


_NOT_HERE: Final = "the result came but cannot be unpickled here: {}: {}"
_ADVICE: Final = (
    ". A process with a memory of its own hands its result back by pickle; a light one (Share.VM) does not."
)
