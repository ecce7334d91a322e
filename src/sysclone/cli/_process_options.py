"""The options for how a task begins: session, signals, descriptors, environment, names."""

from __future__ import annotations

import argparse
import os
import re
import signal

from .._errors import ContextError
from . import _words as words
from ._tell import near

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

# linux/personality.h, by the names that setarch(8) has for them.
_PERSONALITY: Final = {
    "linux32": 0x0000008, "uname-2.6": 0x0020000, "addr-no-randomize": 0x0040000, "fdpic-funcptrs": 0x0080000,
    "mmap-page-zero": 0x0100000, "addr-compat-layout": 0x0200000, "read-implies-exec": 0x0400000, "32bit": 0x0800000,
    "short-inode": 0x1000000, "whole-seconds": 0x2000000, "sticky-timeouts": 0x4000000, "3gb": 0x8000000,
}  # fmt: skip
_UNCATCHABLE: Final = {int(signal.SIGKILL), int(signal.SIGSTOP)}


def add_process_arguments(group: argparse._ArgumentGroup, names: argparse._ArgumentGroup) -> None:
    """The options: of how it begins, and of what it is called and has around it."""
    add = group.add_argument
    add("--session", action="store_true", help="lead a session of its own (setsid)")
    add(
        "--controlling-terminal",
        type=words.field("controlling_terminal", str),
        metavar="TERMINAL",
        help="with --session: the terminal of the session, which no other session has, such as /dev/tty3",
    )
    add(
        "--parent-death-signal",
        type=words.field("parent_death_signal", words.signal_number),
        metavar="SIGNAL",
        help="the signal that it gets when we end",
    )
    for option, text in (
        ("--ignore-signal", "ignore these, over exec too"),
        ("--default-signal", "let these do what they do by default"),
        ("--block-signal", "block these too"),
    ):
        add(
            option,
            type=_signals,
            action="append",
            default=[],
            metavar="SIGNAL,…",
            help=f"{text}; all for all; may be repeated",
        )
    add(
        "--fd",
        dest="fds",
        type=_descriptor,
        action="append",
        default=[],
        metavar="N=M",
        help="its descriptor N is what M is here; all at once; may be repeated",
    )
    add(
        "--personality",
        type=words.field("personality", _personality),
        metavar="NAME,…",
        help="as of setarch(8): addr-no-randomize, linux32, 32bit, uname-2.6, …",
    )
    add(
        "--keyring",
        type=words.field("keyring", _keyring),
        metavar="NAME",
        help="a session keyring of this name, joined or new; - for a new one without a name",
    )
    add = names.add_argument
    add("--env", type=words.variable, action="append", default=[], metavar="NAME=VALUE", help="set a variable")
    add("--unset-env", type=words.variable_name, action="append", default=[], metavar="NAME", help="remove a variable")
    add("--clear-env", action="store_true", help="begin with no variables but those of --env")
    add("--argv0", type=words.field("argv0", str), metavar="NAME", help="what the program is called in its arguments")


def process_of(args: argparse.Namespace) -> dict[str, Any]:
    """The fields that they ask for.

    Raises:
        ContextError: a descriptor is to be two.
    """
    names = ("controlling_terminal", "parent_death_signal", "personality", "keyring", "argv0")
    found = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.session:
        found["session"] = True
    for field, given in (("ignored_signals", args.ignore_signal), ("default_signals", args.default_signal)):
        if given:
            found[field] = frozenset().union(*given)
    if args.block_signal:
        # To what is blocked now, as env(1) does.
        found["signal_mask"] = frozenset().union(signal.pthread_sigmask(signal.SIG_BLOCK, ()), *args.block_signal)
    if args.fds:
        found["fds"] = fds = dict(args.fds)
        if len(fds) < len(args.fds):
            raise ContextError("one number is given twice", field="fds")
    if args.env or args.unset_env or args.clear_env:
        kept = {} if args.clear_env else dict(os.environ)
        found["environment"] = {n: v for n, v in kept.items() if n not in args.unset_env} | dict(args.env)
    return found


def _signals(text: str) -> frozenset[int]:
    """Signals separated by commas, or all that can be caught."""
    if text == "all":
        return frozenset(map(int, signal.valid_signals())) - _UNCATCHABLE
    return frozenset(map(_signal, text.split(",")))


def _signal(word: str) -> int:
    number = words.signal_number(word.strip())
    if not 1 <= number <= 64:
        raise words.wrong(word, "a signal, 1 to 64,")
    return number


def _descriptor(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,7})[=:]([0-9]{1,7})", text)
    if match is None:
        raise words.wrong(text, "N=M, two numbers of descriptors,")
    return int(match[1]), int(match[2])


def _personality(text: str) -> int:
    """Names of setarch(8), or the number; none for none."""
    if re.fullmatch(r"0x[0-9a-fA-F]+|[0-9]+", text):
        return int(text, 0)
    bits = 0
    for word in text.lower().replace("_", "-").split(","):
        if word != "none" and word not in _PERSONALITY:
            raise argparse.ArgumentTypeError(f"{word!r} is no part of a personality{near(word, _PERSONALITY)}")
        bits |= _PERSONALITY.get(word, 0)
    return bits


def _keyring(text: str) -> str:
    return "" if text == "-" else text
