"""Cgroups of an executor's own: one a process, for its memory and its number of processes, of either version.

Version 1 has a hierarchy for each controller, so a process may need two directories; version 2 has one. They are made
below the cgroup that the program is in; in version 2, where a cgroup with processes cannot have children with
controllers, beside it, as systemd delegates them. Nothing that exists already is changed.
"""

from __future__ import annotations

import errno
import itertools
import os

from .. import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_numbers = itertools.count(1)
_KILL: Final = 9


class Hierarchy:
    """Where a controller is: the directory to make cgroups in, and the version."""

    __slots__ = ("base", "version")

    def __init__(self, base: str, version: int) -> None:
        self.base = base
        self.version = version


def find(controller: str, cgroups: str, mountinfo: str) -> Hierarchy | None:
    """Where cgroups with a controller may be made.

    Args:
        controller: "memory" or "pids".
        cgroups: the text of /proc/self/cgroup.
        mountinfo: the text of /proc/self/mountinfo.
    """
    own: dict[str, str] = {}
    for line in cgroups.splitlines():
        number, names, path = line.split(":", 2)
        for name in names.split(",") if number != "0" else [""]:
            own[name] = path
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _source, options = after.split(" ", 2)
        root, mount = before.split()[3:5]
        if kind == "cgroup" and controller in options.split(",") and controller in own:
            return Hierarchy(_below(mount, root, own[controller]), 1)
        if kind == "cgroup2" and "" in own:
            base = _delegated(controller, mount, _below(mount, root, own[""]))
            if base is not None:
                return Hierarchy(base, 2)
    return None


def _below(mount: str, root: str, path: str) -> str:
    if root != "/" and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    return os.path.join(mount, path.lstrip("/")).rstrip("/")


def _delegated(controller: str, mount: str, own: str) -> str | None:
    """The directory at or above one's own cgroup whose children have the controller."""
    for base in (own, os.path.dirname(own)):
        if len(base) >= len(mount) and controller in _read(os.path.join(base, "cgroup.subtree_control")).split():
            return base
    return None


def _read(path: str) -> str:
    try:
        with open(path) as f:
            return f.read()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    with open(path, "w") as f:
        f.write(text)


class Group:
    """The cgroups of one process; closed when it has ended.

    Attributes:
        directories: each of them, with its version.
        counts_processes: whether one of them limits the number of processes.
    """

    def __init__(self) -> None:
        self.directories: list[tuple[str, int]] = []
        self._memory: tuple[str, int] | None = None
        self.counts_processes = False

    @classmethod
    def make(cls, memory_bytes: int | None, processes: int | None) -> Group:
        """Make them.

        Raises:
            OSError: there is no such controller here, or it is not to be had; nothing is left of it.
        """
        group = cls()
        try:
            if memory_bytes is not None:
                group._memory = group._directory("memory")
                group._limit_memory(*group._memory, memory_bytes)
            if processes is not None:
                directory, _ = group._directory("pids")
                _write(os.path.join(directory, "pids.max"), str(processes + 1))
                group.counts_processes = True
        except BaseException:
            group.close()
            raise
        return group

    def _directory(self, controller: str) -> tuple[str, int]:
        with open("/proc/self/cgroup") as cgroups, open("/proc/self/mountinfo") as mountinfo:
            hierarchy = find(controller, cgroups.read(), mountinfo.read())
        if hierarchy is None:
            raise OSError(
                errno.ENOENT, f"no cgroup hierarchy with the {controller} controller in which one may be made"
            )
        for directory, version in self.directories:
            if version == hierarchy.version == 2:
                return directory, version
        directory = os.path.join(hierarchy.base, f"sysclone-{os.getpid()}-{next(_numbers)}")
        os.mkdir(directory)
        self.directories.append((directory, hierarchy.version))
        return directory, hierarchy.version

    @staticmethod
    def _limit_memory(directory: str, version: int, memory_bytes: int) -> None:
        if version == 1:
            _write(os.path.join(directory, "memory.limit_in_bytes"), str(memory_bytes))
            swap = os.path.join(directory, "memory.memsw.limit_in_bytes")
            if os.path.exists(swap):
                _write(swap, str(memory_bytes))
            return
        _write(os.path.join(directory, "memory.max"), str(memory_bytes))
        for name, text in (("memory.swap.max", "0"), ("memory.oom.group", "1")):
            if os.path.exists(os.path.join(directory, name)):
                _write(os.path.join(directory, name), text)

    def open(self) -> list[int]:
        """An fd of each cgroup.procs, yours to close: who writes "0" there moves itself in."""
        return [
            os.open(os.path.join(directory, "cgroup.procs"), os.O_WRONLY | os.O_CLOEXEC)
            for directory, _ in self.directories
        ]

    @property
    def memory_by(self) -> str | None:
        """What limits the memory, in words; None where nothing here does."""
        return None if self._memory is None else f"cgroup v{self._memory[1]}"

    def oom_kills(self) -> int:
        """How many processes the OOM killer has ended in it."""
        return 0 if self._memory is None else oom_kills(*self._memory)

    def peak_bytes(self) -> int | None:
        """The most memory that was taken at once; None where the kernel does not tell."""
        if self._memory is None:
            return None
        directory, version = self._memory
        text = _read(os.path.join(directory, "memory.max_usage_in_bytes" if version == 1 else "memory.peak")).strip()
        return int(text) if text.isdigit() else None

    def close(self) -> bool:
        """End whatever is still in it, and remove it; False while something is."""
        for directory, version in list(self.directories):
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                pass
            except OSError:
                _end_members(directory, version)
                continue
            self.directories.remove((directory, version))
        return not self.directories


def oom_kills(directory: str, version: int) -> int:
    """The oom_kill counter of a memory cgroup; 0 where there is none."""
    text = _read(os.path.join(directory, "memory.oom_control" if version == 1 else "memory.events"))
    for line in text.splitlines():
        name, _, count = line.partition(" ")
        if name == "oom_kill":
            return int(count)
    return 0


def _end_members(directory: str, version: int) -> None:
    """SIGKILL to every process in a cgroup: what the task has left behind."""
    if version == 2 and os.path.exists(os.path.join(directory, "cgroup.kill")):
        try:
            _write(os.path.join(directory, "cgroup.kill"), "1")
        except OSError:
            pass
        return
    for pid in _read(os.path.join(directory, "cgroup.procs")).split():
        try:
            pidfd = _core.pidfd_open(int(pid), 0)
        except OSError:
            continue
        try:
            # The number may have become another's since it was read: a member that is one now is the pidfd's.
            if pid in _read(os.path.join(directory, "cgroup.procs")).split():
                _core.pidfd_send_signal(pidfd, _KILL, 0)
        except OSError:
            pass
        finally:
            os.close(pidfd)
