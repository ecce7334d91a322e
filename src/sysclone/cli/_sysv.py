"""System V semaphores and I/O priorities, for which Python has no names: what a shared undo list and I/O context do."""

from __future__ import annotations

import ctypes
import os
import platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Self

_libc = ctypes.CDLL(None, use_errno=True)
_IOPRIO: Final = {"x86_64": (251, 252), "aarch64": (30, 31)}
_WHO_PROCESS: Final = 1
_BEST_EFFORT: Final = 2 << 13

_IPC_CREAT: Final = 0o1000
_IPC_RMID: Final = 0
_GETVAL: Final = 12
_SETVAL: Final = 16
_SEM_UNDO: Final = 0x1000


class _Sembuf(ctypes.Structure):
    _fields_ = (("sem_num", ctypes.c_ushort), ("sem_op", ctypes.c_short), ("sem_flg", ctypes.c_short))


def _checked(answer: int) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer


class Semaphore:
    """A System V semaphore with the value 1, removed on leaving. Where none can be had, its use raises OSError."""

    def __enter__(self) -> Self:
        self._id = _libc.semget(0, 1, _IPC_CREAT | 0o600)
        _libc.semctl(self._id, 0, _SETVAL, 1)
        return self

    def __exit__(self, *_: object) -> None:
        _libc.semctl(self._id, 0, _IPC_RMID)

    def add(self, amount: int) -> None:
        """Change the value, to be undone when the last user of this task's undo list ends."""
        operation = _Sembuf(0, amount, _SEM_UNDO)
        _checked(_libc.semop(self._id, ctypes.byref(operation), 1))

    def value(self) -> int:
        """The value."""
        return _checked(_libc.semctl(self._id, 0, _GETVAL))


def set_io_priority(level: int) -> None:
    """Give the calling task an I/O context, and in it a best-effort priority, 0 to 7."""
    _checked(_libc.syscall(_IOPRIO[platform.machine()][0], _WHO_PROCESS, 0, _BEST_EFFORT | level))


def io_priority(tid: int) -> int:
    """The level of the I/O priority that a task's I/O context has."""
    return _checked(_libc.syscall(_IOPRIO[platform.machine()][1], _WHO_PROCESS, tid)) & 7
