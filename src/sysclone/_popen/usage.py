"""What a program and its tree used: CPU, peak memory, faults, I/O; and what of it the kernel does not show."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

_TICK: Final = os.sysconf("SC_CLK_TCK")
_BLOCK: Final = 512
_FIELDS: Final = (
    "user_seconds",
    "system_seconds",
    "peak_memory_bytes",
    "minor_faults",
    "major_faults",
    "read_bytes",
    "written_bytes",
)


class Usage:
    """What was used; None where the kernel does not show it.

    Attributes:
        user_seconds, system_seconds: CPU time.
        peak_memory_bytes: the most resident memory of one process; of a cgroup, of all at once.
        minor_faults, major_faults: page faults without and with I/O.
        read_bytes, written_bytes: to and from storage.
        covers: whose use this is, in words.
        unseen: what is not in it, in words. A program's peak is not, once it has ended, where it was no higher than its
            creator's: exec counts the creator's as the program's.
    """

    __slots__ = (*_FIELDS, "covers", "unseen")

    user_seconds: float | None
    system_seconds: float | None
    peak_memory_bytes: int | None
    minor_faults: int | None
    major_faults: int | None
    read_bytes: int | None
    written_bytes: int | None
    covers: str
    unseen: tuple[str, ...]

    def __init__(self, values: dict[str, float | None], covers: str, unseen: Iterable[str] = ()) -> None:
        for name in _FIELDS:
            setattr(self, name, values.get(name))
        self.covers = covers
        why = tuple(unseen)
        told = {what.partition(":")[0] for what in why}
        self.unseen = (*why, *(name for name in _FIELDS if values.get(name) is None and name not in told))

    @property
    def cpu_seconds(self) -> float | None:
        """User and system time together."""
        if self.user_seconds is None or self.system_seconds is None:
            return None
        return self.user_seconds + self.system_seconds

    def plus(self, others: list[Usage], covers: str, unseen: Iterable[str]) -> Usage:
        """The sum of several, and of peaks the highest; what one does not show, the sum lacks."""
        values: dict[str, float | None] = {}
        for name in _FIELDS:
            found = [value for one in (self, *others) if (value := getattr(one, name)) is not None]
            values[name] = (max(found) if name == "peak_memory_bytes" else sum(found)) if found else None
        return Usage(values, covers, unseen)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in _FIELDS if getattr(self, name) is not None)
        return f"<Usage of {self.covers}: {shown}>"


def of_process(pid: int, with_children: bool) -> Usage:
    """A living process or a zombie, by its number: the caller holds it.

    Args:
        pid: the process.
        with_children: whether to count the children that it has waited for, as rusage does.
    """
    values: dict[str, float | None] = {}
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        minor, minor_below, major, major_below = map(int, fields[7:11])
        user, system, user_below, system_below = map(int, fields[11:15])
        below = 1 if with_children else 0
        values["user_seconds"] = (user + below * user_below) / _TICK
        values["system_seconds"] = (system + below * system_below) / _TICK
        values["minor_faults"] = minor + below * minor_below
        values["major_faults"] = major + below * major_below
        peak = _peak_of(pid)
        values["peak_memory_bytes"] = peak * 1024 if peak is not None else None
        with open(f"/proc/{pid}/io", "rb") as file:
            counts = {name: int(number) for name, _, number in (line.partition(b":") for line in file)}
        # The kernel adds those of children that were waited for.
        values["read_bytes"], values["written_bytes"] = counts.get(b"read_bytes"), counts.get(b"write_bytes")
    except (OSError, ValueError, IndexError):
        pass
    return Usage(values, f"process {pid}")


def of_rusage(fields: tuple[float, ...], peak_before: int | None) -> Usage:
    """A program that was waited for: the kernel has added the children that it waited for itself.

    exec adds the peak of the memory that it leaves to the program's, and that was its creator's: so a peak that is no higher
    is not the program's.

    Args:
        fields: of its rusage.
        peak_before: the creator's peak at its start, in KiB; None where nobody looked.
    """
    values: dict[str, float | None] = {
        "user_seconds": fields[0],
        "system_seconds": fields[1],
        "peak_memory_bytes": int(fields[2]) * 1024,
        "minor_faults": int(fields[6]),
        "major_faults": int(fields[7]),
        "read_bytes": int(fields[9]) * _BLOCK,
        "written_bytes": int(fields[10]) * _BLOCK,
    }
    unseen = []
    # What getrusage says of the creator has its own creator's in it.
    known = [kib for kib in (peak_before, _peak_of("self")) if kib is not None]
    if known and fields[2] <= min(known):
        values["peak_memory_bytes"] = None
        unseen.append(
            f"peak_memory_bytes: no more than the {int(fields[2]) * 1024} of this program, which exec counts as its"
        )
    return Usage(values, "the program and the children that it waited for", unseen)


def _peak_of(pid: int | str) -> int | None:
    """The most KiB that were resident of a process's memory, whoever was there first."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return next((int(line.split()[1]) for line in file if line.startswith(b"VmHWM:")), None)
    except OSError:
        return None


def of_cgroup(directory: int, name: str) -> Usage:
    """A cgroup of either version, by an fd of its directory: all that ever ran there."""
    cpu, memory = _table(directory, "cpu.stat"), _table(directory, "memory.stat")
    values: dict[str, float | None] = {}
    if "user_usec" in cpu:
        values["user_seconds"], values["system_seconds"] = cpu["user_usec"] / 1e6, cpu["system_usec"] / 1e6
    else:
        ticks = _table(directory, "cpuacct.stat")
        values["user_seconds"] = ticks["user"] / _TICK if "user" in ticks else None
        values["system_seconds"] = ticks["system"] / _TICK if "system" in ticks else None
    values["peak_memory_bytes"] = _number(directory, "memory.peak", "memory.max_usage_in_bytes")
    major = memory.get("pgmajfault", memory.get("total_pgmajfault"))
    every = memory.get("pgfault", memory.get("total_pgfault"))
    values["major_faults"] = major
    values["minor_faults"] = every - major if every is not None and major is not None else None
    values["read_bytes"], values["written_bytes"] = _io(directory)
    return Usage(values, f"cgroup {name}, since it was made")


def _read(directory: int, name: str) -> str:
    try:
        with open(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory), encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def _table(directory: int, name: str) -> dict[str, int]:
    rows = (line.split() for line in _read(directory, name).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal()}


def _number(directory: int, *names: str) -> int | None:
    for name in names:
        text = _read(directory, name).strip()
        if text.isdecimal():
            return int(text)
    return None


def _io(directory: int) -> tuple[int | None, int | None]:
    words = [word.partition("=") for line in _read(directory, "io.stat").splitlines() for word in line.split()[1:]]
    if words or os.access("io.stat", os.F_OK, dir_fd=directory):
        read = sum(int(value) for name, _, value in words if name == "rbytes")
        return read, sum(int(value) for name, _, value in words if name == "wbytes")
    rows = [line.split() for line in _read(directory, "blkio.throttle.io_service_bytes").splitlines()]
    if not rows:
        return None, None
    found = {which: sum(int(row[2]) for row in rows if row[1:2] == [which]) for which in ("Read", "Write")}
    return found["Read"], found["Write"]


def oom_kills(directory: int) -> int | None:
    """How often the kernel has killed in a cgroup for memory, by an fd of its directory; None where it does not count."""
    for name in ("memory.events", "memory.oom_control"):
        found = _table(directory, name).get("oom_kill")
        if found is not None:
            return found
    return None
