"""What the command line says when something is wrong, and the exit statuses that are its own."""

from __future__ import annotations

import sys
import warnings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Final, TextIO

    from .._task.status import Status

RAISED: Final = 1
REFUSED: Final = 1
DISAGREES: Final = 1
TIMED_OUT: Final = 124
FAILED: Final = 125
CANNOT_EXECUTE: Final = 126
NOT_FOUND: Final = 127
BY_SIGNAL: Final = 128
INTERRUPTED: Final = BY_SIGNAL + 2
BROKEN_PIPE: Final = BY_SIGNAL + 13

# The fields of a Context; what else an error points at is no option.
_OPTIONS: Final = {
    "share", "new", "parent", "exit_signal", "stack_bytes", "tid", "cgroup", "clear_signal_handlers", "ptrace",
    "untraced", "timeout", "join", "loopback", "root", "umask", "hostname", "domainname", "propagation",
    "uid", "gid", "groups", "capabilities", "no_new_privs", "nice", "scheduling", "affinity", "io_priority",
    "oom_score_adj", "session", "parent_death_signal", "argv0", "timer_slack_ns", "memory_policy", "securebits",
    "controlling_terminal", "personality", "keyring", "seccomp", "seccomp_filter", "landlock_best_effort", "init_groups",
    "ambient_caps",
}  # fmt: skip
_OTHERWISE: Final = {
    "suspend_caller": "vfork", "uid_map": "map-users", "gid_map": "map-groups", "time_offsets": "time-offset",
    "cwd": "chdir", "mounts": "mount", "landlock": "landlock-ro", "limits": "limit", "environment": "env",
    "fds": "fd", "ignored_signals": "ignore-signal", "default_signals": "default-signal", "signal_mask": "block-signal",
}  # fmt: skip
"""Fields whose option has another name."""


def complain(name: str, text: str) -> None:
    """Write to standard error, under the name of the command."""
    try:
        print(f"{name}: {text}", file=sys.stderr, flush=True)
    except OSError:
        pass  # nobody is there to read it, and the exit status says it too


def tell_failure(name: str, error: Exception) -> None:
    """Say why the command itself failed: what was tried, what came of it, what to do; never a traceback."""
    from .._errors import ContextError, SyscloneError, SyscloneWarning

    if isinstance(error, ContextError) and error.field in (*_OPTIONS, *_OTHERWISE):
        option = _OTHERWISE.get(error.field, error.field.replace("_", "-"))
        complain(name, f"--{option}: {error}")
    elif isinstance(error, SyscloneError):
        complain(name, str(error))
    elif isinstance(error, SyscloneWarning):
        complain(name, f"{error}\ntry: the same without --strict")
    elif isinstance(error, OSError):
        from errno import errorcode

        what = f"{error.filename}: " if error.filename is not None else ""
        complain(name, f"{what}{errorcode.get(error.errno or 0, '')} {error.strerror}")
    else:
        complain(name, f"a fault in sysclone: {type(error).__name__}: {error}")


def near(word: str, names: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: the names that resemble it, or else all of them."""
    from difflib import get_close_matches

    known = list(names)
    close = get_close_matches(word, known, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else f": it is one of {', '.join(known)}"


def exit_code(name: str, status: Status | None) -> int:
    """The exit status that passes on how a task ended; an unknown end is a failure, and is said."""
    if status is not None and status.signal is not None:
        return BY_SIGNAL + status.signal
    if status is not None and status.exit_code is not None:
        return status.exit_code
    complain(name, f"how it ended is {status or 'unknown'}")
    return FAILED


class Warnings:
    """While it is open, a SyscloneWarning is one line on standard error, or with strict an error before anything starts."""

    def __init__(self, name: str, strict: bool) -> None:
        self._name = name
        self._strict = strict
        self._inner = warnings.catch_warnings()

    def __enter__(self) -> None:
        from .._errors import SyscloneWarning

        self._inner.__enter__()
        warnings.simplefilter("error" if self._strict else "always", SyscloneWarning)
        usual = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, SyscloneWarning):
                complain(self._name, f"warning: {message}")
            else:
                usual(message, category, filename, lineno, file, line)

        warnings.showwarning = show

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._inner.__exit__(kind, value, tb)
