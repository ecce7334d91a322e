"""One process for each resident size, all alive at once and one at work at a time.

A size is touched once (four GiB in 4 KiB pages can take twenty seconds in a virtual machine), and the same row is
measured at both sizes within seconds of each other. A process that dies or hangs costs its row, not the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import harness


class Worker:
    """The asking end: starts the process at the first question, and again after it has died."""

    def __init__(self, gib: float) -> None:
        self.gib = gib
        self._process: subprocess.Popen[str] | None = None

    def measure(self, name: str, seconds: float) -> dict[str, Any]:
        """What the process measured for the row, or ``{"error": …}``."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        limit = 60 + 20 * self.gib + 20 * seconds
        hung = threading.Timer(limit, end_group, [process])
        hung.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps([name, seconds]) + "\n")
                process.stdin.flush()
            answer = process.stdout.readline()
        finally:
            hung.cancel()
        if answer:
            record: dict[str, Any] = json.loads(answer)
            return record
        self.close()
        if process.returncode == -signal.SIGKILL:
            return {"error": f"the measuring process was killed: no answer in {limit:.0f} s, or no memory left"}
        return {"error": f"the measuring process ended with {process.returncode}"}

    def close(self) -> None:
        """Kill the process and whatever tasks it left."""
        if self._process is not None:
            end_group(self._process)
            with self._process:
                self._process = None

    def _start(self) -> subprocess.Popen[str]:
        """The process, in a process group of its own."""
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self.gib)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        return self._process


def end_group(process: subprocess.Popen[str]) -> None:
    """Kill a process that was started as a group's leader, and its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def all_rows() -> Sequence[harness.Row]:
    """Every row there is, in the order of measuring; the package under test is imported only here."""
    import rows_core
    import rows_executor
    import rows_processes
    import rows_programs
    import rows_sandbox
    import rows_seeing
    import rows_trace

    return (
        *rows_core.ROWS,
        *rows_processes.ROWS,
        *rows_programs.ROWS,
        *rows_sandbox.ROWS,
        *rows_seeing.ROWS,
        *rows_trace.ROWS,
        *rows_executor.ROWS,
    )


def serve(gib: float) -> None:
    """The answering end: hold the memory, and measure each row that a line of standard input names."""
    rows = {row.name: row for row in all_rows()}
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a crowd of tasks holds a pidfd each
    with harness.resident(gib):
        for question in sys.stdin:
            name, seconds = json.loads(question)
            print(json.dumps(answer(rows, name, seconds)), flush=True)


def answer(rows: Mapping[str, harness.Row], name: str, seconds: float) -> dict[str, Any]:
    """One row's record."""
    resident_kib = harness.kib("/proc/self/status", "VmRSS")
    try:
        ours, against = harness.measure(rows[name], seconds)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"resident_kib": resident_kib, "ours": vars(ours), "against": vars(against)}


if __name__ == "__main__":
    serve(float(sys.argv[1]))
