"""Task: a handle on one started function, which owns a pidfd, so that it never signals or waits for a stranger."""

from __future__ import annotations

import _thread
import os
import select
import signal as _signal
import time

from . import _core
from ._errors import TaskExited, TaskFailed, TaskKilled, TaskLost, TaskTimeout
from ._status import Status
from ._wait import P_PIDFD, WALL, late_status, reap, to_rusage, wait_readable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import resource
    from collections.abc import Generator, Iterable
    from types import TracebackType
    from typing import Any, Final, Protocol, Self, TypeVar

    from ._result import ResultPage

    class Waitable(Protocol):
        """What can be waited for: a Task or a Popen."""

        def done(self) -> bool: ...
        def fileno(self) -> int: ...
        def wait(self, timeout: float | None = None) -> Any: ...

    W = TypeVar("W", bound=Waitable)

# How long result(cancel=True) waits for a function that cannot be stopped at this moment, before it says so.
STOP_PATIENCE: Final = 2.0

_STOP_CANCEL = 1
_STOP_TIMEOUT = 2
_STOP_SIGNAL = 3
_LAST_SIGNAL: Final = 64
# Caught in a light process, or not ending one by default.
_CAUGHT = (
    _signal.SIGHUP,
    _signal.SIGINT,
    _signal.SIGQUIT,
    _signal.SIGUSR1,
    _signal.SIGUSR2,
    _signal.SIGALRM,
    _signal.SIGTERM,
)
_NO_END = (_signal.SIGCHLD, _signal.SIGCONT, _signal.SIGURG, _signal.SIGWINCH, _signal.SIGSTOP, _signal.SIGTSTP)
_HARMLESS: Final = frozenset(map(int, (0, *_CAUGHT, *_NO_END, _signal.SIGTTIN, _signal.SIGTTOU, _signal.SIGXCPU)))


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


class LightTask(Task):
    """A light process on a helper thread of the C core's pool."""

    def __init__(self, job: _core.Job, what: str, thread: bool) -> None:
        self._job = job
        self._what = what
        self._thread = thread
        self._closed = False
        self._stopped_after: float | None = None
        self.pid = job.pid
        self._status: Status | None = None

    @property
    def pidfd(self) -> int:
        """The pidfd, borrowed; -1 for a thread."""
        return self._job.pidfd

    def fileno(self) -> int:
        """An eventfd, readable from the function's end on."""
        if self._closed:
            raise ValueError(f"{self} was closed")
        return self._job.fileno()

    def done(self) -> bool:
        """Whether the function has ended."""
        return self._job.done()

    def wait(self, timeout: float | None = None) -> Status:
        """Wait until the function has ended; threads that it started may live on."""
        if not self._job.wait(timeout):
            raise TaskTimeout(pid=self.pid, seconds=timeout or 0.0, still_running=True)
        return self.status or Status.unknown("it runs")

    def result(self, timeout: float | None = None, *, cancel: bool = False) -> Any:
        """What the function returned: the same object."""
        if not self._job.wait(timeout):
            seconds = timeout or 0.0
            if cancel:
                self._job.stop(_STOP_TIMEOUT)
                self._stopped_after = seconds
            if not cancel or not self._job.wait(STOP_PATIENCE):
                raise TaskTimeout(pid=self.pid, seconds=seconds, still_running=True)
        return self._job.result() if self._stopped_after is None else self._stopped_result(self._stopped_after)

    def _stopped_result(self, seconds: float) -> Any:
        try:
            return self._job.result()
        except TaskTimeout as e:
            e.seconds = seconds
            raise

    def send_signal(self, sig: int) -> None:
        """Send a signal; one that ends a process by default ends the function where that is safe, as cancel() does.

        SIGKILL, and every other signal that a light process does not catch, would strike it at any moment, also while it
        waits for the GIL, and then hang the program. So the function is stopped first, and its process ends by the
        signal.

        Args:
            sig: a signal number, 0 to 64.

        Raises:
            ValueError: no such signal, or a thread of this process.
        """
        if not 0 <= int(sig) <= _LAST_SIGNAL:
            raise ValueError(f"{int(sig)} is no signal: 0 to {_LAST_SIGNAL}")
        if self._thread or int(sig) in _HARMLESS:
            super().send_signal(sig)
        else:
            self._job.stop(_STOP_SIGNAL, int(sig))

    def cancel(self) -> None:
        """Raise Cancelled in the function; one that is blocked in the kernel is killed where that is safe."""
        self._job.stop(_STOP_CANCEL)

    @property
    def status(self) -> Status | None:
        """How it ended; None while it runs."""
        if self._status is None and self._job.done():
            self._status = self._find_status()
        return self._status

    def _find_status(self) -> Status:
        ended = self._job.ended()
        if ended is not None and ended[0] is not None:
            return Status.from_wait(ended[0])
        if self._thread:
            return Status.unknown("a thread of this process leaves no status")
        return late_status(self.pidfd, self.pid)

    @property
    def rusage(self) -> resource.struct_rusage | None:
        """What it used; None while it runs."""
        ended = self._job.ended()
        return to_rusage(ended[1]) if ended is not None and ended[1] is not None else None

    def close(self) -> None:
        """Let go of the pidfd, or leave that to the end of a task that still runs."""
        if self._job.done():
            _ = self.status
        self._job.close()
        self._closed = True


