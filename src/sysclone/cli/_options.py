"""The options that make a Context, the same for every verb that starts something."""

from __future__ import annotations

import argparse

from .._api import Context
from .._errors import ContextError
from .._flags import Clone, Namespace, Share, parse_flags
from ._tell import near

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

PRESETS: Final = ("light", "fork", "vfork", "thread", "linuxthreads")

# How the kernel and /proc/PID/ns call them.
_ALSO: Final = {"MNT": "MOUNT", "NS": "MOUNT"}
_SIZES: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


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
        type=_share,
        action="append",
        metavar="WHAT,…",
        help=f"{_listed(Share)}; none for nothing. Without --share and --preset: {usual}",
    )
    add("--new", type=_new, action="append", default=[], metavar="NAMESPACE,…", help=f"{_listed(Namespace)}")
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
    add("--tid", type=_tids, metavar="N[,N…]", help="the process id to have, innermost pid namespace first")
    add("--stack-bytes", type=_bytes, metavar="N[K|M|G]", help="the stack that a function must have")
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
    add("--timeout", type=_seconds, metavar="SECONDS", help="kill it then, and exit with 124")
    add("--strict", action="store_true", help="take every warning for an error, before anything starts")


def context_from(args: argparse.Namespace, usual: Share) -> Context:
    """The Context that the options ask for.

    Args:
        args: as parsed.
        usual: what is shared without --share and --preset.

    Raises:
        ContextError: the options do not go together.
    """
    base: Context = getattr(Context, args.preset)() if args.preset else Context()
    share = base.share
    if args.share is None and not args.preset:
        share = usual
    for more in args.share or ():
        share |= more
    new = Namespace(0)
    for more in args.new:
        new |= more
    wanted: dict[str, Any] = {"share": share, "new": new}
    for field in ("parent", "exit_signal", "cgroup", "tid", "stack_bytes", "clear_signal_handlers", "timeout"):
        if getattr(args, field) is not None:
            wanted[field] = getattr(args, field)
    for field in ("ptrace", "untraced", "suspend_caller"):
        if getattr(args, field):
            wanted[field] = True
    return base.replace(**wanted)


# --- words to values


def _listed(kind: type[Share | Namespace]) -> str:
    return ", ".join(name.lower() for name in kind.__members__)


def _share(text: str) -> Share:
    return Share(_flags(text, Share, also={}))


def _new(text: str) -> Namespace:
    return Namespace(_flags(text, Namespace, also=_ALSO))


def _flags(text: str, kind: type[Share | Namespace], also: dict[str, str]) -> int:
    """Names separated by commas, in any case, with or without CLONE_ (and NEW, for namespaces)."""
    flags = 0
    for word in filter(None, (word.strip() for word in text.replace("|", ",").split(","))):
        name = word.upper().removeprefix("CLONE_")
        if kind is Namespace:
            name = name.removeprefix("NEW")
        name = also.get(name, name)
        if name == "NONE":
            continue
        if name not in kind.__members__:
            raise argparse.ArgumentTypeError(_unknown(word, name, kind))
        flags |= int(kind[name])
    return flags


def _unknown(word: str, name: str, kind: type[Share | Namespace]) -> str:
    other, option = (Namespace, "--new") if kind is Share else (Share, "--share")
    bare = name.removeprefix("NEW")
    if _ALSO.get(bare, bare) in other.__members__:
        return f"{word!r} is for {option}"
    if name in Clone.__members__:
        return f"{word!r} is a clone flag, and has an option of its own or is set by sysclone where it is needed"
    return f"unknown name {word!r}{near(name.lower(), [name.lower() for name in kind.__members__])}"


def signal_number(text: str) -> int:
    """A signal by number, or by name with or without SIG."""
    if text.isdecimal():
        return int(text)
    try:
        return parse_flags("SIG" + text.upper().removeprefix("SIG"))[1]
    except ContextError as e:
        raise argparse.ArgumentTypeError(str(e)) from None


def _tids(text: str) -> tuple[int, ...]:
    if not all(word.strip().isdecimal() for word in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r}: process ids separated by commas are needed")
    return tuple(int(word) for word in text.split(","))


def _bytes(text: str) -> int:
    number, unit = (text[:-1], _SIZES.get(text[-1].upper(), 0)) if text[-1:].isalpha() else (text, 1)
    if not number.isdecimal() or not unit:
        raise argparse.ArgumentTypeError(f"{text!r}: a number of bytes is needed, such as 65536, 64K or 8M")
    return int(number) * unit


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: a number of seconds is needed")
    return seconds
