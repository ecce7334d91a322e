"""Show every task of the system, or of some processes and their descendants, and what it shares with whom."""

from __future__ import annotations

import argparse
import json
import sys

from .._inspect.inspect import inspect
from ._marks import MARKS_TOLD, RESOURCES_TOLD, Marks, add_tasks, label, tree
from ._table import show
from ._tell import FAILED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._inspect.sharing import TaskInfo

COMMAND_CHARACTERS = 100
HEADINGS = ("pid", "tid", "state", "M F D H I U", "namespaces", "what")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which tasks, and how to print them."""
    parser.epilog = (
        f"marks: {RESOURCES_TOLD}; {MARKS_TOLD}.\nnamespaces: those that are not those of its process or parent.\n"
        f"exit status: 0; {FAILED} for a failure of sysclone itself, a process that is not there included."
    )
    add_tasks(parser)
    parser.add_argument("--table", action="store_true", help="one list in the order of pids, without the tree")
    parser.add_argument("--no-threads", action="store_true", help="leave out the threads of a process but its first")
    parser.add_argument("--kernel", action="store_true", help="show kernel threads too, unless PIDs are given")
    parser.add_argument(
        "--odd",
        action="store_true",
        help="only tasks that share something with another process, and threads with something of their own",
    )
    parser.add_argument(
        "--wide", action="store_true", help=f"whole command lines, beyond {COMMAND_CHARACTERS} characters"
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON: everything that is known of each task")


def run(args: argparse.Namespace) -> int:
    """Look, and print."""
    seen = inspect(args.pids or None)
    marks = Marks(seen)
    chosen = [task for task in seen if _is_wanted(marks, task, args)]
    if args.json:
        print(json.dumps({**seen.as_dict(), "tasks": [task.as_dict() for task in chosen]}, indent=2))
        return 0
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    listed = [(task, "") for task in chosen] if args.table else list(tree(chosen, unicode=unicode))
    rows = [_row(marks, task, branch + _short(label(task), args.wide)) for task, branch in listed]
    processes = len({task.pid for task in chosen})
    show(f"{_many(len(chosen), 'task')} in {_many(processes, 'process', 'processes')}", HEADINGS, rows)
    print(f"\n{RESOURCES_TOLD}\n{MARKS_TOLD}")
    return 0


def _many(count: int, one: str, several: str = "") -> str:
    return f"{count} {one if count == 1 else several or one + 's'}"


def _is_wanted(marks: Marks, task: TaskInfo, args: argparse.Namespace) -> bool:
    if task.kernel_thread and not (args.kernel or args.pids):
        return False
    if task.is_thread and args.no_threads:
        return False
    return not args.odd or marks.is_odd(task)


def _row(marks: Marks, task: TaskInfo, what: str) -> list[str]:
    return [str(task.pid), str(task.tid), task.state, marks.of(task), marks.own_namespaces(task), what]


def _short(text: str, wide: bool) -> str:
    return text if wide or len(text) <= COMMAND_CHARACTERS else text[: COMMAND_CHARACTERS - 1] + "…"
