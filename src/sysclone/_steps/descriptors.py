"""Descriptors, signals and environment of the calling task. Each function is one step of a child's set-up."""

from __future__ import annotations

import fcntl
import os
import signal
import struct

from .. import _core
from .._errors import CloneError
from .raw import close

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from .._context.description import Description
    from .steps import Step

_SIG_SETMASK: Final = 2
_SIG_DFL, _SIG_IGN = 0, 1


def is_open(fd: int) -> bool:
    """Whether a number stands for a file, in the calling task's table."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def steps(context: Description) -> list[Step]:
    """The descriptors, when nobody needs the creator's numbers any more."""
    return [("dup3", place, (context.fds,))] if context.fds else []


def signal_steps(context: Description, program: bool) -> list[Step]:
    """What signals do; a program's mask is set by who makes it, at exec, since until then all are blocked."""
    found: list[Step] = []
    for handler, numbers in ((_SIG_IGN, context.ignored_signals), (_SIG_DFL, context.default_signals)):
        for number in numbers:
            name = f"rt_sigaction({_called(number)}, {'SIG_DFL' if handler == _SIG_DFL else 'SIG_IGN'})"
            found.append((name, _core.set_disposition, (number, handler == _SIG_IGN)))
    if context.signal_mask is not None and not program:
        found.append(("rt_sigprocmask", set_mask, (mask_of(context.signal_mask),)))
    return found


def _called(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def mask_of(signals: tuple[int, ...]) -> int:
    """A signal set as bits."""
    return sum(1 << (number - 1) for number in signals)


def place(pairs: tuple[tuple[int, int], ...]) -> None:
    """Make each target a duplicate of its source, whatever stands in whose place, without close-on-exec.

    Raises:
        CloneError: a source is not open, or a target is beyond RLIMIT_NOFILE.
    """
    above = max(target for target, _source in pairs) + 1
    apart: list[tuple[int, int]] = []
    try:
        for target, source in pairs:
            try:
                apart.append((target, _core.syscall("fcntl", source, fcntl.F_DUPFD_CLOEXEC, above)))
            except OSError as e:
                raise CloneError(e.errno or 0, step=f"fcntl(F_DUPFD_CLOEXEC, {source})") from None
        for target, fd in apart:
            try:
                _core.syscall("dup3", fd, target, 0)
            except OSError as e:
                raise CloneError(e.errno or 0, step=f"dup3({dict(pairs)[target]}, {target})") from None
    finally:
        for _target, fd in apart:
            close(fd)


def set_mask(bits: int) -> None:
    """rt_sigprocmask(2)."""
    _core.syscall("rt_sigprocmask", _SIG_SETMASK, struct.pack("Q", bits), None, 8)


def environment_step(pairs: tuple[tuple[str, str], ...]) -> Step:
    """These variables and no others, for a task with a memory of its own."""
    import ctypes

    # What C code has put there is not known to os.environ.
    return "clearenv", set_environment, (ctypes.CDLL(None).clearenv, pairs)


def set_environment(clear: Callable[[], object], pairs: tuple[tuple[str, str], ...]) -> None:
    """clearenv(3), and setenv(3) for each."""
    os.environ.clear()
    clear()
    os.environ.update(pairs)
