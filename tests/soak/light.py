"""Light calls by the thousand, mixed with cancels, kills and crashes at random moments: no hang, no wrong value, no leak.

Run by test_soak.py, which is the watchdog: this program prints a line a second, and is taken for hung when it does not.
    python light.py SECONDS THREADS SEED [CALLS]
With CALLS it goes on until that many were made, however long that takes.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import importlib
import logging
import os
import queue
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

import sysclone
from sysclone import Cancelled, Context, Share, TaskExited, TaskFailed, TaskKilled, TaskTimeout, _core

LOG = logging.getLogger("soak")
LOG.addHandler(logging.FileHandler(os.devnull))
LOG.propagate = False
MODULES = ("colorsys", "chunk_that_is_not", "stringprep", "quopri", "this_does_not_exist")

LEAK_KIB = 6
"""What a function that died may leak in the mean: crashes.py measures it; a list of ten byte strings was half made here."""
ROOM_KIB = 128 << 10
"""For stacks, arenas and imports, once."""

counts: Counter[str] = Counter()
wrong: list[str] = []
waiting = threading.Event()


def sleeping() -> None:
    time.sleep(60)


def reading() -> None:
    r, w = os.pipe()
    try:
        os.read(r, 1)
    finally:
        os.close(r)
        os.close(w)


def spinning() -> None:
    while True:
        pass


def allocating() -> None:
    while True:
        _ = [bytearray(random.randrange(1, 100_000)) for _ in range(10)]


def hashing() -> None:
    block = bytes(1 << 20)
    while True:
        hashlib.sha256(block)


def logging_() -> None:
    while True:
        LOG.warning("one more line")


def importing() -> None:
    while True:
        name = random.choice(MODULES)
        try:
            importlib.import_module(name)
        except (ImportError, KeyError):  # KeyError: another took it from sys.modules meanwhile
            pass
        sys.modules.pop(name, None)
        time.sleep(0.002)  # a function that does nothing but import is never outside the import system's locks


def calling_back() -> None:
    while True:
        sorted(range(50), key=lambda x: -x)


def locking() -> None:
    lock = threading.Lock()
    while True:
        lock.acquire(timeout=0.002)


ENDLESS = (sleeping, reading, spinning, allocating, hashing, logging_, locking, importing, calling_back)


def deep(n: int, fn: Callable[[], object]) -> object:
    return fn() if n == 0 else deep(n - 1, fn)


def crash_exit() -> None:
    deep(20, lambda: os._exit(3))


def crash_kill() -> None:
    deep(20, lambda: os.kill(os.getpid(), signal.SIGKILL))


def crash_segfault() -> None:
    deep(20, lambda: ctypes.string_at(8))


def crash_term() -> None:
    deep(20, lambda: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(5)))


def expect(what: str, fn: Callable[[], object], *kinds: type[BaseException]) -> None:
    try:
        answer = fn()
    except kinds:
        counts[what] += 1
    except BaseException as e:
        wrong.append(f"{what}: {e!r}")
    else:
        wrong.append(f"{what}: returned {answer!r}")


LIGHT = Context.light()


def one(rng: random.Random) -> None:
    kind = rng.random()
    if kind < 0.80:
        box = object()
        if sysclone.call(lambda: (box, os.getpid()))[0] is not box:
            wrong.append("call: another object")
        counts["call"] += 1
    elif kind < 0.86:
        n = rng.randrange(1 << 30)
        if sysclone.start(lambda: n + 1).result() != n + 1:
            wrong.append("start: wrong value")
        counts["start"] += 1
    elif kind < 0.90:
        fn = rng.choice(ENDLESS)
        limit = LIGHT.replace(timeout=rng.uniform(0.0005, 0.01))
        expect(f"timeout {fn.__name__}", lambda: limit.call(fn), TaskTimeout)
    elif kind < 0.94:
        fn = rng.choice(ENDLESS)
        task = sysclone.start(fn)
        time.sleep(rng.uniform(0, 0.003))
        task.cancel()
        expect(f"cancel {fn.__name__}", task.result, Cancelled, TaskKilled)
    elif kind < 0.95:
        task = sysclone.start(rng.choice((sleeping, reading)))
        time.sleep(0.01)
        expect_kill(task)
    else:
        fn, error = rng.choice(
            (
                (crash_exit, TaskExited),
                (crash_kill, TaskKilled),
                (crash_segfault, TaskKilled),
                (crash_term, TaskKilled),
            )
        )
        expect(fn.__name__, lambda: sysclone.call(fn), error)


def expect_kill(task: sysclone.Task) -> None:
    task.send_signal(signal.SIGTERM)
    expect("SIGTERM", task.result, TaskFailed)


def worker(seed: int, until: float, calls: int, errors: queue.Queue[BaseException]) -> None:
    rng = random.Random(seed)
    try:
        while (time.monotonic() < until or sum(counts.values()) < calls) and not wrong:
            one(rng)
    except BaseException as e:
        errors.put(e)
        wrong.append(f"worker: {e!r}")


def rss_kib() -> int:
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4


def main(seconds: float, threads: int, seed: int, calls: int = 0) -> int:
    errors: queue.Queue[BaseException] = queue.Queue()
    until = time.monotonic() + seconds
    fds, kib = len(os.listdir("/proc/self/fd")), rss_kib()
    workers = [threading.Thread(target=worker, args=(seed * 1000 + i, until, calls, errors)) for i in range(threads)]
    for w in workers:
        w.start()
    while any(w.is_alive() for w in workers):
        time.sleep(0.5)
        print(f"{sum(counts.values())} calls, {rss_kib()} KiB", flush=True)  # the watchdog takes silence for a hang
    for w in workers:
        w.join()
    gc.collect()
    stopping = time.monotonic() + 30
    while _core.pool_info()[1] and time.monotonic() < stopping:
        time.sleep(0.1)
    if _core.pool_info()[1]:
        wrong.append(f"still running: {_core.pool_info()[1]}")
    if len(os.listdir("/proc/self/fd")) > fds:
        wrong.append(f"fds: {fds} before, {sorted(os.listdir('/proc/self/fd'))} after")
    died = sum(n for what, n in counts.items() if what.startswith(("crash", "cancel", "timeout", "SIG")))
    leaked = rss_kib() - kib - ROOM_KIB
    if leaked > died * LEAK_KIB:
        wrong.append(f"memory: {leaked} KiB more than {ROOM_KIB}, with {died} that died")
    with open(f"/proc/self/task/{os.getpid()}/children") as f:
        children = f.read().split()
    if children:
        wrong.append(f"children left: {children}")
    print(dict(sorted(counts.items())))
    print("wrong:", wrong or "nothing")
    return 1 if wrong else 0


if __name__ == "__main__":
    assert Share.VM in LIGHT.share
    sys.exit(main(float(sys.argv[1]), *map(int, sys.argv[2:])))
