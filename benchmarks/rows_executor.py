"""The rows of executors: ours against the standard library's, loky's and pebble's, warm and cold, small calls and large."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import multiprocessing
import threading
import time
from collections.abc import Callable
from typing import Any

from harness import Row, Side, python

import sysclone

WORKERS = 2
MANY = 500
ITEMS = 20_000
LIMIT = 0.1


def nothing(value: int = 0) -> int:
    """The function that every call runs."""
    return value


def never() -> None:
    """Does not end."""
    while True:
        time.sleep(0.01)


def large() -> Any:
    """100 MB in an array."""
    return _array(100_000_000)


@functools.cache
def _array(size: int) -> Any:
    import numpy

    return numpy.ones(size, numpy.uint8)


@functools.cache
def ten_mb_of_bytes() -> bytes:
    """10 MB in bytes."""
    return bytes(ten_mb())


def ten_mb() -> Any:
    """10 MB in an array."""
    return _array(10_000_000)


@functools.cache
def ours(kind: str, calls: int | None) -> sysclone.Executor:
    """An executor that lives as long as the measuring process."""
    preload = [__name__] if kind == "fresh" else []
    return sysclone.Executor(WORKERS, kind=kind, tasks_per_worker=calls, preload=preload)  # type: ignore[arg-type]


@functools.cache
def theirs() -> concurrent.futures.ProcessPoolExecutor:
    """The standard library's, forked."""
    return concurrent.futures.ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("fork"))


@functools.cache
def pool() -> Any:
    """multiprocessing.Pool, forked."""
    return multiprocessing.get_context("fork").Pool(WORKERS)


@functools.cache
def loky() -> Any:
    """loky's executor."""
    from loky import get_reusable_executor  # type: ignore[import-not-found, import-untyped, unused-ignore]

    return get_reusable_executor(WORKERS, timeout=None)


@functools.cache
def pebble() -> Any:
    """pebble's pool."""
    from pebble import ProcessPool  # type: ignore[import-not-found, import-untyped, unused-ignore]

    return ProcessPool(WORKERS, context=multiprocessing.get_context("fork"))


def trip(kind: str, calls: int | None, fn: Callable[..., Any] = nothing, *args: Any) -> Callable[[], object]:
    """One call through an executor of ours, there and back."""
    return lambda: ours(kind, calls).submit(fn, *args).result()


def thread() -> None:
    """A thread from start to join, its value in a list."""
    values: list[int] = []
    one = threading.Thread(target=lambda: values.append(nothing(1)))
    one.start()
    one.join()


def many(submit: Callable[[int], Any], get: Callable[[Any], object]) -> None:
    """Calls submitted all at once, then waited for."""
    for one in [submit(i) for i in range(MANY)]:
        get(one)


def forkserver() -> None:
    """A process of forkserver's, joined: it brings no value."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=nothing)
    process.start()
    process.join()


def timed_out() -> None:
    """A call that never ends, to its TimeoutError."""
    with contextlib.suppress(TimeoutError):
        ours("copied", None).submit(nothing).result()
        ours("copied", None).options(timeout=LIMIT).submit(never).result()


LIGHT = python("Executor light, a process a call", trip("light", 1))
WARM = python("Executor copied, warm", trip("copied", None))
FRESH = python("Executor fresh, a process a call", trip("fresh", 1))
SUBMITS = python(
    f"{MANY} calls, warm; each",
    lambda: many(lambda i: ours("copied", None).submit(nothing, i), lambda f: f.result()),
    units=MANY,
)
MAP = python(f"map of {ITEMS:,}; each", lambda: sum(ours("copied", None).map(nothing, range(ITEMS))), units=ITEMS)
ARGUMENT = python("an array of 10 MB there", lambda: ours("copied", None).submit(len, ten_mb()).result())
BYTES = python("bytes of 10 MB there", lambda: ours("copied", None).submit(len, ten_mb_of_bytes()).result())
RESULT = python("an array of 100 MB back", trip("copied", None, large))


def peer(label: str, operation: Callable[[], object], units: int = 1) -> Side:
    """The other side."""
    return python(label, operation, units)


ROWS = (
    Row("executor-light", LIGHT, peer("threading.Thread", thread), target=1.5, flat=1.2),
    Row("executor-warm-ppe", WARM, peer("ProcessPoolExecutor", lambda: theirs().submit(nothing).result()), target=1.0),
    Row("executor-warm-pool", WARM, peer("Pool.apply", lambda: pool().apply(nothing)), target=1.0, noise=0.05),
    Row("executor-warm-loky", WARM, peer("loky", lambda: loky().submit(nothing).result()), target=1.0),
    Row("executor-warm-pebble", WARM, peer("pebble", lambda: pebble().schedule(nothing).result()), target=1.0),
    Row(
        "executor-submit-ppe",
        SUBMITS,
        peer("ProcessPoolExecutor", lambda: many(lambda i: theirs().submit(nothing, i), lambda f: f.result()), MANY),
        target=1.0,
        batch_ms=50,
    ),
    Row(
        "executor-submit-pool",
        SUBMITS,
        peer("Pool.apply_async", lambda: many(lambda i: pool().apply_async(nothing, (i,)), lambda r: r.get()), MANY),
        target=1.0,
        batch_ms=50,
    ),
    Row(
        "executor-map-ppe",
        MAP,
        peer("ProcessPoolExecutor, 500", lambda: sum(theirs().map(nothing, range(ITEMS), chunksize=500)), ITEMS),
        target=1.0,
        batch_ms=50,
    ),
    Row(
        "executor-map-pool",
        MAP,
        peer("Pool.imap, 500", lambda: sum(pool().imap(nothing, range(ITEMS), 500)), ITEMS),
        target=1.0,
        batch_ms=50,
    ),
    Row(
        "executor-argument",
        ARGUMENT,
        peer("ProcessPoolExecutor", lambda: theirs().submit(len, ten_mb()).result()),
        target=0.5,
        batch_ms=50,
    ),
    Row(
        "executor-argument-pool",
        ARGUMENT,
        peer("Pool.apply", lambda: pool().apply(len, (ten_mb(),))),
        target=0.5,
        batch_ms=50,
    ),
    Row(
        "executor-argument-bytes",
        BYTES,
        peer("ProcessPoolExecutor", lambda: theirs().submit(len, ten_mb_of_bytes()).result()),
        target=0.5,
        batch_ms=50,
    ),
    Row(
        "executor-result",
        RESULT,
        peer("ProcessPoolExecutor", lambda: theirs().submit(large).result()),
        target=0.5,
        batch_ms=200,
    ),
    Row("executor-result-pool", RESULT, peer("Pool.apply", lambda: pool().apply(large)), target=0.5, batch_ms=200),
    Row("executor-fresh", FRESH, peer("forkserver's Process", forkserver), target=0.1, flat=1.3, batch_ms=30),
    Row(
        "executor-timeout",
        python(f"timeout={LIMIT}, never ends", timed_out),
        peer(f"time.sleep({LIMIT + 0.02:g})", lambda: time.sleep(LIMIT + 0.02)),
        target=1.0,
        batch_ms=100,
    ),
)
