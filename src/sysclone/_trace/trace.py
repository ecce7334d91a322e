"""trace: a program, tasks that run already, or the whole system, with every call that makes or changes a task."""

from __future__ import annotations

import warnings

from .._errors import ContextError, SyscloneWarning, Unsupported
from .._kernel import is_at_least
from .begin import MODE_ALL, MODE_EVENTS, MODE_FILTER, attach, find_program, start, why_no_filter
from .policy import FOLLOW, Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .._context.description import Description
    from .session import Trace


def trace(
    args: Any = None,
    *,
    pid: int | None = None,
    threads: bool = True,
    tree: bool = False,
    system: bool = False,
    every_call: bool = False,
    follow: str = "all",
    depth: int | None = None,
    only_failed: bool = False,
    kill_on_exit: bool = False,
    context: Description | None = None,
    **keywords: Any,
) -> Trace:
    """Trace a program, tasks that run already, or the whole system: every call that makes or changes a task, and every end.

    A program is stopped at these calls alone, by a seccomp filter: clone, clone3, fork, vfork, unshare, setns, execve,
    execveat; failed ones too. Tasks that run already cannot be given the filter: of those, births, programs begun and
    ends are seen, and nothing that failed, no unshare and no setns, unless every_call is set. ptrace(2), seccomp(2).

    Args:
        args: the program and its arguments, as of Popen.
        pid: instead of args, a process (or with threads=False one task) that runs.
        threads: with pid, all threads of the process.
        tree: with pid, its descendants too.
        system: instead of args, the whole system, as root: by the kernel's own record (tracefs) of tasks made, programs
            begun and ends; nobody is stopped. The trace ends when it is closed.
        every_call: stop at every system call, as a tracer without a filter must: slow, and with pid complete.
        follow: "all"; "threads" or "processes" to follow only such new tasks.
        depth: how many births below the first task are followed; 0 is the first task alone. None is any.
        only_failed: pass on failed calls alone.
        kill_on_exit: if this program ends before, kill the traced ones; otherwise they live on.
        context: a Context for the program, as of Popen.
        keywords: every other keyword of Popen.

    Returns:
        A Trace: iterate over it, in a `with` block.

    Raises:
        CloneError: the program could not be started, or the kernel does not let us trace (with a hint).
        Unsupported: the kernel is older than 5.3, or our children get a pid namespace of their own (unshare).
        ContextError: none or several of args, pid and system, or an unknown follow.

    Warns:
        SyscloneWarning: the program is setuid, and we have not the privilege to trace it with a filter.
    """
    if (args is not None) + (pid is not None) + system != 1:
        raise ContextError("trace needs one of three: a program, a pid, or system=True", field="args")
    if not is_at_least("5.3"):
        raise Unsupported("tracing", since="5.3")
    if follow not in FOLLOW:
        raise ContextError(f"follow={follow!r}: it is one of {', '.join(FOLLOW)}", field="follow")
    if depth is not None and depth < 0:
        raise ContextError(f"depth={depth}: it cannot be negative", field="depth")
    if args is None and (keywords or context is not None):
        raise ContextError("a context and keywords of Popen are for a program", field="args")
    if system:
        from .system import SystemTrace

        if every_call or kill_on_exit or tree or not threads:
            raise ContextError(
                "every_call, kill_on_exit, threads and tree are not for the whole system", field="system"
            )
        return SystemTrace(Policy(follow, depth, only_failed, False, everybody=True))
    if pid is not None:
        policy = Policy(follow, depth, only_failed, False)
        return attach(pid, threads, tree, MODE_ALL if every_call else MODE_EVENTS, policy, kill_on_exit)
    program, keywords = find_program(args, keywords)
    mode = MODE_ALL if every_call else MODE_FILTER
    told = why_no_filter(program)
    if told and mode == MODE_FILTER:
        mode = MODE_ALL
        warnings.warn(told, SyscloneWarning, stacklevel=2)
    policy = Policy(follow, depth, only_failed, mode == MODE_FILTER)
    return start(args, mode, policy, kill_on_exit, context, keywords)