class CopiedTask(Task):
    """A copied process: its own memory, its result in a page that both see."""

    def __init__(
        self,
        pid: int,
        pidfd: int,
        page: ResultPage,
        what: str,
        own_child: bool,
        timeout: float | None,
        began: float,
    ) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._page: ResultPage | None = page
        self._what = what
        self._own_child = own_child
        self._timeout = timeout
        self._deadline = None if timeout is None else began + timeout
        self._lock = _thread.RLock()
        self._closed = False
        self._status: Status | None = None
        self._usage: tuple[float, ...] | None = None
        self._ended_at: float | None = None
        self._outcome: tuple[Any, BaseException | None] | None = None

    @property
    def pidfd(self) -> int:
        """The pidfd, borrowed."""
        return self._pidfd

    def _time_left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _poll(self, timeout: float | None) -> bool:
        """Whether it ends within timeout seconds."""
        # Its time limit is kept here too: the init of a pid namespace is deaf to the timer that it set itself.
        if self._status is not None:
            return True
        if self._pidfd < 0:
            raise ValueError(f"task {self.pid} was closed while it ran")
        if self._deadline is not None:
            left = max(0.0, self._deadline - time.monotonic())
            if timeout is None or timeout >= left:
                if wait_readable(self._pidfd, left):
                    return True
                self.kill_now()
                timeout = None if timeout is None else max(timeout - left, 1.0)
        return wait_readable(self._pidfd, timeout)

    def done(self) -> bool:
        """Whether the process has ended; once the Task was closed, whether it had by then."""
        return self._status is not None or (self._pidfd >= 0 and wait_readable(self._pidfd, 0))

    def wait(self, timeout: float | None = None) -> Status:
        """Wait until the process has ended, and reap it."""
        if not self._poll(timeout):
            raise TaskTimeout(pid=self.pid, seconds=timeout or 0.0, still_running=True)
        return self._reap()

    def _reap(self) -> Status:
        with self._lock:
            if self._status is None:
                self._ended_at = time.monotonic()
                self._status, self._usage = reap(self._pidfd, self.pid, self._own_child)
            return self._status

    def result(self, timeout: float | None = None, *, cancel: bool = False) -> Any:
        """What the function returned: a copy, by pickle."""
        if not self._poll(timeout):
            if cancel:
                self.cancel()
                self.wait()
            raise TaskTimeout(pid=self.pid, seconds=timeout or 0.0, still_running=not cancel)
        with self._lock:
            self._reap()
            if self._outcome is None:
                self._outcome = self._read()
            value, exception = self._outcome
        if exception is not None:
            raise exception
        return value

    def _read(self) -> tuple[Any, BaseException | None]:
        assert self._page is not None
        assert self._status is not None
        try:
            if self._page.kind():
                return self._page.read(), None
            return None, self._why_nothing(self._status)
        except BaseException as e:
            return None, e.with_traceback(None)
        finally:
            self._page.close()
            self._page = None

    def _why_nothing(self, status: Status) -> TaskFailed | TaskTimeout:
        late = self._deadline is not None and self._ended_at is not None and self._ended_at >= self._deadline
        if status.signal == _signal.SIGKILL and late:
            return TaskTimeout(pid=self.pid, seconds=self._timeout or 0.0, still_running=False)
        return failure(self.pid, status)

    def cancel(self) -> None:
        """Kill the process: it shares no memory, so nothing is left half done here."""
        if not self.done() and self._pidfd >= 0:
            self.kill_now()

    def kill_now(self) -> None:
        """SIGKILL, by pidfd."""
        try:
            _core.pidfd_send_signal(self._pidfd, int(_signal.SIGKILL), 0)
        except ProcessLookupError:
            return

    @property
    def status(self) -> Status | None:
        """How it ended; None while it runs."""
        if self._status is None and self._pidfd < 0:
            return Status.unknown("the Task was closed while it ran")
        return self._reap() if self.done() else None

    @property
    def rusage(self) -> resource.struct_rusage | None:
        """What it used; None while it runs, and where another reaped it."""
        _ = self.status
        return to_rusage(self._usage) if self._usage is not None else None

    def close(self) -> None:
        """Let go of the pidfd and of the result, reaping the process if it has ended."""
        with self._lock:
            if self._pidfd < 0:
                return
            pidfd = self._pidfd
            if self.done():
                self._reap()
                if self._outcome is None:
                    self._outcome = self._read()
                os.close(pidfd)
            else:
                # The page's fd stays open until then: a child that shares the file table writes to its number.
                _abandoned.append((pidfd, self._page))
                self._page = None
            self._pidfd = -1

    def __del__(self) -> None:
        if getattr(self, "_pidfd", -1) >= 0 and os is not None:
            self.close()


