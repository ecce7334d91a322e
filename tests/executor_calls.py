"""What the tests of executors call: in a module of its own, which a fresh process imports in no time."""

from __future__ import annotations

import os
import sys
import threading
import time

from sysclone import Descriptor, Executor

KINDS = ("light", "copied", "fresh")
FRESH = {"kind": "fresh", "preload": [__name__]}
VARIANTS = [
    {"kind": "light", "tasks_per_worker": 1},
    {"kind": "light", "tasks_per_worker": None},
    {"kind": "copied", "tasks_per_worker": 1},
    {"kind": "copied", "tasks_per_worker": None},
    FRESH | {"tasks_per_worker": None},
]
NAMES = [f"{one['kind']}-{'warm' if one['tasks_per_worker'] is None else 'once'}" for one in VARIANTS]
"""Each kind, with a process a call and with warm workers."""


def add(a, b=0):
    return a + b


def whoami():
    return os.getpid(), os.getppid()


def never():
    while True:
        time.sleep(0.01)


def blocks(fd):
    """Tell its pid and wait for what does not come."""
    os.write(fd.fileno(), os.getpid().to_bytes(4, "little"))
    os.read(os.pipe()[0], 1)


def waits(fd):
    """Wait until somebody writes."""
    return os.read(fd.fileno(), 1)


def fails():
    raise LookupError("not there")


class Holder:
    """Something with an attribute that cannot be pickled."""

    def __init__(self):
        self.lock = threading.Lock()


def makes_a_lock():
    return Holder()


class Awkward(Exception):
    """Cannot be unpickled."""

    def __init__(self, one, two):
        super().__init__(one)


def raises_awkward():
    raise Awkward(1, 2)


class Nowhere:
    """Leads to a module that is in no process."""

    def __reduce__(self):
        return __import__, ("made_never",)


def square(x):
    return x * x


def halves(x):
    if x == 7:
        raise LookupError("seven")
    return x / 2


def naps(x):
    time.sleep(60 if x == 5 else 0.001)
    return x


def dies(x):
    if x == 5:
        os.kill(os.getpid(), 9)
    return x


def falls(how, path, x):
    """Note the item in a file; the seventh ends badly."""
    with open(path, "a") as file:
        file.write(f"{x}\n")
    if x != 7:
        return [x, "é" * (100_000 if x == 3 else 1)]
    if how == "signal":
        os.kill(os.getpid(), 9)
    elif how == "segfault":
        import ctypes

        ctypes.string_at(0)
    elif how == "exit":
        sys.exit(5)
    elif how == "never":
        never()
    elif how == "lock":
        return makes_a_lock()
    elif how == "nowhere":
        return Nowhere()
    raise KeyboardInterrupt


def large_or_dead(x):
    """Much to tell, or the end."""
    return bytes([x]) * 300_000 if x != 5 else os.kill(os.getpid(), 9)


def opens(x):
    """A number, then open files, then the end."""
    if x == 4:
        os.kill(os.getpid(), 9)
    return Descriptor(os.open("/dev/null", os.O_RDONLY)) if x else x


def slow(x):
    time.sleep(0.03)
    return os.getpid()


def nested(kind):
    """An executor within a call of another."""
    with Executor(2, kind=kind) as inner:
        return sum(inner.map(add, range(5))), inner.submit(os.getppid).result(20.0) == os.getpid()


# --- over named pipes and files, whose names are small enough to go to a worker ahead of its asking


def waits_at(gate):
    """Until somebody opens the named pipe for writing."""
    os.close(os.open(gate, os.O_RDONLY))
    return os.getpid()


def tells_and_waits(told, gate):
    """Write its pid into one named pipe, and wait at the other."""
    fd = os.open(told, os.O_WRONLY)
    os.write(fd, os.getpid().to_bytes(4, "little"))
    os.close(fd)
    return waits_at(gate)


def tells_and_leaves(told, gate):
    """The same, and then end the process."""
    tells_and_waits(told, gate)
    os._exit(3)


def tells_and_closes(told, gate):
    """The same, and then close the worker's own files."""
    tells_and_waits(told, gate)
    os.closerange(3, 256)


def notes(path, word):
    """Add a word and the pid to a file, in one write."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{word} {os.getpid()}\n".encode())
    os.close(fd)
    return os.getpid()


def starts(count):
    """How many processes could be had at once."""
    pids = []
    reads, writes = os.pipe()
    try:
        for _ in range(count):
            pid = os.fork()
            if pid == 0:
                os.close(writes)
                os.read(reads, 1)
                os._exit(0)
            pids.append(pid)
    except BlockingIOError:
        pass
    os.close(writes)
    for pid in pids:
        os.waitpid(pid, 0)
    return len(pids)


def recurses(x):
    """Without end."""
    return recurses(x + 1)


def error_of(function, *arguments):
    """What it raises."""
    try:
        function(*arguments)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def result_of(what, path=""):
    """A result, or what is done on the way to one, that is bad luck."""
    if what == "clone":
        import sysclone

        try:
            sysclone.Context().call(int)
        except sysclone.CloneError as error:
            return "CloneError", error.errno
    if what == "fill fds":
        count = 0
        try:
            while True:
                os.dup(0)
                count += 1
        except OSError:
            return count
    if what == "much":
        return bytearray(1 << 20)
    if what == "larger":
        return memoryview(bytearray(b"x") * (40 << 20))
    if what == "no memory holds":
        import mmap

        return memoryview(mmap.mmap(-1, 1 << 42, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000))
    if what == "deep":
        deep = []
        for _ in range(50_000):
            deep = [deep]
        return deep
    if what == "say and never":
        with open(path + ".new", "w") as file:
            file.write(str(os.getpid()))
        os.rename(path + ".new", path)
        never()
    return None
