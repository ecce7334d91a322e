"""A program's end: waited for by pidfd, with __WALL, and never by a number that may be another's by now."""

from __future__ import annotations

import os
import subprocess
from _thread import allocate_lock

from .. import _core
from .._context.description import Description
from .._task.status import Status
from .._task.wait import late_status, reap, to_rusage, wait_readable
from .cause import Remains, look_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    import resource
    import threading
    from typing import Any, Final

    class _Base(subprocess.Popen[Any]):
        _waitpid_lock: threading.Lock

        def _internal_poll(self, _deadstate: Any = None, **ignored: Any) -> int | None: ...
        def _wait(self, timeout: float | None) -> int: ...
        def _execute_child(self, *arguments: Any) -> None: ...
        def _handle_exitstatus(self, sts: int) -> None: ...

else:
    _Base = subprocess.Popen

PLAIN: Final = Description()
_WAITPID: Final = os.waitpid


class Ending(_Base):
    """The part of a Popen that waits, and that signals."""

    pid: int
    pidfd: int = -1
    returncode: Any
    context: Description = PLAIN
    _ended_as: Status | None = None
    _usage: tuple[float, ...] | None = None
    _sent: int | None = None
    _peak_before: int | None = None
    """This program's own peak at the start, in KiB; None where nobody looked."""
    _remains: Remains | None = None

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        # Held while the pidfd is used by one who is not the only one to close it, and while it is closed.
        self._pidfd_lock = allocate_lock()
        super().__init__(*arguments, **keywords)

    def _began(self, pid: int, pidfd: int) -> None:
        self.pid, self.pidfd = pid, pidfd
        self._child_created = True

    def fileno(self) -> int:
        """The pidfd: readable when the program has ended.

        Raises:
            ValueError: it was closed, because the program has been waited for.
        """
        if self.pidfd < 0:
            raise ValueError("the program has been waited for, and its pidfd is closed")
        return self.pidfd

    def done(self) -> bool:
        """Whether the program has ended. Never waits."""
        return self.poll() is not None

    @property
    def status(self) -> Status | None:
        """How it ended; None while it runs. Where nobody saw it, unknown: never 0."""
        self.poll()
        return self._ended_as

    @property
    def rusage(self) -> resource.struct_rusage | None:
        """What it used; None while it runs and where another reaped it."""
        self.poll()
        return to_rusage(self._usage) if self._usage is not None else None

    def _collect(self) -> None:
        """Wait for the end and reap; the caller holds the lock."""
        if self.context.parent == "caller":
            self._remains = look_at(self.pidfd, self.pid)
            self._ended_as, self._usage = reap(self.pidfd, self.pid, own_child=True)
            if self._usage is None and os.waitpid is not _WAITPID:
                # Another reaped it, and has put its own waitpid in place of the system's (gevent does): it is to be asked.
                pid, word = os.waitpid(self.pid, os.WNOHANG)
                if pid == self.pid:
                    self._handle_exitstatus(word)
                    self._ended_as = as_status(self.returncode)
        else:
            wait_readable(self.pidfd, None)
            self._ended_as = late_status(self.pidfd, self.pid)
        # subprocess's number has no word for unknown; 255 is no success, and status tells.
        if self.returncode is None:
            code = self._ended_as.returncode
            self.returncode = 255 if code is None else code
        with self._pidfd_lock:
            os.close(self.pidfd)
            self.pidfd = -1

    def _internal_poll(self, _deadstate: Any = None, **ignored: Any) -> int | None:
        if self.returncode is None and self.pidfd < 0:
            self._by_number(super()._internal_poll(_deadstate, **ignored))
            return self._code()
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                if self.pidfd >= 0 and wait_readable(self.pidfd, 0):
                    self._collect()
            finally:
                self._waitpid_lock.release()
        return self._code()

    def _code(self) -> int | None:
        code: int | None = self.returncode
        return code

    def _by_number(self, code: int | None) -> None:
        """Before Linux 5.3 there is no pidfd, and subprocess's own waiting must do."""
        if code is not None and self._ended_as is None:
            self._ended_as = as_status(code)

    def _wait(self, timeout: float | None) -> int:
        if self.returncode is None and self.pidfd < 0:
            code = super()._wait(timeout)
            self._by_number(code)
            return code
        if timeout is not None and self.returncode is None and not self._ends_within(timeout):
            raise subprocess.TimeoutExpired(self.args, timeout)
        with self._waitpid_lock:
            if self.returncode is None:
                self._collect()
        return int(self.returncode)

    def _ends_within(self, timeout: float) -> bool:
        with self._pidfd_lock:
            if self.pidfd < 0:
                return True
            fd = os.dup(self.pidfd)  # another thread may wait too, and close it
        try:
            return wait_readable(fd, timeout)
        finally:
            os.close(fd)

    async def wait_async(self, kill_on_cancel: bool = True) -> int:
        """Wait for the end without blocking the event loop: under asyncio, trio, and whatever else anyio knows.

        Args:
            kill_on_cancel: whether the program is killed and reaped when this is cancelled, its tree too where it was made
                with `tree=True`.

        Returns:
            The return code, as of wait().

        Raises:
            ModuleNotFoundError: anyio is not installed (the extra `sysclone[async]`).
        """
        import anyio

        with self._pidfd_lock:
            fd = os.dup(self.pidfd) if self.returncode is None and self.pidfd >= 0 else -1
        if fd < 0:
            return self._wait(None)
        try:
            await anyio.wait_readable(fd)
        except anyio.get_cancelled_exc_class():
            if kill_on_cancel:
                self._kill_for_cancel()
                with anyio.CancelScope(shield=True):
                    await anyio.wait_readable(fd)
                self._wait(None)
            raise
        finally:
            os.close(fd)
        return self._wait(None)

    def _kill_for_cancel(self) -> None:
        self.kill()

    def send_signal(self, sig: int) -> None:
        """Send a signal by pidfd; does nothing when the program has ended."""
        self.poll()
        if self.returncode is not None:
            return
        with self._pidfd_lock:
            if self.pidfd >= 0:
                try:
                    _core.pidfd_send_signal(self.pidfd, int(sig), 0)
                except ProcessLookupError:
                    return
                self._sent = int(sig)
                return
        if self.returncode is None:
            super().send_signal(sig)

    def __del__(self, *args: Any, **keywords: Any) -> None:
        super().__del__(*args, **keywords)
        if getattr(self, "returncode", None) is not None and self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def as_status(code: int) -> Status:
    """From subprocess's number."""
    return Status(signal=-code) if code < 0 else Status(exit_code=code)


def pidfd_of(pid: int) -> int:
    """A pidfd of a child that has not been waited for; -1 where the kernel reaps by itself, or has none."""
    try:
        return _core.pidfd_open(pid, 0)
    except OSError:
        return -1
