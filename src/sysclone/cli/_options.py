"""The options that make a Context, the same for every verb that starts something."""

from __future__ import annotations

import argparse
from contextlib import contextmanager

from .._api import Context
from .._flags import Namespace, Share
from ._step_options import add_step_arguments, fields_of, joined
from ._words import namespaces, seconds, shares, signal_number, size, tids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Final

PRESETS: Final = ("light", "fork", "vfork", "thread", "linuxthreads")


def add_context_arguments(parser: argparse.ArgumentParser, usual: str) -> None:
    """The options of a Context.

    Args:
        parser: where they go.
        usual: what is shared when nothing is said, for the help text.
    """
    group = parser.add_argument_group("context", "What the task shares, what is new, and how it leaves.")
    add = group.add_argument
    add("--preset", choices=PRESETS, type=str.lower, help="start from these flags; the options below are added")
    add(
        "--share",
        type=shares,
        action="append",
        metavar="WHAT,…",
        help=f"{_listed(Share)}; none for nothing. Without --share and --preset: {usual}",
    )
    add("--new", type=namespaces, action="append", default=[], metavar="NAMESPACE,…", help=f"{_listed(Namespace)}")
    add(
        "--parent",
        choices=("caller", "sibling"),
        type=str.lower,
        help="sibling: a child of our own parent (CLONE_PARENT)",
    )
    add(
        "--exit-signal",
        type=signal_number,
        metavar="SIGNAL",
        help="the signal that its parent gets at its end; 0 for none",
    )
    add("--cgroup", metavar="DIRECTORY", help="the cgroup to start in")
    add("--tid", type=tids, metavar="N[,N…]", help="the process id to have, innermost pid namespace first")
    add("--stack-bytes", type=size, metavar="N[K|M|G]", help="the stack that a function must have")
    add(
        "--clear-signal-handlers",
        action=argparse.BooleanOptionalAction,
        help="start with default handlers (CLONE_CLEAR_SIGHAND)",
    )
    add("--ptrace", action="store_true", help="whoever traces us traces the task (CLONE_PTRACE)")
    add("--untraced", action="store_true", help="whoever traces us cannot make it so (CLONE_UNTRACED)")
    add(
        "--vfork",
        dest="suspend_caller",
        action="store_true",
        help="sleep in the kernel until it ends or execs (CLONE_VFORK)",
    )
    add("--timeout", type=seconds, metavar="SECONDS", help="kill it then, and exit with 124")
    add("--strict", action="store_true", help="take every warning for an error, before anything starts")
    add_step_arguments(parser)


@contextmanager
def context_from(args: argparse.Namespace, usual: Share) -> Iterator[Context]:
    """The Context that the options ask for; what was opened for it is closed on leaving, when the task is there.

    Args:
        args: as parsed.
        usual: what is shared without --share and --preset.

    Raises:
        ContextError: the options do not go together.
        CloneError: a namespace to join cannot be opened.
    """
    with joined(args.join) as namespaces_there:
        context = _context(args, usual)
        yield context.replace(**fields_of(args, context.new, namespaces_there))


def _context(args: argparse.Namespace, usual: Share) -> Context:
    base: Context = getattr(Context, args.preset)() if args.preset else Context()
    share = base.share
    if args.share is None and not args.preset:
        share = usual
    for more in args.share or ():
        share |= more
    new = Namespace(0)
    for more in args.new:
        new |= more
    if args.map_word or args.map_users or args.map_groups:
        new |= Namespace.USER
    wanted: dict[str, Any] = {"share": share, "new": new}
    for field in ("parent", "exit_signal", "cgroup", "tid", "stack_bytes", "clear_signal_handlers", "timeout"):
        if getattr(args, field) is not None:
            wanted[field] = getattr(args, field)
    for field in ("ptrace", "untraced", "suspend_caller"):
        if getattr(args, field):
            wanted[field] = True
    return base.replace(**wanted)


def _listed(kind: type[Share | Namespace]) -> str:
    return ", ".join(name.lower() for name in kind.__members__)
