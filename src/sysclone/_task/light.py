"""LightTask: the handle on a light process that runs on a helper thread of the C core's pool."""

from __future__ import annotations

import signal as _signal

from .. import _core
from .._errors import TaskTimeout
from .progress import forget, said_by
from .status import Status
from .task import STOP_PATIENCE, Task
from .wait import late_status, to_rusage

TYPE_CHECKING = False
if TYPE_CHECKING:
    import resource
    from typing import Any, Final

    from .progress import Progress

STOP_CANCEL: Final = 1
_STOP_TIMEOUT: Final = 2
_STOP_SIGNAL: Final = 3
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
        self._job.stop(STOP_CANCEL)

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

    @property
    def progress(self) -> Progress | None:
        """How far the function said that it has come."""
        return said_by(self.pid)

    def __del__(self) -> None:
        if hasattr(self, "pid") and forget is not None:
            forget(self.pid)

    def close(self) -> None:
        """Let go of the pidfd, or leave that to the end of a task that still runs."""
        if self._job.done():
            _ = self.status
        self._job.close()
        self._closed = True
