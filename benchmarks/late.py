"""How late tasks end that have a timeout and never end by themselves: how long after its time each process was gone.

A thousand a kind, of functions that sleep and of functions that compute, with as many workers as there are processors.
The beginning is the function's own word; the end is its pidfd's, seen by a process that does nothing else. Both clocks
are one, CLOCK_MONOTONIC.
"""

from __future__ import annotations

import argparse
import os
import select
import statistics
import struct
import sys
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, wait
from typing import Any

import sysclone

LIMIT = 0.1
BOUND = 0.02
WORD = struct.Struct("=dq")
KINDS = (("light", 1), ("light", None), ("copied", 1), ("copied", None), ("fresh", 1), ("fresh", None))


def tell(path: str) -> None:
    """Say when the function began, and in which process."""
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, WORD.pack(time.monotonic(), os.getpid()))
    os.close(fd)


def sleeps(path: str) -> None:
    """Never ends, and uses no processor."""
    tell(path)
    time.sleep(60)


def computes(path: str) -> None:
    """Never ends, and uses all it gets."""
    tell(path)
    count = 0
    while True:
        count += 1


def present() -> tuple[float, float]:
    """From when to when it was there."""
    begin = time.monotonic()
    time.sleep(0.3)
    return begin, time.monotonic()


def watch(told: int, late: int) -> None:
    """In a process of its own, until nobody tells any more: how late each task of which a pipe tells is gone."""
    events = select.epoll()
    events.register(told, select.EPOLLIN)
    due: dict[int, float] = {}
    telling = True
    while telling or due:
        for fd, _ in events.poll():
            now = time.monotonic()
            if fd == told:
                word = os.read(told, WORD.size)
                if not word:
                    telling = False
                    events.unregister(told)
                    continue
                began, pid = WORD.unpack(word)
                try:
                    pidfd = os.pidfd_open(pid)
                except ProcessLookupError:  # gone before this process came to look
                    os.write(late, struct.pack("=d", now - began - LIMIT))
                    continue
                due[pidfd] = began + LIMIT
                events.register(pidfd, select.EPOLLIN)
                continue
            os.write(late, struct.pack("=d", now - due.pop(fd)))
            events.unregister(fd)
            os.close(fd)


def lateness(
    kind: str, calls: int | None, function: Callable[[str], None], count: int, width: int
) -> tuple[list[float], int]:
    """Seconds that each task lived on after its time, of those that came to tell of themselves; and the workers in the end."""
    (told, tell_end), (late, late_end) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(tell_end)
            watch(told, late_end)
        finally:
            os._exit(0)
    os.close(late_end)
    with open(late, "rb") as results:
        path = f"/proc/{os.getpid()}/fd/{tell_end}"
        left = run(kind, calls, function, path, count, width)
        os.close(tell_end)
        os.close(told)
        os.waitpid(pid, 0)
        return sorted(one for (one,) in struct.iter_unpack("=d", results.read())), left


def run(kind: str, calls: int | None, function: Callable[[str], None], path: str, count: int, width: int) -> int:
    """That many tasks, as many at once as there are workers, each to its TimeoutError; and the workers that are there then."""
    preload = [__name__] if kind == "fresh" else []
    with sysclone.Executor(width, kind=kind, tasks_per_worker=calls, preload=preload, timeout=LIMIT) as executor:  # type: ignore[arg-type]
        futures: set[Any] = set()
        for _ in range(count):
            if len(futures) == width:
                done, futures = wait(futures, return_when=FIRST_COMPLETED)
                for future in done:
                    if not isinstance(future.exception(), TimeoutError):
                        raise SystemExit(f"{kind}, {function.__name__}: {future.exception()!r}")
            futures.add(executor.submit(function, path))
        wait(futures)
        there = [one.result() for one in [executor.options(timeout=None).submit(present) for _ in range(width)]]
        last = max(begin for begin, _ in there)
        return sum(begin <= last < end for begin, end in there)


def main() -> int:
    """Measure and print a line for each kind and function."""
    parser = argparse.ArgumentParser(prog="late.py", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="tasks a kind and function (default: 1000)")
    parser.add_argument("--width", type=int, default=len(os.sched_getaffinity(0)), help="workers at once")
    parser.add_argument("kinds", nargs="*", help="light, copied, fresh; all without")
    options = parser.parse_args()
    print(
        f"{'kind':8}{'a process':>12}{'function':>10}{'tasks':>7}"
        f"{'median':>9}{'p99':>9}{'most':>9}{'beyond 20':>11} ms{'width':>9}"
    )
    for kind, calls in KINDS:
        if options.kinds and kind not in options.kinds:
            continue
        for function in (sleeps, computes):
            late, width = lateness(kind, calls, function, options.count, options.width)
            beyond = sum(one > BOUND for one in late) / len(late)
            p99 = late[min(len(late) - 1, int(len(late) * 0.99))]
            print(
                f"{kind:8}{'a call' if calls == 1 else 'warm':>12}{function.__name__:>10}{len(late):>7}"
                f"{statistics.median(late) * 1e3:>9.1f}{p99 * 1e3:>9.1f}{late[-1] * 1e3:>9.1f}{beyond:>11.2%}"
                f"{width:>7} of {options.width}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    # Under its own name, so that fresh processes find the functions.
    import late

    sys.exit(late.main())
