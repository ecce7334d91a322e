"""The options for what is done in the task before its function or program: namespaces, places, ids, priorities, filters."""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack, contextmanager

from .._context.landlock_rules import Landlock
from .._context.mount_types import PROPAGATIONS
from .._errors import ContextError
from . import _words as words
from ._mount_words import mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Final

    from .._flags import Namespace
    from .._namespaces import Namespaces

    Wanted = tuple[int | str, Namespace | None]

_MAPS: Final = ("root", "current", "auto")

# Those that are given once, with a value: option, field, metavar, parser, help.
_PLACES: Final = (
    ("--chdir", "cwd", "DIRECTORY", str, "the working directory, in the new root if there is one"),
    ("--root", "root", "DIRECTORY", str, "the root: pivoted to with a new mount namespace, else chroot(2)"),
    ("--umask", "umask", "MODE", words.octal, "which permissions new files do not get, octal"),
    ("--hostname", "hostname", "NAME", str, "the host name of a new or joined UTS namespace"),
    ("--domainname", "domainname", "NAME", str, "the NIS domain name there"),
)
_IDS: Final = (
    ("--uid", "uid", "USER", words.user, "the user id, by number or name: real, effective and saved"),
    ("--gid", "gid", "GROUP", words.group, "the group id, by number or name: real, effective and saved"),
    ("--groups", "groups", "GROUP,…", words.groups, "the further groups; none for none"),
    (
        "--capabilities",
        "capabilities",
        "NAME,…",
        words.capabilities,
        "these in all five sets, and no others; none for none",
    ),
)
_PRIORITIES: Final = (
    ("--nice", "nice", "N", words.whole, "-20 (first) to 19"),
    (
        "--scheduling",
        "scheduling",
        "POLICY[:N…]",
        words.scheduling,
        "other, batch or idle; fifo:PRIORITY or rr:PRIORITY; deadline:RUNTIME:DEADLINE[:PERIOD] in nanoseconds",
    ),
    ("--affinity", "affinity", "CPU[-CPU],…", words.cpus, "the CPUs to run on, such as 0-3,8 or 0-6:2"),
    (
        "--io-priority",
        "io_priority",
        "CLASS[:LEVEL]",
        words.io_priority,
        "idle; best-effort or realtime, 0 (first) to 7",
    ),
    ("--oom-score-adj", "oom_score_adj", "N", words.whole, "-1000 (never) to 1000: whom the OOM killer takes"),
)


def add_step_arguments(parser: argparse.ArgumentParser) -> None:
    """The options, in groups."""
    _add_namespaces(parser.add_argument_group("namespaces", "Those that are there already, and what new ones have."))
    _add_places(parser.add_argument_group("places", "Files and names as the task sees them."))
    _add_rights(parser.add_argument_group("rights", "Who the task is, and what it may do."))
    _add_limits(parser.add_argument_group("limits", "What the task may use, and how soon."))
    _add_process(parser.add_argument_group("process", "How the task begins."))


def _add_table(group: argparse._ArgumentGroup, rows: Iterable[tuple[str, str, str, words.Parse, str]]) -> None:
    for option, name, metavar, parse, text in rows:
        group.add_argument(option, dest=name, type=words.field(name, parse), metavar=metavar, help=text)


def _add_namespaces(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--join",
        type=_join,
        action="append",
        default=[],
        metavar="PID[,NAMESPACE…]|PATH",
        help="enter the namespaces of a task, all that are not ours or those named, or one at a path; may be repeated",
    )
    for word, whose in (
        ("root", "we are root"),
        ("current", "we are who we are"),
        ("auto", "root, and all we may map"),
    ):
        add(
            f"--map-{word}",
            dest="map_word",
            action="append_const",
            const=word,
            help=f"in a new user namespace {whose}; with it, --new user",
        )
    for option, ids in (("--map-users", "user"), ("--map-groups", "group")):
        add(
            option,
            type=words.item(words.id_range),
            action="append",
            metavar="INSIDE,OUTSIDE,COUNT",
            help=f"{ids} ids of a new user namespace; with it, --new user; may be repeated",
        )
    add("--loopback", action="store_true", help="bring up lo in a new or joined network namespace")
    add(
        "--time-offset",
        dest="time_offsets",
        type=words.item(words.clock_offset),
        action="append",
        metavar="CLOCK=SECONDS",
        help="how far monotonic or boottime is ahead in a new time namespace; may be repeated",
    )


