"""Which fields of a Context go together, and with which kind of task: a table of what does not, and why. Pure."""

from __future__ import annotations

from .._errors import ContextError
from .._flags import Namespace, Share
from .field_table import FIELDS, STEPS
from .fields import shown
from .step_fields import UNLIMITED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Final

    from .description import Description

    Rule = Callable[[Description], str]


def is_set(context: Description, field: str) -> bool:
    """Whether a field is other than when nothing is said."""
    return bool(getattr(context, field) != FIELDS[field][0])


def has_steps(context: Description) -> bool:
    """Whether any of the fields that become steps is set."""
    return any(is_set(context, field) for field in STEPS)


def check(context: Description) -> None:
    """What no kind of task can have.

    Raises:
        ContextError: two fields do not go together.
    """
    for field, rules in _RULES.items():
        if is_set(context, field):
            _refuse(context, field, rules)


def check_kind(context: Description, kind: str) -> None:
    """What this kind of task cannot have.

    Args:
        context: what was asked for.
        kind: "light", "copied", "fresh" or "program"; nothing is said of others.

    Raises:
        ContextError: a field makes no sense for it.
    """
    for field, rules in _RULES_OF_KIND.get(kind, {}).items():
        if is_set(context, field):
            _refuse(context, field, rules)


def _refuse(context: Description, field: str, rules: tuple[Rule, ...]) -> None:
    for rule in rules:
        why = rule(context)
        if why:
            raise ContextError(f"{field}={shown(getattr(context, field))}: {why}", field=field)


# --- rules: why not, or ""


def _moves_the_creator(context: Description) -> str:
    if Share.FS not in context.share:
        return ""
    return "with share=FS it would be the creator's too: cwd, root and umask are one for all who share them"


def _changes_the_process(context: Description) -> str:
    if Share.THREAD not in context.share:
        return ""
    return "with share=THREAD it would be this whole process's: a thread has none of its own"


def _shares_io(context: Description) -> str:
    return "with share=IO it would be the creator's too" if Share.IO in context.share else ""


def _needs(kind: Namespace, whose: str) -> Rule:
    def rule(context: Description) -> str:
        there = context.new | (context.join.kinds if context.join is not None else Namespace(0))
        return "" if kind in there else f"without new={kind.name} (or join=) it would be {whose}"

    return rule


def _leads_a_group(context: Description) -> str:
    return "session=True makes a process group of its own" if context.session else ""


def _needs_session(context: Description) -> str:
    return "" if context.session else "only the leader of a new session can take a terminal: session=True beside it"


def _outside(context: Description) -> str:
    return (
        "an fd would stay outside of root=: a path is needed" if isinstance(context.cwd, int) and context.root else ""
    )


def _nice_of_policy(context: Description) -> str:
    policy = context.scheduling.policy if context.scheduling is not None else "other"
    return "" if policy in ("other", "batch") else f"scheduling={policy!r} takes no nice value"


def _counts_shared_memory(context: Description) -> str:
    for name, _soft, _hard in context.limits:
        if name in ("AS", "DATA"):
            return f"{name} counts the creator's memory, which is this task's too: for copied processes and programs"
    return ""


def _kills_at_once(context: Description) -> str:
    for name, soft, hard in context.limits:
        if name in ("CPU", "RTTIME") and hard not in (None, UNLIMITED) and soft in (None, hard):
            return (
                f"{name}: the hard limit is a SIGKILL, which may strike within Python's own locks. A soft limit below it "
                "comes as an exception first"
            )
    return ""


def _is_of_the_memory(context: Description) -> str:
    if context.suspend_caller:
        return ""
    return (
        "the kernel sets it for every process that shares the memory, the creator too, except while a vfork lasts: "
        "suspend_caller=True, a copied process or a program"
    )


def _cannot_sleep(context: Description) -> str:
    if context.uid_map is None and context.gid_map is None:
        return ""
    return (
        "with id maps: the creator would have to sleep (CLONE_VFORK) for the kernel not to set it for both, and to be "
        "awake to write the maps"
    )


