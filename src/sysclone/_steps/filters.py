"""A task's seccomp filter: set as its very last step, and looked at before for what would end it at the wrong moment."""

from __future__ import annotations

import os
import struct

from .. import _core
from .._context.seccomp_filter import SeccompFilter, answer
from .._errors import ContextError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_SET_MODE_FILTER: Final = 1
_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# On x86-64 and aarch64.
_NUMBERS: Final = {
    "brk": (12, 214), "close_range": (436, 436), "execve": (59, 221), "execveat": (322, 281), "exit": (60, 93),
    "fcntl": (72, 25), "futex": (202, 98),
    "madvise": (28, 233), "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
}  # fmt: skip
# What a light process does while it holds locks that its creator needs, and to leave.
_OF_LIGHT: Final = ("exit", "futex", "rt_sigprocmask", "rt_sigreturn", "mmap", "munmap", "mprotect", "madvise", "brk")
_OF_PROGRAM: Final = ("futex", "fcntl", "close_range", "rt_sigprocmask")
_ALLOW, _LOG, _ERRNO = 0x7FFF0000, 0x7FFC0000, 0x00050000
_ACTION: Final = 0xFFFF0000


def program_of(wanted: SeccompFilter | bytes, light: bool, execs: str = "") -> bytes:
    """The program for the kernel.

    Args:
        wanted: the filter.
        light: whether it is for a light process.
        execs: the call by which the task becomes a program, if it does.

    Raises:
        ContextError: it would end the task where that does harm, or before it has begun.
        Unsupported: there is no libseccomp to compile it.
    """
    code = wanted.program() if isinstance(wanted, SeccompFilter) else wanted
    machine = os.uname().machine
    arch, column = _ARCH[machine], list(_ARCH).index(machine)
    for name in _OF_LIGHT if light else (*_OF_PROGRAM, execs) if execs else ():
        action = answer(code, arch, _NUMBERS[name][column]) & _ACTION
        if action in (_ALLOW, _LOG) or (execs and action == _ERRNO):
            continue
        why = (
            "a light process needs it while it holds locks that its creator needs, and to leave"
            if light
            else "it is needed between the filter and the program: the task would end before it has begun"
        )
        raise ContextError(f"seccomp: the filter does not allow {name}: {why}", field="seccomp")
    return code


def load(code: bytes) -> None:
    """seccomp(2), SECCOMP_SET_MODE_FILTER: for the calling task alone. Linux 3.17."""
    address, length = _core.address_of(code)
    _core.syscall("seccomp", _SET_MODE_FILTER, 0, struct.pack("HxxxxxxP", length // 8, address))
