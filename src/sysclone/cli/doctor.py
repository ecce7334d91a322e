"""Say what this kernel and this user can do, and why not: each thing is tried, in a child that leaves nothing behind."""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import asdict

from .._errors import SyscloneWarning
from ._machine import limits, system
from ._probes import Finding, findings
from ._table import show
from ._tell import FAILED

# What of the system is not understood without its name.
_NAMED = ("uid", "capabilities", "no_new_privs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How to print it."""
    parser.epilog = f"exit status: 0, whatever was found; {FAILED} for a failure of sysclone itself."
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(args: argparse.Namespace) -> int:
    """Try everything, and print what came of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyscloneWarning)
        found = findings()
    if args.json:
        answer = {
            "system": system(),
            "features": [asdict(one) for one in found],
            "limits": [asdict(one) for one in limits()],
        }
        print(json.dumps(answer, indent=2))
        return 0
    told = {name: f"{name} {value}" if name in _NAMED else value for name, value in system().items()}
    print(", ".join(told.values()), end="\n\n")
    show("What can be done", ["", "feature", "", "since", "why"], _rows(found))
    print()
    show(
        "Limits",
        ["limit", "value", "what it bounds, and what reaching it looks like"],
        [[one.name, one.value, one.note] for one in limits()],
    )
    _advise(found)
    return 0


def _rows(found: list[Finding]) -> list[list[str]]:
    """The group stands at its first feature alone."""
    rows = []
    group = ""
    for one in found:
        rows.append([one.group if one.group != group else "", one.name, one.answer, one.since, one.why])
        group = one.group
    return rows


def _advise(found: list[Finding]) -> None:
    advice = [one for one in found if one.attempt]
    if advice:
        print("\nWhat to try")
    for one in advice:
        print(f"  {one.name}: {one.attempt}")