def _dies_anyway(_context: Description) -> str:
    return "a light process dies with its creator as it is, by SIGKILL"


def _no_child_of_ours(context: Description) -> str:
    return "a sibling's parent is another process: it would follow that one" if context.parent == "sibling" else ""


def _needs_new(kind: Namespace, why: str) -> Rule:
    def rule(context: Description) -> str:
        return "" if kind in context.new else f"without new={kind.name}: {why}"

    return rule


def _pivots_by_path(context: Description) -> str:
    cwd_outside = isinstance(context.cwd, int) and Namespace.MOUNT in context.new
    return (
        "an fd is a place in the creator's mount namespace, not in the new one: a path is needed" if cwd_outside else ""
    )


def _shares_handlers(context: Description) -> str:
    return "with share=SIGHAND it would be the creator's too" if Share.SIGHAND in context.share else ""


def _twice(context: Description) -> str:
    both = set(context.ignored_signals) & set(context.default_signals)
    fixed = {9, 19} & {*context.ignored_signals, *context.default_signals}
    if fixed:
        return f"signal {min(fixed)} (SIGKILL, SIGSTOP) does what it does"
    return f"signal {min(both)} is in ignored_signals and in default_signals" if both else ""


def _ends_functions(_context: Description) -> str:
    return "a light process's signals have their default action, except those that are caught for it: a kill may strike anywhere"


def _shares_files(context: Description) -> str:
    return "with share=FILES they would be the creator's too" if Share.FILES in context.share else ""


def _shares_environment(_context: Description) -> str:
    return "os.environ is memory, and the creator's"


def _for_programs(_context: Description) -> str:
    return "it is for programs"


def _is_placed_over(context: Description) -> str:
    if not isinstance(context.executable, int):
        return ""
    if context.executable < 3 or context.executable in dict(context.fds):
        return "another descriptor takes this number before exec: a higher one is needed"
    return ""


_PROCESS: Final = (_changes_the_process,)

_RULES: Final[Mapping[str, tuple[Rule, ...]]] = {
    "cwd": (_moves_the_creator, _outside, _pivots_by_path),
    "root": (_moves_the_creator,),
    "umask": (_moves_the_creator,),
    "session": _PROCESS,
    "process_group": (_changes_the_process, _leads_a_group),
    "controlling_terminal": (_changes_the_process, _needs_session),
    "foreground": _PROCESS,
    "limits": _PROCESS,
    "nice": (_nice_of_policy,),
    "io_priority": (_shares_io,),
    "oom_score_adj": _PROCESS,
    "parent_death_signal": (_changes_the_process, _no_child_of_ours),
    "ignored_signals": (_changes_the_process, _shares_handlers, _twice),
    "default_signals": (_changes_the_process, _shares_handlers, _twice),
    "executable": (_is_placed_over,),
    "hostname": (_needs(Namespace.UTS, "the whole machine's"),),
    "domainname": (_needs(Namespace.UTS, "the whole machine's"),),
    "propagation": (_needs_new(Namespace.MOUNT, "it would be the creator's mounts that are changed"),),
    "mounts": (_needs(Namespace.MOUNT, "the creator's mounts that are changed"),),
    "time_offsets": (_needs_new(Namespace.TIME, "only the clocks of a new time namespace can be set"),),
}

_PROGRAM_ALONE: Final = {"argv0": (_for_programs,), "executable": (_for_programs,)}

_RULES_OF_KIND: Final[Mapping[str, Mapping[str, tuple[Rule, ...]]]] = {
    "light": {
        "limits": (_counts_shared_memory, _kills_at_once),
        "oom_score_adj": (_is_of_the_memory,),
        "parent_death_signal": (_dies_anyway,),
        "default_signals": (_ends_functions,),
        "fds": (_shares_files,),
        "environment": (_shares_environment,),
        **_PROGRAM_ALONE,
    },
    "copied": {"fds": (_shares_files,), **_PROGRAM_ALONE},
    "program": {"oom_score_adj": (_cannot_sleep,)},
    "fresh": {"fds": (_shares_files,), **_PROGRAM_ALONE},
}
