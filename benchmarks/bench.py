"""Ours against the C floors and against peers, by turns in one run, as ratios.

The exit status says whether everything was measured, never whether a target was reached: a benchmark is not a test.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import harness
import report
from worker import Worker, all_rows

TURNS = 3
"""How often a row goes from one resident size to the other and back."""


def main() -> int:
    """Measure the chosen rows and print their table."""
    options = arguments()
    try:
        rows = choose(all_rows(), options.rows)
    except ModuleNotFoundError as error:
        print(f"bench: {error}; try: make bench, or the .venv's python", file=sys.stderr)
        return 2
    if not rows:
        print(f"bench: no row matches {' '.join(options.rows)}; try --list", file=sys.stderr)
        return 2
    if options.list:
        report.show_rows(rows)
        return 0
    if harness.kib("/proc/meminfo", "MemAvailable") < (options.gib + 0.5) * 2**20:
        print(f"bench: less than {options.gib + 0.5:g} GiB of memory is available; try --gib 1", file=sys.stderr)
        return 2
    harness.floors()
    try:
        if options.json:
            options.json.touch()  # a path that cannot be written is to be known now, not in two minutes
        return compare(rows, options)
    except OSError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench.py", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="names or patterns such as 'call-*' (default: all)")
    parser.add_argument("--gib", type=number, default=4.0, help="resident size to set against 0 (default: 4; 0: none)")
    parser.add_argument("--seconds", type=number, default=3.0, help="time for a row at each size (default: 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there too")
    parser.add_argument("--list", action="store_true", help="print the rows and stop")
    return parser.parse_args()


def number(text: str) -> float:
    """A number of GiB or seconds."""
    value = float(text)
    if not 0 <= value < 1e6:
        raise ValueError(text)
    return value


def choose(rows: Sequence[harness.Row], patterns: Sequence[str]) -> list[harness.Row]:
    """The rows whose names match any of the patterns, or all."""
    return [row for row in rows if not patterns or any(fnmatch.fnmatchcase(row.name, p) for p in patterns)]


def compare(rows: Sequence[harness.Row], options: argparse.Namespace) -> int:
    """Measure every row at each size, and report."""
    load = os.getloadavg()[0]
    began = time.monotonic()
    found = report.lines(measured(rows, [0.0, options.gib] if options.gib else [0.0], options.seconds))
    machine = {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
        "load": [round(load, 2), round(os.getloadavg()[0], 2)],
        "seconds": round(time.monotonic() - began, 1),
    }
    report.show(machine, rows, found)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "lines": found}, indent=1) + "\n")
    return 1 if any("error" in line for line in found) else 0


def measured(rows: Sequence[harness.Row], sizes: Sequence[float], seconds: float) -> list[report.Result]:
    """A result for each row and size: row by row, and within a row by turns between the sizes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the workers are closed
    results = []
    with contextlib.ExitStack() as stack:
        workers = [Worker(gib) for gib in sizes]
        for worker in workers:
            stack.callback(worker.close)
        for row in rows:
            chosen = workers[:1] if row.elsewhere else workers
            pairs = [(worker, report.Result(row, worker.gib)) for worker in chosen]
            results += [result for _, result in pairs]
            for _ in range(TURNS):
                for worker, result in pairs:
                    progress(f"{row.name}, {worker.gib:g} GiB")
                    if not result.errors:
                        result.add(worker.measure(row.name, seconds / TURNS))
                pairs.reverse()  # neither size is always the one that comes first
    progress("")
    return results


def progress(text: str) -> None:
    """What is being measured, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
