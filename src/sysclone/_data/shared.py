"""Data that tasks of any kind read without a copy: a sealed memfd, which is gone with the last handle, mapping and fd.

How a handle crosses: to what shares or copies this memory it need not; to fresh processes and executors its fd goes along
(`_data.transport`); to a process that multiprocessing spawns the fd goes the way that module has for its own; in any other
pickle it is named by /proc/PID/fd/FD, with the inode, so that a number that means another file by then is found out.
"""

from __future__ import annotations

import fcntl
import os
import sys
from weakref import WeakValueDictionary

from .._errors import CloneError, SyscloneError
from .memory import Region, check_room, create, write_all
from .transport import packing, take_fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Final, Self

    from .transport import Packed

# Linux 3.17: F_SEAL_SEAL, SHRINK, GROW, WRITE.
_SEALS: Final = 0x0001 | 0x0002 | 0x0004 | 0x0008


class Shared:
    """A handle on read-only data: made by `shared`, opened at no cost by every kind of task.

    A context manager: leaving it closes it.

    Attributes:
        nbytes: the size of the data.
    """

    __slots__ = ("__weakref__", "_region", "_shape", "nbytes")

    nbytes: int

    def __init__(self, region: Region, nbytes: int, shape: tuple[Any, ...]) -> None:
        self._region: Region | None = region
        self.nbytes = nbytes
        # ("bytes",), ("view", format, shape) or ("array", dtype, shape, order).
        self._shape = shape
        _known[region.inode] = self

    def _memory(self) -> Region:
        if self._region is None:
            raise ValueError("the Shared was closed")
        return self._region

    def fileno(self) -> int:
        """The memfd, borrowed; in a process whose file table has it.

        Raises:
            ValueError: it was closed, or this process has another file table (a light process that is older).
        """
        region = self._memory()
        if not region.is_here():
            raise ValueError(f"the memfd is fd {region.fd} of process {region.owner}, and not in this one's table")
        return region.fd

    def view(self) -> memoryview:
        """The data as a read-only memoryview, without a copy; it outlives the handle.

        Raises:
            ValueError: it was closed.
        """
        flat = self._memory().view()[: self.nbytes]
        if self._shape[0] == "view":
            form, shape = self._shape[1:]
            return flat.cast(form, shape) if len(shape) != 1 else flat.cast(form)
        return flat

    def array(self) -> Any:
        """The data as a read-only numpy array, without a copy; it outlives the handle.

        Bytes are an array of uint8.

        Raises:
            ModuleNotFoundError: there is no numpy.
            ValueError: it was closed.
        """
        import numpy

        if self._shape[0] == "array":
            dtype, shape, order = self._shape[1:]
            if not self.nbytes:
                empty = numpy.empty(shape, dtype)
                empty.flags.writeable = False
                return empty
            return numpy.frombuffer(self._memory().view()[: self.nbytes], dtype).reshape(shape, order=order)
        return numpy.asarray(self.view())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """What numpy.asarray calls."""
        array = self.array()
        if dtype is not None and dtype != array.dtype:
            if copy is False:
                raise ValueError(f"an array of {dtype} would be a copy of this one, of {array.dtype}")
            return array.astype(dtype)
        return array.copy() if copy else array

    def close(self) -> None:
        """Let go of the memory and the fd; views that were given out stay."""
        region, self._region = self._region, None
        if region is not None:
            region.close_fd()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __len__(self) -> int:
        return self.nbytes if self._shape[0] == "bytes" else int(self._shape[2][0]) if self._shape[2] else 0

    def __repr__(self) -> str:
        if self._region is None:
            return "<Shared: closed>"
        return f"<Shared {self._shape[0]} of {self.nbytes} bytes>"

    def __reduce__(self) -> tuple[Any, ...]:
        region = self._memory()
        here = region.is_here()
        context = sys.modules.get("multiprocessing.context")
        if here and context is not None and context.get_spawning_popen() is not None:
            from multiprocessing.reduction import DupFd

            return _open_spawned, (DupFd(region.fd), self.nbytes, self._shape)
        pid = os.getpid() if here else region.owner
        return _open_by_name, (pid, region.fd, region.inode, self.nbytes, self._shape)


