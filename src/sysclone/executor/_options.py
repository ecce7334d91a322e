"""What may be said of a call: its time, its limits, its context. Plain data, checked when it is made."""

from __future__ import annotations

from .._api import Context
from .._errors import ContextError
from .._flags import Share
from .._zygote.fresh import check as check_fresh

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

KINDS: Final = ("light", "copied", "fresh")
MEMORY_BY: Final = ("cgroup", "rlimit", "rss")
_NAMES: Final = ("timeout", "memory_bytes", "memory_by", "cpu_seconds", "files", "processes", "context")


class Spec:
    """What a process is made with: what calls must have in common to be run by the same worker."""

    __slots__ = ("_hash", "context", "files", "memory_by", "memory_bytes", "processes")

    context: Context
    memory_bytes: int | None
    memory_by: str | None
    files: int | None
    processes: int | None

    def __init__(
        self,
        context: Context,
        memory_bytes: int | None,
        memory_by: str | None,
        files: int | None,
        processes: int | None,
    ) -> None:
        self.context = context
        self.memory_bytes = memory_bytes
        self.memory_by = memory_by
        self.files = files
        self.processes = processes
        self._hash = hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return (self.context, self.memory_bytes, self.memory_by, self.files, self.processes)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Spec) and self._key() == other._key())

    def __hash__(self) -> int:
        return self._hash

    @property
    def limited(self) -> bool:
        """Whether anything but the context is asked for."""
        return self.memory_bytes is not None or self.files is not None or self.processes is not None


class Options:
    """The limits and the context of a call; immutable.

    Args:
        kind: "light", "copied" or "fresh".
        timeout: seconds, more than 0 and at most 1e9; None for no limit.
        memory_bytes: what the call may take beyond the memory that its process begins with, 1 MiB or more.
        memory_by: "cgroup", "rlimit" (RLIMIT_AS) or "rss" (looked at every 50 ms); None: a cgroup where one can be made,
            else RLIMIT_AS.
        cpu_seconds: processor time, user and system together, more than 0; whole seconds in a light process.
        files: how many more files it may have open at once than its process begins with.
        processes: how many processes and threads it may have at once beside itself.
        context: what its process shares and what is new in it.

    Raises:
        ContextError: a value is out of range, or cannot be had with this kind; `field` names it.
    """

    __slots__ = (*_NAMES, "kind", "spec", "timed")

    kind: str
    timeout: float | None
    memory_bytes: int | None
    memory_by: str | None
    cpu_seconds: float | None
    files: int | None
    processes: int | None
    context: Context
    spec: Spec
    timed: Context

    def __init__(
        self,
        kind: str,
        *,
        timeout: float | None = None,
        memory_bytes: int | None = None,
        memory_by: str | None = None,
        cpu_seconds: float | None = None,
        files: int | None = None,
        processes: int | None = None,
        context: Context | None = None,
    ) -> None:
        context = _context(kind, context)
        self.kind = kind
        self.timeout = _seconds(timeout, "timeout") if timeout is not None else context.timeout
        self.memory_bytes = whole(memory_bytes, "memory_bytes", 1 << 20)
        self.memory_by = memory_by
        self.cpu_seconds = _seconds(cpu_seconds, "cpu_seconds")
        self.files = whole(files, "files", 0)
        self.processes = whole(processes, "processes", 0)
        self.context = context
        if memory_by is not None and memory_by not in MEMORY_BY:
            raise ContextError(f"memory_by={memory_by!r}: one of {', '.join(map(repr, MEMORY_BY))}", field="memory_by")
        if kind == "light" and memory_bytes is not None:
            raise ContextError(
                "memory_bytes with kind='light': a light process has its creator's memory. The kernel counts RSS, RLIMIT_AS "
                "and cgroups for a whole memory, so what grows may be any thread's, and none of it is the call's alone; "
                "kind='copied' or 'fresh' can be limited",
                field="memory_bytes",
            )
        if kind == "light" and memory_by is not None:
            raise ContextError(
                f"memory_by={memory_by!r} with kind='light': its memory is not limited", field="memory_by"
            )
        plain = context if context.timeout is None else context.replace(timeout=None)
        self.spec = Spec(plain, self.memory_bytes, memory_by, self.files, self.processes)
        self.timed = plain if self.timeout is None else plain.replace(timeout=self.timeout)

    def replace(self, **changes: Any) -> Options:
        """A copy with some of them changed.

        Raises:
            ContextError: a value is out of range.
            TypeError: no such option.
        """
        unknown = changes.keys() - set(_NAMES)
        if unknown:
            raise TypeError(f"no option of a call: {', '.join(sorted(unknown))}; there are {', '.join(_NAMES)}")
        values = {name: getattr(self, name) for name in _NAMES} | changes
        context = values["context"]
        if context is not None and "timeout" in changes and changes["timeout"] is None:
            values["context"] = context.replace(timeout=None)
        return Options(self.kind, **values)

    def told(self) -> str:
        """The limits in words, for an error's note; empty where there are none."""
        names = [name for name in _NAMES[:-1] if getattr(self, name) is not None]
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)


def _context(kind: str, context: Context | None) -> Context:
    if kind not in KINDS:
        raise ContextError(f"kind={kind!r}: one of {', '.join(map(repr, KINDS))}", field="kind")
    if context is None:
        return Context.light() if kind == "light" else Context()
    if not isinstance(context, Context):
        raise ContextError(f"context={context!r}: a sysclone.Context is needed", field="context")
    if (kind == "light") != (Share.VM in context.share):
        problem = "shares no memory, and a light process does" if kind == "light" else "shares memory (Share.VM)"
        raise ContextError(f"kind={kind!r} with {context!r}: it {problem}", field="context")
    if kind == "fresh":
        check_fresh(context)
    if context.parent != "caller" or Share.THREAD in context.share or context.suspend_caller:
        raise ContextError(
            f"{context!r}: an executor ends and waits for what it starts: no sibling, no thread (Share.THREAD), and no "
            "suspend_caller",
            field="context",
        )
    return context


def _seconds(value: object, field: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1e9:
        raise ContextError(f"{field}={value!r}: seconds, more than 0 and at most 1e9", field=field)
    return float(value)


def whole(value: object, field: str, least: int) -> int | None:
    """A whole number of at least so much, or None.

    Raises:
        ContextError: it is something else.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 62:
        raise ContextError(f"{field}={value!r}: a whole number, {least} or more, is needed", field=field)
    return value
