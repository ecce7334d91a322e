"""Measuring: two sides by turns in one process, and the floors that are loaded into it.

The rule: a figure is only ever compared with one taken in the same process, at the same resident size, a moment before
or after. Absolute times move by a third from run to run; ratios taken so hold.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import mmap
import os
import shlex
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build" / "bench"
LEAST_ROUNDS = 5
MOST_REPEATS = 100

Batch = Callable[[int], list[int]]
"""Does its operation n times and returns the nanoseconds of each."""


@dataclass(frozen=True)
class Side:
    """One of the two things a row compares; one operation handles ``units`` tasks."""

    label: str
    batch: Batch
    units: int = 1


@dataclass(frozen=True)
class Row:
    """One comparison: ``ours`` is to take at most ``target`` times what ``against`` takes.

    Args:
        name: What the row is chosen by on the command line.
        ours: The side under test.
        against: The floor or the peer.
        target: The greatest ratio that reaches the target; None for a row that only informs.
        noise: How far above the target still counts, for targets of "not slower".
        flat: The greatest ratio of ours with memory resident to ours without; None where nothing is claimed.
        batch_ms: About how long one side runs before it is the other's turn.
        rounds: The fewest rounds a turn; 1 for operations that take seconds, which are not tried out beforehand either.
        elsewhere: Whether both sides are programs that measure themselves, at whatever size our own process is: such a
            row is measured at one size.
    """

    name: str
    ours: Side
    against: Side
    target: float | None = None
    noise: float = 0.0
    flat: float | None = None
    batch_ms: float = 1.0
    rounds: int = LEAST_ROUNDS
    elsewhere: bool = False


@dataclass
class Samples:
    """One side of a row at one resident size: nanoseconds a task, the mean of each round and the least single one."""

    rounds: list[float] = field(default_factory=list)
    least: float = float("inf")

    def take(self, side: Side, n: int) -> None:
        """Add one round of n operations, after one that is not counted where that is cheap."""
        if n > 1:
            side.batch(1)  # the other side has just had the caches
        each = side.batch(n)
        self.rounds.append(statistics.fmean(each) / side.units)
        self.least = min(self.least, min(each) / side.units)


def python(label: str, operation: Callable[[], object], units: int = 1) -> Side:
    """A side that is a Python callable without arguments."""

    def batch(n: int) -> list[int]:
        now = time.perf_counter_ns
        each = []
        for _ in range(n):
            start = now()
            operation()
            each.append(now() - start)
        return each

    return Side(label, batch, units)


def floor(label: str, symbol: str, *arguments: bytes) -> Side:
    """A side that is a function of floors.c, which is built and loaded at its first use."""

    def batch(n: int) -> list[int]:
        each = (ctypes.c_int64 * n)()
        error: int = getattr(floors(), symbol)(n, each, *arguments)
        if error:
            raise OSError(error, f"{symbol}: {os.strerror(error)}")
        return list(each)

    return Side(label, batch)


@functools.cache
def floors() -> ctypes.CDLL:
    """floors*.c in this process, compiled when the library is missing or older."""
    return ctypes.CDLL(str(built("floors.so", sorted(HERE.glob("floors*.c")), "-shared", "-fPIC")))


def program(name: str) -> str:
    """The path of a program that is compiled from one file here."""
    return str(built(name, [HERE / f"{name}.c"]))


def built(name: str, sources: Sequence[Path], *flags: str) -> Path:
    """What the compiler makes of some sources, made again when one of them is younger."""
    result = BUILD / name
    if not result.exists() or result.stat().st_mtime < max(source.stat().st_mtime for source in sources):
        BUILD.mkdir(parents=True, exist_ok=True)
        fresh = result.with_suffix(f".{os.getpid()}")
        compiler = shlex.split(os.environ.get("CC", "gcc"))
        command = [*compiler, "-std=c11", "-O2", "-Wall", "-Wextra", "-pthread", *flags, "-o", str(fresh)]
        subprocess.run([*command, *map(str, sources)], check=True)
        fresh.replace(result)
    return result


@contextlib.contextmanager
def resident(gib: float) -> Iterator[None]:
    """Hold that many GiB of touched anonymous memory in 4 KiB pages."""
    length = int(gib * 2**30) // mmap.PAGESIZE * mmap.PAGESIZE
    if not length:
        yield
        return
    # mmap's default here is MAP_SHARED, whose page tables fork does not copy; huge pages would have next to none.
    with mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        memory[:: mmap.PAGESIZE] = bytes(length // mmap.PAGESIZE)
        yield


def kib(path: str, name: str) -> int:
    """The line ``name: … kB`` of a file under /proc."""
    for line in Path(path).read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise LookupError(f"{path} has no {name}")


def repeats(side: Side, batch_ms: float) -> int:
    """How many operations of this side take about ``batch_ms``, from 1 to MOST_REPEATS."""
    (once,) = side.batch(1)
    if once > 10 * batch_ms * 1e6:
        return 1
    once = sorted(side.batch(3))[1]  # the first one was cold
    return max(1, min(MOST_REPEATS, round(batch_ms * 1e6 / once)))


def measure(row: Row, seconds: float) -> tuple[Samples, Samples]:
    """Rounds of ours and of the other side for about ``seconds``, and never fewer than the row's own number."""
    ours, against = Samples(), Samples()
    gc.collect()
    gc.disable()  # as timeit does: a collection would land on whichever side is running
    try:
        turns = [
            (samples, side, repeats(side, row.batch_ms) if row.rounds > 1 else 1)
            for samples, side in ((ours, row.ours), (against, row.against))
        ]
        end = time.monotonic() + seconds
        while len(ours.rounds) < row.rounds or time.monotonic() < end:
            for samples, side, n in turns:
                samples.take(side, n)
            turns.reverse()  # so that a drift of the machine favours neither
    finally:
        gc.enable()
    return ours, against
