"""The description of a task to be made: plain data, checked when it is made, compiled for the C core.

Pure: nothing here opens, asks or changes anything. `sysclone.Context` is this with verbs.
"""

from __future__ import annotations

import os
import signal

from .. import _core
from .._errors import ContextError
from .._flags import Clone, Namespace, Share, format_flags
from . import clone_rules
from .field_table import FIELDS
from .step_fields import offsets_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from typing import Any, Final, Protocol, Self

    from .capabilities import Capabilities
    from .fields import Buffer
    from .landlock_rules import Landlock
    from .mount_types import Mount
    from .scheduling import Scheduling
    from .seccomp_filter import SeccompFilter

    Path = str | os.PathLike[str]

    class Joinable(Protocol):
        """Open namespaces: sysclone.Namespaces."""

        @property
        def kinds(self) -> Namespace: ...
        def joins(self) -> tuple[tuple[int, int], ...]: ...


# glibc's line for pthread_create: what makes a task a thread that libc can wait for.
_THREAD_BOOKKEEPING: Final = Clone.SETTLS | Clone.PARENT_SETTID | Clone.CHILD_CLEARTID

# madvise(2): MADV_DONTFORK and MADV_DOFORK, MADV_WIPEONFORK and MADV_KEEPONFORK.
_EXCLUDE: Final = (10, 11)
_WIPE: Final = (18, 19)

# What `_idmap.Maps` has for the C core.
MAP_FIELDS: Final = ("deny_setgroups", "gid_helper", "gid_map", "uid_helper", "uid_map")


