"""CopiedTask: the handle on a process with a memory of its own, whose result comes back in memory that both see."""

from __future__ import annotations

import _thread
import os
import signal as _signal
import time

from .. import _core
from .._errors import TaskFailed, TaskTimeout
from .progress import Progress
from .status import Status
from .task import Task, failure
from .wait import P_PIDFD, WALL, reap, to_rusage, wait_readable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import resource
    from typing import Any

    from .._data.result import ResultPage


class CopiedTask(Task):
    """A copied process: its own memory, its result in a page that both see."""

    _pidfd = -1

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
        self._progress: Progress | None = None
        self._owner = os.getpid()
        # Last: an object that was interrupted in its making owns nothing.
        self._pidfd = pidfd

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
                self.kill_unsafely()
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
        value, exception = self.outcome()
        if exception is not None:
            raise exception
        return value

    def outcome(self) -> tuple[Any, BaseException | None]:
        """What the ended process returned, and what result() raises for it."""
        with self._lock:
            self._reap()
            if self._outcome is None:
                self._outcome = self._read()
            return self._outcome

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
            self._look_at_progress()
            page, self._page = self._page, None
            page.close()

    def _why_nothing(self, status: Status) -> TaskFailed | TaskTimeout:
        late = self._deadline is not None and self._ended_at is not None and self._ended_at >= self._deadline
        if status.signal == _signal.SIGKILL and late:
            return TaskTimeout(pid=self.pid, seconds=self._timeout or 0.0, still_running=False)
        return failure(self.pid, status)

    def cancel(self) -> None:
        """Kill the process: it shares no memory, so nothing is left half done here."""
        if not self.done() and self._pidfd >= 0:
            self.kill_unsafely()

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

    @property
    def progress(self) -> Progress | None:
        """How far the function said that it has come; of what it said before the Task was closed."""
        with self._lock:
            self._look_at_progress()
        return self._progress

    def _look_at_progress(self) -> None:
        said = self._page.read_progress() if self._page is not None else None
        if said is not None:
            self._progress = Progress(*said)

    def close(self) -> None:
        """Let go of the pidfd and of the result, reaping the process if it has ended."""
        with self._lock:
            if self._pidfd < 0:
                return
            if self.done():
                self._reap()
                if self._outcome is None:
                    self._outcome = self._read()
                # Forgotten first: closed twice, it may be another's by then.
                pidfd, self._pidfd = self._pidfd, -1
                os.close(pidfd)
            else:
                # The page's fds stay open until then: a child that shares the file table writes to their numbers.
                _abandoned.append((self._pidfd, self._page))
                self._pidfd, self._page = -1, None

    def __del__(self) -> None:
        if getattr(self, "_pidfd", -1) >= 0 and os is not None:
            self._let_go()

    def _let_go(self) -> None:
        # In a light process the number is another table's.
        if os.getpid() == self._owner:
            self.close()


def result_of(task: CopiedTask) -> Any:
    """What its function returns. The task is over afterwards, also where the caller was interrupted, and is closed."""
    try:
        return task.result()
    except BaseException:
        if not task.done():
            task.cancel()
            task.wait()
        raise
    finally:
        task.close()


def put_down(pid: int, pidfd: int) -> None:
    """End a process that nobody will hold a Task of, and reap it."""
    _core.pidfd_send_signal(pidfd, int(_signal.SIGKILL), 0)
    reap(pidfd, pid, own_child=True)
    os.close(pidfd)


# pidfds of copied processes whose Task was let go of while they ran: reaped when they have ended.
_abandoned: list[tuple[int, ResultPage | None]] = []


def has_abandoned() -> bool:
    """Whether there are any."""
    return bool(_abandoned)


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