# Handles by inode: what arrives a second time is the same handle, with one fd and one mapping.
_known: WeakValueDictionary[int, Shared] = WeakValueDictionary()


def shared(data: Any) -> Shared:
    """Put data where every kind of task reads it without a copy.

    Args:
        data: bytes, or anything that exports a buffer: a bytearray, a memoryview, a numpy array. It is copied, once.

    Returns:
        A Shared. Pass it to tasks as it is: `view()` and `array()` there are this very memory.

    Raises:
        CloneError: the kernel refused, or there is not so much memory.
        TypeError: it exports no buffer, or holds Python objects.

    See memfd_create(2) and F_SEAL_WRITE in fcntl(2).
    """
    if isinstance(data, Shared):
        return data
    shape, flat = _flat(data)
    check_room(flat.nbytes)
    fd = create("sysclone-shared", sealable=True)
    try:
        write_all(fd, 0, flat)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError as e:
        os.close(fd)
        raise CloneError(e.errno or 0, step=f"write(memfd, {flat.nbytes} bytes)") from None
    except BaseException:
        os.close(fd)
        raise
    return Shared(Region(fd, max(flat.nbytes, 1), writable=False), flat.nbytes, shape)


def _flat(data: Any) -> tuple[tuple[Any, ...], memoryview]:
    """What it looks like, and its bytes."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(data, numpy.ndarray):
        if data.dtype.hasobject:
            raise TypeError(f"an array of {data.dtype} holds Python objects, which are in this process alone")
        order = "F" if data.flags.f_contiguous and not data.flags.c_contiguous else "C"
        whole = numpy.asarray(data, order=order)
        bare = whole.ravel(order="K").view("u1") if whole.size else numpy.empty(0, "u1")
        return ("array", data.dtype, data.shape, order), memoryview(bare)
    view = memoryview(data)
    if isinstance(data, (bytes, bytearray)):
        return ("bytes",), view
    if view.format.startswith(("<", ">", "=", "!")) or view.format.lstrip("@") == "O":
        raise TypeError(f"a buffer of format {view.format!r} cannot be shared: a memoryview has no cast to it")
    shape = ("view", view.format, view.shape)
    return shape, view.cast("B") if view.c_contiguous and view.nbytes else memoryview(view.tobytes())


# --- opening


def _open(fd: int, nbytes: int, shape: tuple[Any, ...]) -> Shared:
    """A handle on an fd, which it takes over."""
    known = _known.get(os.fstat(fd).st_ino)
    if known is not None and known._region is not None and known.nbytes == nbytes:
        os.close(fd)
        return known
    return Shared(Region(fd, max(nbytes, 1), writable=False), nbytes, shape)


def _open_arrived(index: int, nbytes: int, shape: tuple[Any, ...]) -> Shared:
    return _open(take_fd(index), nbytes, shape)


def _open_spawned(duplicate: Any, nbytes: int, shape: tuple[Any, ...]) -> Shared:
    return _open(duplicate.detach(), nbytes, shape)


def _open_by_name(pid: int, number: int, inode: int, nbytes: int, shape: tuple[Any, ...]) -> Shared:
    known = _known.get(inode)
    if known is not None and known._region is not None and known.nbytes == nbytes:
        return known
    gone = (
        f"the data that process {pid} shared is gone: it has ended, or let go of its Shared before this one was opened"
    )
    try:
        fd = os.open(f"/proc/{pid}/fd/{number}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, ProcessLookupError):
        raise SyscloneError(gone) from None
    except OSError as e:
        raise CloneError(e.errno or 0, step=f"open(/proc/{pid}/fd/{number})") from None
    if os.fstat(fd).st_ino != inode or not _is_sealed(fd):
        os.close(fd)
        raise SyscloneError(gone)
    return _open(fd, nbytes, shape)


def _is_sealed(fd: int) -> bool:
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:
        return False


def _reduce(packed: Packed, one: Shared) -> tuple[Any, ...]:
    region = one._memory()
    if not region.is_here():
        return one.__reduce__()
    return _open_arrived, (packed.add_fd(region.fd), one.nbytes, one._shape)


packing(Shared, _reduce)
