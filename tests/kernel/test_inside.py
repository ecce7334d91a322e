"""What runs inside a light process: threads, executors, programs, event loops; a limit on CPU time, and a terminal's Ctrl-C."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pty
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor

import pytest
from helpers import SECONDS, SOURCES, await_nobody, ended, in_subprocess, kill_session, where_it_stands

import sysclone
from sysclone import Cancelled, Context, Share, TaskKilled, _core

LIGHT = Context(share=Share.VM)
VERBS = pytest.mark.parametrize(
    "verb",
    [sysclone.call, LIGHT.replace(timeout=30).call, lambda fn: sysclone.start(fn).result()],
    ids=["call", "timed", "start"],
)


@pytest.fixture(autouse=True)
def all_reaped():
    """A thread that was joined may not be gone: then its process is one that was left, and is reaped later."""
    yield
    while _core.reap_pending():
        os.sched_yield()


@VERBS
def test_an_executor_works_inside(verb):
    """Workers of a thread pool that a function makes belong to its process, and give their results there."""

    def maps():
        with ThreadPoolExecutor(4) as pool:
            return os.getpid(), set(pool.map(lambda _: os.getpid(), range(50)))

    pid, workers = verb(maps)
    assert workers == {pid}
    assert pid != os.getpid()


@VERBS
def test_an_executor_that_is_left_goes_on(verb):
    """Workers that still run when their function returns go on: their futures are fulfilled for the creator to see."""

    def leaves() -> tuple[list[Future[int]], ThreadPoolExecutor]:
        pool = ThreadPoolExecutor(3)
        return [pool.submit(lambda n=n: go_on.wait() and sum(range(n))) for n in range(50)], pool

    for _ in range(3):
        go_on = threading.Event()
        futures, pool = verb(leaves)
        assert not any(future.done() for future in futures)
        go_on.set()
        assert [future.result(20) for future in futures] == [sum(range(n)) for n in range(50)]
        pool.shutdown()


@VERBS
def test_programs_and_forks_work_inside(verb):
    """The standard library's subprocess and multiprocessing make children of the light process, and reap them there."""

    def makes():
        shell = subprocess.run(["sh", "-c", "echo $PPID; exit 3"], stdout=subprocess.PIPE, text=True, check=False)
        with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
            return os.getpid(), int(shell.stdout), shell.returncode, list(pool.map(abs, [-1, -2]))

    with warnings.catch_warnings():
        # CPython 3.12 and later warn of a fork in a program with threads, whose the idle helpers are.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid, *rest = verb(makes)
    assert rest == [pid, 3, [1, 2]]


@VERBS
def test_an_event_loop_works_inside(verb):
    """asyncio with a program, a thread and a timer inside a light process works as it does outside."""

    async def several():
        program = await asyncio.create_subprocess_exec("sh", "-c", "echo $PPID", stdout=asyncio.subprocess.PIPE)
        (out, _), there, _ = await asyncio.gather(
            program.communicate(), asyncio.to_thread(os.getpid), asyncio.sleep(0.01)
        )
        return int(out), there, os.getpid()

    for _ in range(3):
        assert len(set(verb(lambda: asyncio.run(several())))) == 1


def test_a_limit_on_cpu_time_is_an_exception_first():
    """At the soft RLIMIT_CPU the function meets Cancelled and cleans up, long before the hard limit; the status is SIGXCPU."""
    cleaned: list[str] = []

    def burns():
        resource.setrlimit(resource.RLIMIT_CPU, (1, 4))
        try:
            while True:
                pass
        finally:
            cleaned.append("up")

    with pytest.raises(TaskKilled) as caught:
        sysclone.call(burns)
    assert caught.value.signal == signal.SIGXCPU
    assert isinstance(caught.value.__cause__, Cancelled)
    assert cleaned == ["up"]
    assert resource.getrlimit(resource.RLIMIT_CPU) == (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def test_threads_that_die_with_their_function_take_no_gil_along():
    """A function that is ended beside threads which it started, all of them blocked, leaves the others their turns."""
    in_subprocess("""
        import os, threading, time, sysclone

        def dies():
            for _ in range(4):
                threading.Thread(target=os.read, args=(never, 1), daemon=True).start()
            time.sleep(0.05)  # until they are blocked: one that dies in its turn at the GIL takes that along
            os._exit(3)

        never, _end = os.pipe()
        for _ in range(10):
            try:
                sysclone.call(dies)
            except sysclone.TaskExited:
                pass
            others = [threading.Thread(target=sum, args=(range(100_000),)) for _ in range(4)]
            for other in others:
                other.start()
            for other in others:
                other.join()
    """)


# --- Ctrl-C, from a terminal

PROGRAM = """
    import os, threading, time, sysclone
    from sysclone import Context, Share

    os.close(os.open(os.ttyname(0), os.O_RDWR))  # the leader of a session takes its first terminal

    def naps():
        os.write(1, b"ready\\n")
        for _ in range(600):
            time.sleep(0.1)

    def spins():
        os.write(1, b"ready\\n")
        while True:
            pass

    def both():
        with sysclone.start(time.sleep, 60), sysclone.start(spins) as task:
            task.result()
"""

STATEMENTS = [
    "sysclone.call(naps)",
    "sysclone.call(spins)",
    "sysclone.call(lambda: sysclone.call(naps))",
    "Context(share=Share.VM, timeout=60).call(naps)",
    "both()",
    "sysclone.start(naps).result()",
    "sysclone.start(spins)",
    "threading.Thread(target=sysclone.call, args=(naps,), daemon=True).start(); time.sleep(60)",
]
AT_ONCE = STATEMENTS[:4]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_ctrl_c_ends_a_program_as_a_person_expects(statement):
    """Ctrl-C at a terminal ends the program, at once where it waits in a call, and nothing of it is left.

    A task that was started goes on, and is waited for at the end of the program: another Ctrl-C ends that waiting too.
    """
    controller, terminal = pty.openpty()
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM) + statement],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
    )
    pidfd = os.pidfd_open(program.pid)
    try:
        assert program.stdout.readline() == "ready\n"
        for patience in [SECONDS] if statement in AT_ONCE else [1, 1, SECONDS]:
            os.write(controller, b"\x03")
            if ended(pidfd, patience):
                break
        else:
            pytest.fail(f"it goes on\n{where_it_stands(program.pid)}", pytrace=False)
        _, err = program.communicate()
        assert await_nobody(program.pid) == []
    finally:
        kill_session(program.pid)
        program.communicate()
        for fd in (controller, terminal, pidfd):
            os.close(fd)
    if statement in AT_ONCE:
        assert program.returncode == -signal.SIGINT, err
        assert err.count("KeyboardInterrupt") == 1, err
