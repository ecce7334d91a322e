"""Interrupts of the main thread at any moment of submit(), result() and cancel(): nothing is lost, and nothing hangs."""

from __future__ import annotations

import os
import signal

import pytest
from features import requires
from helpers import SECONDS, in_subprocess

from sysclone import Executor
from sysclone.executor import _channel

ROUNDS = 24

INTERRUPTED = """
import faulthandler, os, random, signal, sys, threading
import sysclone

kind, calls, what, rounds = sys.argv[1], int(sys.argv[2]) or None, sys.argv[3], int(sys.argv[4])
faulthandler.dump_traceback_later(15, exit=True)
struck = False

def interrupt(number, frame):
    global struck
    struck = True
    raise KeyboardInterrupt

def nothing(value=0):
    return value

def act(executor):
    if what == "result":
        executor.submit(nothing).result()
    elif what == "cancel":
        executor.submit(nothing).cancel()
    else:
        for future in [executor.submit(nothing, number) for number in range(10)]:
            future.result()

# In a function: at the end of a loop's round, CPython 3.13 does not find the handler that is around the loop.
def act_until_struck(executor):
    while not struck:
        act(executor)

signal.signal(signal.SIGALRM, interrupt)
moments = random.Random(kind + what)
for _ in range(rounds):
    struck = False
    with sysclone.Executor(2, kind=kind, tasks_per_worker=calls) as executor:
        executor.submit(nothing).result()
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0005 + moments.random() * 0.003)
            act_until_struck(executor)
        except KeyboardInterrupt:
            pass
        # As wide as before, and nobody is at anything.
        width = threading.Barrier(2) if kind == "light" else None
        futures = [executor.submit(width.wait if width else nothing) for _ in range(2)]
        for future in futures:
            future.result(10)
    stats = executor.stats()
    assert (stats["workers"], stats["busy"], stats["pending"], stats["stuck"]) == (0, 0, 0, 0), stats
"""


@requires("with_is_whole")
@pytest.mark.parametrize("what", ["result", "cancel", "many"])
@pytest.mark.parametrize(("kind", "calls"), [("light", 1), ("light", 0), ("copied", 1), ("copied", 0)])
def test_an_interrupt_at_any_moment(kind, calls, what):
    """The executor is as wide as before, and its end comes."""
    in_subprocess(INTERRUPTED, kind, calls, what, ROUNDS if calls == 0 or kind == "light" else ROUNDS // 4)


def test_a_full_socket_is_waited_for(monkeypatch):
    """Calls that are cancelled as fast as they are made fill a worker's socket; none fails for that."""
    waited = []
    awaits_room = _channel._await_room

    def goes_on(sock):
        waited.append(sock.fileno())
        os.kill(worker.task.pid, signal.SIGCONT)
        awaits_room(sock)

    monkeypatch.setattr(_channel, "_await_room", goes_on)
    monkeypatch.setattr(_channel, "_ROOM_MS", int(SECONDS * 1000))
    with Executor(1, kind="copied", tasks_per_worker=None) as executor:
        executor.submit(abs, 1).result(SECONDS)
        (worker,) = executor._manager._workers
        os.kill(worker.task.pid, signal.SIGSTOP)
        try:
            for _ in range(5000):
                future = executor.submit(abs, 1)
                assert future.cancel() or future.exception(SECONDS) is None
                if waited:
                    break
        finally:
            os.kill(worker.task.pid, signal.SIGCONT)
        assert waited
        assert executor.submit(abs, -3).result(SECONDS) == 3
        assert executor.stats()["failed"] == 0
