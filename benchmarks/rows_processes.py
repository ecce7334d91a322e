"""The rows of functions with a memory of their own: copied and fresh processes against fork and what pools offer."""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import pickle
from typing import Any

from harness import Row, python

import sysclone

COPIED = sysclone.Context()
LARGE = 100_000_000


def nothing() -> None:
    """The function that every task runs."""


def large() -> memoryview:
    """A function with a large result, which lies in memory that is touched."""
    return memoryview(bytearray(LARGE))


def copied_call() -> None:
    """A copied process from call to value."""
    COPIED.call(nothing)


@functools.cache
def zygote() -> sysclone.Zygote:
    """The zygote of all rows, started before the first one is measured."""
    one = sysclone.Zygote()
    atexit.register(one.close)
    one.call(os.getpid)
    return one


def fresh_call() -> None:
    """A fresh process from call to value."""
    zygote().call(os.getpid)


def raw_fork() -> None:
    """os.fork, the value through a pipe, waitpid: as one writes it by hand."""
    raw(nothing)


def raw(function: Any) -> Any:
    """What a function returns in a fork."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with os.fdopen(writing, "wb") as out:
            pickle.dump(function(), out, 5)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as into:
        value = pickle.load(into)
    os.waitpid(pid, 0)
    return value


def raw_large() -> None:
    """A large result through a pipe, as bytes, since pickle takes no memoryview."""
    raw(lambda: bytes(large()))


def large_there() -> memoryview:
    """The same, made in the memory of a result."""
    view = sysclone.result_buffer(LARGE)
    view[::4096] = bytes(len(range(0, LARGE, 4096)))
    return view


def copied_large() -> None:
    """A large result of a copied process, mapped and looked at: each page once."""
    view = COPIED.call(large_there)
    assert view[::4096].tobytes().count(0)


def send(connection: Any, function: Any) -> None:
    """What a process of multiprocessing runs here."""
    connection.send(function())


def process(method: str) -> None:
    """A process of multiprocessing with its value back."""
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=send, args=(theirs, os.getpid))  # type: ignore[attr-defined]
    child.start()
    theirs.close()
    ours.recv()
    child.join()
    child.close()
    ours.close()


def pebble_call() -> None:
    """pebble's way to one process for one call."""
    import pebble

    pebble.concurrent.process(os.getpid)().result()


def loky_call() -> None:
    """A new pool of loky's for one call."""
    import loky

    with loky.ProcessPoolExecutor(max_workers=1) as pool:
        pool.submit(os.getpid).result()


COPIED_CALL = python("Context().call(f)", copied_call)
COPIED_LARGE = python("Context().call, 100 MB", copied_large)
FRESH_CALL = python("Zygote.call(f)", fresh_call)
RAW = python("os.fork+pipe+pickle+waitpid", raw_fork)
RAW_LARGE = python("os.fork+pipe, 100 MB", raw_large)
FORK = python("multiprocessing fork", lambda: process("fork"))
FORKSERVER = python("multiprocessing forkserver", lambda: process("forkserver"))
SPAWN = python("multiprocessing spawn", lambda: process("spawn"))
PEBBLE = python("pebble, a process a call", pebble_call)
LOKY = python("loky, a new pool", loky_call)

ROWS = (
    Row("copied-raw", COPIED_CALL, RAW, target=1.3, batch_ms=10),
    Row("copied-multiprocessing", COPIED_CALL, FORK, target=1.0, batch_ms=10),
    Row("copied-100mb", COPIED_LARGE, RAW_LARGE, target=0.5, batch_ms=50),
    Row("fresh-forkserver", FRESH_CALL, FORKSERVER, target=0.1, flat=1.2, batch_ms=20),
    Row("fresh-raw", FRESH_CALL, RAW, batch_ms=10),
    Row("fresh-spawn", FRESH_CALL, SPAWN, target=0.05, batch_ms=20),
    Row("fresh-pebble", FRESH_CALL, PEBBLE, batch_ms=20),
    Row("fresh-loky", FRESH_CALL, LOKY, batch_ms=20),
)
