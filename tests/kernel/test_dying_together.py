"""No light process, and no thread of one, outlives its program: programs are killed, and what is left of them looked for."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from features import requires
from helpers import SECONDS, SOURCES, await_nobody, kill_session, state, where_it_stands

PROGRAM = r"""
import os, select, sys, threading, time, sysclone
from sysclone import Context, Namespace, Share

def pid():
    return int(os.readlink("/proc/self").rpartition("/")[2])

told = []

def tell(number=None):
    os.write(1, b"%d\n" % (number or pid()))
    told.append(1)

def spins(*_):
    tell()
    while True:
        pass

def naps(*_):
    tell()
    time.sleep(600)

def leaves(function):
    # Two, so that they fight for the GIL.
    for _ in range(2):
        threading.Thread(target=function, daemon=True).start()

def in_thread(context, function, *args):
    thread = threading.Thread(target=context.call, args=(function, *args))
    thread.start()
    return thread

def guardians():
    # Its name is the last thing that it sees to at its start.
    children = [open(f"/proc/{ME}/task/{tid}/children").read().split() for tid in os.listdir(f"/proc/{ME}/task")]
    return [int(c) for row in children for c in row if open(f"/proc/{c}/comm").read() == "sysclone-guard\n"]

ME = os.getpid()
light = Context(share=Share.VM)
sibling = light.replace(parent="sibling", exit_signal=0)
kept = []
"""

CASES = {
    "call": "light.call({fn})",
    "call from a thread": "in_thread(light, {fn}).join()",
    "start": "kept.append(light.start({fn})); time.sleep(600)",
    "in one another": "light.call(lambda: light.call(lambda: light.call({fn})))",
    "sibling in one another": "light.call(lambda: light.call(lambda: sibling.call({fn})))",
    "sibling that one started": "light.call(lambda: kept.append(sibling.start({fn})) or time.sleep(600))",
    "left by a call": "light.call(leaves, {fn}); time.sleep(600)",
    "left by a task": "kept.append(light.start(leaves, {fn})); time.sleep(600)",
    "left by a call from a thread that ended": "in_thread(light, leaves, {fn}).join(); time.sleep(600)",
    "left by a call from a thread that runs": "in_thread(light, lambda: leaves({fn}) or time.sleep(600)).join()",
    "sibling": "sibling.call({fn})",
    "sibling that was started": "kept.append(sibling.start({fn})); time.sleep(600)",
    "left by a sibling": "sibling.call(leaves, {fn}); time.sleep(600)",
    "in a user namespace": "light.replace(new=Namespace.USER).call({fn})",
    "in a pid namespace": "light.replace(new=Namespace.USER | Namespace.PID).call({fn})",
    "sibling in a pid namespace": "sibling.replace(new=Namespace.USER | Namespace.PID).call({fn})",
}


@contextmanager
def running(code: str, count: int = 1) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A program in a session of its own that has named so many tasks of its."""
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM) + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        start_new_session=True,
    )
    with program:
        try:
            yield program, [int(program.stdout.readline()) for _ in range(count)]
        finally:
            kill_session(program.pid)
            await_nobody(program.pid)


def dies_alone(program: subprocess.Popen[str]) -> None:
    """Kill the program, and nothing else; all that was in its session ends."""
    program.kill()
    program.wait()
    left = await_nobody(program.pid)
    assert left == [], where_it_stands(program.pid)


@requires("user_namespaces")
@pytest.mark.parametrize("fn", ["spins", "naps"])
@pytest.mark.parametrize("case", CASES)
def test_a_killed_program_takes_all_of_its_own_along(case, fn):
    """SIGKILL of the program is the end of every light process that it made, however, and of the threads that they left."""
    with running(CASES[case].format(fn=fn), 2 if "left" in case else 1) as (program, pids):
        if case in ("left by a call from a thread that ended", "left by a task", "left by a sibling"):
            while state(pids[0]) != "Z":  # the function has returned, and its threads go on
                os.sched_yield()
        if case == "left by a call from a thread that ended":
            # Its main thread, and the one that watches the left ones.
            while len(os.listdir(f"/proc/{program.pid}/task")) > 2:
                os.sched_yield()
        dies_alone(program)


@requires("root")
def test_other_credentials_change_nothing_about_that():
    """A light process that its Context gave other ids, and which the kernel then forgot, dies with the program all the same."""
    with running("light.replace(uid=65534, gid=65534).call(spins)") as (program, _):
        dies_alone(program)


def test_the_guardian_is_there_while_it_is_needed():
    """A sibling is guarded by a process that holds no fd and no directory of the program's, and that ends with the last one."""
    code = """
        def looks():
            while not (found := guardians()):
                pass
            [child] = found
            fds = [os.readlink(f"/proc/{child}/fd/{fd}") for fd in os.listdir(f"/proc/{child}/fd")]
            assert len(fds) <= 1 and all("pidfd" in fd for fd in fds), fds
            assert os.readlink(f"/proc/{child}/cwd") == "/"
            return child

        for _ in range(20):
            assert sibling.call(looks)
            assert guardians() == []
        tell()
    """
    with running(code) as (program, _):
        assert program.wait(SECONDS) == 0


def test_a_guardian_that_was_killed_is_made_again():
    """Whoever kills the guardian delays it: the next one that needs it has it made, and it guards the old ones too."""
    code = """
        kept.append(sibling.start(naps))
        [first] = guardians()
        pidfd = os.pidfd_open(first)
        os.kill(first, 9)
        select.select([pidfd], [], [])
        kept.append(sibling.start(naps))
        tell(guardians()[0])
        time.sleep(600)
    """
    with running(code, 3) as (program, pids):
        assert len(set(pids)) == 3
        dies_alone(program)


def test_a_program_that_ends_waits_for_nobody_that_was_left():
    """Daemon threads that a function left behind, from whatever thread it was called, are gone when the program has ended."""
    with running("in_thread(light, leaves, naps).join()\nwhile len(told) < 2: time.sleep(0.001)", 2) as (program, _):
        assert program.wait(SECONDS) == 0
        assert await_nobody(program.pid) == []
