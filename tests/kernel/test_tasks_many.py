"""Tasks in numbers: waiting for a thousand, selectors, asyncio, and what is left when a Task is let go of."""

from __future__ import annotations

import asyncio
import gc
import os
import selectors
import signal
import time

import pytest
from features import requires
from helpers import ended, in_subprocess, state

import sysclone
from sysclone import Cancelled, Context, TaskFailed, TaskKilled, TaskTimeout, wait_all, wait_any

LIGHT, COPIED = Context.light(), Context.fork()
CONTEXTS = pytest.mark.parametrize("context", [LIGHT, COPIED], ids=["light", "copied"])


@pytest.fixture
def gate():
    """A pipe: tasks read from its first end until the test writes to the second."""
    go_on, tell = os.pipe()
    yield go_on, tell
    os.close(go_on)
    os.close(tell)


# --- many


@pytest.mark.parametrize(
    ("context", "count", "fds"), [("Context.light()", 1000, 4096), ("Context()", 100, 512)], ids=["light", "copied"]
)
def test_many_are_waited_for_together(context, count, fds):
    """Of tasks that all wait, none has ended in time; when they are let go on, wait_any and wait_all find them all."""
    out = in_subprocess(
        f"""
        import os, resource, time
        from sysclone import Context, wait_all, wait_any
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        assert hard == resource.RLIM_INFINITY or hard >= {fds}, "fewer fds are allowed than are needed"
        resource.setrlimit(resource.RLIMIT_NOFILE, ({fds}, hard))
        go_on, tell = os.pipe()
        def waits(number):
            os.read(go_on, 1)
            return number
        tasks = [{context}.start(waits, number) for number in range({count})]
        print(len({{task.pid for task in tasks}}))
        begun = time.monotonic()
        print(wait_any(tasks, 0.05), wait_all(tasks, 0.05), time.monotonic() - begun >= 0.1)
        os.write(tell, b"x")
        first = wait_any(tasks, 20)
        print(len(first), first[0].result() == tasks.index(first[0]))
        os.write(tell, b"x" * ({count} - 1))
        print(wait_all(tasks, 40) == tasks, wait_any(tasks) == tasks)
        print([task.result() for task in tasks] == list(range({count})))
        for task in tasks:
            task.close()
        print(len(os.listdir("/proc/self/fd")))
        """,
        seconds=50,
    )

    assert out.splitlines() == [str(count), "[] [] True", "1 True", "True True", "True", "6"]


def test_nothing_to_wait_for():
    """With no tasks, wait_any and wait_all answer at once, whatever the time limit."""
    for timeout in (None, 0, 5):
        assert wait_any([], timeout) == wait_all([], timeout) == wait_any(iter(()), timeout) == []


def test_any_of_both_kinds(gate):
    """wait_any waits for light and copied tasks and programs together, and gives those that have ended, in order."""
    go_on, tell = gate
    slow = [LIGHT.start(os.read, go_on, 1), COPIED.start(os.read, go_on, 1)]
    with COPIED.start(int, "4") as quick, LIGHT.start(int, "5") as other:
        with sysclone.Popen(["true"]) as program:
            found = wait_all([quick, other, program], 20)
        assert found == [quick, other, program]
        assert wait_any([slow[0], other, slow[1], quick], 20) == [other, quick]
        assert wait_all([quick, slow[0], other], 0.02) == [quick, other]
    os.write(tell, b"xx")
    for task in slow:
        with task:
            assert task.result(20) == b"x"


@CONTEXTS
def test_one_that_ends_wakes_wait_any(context, gate):
    """wait_any without a limit returns when the first of several ends."""
    go_on, tell = gate
    tasks = [context.start(os.read, go_on, 1) for _ in range(5)]
    with context.start(os.write, tell, b"x"):
        found = wait_any(tasks)
    assert len(found) >= 1
    os.write(tell, b"x" * 4)
    assert wait_all(tasks, 20) == tasks
    for task in tasks:
        task.close()


# --- time limits


@CONTEXTS
def test_a_wait_gives_up_in_time(context, gate):
    """wait and result raise TaskTimeout after their time, which tells that the task goes on; it still ends well."""
    go_on, tell = gate
    with context.start(os.read, go_on, 1) as task:
        for waits in (task.wait, task.result):
            begun = time.monotonic()
            with pytest.raises(TaskTimeout) as caught:
                waits(0.05)
            assert 0.05 <= time.monotonic() - begun < 10
            assert (caught.value.pid, caught.value.still_running) == (task.pid, True)
        assert (task.done(), task.status, task.rusage) == (False, None, None)
        os.write(tell, b"y")
        assert task.result(20) == b"y"
    assert task.status.exit_code == 0
    assert task.rusage.ru_utime >= 0


# --- selectors and asyncio


@CONTEXTS
def test_selectors_tell_of_the_end(context, gate):
    """A Task in a selector is readable when its function has ended, and not before."""
    go_on, tell = gate
    with selectors.DefaultSelector() as selector, context.start(os.read, go_on, 1) as task:
        selector.register(task, selectors.EVENT_READ, "it")
        assert selector.select(0) == []
        os.write(tell, b"x")
        assert [key.data for key, _ in selector.select(20)] == ["it"]
        assert task.done()


