"""Task: a handle on one started function, which owns a pidfd, so that it never signals or waits for a stranger."""

from __future__ import annotations

import os
import signal as _signal

from .. import _core
from .._errors import TaskExited, TaskFailed, TaskKilled, TaskLost

TYPE_CHECKING = False
if TYPE_CHECKING:
    import resource
    from collections.abc import Generator
    from types import TracebackType
    from typing import Any, Final, Self

    from .progress import Progress
    from .status import Status

# How long result(cancel=True) waits for a function that cannot be stopped at this moment, before it says so.
STOP_PATIENCE: Final = 2.0


class Task:
    """A started function: made by `start`, never by hand.

    A context manager: leaving it waits for the end. Awaitable under asyncio: gives the result.

    Attributes:
        pid: the process id in the creator's pid namespace; the thread id for a task in the creator's thread group.
        tid: the same number: a new task's first thread.
        pidfd: an fd that polls readable when the process has ended, the Task's own; -1 for a thread, or after close().
    """

    pid: int
    _what: str

    @property
    def tid(self) -> int:
        """The id of the task itself: for a process, of its first thread, which is the pid."""
        return self.pid

    @property
    def pidfd(self) -> int:
        """The pidfd, borrowed: it is closed with the Task."""
        raise NotImplementedError

    def fileno(self) -> int:
        """An fd for selectors, readable from the end on, borrowed: it is closed with the Task.

        The pidfd; for a light process an eventfd, because its pidfd becomes readable only when the threads that its
        function left behind have ended too.

        Raises:
            ValueError: the Task was closed, or belongs to another process.
        """
        if self.pidfd < 0:
            raise ValueError(f"{self} was closed")
        return self.pidfd

    def done(self) -> bool:
        """Whether it has ended. Never waits."""
        raise NotImplementedError

    def wait(self, timeout: float | None = None) -> Status:
        """Wait for the end.

        Args:
            timeout: seconds; None waits for ever.

        Returns:
            How it ended.

        Raises:
            TaskTimeout: it has not ended in time. It goes on.
        """
        raise NotImplementedError

    def result(self, timeout: float | None = None, *, cancel: bool = False) -> Any:
        """What the function returned.

        Args:
            timeout: seconds to wait; None waits for ever.
            cancel: end the function when the time is over.

        Raises:
            TaskTimeout: it has not ended in time; `still_running` tells whether it goes on.
            TaskFailed: it ended without returning or raising, and how: TaskExited, TaskKilled, TaskLost.
            BaseException: what the function raised.
        """
        raise NotImplementedError

    def cancel(self) -> None:
        """Ask the function to end: see `result(cancel=True)`. Returns at once; does nothing when it has ended."""
        raise NotImplementedError

    @property
    def status(self) -> Status | None:
        """How it ended; None while it runs."""
        raise NotImplementedError

    @property
    def rusage(self) -> resource.struct_rusage | None:
        """What it used, as of getrusage(2): None while it runs and where the kernel did not tell."""
        raise NotImplementedError

    @property
    def progress(self) -> Progress | None:
        """How far the function said that it has come, by `sysclone.progress`; None before it said anything."""
        raise NotImplementedError

    def send_signal(self, sig: int) -> None:
        """Send a signal, by pidfd; does nothing when the task has ended.

        Args:
            sig: a signal number, 0 to 64.

        Raises:
            PermissionError: the task has other credentials.
            ValueError: no such signal, or a thread of this process, which cannot be signalled by pidfd.
        """
        if self.done():
            return
        if self.pidfd < 0:
            raise ValueError(f"{self} has no pidfd to send a signal by")
        try:
            _core.pidfd_send_signal(self.pidfd, int(sig), 0)
        except ProcessLookupError:
            return

    def kill_unsafely(self) -> None:
        """SIGKILL, now and wherever it stands; does nothing when it has ended.

        A copied process shares no memory, and nothing is unsafe about that. A light process dies in the middle of what it
        does, in memory that is the whole program's: a lock that it holds (also malloc's) stays locked, what it was
        changing stays half changed, and where it takes its turn at the GIL the program may hang. It is safe while the
        function, and each thread that it started, is blocked in a system call that is no futex. cancel() looks for such
        a moment and this does not.

        Raises:
            PermissionError: the task has other credentials.
            ValueError: a thread of this process, whose SIGKILL would be the program's; or the Task was closed.
        """
        if self.done():
            return
        if self.pidfd < 0:
            raise ValueError(f"{self} has no pidfd to kill it by")
        try:
            _core.pidfd_send_signal(self.pidfd, int(_signal.SIGKILL), 0)
        except ProcessLookupError:
            return

    def close(self) -> None:
        """Let go of the pidfd. The task itself is not touched."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None:
            self.cancel()
        self.wait()
        self.close()

    def _time_left(self) -> float | None:
        """Seconds until its own time limit, where its creator has to keep that."""
        return None

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer().__await__()

    async def _answer(self) -> Any:
        import asyncio

        loop = asyncio.get_running_loop()
        if not self.done():
            ended = loop.create_future()
            # A copy: the loop may outlive the Task's own fd.
            fd = os.dup(self.fileno())
            limit = self._time_left()
            late = None if limit is None else loop.call_later(limit, self.cancel)
            loop.add_reader(fd, lambda: None if ended.done() else ended.set_result(None))
            try:
                await ended
            except asyncio.CancelledError:
                self.cancel()
                raise
            finally:
                if late is not None:
                    late.cancel()
                loop.remove_reader(fd)
                os.close(fd)
        return self.result()

    def __repr__(self) -> str:
        status = self.status
        return f"<{type(self).__name__} {self._what} pid={self.pid}: {status if status is not None else 'running'}>"


def failure(pid: int, status: Status) -> TaskFailed:
    """The exception for a task that left no result, by how it ended."""
    if status.signal is not None:
        return TaskKilled(pid=pid, status=status)
    if status.known:
        return TaskExited(pid=pid, status=status)
    return TaskLost(pid=pid, status=status)
