"""The handle on a task."""

from __future__ import annotations

import os
import threading

import pytest
from helpers import state

import sysclone
from sysclone import Context

CONTEXTS = pytest.mark.parametrize("context", [Context.light(), Context.fork()], ids=["light", "copied"])

entered = threading.Semaphore(0)
go_on = threading.Event()


def reconstruct():
    """Called by pickle in a thread that asks, where it waits for the test's word."""
    if threading.current_thread() is not threading.main_thread():
        entered.release()
        go_on.wait(10)
    return 5


class Slow:
    """Its copy is made by reconstruct()."""

    def __reduce__(self):
        return reconstruct, ()


def test_two_threads_may_ask_for_one_result():
    """The result of a copied process is there for each thread that asks, also for two at once."""
    answers = []

    def asks():
        try:
            answers.append(task.result())
        except BaseException as error:
            answers.append(error)

    with Context().start(Slow) as task:
        threads = [threading.Thread(target=asks) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert entered.acquire(timeout=10)
        for thread in threads:
            while state(thread.native_id) != "S":
                os.sched_yield()
        go_on.set()
        for thread in threads:
            thread.join()

    assert answers == [5, 5]


@CONTEXTS
def test_a_closed_task_can_be_shown(context):
    """repr() of a task that was closed while it ran works, and its fileno() says that it was closed."""
    go, tell = os.pipe()
    task = context.start(os.read, go, 1)
    pidfd = os.pidfd_open(task.pid)
    task.close()
    try:
        assert f"pid={task.pid}" in repr(task)
        if task.pidfd < 0:
            with pytest.raises(ValueError, match="closed"):
                task.fileno()
    finally:
        os.write(tell, b"x")
        sysclone.wait_any([Handle(pidfd)], 10)
        for fd in (go, tell, pidfd):
            os.close(fd)
        Context().call(int)


class Handle:
    """Enough of a task for wait_any."""

    def __init__(self, fd):
        self.fd = fd

    def fileno(self):
        return self.fd

    def done(self):
        return False

    def wait(self):
        pass


@CONTEXTS
def test_an_ended_and_closed_task_has_no_fd(context):
    """After close() fileno() raises, rather than make another fd, and the status and the result are still there."""
    task = context.start(int, "7")
    task.wait()
    task.close()

    with pytest.raises(ValueError, match="closed"):
        task.fileno()
    assert task.status.exit_code == 0
    assert task.result() == 7