def test_a_readable_task_is_done_at_once():
    """Who is woken by a light task's fd before its helper thread can go on finds it done, and waits no longer."""
    out = in_subprocess(
        """
        import os, select
        from sysclone import Context

        def yields_to_this_thread(tid):
            os.sched_setscheduler(tid, os.SCHED_IDLE, os.sched_param(0))
            os.sched_setaffinity(tid, os.sched_getaffinity(0))

        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        found = []
        for ask in (lambda task: task.done(), lambda task: task.wait(0).exit_code == 0, lambda task: task.status.exit_code == 0):
            for number in range(5):
                go_on, tell = os.pipe()
                with Context.light().start(os.read, go_on, 1) as task:
                    for tid in map(int, os.listdir("/proc/self/task")):
                        if tid != os.getpid():
                            yields_to_this_thread(tid)
                    poll = select.poll()
                    poll.register(task.fileno(), select.POLLIN)
                    os.write(tell, b"x")
                    poll.poll()
                    found.append(ask(task))
                os.close(go_on)
                os.close(tell)
        print(found.count(True), len(found))
        """
    )

    assert out.split() == ["15", "15"]


@CONTEXTS
def test_asyncio_awaits(context):
    """Several tasks are awaited together, each with its value; one that raised raises."""

    async def main():
        values = await asyncio.gather(*(as_coroutine(context.start(int, str(number))) for number in range(20)))
        with context.start(int, "no number") as failing, pytest.raises(ValueError, match="no number"):
            await failing
        return values

    async def as_coroutine(task):
        with task:
            return await task

    assert asyncio.run(main()) == list(range(20))


@CONTEXTS
def test_asyncio_goes_on_meanwhile(context, gate):
    """While a task is awaited the loop runs: another coroutine lets it go on."""
    go_on, tell = gate

    async def main():
        with context.start(os.read, go_on, 1) as task:
            asyncio.get_running_loop().call_soon(os.write, tell, b"z")
            return await asyncio.wait_for(task_of(task), 20)

    async def task_of(task):
        return await task

    assert asyncio.run(main()) == b"z"


@CONTEXTS
def test_asyncio_cancellation_ends_the_task(context):
    """A cancelled await cancels the function: it ends, and its result tells so."""
    ready, begun = os.pipe()

    def spins():
        os.write(begun, b"x")
        while True:
            time.sleep(0.001)

    async def main():
        task = context.start(spins)

        async def waits():
            return await task

        waiting = asyncio.create_task(waits())
        loop = asyncio.get_running_loop()
        seen = asyncio.Event()
        loop.add_reader(ready, seen.set)
        await asyncio.wait_for(seen.wait(), 20)
        loop.remove_reader(ready)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return task

    try:
        with asyncio.run(main()) as task, pytest.raises((Cancelled, TaskKilled)):
            task.result(20)
    finally:
        os.close(ready)
        os.close(begun)


# --- the end of a Task


@CONTEXTS
def test_leaving_the_block_waits(context, gate):
    """Leaving a task's block waits for its end, and closes its fd."""
    go_on, tell = gate
    with context.start(os.read, go_on, 1) as task:
        pidfd = task.pidfd
        os.write(tell, b"x")
    assert task.status.exit_code == 0
    assert state(task.pid) == ""
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pidfd)


@CONTEXTS
def test_leaving_the_block_by_an_exception_cancels(context):
    """An exception in the block ends the task, and goes on."""
    with pytest.raises(KeyError, match="mine"), context.start(time.sleep, 60) as task:
        raise KeyError("mine")
    assert task.done()
    assert state(task.pid) == ""
    with pytest.raises((Cancelled, TaskFailed)):
        task.result()


@CONTEXTS
def test_a_task_that_is_let_go_of_goes_on(context, gate):
    """A Task deleted while it runs is not ended; when it has ended, nothing of it is left: no zombie, no fd."""
    go_on, tell = gate
    before = set(os.listdir("/proc/self/fd"))
    task = context.start(os.read, go_on, 1)
    pid, pidfd = task.pid, os.pidfd_open(task.pid)
    try:
        del task
        gc.collect()
        assert state(pid) in ("S", "R", "D")
        os.write(tell, b"x")
        assert ended(pidfd)
    finally:
        os.close(pidfd)
    deadline = time.monotonic() + 10
    while (state(pid) or set(os.listdir("/proc/self/fd")) - before) and time.monotonic() < deadline:
        context.call(int)
    assert state(pid) == ""
    assert set(os.listdir("/proc/self/fd")) <= before


@requires("no_sanitizer")  # one that is forked beside threads may wait for the lock of the sanitizer's allocator
@CONTEXTS
def test_a_hundred_that_nobody_asks(context):
    """A hundred tasks whose Task is dropped at once leave no zombie and no fd; some raise, some exit."""
    before = set(os.listdir("/proc/self/fd"))
    for number in range(33):
        context.start(int)
        context.start(int, "x")
        context.start(os._exit, number)
    gc.collect()
    deadline = time.monotonic() + 20
    while set(os.listdir("/proc/self/fd")) - before and time.monotonic() < deadline:
        context.call(int)
    assert set(os.listdir("/proc/self/fd")) <= before


def test_signals_go_to_the_task():
    """send_signal reaches the task by pidfd, and to one that has ended it does nothing."""
    with COPIED.start(time.sleep, 60) as task:
        task.send_signal(signal.SIGKILL)
        with pytest.raises(TaskKilled) as caught:
            task.result(20)
        task.send_signal(signal.SIGKILL)
    assert caught.value.signal == signal.SIGKILL
    assert str(task.status) == "killed by SIGKILL (9)"
