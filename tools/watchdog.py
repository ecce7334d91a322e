"""Runs a command that may hang in ways that nothing inside it can notice, and ends it then.

A task that died with the GIL, or a parked thread that nobody wakes, stops every thread of its interpreter, and the
timers in it. So the limits are kept from outside, and what the kernel knows of each hung task is printed before it is
killed. The watchdog is a subreaper: whatever the command leaves behind comes to it, is named, and counts as a failure.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
WALL = 0x40000000
TICK = 0.5
GRACE = 3.0
PATIENCE = 15.0
"""Seconds that what the command left behind may take to end by itself, when the machine is busy."""


@dataclass
class Journal:
    """What the tests note as they go: see tests/conftest.py."""

    path: Path
    entries: list[dict[str, object]] = field(default_factory=list)
    offset: int = 0

    def read(self) -> None:
        """Take in the lines that have come since."""
        if not self.path.exists():
            return
        with self.path.open() as file:
            file.seek(self.offset)
            text = file.read()
        whole = text[: text.rfind("\n") + 1]
        self.offset += len(whole.encode())
        self.entries += [json.loads(line) for line in whole.splitlines()]

    def running(self) -> tuple[str, float] | None:
        """The test that began last, and for how many seconds it has been at it."""
        for entry in reversed(self.entries):
            if "end" in entry:
                return None
            if "begin" in entry:
                return str(entry["begin"]), time.monotonic() - float(str(entry["at"]))
        return None


@dataclass(frozen=True)
class Outcome:
    """How a watched command ended: its exit code, or why it was ended, and what it left running."""

    exit_code: int
    killed: str | None
    strays: list[str]


def watch(command: list[str], env: dict[str, str], journal: Journal, test_seconds: float, seconds: float) -> Outcome:
    """Run a command in a session of its own, within both limits."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    sys.stdout.flush()
    process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        killed = wait(process, journal, test_seconds, time.monotonic() + seconds)
        journal.read()
        strays = [] if killed else remaining(process)
        return Outcome(process.returncode or 0, killed, strays)
    finally:
        kill_all(process)


def wait(process: subprocess.Popen[bytes], journal: Journal, test_seconds: float, deadline: float) -> str | None:
    """Wait for the end, or end it: then the reason, in a sentence."""
    poller = select.poll()
    pidfd = os.pidfd_open(process.pid)
    poller.register(pidfd, select.POLLIN)
    try:
        while not ended(process):
            poller.poll(TICK * 1000)
            journal.read()
            reason = overdue(journal, test_seconds, deadline)
            if reason:
                print(f"\nwatchdog: {reason}; what the kernel says of its tasks:", flush=True)
                dump()
                abort(process, poller)
                return reason
        return None
    finally:
        os.close(pidfd)


def overdue(journal: Journal, test_seconds: float, deadline: float) -> str | None:
    """Why the run is to be ended, or None."""
    test = journal.running()
    if test and test[1] > test_seconds:
        return f"hung for {test[1]:.0f} s in {test[0]}"
    if time.monotonic() > deadline:
        return f"the whole run took too long, and was in {test[0] if test else 'no test'}"
    return None


def abort(process: subprocess.Popen[bytes], poller: select.poll) -> None:
    """Let faulthandler say where Python is, if it still can."""
    process.send_signal(signal.SIGABRT)
    poller.poll(GRACE * 1000)
    if not ended(process):
        print("watchdog: SIGABRT is blocked or was not answered", flush=True)
    kill_all(process)


def ended(process: subprocess.Popen[bytes]) -> bool:
    """Wait for all that have ended, siblings and odd exit signals included; whether the command is among them."""
    try:
        while (found := os.waitpid(-1, os.WNOHANG | WALL))[0]:
            if found[0] == process.pid:
                process.returncode = os.waitstatus_to_exitcode(found[1])
    except ChildProcessError:
        pass
    return process.returncode is not None


def everyone() -> Iterator[tuple[int, int]]:
    """Each process with its parent."""
    for name in filter(str.isdecimal, os.listdir("/proc")):
        stat = read(f"/proc/{name}/stat")
        if stat:
            yield int(name), int(stat.rpartition(")")[2].split()[1])


def descendants() -> list[int]:
    """Every process that comes from here, older ones first."""
    pairs = sorted(everyone())
    found = {os.getpid()}
    while more := {pid for pid, parent in pairs if parent in found} - found:
        found |= more
    return sorted(found - {os.getpid()})


def remaining(process: subprocess.Popen[bytes]) -> list[str]:
    """The processes that outlived the command, after a moment in which they may end."""
    deadline = time.monotonic() + PATIENCE
    while True:
        ended(process)
        alive = descendants()
        if not alive or time.monotonic() > deadline:
            return [f"{pid} ({read(f'/proc/{pid}/comm')}) {command_line(pid)}" for pid in alive]
        time.sleep(0.05)


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill what comes from here, and again what that started meanwhile."""
    deadline = time.monotonic() + GRACE
    while (alive := descendants()) and time.monotonic() < deadline:
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)
        ended(process)


def dump() -> None:
    """Print what the kernel knows of each task."""
    for pid in descendants():
        print(f"\nprocess {pid}: {command_line(pid)}")
        for tid in sorted(os.listdir(f"/proc/{pid}/task"), key=int) if Path(f"/proc/{pid}/task").exists() else []:
            where = f"/proc/{pid}/task/{tid}"
            status = dict(line.split(":\t", 1) for line in read(f"{where}/status").splitlines() if ":\t" in line)
            print(f"  task {tid} {status.get('Name')} {status.get('State')}, waits in {read(f'{where}/wchan') or '?'}")
            print(f"    syscall {read(f'{where}/syscall') or '?'}")
            print(f"    pending {status.get('SigPnd')} {status.get('ShdPnd')} blocked {status.get('SigBlk')}")
            for line in read(f"{where}/stack").splitlines():
                print(f"    {line}")
    sys.stdout.flush()


def command_line(pid: int) -> str:
    """The command line of a process."""
    return read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()


def read(path: str) -> str:
    """The text of a file of /proc, empty if it is gone or not for us."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""
