"""The rows of seeing: a look at a crowd of 2,000 tasks in 200 processes against the same work in plain C."""

from __future__ import annotations

import functools
import subprocess
from array import array

from harness import Row, Side, floor, program, python

import sysclone
from sysclone import _core

PROCESSES, THREADS = 200, 10
KINDS = (1, 2, 3, 4, 5, 6)


@functools.cache
def crowd() -> tuple[subprocess.Popen[bytes], bytes, bytes]:
    """The crowd, which ends with this process; its tids, and the place of the leader of each."""
    command = [program("crowd"), str(PROCESSES), str(THREADS)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    tids, leaders = array("i"), array("i")
    for line in process.stdout:
        threads = [int(word) for word in line.split()]
        leaders.extend([len(tids)] * len(threads))
        tids.extend(threads)
    if len(tids) != PROCESSES * THREADS:
        raise OSError(f"the crowd is of {len(tids)} tasks")
    return process, tids.tobytes(), leaders.tobytes()


def groups() -> None:
    """The six kinds of all tasks of the crowd."""
    _, tids, leaders = crowd()
    _core.groups(tids, leaders, KINDS)


def look() -> None:
    """Everything that is told of all tasks of the crowd."""
    sysclone.inspect(crowd()[0].pid)


def of_crowd(label: str, symbol: str) -> Side:
    """A floor that is given the crowd; the number of its tasks comes first."""

    def batch(n: int) -> list[int]:
        _, tids, leaders = crowd()
        count = array("i", [PROCESSES * THREADS]).tobytes()
        return floor(label, symbol, count + tids, count + leaders).batch(n)

    return Side(label, batch)


ROWS = (
    Row("inspect-groups", python("groups of 2,000 tasks", groups), of_crowd("C kcmp, the same search", "sc_floors_groups"),
        target=2.0, batch_ms=50),
    Row("inspect-all", python("inspect() of 2,000 tasks", look), of_crowd("C kcmp and /proc", "sc_floors_look"),
        target=2.0, batch_ms=200),
)  # fmt: skip
