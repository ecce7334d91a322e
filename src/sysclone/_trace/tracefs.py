"""A private tracefs instance: the kernel's own record of tasks made, programs begun and tasks ended, system-wide.

Three things could leave an instance behind, which would go on recording. It is removed when it is closed; a helper in a
session of its own removes it when this program ends without closing it, by SIGKILL too; and where both were killed, the
next one finds it by its name, which holds the pid and the start time of its owner.
"""

from __future__ import annotations

import os
import re
import select
import time

from .. import _core
from .._errors import CloneError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

EVENTS: Final = ("task/task_newtask", "sched/sched_process_exec", "sched/sched_process_exit")
_PREFIX: Final = "sysclone-"
_NAME: Final = re.compile(rf"{_PREFIX}(\d+)-(\d+)-\d+$")
_BUFFER_KIB: Final = 8192
_MOUNTED: Final = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
_PATIENCE: Final = 5.0

_LINE: Final = re.compile(rb"^ *(.*)-(\d+) +\[\d+\] +\S+ +(\d+)\.(\d+): (\w+): (.*)$", re.DOTALL)
_LOST: Final = re.compile(rb"^CPU:\d+ \[LOST (\d+) EVENTS\]$")
_NEWTASK: Final = re.compile(rb"pid=(\d+) comm=(.*) clone_flags=([0-9a-f]+) oom_score_adj=-?\d+$", re.DOTALL)
_EXEC: Final = re.compile(rb"filename=(.*) pid=(\d+) old_pid=(\d+)$", re.DOTALL)
_EXIT: Final = re.compile(rb"comm=(.*) pid=(\d+) prio=-?\d+", re.DOTALL)

# What the removing helper runs, with the instance as its argument; it ends when its input does.
_GUARD: Final = (
    'trap "" HUP INT TERM QUIT; read -r _; n=0; '
    'while [ -d "$1" ] && ! rmdir "$1" 2>/dev/null && [ $n -lt 50 ]; do sleep 0.1; n=$((n + 1)); done'
)


class Record:
    """A line of the trace.

    Attributes:
        kind: "task_newtask", "sched_process_exec", "sched_process_exit", or "lost".
        when: seconds of CLOCK_MONOTONIC.
        tid: the task that did it.
        other: the new task, or exec's former id; how many were lost.
        flags: of a new task, as the kernel has them: without the exit signal.
        name: the program's file, or the task's name.
        by: the name of the task that did it, as it was called then.
    """

    __slots__ = ("by", "flags", "kind", "name", "other", "tid", "when")

    def __init__(
        self, kind: str, when: float, tid: int, other: int, flags: int = 0, name: str = "", by: str = ""
    ) -> None:
        self.kind = kind
        self.when = when
        self.tid = tid
        self.other = other
        self.flags = flags
        self.name = name
        self.by = by


def parse(line: bytes) -> Record | None:
    """A line of trace_pipe, without its newline; None for one that tells nothing of ours."""
    lost = _LOST.match(line)
    if lost:
        return Record("lost", 0.0, 0, int(lost[1]))
    found = _LINE.match(line)
    if not found:
        return None
    by = os.fsdecode(found[1])
    tid, when, kind, rest = int(found[2]), int(found[3]) + int(found[4]) / 10 ** len(found[4]), found[5], found[6]
    if kind == b"task_newtask" and (made := _NEWTASK.match(rest)):
        return Record("task_newtask", when, tid, int(made[1]), int(made[3], 16), os.fsdecode(made[2]), by)
    if kind == b"sched_process_exec" and (began := _EXEC.match(rest)):
        return Record("sched_process_exec", when, int(began[2]), int(began[3]), 0, os.fsdecode(began[1]), by)
    if kind == b"sched_process_exit" and (ended := _EXIT.match(rest)):
        return Record("sched_process_exit", when, int(ended[2]), 0, 0, os.fsdecode(ended[1]), by)
    return None


