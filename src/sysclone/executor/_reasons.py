"""Why a process died: from its status, its cgroup, and what the kernel keeps a record of."""

from __future__ import annotations

import errno
import os
import signal

from .._errors import TaskFailed, TaskOverLimit, TaskTimeout
from .._task.status import Status
from .._task.task import failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from ._groups import Group
    from ._options import Options

_KMSG_BYTES: Final = 8192
_FIRST_PID_NAMESPACE: Final = 0xEFFFFFFC
_CPU_SIGNALS: Final = frozenset(map(int, (signal.SIGXCPU, signal.SIGPROF)))


class OomWatch:
    """What the kernel's counters of OOM kills said before: of the whole machine, and of the cgroup the program is in."""

    def __init__(self) -> None:
        self._before = self._count()

    @staticmethod
    def _count() -> int:
        count = 0
        try:
            with open("/proc/vmstat") as f:
                count += sum(int(line.split()[1]) for line in f if line.startswith("oom_kill "))
        except OSError:
            pass
        return count

    def explains(self, pid: int) -> str:
        """Whether the OOM killer ended a process, in words; empty where nothing says so."""
        now = self._count()
        if now <= self._before:
            return ""
        record = _kernel_record(pid)
        if record:
            self._before = now
            return f"by the OOM killer; the kernel's record: {record}"
        if record is None:
            return "likely by the OOM killer, which has ended a process since; the kernel's record cannot be read"
        return ""


def _kernel_record(pid: int) -> str | None:
    """The kernel's line on an OOM kill of a process; empty where there is none, None where it cannot be read.

    The log has the pids of the first pid namespace: elsewhere the number is another process's.
    """
    try:
        if os.stat("/proc/self/ns/pid").st_ino != _FIRST_PID_NAMESPACE:
            return None
        fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    found = ""
    try:
        while True:
            try:
                record = os.read(fd, _KMSG_BYTES).decode(errors="replace").partition(";")[2].partition("\n")[0]
            except BrokenPipeError:
                continue  # overwritten while it was read
            if f"Killed process {pid} " in record:
                found = record
    except OSError as e:
        return found if e.errno == errno.EAGAIN else found or None
    finally:
        os.close(fd)


def of_death(
    pid: int,
    status: Status,
    options: Options,
    *,
    group: Group | None,
    memory_by: str | None,
    over: int | None,
    oom: OomWatch,
) -> TaskFailed:
    """The error for a process that ended without a result.

    Args:
        pid: of the process.
        status: how it ended.
        options: of the call that it was at.
        group: its cgroups.
        memory_by: what limits its memory.
        over: the RSS that it was ended for.
        oom: the counters from before.
    """
    limits: dict[str, Any] = {"pid": pid, "status": status}
    if over is not None:
        limits |= {"limit": "memory_bytes", "value": options.memory_bytes, "enforced_by": "watched RSS"}
        return TaskOverLimit(detail=f"it held {over} bytes more than at its beginning", **limits)
    if status.signal == signal.SIGKILL and group is not None and group.oom_kills():
        peak = group.peak_bytes()
        limits |= {"limit": "memory_bytes", "value": options.memory_bytes, "enforced_by": memory_by}
        return TaskOverLimit(
            detail=f"by the OOM killer; its most was {peak} bytes" if peak else "by the OOM killer", **limits
        )
    if options.cpu_seconds is not None and status.signal in _CPU_SIGNALS:
        by = "RLIMIT_CPU" if status.signal == signal.SIGXCPU else "a processor timer"
        return TaskOverLimit(limit="cpu_seconds", value=options.cpu_seconds, enforced_by=by, **limits)
    error = failure(pid, status)
    if status.signal == signal.SIGKILL:
        error.detail = oom.explains(pid)
    return error


def of_timeout(pid: int, seconds: float, still_running: bool, state: str) -> TaskTimeout:
    """The error for a call that was ended for being late."""
    error = TaskTimeout(pid=pid, seconds=seconds, still_running=still_running)
    if state in ("T", "t"):
        error.add_note(f"process {pid} had been stopped by a signal (state {state}) and not continued")
    return error


def state_of(pid: int) -> str:
    """The state letter in /proc/PID/stat; empty where it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            return f.read().rpartition(b")")[2].split()[0].decode()
    except (OSError, IndexError):
        return ""


def annotate(exception: BaseException, options: Options, memory_by: str | None) -> BaseException:
    """Say with an error of the function's own which limit it has met, where it looks like one."""
    number = getattr(exception, "errno", None)
    note = ""
    if isinstance(exception, MemoryError) and memory_by == "RLIMIT_AS":
        note = f"the call's limit: memory_bytes={options.memory_bytes} (RLIMIT_AS)"
    elif number == errno.EMFILE and options.files is not None:
        note = f"the call's limit: files={options.files} (RLIMIT_NOFILE)"
    elif options.processes is not None and (number == errno.EAGAIN or "can't start new thread" in str(exception)):
        note = f"the call's limit: processes={options.processes}"
    if note and note not in getattr(exception, "__notes__", ()):
        exception.add_note(note)
    return exception
