"""The rows of tracing: a program that makes programs, threads or other calls, untraced, under us, and under strace."""

from __future__ import annotations

import os
import subprocess
import sys

from harness import LEAST_ROUNDS, Row, Side, program

SHARE = int(os.environ.get("SYSCLONE_BENCH_SHARE", "1"))
"""What the counts are divided by, where time is short."""

COUNTS = {"program": 2000 // SHARE, "thread": 20_000 // SHARE, "call": 200_000 // SHARE}
CALLS = "trace=clone,clone3,fork,vfork,execve"
WAYS = {
    "untraced": [],
    "sysclone trace": [sys.executable, "-m", "sysclone", "trace", "-o", os.devnull, "--"],
    "strace --seccomp-bpf": ["strace", "-f", "--seccomp-bpf", "-o", os.devnull, "-e", CALLS],
    "strace": ["strace", "-f", "-o", os.devnull, "-e", CALLS],
}


def side(way: str, what: str) -> Side:
    """The program under one of the ways; its own time counts, without the beginning and the end of whoever traces it."""

    def batch(n: int) -> list[int]:
        each = []
        for _ in range(n):
            command = [*WAYS[way], program("births"), what, str(COUNTS[what])]
            each.append(int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))
        return each

    return Side(f"{COUNTS[what]:,} {what}s, {way}; each", batch, COUNTS[what])


def row(what: str, name: str, way: str, target: float | None = None, noise: float = 0.0) -> Row:
    """Ours against one of the ways."""
    ours, against = side("sysclone trace", what), side(way, what)
    rounds = LEAST_ROUNDS if what == "call" else 1  # a round of the others takes up to half a minute, mostly strace's
    return Row(f"trace-{what}-{name}", ours, against, target=target, noise=noise, rounds=rounds, elsewhere=True)


ROWS = (
    row("program", "untraced", "untraced"),
    row("program", "strace-bpf", "strace --seccomp-bpf", target=1.0),
    row("program", "strace", "strace", target=1.0),
    row("thread", "untraced", "untraced"),
    row("thread", "strace-bpf", "strace --seccomp-bpf", target=0.33),
    row("thread", "strace", "strace", target=0.33),
    row("call", "untraced", "untraced", target=1.1),
    row("call", "strace-bpf", "strace --seccomp-bpf", target=1.0, noise=0.05),
)
