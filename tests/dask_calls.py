"""What the tests of Dask call on its workers."""

from __future__ import annotations

import os
import signal
import time


def leaks_and_moves():
    """Leave 300 fds open and another cwd behind."""
    os.chdir("/")
    return len([os.open("/dev/null", os.O_RDONLY) for _ in range(300)])


def eats(size):
    """Take memory."""
    return len(bytearray(b"x") * size)


def crashes():
    """A real SIGSEGV."""
    signal.raise_signal(signal.SIGSEGV)


def never():
    """Does not end."""
    while True:
        time.sleep(0.01)


def parent():
    """The worker's pid, as its task sees it."""
    return os.getppid()


def holdings():
    """A worker's cwd and how many fds below 200 it has."""
    return os.getcwd(), len([fd for fd in os.listdir("/proc/self/fd") if int(fd) < 200])


def say_and_never(path):
    """Leave a pid in a file and do not end."""
    with open(path + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(path + ".new", path)
    never()


def alone(_number):
    """The pid that it has in its own pid namespace."""
    return os.getpid()
