"""Memory that carries large pickles from one process to another, again and again: made once, and written over.

A memfd for each of them would cost more in new pages than in copying. This is for what the receiver copies as it unpickles
it, such as bytes; buffers that become the receiver's own are in a memfd of their own (`_data.transport`).

1. The writer writes only when the reader is known to be through with what was there before.
2. All of it is allocated when it is made: a write can meet no lack of memory, which would be SIGBUS.
3. Neither keeps its fd: a function may close it, and the number then be another file's.
"""

from __future__ import annotations

import os

from .._data.memory import create, map_fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from .._data.transport import Packed

MOST: Final = 1 << 24
"""The largest pickle that goes this way, and what a worker may hold in memory each way for as long as it lives."""

_LEAST: Final = 1 << 18
_STEP: Final = 2  # sizes are powers of four


class _End:
    _view: memoryview | None = None
    _mapping: Any = None

    def _take(self, fd: int, size: int, writable: bool) -> None:
        """Map it; the fd stays the caller's."""
        mapping = map_fd(fd, size, writable=writable, shared=True)
        self.close()
        self._mapping, self._view = mapping, mapping.view()

    @property
    def room(self) -> int:
        """How much it holds."""
        return 0 if self._view is None else len(self._view)

    def close(self) -> None:
        """Unmap it."""
        if self._view is not None:
            self._view.release()
            self._mapping.close()
            self._view = self._mapping = None


class Lane(_End):
    """The writer's end."""

    def write(self, packed: Packed) -> int:
        """Lay a pickle out in it; gives an fd that has to go along, the caller's, or -1.

        Raises:
            OSError: there is no memory, or no fd.
        """
        fd = -1
        if self.room < packed.length:
            size = _LEAST
            while size < packed.length:
                size <<= _STEP
            fd = create("sysclone-lane")
            try:
                os.posix_fallocate(fd, 0, size)
                self._take(fd, size, writable=True)
            except BaseException:
                os.close(fd)
                raise
        at = 0
        assert self._view is not None
        for piece in packed.pieces:
            self._view[at : at + len(piece)] = piece
            at += len(piece)
        return fd


class LaneEnd(_End):
    """The reader's end."""

    def open(self, fd: int) -> None:
        """Take over an fd that came, in place of what was read from before.

        Raises:
            OSError: it cannot be mapped; what was there before is gone then too.
        """
        try:
            self._take(fd, os.fstat(fd).st_size, writable=False)
        except OSError:
            self.close()
            raise
        finally:
            os.close(fd)

    def read(self, length: int) -> memoryview | None:
        """What was written; None where its fd did not come. Release it when it is unpickled."""
        return None if self._view is None else self._view[:length]
