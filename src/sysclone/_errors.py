"""The one family of errors: your request is wrong, the kernel refused, this kernel cannot, the task failed.

Every text is built here from an error's fields, and every field survives pickling and copying. What a refusal is likely
to mean on this machine is looked up when the error is made (`_hints`), since a full table may be empty again when it is printed.
"""

from __future__ import annotations

import os
from errno import EOPNOTSUPP, errorcode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, Protocol, Self

    class HasStatus(Protocol):
        """What an error asks of a task's status; `str()` gives it in words."""

        @property
        def exit_code(self) -> int | None: ...
        @property
        def signal(self) -> int | None: ...


# Where two names have one number, the one that system calls are documented with.
_NAMES = {**errorcode, EOPNOTSUPP: "EOPNOTSUPP"}


def error_name(errno: int) -> str:
    """An errno's name: "EINVAL"; its number where it has none."""
    return _NAMES.get(errno, str(errno))


def _restore(cls: type[SyscloneError], fields: dict[str, Any], rest: dict[str, Any]) -> SyscloneError:
    """An error from its fields: what a pickle calls."""
    error = cls(**fields)
    error.__dict__.update(rest)
    return error


class SyscloneError(Exception):
    """The base of every error that sysclone raises of its own accord."""

    _fields: ClassVar[tuple[str, ...]] = ()

    def _public(self) -> type[SyscloneError]:
        """The class to rebuild from."""
        return type(self)

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._fields:
            return super().__reduce__()  # type: ignore[return-value]
        fields = {name: getattr(self, name) for name in self._fields}
        rest = {name: value for name, value in self.__dict__.items() if name not in fields}
        return _restore, (self._public(), fields, rest)


