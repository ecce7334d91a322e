"""Watch every task of the system, or some processes and their descendants: what each shares, and the chosen one with whom."""

from __future__ import annotations

import argparse
import sys

from ._marks import MARKS_TOLD, RESOURCES_TOLD, SORTS, add_tasks
from ._tell import FAILED, complain

NAME = "sysclone top"
LEAST_SECONDS = 0.1
MOST_SECONDS = 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which tasks, and how to begin."""
    parser.epilog = (
        f"marks: {RESOURCES_TOLD}; {MARKS_TOLD}.\nIt needs a terminal and textual: pip install 'sysclone[top]'.\n"
        f"exit status: 0; {FAILED} for a failure of sysclone itself, a process that is not there included."
    )
    add_tasks(parser)
    parser.add_argument(
        "--interval", type=_seconds, default=2.0, metavar="SECONDS", help="how often to look; 2 seconds without it"
    )
    parser.add_argument("--sort", choices=SORTS, default="tree", help="the order to begin with")
    parser.add_argument(
        "--filter", default="", metavar="TEXT", help="show only tasks with this in their line to begin with"
    )
    parser.add_argument("--odd", action="store_true", help="show only odd tasks to begin with, as ps --odd does")


def _seconds(text: str) -> float:
    """An interval."""
    value = float(text)
    if not LEAST_SECONDS <= value <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text} is not from {LEAST_SECONDS} to {MOST_SECONDS:g} seconds")
    return value


def run(args: argparse.Namespace) -> int:
    """Run the application until it is left."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        complain(NAME, "needs a terminal\ntry: sysclone ps")
        return FAILED
    try:
        import textual
    except ImportError:
        complain(NAME, "needs textual\ntry: pip install 'sysclone[top]'")
        return FAILED
    del textual
    from ._top import Top

    app = Top(args.pids or None, args.interval, args.sort, args.filter, args.odd)
    app.run()
    if app.failure is not None:
        raise app.failure
    return app.return_code or 0
