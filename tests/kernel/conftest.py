"""What several files of tests of real tasks start from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext

import pytest
from executor_calls import FRESH

from sysclone import Context, Executor, Task, Zygote


@pytest.fixture
def waiting() -> Iterator[Callable[..., Task]]:
    """Starts tasks in a context: each does what it is told to first, says so, and waits for the end of the test."""
    go_on, tell = os.pipe()
    tasks = []

    def start(context: Context, first: Callable[[], object] = int) -> Task:
        ready, said = os.pipe()

        def body() -> None:
            first()
            os.write(said, b"x")
            os.read(go_on, 1)

        task = context.start(body)
        tasks.append(task)
        assert os.read(ready, 1) == b"x"
        os.close(ready)
        os.close(said)
        return task

    yield start
    os.write(tell, b"x" * len(tasks))
    for task in tasks:
        task.result(20)
        task.close()
    os.close(go_on)
    os.close(tell)


@pytest.fixture
def one() -> Iterator[Executor]:
    """An executor with one warm worker."""
    with Executor(1, kind="copied", tasks_per_worker=None) as executor:
        yield executor


@pytest.fixture(params=[{"kind": "copied"}, FRESH], ids=["copied", "fresh"])
def either(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """The same, of each kind that has memory of its own."""
    with Executor(1, tasks_per_worker=None, **request.param) as executor:
        yield executor


@pytest.fixture(params=["clone", "zygote"])
def method(request: pytest.FixtureRequest) -> BaseContext:
    """A multiprocessing context of each start method."""
    from sysclone.multiprocessing import get_context

    return get_context(request.param)


@pytest.fixture(scope="module")
def helpers_of_all() -> Iterator[None]:
    """What multiprocessing and sysclone start once for all, begun before the tests of a file and ended after them."""
    from sysclone.multiprocessing import shared_zygote

    resource_tracker.ensure_running()
    zygote = shared_zygote()
    yield
    zygote.close()
    resource_tracker._resource_tracker._stop()


@pytest.fixture(scope="module")
def kept() -> Iterator[Zygote]:
    """One zygote for the tests that do it no harm."""
    with Zygote(preload=["fresh_calls"]) as one:
        one.call(int)
        yield one


@pytest.fixture
def zygote() -> Iterator[Zygote]:
    """A zygote of a test's own."""
    with Zygote() as one:
        yield one
