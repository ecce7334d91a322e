"""A trace that goes on: reading its events, and ending it.

The stops are taken by a task of its own (_core/tracer.c); here it is told what to do, and read.
"""

from __future__ import annotations

import os
import time
from collections import deque

from .._errors import TaskKilled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Final, NoReturn, Self

    from .. import _core
    from .._popen.popen import Popen
    from .._task.status import Status
    from .build import Builder
    from .events import Event
    from .policy import Policy

KILL, DETACH, KEEP = 2, 3, 4
BATCH: Final = 512
_SECONDS_TO_END: Final = 10.0
_WOKEN: Final = 1 << 32  # as in _core/tracer_object.c


class Trace:
    """A trace that goes on: an iterator of events, and a context manager.

    Iteration ends when the last traced task has ended. Leaving the `with` block, or `close()`, ends the program that was
    started, with all its tasks, and lets tasks that ran before go on.
    """

    def __init__(self, tracer: _core.Tracer, builder: Builder, policy: Policy) -> None:
        self._tracer = tracer
        self._builder = builder
        self._policy = policy
        self._ready: deque[Event] = deque()
        self._ended = self._died = self._woken = False
        self._stops = 0
        self._owner = os.getpid()
        self.process: Popen | None = None
        self.epoch: float = time.time() - time.monotonic()
        self.warnings: list[str] = []

    # --- what is known of it

    @property
    def pid(self) -> int | None:
        """The pid of the program that was started; None for tasks that ran before."""
        return self.process.pid if self.process is not None else None

    @property
    def status(self) -> Status | None:
        """How the program that was started ended; None while it runs, and for tasks that ran before."""
        return self.process.status if self.process is not None else None

    @property
    def stops(self) -> int:
        """How often a task was stopped for this trace."""
        return self._stops if self._ended else self._tracer.stops

    def _is_open(self) -> bool:
        """Whether it goes on: there may be more to read than was read already."""
        return not self._ended

    def fileno(self) -> int:
        """An eventfd, the trace's own: readable when there may be something to read.

        Raises:
            ValueError: the trace has ended.
        """
        if self._ended:
            raise ValueError("the trace has ended")
        return self._tracer.fd

    # --- reading

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        while not self._ready:
            if self.read() is None:
                raise StopIteration
        return self._ready.popleft()

    def take(self) -> list[Event]:
        """The events that were read and not taken yet, without waiting: for after read()."""
        taken = list(self._ready)
        self._ready.clear()
        return taken

    def read(self, timeout: float | None = None) -> bool | None:
        """Wait until there are events to take, at most timeout seconds.

        Returns:
            True when there are, False when the time was over or wake() was called, None when the trace has ended and all
            were taken.

        Raises:
            SyscloneError: the tracer was killed: what came after is not known.
        """
        if self._ready:
            return True
        if self._ended:
            return None
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._ready:
            woken = self._woken
            left = 0 if woken else -1 if deadline is None else max(0, int(1000 * (deadline - time.monotonic())))
            try:
                records = self._tracer.read(left, BATCH)
            except ProcessLookupError:
                self._tracer_died()
            except ValueError:
                if self._is_open():
                    raise
                return None  # another thread has closed the trace, or let it go, while this one was on its way to wait
            if records is None:
                self._end()
                if self.process is not None:
                    self.process.wait()
                return None
            self._ready.extend(self._policy.chosen(self._builder.feed(records)))
            if not records and (woken or not self._woken):
                self._woken = False
                return False
        return True

    def wake(self) -> None:
        """Have a read() that waits, or else the next one that would, answer False: from a signal's handler, another thread."""
        self._woken = True
        if not self._ended:
            self._write_wake()

    def _write_wake(self) -> None:
        fd = self._tracer.fd
        if fd >= 0:  # else another thread has just closed it
            os.eventfd_write(fd, _WOKEN)

    def _tracer_died(self) -> NoReturn:
        pid = self._tracer.pid
        self._died = True
        self._end()
        raise TaskKilled(pid, None, "this was the tracer; what the traced tasks did after it is not known")

    def _end(self) -> None:
        """Every task has ended, or was let go."""
        stops = self._tracer.stops
        if self._ended:
            return  # another thread, which was told of the end too, was first
        self._ended = True
        self._stops = stops
        self._tracer.close()

    # --- ending

    def close(self) -> None:
        """End the trace: the program that was started is killed with all its tasks; tasks that ran before are let go.

        What was not read by then is dropped. Closing twice is no error.
        """
        if self._owner != os.getpid():
            return  # a fork's copy, or a light process: the trace is another's
        self._ready.clear()
        self._stop(KILL if self.process is not None else DETACH)
        if self._died and self.process is not None:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr) if self.process is not None else ():
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass  # what was still to be written has no reader any more

    def detach(self) -> None:
        """End the trace and let everything go on.

        A program that was started keeps its filter, which asks for a tracer at each call that makes a task: so the
        tracer stays with it, unheard, until its last task has ended. See docs/trace.md.
        """
        if self._owner != os.getpid():
            return
        self._ready.clear()
        self._stop(KEEP if self._policy.filtered else DETACH)

    def _stop(self, how: int) -> None:
        if self._ended:
            return
        try:
            if self._tracer.command(how) and how != KEEP:
                self._drain()
        finally:
            self._end()
        if self.process is not None and how == KILL:
            self.process.wait()

    def _drain(self) -> None:
        deadline = time.monotonic() + _SECONDS_TO_END
        while time.monotonic() < deadline:
            try:
                if self._tracer.read(1000, BATCH) is None:
                    return
            except (ProcessLookupError, ValueError):
                return  # it was killed, or whoever reads has closed it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_ended", True):
            self.close()
