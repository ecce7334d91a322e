"""What a task does between its birth and its function or program: the declared steps of a Context, in an order that works.

Each step is a name for people, a function and its arguments, worked out by the creator. They run in the child, on the
creator's memory if that is shared, in one hold of the GIL: `_core.syscall` keeps it, where os's functions let go of it and
may wait 5 ms at each for threads that never sleep. A step that fails is a CloneError with its name.

The order:

1. what is named by paths, fds or ids of the creator's: terminal, /proc files;
2. what needs privilege: names, mounts, root and cwd, priorities, hard limits;
3. groups, gid, uid, capabilities, in the order that capabilities(7) demands;
4. what belongs to the new ids, and what a change of ids takes away: keyring, parent-death signal;
5. `setup`, and a program's preexec_fn;
6. what would bind those too: limits of memory, no_new_privs, Landlock, and seccomp last of all.
"""

from __future__ import annotations

import os

from .. import _core
from .._context.step_fields import offsets_text
from .._errors import CloneError, Unsupported, load_hints
from .._flags import Share
from . import clocks, credentials, descriptors, filesystem, filters, landlock, network, priorities, session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from .._context.description import Description

    Step = tuple[str, Callable[..., object], tuple[Any, ...]]

# As a step's last argument: the fds that steps of one task leave for each other.
NOTES: Final[dict[str, int]] = {}


def need_lending(what: str = "light processes") -> None:
    """Refuse what runs Python in a task on its creator's memory where this interpreter's thread states cannot be lent.

    Raises:
        Unsupported: they cannot; its reason tells why.
    """
    reason = _core.unsupported()
    if reason is not None:
        raise Unsupported(what, reason=reason)


def steps_of(context: Description, light: bool, program: bool = False, creator: int | None = None) -> tuple[Step, ...]:
    """The steps that a context declares.

    Args:
        context: what was asked for.
        light: whether the task is a light process, which has to ask again to die with its creator.
        program: whether it is to become a program, for which exec and its creator do some of them.
        creator: the pid of its parent, where that is not the calling process.
    """
    # The creator's pid is part of some.
    key = ("steps", light, program, (creator or os.getpid()) if context.parent_death_signal is not None else 0)
    if key not in context._kept:
        context._kept[key] = _compiled(context, light, program, creator)
    steps: tuple[Step, ...] = context._kept[key]
    return steps


def _compiled(context: Description, light: bool, program: bool, creator: int | None) -> tuple[Step, ...]:
    load_hints()
    dies_with = context.parent_death_signal
    steps: list[Step] = []
    above = max((target for target, _source in context.fds), default=0) + 1
    if dies_with is not None:
        steps.append(("open(/proc/self/status)", session.see_creator, (above, NOTES)))
    steps += session.steps(context)
    if context.time_offsets and not light and not program:
        steps.append(("unshare(NEWTIME)", clocks.enter_new, (offsets_text(context.time_offsets),)))
    steps += network.steps(context)
    steps += priorities.steps(context)
    steps += filesystem.steps(context, NOTES)
    if context.landlock is not None:
        compiled = landlock.Compiled(context.landlock)
        steps.append(("landlock_create_ruleset", landlock.gather, (compiled, above, NOTES)))
    steps += descriptors.steps(context)
    steps += priorities.limit_steps(context, late=False)
    steps += _credential_steps(context)
    steps += session.late_steps(context)
    steps += descriptors.signal_steps(context, program)
    if context.environment is not None and not program:
        steps.append(descriptors.environment_step(context.environment))
    if light and context.changes_credentials and Share.THREAD not in context.share:
        # Every change of ids or capabilities makes the kernel forget it.
        steps.append(("prctl(PR_SET_PDEATHSIG)", _core.light_rearm, ()))
    if dies_with is not None:
        name = f"prctl(PR_SET_PDEATHSIG, {dies_with})"
        steps.append((name, session.die_with, (dies_with, creator or session.creator(), NOTES)))
    after = _last_steps(context, light, program)
    if context.setup is not None or after:
        steps.append(("setup", _functions, (context.setup,)))
    return (*steps, *after)


