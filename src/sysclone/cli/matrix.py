"""Show what each two of some tasks share, the clone flags that would make such a pair, and why each task is as it is."""

from __future__ import annotations

import argparse
import itertools
import json

from .._flags import Share
from .._inspect.inspect import inspect
from .._inspect.relation import explain_task, relate
from .._inspect.sharing import RESOURCES
from ._marks import LETTERS, RESOURCES_TOLD, UNKNOWN, positive
from ._table import show
from ._tell import FAILED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._inspect.relation import Relation

_ORDER = (*RESOURCES, Share.THREAD)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which tasks, and how to print them."""
    parser.epilog = f"exit status: 0; {FAILED} for a failure of sysclone itself, a task that is not there included."
    parser.add_argument("tids", nargs="+", type=positive, metavar="PID", help="a process or a thread")
    parser.add_argument("--json", action="store_true", help="print it as JSON: one object for each pair")


def run(args: argparse.Namespace) -> int:
    """Look, and print."""
    tids = list(dict.fromkeys(args.tids))
    seen = inspect(tids)
    for tid in tids:
        if tid not in seen:
            raise ProcessLookupError(3, f"task {tid} ended while it was looked at")
    pairs = {(a, b): relate(seen[a], seen[b]) for a, b in itertools.combinations(tids, 2)}
    if args.json:
        print(json.dumps([pair.as_dict() for pair in pairs.values()], indent=2))
        return 0
    rows = [[f"{a} ({seen[a].name})", *(_cell(pairs.get((a, b)) or pairs.get((b, a))) for b in tids)] for a in tids]
    show("What each two share", ["", *map(str, tids)], rows)
    if pairs:
        print()
        told = [[str(pair.creator), str(_made(pair)), pair.made_with] for pair in pairs.values()]
        show("What would make such a pair", ["creator", "made", "flags"], told)
    print()
    show("Why they are as they are", ["task", "what it is"], [[str(tid), explain_task(seen, tid)] for tid in tids])
    print(f"\n{RESOURCES_TOLD}, P process; . not shared, {UNKNOWN} may not be looked at")
    return 0


def _made(pair: Relation) -> int:
    return pair.b if pair.creator == pair.a else pair.a


def _cell(pair: Relation | None) -> str:
    """One letter for each resource; a task against itself is left empty."""
    if pair is None:
        return ""
    return "".join(LETTERS[one] if one & pair.shared else UNKNOWN if one & pair.unknown else "." for one in _ORDER)
