"""A trace of the whole system, by a private tracefs instance: nobody is stopped for it."""

from __future__ import annotations

import os
import time
from collections import deque

from .._errors import SyscloneError
from .._flags import Clone
from .._kernel import why_no_proc
from .begin import look, status_of
from .events import AttachEvent, CloneEvent, ExecEvent, ExitEvent
from .session import Trace
from .tracefs import Instance, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._task.status import Status
    from .events import Event
    from .policy import Policy

_THREAD = int(Clone.THREAD)
_INITIAL = 0xEFFFFFFC  # PROC_PID_INIT_INO


class EventsLost(SyscloneError):
    """The kernel's buffer was full; what comes after can still be read."""


class SystemTrace(Trace):
    """Every task that is made, every program that begins, every end, of the whole system, until it is closed.

    Seen are a new task's flags (its exit signal is not), the program's file, and that a task ended, but not how. Calls
    that fail, unshare and setns are not seen.
    """

    def __init__(self, policy: Policy) -> None:
        self._instance = Instance()
        self._policy = policy
        self._ready: deque[Event] = deque()
        self._ended = self._died = self._woken = False
        self._waker = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._records: deque[Record] = deque()
        self._owner = os.getpid()
        self._process: dict[int, int] = {}
        self.process = None
        self.epoch = time.time() - time.monotonic()
        self.warnings: list[str] = []
        self.lost = 0
        self._knows_numbers = _is_initial()

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
            woken = self._woken
            left = 0.0 if woken else None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._records:
                self._records.extend(self._instance.read(left, self._waker))
            some = bool(self._records)
            self._ready.extend(self._policy.chosen(self._events()))
            if not some and (woken or (deadline is not None and time.monotonic() >= deadline)):
                self._woken = False
                return False
        return True

    def _events(self) -> list[Event]:
        """Of the records that are there, up to the next loss; a loss itself is raised when it is the first."""
        events: list[Event] = []
        while self._records:
            record = self._records[0]
            if record.kind == "lost":
                if events:
                    break
                self._records.popleft()
                self.lost += record.other
                raise EventsLost(f"the kernel's buffer was full: {record.other} events are lost; {self.lost} in all")
            events += self._introduction(record)
            events += self._event(record)
            self._records.popleft()
        return events

    def _write_wake(self) -> None:
        os.eventfd_write(self._waker, 1)

    def close(self) -> None:
        """Remove the instance. Closing twice is no error."""
        self._ready.clear()
        if not self._ended:
            self._ended = True
            self._instance.close()
            os.close(self._waker)

    def detach(self) -> None:
        """The same as close."""
        self.close()

    def _introduction(self, record: Record) -> list[Event]:
        """Of a task that was there before: what it is, once, before what it does."""
        tid = record.other if record.kind == "sched_process_exec" else record.tid
        if tid in self._process:
            return []
        status = status_of(tid) if self._knows_numbers else {}
        pid = self._process[tid] = int(status.get("Tgid", tid))
        argv = look(tid)[1] if status else ()
        return [AttachEvent(record.when, pid, tid, "attach", record.by, argv, int(status.get("PPid", 0)))]

    def _event(self, record: Record) -> list[Event]:
        if record.kind == "task_newtask":
            pid = self._process[record.tid]
            self._process[record.other] = pid if record.flags & _THREAD else record.other
            struct = (record.flags, *(0,) * 10)
            return [
                CloneEvent(record.when, pid, record.tid, record.kind, struct, child=record.other, result=record.other)
            ]
        if record.kind == "sched_process_exec":
            self._process.pop(record.other, None)
            self._process[record.tid] = record.tid
            return [ExecEvent(record.when, record.tid, record.other, "execve", record.name, None, result=0)]
        return [ExitEvent(record.when, self._process.pop(record.tid), record.tid, "exit", None)]


def _is_initial() -> bool:
    """Whether /proc here has the numbers that the kernel's record has: those of the initial pid namespace."""
    try:
        return not why_no_proc() and os.readlink("/proc/self/ns/pid") == f"pid:[{_INITIAL}]"
    except OSError:
        return False
