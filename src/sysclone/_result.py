"""The memory in which a copied process leaves its result: shared before the clone, read when it has ended.

Never a pipe: a pipe fills, and then the child waits for a reader that waits for the child.

A page starts with the gate and the pid that the C core writes (copied.c), then the kind and the length of the result.
Small results stand in the page; a larger one follows it in the same memfd, which grows to hold it.
"""

from __future__ import annotations

import mmap
import os

from ._errors import CloneError, ResultError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

SIZE: Final = 65536
_HEAD: Final = 32
NOTHING: Final = 0
VALUE: Final = 1
RAISED: Final = 2
UNPICKLABLE: Final = 3


class RemoteTraceback(Exception):
    """Stands as the cause of an exception that came from another process, with the traceback it had there as text."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class ResultPage:
    """One child's result. The creator closes it; the child only writes."""

    def __init__(self) -> None:
        try:
            self._fd = os.memfd_create("sysclone", os.MFD_CLOEXEC)
        except OSError as e:
            raise CloneError(e.errno or 0, step="memfd_create(sysclone)") from None
        try:
            os.ftruncate(self._fd, SIZE)
            self.map = mmap.mmap(self._fd, SIZE)
        except OSError as e:
            os.close(self._fd)
            raise CloneError(e.errno or 0, step=f"mmap(memfd, {SIZE})") from None

    def close(self) -> None:
        """Let go of the memory and the fd."""
        if self._fd >= 0:
            self.map.close()
            os.close(self._fd)
            self._fd = -1

    # --- the child's side

    def write(self, kind: int, data: bytes) -> None:
        """Leave the result. An OSError (the fd closed, memory gone) is left in its place as text."""
        if len(data) > SIZE - _HEAD:
            try:
                at = SIZE
                view = memoryview(data)
                while view:
                    done = os.pwrite(self._fd, view, at)
                    at, view = at + done, view[done:]
            except OSError as e:
                kind, data = UNPICKLABLE, f"the result of {len(data)} bytes could not be handed over: {e}".encode()
        if len(data) <= SIZE - _HEAD:
            self.map[_HEAD : _HEAD + len(data)] = data
        self.map[16:24] = len(data).to_bytes(8, "little")
        self.map[8:12] = kind.to_bytes(4, "little")

    def write_value(self, value: object) -> None:
        """Pickle a value, or say why it cannot be."""
        import pickle

        try:
            data = pickle.dumps(value, protocol=5)
        except Exception as e:
            self.write(UNPICKLABLE, _why_unpicklable("return value", value, e).encode())
        else:
            self.write(VALUE, data)

    def write_exception(self, exception: BaseException) -> None:
        """Pickle an exception with its traceback as text; one that cannot be pickled is told of in words."""
        import pickle
        import traceback

        text = "".join(traceback.format_exception(exception))
        try:
            data = pickle.dumps((exception, text), protocol=5)
            pickle.loads(data)
        except Exception as e:
            words = _why_unpicklable("exception", exception, e)
            self.write(UNPICKLABLE, f"{words}\n\n{text}".encode())
        else:
            self.write(RAISED, data)

    # --- the creator's side

    def kind(self) -> int:
        """Which kind of result stands there."""
        return int.from_bytes(self.map[8:12], "little")

    def read(self) -> Any:
        """The value; raises the exception that stands there, or ResultError."""
        import pickle

        kind, length = self.kind(), int.from_bytes(self.map[16:24], "little")
        data = self.map[_HEAD : _HEAD + length] if length <= SIZE - _HEAD else self._read_large(length)
        if kind == UNPICKLABLE:
            raise ResultError(bytes(data).decode())
        try:
            answer = pickle.loads(data)
        except Exception as e:
            raise ResultError(f"the result came but cannot be unpickled here: {type(e).__name__}: {e}") from e
        if kind == VALUE:
            return answer
        exception, text = answer
        exception.__cause__ = RemoteTraceback(text)
        raise exception

    def _read_large(self, length: int) -> memoryview:
        return memoryview(mmap.mmap(self._fd, length, prot=mmap.PROT_READ, offset=SIZE))


def _why_unpicklable(what: str, value: object, error: Exception) -> str:
    return (
        f"the {what}, of type {type(value).__module__}.{type(value).__qualname__}, cannot be pickled: "
        f"{type(error).__name__}: {error}. A copied process hands its result back by pickle; a light process (Share.VM) does not."
    )
