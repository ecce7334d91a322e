"""What a task does between its birth and its function or program: the declared steps of a Context, in an order that works.

Each step is a name for people, a function and its arguments, worked out by the creator. They run in the child, on the
creator's memory if that is shared, in one hold of the GIL: `_core.syscall` keeps it, where os's functions let go of it and
may wait 5 ms at each for threads that never sleep. A step that fails is a CloneError with its name.

The order: what needs privilege before what gives it up; within credentials, what capabilities(7) demands.
"""

from __future__ import annotations

from . import _core, _credentials
from ._errors import CloneError, load_hints
from ._flags import Share

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._context import Description

    Step = tuple[str, Callable[..., object], tuple[Any, ...]]


def steps_of(context: Description, light: bool) -> tuple[Step, ...]:
    """The steps that a context declares.

    Args:
        context: what was asked for.
        light: whether the task is a light process, which has to ask again to die with its creator.
    """
    key = ("steps", light)
    if key not in context._kept:
        context._kept[key] = _compiled(context, light)
    steps: tuple[Step, ...] = context._kept[key]
    return steps


def _compiled(context: Description, light: bool) -> tuple[Step, ...]:
    load_hints()
    steps = [*_network(context), *_credential_steps(context)]
    if light and context.changes_credentials and Share.THREAD not in context.share:
        # Every change of ids or capabilities makes the kernel forget it.
        steps.append(("prctl(PR_SET_PDEATHSIG)", _core.light_rearm, ()))
    if context.no_new_privs:
        steps.append(("prctl(PR_SET_NO_NEW_PRIVS)", _credentials.set_no_new_privs, ()))
    return tuple(steps)


def take(steps: tuple[Step, ...]) -> None:
    """Take the steps, in the child.

    Raises:
        CloneError: one failed; its `step` names it.
    """
    for name, act, arguments in steps:
        try:
            act(*arguments)
        except CloneError:
            raise
        except OSError as e:
            raise CloneError(e.errno or 0, step=name, filename=e.filename) from None


def prepared(steps: tuple[Step, ...], fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Take the steps, and then call the function: what a child is given to run."""
    take(steps)
    return fn(*args, **kwargs)


def _network(context: Description) -> list[Step]:
    if not context.loopback:
        return []
    from ._network import loopback_up

    return [("ioctl(SIOCSIFFLAGS, lo)", loopback_up, ())]


def _credential_steps(context: Description) -> list[Step]:
    """Groups and gid while there is privilege, then the uid, then what is left of privilege.

    The permitted capabilities are kept over the change of uid where some are asked for; the bounding set and the
    securebits are set while CAP_SETPCAP is there.
    """
    steps: list[Step] = []
    wanted = context.capabilities
    if wanted is not None and wanted.bounding is not None:
        steps.append(("prctl(PR_CAPBSET_DROP)", _credentials.bound_to, (wanted.bounding,)))
    if context.groups is not None:
        steps.append((f"setgroups({_listed(context.groups)})", _credentials.set_groups, (context.groups,)))
    if context.gid is not None:
        steps.append((f"setresgid({context.gid})", _credentials.set_gid, (context.gid,)))
    keeps = context.uid is not None and (wanted is not None or context.securebits is not None)
    if keeps:
        steps.append(("prctl(PR_SET_KEEPCAPS)", _credentials.keep_capabilities, ()))
    if context.uid is not None:
        steps.append((f"setresuid({context.uid})", _credentials.set_uid, (context.uid,)))
    if keeps:
        steps.append(("capset", _credentials.raise_all, ()))
    if context.securebits is not None:
        name = f"prctl(PR_SET_SECUREBITS, {context.securebits:#x})"
        steps.append((name, _credentials.set_securebits, (context.securebits,)))
    if wanted is not None or keeps:
        from ._capabilities import Capabilities

        sets = Capabilities() if wanted is None else wanted
        steps.append(("capset", _credentials.set_capabilities, (sets, keeps and context.uid != 0)))
    return steps


def _listed(groups: tuple[int, ...]) -> str:
    return ", ".join(map(str, groups[:8])) + (", …" if len(groups) > 8 else "")
