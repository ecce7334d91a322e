"""What the fields of a clone do not go together with: flags by the kernel's rules, namespaces, maps, kinds of tasks. Pure."""

from __future__ import annotations

from .._errors import ContextError
from .._flags import Clone, Namespace, Share, broken_rules
from . import step_rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

    from .description import Description

_FIELD_OF_FLAG: Final[Mapping[int, str]] = {
    Clone.PARENT: "parent",
    Clone.PTRACE: "ptrace",
    Clone.UNTRACED: "untraced",
    Clone.VFORK: "suspend_caller",
    Clone.CLEAR_SIGHAND: "clear_signal_handlers",
    Clone.INTO_CGROUP: "cgroup",
}

# What changes a namespace, which must not be the caller's own.
_NEED_NAMESPACE: Final[Mapping[str, Namespace]] = {
    "hostname": Namespace.UTS,
    "domainname": Namespace.UTS,
    "mounts": Namespace.MOUNT,
    "loopback": Namespace.NET,
}


def check(context: Description) -> None:
    """What no kind of task can have.

    Raises:
        ContextError: fields do not go together, or the kernel would refuse them.
    """
    for rule in broken_rules(int(context.flags), context.signal, context.call_name):
        raise ContextError(f"{context}: {rule.reason}", field=_field_of(context, rule.flags))
    if context.suspend_caller and context.timeout is not None:
        raise ContextError(
            "suspend_caller=True with a timeout: the caller sleeps in the kernel and cannot keep time",
            field="timeout",
        )
    if context.tid is not None and context.call_name == "clone":
        raise ContextError("tid= needs clone3, and a sibling with an exit signal the old clone", field="tid")
    _check_join(context)
    _check_maps(context)
    step_rules.check(context)


def check_kind(context: Description, kind: str) -> None:
    """What this kind of task cannot have.

    Args:
        context: what was asked for.
        kind: "light", "copied" or "program".

    Raises:
        ContextError: a field makes no sense for it.
    """
    if kind == "light" and Namespace.TIME in context.new:
        raise ContextError(
            "new=TIME with share=VM: a task that shares memory enters its time namespace only at exec", field="new"
        )
    if kind == "copied" and context.stack_bytes is not None:
        raise ContextError(
            "stack_bytes without share=VM: a copied process has a copy of its caller's stack", field="stack_bytes"
        )
    if kind == "copied" and context.suspend_caller:
        raise ContextError(
            "suspend_caller without share=VM: every Python thread would wait with the caller, who holds the GIL",
            field="suspend_caller",
        )

    for name in ("memory_exclude", "memory_wipe"):
        if kind != "copied" and getattr(context, name):
            raise ContextError(f"{name} for a {kind} process: no memory is copied for one", field=name)
    step_rules.check_kind(context, kind)


def check_joins(context: Description, kind: str, joined: Namespace) -> None:
    """What depends on which of the namespaces are others than the caller's own."""
    if kind != "copied" and Namespace.TIME in joined:
        raise ContextError(
            "join=TIME for a task that shares memory: the kernel maps a clock for all who share it. A copied process "
            "(no share=VM) can",
            field="join",
        )
    for field, needed in _NEED_NAMESPACE.items():
        if getattr(context, field) and needed not in joined | context.new:
            raise ContextError(
                f"{field} with join=: the {needed.name} namespace there is the caller's own, and would be changed for all",
                field=field,
            )
    apart = joined & (Namespace.USER | Namespace.MOUNT)
    if Share.FS in context.share and apart:
        raise ContextError(
            f"share=FS with join={apart.name}: the kernel takes only tasks with a cwd of their own there",
            field="join",
        )


def _check_join(context: Description) -> None:
    if context.join is None:
        return
    beyond = {
        "share=THREAD": Share.THREAD in context.share,
        "parent='sibling'": context.parent == "sibling",
        "suspend_caller=True": context.suspend_caller,
    }
    for what, asked in beyond.items():
        if asked:
            raise ContextError(f"join= with {what}: an intermediate process enters the namespaces first", field="join")


def _check_maps(context: Description) -> None:
    for field in ("uid_map", "gid_map"):
        if getattr(context, field) is None:
            continue
        if Namespace.USER not in context.new:
            raise ContextError(f"{field} without new=USER: only a new user namespace has no map yet", field=field)
        if context.suspend_caller:
            raise ContextError(f"{field} with suspend_caller=True: the caller, who writes it, would sleep", field=field)
        if context.join is not None and Namespace.USER in context.join.kinds:
            raise ContextError(f"{field} with join=USER: the caller is not in the namespace above", field=field)
    if (
        context.loopback
        and not (context.new | (context.join.kinds if context.join is not None else context.new)) & Namespace.NET
    ):
        raise ContextError("loopback=True without new=NET: it would be the caller's own", field="loopback")


def _field_of(context: Description, flags: int) -> str:
    for flag, field in _FIELD_OF_FLAG.items():
        if flags & flag & context.flags:
            return field
    if flags & int(context.new):
        return "new"
    return "share" if flags & int(context.share) else "exit_signal"
