"""SIGKILL of light functions at any moment, also while they await the GIL: the program goes on.

Run by test_soak.py, which is the watchdog:
    python careless.py KILLS SEED [allocating]
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import threading
import time

import sysclone
from sysclone import TaskKilled


def spins() -> None:
    while True:
        pass


def makes() -> None:
    while True:
        _ = [object() for _ in range(100)]


def naps() -> None:
    while True:
        time.sleep(0.0001)


def hashes() -> None:
    block = bytes(1 << 16)
    while True:
        hashlib.sha256(block)


def allocates() -> None:
    """Beside the GIL the allocator's lock is at stake."""
    while True:
        _ = [bytearray(random.randrange(1, 100_000)) for _ in range(10)]


def main(kills: int, seed: int, *more: str) -> int:
    rng = random.Random(seed)
    kinds = [spins, makes, naps, hashes, *([allocates] if more else [])]
    go_on = threading.Event()
    turns = [0, 0]

    def takes_turns(n: int) -> None:
        while not go_on.is_set():
            turns[n] += 1

    others = [threading.Thread(target=takes_turns, args=(n,)) for n in range(len(turns))]
    for other in others:
        other.start()
    killed = 0
    while killed < kills:
        tasks = [sysclone.start(rng.choice(kinds)) for _ in range(rng.choice((1, 1, 2, 3)))]
        time.sleep(rng.uniform(0, 0.006))
        for task in tasks:
            task.kill_unsafely()
        for task in tasks:
            try:
                task.result()
            except TaskKilled:
                killed += 1
        seen = list(turns)
        while any(now <= before for now, before in zip(turns, seen, strict=True)):
            time.sleep(0.001)
        os.write(1, b".")
    go_on.set()
    for other in others:
        other.join()
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