class ContextError(SyscloneError, ValueError):
    """The request is wrong, and nothing was started.

    Args:
        problem: what is wrong with it, for a person.
        field: the field, flag or argument that it is about.
    """

    _fields = ("problem", "field")

    def __init__(self, problem: str, field: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.field = field

    def __str__(self) -> str:
        return self.problem


class CloneError(SyscloneError, OSError):
    """The kernel refused one step of starting a task.

    Each is also an instance of the OSError subclass of its errno, so `except FileNotFoundError` catches a program that
    does not exist.

    Args:
        errno: the kernel's answer.
        step: what was tried: "clone3(NEWUSER|NEWPID)", "execve(/bin/x)", "chdir(/x)".
        hint: what it is likely to mean, and what to try; None looks at this machine.
        filename: the file that the step was about, if it was about one.
    """

    _fields = ("errno", "step", "hint", "filename")

    # OSError takes its arguments in __new__; its own choice of subclass by errno is made for OSError alone.
    def __new__(cls, errno: int, step: str, hint: str | None = None, filename: str | bytes | None = None) -> Self:
        error: Self = OSError.__new__(_of_errno(cls, errno), errno, os.strerror(errno))
        return error

    def __init__(self, errno: int, step: str, hint: str | None = None, filename: str | bytes | None = None) -> None:
        self.errno: int = errno
        self.strerror: str = os.strerror(errno)
        self.filename = filename
        self.step = step
        if hint is None:
            hint = _look_for_a_hint(step, errno, filename)
        self.hint: str = hint

    def _public(self) -> type[SyscloneError]:
        return next(cls for cls in type(self).__mro__ if cls not in _COMBINED.values())

    def __str__(self) -> str:
        refusal = f"{self.step}: {error_name(self.errno)} {self.strerror}"
        return f"{refusal}\n{self.hint}" if self.hint else refusal


def load_hints() -> None:
    """Load what an error's hint needs, before a task enters other mounts: an import there would run the files there."""
    try:
        from ._hints import table as table
    except Exception:
        pass


def _look_for_a_hint(step: str, errno: int, filename: str | bytes | None) -> str:
    """A hint, or nothing where looking fails: with a full file table not even an import works."""
    try:
        from ._hints.table import hint_for

        return hint_for(step, errno, filename)
    except Exception:
        return ""


_COMBINED: dict[tuple[type[OSError], type[OSError]], type[CloneError]] = {}


def _of_errno(cls: type[CloneError], errno: int) -> type[Any]:
    """The class itself combined with the OSError subclass that Python has for the errno, made once."""
    kind = type(OSError(errno, ""))
    if kind is OSError or issubclass(cls, kind):
        return cls
    if (cls, kind) not in _COMBINED:
        names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        _COMBINED[cls, kind] = type(cls.__name__, (cls, kind), names)
    return _COMBINED[cls, kind]


class Unsupported(SyscloneError):
    """This kernel, machine or interpreter cannot.

    Args:
        feature: what was asked for: "CLONE_INTO_CGROUP".
        since: the Linux release that has it ("5.7"); None where a newer kernel would not help.
        reason: why not, where it is not the kernel's age.
        release: the release that cannot; None asks the running kernel.
    """

    _fields = ("feature", "since", "reason", "release")

    def __init__(
        self, feature: str, since: str | None = None, reason: str | None = None, release: str | None = None
    ) -> None:
        super().__init__(feature)
        self.feature = feature
        self.since = since
        self.reason = reason
        self.release: str = os.uname().release if release is None else release

    def __str__(self) -> str:
        why = self.reason or f"this is Linux {self.release}"
        return f"{self.feature} needs Linux {self.since}: {why}" if self.since else f"no {self.feature} here: {why}"


class TaskFailed(SyscloneError):
    """The task ended without a result.

    Args:
        pid: its pid; None where it never had one.
        status: how it ended, as far as that was seen.
        detail: what else is known, for a person.
    """

    _fields: ClassVar[tuple[str, ...]] = ("pid", "status", "detail")

    def __init__(self, pid: int | None = None, status: HasStatus | None = None, detail: str = "") -> None:
        super().__init__(pid, status)
        self.pid = pid
        self.status = status
        self.detail = detail

    def _what(self) -> str:
        return str(self.status) if self.status is not None else "ended, and how is unknown"

    def __str__(self) -> str:
        task = "the task" if self.pid is None else f"task {self.pid}"
        return f"{task} {self._what()}{f': {self.detail}' if self.detail else ''}"


class TaskExited(TaskFailed):
    """It exited before its function returned: os._exit, or an exit in C."""

    @property
    def exit_code(self) -> int | None:
        """Its exit code, 0 to 255."""
        return self.status.exit_code if self.status is not None else None

    def _what(self) -> str:
        return f"{super()._what()} before its function returned"


class TaskKilled(TaskFailed):
    """A signal ended it."""

    @property
    def signal(self) -> int | None:
        """The number of that signal."""
        return self.status.signal if self.status is not None else None

    def _what(self) -> str:
        return f"was {super()._what()}" if self.signal is not None else super()._what()


class TaskOverLimit(TaskKilled):
    """It was ended for reaching a limit that it was given.

    Args:
        pid, status, detail: as of TaskFailed.
        limit: which: "memory_bytes", "cpu_seconds".
        value: the limit itself, in its unit.
        enforced_by: what enforces it: "cgroup v1", "cgroup v2", "watched RSS", "RLIMIT_CPU".
    """

    _fields = ("pid", "status", "detail", "limit", "value", "enforced_by")

    def __init__(
        self,
        pid: int | None = None,
        status: HasStatus | None = None,
        detail: str = "",
        limit: str = "",
        value: float = 0,
        enforced_by: str = "",
    ) -> None:
        super().__init__(pid, status, detail)
        self.limit = limit
        self.value = value
        self.enforced_by = enforced_by

    def _what(self) -> str:
        return f"{super()._what()} for reaching its limit, {self.limit}={self.value} ({self.enforced_by})"


class TaskLost(TaskFailed):
    """It ended, and its status was not seen: another waited for it, or SIGCHLD is ignored."""

    def _what(self) -> str:
        return f"is lost: {super()._what()}" if self.status is not None else "is lost: its status was not seen"


class ResultError(TaskFailed):
    """The function returned or raised, but what came of it cannot be handed over (a copied process uses pickle).

    Args:
        detail: what cannot be handed over and why.
        pid, status: as of TaskFailed.
    """

    def __init__(self, detail: str, pid: int | None = None, status: HasStatus | None = None) -> None:
        super().__init__(pid, status, detail)

    def __str__(self) -> str:
        return self.detail if self.pid is None else f"task {self.pid}: {self.detail}"


class ZygoteError(SyscloneError):
    """The zygote of fresh processes could not be started, or does not live; nothing of the call has begun.

    Args:
        problem: what became of it.
        traceback: of what went wrong in it, as text; empty where nothing was told.
    """

    _fields = ("problem", "traceback")

    def __init__(self, problem: str, traceback: str = "") -> None:
        super().__init__(problem, traceback)
        self.problem = problem
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.problem}\n\n{self.traceback}".rstrip()


class TaskTimeout(SyscloneError, TimeoutError):
    """It was not done in time.

    Args:
        pid: the task's pid.
        seconds: the time that it had.
        still_running: whether it goes on; False where it was stopped for being late.
    """

    _fields = ("pid", "seconds", "still_running")

    def __init__(self, pid: int | None, seconds: float, still_running: bool) -> None:
        self.pid = pid
        self.seconds = seconds
        self.still_running = still_running

    def __str__(self) -> str:
        task = "the task" if self.pid is None else f"task {self.pid}"
        return (
            f"{task} was not done in {self.seconds:g} s{': it goes on' if self.still_running else ', and was stopped'}"
        )


class Cancelled(BaseException):
    """Raised in a function that is to stop, and by the result of a task that did.

    No `Exception`, so that `except Exception` in the function does not swallow it.
    """


class SyscloneWarning(RuntimeWarning):
    """Legal, and not what it seems: a switch that will not last, a hazard the caller should know of."""
