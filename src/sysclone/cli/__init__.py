"""The command line: one file a verb, each with add_arguments(parser) and run(args) -> exit status.

The verb is picked before its file is imported, so that none pays for another's imports.
"""

from __future__ import annotations

import argparse
import io
import os
import sys

from ._tell import BROKEN_PIPE, FAILED, INTERRUPTED, complain, near, tell_failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final, NoReturn

VERBS: Final = {
    "run": "run a program in a context",
    "call": "call a Python function in a task of its own",
    "trace": "trace every call of a program that makes or changes a task",
    "explain": "say what clone flags share, copy and reset, and whether the kernel takes them",
    "ps": "show every task, and what it shares with whom",
    "groups": "list the tasks that share something, odd ones first",
    "matrix": "show what each two of some tasks share",
    "top": "watch the tasks, and what the chosen one shares with whom",
    "doctor": "say what this kernel and this user can do, and why not",
    "demo": "show what is shared with what, measured live",
}

STATUS: Final = f"""\
exit status: the child's own; 128+n when signal n ended it; 124 when --timeout did; 126 for what was found but cannot be
executed; 127 for what was not found; {FAILED} for a failure of sysclone itself, wrong options included."""


class Formatter(argparse.RawDescriptionHelpFormatter):
    """argparse's, which asks shutil for the width of the terminal at every option, and that is half of `run`'s start."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_width())


def _width() -> int:
    try:
        return int(os.environ.get("COLUMNS") or os.get_terminal_size().columns) - 2
    except (OSError, ValueError):
        return 78


class Parser(argparse.ArgumentParser):
    """argparse with this program's exit status for wrong options; 2 may be the child's own."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the options, and leave."""
        complain(self.prog, f"{message}\ntry: {self.prog} --help")
        self.exit(FAILED)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments, without the program's name; None takes them from sys.argv.

    Returns:
        The exit status.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    name = "sysclone"
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if words and words[0] in VERBS:
            name = f"sysclone {words[0]}"
            status = _run_verb(words[0], words[1:])
        else:
            status = _without_verb(words)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has had enough. What is still buffered would fail again at the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return BROKEN_PIPE
    except SystemExit as e:
        if e.code is not None and not isinstance(e.code, int):
            complain(name, str(e.code))
            return 1
        return e.code or 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as e:
        tell_failure(name, e)
        return FAILED
    return status


def _run_verb(verb: str, words: list[str]) -> int:
    from importlib import import_module

    module = import_module(f".{verb}", __name__)
    parser = Parser(
        prog=f"sysclone {verb}",
        description=module.__doc__,
        epilog=STATUS,
        formatter_class=Formatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return int(module.run(parser.parse_args(words)))


def _without_verb(words: list[str]) -> int:
    parser = Parser(prog="sysclone", description="clone(2) from the command line.", epilog=STATUS, allow_abbrev=False)
    parser.add_argument("--version", action="store_true", help="print the version")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", prog="sysclone")
    for verb, what in VERBS.items():
        verbs.add_parser(verb, help=what, add_help=False)
    if words and not words[0].startswith("-"):
        parser.error(f"there is no verb {words[0]!r}{near(words[0], VERBS)}")
    args = parser.parse_args(words)
    if args.version:
        from .._version import __version__

        print(f"sysclone {__version__}")
        return 0
    parser.print_help(sys.stderr)
    return FAILED
