"""Show what functions and programs share with their creator in each kind of context, measured live.

Each resource is looked at twice: by the kernel's word, kcmp(2), and by effect: a variable, a closed fd, a changed
directory, an installed handler, a semaphore's undo, an I/O priority, a pid. Where the two differ, or are not what was
asked for, that is said loudly, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import warnings

from .._api import Context
from .._errors import SyscloneError, SyscloneWarning
from .._flags import Share, format_signal
from ._measure import RESOURCES, Resource, Row, measure, reap_siblings
from ._table import show
from ._tell import DISAGREES, FAILED, complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

NAME = "sysclone demo"

_FS_FILES = Share.FS | Share.FILES
_ALL_BUT_THREAD = Share.VM | _FS_FILES | Share.SIGHAND | Share.SYSVSEM | Share.IO

# name, context, whether a program
CASES: Final = (
    ("light (call)", Context.light(), False),
    ("fork", Context.fork(), False),
    ("vfork", Context.vfork(), False),
    ("thread", Context.thread(), False),
    ("linuxthreads", Context.linuxthreads(), False),
    ("sibling", Context(share=_FS_FILES, parent="sibling"), False),
    ("all but thread", Context(share=_ALL_BUT_THREAD, exit_signal=int(signal.SIGUSR1)), False),
    ("run", Context(), True),
    ("run, its cd ours", Context(share=Share.FS), True),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How to print it."""
    parser.epilog = f"exit status: 0; {DISAGREES} where two answers differ; {FAILED} for a failure of sysclone itself."
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure every case, print the matrix, and answer whether all agrees."""
    rows, failed = [], False
    for name, context, program in CASES:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyscloneWarning)
                rows.append(measure(name, context, program))
        except SyscloneError as e:
            complain(NAME, f"{name}: {e}")
            failed = True
        reap_siblings()
    if args.json:
        print(json.dumps({"rows": [as_dict(row) for row in rows]}, indent=2))
    else:
        _draw(rows)
    quarrels = [text for row in rows for text in disagreements(row)]
    for text in quarrels:
        complain(NAME, f"DISAGREEMENT: {text}")
    return FAILED if failed else DISAGREES if quarrels else 0


def disagreements(row: Row) -> list[str]:
    """A line for each resource whose answers differ."""
    return [
        f"{row.name}: {name}: asked for {_word(one.asked)}, kcmp says {_word(one.kcmp)}, by effect {_word(one.effect)}"
        for name, one in row.resources.items()
        if not one.agrees
    ]


def as_dict(row: Row) -> dict[str, object]:
    """A row as plain data for JSON."""
    resources = {
        name: {"asked": one.asked, "kcmp": one.kcmp, "effect": one.effect, "agrees": one.agrees}
        for name, one in row.resources.items()
    }
    return {
        "name": row.name,
        "flags": row.flags,
        "resources": resources,
        "pid": row.pid,
        "tid": row.tid,
        "ppid": row.ppid,
        "creator": row.creator,
        "parent": row.parent,
        "exit_signal": row.signal,
        "seconds": row.seconds,
        "problems": row.problems,
    }


# --- drawing


def _word(shared: bool | None) -> str:
    return "unknown" if shared is None else "shared" if shared else "own"


def _cell(one: Resource) -> str:
    """Shared or own; what only one of the two ways could tell has a mark; a quarrel shows both."""
    if not one.agrees:
        return f"!{_word(one.kcmp)}/{_word(one.effect)}!"
    if one.kcmp is None and one.effect is None:
        return "?"
    return _word(one.asked)


def _draw(rows: list[Row]) -> None:
    show(
        "What the task shares with its creator, by kcmp and by effect",
        ["task", *RESOURCES],
        [[row.name, *(_cell(one) for one in row.resources.values())] for row in rows],
    )
    print()
    show(
        "How it was made, and how it left",
        ["task", "pid", "child of", "exit signal", "time", "flags"],
        [_second(row) for row in rows],
    )
    print("\ntime: of a call of an empty function, or a run of /bin/true; the median of nine.")
    print(f"A program's memory is seen by kcmp alone. uid {os.getuid()}, Linux {os.uname().release}.")
    for row in rows:
        for problem in row.problems:
            print(f"{row.name}: {problem}")


def _second(row: Row) -> list[str]:
    pid = "the creator's" if row.pid == row.creator else "own"
    came = format_signal(row.signal) if row.signal else "none"
    taken = f"{row.seconds * 1e6:.0f} µs" if row.seconds < 1e-3 else f"{row.seconds * 1e3:.1f} ms"
    return [row.name, pid, row.parent, came, taken, row.flags.replace("CLONE_", "").replace("|", " ")]
