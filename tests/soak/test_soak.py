"""The soak of light processes, with the watchdog outside: no hang, no wrong value, nothing left behind."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import NO_QUARANTINE, kill_session, where_it_stands

HERE = Path(__file__).parent
SILENCE = 30.0
"""Seconds after which a program that prints a line every half second is taken for hung."""
MOMENT = float(os.environ.get("SYSCLONE_SOAK_SECONDS", "40"))
"""How long the suite's own run takes on each CPython: two minutes on three."""


def soak(program: str, *arguments: object, seconds: float, silence: float = SILENCE) -> None:
    """Run a program; what it says is in the failure, and where each task of it stands when it hangs."""
    running = subprocess.Popen(
        [sys.executable, "-u", str(HERE / program), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(),
        start_new_session=True,
    )
    said = bytearray()
    end = time.monotonic() + seconds
    try:
        while chunk := read(running.stdout.fileno(), min(silence, end - time.monotonic())):
            said += chunk
        running.wait(10)
    except (TimeoutError, subprocess.TimeoutExpired):
        pytest.fail(f"hung:\n{evidence(running.pid)}\n{said.decode(errors='replace')[-2000:]}", pytrace=False)
    finally:
        kill_session(running.pid)
        running.wait()
        running.stdout.close()
    assert running.returncode == 0, said.decode(errors="replace")[-4000:]


def environment() -> dict[str, str]:
    """The environment of such a program."""
    told = {**os.environ, "PYTHONFAULTHANDLER": "1"}
    if options := os.environ.get("ASAN_OPTIONS"):
        told["ASAN_OPTIONS"] = f"{options}:{NO_QUARANTINE}"
    return told


def read(fd: int, seconds: float) -> bytes:
    """What comes within so many seconds; nothing at the end."""
    if not select.select([fd], [], [], max(0.0, seconds))[0]:
        raise TimeoutError
    return os.read(fd, 1 << 16)


def evidence(pid: int) -> str:
    """Where everybody stands: by the kernel, and by gdb where there is one."""
    told = [where_it_stands(pid)]
    if shutil.which("gdb"):
        command = ["gdb", "-batch", "-nx", "-p", str(pid), "-ex", "set pagination off", "-ex", "thread apply all bt 12"]
        told.append(subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout)
    return "\n".join(told)


def light(seconds: float, threads: int, seed: int, calls: int = 0) -> None:
    """The mixture, with a minute and a half for the last ones: who holds a lock of the library's goes on until it is out."""
    limit = seconds + 90 if not calls else 3600
    soak("light.py", seconds, threads, seed, calls, seconds=limit, silence=SILENCE + 30)


@pytest.mark.timeout(MOMENT + 150)
def test_light_processes_for_a_moment() -> None:
    """Calls, cancels, time limits, kills and crashes from eight threads at once."""
    light(MOMENT, 8, os.getpid())


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", range(2))
def test_a_hundred_thousand_calls(seed: int) -> None:
    """The same for a hundred thousand calls, with a seed that can be had again."""
    light(0, 8, seed, 100_000)


@pytest.mark.timeout(120)
def test_crashes_leave_nothing_but_what_is_said() -> None:
    """Two thousand crashes of every kind leave no fd, thread or mapping, and less than six KiB of memory each."""
    soak("crashes.py", 2000, seconds=110, silence=110)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_ten_thousand_crashes() -> None:
    """The same, ten thousand times."""
    soak("crashes.py", 10_000, seconds=600, silence=600)


@pytest.mark.timeout(120)
def test_careless_kills_are_survived() -> None:
    """SIGKILL of functions that mostly await the GIL, one or several at once, hangs nobody."""
    soak("careless.py", 30, os.getpid(), seconds=110)


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", range(4))
def test_a_thousand_careless_kills(seed: int) -> None:
    """The same, a thousand times, among functions that allocate."""
    soak("careless.py", 1000, seed, "allocating", seconds=1800)
