"""Functions that die by themselves or are killed without a look: what is told of it, and that the program goes on."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from helpers import in_subprocess, state

import sysclone
from sysclone import Context, Share, TaskKilled, TaskTimeout

LIGHT = Context(share=Share.VM)


@pytest.fixture
def pipe():
    """Two fds, closed at the end."""
    fds = os.pipe()
    yield fds
    for fd in fds:
        os.close(fd)


def asleep(*pids: int) -> None:
    """Wait until each task is blocked."""
    for pid in pids:
        while state(pid) != "S":
            os.sched_yield()


# --- kill_unsafely


def test_a_kill_without_the_policy_ends_a_blocked_function(pipe):
    """kill_unsafely() of a function in read(2) is a SIGKILL that the kernel reports, and the program goes on."""
    for _ in range(50):
        with sysclone.start(os.read, pipe[0], 1) as task:
            asleep(task.pid)
            task.kill_unsafely()
            with pytest.raises(TaskKilled) as caught:
                task.result(10)
        assert caught.value.signal == signal.SIGKILL
        assert task.status.signal == signal.SIGKILL
        task.kill_unsafely()
    assert sysclone.call(len, "abc") == 3


def test_a_kill_without_the_policy_ends_what_a_cancel_may_not(pipe):
    """A blocked function with a thread of its own is not killed by cancel(), and is by kill_unsafely(), thread and all."""
    ids: list[int] = []

    def blocks():
        thread = threading.Thread(target=os.read, args=(pipe[0], 1), daemon=True)
        thread.start()
        ids.append(thread.native_id)
        os.read(pipe[0], 1)

    with LIGHT.start(blocks) as task:
        while not ids:
            os.sched_yield()
        asleep(task.pid, ids[0])
        task.cancel()
        with pytest.raises(TaskTimeout) as late:
            task.result(0.3)
        assert late.value.still_running
        task.kill_unsafely()
        task.wait(10)
        assert task.status.signal == signal.SIGKILL
        assert state(ids[0]) == ""
    assert sysclone.call(len, "abc") == 3


def test_a_copied_process_is_killed_at_once(pipe):
    """kill_unsafely() of a copied process is SIGKILL, and no hazard to anybody."""
    with Context().start(os.read, pipe[0], 1) as task:
        task.kill_unsafely()
        with pytest.raises(TaskKilled):
            task.result(10)


def test_a_thread_is_not_killed_alone(pipe):
    """kill_unsafely() of a task with THREAD is refused: its SIGKILL would be the whole program's."""
    with Context.thread().start(os.read, pipe[0], 1) as task:
        with pytest.raises(ValueError, match="no pidfd"):
            task.kill_unsafely()
        os.write(pipe[1], b"x")
        assert task.result(10) == b"x"


# --- the end of the stack


@pytest.mark.parametrize("verb", ["sysclone.call", "Context.light().replace(timeout=30).call", "small.call"])
def test_the_end_of_the_stack_is_a_crash_like_any_other(verb):
    """C code that recurses until the stack ends kills the function by SIGSEGV, on each kind of stack, and no more than that."""
    in_subprocess(f"""
        import itertools, os, sysclone
        from sysclone import Context

        bottomless = iter(())
        for _ in range(400_000):
            bottomless = itertools.islice(bottomless, None)
        small = Context.light().replace(stack_bytes=2 << 20)
        for _ in range(5):
            try:
                {verb}(next, bottomless)
            except sysclone.TaskKilled as error:
                assert error.status.signal == 11, error
            else:
                raise SystemExit("it came back")
            assert {verb}(sum, [1, 2]) == 3
        os._exit(0)  # the end of that iterator is another such recursion
    """)


# --- threads that die with their function


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_threads_that_die_in_the_midst_of_the_gil_take_it_nowhere(how):
    """A process that ends, or is killed, beside threads of its own that fight for the GIL, or have it, hangs nobody."""
    in_subprocess(f"""
        import os, threading, time, sysclone

        def spins():
            while True:
                pass

        def fights():
            for _ in range(3):
                threading.Thread(target=spins, daemon=True).start()
            if {how == "exit"}:
                os._exit(3)
            spins()

        for _ in range(8):
            task = sysclone.start(fights)
            if {how == "kill"}:
                time.sleep(0.01)
                task.kill_unsafely()
            try:
                task.result()
            except sysclone.TaskFailed:
                pass
            assert sum(range(1000)) == 499500
    """)
