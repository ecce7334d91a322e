"""Runs several commands at a time, each in a process of its own: a watchdog takes what is left running in its own for strays."""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Callable, Iterator, Sequence


def ended(jobs: int, starts: Sequence[Callable[[], subprocess.Popen[bytes]]]) -> Iterator[tuple[int, int]]:
    """Start processes in order, so many at a time; yields the place of each with its exit code, as they end."""
    waiting = list(enumerate(starts))
    running: dict[int, tuple[int, subprocess.Popen[bytes]]] = {}
    poll = select.poll()
    while waiting or running:
        while waiting and len(running) < jobs:
            place, start = waiting.pop(0)
            process = start()
            pidfd = os.pidfd_open(process.pid)
            running[pidfd] = place, process
            poll.register(pidfd, select.POLLIN)
        for pidfd, _ in poll.poll():
            place, process = running.pop(pidfd)
            poll.unregister(pidfd)
            os.close(pidfd)
            yield place, process.wait()
