"""The soak of light processes, with the watchdog outside: no hang, no wrong value, nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def soak(program: str, *arguments: object, seconds: float) -> None:
    """Run a program; what it says is in the failure."""
    done = subprocess.run(
        [sys.executable, str(HERE / program), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"},
    )
    assert done.returncode == 0, done.stdout[-4000:]


def light(seconds: float, threads: int, seed: int) -> None:
    """The mixture, with a minute and a half for the last ones: who holds a lock of the library's goes on until it is out."""
    soak("light.py", seconds, threads, seed, seconds=seconds + 90)


@pytest.mark.timeout(150)
def test_light_processes_for_a_moment() -> None:
    """Calls, cancels, time limits, kills and crashes from eight threads at once, for ten seconds."""
    light(10, 8, os.getpid())


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", range(4))
def test_light_processes_for_long(seed: int) -> None:
    """The same for five minutes, with a seed that can be had again."""
    light(300, 8, seed)


@pytest.mark.timeout(120)
def test_crashes_leave_nothing_but_what_is_said() -> None:
    """Two thousand crashes of every kind leave no fd, thread or mapping, and less than six KiB of memory each."""
    soak("crashes.py", 2000, seconds=110)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_ten_thousand_crashes() -> None:
    """The same, ten thousand times."""
    soak("crashes.py", 10_000, seconds=600)
