"""What the tests of real tasks have in common: kcmp without the library, and programs of their own with a time limit."""

from __future__ import annotations

import fcntl
import os
import platform
import select
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from features import SYS_KCMP, raw

import sysclone

KCMP = {"VM": 1, "FILES": 2, "FS": 3, "SIGHAND": 4, "IO": 5, "SYSVSEM": 6}
SOURCES = Path(sysclone.__file__).parents[1]
TESTS = Path(__file__).parent
NO_QUARANTINE = "quarantine_size_mb=0:thread_local_quarantine_size_kb=0"
"""For ASAN_OPTIONS where memory is measured: the address sanitizer's allocator would keep the last 256 MiB that were freed."""
SECONDS = 20.0
"""What a program of a test's own may take; a hang is told of after that."""


def shared(pid1: int, pid2: int) -> set[str]:
    """What two tasks hold in common, by the kernel's word."""
    found = set()
    for name, kind in KCMP.items():
        answer = raw(SYS_KCMP[platform.machine()], pid1, pid2, kind, 0, 0)
        assert answer >= 0, f"kcmp {name}: {os.strerror(-answer)}"
        if answer == 0:
            found.add(name)
    return found


@contextmanager
def pipe():
    """A pipe, closed afterwards."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for fd in ends:
            os.close(fd)


@contextmanager
def full_table(spare: int = 0) -> Iterator[None]:
    """No fd is to be had, or so many; in a program that has lowered its RLIMIT_NOFILE."""
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        pass
    for _ in range(min(spare, len(taken))):
        os.close(taken.pop())
    try:
        yield
    finally:
        for fd in taken:
            os.close(fd)


def state(pid: int) -> str:
    """The state letter of /proc/PID/stat; empty where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def lives(pid: int) -> bool:
    """Whether a process has a task that is no zombie: its leader may be one, and others go on."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        return any(
            Path(f"/proc/{pid}/task/{tid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX" for tid in tasks
        )
    except (FileNotFoundError, ProcessLookupError):
        return False


def children() -> set[int]:
    """This process's children, zombies too, of all its threads: one that ends meanwhile (an idle helper) has none."""
    found: set[int] = set()
    for tid in os.listdir("/proc/self/task"):
        try:
            found.update(map(int, Path(f"/proc/self/task/{tid}/children").read_text().split()))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def ended(pidfd: int, seconds: float = SECONDS) -> bool:
    """Whether the process of a pidfd has ended, within so many seconds."""
    return bool(select.select([pidfd], [], [], seconds)[0])


@contextmanager
def alone_with(what: str) -> Iterator[None]:
    """A block in which no other run of these tests has the same thing of the machine's: two CPythons are tested at a time."""
    with open(Path(tempfile.gettempdir(), f"sysclone-tests-{what}.lock"), "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


AS_NOBODY = """
import ctypes, importlib, os, pickle, pwd, resource, socket, subprocess, sysclone, traceback
for name in sysclone.__all__:
    getattr(sysclone, name)
for name in ("_hints.table", "_idmap", "_steps.network"):
    importlib.import_module("sysclone." + name)
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
# As in a program that was nobody's from its exec on.
assert ctypes.CDLL(None).prctl(4, 1, 0, 0, 0) == 0
"""
"""Makes the interpreter nobody's; what it imports must be loaded before, since nobody may not be let into its folder."""


def in_subprocess(
    code: str,
    *arguments: object,
    seconds: float = SECONDS,
    status: int = 0,
    as_nobody: bool = False,
    pass_fds: tuple[int, ...] = (),
) -> str:
    """Run Python code in an interpreter of its own, as nobody if asked to, and give what it printed.

    It has sysclone and these tests' modules on its path, and a session of its own. Fails the test when it does not end
    with the status, and when it does not end in time: then it tells where each task of it stands.
    """
    path = os.pathsep.join([str(SOURCES), str(TESTS)])
    program = subprocess.Popen(
        [sys.executable, "-c", AS_NOBODY * as_nobody + textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
        pass_fds=pass_fds,
    )
    with program:
        try:
            out, err = program.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            standing = where_it_stands(program.pid)
            kill_session(program.pid)
            out, err = program.communicate()
            pytest.fail(f"did not end in {seconds:g} s\n{standing}\n{out}\n{err}", pytrace=False)
        finally:
            kill_session(program.pid)
    assert program.returncode == status, f"left with {program.returncode}\n{out}\n{err}"
    return out


def session_of(leader: int) -> list[int]:
    """The processes of a session."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                if os.getsid(int(name)) == leader:
                    found.append(int(name))
            except ProcessLookupError:
                continue
    return found


def kill_session(leader: int) -> None:
    """End every process of a session."""
    for pid in session_of(leader):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def await_nobody(leader: int, seconds: float = SECONDS) -> list[int]:
    """The processes of a session with a task that lives, once they have had their time; what is ours of the rest is reaped.

    A process that was killed with its creator is about to end: its fds are closed before it is a zombie.
    """
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in session_of(leader) if lives(pid)]) and time.monotonic() < deadline:
        time.sleep(0.002)
    for pid in session_of(leader):
        try:
            os.waitpid(pid, os.WNOHANG if left else 0)
        except ChildProcessError:
            continue  # the machine's init reaps it in its own time
    return left


def where_it_stands(leader: int) -> str:
    """Each task of a session: its state, its system call, its place in the kernel."""
    lines = []
    for pid in session_of(leader):
        for task in sorted(Path(f"/proc/{pid}/task").glob("*")):
            try:
                stat = (task / "stat").read_text().rpartition(")")[2].split()[0]
                call = (task / "syscall").read_text().split()[0]
                stack = " < ".join(line.split()[1] for line in (task / "stack").read_text().splitlines()[:3])
            except OSError:
                continue
            lines.append(f"  process {pid} task {task.name}: {stat}, system call {call}: {stack}")
    return "\n".join(lines)
