"""List the tasks that share something, resource by resource, odd groups first.

A group is odd that reaches into several processes, or has only some of the threads of one: its tasks share some, and not
all, of what threads share.
"""

from __future__ import annotations

import argparse
import json

from .._flags import Share
from .._inspect.inspect import inspect
from .._inspect.sharing import RESOURCES, WORDS, names
from ._marks import add_tasks, printable
from ._table import show
from ._tell import FAILED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .._inspect.inspect import Inspection
    from .._inspect.sharing import ShareGroup

_SHOWN = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which groups, and how to print them."""
    parser.epilog = f"exit status: 0; {FAILED} for a failure of sysclone itself, a process that is not there included."
    add_tasks(parser)
    parser.add_argument("--odd", action="store_true", help="the odd ones alone")
    parser.add_argument("--json", action="store_true", help="print it as JSON: one object for each group and resource")


def run(args: argparse.Namespace) -> int:
    """Look, and print."""
    seen = inspect(args.pids or None)
    found = [group for group in seen.groups if group.resource in RESOURCES]
    odd = {group for group in found if is_odd_group(seen, group)}
    found.sort(key=lambda group: group not in odd)
    if args.odd:
        found = [group for group in found if group in odd]
    if args.json:
        print(json.dumps([_as_dict(seen, group, group in odd) for group in found], indent=2))
        return 0
    if found:
        rows = [
            [_resources(what), str(len(tids)), "odd" if is_odd else "", _who(seen, tids)]
            for tids, what, is_odd in _merged(found, odd)
        ]
        show("Tasks that share something", ["what", "tasks", "", "who"], rows)
    else:
        print("No two tasks share anything that may be looked at.")
    if seen.unknown:
        print(f"\n{len(seen.unknown)} tasks may not be looked at, and may share more.")
    return 0


def is_odd_group(seen: Inspection, group: ShareGroup) -> bool:
    """Whether it is not just what the threads of one process share."""
    pids = {seen._process_of(tid) for tid in group.tids}
    if len(pids) > 1:
        return True
    there = {tid for tid in seen._threads_of(pids.pop()) if tid not in seen or not seen[tid].is_zombie}
    return not there <= set(group.tids)


def _merged(groups: list[ShareGroup], odd: set[ShareGroup]) -> list[tuple[tuple[int, ...], Share, bool]]:
    """The same tasks once, with all that they share."""
    found: dict[tuple[int, ...], tuple[Share, bool]] = {}
    for group in groups:
        what, was_odd = found.get(group.tids, (Share(0), False))
        found[group.tids] = what | group.resource, was_odd or group in odd
    return sorted(((tids, *rest) for tids, rest in found.items()), key=lambda one: (not one[2], one[0]))


def _resources(what: Share) -> str:
    return ", ".join(WORDS[one] for one in RESOURCES if one & what)


def _who(seen: Inspection, tids: tuple[int, ...]) -> str:
    """The processes, with how many of their threads."""
    threads: dict[int, list[int]] = {}
    for tid in tids:
        threads.setdefault(seen._process_of(tid), []).append(tid)
    told = [_process(seen, pid, found) for pid, found in list(threads.items())[:_SHOWN]]
    more = len(threads) - _SHOWN
    return ", ".join(told) + (f" and {more} processes more" if more > 0 else "")


def _process(seen: Inspection, pid: int, tids: list[int]) -> str:
    whole = seen._threads_of(pid)
    name = f"{pid} ({printable(seen.process_name(pid))})"
    if len(whole) <= 1:
        return name
    if len(tids) >= len(whole):
        return f"{name} with its {len(whole)} threads"
    shown = " ".join(map(str, tids[:_SHOWN])) + (" …" if len(tids) > _SHOWN else "")
    return f"{name}, {len(tids)} of {len(whole)} threads: {shown}"


def _as_dict(seen: Inspection, group: ShareGroup, odd: bool) -> dict[str, Any]:
    return {
        "resource": names(group.resource)[0],
        "odd": odd,
        "tids": list(group.tids),
        "pids": sorted({seen._process_of(tid) for tid in group.tids}),
    }
