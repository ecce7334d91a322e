"""Popen's own keywords as fields of its context, where that has steps: so that all are done in one order, ids last."""

from __future__ import annotations

import os

from .._context.step_rules import is_set
from .._errors import ContextError
from .._steps.steps import steps_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from .._context.description import Description

_KEYWORDS: Final = {
    "uid": "user", "gid": "group", "groups": "extra_groups", "session": "start_new_session", "umask": "umask",
    "cwd": "cwd", "process_group": "process_group", "controlling_terminal": "pty",
}  # fmt: skip

_MOST_KEPT: Final = 64


def merged(context: Description, **given: Any) -> Description | None:
    """The context with Popen's keywords in it; None where it has no steps and the keywords need none.

    Args:
        context: Popen's.
        **given: by the name of the field; None where nothing was asked for.

    Raises:
        ContextError: both say something, and not the same.
    """
    if context.cgroup is None and not steps_of(context, light=False, program=True):
        return None
    changes = {}
    for name, value in given.items():
        if value is None:
            continue
        if is_set(context, name) and getattr(context, name) != value:
            raise ContextError(
                f"{name}={getattr(context, name)!r} in the context, and {_KEYWORDS[name]}={value!r} beside it: one of them",
                field=name,
            )
        changes[name] = value
    if not changes:
        return context
    key = ("with Popen's keywords", *sorted(changes.items()))
    if key not in context._kept:
        if len(context._kept) > _MOST_KEPT:
            context._kept.clear()
        context._kept[key] = context.replace(**changes)
    together: Description = context._kept[key]
    return together


def exec_of(context: Description, executable: Any, env: Any) -> tuple[Any, int, Any]:
    """What is to be executed and with which environment: (executable or None, fd or -1, env or None).

    Raises:
        ContextError: the context and Popen's keyword both say something.
    """
    for name, keyword, value in (("executable", "executable", executable), ("environment", "env", env)):
        if value is not None and getattr(context, name) is not None:
            raise ContextError(f"{name} in the context, and {keyword}={value!r} beside it: one of them", field=name)
    if context.environment is not None:
        env = dict(context.environment)
    if isinstance(context.executable, int):
        return None, context.executable, env
    return executable if context.executable is None else context.executable, -1, env


def is_script(fd: int) -> bool:
    """Whether the program at an fd is one for an interpreter, which opens it again: then it has to stay open."""
    try:
        return os.pread(fd, 2, 0) == b"#!"
    except OSError:
        return False


def with_stdio(context: Description, stdio: tuple[int, int, int]) -> tuple[tuple[int, int], ...]:
    """The context's fds with the standard streams among them: all are placed at once, so that each source is the creator's.

    Raises:
        ContextError: one of them is a target of the context's too.
    """
    given = {number: fd for number, fd in enumerate(stdio) if fd >= 0}
    placed = dict(context.fds)
    for number in given:
        if number in placed:
            raise ContextError(f"fds has {number}, and stdin, stdout or stderr as well: one of them", field="fds")
    return tuple(sorted({**given, **placed}.items()))