class Description:
    """What a new task shares, what is new, whose child it is, which signal it leaves with, its stack, cgroup and limits.

    Immutable, compared by value, hashable. `sysclone.Context` documents the fields.
    """

    __slots__ = (*FIELDS, "_kept")

    share: Share
    new: Namespace
    join: Joinable | None
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
    uid_map: str | tuple[tuple[int, int, int], ...] | None
    gid_map: str | tuple[tuple[int, int, int], ...] | None
    loopback: bool
    uid: int | None
    gid: int | None
    groups: tuple[int, ...] | None
    capabilities: Capabilities | None
    securebits: int | None
    no_new_privs: bool
    memory_exclude: tuple[Buffer, ...]
    memory_wipe: tuple[Buffer, ...]
    cwd: str | int | None
    root: str | int | None
    umask: int | None
    session: bool
    process_group: int | None
    controlling_terminal: str | int | None
    foreground: str | int | None
    limits: tuple[tuple[str, int | None, int | None], ...]
    nice: int | None
    scheduling: Scheduling | None
    affinity: tuple[int, ...] | None
    io_priority: tuple[str, int] | None
    oom_score_adj: int | None
    timer_slack_ns: int | None
    memory_policy: tuple[str, tuple[int, ...]] | None
    parent_death_signal: int | None
    signal_mask: tuple[int, ...] | None
    ignored_signals: tuple[int, ...]
    default_signals: tuple[int, ...]
    fds: tuple[tuple[int, int], ...]
    environment: tuple[tuple[str, str], ...] | None
    argv0: str | None
    executable: str | int | None
    personality: int | None
    hostname: str | None
    domainname: str | None
    propagation: str | None
    mounts: tuple[Mount, ...]
    time_offsets: tuple[tuple[str, int], ...]
    keyring: str | None
    landlock: Landlock | None
    seccomp: SeccompFilter | bytes | None
    setup: Callable[[], object] | None
    _kept: dict[object, Any]

    def __init__(
        self,
        *,
        share: Share = Share(0),  # noqa: B008 (immutable)
        new: Namespace = Namespace(0),  # noqa: B008 (immutable)
        join: Joinable | None = None,
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
        uid_map: str | Sequence[tuple[int, int, int]] | None = None,
        gid_map: str | Sequence[tuple[int, int, int]] | None = None,
        loopback: bool = False,
        uid: int | None = None,
        gid: int | None = None,
        groups: Collection[int] | None = None,
        capabilities: Capabilities | Collection[str] | None = None,
        securebits: int | None = None,
        no_new_privs: bool = False,
        memory_exclude: Iterable[Any] = (),
        memory_wipe: Iterable[Any] = (),
        cwd: Path | int | None = None,
        root: Path | int | None = None,
        umask: int | None = None,
        session: bool = False,
        process_group: int | None = None,
        controlling_terminal: Path | int | None = None,
        foreground: Path | int | None = None,
        limits: Mapping[str, int | tuple[int | None, int | None]] | Sequence[tuple[str, int | None, int | None]] = (),
        nice: int | None = None,
        scheduling: Scheduling | str | None = None,
        affinity: Collection[int] | None = None,
        io_priority: str | tuple[str, int] | None = None,
        oom_score_adj: int | None = None,
        timer_slack_ns: int | None = None,
        memory_policy: str | tuple[str, int | Collection[int]] | None = None,
        parent_death_signal: int | None = None,
        signal_mask: Collection[int] | None = None,
        ignored_signals: Collection[int] = (),
        default_signals: Collection[int] = (),
        fds: Mapping[int, int] | Sequence[tuple[int, int]] = (),
        environment: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
        argv0: str | None = None,
        executable: Path | int | None = None,
        personality: int | None = None,
        hostname: str | None = None,
        domainname: str | None = None,
        propagation: str | None = None,
        mounts: Mount | Sequence[Mount] = (),
        time_offsets: Mapping[str, float] | Sequence[tuple[str, int]] = (),
        keyring: str | bool | None = None,
        landlock: Landlock | None = None,
        seccomp: SeccompFilter | bytes | None = None,
        setup: Callable[[], object] | None = None,
    ) -> None:
        given = locals()
        for name, (_default, as_it_must_be) in FIELDS.items():
            object.__setattr__(self, name, as_it_must_be(given[name], name))
        object.__setattr__(self, "_kept", {})
        clone_rules.check(self)

    # --- value semantics

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Context cannot be changed: use context.replace({name}=…)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a Context cannot be changed")

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in FIELDS)

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, Description) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        values = ((name, getattr(self, name), default) for name, (default, _check) in FIELDS.items())
        changed = (f"{name}={value!r}" for name, value, default in values if value != default)
        return f"Context({', '.join(changed)})"

    def __str__(self) -> str:
        return format_flags(int(self.flags), self.signal)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), dict(zip(FIELDS, self._values(), strict=True))))

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed.

        Args:
            **changes: fields of a Context, by name.

        Raises:
            ContextError: there is no such field, or the result breaks a rule.
        """
        for name in changes:
            if name not in FIELDS:
                raise ContextError(f"a Context has no field {name!r}: it has {', '.join(FIELDS)}", field=name)
        values: dict[str, Any] = {name: getattr(self, name) for name in FIELDS}
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

    def ranges(self) -> tuple[tuple[int, ...], ...]:
        """What the C core is to leave out of a copy: address, length, the advice and what undoes it, for each buffer."""
        excluded = tuple((*one.pages(), *_EXCLUDE) for one in self.memory_exclude)
        return excluded + tuple((*one.pages(), *_WIPE) for one in self.memory_wipe)

    def _newborn(self, kind: str, maps: object) -> dict[str, Any]:
        """What the creator does for the child: depends on fds, and on who the creator is now, so it is not kept."""
        newborn: dict[str, Any] = {}
        if self.join is not None:
            newborn["joins"] = joins = self.join.joins()
            clone_rules.check_joins(self, kind, Namespace(sum(flag for flag, _fd in joins)))
        if maps is not None:
            newborn.update((name, getattr(maps, name)) for name in MAP_FIELDS)
        if self.time_offsets and kind == "program":
            newborn["offsets"] = offsets_text(self.time_offsets)
        return newborn

    @property
    def changes_credentials(self) -> bool:
        """Whether the task gets other ids or capabilities than its creator's, or joins a user namespace."""
        joins_user = self.join is not None and Namespace.USER in self.join.kinds
        ids = (self.uid, self.gid, self.groups, self.capabilities)
        return joins_user or any(value is not None for value in ids)

    def plan(
        self, kind: str, *, cgroup: int = -1, drop: int = 0, timeout: bool = True, maps: object = None
    ) -> _core.Plan:
        """Compiled for the C core, and kept unless it names an fd.

        Args:
            kind: "light", "copied" or "program".
            cgroup: a borrowed fd of a version 2 cgroup directory to be born in, or -1.
            drop: flags not to pass on.
            timeout: whether the core is to keep the time limit.
            maps: what is to be written for a new user namespace: `_idmap.Maps`.
        """
        key = (kind, drop, timeout)
        if cgroup < 0 and key in self._kept:
            plan: _core.Plan = self._kept[key]
            return plan
        clone_rules.check_kind(self, kind)
        limit = self.timeout if timeout else None
        if kind == "copied" and self.time_offsets:
            drop |= Clone.NEWTIME  # a step makes it: see _clocks
        # Else the kernel sets it for all who share the memory, the creator too.
        more = Clone.VFORK if kind == "program" and self.oom_score_adj is not None else Clone(0)
        newborn = self._newborn(kind, maps)
        plan = _core.Plan(
            (int(self.flags) & ~drop) | (Clone.INTO_CGROUP if cgroup >= 0 else 0) | more,
            self.signal,
            old_call=self.call_name == "clone",
            cgroup=cgroup,
            tids=self.tid or (),
            stack_bytes=self.stack_bytes or 0,
            timeout_ns=-1 if limit is None else int(limit * 1e9),
            clear_handlers=self.clears_handlers if kind == "light" else bool(self.clear_signal_handlers),
            undumpable=self.changes_credentials,
            **newborn,
        )
        if cgroup < 0 and not newborn:
            self._kept[key] = plan
        return plan


def _rebuild(cls: type[Description], values: dict[str, Any]) -> Description:
    return cls(**values)