def _add_places(group: argparse._ArgumentGroup) -> None:
    _add_table(group, _PLACES)
    group.add_argument(
        "--mount",
        dest="mounts",
        type=words.item(mount),
        action="append",
        metavar="KIND:…",
        help="a mount of a new or joined mount namespace, in this order: bind:SOURCE[:TARGET], tmpfs:TARGET, proc[:TARGET], "
        "overlay:TARGET:lower=…, sysfs, devpts, mqueue, move, set; then :OPTION,… such as ro, create, size=64M",
    )
    group.add_argument("--propagation", choices=PROPAGATIONS, help="of a new mount namespace; else private")


def _add_rights(group: argparse._ArgumentGroup) -> None:
    _add_table(group, _IDS)
    add = group.add_argument
    add("--no-new-privs", action="store_true", help="no program gives it more rights (PR_SET_NO_NEW_PRIVS)")
    for option, what in (("--landlock-ro", "read and execute"), ("--landlock-rw", "do everything with")):
        add(
            option,
            action="append",
            default=[],
            metavar="PATH",
            help=f"what is at and below the path it may {what}, and nothing that no such option names; may be repeated",
        )


def _add_limits(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--limit",
        dest="limits",
        type=words.item(words.limit),
        action="append",
        metavar="NAME=SOFT[:HARD]",
        help="a resource limit, such as nofile=64, core=0:unlimited or as=2G; may be repeated",
    )
    _add_table(group, _PRIORITIES)


def _add_process(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--session", action="store_true", help="lead a session of its own (setsid)")
    add(
        "--parent-death-signal",
        type=words.field("parent_death_signal", words.signal_number),
        metavar="SIGNAL",
        help="the signal that it gets when we end",
    )
    add("--env", type=words.variable, action="append", default=[], metavar="NAME=VALUE", help="set a variable")
    add("--unset-env", type=words.variable_name, action="append", default=[], metavar="NAME", help="remove a variable")
    add("--clear-env", action="store_true", help="begin with no variables but those of --env")
    add("--argv0", type=words.field("argv0", str), metavar="NAME", help="what the program is called in its arguments")


# --- the fields


def fields_of(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of a Context that the options ask for, without join.

    Raises:
        ContextError: two maps of one kind.
    """
    rows = (*_PLACES, *_IDS, *_PRIORITIES)
    names = [row[1] for row in rows] + ["mounts", "limits", "propagation", "parent_death_signal", "argv0"]
    found = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    found |= {name: True for name in ("loopback", "no_new_privs", "session") if getattr(args, name)}
    found |= _maps(args)
    if args.time_offsets:
        found["time_offsets"] = dict(args.time_offsets)
    if args.landlock_ro or args.landlock_rw:
        found["landlock"] = Landlock(read=args.landlock_ro, write=args.landlock_rw)
    if args.env or args.unset_env or args.clear_env:
        kept = {} if args.clear_env else dict(os.environ)
        found["environment"] = {n: v for n, v in kept.items() if n not in args.unset_env} | dict(args.env)
    return found


def _maps(args: argparse.Namespace) -> dict[str, Any]:
    given = {"uid_map": args.map_users, "gid_map": args.map_groups}
    ranges = {name: tuple(lines) for name, lines in given.items() if lines}
    if args.map_word is None:
        return ranges
    if ranges or len(set(args.map_word)) > 1:
        raise ContextError(
            f"--map-{args.map_word[0]} makes both maps: no other option for one beside it",
            field=next(iter(ranges), "uid_map"),
        )
    return {"uid_map": args.map_word[0], "gid_map": args.map_word[0]}


@contextmanager
def joined(wanted: list[Wanted]) -> Iterator[Namespaces | None]:
    """The namespaces to enter, open until the task is there; None where they are ours, all of them.

    Ours are left out, as `Namespaces.joins` does, for a host name or mount not to be taken for one of a joined namespace.
    """
    from .._namespaces import Namespaces

    found: dict[str, int] = {}
    with ExitStack() as stack:
        for target, kinds in wanted:
            one = Namespaces.of(target) if kinds is None else Namespaces.of(target, kinds=kinds)
            stack.enter_context(one)
            found |= {_name(flag): fd for flag, fd in one.joins()}
        together = stack.enter_context(Namespaces(**found)) if found else None
        yield together


def _name(flag: int) -> str:
    from .._flags import Namespace

    return str(Namespace(flag).name).lower()


def _join(text: str) -> Wanted:
    if "/" in text:
        return text, None
    pid, comma, kinds = text.partition(",")
    if not pid.isascii() or not pid.isdecimal() or not 0 < int(pid) < 1 << 31:
        raise words.wrong(text, "a process id, with or without namespaces, or a path with a slash in it,")
    return int(pid), words.namespaces(kinds) if comma else None
