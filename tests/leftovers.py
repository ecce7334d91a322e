"""What a process holds that a test could leave behind: fds, children, threads, mappings of ours, blocked signals.

All is read from /proc, so that no library's own book-keeping can hide anything.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

PATIENCE = 10.0
"""Seconds that asynchronous ends may take."""

OURS = ("/memfd:sysclone", "/dev/zero (deleted)", "[anon:sysclone", "[anon_shmem:sysclone")
"""The names of mappings that are counted; a shared anonymous mapping is called /dev/zero (deleted)."""


@dataclass(frozen=True)
class Task:
    """One line of /proc/PID/stat."""

    pid: int
    name: str
    state: str
    parent: int
    group: int

    def __str__(self) -> str:
        kind = "zombie" if self.state == "Z" else "process"
        return f"{kind} {self.pid} ({self.name}, state {self.state}): {command_line(self.pid)}"


@dataclass(frozen=True)
class Holdings:
    """What a process holds at one moment."""

    fds: dict[int, str]
    children: dict[int, Task]
    threads: dict[int, str]
    idle: int
    mappings: Counter[str] = field(default_factory=Counter)
    blocked: frozenset[int] = frozenset()


def settle(before: Holdings, allowed: set[str]) -> list[str]:
    """What is there that was not before, once what ends by itself has had its time to end."""
    deadline = time.monotonic() + PATIENCE
    collected = False
    while True:
        now = look()
        left = [text for kind, text in compare(before, now) if kind not in allowed]
        remaining = deadline - time.monotonic()
        if not left or remaining <= 0:
            return left
        if not collected:
            gc.collect()  # a traceback kept in a cycle may hold a handle
            collected = True
            continue
        await_change([pid for pid in now.children if pid not in before.children], min(remaining, 0.02))


def await_change(children: list[int], seconds: float) -> None:
    """Wait until one of these children ends, at most so long: the end of a thread or a mapping has no fd to poll."""
    poller = select.poll()
    pidfds = []
    for pid in children:
        try:
            pidfds.append(os.pidfd_open(pid))
        except OSError:
            continue
    try:
        for pidfd in pidfds:
            poller.register(pidfd, select.POLLIN)
        if poller.poll(seconds * 1000):
            time.sleep(seconds)  # it has ended, and who is to reap it may not have come to that yet
    finally:
        for pidfd in pidfds:
            os.close(pidfd)


def compare(before: Holdings, now: Holdings) -> list[tuple[str, str]]:
    """The kinds and names of what came and stayed."""
    left = [("fds", f"fd {fd} -> {target}") for fd, target in now.fds.items() if before.fds.get(fd) != target]
    left += [("children", str(task)) for pid, task in now.children.items() if pid not in before.children]
    new = {tid: name for tid, name in now.threads.items() if tid not in before.threads}
    if len(new) > max(now.idle - before.idle, 0) + len(before.threads.keys() - now.threads.keys()):
        left += [("threads", f"thread {tid} ({name}); helpers idle: {now.idle}") for tid, name in new.items()]
    for name, size in now.mappings.items():
        if size > before.mappings[name]:
            left.append(("mappings", f"mapping {name}: {before.mappings[name]} -> {size}"))
    if now.blocked != before.blocked:
        left.append(("signals", f"blocked signals: {sorted(before.blocked)} -> {sorted(now.blocked)}"))
    return left


def look() -> Holdings:
    """What this process holds now."""
    return Holdings(open_fds(), children(), threads(), idle_helpers(), mappings(), blocked())


def open_fds() -> dict[int, str]:
    """Each open fd with what it is."""
    fds = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            fds[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one that listdir read from
    return fds


def children() -> dict[int, Task]:
    """Each child, dead ones not yet waited for included, and each live sibling that CLONE_PARENT made of this group."""
    me, parent, group = os.getpid(), os.getppid(), os.getpgrp()
    found = {}
    for name in os.listdir("/proc"):
        task = read_stat(name) if name.isdecimal() else None
        if task is None or task.pid == me:
            continue
        sibling = task.parent == parent and task.group == group and task.state != "Z"
        if task.parent == me or sibling:
            found[task.pid] = task
    return found


def read_stat(pid: str) -> Task | None:
    """The task that /proc/PID/stat tells of; a name may hold blanks and brackets."""
    try:
        before, _, after = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent, group, *_ = after.split()
    return Task(int(pid), before.partition("(")[2], state, int(parent), int(group))


def command_line(pid: int) -> str:
    """The command line of a process, for people."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "gone"


def threads() -> dict[int, str]:
    """Each task of this process with its name."""
    found = {}
    for tid in os.listdir("/proc/self/task"):
        try:
            found[int(tid)] = Path(f"/proc/self/task/{tid}/comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def blocked() -> frozenset[int]:
    """The signals that this thread has blocked: every process that it starts has them blocked too."""
    return frozenset(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))


def idle_helpers() -> int:
    """How many helper threads the extension keeps for the next task: those may stay."""
    core = sys.modules.get("sysclone._core")
    return int(core.pool_info()[0]) if core is not None and hasattr(core, "pool_info") else 0


def mappings() -> Counter[str]:
    """Bytes mapped under each name of OURS, and the number of such mappings."""
    found: Counter[str] = Counter()
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, permissions, _, _, _, *rest = line.split(maxsplit=5)
        name = rest[0] if rest else ""
        if name.startswith(OURS):
            low, high = (int(address, 16) for address in addresses.split("-"))
            found[f"{name} {permissions}, bytes"] += high - low
            found[f"{name} {permissions}, number"] += 1
    return found
