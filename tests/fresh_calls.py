"""What fresh processes run by name in the tests, without a test's own module."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

loaded_by = os.getpid()


def who():
    """The pid, the parent's pid, and the process that imported this module."""
    return os.getpid(), os.getppid(), loaded_by


def die(number):
    """End by a signal."""
    os.kill(os.getpid(), number)
    time.sleep(30)


def leave(code):
    """End by sys.exit."""
    sys.exit(code)


def fail():
    """Raise."""
    raise KeyError("from there")


def tell_and_wait(fd):
    """Say that it runs, and wait to be ended."""
    os.write(fd.fileno(), b"x")
    signal.pause()


def kill_parent_and_return(zygote, value):
    """End the zygote while its task runs."""
    os.kill(zygote, signal.SIGKILL)
    return value


def threads():
    """How many threads and locks of the caller's are here."""
    return threading.active_count(), len(os.listdir("/proc/self/task"))


def fds():
    """What is open here, beside the standard streams and what libffi keeps: from 3.8 on the file that it is loaded from."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append((int(fd), os.readlink(f"/proc/self/fd/{fd}")))
        except FileNotFoundError:
            continue
    return [target for fd, target in found if fd > 2 and "/libffi.so." not in target]


class Odd(Exception):
    """Cannot be rebuilt in the caller."""

    def __reduce__(self):
        return rebuild, (os.getpid(),)


def rebuild(pid):
    """Refuses elsewhere."""
    if pid != os.getpid():
        raise RuntimeError("not here")
    return Odd()


def fail_oddly():
    """Raise what cannot be rebuilt in the caller."""
    raise Odd


def tell_and_look(fd, number):
    """Say that it runs, and give the network namespace that it is in."""
    os.write(fd.fileno(), b"x")
    return os.stat("/proc/self/ns/net").st_ino, number


def tell_and_read(out, wait):
    """Say that it runs, and wait for a byte."""
    os.write(out.fileno(), b"x")
    return os.read(wait.fileno(), 1)
