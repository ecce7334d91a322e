"""The description of a task to be made: plain data, checked when it is made, compiled for the C core.

Pure: nothing here opens, asks or changes anything. `sysclone.Context` is this with verbs.
"""

from __future__ import annotations

import os
import signal

from . import _core
from ._errors import ContextError
from ._flags import Clone, Namespace, Share, broken_rules, format_flags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final, Self

PARENTS: Final = ("caller", "sibling")
LEAST_STACK_BYTES: Final = 16 * 1024
MOST_STACK_BYTES: Final = 1 << 46

# glibc's line for pthread_create: what makes a task a thread that libc can wait for.
_THREAD_BOOKKEEPING: Final = Clone.SETTLS | Clone.PARENT_SETTID | Clone.CHILD_CLEARTID

_DEFAULTS: Final[Mapping[str, Any]] = {
    "share": Share(0),
    "new": Namespace(0),
    "parent": "caller",
    "exit_signal": None,
    "stack_bytes": None,
    "tid": None,
    "cgroup": None,
    "clear_signal_handlers": None,
    "ptrace": False,
    "untraced": False,
    "suspend_caller": False,
    "timeout": None,
}

_FIELD_OF_FLAG: Final[Mapping[int, str]] = {
    Clone.PARENT: "parent",
    Clone.PTRACE: "ptrace",
    Clone.UNTRACED: "untraced",
    Clone.VFORK: "suspend_caller",
    Clone.CLEAR_SIGHAND: "clear_signal_handlers",
    Clone.INTO_CGROUP: "cgroup",
}


