"""The rows of the core: functions and programs against the C floors and the standard library."""

from __future__ import annotations

import os
import subprocess
import threading
import time

from harness import Row, floor, python

import sysclone

TRUE = "/bin/true"
CROWD = 1000
FEW = 10

COPIED = sysclone.Context()


def nothing() -> None:
    """The function that every task runs."""


def light_call() -> None:
    """A light process from call to value."""
    sysclone.call(nothing)


def copied_call() -> None:
    """A copied process from call to unpickled value."""
    COPIED.call(nothing)


def start_result() -> None:
    """A light process on a thread of the pool, waited for at once."""
    sysclone.start(nothing).result()


def cancel_sleeping() -> None:
    """A function that has told that it goes to sleep, from its start to Cancelled."""
    told, tell = os.pipe()
    try:
        with sysclone.start(lambda: os.write(tell, b".") and time.sleep(60)) as task:
            os.read(told, 1)
            task.cancel()
            try:
                task.result()
            except sysclone.Cancelled:
                return
        raise SystemExit("it was not cancelled")
    finally:
        os.close(told)
        os.close(tell)


def five_ms() -> None:
    """What stopping a sleeping function may cost."""
    time.sleep(0.005)


def thread_join() -> None:
    """A Python thread from start to join."""
    thread = threading.Thread(target=nothing)
    thread.start()
    thread.join()


def run_ours() -> None:
    """A program through sysclone."""
    sysclone.run([TRUE])


def run_subprocess() -> None:
    """The same program through the standard library."""
    subprocess.run([TRUE], check=False)


def together(count: int) -> None:
    """That many light processes started, then waited for in one go."""
    sysclone.wait_all([sysclone.start(nothing) for _ in range(count)])


CALL = python("sysclone.call(f)", light_call)
COPIED_CALL = python("Context().call(f)", copied_call)
START = python("start(f).result()", start_result)
THREAD = python("threading.Thread start+join", thread_join)
CANCEL = python("start, cancel() while it sleeps, Cancelled", cancel_sleeping)
FIVE_MS = python("time.sleep(0.005)", five_ms)
RUN = python("sysclone.run([true])", run_ours)
SUBPROCESS = python("subprocess.run([true])", run_subprocess)
TOGETHER = python(f"start {CROWD:,}, wait_all; each", lambda: together(CROWD), units=CROWD)
FEW_TOGETHER = python(f"start {FEW}, wait_all; each", lambda: together(FEW), units=FEW)

C_CLONE = floor("C clone(VM|VFORK)+exit+wait", "sc_floors_clone_exit")
C_EXEC = floor("C clone(VM|VFORK)+exec+wait", "sc_floors_clone_exec", TRUE.encode())
C_FORK = floor("C fork+exit+wait", "sc_floors_fork_exit")
C_THREAD = floor("C pthread_create+join", "sc_floors_thread")

# In this order: the crowd comes last, since it may leave threads of the pool behind that the other rows would carry.
ROWS = (
    Row("call-clone", CALL, C_CLONE, target=1.5, flat=1.2),
    Row("call-thread", CALL, THREAD, target=1.0),
    Row("call-pthread", CALL, C_THREAD),
    Row("copied-fork", COPIED_CALL, C_FORK),
    Row("run-exec", RUN, C_EXEC, target=1.3, flat=1.2, batch_ms=5),
    Row("run-subprocess", RUN, SUBPROCESS, target=1.0, noise=0.05, batch_ms=5),
    Row("start-thread", START, THREAD, target=1.5, flat=1.2),
    Row("cancel-5ms", CANCEL, FIVE_MS, target=1.0, batch_ms=50),
    Row("crowd-few", TOGETHER, FEW_TOGETHER, target=1.0, noise=0.05, batch_ms=50),
)
