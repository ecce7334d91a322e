"""Executors in asyncio: awaited futures, run_in_executor, and to_process; a cancelled wait ends the process."""

from __future__ import annotations

import asyncio
import os

import pytest
from executor_calls import NAMES, VARIANTS, add, blocks
from helpers import ended

import sysclone
from sysclone import Descriptor, Executor, _to_process
from sysclone.asyncio import to_process


@pytest.fixture(params=VARIANTS, ids=NAMES)
def executor(request):
    """An executor of each kind."""
    with Executor(2, **request.param) as one:
        yield one


@pytest.fixture
def no_default():
    """The executor that to_process makes for itself is ended after the test."""
    yield
    if _to_process._default is not None:
        _to_process._default[1].shutdown()
        _to_process._default = None


def test_a_future_is_awaited(executor):
    """await gives the result."""

    async def main():
        return await executor.submit(add, 1, 2)

    assert asyncio.run(main()) == 3


def test_run_in_executor(executor):
    """The loop takes it, and what options() gives."""

    async def main():
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(executor, add, 1), await loop.run_in_executor(
            executor.options(timeout=9), add, 2
        )

    assert asyncio.run(main()) == (1, 2)


def test_a_cancelled_wait_ends_the_process(executor):
    """asyncio's cancel, and its timeouts, reach the process."""
    reads, writes = os.pipe()

    async def main():
        waiting = asyncio.ensure_future(to_process(blocks, Descriptor(writes), executor=executor))
        pid = await asyncio.get_running_loop().run_in_executor(None, os.read, reads, 4)
        pidfd = os.pidfd_open(int.from_bytes(pid, "little"))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return pidfd

    pidfd = asyncio.run(main())
    assert ended(pidfd)
    for fd in (reads, writes, pidfd):
        os.close(fd)


@pytest.mark.usefixtures("no_default")
def test_to_process_by_default():
    """A copied process: closures work, errors and deaths come back, several run at once."""
    k = 4

    async def main():
        assert await asyncio.gather(*(to_process(lambda i=i: i * k) for i in range(4))) == [0, 4, 8, 12]
        assert await to_process(os.getpid) != os.getpid()
        with pytest.raises(sysclone.TaskExited):
            await to_process(os._exit, 3)
        with pytest.raises(TypeError):
            await to_process(add, 1, b="x")

    asyncio.run(main())
