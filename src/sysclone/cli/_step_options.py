"""The options for what is done in the task before its function or program: namespaces, places, limits, and the rest."""

from __future__ import annotations

import argparse
from contextlib import ExitStack, contextmanager

from .._context.mount_types import PROPAGATIONS
from .._errors import ContextError
from .._flags import Namespace
from . import _words as words
from ._filter_options import add_filter_arguments, filters_of
from ._mount_words import mount
from ._process_options import add_process_arguments, process_of
from ._rights_options import add_rights_arguments, rights_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Final

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
    ("--timer-slack-ns", "timer_slack_ns", "N", words.whole, "how late it may be woken, in nanoseconds; 0: as usual"),
    (
        "--memory-policy",
        "memory_policy",
        "MODE[:NODE[-NODE],…]",
        words.memory_policy,
        "the nodes of new memory: local, bind, preferred, preferred-many, interleave or weighted-interleave",
    ),
)


def add_step_arguments(parser: argparse.ArgumentParser) -> None:
    """The options, in groups."""
    _add_namespaces(parser.add_argument_group("namespaces", "Those that are there already, and what new ones have."))
    _add_places(parser.add_argument_group("places", "Files and names as the task sees them."))
    add_rights_arguments(parser.add_argument_group("rights", "Who the task is, and what it may do."))
    add_filter_arguments(parser.add_argument_group("filters", "What its own calls are held to, from its first one on."))
    _add_limits(parser.add_argument_group("limits", "What the task may use, and how soon."))
    add_process_arguments(
        parser.add_argument_group("process", "How the task begins."),
        parser.add_argument_group("environment", "What the task is told."),
    )


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
    words.add_table(group, _PLACES)
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


def _add_limits(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--limit",
        dest="limits",
        type=words.item(words.limit),
        action="append",
        metavar="NAME=SOFT[:HARD]",
        help="a resource limit, such as nofile=64, core=0:unlimited or as=2G; may be repeated",
    )
    words.add_table(group, _PRIORITIES)


# --- the fields


def fields_of(args: argparse.Namespace, new: Namespace, there: Namespaces | None) -> dict[str, Any]:
    """The fields of a Context that the options ask for.

    Args:
        args: as parsed.
        new: the namespaces that are to be new.
        there: those to enter.

    Raises:
        ContextError: options that do not go together.
    """
    names = [row[1] for row in (*_PLACES, *_PRIORITIES)] + ["mounts", "limits", "propagation"]
    found = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.loopback:
        found["loopback"] = True
    if args.time_offsets:
        found["time_offsets"] = dict(args.time_offsets)
    if there is not None:
        found["join"], new = there, new | there.kinds
    return found | _maps(args) | rights_of(args, new) | filters_of(args) | process_of(args)


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
            found |= {str(Namespace(flag).name).lower(): fd for flag, fd in one.joins()}
        together = stack.enter_context(Namespaces(**found)) if found else None
        yield together


def _join(text: str) -> Wanted:
    if "/" in text:
        return text, None
    pid, comma, kinds = text.partition(",")
    if not pid.isascii() or not pid.isdecimal() or not 0 < int(pid) < 1 << 31:
        raise words.wrong(text, "a process id, with or without namespaces, or a path with a slash in it,")
    return int(pid), words.namespaces(kinds) if comma else None
