"""What a preexec_fn does to memory, which it shares with its creator, is made the program's alone.

It runs on its creator's thread (spawn.c tells how), so the environment and Python's table of signal handlers are the
creator's own. What it asks of them is taken down here instead, and done in the child or handed to exec:

1. os.environ, os.putenv and os.unsetenv: the changes go into the program's environment, and os.environ is put back.
2. signal.signal: the kernel's table of the child alone. A handler in Python becomes the default at exec, as it ever did.
   It works in any thread, as after a fork, where the thread that forked is the main one.
3. signal.pthread_sigmask: every signal stays blocked while Python runs in the child, because one that ended it might strike
   within the GIL. The mask that it would have is kept here, answered, and set before exec.

The functions are replaced while a preexec_fn runs anywhere in the program, and ask which thread calls: others go through.
"""

from __future__ import annotations

import os
import signal as signals
from _thread import allocate_lock, get_ident
from errno import EINVAL

from .. import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, Self

# signal.py calls its functions by this name: whoever imported one of its own calls the replacement too.
_signal: Any = signals._signal  # type: ignore[attr-defined]
_running: dict[int, Preexec] = {}
_originals: dict[str, Any] = {}
_lock = allocate_lock()


def _after_fork() -> None:
    """The lock may have been held by a thread that this process does not have."""
    global _lock
    _lock = allocate_lock()


os.register_at_fork(after_in_child=_after_fork)


class Preexec:
    """A set-up function for _core.spawn that runs a preexec_fn and answers the program's environment and signal mask.

    Args:
        function: the preexec_fn.
        environment: what the program gets; None for a copy of this process's.
        mask: the signal mask that the program gets, as bits, unless the function changes it.
    """

    def __init__(self, function: Callable[[], object], environment: list[bytes] | None, mask: int) -> None:
        self.function = function
        self.environment = environment
        self.mask = {number for number in range(1, 65) if mask >> (number - 1) & 1}
        self.handlers: dict[int, Any] = {}
        self.variables: dict[bytes, bytes | None] = {}
        self.before: dict[bytes, bytes | None] = {}
        self.outer: Preexec | None = None

    def __call__(self) -> tuple[list[bytes] | None, int]:
        try:
            self.function()
            return self._environment_to_have(), sum(1 << (number - 1) for number in self.mask)
        finally:
            self.put_back()

    def __enter__(self) -> Self:
        with _lock:
            if not _running:
                for module, replacement in _REPLACEMENTS:
                    name = replacement.__name__
                    _originals[name] = getattr(module, name)
                    setattr(module, name, replacement)
            self.outer = _running.get(get_ident())
            _running[get_ident()] = self
        return self

    def __exit__(self, *_exception: object) -> None:
        self.put_back()  # the child may have ended in the middle
        with _lock:
            if self.outer is not None:
                _running[get_ident()] = self.outer
                return
            del _running[get_ident()]
            if not _running:
                for module, replacement in _REPLACEMENTS:
                    setattr(module, replacement.__name__, _originals[replacement.__name__])

    def put_back(self) -> None:
        """Make os.environ what it was, where this changed it."""
        data: Any = getattr(os.environ, "_data", {})
        for name, value in self.before.items():
            if value is None:
                data.pop(name, None)
            else:
                data[name] = value
        self.before = {}

    def put_variable(self, name: bytes, value: bytes | None) -> None:
        """Note a change of the environment, before os.environ has it."""
        data: Any = getattr(os.environ, "_data", {})
        self.before.setdefault(name, data.get(name))
        self.variables[name] = value

    def _environment_to_have(self) -> list[bytes] | None:
        """None where the function changed nothing, or where the program was given an environment of its own."""
        if self.environment is not None or not self.variables:
            return None
        there = {**os.environb, **self.before, **self.variables}
        return [name + b"=" + value for name, value in there.items() if value is not None]


def putenv(name: Any, value: Any, /) -> None:
    """os.putenv, but in a preexec_fn."""
    mine = _running.get(get_ident())
    if mine is None:
        _originals["putenv"](name, value)
        return
    key = os.fsencode(name)
    if not key or b"=" in key:
        raise ValueError("illegal environment variable name")
    mine.put_variable(key, os.fsencode(value))


def unsetenv(name: Any, /) -> None:
    """os.unsetenv, but in a preexec_fn."""
    mine = _running.get(get_ident())
    if mine is None:
        _originals["unsetenv"](name)
    else:
        mine.put_variable(os.fsencode(name), None)


def signal(number: int, handler: Any, /) -> Any:
    """signal.signal, but in a preexec_fn."""
    mine = _running.get(get_ident())
    if mine is None:
        return _originals["signal"](number, handler)
    if handler not in (_signal.SIG_IGN, _signal.SIG_DFL) and not callable(handler):
        raise TypeError("signal handler must be signal.SIG_IGN, signal.SIG_DFL, or a callable object")
    if not 0 < number < _signal.NSIG:
        raise ValueError("signal number out of range")
    before = getsignal(number)
    _core.set_disposition(number, handler == _signal.SIG_IGN)
    mine.handlers[number] = handler
    return before


def getsignal(number: int, /) -> Any:
    """signal.getsignal, but in a preexec_fn."""
    mine = _running.get(get_ident())
    if mine is None or number not in mine.handlers:
        return _originals["getsignal"](number)
    return mine.handlers[number]


def pthread_sigmask(how: int, mask: Any, /) -> set[int]:
    """signal.pthread_sigmask, but in a preexec_fn."""
    mine = _running.get(get_ident())
    if mine is None:
        answer: set[int] = _originals["pthread_sigmask"](how, mask)
        return answer
    asked = {int(number) for number in mask}
    if any(not 0 < number < _signal.NSIG for number in asked):
        raise ValueError("signal number out of range")
    before = set(mine.mask)
    if how == _signal.SIG_BLOCK:
        mine.mask |= asked
    elif how == _signal.SIG_UNBLOCK:
        mine.mask -= asked
    elif how == _signal.SIG_SETMASK:
        mine.mask = asked
    else:
        raise OSError(EINVAL, os.strerror(EINVAL))
    return before


_REPLACEMENTS: Final = (
    (os, putenv),
    (os, unsetenv),
    (_signal, signal),
    (_signal, getsignal),
    (_signal, pthread_sigmask),
)