def _start_time(pid: int) -> int:
    """When a process began, in ticks since boot; 0 where there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return 0


class Instance:
    """An instance with our events switched on. Close it.

    Args:
        buffer_kib: the kernel's buffer for each CPU.

    Raises:
        CloneError: tracefs cannot be had, with the step.
    """

    _count = 0

    def __init__(self, buffer_kib: int = _BUFFER_KIB) -> None:
        self._root = _open_root()
        self._guard: int | None = None
        self._alive = self._pipe = -1
        self._rest = b""
        Instance._count += 1
        self.name = f"{_PREFIX}{os.getpid()}-{_start_time(os.getpid())}-{Instance._count}"
        self._owner = os.getpid()
        try:
            self._sweep()
            self._begin_guard()
            os.mkdir(f"instances/{self.name}", dir_fd=self._root)
            self._write("trace_clock", "mono")
            self._write("buffer_size_kb", str(buffer_kib))
            try:
                self._write("buffer_percent", "0")
            except FileNotFoundError:
                pass  # before Linux 5.0 the reader is always told at once
            self._pipe = os.open(
                self._path("trace_pipe"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._root
            )
            for event in EVENTS:
                self._write(f"events/{event}/enable", "1")
        except OSError as e:
            self.close()
            raise CloneError(e.errno or 0, f"tracefs({e.filename or self.name})", "") from e
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """The pipe, the instance's own: readable when there is something."""
        return self._pipe

    def read(self, timeout: float | None, waker: int) -> list[Record]:
        """What is there, waiting for something at most timeout seconds, or until the eventfd is written; then, an empty list."""
        found = select.select([self._pipe, waker], [], [], timeout)[0]
        if waker in found:
            os.eventfd_read(waker)
        return self.drain() if self._pipe in found else []

    def drain(self) -> list[Record]:
        """What is there, without waiting."""
        out = []
        while True:
            try:
                data = os.read(self._pipe, 1 << 16)
            except BlockingIOError:
                break
            if not data:
                break
            *lines, self._rest = (self._rest + data).split(b"\n")
            out += [record for line in lines if (record := parse(line)) is not None]
            if len(out) > 4096:
                break
        return out

    def stop(self) -> None:
        """Record nothing more; what was recorded can still be read."""
        self._write("tracing_on", "0")

    def close(self) -> None:
        """Remove it. Closing twice is no error; a forked copy closes its fds alone."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        if self._root >= 0 and os.getpid() == self._owner:
            self._remove(self.name)
        if self._alive >= 0:
            os.close(self._alive)
            self._alive = -1
        if self._guard is not None and os.getpid() == self._owner:
            try:
                os.waitpid(self._guard, 0)
            except ChildProcessError:
                pass  # another waited for it
            self._guard = None
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def _path(self, name: str) -> str:
        return f"instances/{self.name}/{name}"

    def _write(self, name: str, text: str) -> None:
        fd = os.open(self._path(name), os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._root)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def _remove(self, name: str) -> None:
        """Remove an instance, when its last reader has gone."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                os.rmdir(f"instances/{name}", dir_fd=self._root)
            except FileNotFoundError:
                return
            except OSError:
                if time.monotonic() > deadline:
                    return
                time.sleep(0.01)
            else:
                return

    def _sweep(self) -> None:
        """Remove the instances of owners that are no more."""
        for name in list(_names(self._root)):
            found = _NAME.match(name)
            if found and _start_time(int(found[1])) != int(found[2]):
                self._remove(name)

    def _begin_guard(self) -> None:
        """Start the helper; it ends when the pipe's other end is closed, by us or by our end."""
        reading, self._alive = os.pipe()
        try:
            path = f"/proc/self/fd/3/instances/{self.name}"
            actions = [(os.POSIX_SPAWN_DUP2, reading, 0), (os.POSIX_SPAWN_DUP2, self._root, 3)]
            command = ["sysclone-tracefs", "-c", _GUARD, "sh", path]
            self._guard = os.posix_spawn("/bin/sh", command, os.environ, file_actions=actions, setsid=True)
        finally:
            os.close(reading)


def _names(root: int) -> Iterator[str]:
    fd = os.open("instances", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    try:
        yield from os.listdir(fd)
    finally:
        os.close(fd)


def _open_root() -> int:
    """The root of tracefs, mounted nowhere where that can be had, or else where it is mounted."""
    try:
        return _core.detached_mount("tracefs")
    except OSError as refused:
        for path in _MOUNTED:
            try:
                fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                continue
            if os.access("instances", os.W_OK | os.X_OK, dir_fd=fd):
                return fd
            os.close(fd)
        raise CloneError(
            refused.errno or 0,
            "mount(tracefs)",
            "likely: tracing the whole system takes root, with CAP_SYS_ADMIN\ntry: as root",
        ) from None


def leftovers() -> list[str]:
    """The names of the instances that sysclone has made and that are there."""
    root = _open_root()
    try:
        return [name for name in _names(root) if name.startswith(_PREFIX)]
    finally:
        os.close(root)
