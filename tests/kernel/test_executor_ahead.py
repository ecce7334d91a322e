"""What warm workers are given before they ask for it: run once, in its turn, and elsewhere if its worker does not come to it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter

import pytest
from executor_calls import add, notes, tells_and_closes, tells_and_leaves, tells_and_waits, waits_at
from helpers import SECONDS, ended

from sysclone import Executor, TaskFailed, TaskKilled
from sysclone.executor._board import OFFERS, Board

COUNT = 20
QUICK = 60
"""Calls that take no time, after which a worker counts as quick whatever came before."""


def open_gate(path):
    """Let whoever waits at a named pipe go on."""
    os.close(os.open(path, os.O_WRONLY))


class Loaded:
    """A worker that is at a call of which it told, with others ahead of it that would each note a word."""

    def __init__(self, executor, directory, *, blocker=tells_and_waits, of=None, notes_of=None):
        self.path = directory / "noted"
        self.path.touch()
        begin, told, self.gate = (str(directory / name) for name in ("begin", "told", "gate"))
        for name in (begin, told, self.gate):
            os.mkfifo(name)
        first = executor.submit(waits_at, begin)
        quick = [executor.submit(add, i) for i in range(QUICK)]
        self.blocker = (of or executor).submit(blocker, told, self.gate)
        self.futures = [(notes_of or executor).submit(notes, str(self.path), i) for i in range(COUNT)]
        open_gate(begin)
        with open(told, "rb", buffering=0) as f:
            self.pid = int.from_bytes(f.read(4), "little")
        self.pidfd = os.pidfd_open(self.pid)
        assert [future.result(SECONDS) for future in quick] == list(range(QUICK))
        assert first.result(SECONDS) == self.pid
        manager = executor._manager
        end = time.monotonic() + SECONDS
        while sum(len(worker.ahead) for worker in manager._workers) < COUNT:
            assert time.monotonic() < end, "the worker was given nothing ahead"
            time.sleep(0.001)

    def close(self):
        os.close(self.pidfd)

    def noted(self):
        """Which words were noted, and by whom."""
        return [tuple(map(int, line.split())) for line in self.path.read_text().splitlines()]

    def check_all_ran_once(self, elsewhere):
        pids = [future.result(SECONDS) for future in self.futures]
        assert sorted(self.noted()) == list(enumerate(pids))
        assert (self.pid in pids) != elsewhere


@pytest.fixture
def pair():
    """An executor with two warm workers."""
    with Executor(2, kind="copied", tasks_per_worker=None) as executor:
        yield executor


@contextlib.contextmanager
def loaded(*arguments, **keywords):
    it = Loaded(*arguments, **keywords)
    try:
        yield it
    finally:
        it.close()


def test_calls_ahead_run_once_and_in_order(either, tmp_path):
    """The worker goes on with them by itself."""
    with loaded(either, tmp_path) as it:
        assert either.stats()["pending"] == COUNT
        assert not any(future.running() for future in it.futures)
        open_gate(it.gate)
        assert it.blocker.result(SECONDS) == it.pid
        it.check_all_ran_once(elsewhere=False)
        assert [word for word, _ in it.noted()] == list(range(COUNT))


@pytest.mark.parametrize("blocker", [tells_and_waits, tells_and_leaves, tells_and_closes])
def test_a_death_costs_the_running_call_alone(either, tmp_path, blocker):
    """By a signal, by exit or for want of its socket: what it had ahead runs once, in its successor."""
    with loaded(either, tmp_path, blocker=blocker) as it:
        if blocker is tells_and_waits:
            os.kill(it.pid, signal.SIGKILL)
        else:
            open_gate(it.gate)
        with pytest.raises(TaskFailed):
            it.blocker.result(SECONDS)
        it.check_all_ran_once(elsewhere=True)
        assert ended(it.pidfd)


def test_a_call_ahead_can_be_cancelled(one, tmp_path):
    """It never runs, and the worker and the other calls go on."""
    with loaded(one, tmp_path) as it:
        assert all(it.futures[i].cancel() for i in (0, 7, COUNT - 1))
        assert one.stats()["pending"] == COUNT - 3
        open_gate(it.gate)
        assert it.blocker.result(SECONDS) == it.pid
        kept = [i for i in range(COUNT) if i not in (0, 7, COUNT - 1)]
        assert [it.futures[i].result(SECONDS) for i in kept] == [it.pid] * len(kept)
        assert [word for word, _ in it.noted()] == kept
        assert one.submit(os.getpid).result(SECONDS) == it.pid


def test_cancelling_the_running_call_spares_those_ahead(one, tmp_path):
    """Its process is ended, and they run once in another."""
    with loaded(one, tmp_path) as it:
        assert it.blocker.cancel()
        it.check_all_ran_once(elsewhere=True)
        assert ended(it.pidfd)


def test_a_copy_of_the_program_takes_nothing_back(one, tmp_path):
    """A future that is cancelled in a forked child runs all the same here."""
    with loaded(one, tmp_path) as it:
        pid = os.fork()
        if pid == 0:
            os._exit(0 if it.futures[3].cancel() else 1)
        assert os.waitpid(pid, 0)[1] == 0
        open_gate(it.gate)
        it.check_all_ran_once(elsewhere=False)


def test_shutdown_cancels_what_is_ahead(one, tmp_path):
    """cancel_futures: the running call is waited for, and none of the others begins."""
    with loaded(one, tmp_path) as it:
        one.shutdown(wait=False, cancel_futures=True)
        assert all(future.cancelled() for future in it.futures)
        open_gate(it.gate)
        assert it.blocker.result(SECONDS) == it.pid
        one.shutdown()
        assert it.noted() == []


@pytest.mark.parametrize("stopped", [False, True], ids=["busy", "stopped"])
def test_a_worker_that_is_stuck_keeps_no_call_from_another(pair, tmp_path, stopped):
    """Whoever has nothing to do takes what the other has ahead; that one passes it over when it comes to it."""
    other = str(tmp_path / "other")
    os.mkfifo(other)
    second = pair.submit(waits_at, other)
    with loaded(pair, tmp_path) as it:
        if stopped:
            os.kill(it.pid, signal.SIGSTOP)
        open_gate(other)
        pid = second.result(SECONDS)
        it.check_all_ran_once(elsewhere=True)
        assert {by for _, by in it.noted()} == {pid}
        if stopped:
            os.kill(it.pid, signal.SIGCONT)
        open_gate(it.gate)
        assert it.blocker.result(SECONDS) == it.pid
        pids = {future.result(SECONDS) for future in [pair.submit(os.getpid) for _ in range(50)]}
        assert pids <= {pid, it.pid}
        assert len(it.noted()) == COUNT


def test_what_comes_later_does_not_overtake_for_long(pair, tmp_path):
    """A worker that answers takes over from one that has been at a call for long, before it goes on with the queue."""
    other = str(tmp_path / "other")
    os.mkfifo(other)
    second = pair.submit(waits_at, other)
    with loaded(pair, tmp_path) as it:
        time.sleep(0.03)
        later = [pair.submit(notes, str(it.path), COUNT + i) for i in range(COUNT)]
        open_gate(other)
        pid = second.result(SECONDS)
        assert [future.result(SECONDS) for future in it.futures + later] == [pid] * 2 * COUNT
        assert [word for word, _ in it.noted()] == list(range(2 * COUNT))
        open_gate(it.gate)


def test_time_limits_count_from_the_beginning_of_each_call(one, tmp_path):
    """Not from when it was given to the worker: what waits ahead for longer than its limit is run all the same."""
    with loaded(one, tmp_path, notes_of=one.options(timeout=0.4)) as it:
        time.sleep(0.6)
        open_gate(it.gate)
        it.check_all_ran_once(elsewhere=False)


def test_a_time_limit_ends_the_running_call_alone(one, tmp_path):
    """Those ahead run once, elsewhere."""
    with loaded(one, tmp_path, of=one.options(timeout=0.2)) as it:
        with pytest.raises(TimeoutError):
            it.blocker.result(SECONDS)
        it.check_all_ran_once(elsewhere=True)
        assert ended(it.pidfd)


def test_a_call_ahead_that_never_ends_is_ended_in_time(one):
    """Its limit begins with it, though nobody gave it to the worker at that moment."""
    quick = [one.submit(add, i) for i in range(QUICK)]
    future = one.options(timeout=0.1).submit(time.sleep, 60)
    after = one.submit(add, 5)
    with pytest.raises(TimeoutError):
        future.result(SECONDS)
    assert after.result(SECONDS) == 5
    assert all(one.done() for one in quick)


@pytest.mark.parametrize("most", [2, 7])
def test_no_worker_runs_more_calls_than_it_may(most):
    """tasks_per_worker holds for calls ahead as well."""
    with Executor(1, kind="copied", tasks_per_worker=most) as executor:
        pids = [future.result(SECONDS) for future in [executor.submit(os.getpid) for _ in range(5 * most)]]
    assert sorted(Counter(pids).values()) == [most] * 5


def test_other_limits_are_another_worker(one):
    """Calls that need a worker of another make do not go to one ahead, nor wait for ever behind others."""
    bound = one.options(files=40)
    futures = [(bound if i % 10 == 9 else one).submit(add, i) for i in range(100)]
    assert [future.result(SECONDS) for future in futures] == list(range(100))


def test_large_and_small_calls_in_one_queue(one):
    """A call with large data takes its turn between small ones."""
    data = [bytes([i]) * (100_000 if i % 7 == 0 else 10) for i in range(100)]
    futures = [one.submit(bytes.__getitem__, piece, -1) for piece in data]
    assert [future.result(SECONDS) for future in futures] == list(range(100))


def test_workers_that_are_killed_at_any_moment_lose_one_call_each(pair, tmp_path):
    """Each call is run once at most; those that fail are no more than the kills, and say so."""
    path = tmp_path / "noted"
    futures = [pair.submit(notes, str(path), i) for i in range(3000)]
    ending = threading.Event()
    kills = 0

    def kill():
        nonlocal kills
        # So many, or a machine that takes longer to start a worker than this to kill it would never come to the end.
        while not ending.is_set() and kills < 500:
            time.sleep(random.uniform(0, 0.01))
            for worker in list(pair._manager._workers)[:1]:
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(worker.task.pidfd, signal.SIGKILL)
                    kills += 1

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        failures = [future.exception(SECONDS) for future in futures]
    finally:
        ending.set()
        thread.join()
    runs = Counter(int(line.split()[0]) for line in path.read_text().splitlines())
    assert not runs or max(runs.values()) == 1
    assert all(runs[i] == 1 for i, failure in enumerate(failures) if failure is None)
    lost = [failure for failure in failures if failure is not None]
    assert all(isinstance(failure, TaskKilled) for failure in lost)
    assert len(lost) <= kills
    assert pair.submit(add, 1).result(SECONDS) == 1


def test_an_offer_is_taken_or_taken_back_and_never_both():
    """Two processes that both want it: one of them has it."""
    board = Board()
    reads, writes = os.pipe()
    for number in range(1, OFFERS):
        board.offer(number)
    pid = os.fork()
    if pid == 0:
        taken = bytes(board.take(number) for number in range(1, OFFERS))
        os.write(writes, taken)
        os._exit(0)
    back = [board.take_back(number) for number in reversed(range(1, OFFERS))][::-1]
    taken = os.read(reads, OFFERS)
    os.waitpid(pid, 0)
    assert [int(not one) for one in back] == list(taken)
    assert not any(board.is_open(number) for number in range(1, OFFERS))
    board.offer(OFFERS + 1)
    assert not board.take(1), "an offer under a number that was counted over"
    assert board.take(OFFERS + 1)
    os.close(reads)
    os.close(writes)
    board.close()
