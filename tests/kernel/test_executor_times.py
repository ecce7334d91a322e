"""The times that light workers keep themselves, without the GIL, and what becomes of calls at that moment."""

from __future__ import annotations

import os
import select
import signal
import time

import pytest
from executor_calls import add
from features import requires
from helpers import SECONDS

from sysclone import Cancelled, Context, Executor, TaskTimeout, _core

LIGHT = Context.light()


def computes(pid=None):
    if pid is not None:
        pid.append(os.getpid())
    count = 0
    while True:
        count += 1


def due_and(nanoseconds, then, *arguments):
    assert _core.light_due(nanoseconds) is False
    return then(*arguments)


@pytest.mark.parametrize("function", [computes, lambda: time.sleep(60)], ids=["computes", "sleeps"])
def test_a_light_process_sets_its_own_time(function):
    """When it is over the function is asked to stop, as with a Context's timeout."""
    with LIGHT.start(due_and, 1_000_000, function) as task, pytest.raises(TaskTimeout) as caught:
        task.result(SECONDS)

    assert caught.value.pid == task.pid and not caught.value.still_running


def test_the_last_time_set_counts():
    """A later one and none take the place of one that is not over; an earlier one wakes whoever keeps it."""

    def several():
        for _ in range(50):
            assert not _core.light_due(2_000_000)
            assert not _core.light_due(0)
        time.sleep(0.005)
        for nanoseconds in (3_000_000, 60 * 10**9, 50 * 10**9):
            assert not _core.light_due(nanoseconds)
        time.sleep(0.01)
        assert not _core.light_due(1_000_000)
        time.sleep(60)

    with LIGHT.start(several) as task, pytest.raises(TaskTimeout):
        task.result(SECONDS)


def test_a_time_that_is_over_stays_over():
    """Whoever sets the next one hears of it, and none is set: what comes then is not struck in its stead."""

    def swallows():
        answers = []
        while len(answers) < 3:
            try:
                answers.append(_core.light_due(0 if answers else 1_000_000))
                if len(answers) == 1:
                    computes()
            except Cancelled:
                continue
        return answers

    with LIGHT.start(swallows) as task:
        assert task.result(SECONDS) == [False, True, True]


def test_light_due_is_for_light_processes():
    """Elsewhere nobody keeps the time."""
    with pytest.raises(ValueError, match="not in a light process"):
        _core.light_due(5)


@requires("pidfd")
@pytest.mark.parametrize("items", [False, True], ids=["call", "chunk"])
def test_a_worker_ends_in_time_though_the_manager_cannot(items):
    """The manager is kept from its lists, as by a GIL that others have: the process ends, and the future when it can."""
    with Executor(1, tasks_per_worker=None) as executor:
        executor.submit(add, 1).result(SECONDS)
        pids = []
        bound = executor.options(timeout=0.2)
        answer = bound.map(computes, [pids, pids], chunksize=2) if items else bound.submit(computes, pids)
        with executor._manager._lock:
            while not pids:
                time.sleep(0.001)
            pidfd = os.pidfd_open(pids[0])
            assert select.select([pidfd], [], [], SECONDS)[0]
            os.close(pidfd)
        with pytest.raises(TaskTimeout) as caught:
            next(answer) if items else answer.result(SECONDS)
        assert caught.value.seconds == 0.2
        assert executor.submit(add, 2).result(SECONDS) == add(2)
        assert executor.stats()["timed_out"] == 1


@pytest.mark.parametrize("calls", [1, None], ids=["once", "warm"])
def test_calls_that_end_at_the_very_moment(calls):
    """Each has its value or its TaskTimeout, and those after it are run once, by this worker or the next."""
    ran = []

    def lasts(number, seconds):
        until = time.monotonic() + seconds
        ran.append(number)
        while time.monotonic() < until:
            pass
        return number

    with Executor(1, tasks_per_worker=calls) as executor:
        limited = executor.options(timeout=0.004)
        for number in range(60):
            first = limited.submit(lasts, number, 0.0035 + number % 12 * 0.0001)
            second = executor.submit(add, number)
            error = first.exception(SECONDS)
            assert error is None or (isinstance(error, TaskTimeout) and not error.still_running)
            assert second.result(SECONDS) == add(number)
    assert len(ran) == len(set(ran))


@pytest.mark.parametrize("calls", [1, None], ids=["once", "warm"])
def test_a_late_item_does_not_blame_the_next(calls):
    """An item whose time is over: the results before it come in order, and the error in its place, with none begun after."""
    began = []

    def lasts(item):
        began.append(item)
        until = time.monotonic() + (SECONDS if item == 3 else 0.0)
        while time.monotonic() < until:
            pass
        return item

    with Executor(1, tasks_per_worker=calls) as executor:
        got = []
        with pytest.raises(TaskTimeout):
            got.extend(executor.options(timeout=0.01).map(lasts, range(6), chunksize=6))

    assert got == [0, 1, 2]
    assert began == [0, 1, 2, 3]


class KillsAtTheSecond:
    """A result whose second pickling is its process's end: it has been told of by then, and not handed over."""

    times = 0

    def __reduce__(self):
        KillsAtTheSecond.times += 1
        if KillsAtTheSecond.times > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return str, ("told",)


def last_one_kills(item):
    return KillsAtTheSecond() if item == 4 else item


def test_a_chunk_that_was_told_whole_is_done():
    """The worker died when nothing was left to do: all results are there, and no error after them."""
    with Executor(1, kind="copied", tasks_per_worker=None) as executor:
        assert list(executor.map(last_one_kills, range(5), chunksize=5)) == [0, 1, 2, 3, "told"]
        assert executor.stats()["failed"] == 0 and executor.stats()["lost"] == 1
