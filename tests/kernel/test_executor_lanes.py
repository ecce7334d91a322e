"""Large data that the receiver copies, such as bytes: it goes by memory that is written over and over, and is never torn."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading

import pytest
from executor_calls import add
from helpers import SECONDS, state

from sysclone import Executor, ResultError
from sysclone.executor._lane import MOST, Lane, LaneEnd


def lanes(pid="self"):
    """The inodes of the lanes that a process has mapped."""
    with open(f"/proc/{pid}/maps") as maps:
        return sorted(int(line.split()[4]) for line in maps if "memfd:sysclone-lane" in line)


def reverse(data):
    return data[::-1]


def fill(number, size):
    return bytes([number % 251]) * size


def test_all_sizes_arrive(either):
    """Below, at and above what a message, a lane of each size and the largest lane hold; there and back."""
    for size in (1, 32_700, 70_000, 1 << 18, (1 << 18) + 1, 3_000_000, MOST - 200, MOST, MOST + 1, 100_000):
        data = fill(7, size - 1) + b"x"
        assert either.submit(reverse, data).result(SECONDS) == data[::-1]
    assert either.submit(reverse, bytearray(b"abc" * 30_000)).result(SECONDS) == bytearray(b"cba" * 30_000)
    assert either.submit(reverse, "abc" * 30_000).result(SECONDS) == "cba" * 30_000


def test_the_memory_is_used_again(either):
    """After the first call of a size both sides have the same two memfds, and no fd of them."""
    first = either.submit(reverse, fill(1, 500_000)).result(SECONDS)
    pid = either.submit(os.getpid).result(SECONDS)
    here, there, fds = lanes(), lanes(pid), set(os.listdir("/proc/self/fd"))
    assert len(here) == 2
    assert here == there
    for i in range(20):
        assert either.submit(reverse, fill(i, 500_000)).result(SECONDS) == fill(i, 500_000)
    assert (lanes(), lanes(pid), set(os.listdir("/proc/self/fd"))) == (here, there, fds)
    assert first == fill(1, 500_000), "a result does not change with those after it"


def test_results_that_are_not_yet_read_are_not_written_over(one):
    """A worker that is ahead of the program keeps each result apart."""
    futures = [one.submit(fill, i, 90_000) for i in range(300)]
    assert all(future.result(SECONDS) == fill(i, 90_000) for i, future in enumerate(futures))


def test_a_call_that_was_taken_back_is_written_over(one):
    """What comes after it in the same memory is what the worker gets."""
    one.submit(reverse, fill(1, 300_000)).result(SECONDS)
    pid = one.submit(os.getpid).result(SECONDS)
    os.kill(pid, signal.SIGSTOP)
    while state(pid) != "T":
        pass
    dropped = one.submit(reverse, fill(2, 300_000))
    assert dropped.cancel()
    kept = one.submit(reverse, fill(3, 300_000))
    os.kill(pid, signal.SIGCONT)
    assert kept.result(SECONDS) == fill(3, 300_000)
    assert one.submit(os.getpid).result(SECONDS) == pid


def test_a_new_lane_with_a_call_that_was_taken_back_is_not_lost(one):
    """The worker has the memory all the same, when the next call comes by it."""
    pid = one.submit(os.getpid).result(SECONDS)
    os.kill(pid, signal.SIGSTOP)
    while state(pid) != "T":
        pass
    assert one.submit(reverse, fill(2, 300_000)).cancel()
    kept = one.submit(reverse, fill(3, 300_000))
    os.kill(pid, signal.SIGCONT)
    assert kept.result(SECONDS) == fill(3, 300_000)


def test_a_call_that_is_cancelled_while_it_is_written_spoils_no_other():
    """The worker is given nothing else before the writing is over."""
    with Executor(1, kind="copied", tasks_per_worker=None) as executor:
        executor.submit(os.getpid).result(SECONDS)
        (worker,) = executor._manager._workers
        writing, go_on = threading.Event(), threading.Event()
        write = worker._lane.write

        def slowly(packed):
            writing.set()
            go_on.wait(SECONDS)
            return write(packed)

        worker._lane.write = slowly
        thread = threading.Thread(target=executor.submit, args=(reverse, fill(2, 300_000)))
        thread.start()
        assert writing.wait(SECONDS)
        worker._lane.write = write
        assert worker.call.future.cancel()
        kept = executor.submit(reverse, fill(3, 300_000))
        go_on.set()
        thread.join()
        assert kept.result(SECONDS) == fill(3, 300_000)


@contextlib.contextmanager
def no_fd_left():
    """No file can be opened here, whatever is open already."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_lane_that_does_not_arrive_is_an_error_once(one):
    """Without an fd to be had here the result cannot be: the next one comes, by a new lane."""
    assert one.submit(add, 1).result(SECONDS) == 1
    with no_fd_left(), pytest.raises(ResultError, match="file descriptor"):
        one.submit(fill, 1, 400_000).result(SECONDS)
    assert one.submit(fill, 2, 400_000).result(SECONDS) == fill(2, 400_000)
    assert len(lanes()) == 1


def test_a_lane_that_does_not_arrive_in_the_worker_is_an_error_once():
    """The same, where it is the worker that has no fd left."""

    def limit(files):
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    with Executor(1, kind="copied", tasks_per_worker=None) as executor:
        executor.submit(limit, 0).result(SECONDS)
        with pytest.raises(ResultError, match="file descriptor"):
            executor.submit(len, fill(1, 400_000)).result(SECONDS)
        executor.submit(limit, 256).result(SECONDS)
        assert executor.submit(len, fill(1, 400_000)).result(SECONDS) == 400_000
        assert len(lanes()) == 1


def test_a_worker_with_limits_has_none():
    """Its memory and its files are its calls': what is large goes another way."""
    with Executor(1, kind="copied", tasks_per_worker=None, files=50) as executor:
        assert executor.submit(reverse, fill(1, 400_000)).result(SECONDS) == fill(1, 400_000)
        assert lanes() == lanes(executor.submit(os.getpid).result(SECONDS)) == []


def test_a_lane_without_memory_is_refused():
    """An error and not SIGBUS: all of it is there before it is written to; and nothing stays behind."""
    from sysclone._data.transport import Packed

    packed = Packed()
    packed.pieces.append(fill(1, 400_000))
    packed.length = 400_000
    lane, end = Lane(), LaneEnd()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            lane.write(packed)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert lanes() == []
    end.open(lane.write(packed))
    data = end.read(400_000)
    assert data == packed.pieces[0]
    data.release()
    lane.close()
    end.close()
    assert lanes() == []