# pidfds of copied processes whose Task was let go of while they ran: reaped when they have ended.
_abandoned: list[tuple[int, ResultPage | None]] = []


def reap_abandoned() -> None:
    """Reap the copied processes whose Task is gone, as far as they have ended."""
    for _ in range(len(_abandoned)):
        try:
            fd, page = _abandoned.pop(0)
        except IndexError:
            return
        if not wait_readable(fd, 0):
            _abandoned.append((fd, page))
            continue
        try:
            _core.waitid(P_PIDFD, fd, os.WEXITED | WALL)
        except ChildProcessError:
            pass
        os.close(fd)
        if page is not None:
            page.close()


def failure(pid: int, status: Status) -> TaskFailed:
    """The exception for a task that left no result, by how it ended."""
    if status.signal is not None:
        return TaskKilled(pid=pid, status=status)
    if status.known:
        return TaskExited(pid=pid, status=status)
    return TaskLost(pid=pid, status=status)


def wait_any(tasks: Iterable[W], timeout: float | None = None) -> list[W]:
    """Wait until at least one task has ended.

    Args:
        tasks: tasks, or anything with a fileno() that becomes readable at its end; thousands are fine.
        timeout: seconds; None waits for ever.

    Returns:
        Those that have ended, in the order given; empty when the time is over first, or when there are no tasks.
    """
    waiting = list(tasks)
    if timeout != 0 and not any(task.done() for task in waiting):
        poll = select.poll()
        by_fd = {task.fileno(): task for task in waiting}
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        for fd, _ in _poll_in_time(poll, timeout, waiting) if by_fd else ():
            by_fd[fd].wait()
    return [task for task in waiting if task.done()]


def _poll_in_time(poll: select.poll, timeout: float | None, waiting: Iterable[Waitable]) -> list[tuple[int, int]]:
    """Poll for at most timeout seconds, ending the copied processes whose own time is over meanwhile."""
    end = None if timeout is None else time.monotonic() + timeout
    limits = [(task._deadline, task) for task in waiting if isinstance(task, CopiedTask) and task._deadline is not None]
    for limit, task in sorted(limits, key=lambda one: one[0]):
        if end is not None and end < limit:
            break
        ready = poll.poll(max(0.0, limit - time.monotonic()) * 1000)
        if ready:
            return ready
        task.kill_now()
    return poll.poll(None if end is None else max(0.0, end - time.monotonic()) * 1000)


def wait_all(tasks: Iterable[W], timeout: float | None = None) -> list[W]:
    """Wait until every task has ended.

    Args:
        tasks: as for wait_any.
        timeout: seconds for all of them together; None waits for ever.

    Returns:
        Those that have ended, in the order given: all of them unless the time was over first.
    """
    waiting = list(tasks)
    deadline = None if timeout is None else time.monotonic() + timeout
    for task in waiting:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if isinstance(task, Task):
            try:
                task.wait(left)
            except TaskTimeout:
                break
        elif not task.done():
            if not wait_readable(task.fileno(), left):
                break
            task.wait()
    return [task for task in waiting if task.done()]
