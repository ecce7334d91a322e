"""A call made ready for a fresh process: its function and arguments pickled, by name or by value, and its Context checked."""

from __future__ import annotations

import sys

from .._context.step_rules import check_kind
from .._data.transport import pack, pack_with
from .._data.unpicklable import blame
from .._errors import ContextError
from .._flags import Share

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from .._context.description import Description
    from .._data.transport import Packed

_SIGCHLD: Final = 17


def check(context: Description) -> None:
    """Refuse what a clone of the zygote's cannot have.

    Raises:
        ContextError: at the field.
    """
    check_kind(context, "fresh")
    if context.share:
        names = "|".join(one.name or "" for one in Share if one in context.share)
        raise ContextError(
            f"share={names} for a fresh process: it would share with the zygote that clones it, and not with you",
            field="share",
        )
    if context.exit_signal not in (None, _SIGCHLD):
        raise ContextError(
            f"exit_signal={context.exit_signal} for a fresh process: made with CLONE_PARENT, it leaves with the signal "
            "that the zygote would leave with, SIGCHLD",
            field="exit_signal",
        )
    refused = {
        "parent": (context.parent != "caller", "its parent is who asks the zygote for it"),
        "stack_bytes": (context.stack_bytes is not None, "it has a copy of the zygote's stack"),
        "ptrace": (context.ptrace, "it would be the zygote's tracer that traces it"),
        "suspend_caller": (context.suspend_caller, "it would be the zygote that waits"),
        "memory_exclude": (context.memory_exclude, "none of the caller's memory is copied"),
        "memory_wipe": (context.memory_wipe, "none of the caller's memory is copied"),
    }
    for field, (asked, why) in refused.items():
        if asked:
            raise ContextError(f"{field} for a fresh process: {why}", field=field)


def pack_call(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], setup: Callable[[], object] | None
) -> tuple[Packed, bool]:
    """Pickle a call: by name where that is possible, by value with cloudpickle for the rest.

    Returns:
        It, and whether the other side needs this program's main module for it.

    Raises:
        ContextError: something of it cannot be pickled, and what.
    """
    pickler = cloudpickler()
    whole = (fn, args, kwargs, setup)
    try:
        packed = pack(whole, fallback=lambda: pickler)
    except Exception as e:
        raise _refusal(whole, e, pickler) from None
    if not any(b"__main__" in bytes(piece) for piece in packed.pieces if len(piece) < 1 << 20):
        return packed, False
    if pickler is None:
        return packed, True
    # By name it would need the main module, which is run again for it; by value it does not.
    packed.close()
    return pack_with(pickler, whole), False


def cloudpickler() -> Any:
    """cloudpickle's class, or None where it is not installed."""
    try:
        import cloudpickle
    except ImportError:
        return None
    return cloudpickle.Pickler


def _refusal(whole: tuple[Any, ...], error: Exception, pickler: Any) -> ContextError:
    """Which part of a call it is."""
    fn, args, kwargs, setup = whole
    parts: list[tuple[str, str, object]] = [("the function", "fn", fn), ("the context's setup", "setup", setup)]
    parts += [(f"args[{i}]", "args", one) for i, one in enumerate(args)]
    parts += [(f"kwargs[{name!r}]", "kwargs", one) for name, one in kwargs.items()]
    for words, field, part in parts:
        try:
            pack(part, fallback=lambda: pickler).close()
        except Exception as e:
            takes = pickler is None and field in ("fn", "setup")
            advice = f". cloudpickle takes such functions: {_INSTALL}" if takes else ""
            return ContextError(blame(words, part, e, lambda: pickler) + advice, field=field)
    return ContextError(f"the call cannot be pickled: {type(error).__name__}: {error}", field="args")


_INSTALL: Final = "pip install 'sysclone[fresh]'"


def main_module() -> tuple[str, str] | None:
    """How another process may import this program's main module: ("name" or "path", which); None where it cannot."""
    module = sys.modules.get("__main__")
    spec = getattr(module, "__spec__", None)
    if spec is not None and spec.name:
        # A package's __main__ does its work on import, guard or not.
        return None if spec.name.rpartition(".")[2] == "__main__" else ("name", spec.name)
    path = getattr(module, "__file__", None)
    if path is None or getattr(sys, "ps1", None) is not None:
        return None
    import os

    # Launch scripts of IPython have had no guard; multiprocessing leaves them out too.
    if os.path.splitext(os.path.basename(path))[0] == "ipython":
        return None
    return "path", os.path.abspath(path)
