"""The bell: how an executor hears of the ends of its light processes, and light processes that are cloned a moment later."""

from __future__ import annotations

import concurrent.futures
import gc
import os
import select
import threading
import time

import pytest
from executor_calls import add
from helpers import SECONDS, in_subprocess

from sysclone import Context, Executor, TaskTimeout, _core

PLAN = Context.light().plan("light")
MANY = 60


@pytest.fixture
def bell():
    """A bell and its eventfd."""
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    one = _core.Bell(fd)
    yield one, fd
    one.close()
    os.close(fd)


def is_readable(fd, seconds=0.0):
    return bool(select.select([fd], [], [], seconds)[0])


def test_every_end_is_told_once(bell):
    """By its number, whether the process ended before or after it was heeded."""
    one, fd = bell
    jobs = [_core.start_soon(PLAN, time.sleep, number % 3 * 0.001) for number in range(MANY)]
    for number, job in enumerate(jobs):
        one.heed(job, number)
    told = []
    while len(told) < MANY and is_readable(fd, SECONDS):
        os.eventfd_read(fd)
        told += one.ended()

    assert sorted(told) == list(range(MANY))
    assert all(job.done() for job in jobs)
    assert one.ended() == []
    for job in jobs:
        job.close()


def test_a_hushed_end_is_not_told(bell):
    """Neither one that is still to come nor one that stands on the list; heeded again, it is told."""
    one, fd = bell
    reads, writes = os.pipe()
    job = _core.start(PLAN, os.read, reads, 1)
    one.heed(job, 1)
    one.hush(job)
    os.write(writes, b"x")
    assert job.wait(SECONDS)
    assert not is_readable(fd) and one.ended() == []
    one.heed(job, 2)
    assert is_readable(fd)
    one.hush(job)
    assert one.ended() == []
    one.heed(job, 3)
    assert one.ended() == [3]
    job.close()
    os.close(reads)
    os.close(writes)


def test_a_closed_bell_does_not_write():
    """The number of its eventfd may be another file's by then."""
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    one = _core.Bell(fd)
    reads, writes = os.pipe()
    job = _core.start(PLAN, os.read, reads, 1)
    one.heed(job, 1)
    one.close()
    os.write(writes, b"x")
    assert job.wait(SECONDS)

    assert not is_readable(fd)
    assert one.ended() == [1]
    job.close()
    for each in (fd, reads, writes):
        os.close(each)


def test_a_job_that_is_let_go_of_leaves_the_list(bell):
    """Its memory is gone: of those that ended, only the ones that are still held are told of."""
    one, _fd = bell
    jobs = [_core.start(PLAN, int) for _ in range(5)]
    for number, job in enumerate(jobs):
        assert job.wait(SECONDS)
        one.heed(job, number)
    for number in (4, 0, 2):
        jobs[number].close()
        jobs[number] = None
    job = None

    assert one.ended() == [1, 3]
    for job in (jobs[1], jobs[3]):
        job.close()


def test_a_clone_that_is_refused_later():
    """submit() has returned: the error is the call's, no process is counted, and the next call runs."""
    in_subprocess("""
        import os, resource, sysclone
        from helpers import full_table
        from sysclone import Executor
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        with Executor(1, kind="light") as executor:
            assert executor.submit(os.getpid).result(20) != os.getpid()
            with full_table():
                error = executor.submit(os.getpid).exception(20)
            assert isinstance(error, sysclone.CloneError) and error.errno == 24 and "clone" in error.step, error
            assert executor.stats()["started"] == 1
            assert executor.submit(os.getpid).result(20) != os.getpid()
            assert executor.stats()["started"] == 2
    """)


def test_whoever_waits_hands_over_to_the_manager():
    """A call that ends about when result() leaves its process to the manager is heard of by one of the two."""
    with Executor(2) as executor:
        for step in range(60):
            assert executor.submit(time.sleep, 0.0094 + step * 1e-5).result(SECONDS) is None
        assert executor.stats()["done"] == 60


def test_many_ends_that_nobody_waits_for_in_person():
    """Each is heard of by the bell: callbacks run for all, and as_completed gives all."""
    called = threading.Semaphore(0)
    with Executor(16) as executor:
        futures = [executor.submit(add, number) for number in range(200)]
        for future in futures:
            future.add_done_callback(lambda _: called.release())
        assert len(list(concurrent.futures.as_completed(futures, SECONDS))) == 200
        for _ in futures:
            assert called.acquire(timeout=SECONDS)


def test_a_call_is_ended_before_it_is_cloned():
    """A cancel right after submit() ends the process, whenever it comes to be."""
    with Executor(1) as executor:
        for _ in range(20):
            assert executor.submit(time.sleep, 60).cancel()
            with pytest.raises(TaskTimeout):
                executor.options(timeout=0.001).submit(time.sleep, 60).result(SECONDS)
        assert executor.submit(add, 1).result(SECONDS) == add(1)


def test_a_call_leaves_nothing_to_the_collector():
    """A future that has come to its end is in no cycle with its call and its process."""
    with Executor(1) as executor:
        executor.submit(add, 1).result(SECONDS)
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                executor.submit(add, 1).result(SECONDS)
            assert gc.collect() == 0
        finally:
            gc.enable()
