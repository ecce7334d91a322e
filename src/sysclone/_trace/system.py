"""A trace of the whole system, by a private tracefs instance: nobody is stopped for it."""

from __future__ import annotations

import os
import time
from collections import deque

from .._errors import SyscloneError
from .._flags import Clone
from .events import CloneEvent, ExecEvent, ExitEvent
from .session import Trace
from .tracefs import Instance, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._task.status import Status
    from .events import Event
    from .policy import Policy

_THREAD = int(Clone.THREAD)


class SystemTrace(Trace):
    """Every task that is made, every program that begins, every end, of the whole system, until it is closed.

    Seen are a new task's flags (its exit signal is not), the program's file, and that a task ended, but not how. Calls
    that fail, unshare and setns are not seen.
    """

    def __init__(self, policy: Policy) -> None:
        self._instance = Instance()
        self._policy = policy
        self._ready: deque[Event] = deque()
        self._ended = self._died = False
        self._owner = os.getpid()
        self._process: dict[int, int] = {}
        self.process = None
        self.epoch = time.time() - time.monotonic()
        self.warnings: list[str] = []
        self.lost = 0

    @property
    def status(self) -> Status | None:
        """None: there is no program."""
        return None

    @property
    def stops(self) -> int:
        """None was stopped."""
        return 0

    def fileno(self) -> int:
        """The trace's own fd: readable when there is something to read.

        Raises:
            ValueError: the trace has ended.
        """
        if self._ended:
            raise ValueError("the trace has ended")
        return self._instance.fileno()

    def read(self, timeout: float | None = None) -> bool | None:
        """As of Trace.

        Raises:
            SyscloneError: the kernel's buffer was full, and events are lost.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._ready:
            if self._ended:
                return None
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            records = self._instance.read(left)
            events = [event for record in records if (event := self._event(record)) is not None]
            self._ready.extend(self._policy.chosen(events))
            if not records and deadline is not None and time.monotonic() >= deadline:
                return False
        return True

    def close(self) -> None:
        """Remove the instance. Closing twice is no error."""
        self._ready.clear()
        if not self._ended:
            self._ended = True
            self._instance.close()

    def detach(self) -> None:
        """The same as close."""
        self.close()

    def _event(self, record: Record) -> Event | None:
        if record.kind == "task_newtask":
            pid = self._process_of(record.tid)
            self._process[record.other] = pid if record.flags & _THREAD else record.other
            struct = (record.flags, *(0,) * 10)
            return CloneEvent(
                record.when, pid, record.tid, record.kind, struct, child=record.other, result=record.other
            )
        if record.kind == "sched_process_exec":
            self._process.pop(record.other, None)
            self._process[record.tid] = record.tid
            return ExecEvent(record.when, record.tid, record.other, "execve", record.name, None, result=0)
        if record.kind == "sched_process_exit":
            pid = self._process_of(record.tid)
            self._process.pop(record.tid, None)
            return ExitEvent(record.when, pid, record.tid, "exit", None)
        self.lost += record.other
        raise SyscloneError(f"the kernel's buffer was full: {record.other} events are lost; {self.lost} in all")

    def _process_of(self, tid: int) -> int:
        """A task's process: as its birth told, or as /proc still knows it; else the task itself."""
        pid = self._process.get(tid)
        if pid is None:
            pid = tid
            try:
                with open(f"/proc/{tid}/status", encoding="ascii", errors="replace") as file:
                    pid = next(int(line.split()[1]) for line in file if line.startswith("Tgid:"))
            except (OSError, StopIteration):
                pass
            self._process[tid] = pid
        return pid
