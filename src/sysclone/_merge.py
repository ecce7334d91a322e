"""Popen's own keywords as fields of its context, where that has steps: so that all are done in one order, ids last."""

from __future__ import annotations

from ._errors import ContextError
from ._step_rules import is_set
from ._steps import steps_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from ._context import Description

_KEYWORDS: Final = {
    "uid": "user", "gid": "group", "groups": "extra_groups", "session": "start_new_session", "umask": "umask",
    "cwd": "cwd", "process_group": "process_group", "controlling_terminal": "pty",
}  # fmt: skip


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
    return context.replace(**changes) if changes else context