def _last_steps(context: Description, light: bool, program: bool) -> list[Step]:
    steps = priorities.limit_steps(context, late=True)
    if context.no_new_privs:
        steps.append(("prctl(PR_SET_NO_NEW_PRIVS)", credentials.set_no_new_privs, ()))
    if context.landlock is not None:
        steps.append(("landlock_restrict_self", landlock.restrict, (NOTES,)))
    if context.seccomp is not None:
        by_fd = isinstance(context.executable, int)
        code = filters.program_of(context.seccomp, light, ("execveat" if by_fd else "execve") if program else "")
        steps.append(("seccomp(SECCOMP_SET_MODE_FILTER)", filters.load, (code,)))
    return steps


def _functions(setup: Callable[[], object] | None, last: Callable[[], Any] | None) -> Any:
    """The functions that run in the child among its steps."""
    if setup is not None:
        setup()
    return last() if last is not None else None


def take(steps: tuple[Step, ...], function: Callable[[], Any] | None = None) -> Any:
    """Take the steps, in the child.

    Args:
        steps: as compiled.
        function: called where the context's setup is: after the change of ids, before what would bind it.

    Returns:
        What the function does.

    Raises:
        CloneError: one failed; its `step` names it.
        BaseException: what setup or the function raised.
    """
    notes: dict[str, int] = {}
    answer, called = None, False
    try:
        for name, act, arguments in steps:
            if act is _functions:
                answer, called = act(*arguments, function), True
            else:
                _take_one(name, act, arguments, notes)
    finally:
        # With share=FILES the creator would keep them.
        for fd in notes.values():
            _core.syscall("close", fd)
    return answer if called or function is None else function()


def _take_one(name: str, act: Callable[..., object], arguments: tuple[Any, ...], notes: dict[str, int]) -> None:
    if arguments and arguments[-1] is NOTES:
        arguments = (*arguments[:-1], notes)
    try:
        act(*arguments)
    except CloneError:
        raise
    except OSError as e:
        raise CloneError(e.errno or 0, step=name, filename=e.filename or _path_of(name)) from None


def _path_of(name: str) -> str | None:
    verb, _, detail = name.partition("(")
    return detail[:-1] if verb in ("chdir", "chroot") else None


def prepared(steps: tuple[Step, ...], fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Take the steps, and then call the function: what a child is given to run."""
    take(steps)
    return fn(*args, **kwargs)


def _credential_steps(context: Description) -> list[Step]:
    """Groups and gid while there is privilege, then the uid, then what is left of privilege.

    The permitted capabilities are kept over the change of uid where some are asked for; the bounding set and the
    securebits are set while CAP_SETPCAP is there.
    """
    steps: list[Step] = []
    wanted = context.capabilities
    if wanted is not None and wanted.bounding is not None:
        steps.append(("prctl(PR_CAPBSET_DROP)", credentials.bound_to, (wanted.bounding,)))
    if context.groups is not None:
        steps.append((f"setgroups({_listed(context.groups)})", credentials.set_groups, (context.groups,)))
    if context.gid is not None:
        steps.append((f"setresgid({context.gid})", credentials.set_gid, (context.gid,)))
    keeps = context.uid is not None and (wanted is not None or context.securebits is not None)
    if keeps:
        steps.append(("prctl(PR_SET_KEEPCAPS)", credentials.keep_capabilities, ()))
    if context.uid is not None:
        steps.append((f"setresuid({context.uid})", credentials.set_uid, (context.uid,)))
    if keeps:
        steps.append(("capset", credentials.raise_all, ()))
    if context.securebits is not None:
        name = f"prctl(PR_SET_SECUREBITS, {context.securebits:#x})"
        steps.append((name, credentials.set_securebits, (context.securebits,)))
    if wanted is not None or keeps:
        from .._context.capabilities import Capabilities

        sets = Capabilities() if wanted is None else wanted
        steps.append(("capset", credentials.set_capabilities, (sets, keeps and context.uid != 0)))
    return steps


def _listed(groups: tuple[int, ...]) -> str:
    return ", ".join(map(str, groups[:8])) + (", …" if len(groups) > 8 else "")