class Description:
    """What a new task shares, what is new, whose child it is, which signal it leaves with, its stack, cgroup and limits.

    Immutable, compared by value, hashable. `sysclone.Context` documents the fields.
    """

    __slots__ = (*_DEFAULTS, "_plans")

    share: Share
    new: Namespace
    parent: str
    exit_signal: int | None
    stack_bytes: int | None
    tid: tuple[int, ...] | None
    cgroup: str | int | None
    clear_signal_handlers: bool | None
    ptrace: bool
    untraced: bool
    suspend_caller: bool
    timeout: float | None
    _plans: dict[object, _core.Plan]

    def __init__(
        self,
        *,
        share: Share = Share(0),  # noqa: B008 (immutable)
        new: Namespace = Namespace(0),  # noqa: B008 (immutable)
        parent: str = "caller",
        exit_signal: int | None = None,
        stack_bytes: int | None = None,
        tid: int | tuple[int, ...] | None = None,
        cgroup: str | os.PathLike[str] | int | None = None,
        clear_signal_handlers: bool | None = None,
        ptrace: bool = False,
        untraced: bool = False,
        suspend_caller: bool = False,
        timeout: float | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "share", _flag(Share, share, "share"))
        put(self, "new", _flag(Namespace, new, "new"))
        put(self, "parent", _one_of(parent, PARENTS, "parent"))
        put(self, "exit_signal", _whole(exit_signal, "exit_signal", 0, 64))
        put(self, "stack_bytes", _whole(stack_bytes, "stack_bytes", LEAST_STACK_BYTES, MOST_STACK_BYTES))
        put(self, "tid", _tids(tid))
        put(self, "cgroup", _path_or_fd(cgroup, "cgroup"))
        put(
            self,
            "clear_signal_handlers",
            clear_signal_handlers if clear_signal_handlers is None else bool(clear_signal_handlers),
        )
        put(self, "ptrace", bool(ptrace))
        put(self, "untraced", bool(untraced))
        put(self, "suspend_caller", bool(suspend_caller))
        put(self, "timeout", _seconds(timeout))
        put(self, "_plans", {})
        self._check()

    # --- value semantics

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Context cannot be changed: use context.replace({name}=…)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a Context cannot be changed")

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in _DEFAULTS)

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, Description) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        changed = (f"{name}={getattr(self, name)!r}" for name in _DEFAULTS if getattr(self, name) != _DEFAULTS[name])
        return f"Context({', '.join(changed)})"

    def __str__(self) -> str:
        return format_flags(int(self.flags), self.signal)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), dict(zip(_DEFAULTS, self._values(), strict=True))))

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed.

        Args:
            **changes: fields of a Context, by name.

        Raises:
            ContextError: there is no such field, or the result breaks a rule.
        """
        for name in changes:
            if name not in _DEFAULTS:
                raise ContextError(f"a Context has no field {name!r}: it has {', '.join(_DEFAULTS)}", field=name)
        values: dict[str, Any] = {name: getattr(self, name) for name in _DEFAULTS}
        return type(self)(**{**values, **changes})

    # --- what it stands for

    @property
    def flags(self) -> Clone:
        """The clone flags that are asked for, without the exit signal and without the bookkeeping of the library."""
        flags = Clone(int(self.share) | int(self.new))
        for wanted, flag in (
            (self.parent == "sibling", Clone.PARENT),
            (self.ptrace, Clone.PTRACE),
            (self.untraced, Clone.UNTRACED),
            (self.suspend_caller, Clone.VFORK),
            (self.clear_signal_handlers, Clone.CLEAR_SIGHAND),
            (Share.THREAD in self.share, _THREAD_BOOKKEEPING),
        ):
            if wanted:
                flags |= flag
        return flags

    @property
    def signal(self) -> int:
        """The signal its parent gets when it ends: SIGCHLD unless another was asked for; 0 for siblings and threads."""
        if self.exit_signal is not None:
            return self.exit_signal
        return 0 if self.parent == "sibling" or Share.THREAD in self.share else int(signal.SIGCHLD)

    @property
    def call_name(self) -> str:
        """Which system call it needs: a sibling with a signal of its own is known to the old one alone."""
        return "clone" if self.parent == "sibling" and self.signal else "clone3"

    @property
    def clears_handlers(self) -> bool:
        """Whether a light process starts with default handlers: unless it shares them or was told to keep them."""
        if self.clear_signal_handlers is None:
            return Share.SIGHAND not in self.share
        return self.clear_signal_handlers

    def _check(self) -> None:
        for rule in broken_rules(int(self.flags), self.signal, self.call_name):
            raise ContextError(f"{self}: {rule.reason}", field=self._field_of(rule.flags))
        if self.suspend_caller and self.timeout is not None:
            raise ContextError(
                "suspend_caller=True with a timeout: the caller sleeps in the kernel and cannot keep time",
                field="timeout",
            )
        if self.tid is not None and self.call_name == "clone":
            raise ContextError("tid= needs clone3, and a sibling with an exit signal the old clone", field="tid")

    def _check_kind(self, kind: str) -> None:
        if kind == "light" and Namespace.TIME in self.new:
            raise ContextError(
                "new=TIME with share=VM: a task that shares memory enters its time namespace only at exec", field="new"
            )
        if kind == "copied" and self.stack_bytes is not None:
            raise ContextError(
                "stack_bytes without share=VM: a copied process has a copy of its caller's stack", field="stack_bytes"
            )
        if kind == "copied" and self.suspend_caller:
            raise ContextError(
                "suspend_caller without share=VM: every Python thread would wait with the caller, who holds the GIL",
                field="suspend_caller",
            )

    def _field_of(self, flags: int) -> str:
        for flag, field in _FIELD_OF_FLAG.items():
            if flags & flag & self.flags:
                return field
        if flags & int(self.new):
            return "new"
        return "share" if flags & int(self.share) else "exit_signal"

    def plan(self, kind: str, *, cgroup: int = -1, drop: int = 0, timeout: bool = True) -> _core.Plan:
        """Compiled for the C core, and kept unless it names an fd.

        Args:
            kind: "light", "copied" or "program".
            cgroup: a borrowed fd of a version 2 cgroup directory to be born in, or -1.
            drop: flags not to pass on.
            timeout: whether the core is to keep the time limit.
        """
        self._check_kind(kind)
        key = (kind, drop, timeout)
        if cgroup < 0 and key in self._plans:
            return self._plans[key]
        limit = self.timeout if timeout else None
        plan = _core.Plan(
            (int(self.flags) & ~drop) | (Clone.INTO_CGROUP if cgroup >= 0 else 0),
            self.signal,
            old_call=self.call_name == "clone",
            cgroup=cgroup,
            tids=self.tid or (),
            stack_bytes=self.stack_bytes or 0,
            timeout_ns=-1 if limit is None else int(limit * 1e9),
            clear_handlers=self.clears_handlers if kind == "light" else bool(self.clear_signal_handlers),
        )
        if cgroup < 0:
            self._plans[key] = plan
        return plan


def _rebuild(cls: type[Description], values: dict[str, Any]) -> Description:
    return cls(**values)


def _flag(kind: type[Any], value: object, field: str) -> object:
    if isinstance(value, bool) or not isinstance(value, int):
        names = " | ".join(f"{kind.__name__}.{name}" for name in list(kind.__members__)[:2])
        raise ContextError(f"{field}={value!r}: a {kind.__name__} is needed, such as {names}", field=field)
    every = 0
    for member in kind.__members__.values():
        every |= int(member)
    if int(value) & ~every:
        raise ContextError(
            f"{field}={int(value):#x}: bits {int(value) & ~every:#x} are no {kind.__name__}", field=field
        )
    return kind(int(value))


def _one_of(value: object, choices: tuple[str, ...], field: str) -> str:
    if value not in choices:
        raise ContextError(f"{field}={value!r}: one of {', '.join(map(repr, choices))} is needed", field=field)
    return str(value)


def _whole(value: object, field: str, least: int, most: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ContextError(f"{field}={value!r}: a whole number is needed", field=field)
    if not least <= value <= most:
        raise ContextError(f"{field}={int(value)}: between {least} and {most} is needed", field=field)
    return int(value)


def _tids(value: object) -> tuple[int, ...] | None:
    if value is None:
        return None
    many = value if isinstance(value, tuple) else (value,)
    if not 1 <= len(many) <= 32:
        raise ContextError(f"tid={value!r}: one id for each pid namespace, innermost first, at most 32", field="tid")
    return tuple(_whole(one, "tid", 1, 1 << 22) or 0 for one in many)


def _path_or_fd(value: object, field: str) -> str | int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    raise ContextError(f"{field}={value!r}: a path or an open fd is needed", field=field)


def _seconds(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1e9:
        raise ContextError(f"timeout={value!r}: seconds, more than 0 and at most 1e9", field="timeout")
    return float(value)
