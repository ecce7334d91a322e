"""The soak of light processes, with the watchdog outside: no hang, no wrong value, nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("light.py")


def soak(seconds: float, threads: int, seed: int) -> None:
    """Run the program; what it says is in the failure."""
    # Whoever is stopped inside a lock of the standard library's goes on until it leaves it: a minute for the last ones.
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(seconds), str(threads), str(seed)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds + 90,
        check=False,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"},
    )
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.timeout(150)
def test_light_processes_for_a_moment() -> None:
    """Calls, cancels, time limits, kills and crashes from eight threads at once, for ten seconds."""
    soak(10, 8, os.getpid())


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", range(4))
def test_light_processes_for_long(seed: int) -> None:
    """The same for five minutes, with a seed that can be had again."""
    soak(300, 8, seed)
