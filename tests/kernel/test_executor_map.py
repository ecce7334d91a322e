"""Executor.map: in order, lazily, in chunks that follow the time they take, with a bar on a terminal."""

from __future__ import annotations

import itertools
import threading

import pytest
from executor_calls import NAMES, VARIANTS, dies, falls, halves, large_or_dead, naps, opens, slow, square
from helpers import SECONDS, in_subprocess

import sysclone
from sysclone import Executor
from sysclone.executor import _map


@pytest.fixture(params=VARIANTS, ids=NAMES)
def executor(request):
    """An executor of each kind, with a process a call and with warm workers."""
    with Executor(2, **request.param) as one:
        yield one


def test_the_results_come_in_order(executor):
    """As map's own, with any number of iterables, read until the shortest ends."""
    assert list(executor.map(square, range(30))) == [x * x for x in range(30)]
    assert list(executor.map(pow, range(10), itertools.repeat(2))) == [x * x for x in range(10)]
    assert list(executor.map(square, [])) == []
    assert list(executor.map(square, range(30), chunksize=7)) == [x * x for x in range(30)]


def test_an_exception_comes_in_its_place(executor):
    """The results before it come first, also those of its own chunk; then it is raised, and no more comes."""
    for chunksize in (1, 5):
        got = []
        with pytest.raises(LookupError, match="seven") as caught:
            got.extend(executor.map(halves, range(100), chunksize=chunksize))
        assert got == [x / 2 for x in range(7)]
        if executor.kind == "copied":
            assert "in halves" in str(caught.value.__cause__)


def test_only_a_few_items_are_read_ahead(executor):
    """The iterable is read as results are: it may be endless."""
    read = []

    def endless():
        for x in itertools.count():
            read.append(x)
            yield x

    results = executor.map(square, endless(), chunksize=2)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(read) <= 3 + 2 * 2 * 6
    results.close()


def test_buffersize_bounds_what_is_ahead(executor):
    """Never more items are on their way than that."""
    read = []
    results = executor.map(square, (read.append(x) or x for x in range(100)), buffersize=3)
    for count, value in enumerate(results):
        assert value == count * count
        assert len(read) <= count + 1 + 3


def test_a_limit_holds_for_each_item(executor):
    """One item that never ends is ended in its time; its chunk may take longer than one item."""
    got = []
    with pytest.raises(sysclone.TaskTimeout):
        got.extend(executor.options(timeout=0.6).map(naps, range(10), chunksize=5))
    assert got == list(range(5))
    assert list(executor.options(timeout=0.6).map(slow, range(24), chunksize=24))


def test_a_death_is_told_in_its_place():
    """What comes after the chunk that died is not lost for others; what came before is there."""
    with Executor(2, kind="copied", tasks_per_worker=None) as executor:
        got = []
        with pytest.raises(sysclone.TaskKilled):
            got.extend(executor.map(dies, range(10), chunksize=1))
        assert got == list(range(5))
        assert list(executor.map(square, range(5))) == [0, 1, 4, 9, 16]


FALLS = {
    "signal": sysclone.TaskKilled,
    "segfault": sysclone.TaskKilled,
    "exit": sysclone.TaskExited,
    "never": sysclone.TaskTimeout,
    "lock": sysclone.ResultError,
    "nowhere": sysclone.ResultError,
    "interrupt": KeyboardInterrupt,
}


@pytest.mark.parametrize("how", FALLS)
def test_what_fails_in_the_midst_of_a_chunk_fails_alone(executor, how, tmp_path):
    """The results before it in its chunk come first, then its own error in its place; no item is run twice."""
    if executor.kind == "light" and how in ("lock", "nowhere"):
        return  # nothing is pickled
    path = str(tmp_path / "ran")
    got = []
    calls = executor.options(timeout=0.5) if how == "never" else executor
    with pytest.raises(FALLS[how]) as caught:
        got.extend(calls.map(falls, itertools.repeat(how), itertools.repeat(path), range(20), chunksize=10))

    assert [x for x, _ in got] == list(range(7))
    assert len(got[3][1]) == 100_000
    ran = [int(line) for line in (tmp_path / "ran").read_text().split()]
    assert sorted(x for x in ran if x < 10) == list(range(8 if how != "nowhere" else 10))
    assert len(ran) == len(set(ran))
    if how == "lock":
        assert "value.lock" in str(caught.value)
    assert list(executor.map(square, range(5))) == [0, 1, 4, 9, 16]


