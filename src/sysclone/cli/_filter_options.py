"""The options for what a task's own system calls are held to: Landlock and seccomp."""

from __future__ import annotations

import argparse

from .._context.landlock_rules import RIGHTS, SCOPES, Landlock
from .._context.seccomp_filter import SeccompFilter
from .._errors import ContextError
from . import _words as words
from ._tell import near

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    Rule = tuple[tuple[str, ...], str]

_MOST_BYTES: Final = 4096 * 8


def add_filter_arguments(group: argparse._ArgumentGroup) -> None:
    """The options."""
    add = group.add_argument
    for option, what in (("--landlock-ro", "read and execute"), ("--landlock-rw", "do everything with")):
        add(
            option,
            action="append",
            default=[],
            metavar="PATH",
            help=f"what is at and below the path it may {what}, and nothing that no such option names; may be repeated",
        )
    add(
        "--landlock-rule",
        type=words.item(_landlock_rule),
        action="append",
        default=[],
        metavar="RIGHT,…:PATH",
        help="the same for single rights, such as read_file,read_dir; may be repeated",
    )
    for verb in ("bind", "connect"):
        add(
            f"--landlock-{verb}",
            type=words.item(_ports),
            metavar="PORT,…",
            help=f"the only TCP ports that it may {verb} to; none for none",
        )
    add(
        "--landlock-scope",
        type=words.item(_scopes),
        default=(),
        metavar="SCOPE,…",
        help="signal, abstract_unix_socket: none to processes outside of it",
    )
    add("--landlock-best-effort", action="store_true", help="do without what this kernel's Landlock does not have")
    add(
        "--seccomp",
        dest="seccomp_rules",
        type=words.item(_seccomp_rule),
        action="append",
        default=[],
        metavar="CALL,…=ACTION",
        help="what happens to system calls: an errno such as EPERM, kill, trap, log or allow; may be repeated",
    )
    add("--seccomp-default", type=words.item(_action), metavar="ACTION", help="what happens to the others; else allow")
    add(
        "--seccomp-filter",
        type=words.field("seccomp", _program),
        metavar="FILE",
        help="a filter that is compiled: struct sock_filter, one after the other",
    )


def filters_of(args: argparse.Namespace) -> dict[str, Any]:
    """The fields that they ask for.

    Raises:
        ContextError: they do not go together.
    """
    found: dict[str, Any] = {}
    paths: dict[str, set[str]] = {}
    for rights, path in args.landlock_rule:
        paths.setdefault(path, set()).update(rights)
    has_ports = args.landlock_bind is not None or args.landlock_connect is not None
    has_paths = bool(args.landlock_ro or args.landlock_rw or paths)
    if has_paths or has_ports or args.landlock_scope:
        found["landlock"] = Landlock(
            read=args.landlock_ro,
            # What no option is about stays free.
            write=args.landlock_rw if has_paths else ["/"],
            rules=paths,
            tcp_bind=args.landlock_bind,
            tcp_connect=args.landlock_connect,
            scopes=args.landlock_scope,
            best_effort=args.landlock_best_effort,
        )
    elif args.landlock_best_effort:
        raise ContextError("there is no other option of Landlock's beside it", field="landlock_best_effort")
    by_rules = args.seccomp_rules or args.seccomp_default is not None
    if by_rules and args.seccomp_filter is not None:
        raise ContextError("--seccomp beside it: one of them", field="seccomp_filter")
    if by_rules:
        found["seccomp"] = SeccompFilter(args.seccomp_default or "allow", _rules_of(args.seccomp_rules))
    elif args.seccomp_filter is not None:
        found["seccomp"] = args.seccomp_filter
    return found


def _rules_of(given: list[Rule]) -> dict[str, str]:
    """The action of each call: libseccomp would keep one of two, and not say which."""
    rules: dict[str, str] = {}
    for calls, action in given:
        for call in calls:
            if rules.setdefault(call, action) != action:
                raise ContextError(f"{call} is given twice, with {rules[call]} and with {action}", field="seccomp")
    return rules


def _landlock_rule(text: str) -> Rule:
    rights, _, path = text.partition(":")
    names = tuple(right.strip().lower().replace("-", "_") for right in rights.split(","))
    for name in names:
        if name not in RIGHTS:
            raise argparse.ArgumentTypeError(f"{name!r} is no right of Landlock's{near(name, RIGHTS)}")
    if not path:
        raise words.wrong(text, "RIGHT,…:PATH")
    return names, path


def _ports(text: str) -> tuple[int, ...]:
    ports = () if text == "none" else tuple(words.whole(word) for word in text.split(","))
    return Landlock(tcp_bind=ports).tcp_bind or ()


def _scopes(text: str) -> tuple[str, ...]:
    names = tuple(word.strip().lower().replace("-", "_") for word in text.split(","))
    for name in names:
        if name not in SCOPES:
            raise argparse.ArgumentTypeError(f"{name!r} is no scope{near(name, SCOPES)}")
    return names


def _action(text: str) -> str:
    name = text.upper() if text[:1] in "eE" else text.lower().replace("-", "_")
    return SeccompFilter(name).default


def _seccomp_rule(text: str) -> Rule:
    names, equals, action = text.rpartition("=")
    calls = tuple(word.strip() for word in names.split(","))
    if not equals or not all(calls):
        raise words.wrong(text, "CALL,…=ACTION, such as mount,umount2=EPERM,")
    return calls, _action(action)


def _program(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MOST_BYTES + 1)
    except OSError as e:
        raise argparse.ArgumentTypeError(f"{path}: {e.strerror}") from None
