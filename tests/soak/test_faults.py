"""Random faults in the system calls of a start, by strace: each start ends in a named error or in a running program."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from features import requires

FAULTS = int(os.environ.get("SYSCLONE_FAULTS", "10000"))
"""Starts in total."""
A_RUN = 250
CALLS = (
    "clone3",
    "execve",
    "dup3",
    "close_range",
    "mount",
    "move_mount",
    "setns",
    "openat",
    "fcntl",
    "chdir",
    "prlimit64",
)
ERRORS = ("ENOMEM", "EPERM", "EMFILE", "EINTR", "EIO")
WORKER = Path(__file__).parent / "faults.py"


def under_faults(inject: list[str], count: int) -> dict[str, object]:
    """So many starts of a worker with these faults, from when it is ready: what it says of them."""
    command = [sys.executable, str(WORKER), str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        strace = ["strace", "-f", "-o", "/dev/null", "-p", str(worker.pid), *inject]
        with subprocess.Popen(strace, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            assert "attached" in tracer.stderr.readline()
            try:
                out, _ = worker.communicate("\n", timeout=120)
            finally:
                worker.kill()
            tracer.communicate()
    assert worker.returncode == 0, inject
    told: dict[str, object] = json.loads(out)
    return told


@pytest.mark.soak
@requires("strace", "root")
def test_starts_under_faults():
    """Of 10,000 starts under random faults none is without a name, and nothing is left of any."""
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    total: dict[str, int] = {}
    for number in range(0, FAULTS, A_RUN):
        call = CALLS[number // A_RUN % len(CALLS)]
        first, step = chance.randint(1, 3), chance.choice(("", "+2", "+5"))
        inject = ["-e", f"trace={call}", "-e", f"inject={call}:error={chance.choice(ERRORS)}:when={first}{step}"]
        told = under_faults(inject, A_RUN)
        assert told["left"] == [""], inject
        for end, count in dict(told["ends"]).items():  # type: ignore[call-overload]
            assert not end.startswith("unnamed"), (inject, end)
            total[end] = total.get(end, 0) + count
    print(total)
    assert sum(total.values()) >= FAULTS