def test_results_larger_than_the_page_are_told_too(tmp_path):
    """What does not fit into the mapping is in the file behind it, and is let go of with the next chunk."""
    for tasks in (1, None):
        with Executor(1, kind="copied", tasks_per_worker=tasks) as executor:
            got = []
            with pytest.raises(sysclone.TaskKilled):
                got.extend(executor.map(large_or_dead, range(8), chunksize=8))
            assert [(len(one), one[:1]) for one in got] == [(300_000, bytes([x])) for x in range(5)]
            assert [len(one) for one in executor.map(large_or_dead, range(5), chunksize=5)] == [300_000] * 5


def test_results_with_fds_come_back_from_a_chunk():
    """They come with the whole chunk; of one that died, they are not to be had, and the results before them are."""
    with Executor(1, kind="copied", tasks_per_worker=None) as executor:
        opened = list(executor.map(opens, range(3), chunksize=3))
        assert len({one.fileno() for one in opened[1:]}) == 2
        got = []
        with pytest.raises(sysclone.TaskKilled):
            got.extend(executor.map(opens, range(5), chunksize=5))
        assert got == [0]


def test_the_time_for_all_is_bounded(executor):
    """TimeoutError when the results do not come in time; what is on its way is ended."""
    results = executor.map(naps, [5, 1], timeout=0.1)
    with pytest.raises(TimeoutError, match=r"0\.1 s"):
        next(results)
    assert executor.submit(square, 3).result(SECONDS) == 9


def test_letting_go_of_the_iterator_ends_what_is_on_its_way(executor):
    """A map that nobody reads on keeps no worker busy."""
    results = executor.map(naps, [1, 5, 5, 5, 5])
    assert next(results) == 1
    results.close()
    assert executor.submit(square, 3).result(SECONDS) == 9


def test_warm_workers_take_chunks_that_grow():
    """Quick items go many at a time, slow ones alone."""
    with Executor(1, kind="copied", tasks_per_worker=None) as executor:
        list(executor.map(square, range(20_000)))
        quick = executor.stats()["submitted"]
        list(executor.map(slow, range(8)))
        assert quick < 200
        assert executor.stats()["submitted"] - quick == 8


def test_a_process_a_call_is_a_process_an_item():
    """With one call a process, every item has its own, unless chunks are asked for."""
    with Executor(2, kind="light") as executor:
        assert len(set(executor.map(slow, range(6)))) == 6
        assert len(set(executor.map(slow, range(6), chunksize=3))) == 2


@pytest.mark.parametrize(
    ("items", "seconds", "expected"), [(1, 1.0, 1), (1, 1e-9, 4), (100, 0.002, 400), (100, 0.1, 20)]
)
def test_the_size_of_chunks_follows_their_time(items, seconds, expected):
    """A chunk is to take about 20 ms, and grows to that step by step."""
    size = _map.ChunkSize(None)
    size.now = items
    size.learn(items, seconds)

    assert size.now == expected


@pytest.mark.parametrize("keywords", [{"chunksize": 0}, {"chunksize": 1.5}, {"buffersize": 0}])
def test_a_wrong_size_is_refused(executor, keywords):
    """Before anything starts."""
    with pytest.raises(sysclone.ContextError):
        executor.map(square, [1], **keywords)
    assert executor.stats()["submitted"] == 0


def test_memory_does_not_grow_with_the_number_of_items():
    """The most memory that 200,000 items take at once is that of 20,000, less than 8 MiB more."""
    out = in_subprocess("""
        import resource
        from sysclone import Executor
        def square(x): return x * x
        def most(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with Executor(2, kind="copied", tasks_per_worker=None) as executor:
            sum(executor.map(square, range(100_000)))
            before = most()
            sum(executor.map(square, range(600_000)))
            print(most() - before)
    """)

    assert int(out) < 8 * 1024


def test_a_bar_on_a_terminal():
    """progress=True draws on standard error, and ends with all items done."""
    out = in_subprocess("""
        import os, pty, sys
        from sysclone import Executor
        controller, terminal = pty.openpty()
        os.dup2(terminal, 2)
        with Executor(1, kind="light", tasks_per_worker=None) as executor:
            assert list(executor.map(abs, range(-5, 0), progress=True)) == [5, 4, 3, 2, 1]
        text = ""
        while "5/5" not in text:  # the kernel hands on in its own time what was written to a terminal
            text += os.read(controller, 100_000).decode()
        print("abs" in text, "5/5" in text)
    """)

    assert out == "True True\n"


def test_no_bar_without_a_terminal(executor, capfd):
    """Nothing is written where standard error is no terminal."""
    assert list(executor.map(square, [1, 2], progress=True)) == [1, 4]
    assert capfd.readouterr().err == ""


def test_maps_may_be_read_side_by_side(executor):
    """Two maps of one executor, read by two threads, both come to their end."""
    sums = []
    threads = [threading.Thread(target=lambda: sums.append(sum(executor.map(square, range(50))))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert sums == [sum(x * x for x in range(50))] * 2
