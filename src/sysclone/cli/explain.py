"""Say what clone flags share, copy and make new, what of that lasts through exec, and whether this kernel takes them.

FLAGS are names with or without CLONE_, numbers, or a line that strace printed; - reads such lines from standard input.
"""

from __future__ import annotations

import argparse
import json
import re
import sys

from .._explain import Explanation, explain
from ._tell import FAILED, REFUSED, complain
from ._words import signal_number

NAME = "sysclone explain"

_CALLS = re.compile(r"\b(clone3?|v?fork)\s*\(|CLONE_")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to explain, and for which call."""
    parser.epilog = (
        f"exit status: 0 when the kernel takes them, {REFUSED} when it refuses them, {FAILED} for unknown names "
        "and wrong options."
    )
    parser.add_argument("flags", nargs="+", metavar="FLAGS", help="such as 'CLONE_VM|CLONE_FS|SIGCHLD', 'vm fs', 0x11")
    parser.add_argument(
        "--exit-signal", type=signal_number, metavar="SIGNAL", help="the exit signal, by name or number"
    )
    parser.add_argument("--call", choices=("clone", "clone3"), help="the call; else as the text names it, or clone3")
    parser.add_argument("--json", action="store_true", help="print it as JSON; a list where there are several lines")


def run(args: argparse.Namespace) -> int:
    """Explain the flags, and answer whether the kernel takes them."""
    texts = _lines(sys.stdin.read()) if args.flags == ["-"] else [" ".join(args.flags)]
    if not texts:
        complain(NAME, "there is nothing to explain on standard input")
        return FAILED
    found = [explain(text, exit_signal=args.exit_signal, call=args.call) for text in texts]
    if args.json:
        _print_json(found)
    else:
        print("\n\n".join(str(one) for one in found))
    return 0 if all(one.valid for one in found) else REFUSED


def _lines(text: str) -> list[str]:
    """The lines to explain: of several, those that have to do with clone."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines if len(lines) < 2 else [line for line in lines if _CALLS.search(line)]


def _print_json(found: list[Explanation]) -> None:
    answer = [one.as_dict() for one in found]
    print(json.dumps(answer if len(answer) > 1 else answer[0], indent=2))
