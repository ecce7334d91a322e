"""The Future of an Executor's call: one that cancel() ends also while it runs, and that can be awaited.

Its states change here alone, each under the future's own condition and once: what comes second (a result of a call that
was cancelled, a death that was told of twice) finds the state taken, and is dropped. No lock of the executor's is held
meanwhile, and none of a future's while its callbacks run.
"""

from __future__ import annotations

import _thread
import threading
from collections import deque
from concurrent.futures import _base
from itertools import islice
from typing import TypeVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any, Protocol

    class Owner(Protocol):
        """A call, as its future sees it."""

        def cancelled(self) -> None:
            """The future was cancelled."""

        def help(self, seconds: float) -> None:
            """Somebody waits for the result and may as well do something for it, for at most so long."""


T = TypeVar("T")

_MOMENT = 0.01
"""Seconds that a waiter waits for a light process itself, before it leaves that to the manager."""

_SETTLED = frozenset((_base.CANCELLED, _base.CANCELLED_AND_NOTIFIED, _base.FINISHED))


class _Condition(_thread.RLock):  # type: ignore[misc]
    """threading.Condition, being the lock itself: taken and let go of in C, so that no interrupt comes in between.

    Condition's own __exit__ is a function of Python's, at whose entry a signal's handler may raise: the lock stays held, and
    the manager would wait for it for ever.
    """

    def __init__(self) -> None:
        self._waiters: deque[Any] = deque()

    def wait(self, timeout: float | None = None) -> bool:
        """As Condition's, but in one call of C code the lock is let go of and it is noted that it was."""
        waiter = _thread.allocate_lock()
        waiter.acquire()
        self._waiters.append(waiter)
        states: list[Any] = []
        told = False
        try:
            states.extend(islice(iter(self._release_save, None), 1))  # type: ignore[attr-defined]
            told = waiter.acquire() if timeout is None else waiter.acquire(timeout > 0, max(timeout, 0.0) or -1)
            return told
        finally:
            if states:
                self._acquire_restore(states[0])  # type: ignore[attr-defined]
            if not told and waiter in self._waiters:
                self._waiters.remove(waiter)

    wait_for = threading.Condition.wait_for
    notify = threading.Condition.notify
    notify_all = threading.Condition.notify_all


class Future(_base.Future[T]):
    """What a call of an Executor will come to: a concurrent.futures.Future whose cancel() ends a running call too.

    Made by submit(), never by hand. Awaitable under asyncio, where a cancelled wait ends the call.

    Attributes:
        seconds: how long its process took; None until then.
    """

    seconds: float | None

    def __init__(self, call: Owner) -> None:
        super().__init__()
        self._condition = _Condition()  # type: ignore[assignment]
        self.seconds = None
        self._call: Owner | None = call  # until its end: the call has the future too

    def result(self, timeout: float | None = None) -> T:
        """What the call returned; see concurrent.futures.Future."""
        call = self._call
        if call is not None and self._state == _base.RUNNING:
            call.help(_MOMENT if timeout is None or timeout > _MOMENT else max(0.0, timeout))
        return super().result(timeout)

    def cancel(self) -> bool:
        """End the call, running or not.

        The future is cancelled at once: waiters wake, callbacks run in this thread. The process is ended right after,
        and keeps its place among the executor's workers until it is gone.

        Returns:
            False where the call had its result already.
        """
        with self._condition:
            if self._state in _SETTLED:
                return self._state != _base.FINISHED
            self._state = _base.CANCELLED_AND_NOTIFIED
            for waiter in self._waiters:
                waiter.add_cancelled(self)
            self._condition.notify_all()
            call, self._call = self._call, None
        if call is not None:
            try:
                call.cancelled()
            except BaseException:
                call.cancelled()  # an interrupt: the process is ended all the same
                raise
        self._call_back()
        return True

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio

        return asyncio.wrap_future(self).__await__()

    # --- the executor's side

    def _begin(self) -> bool:
        """From pending to running; False where it was cancelled before."""
        with self._condition:
            if self._state == _base.PENDING:
                self._state = _base.RUNNING
            return self._state == _base.RUNNING

    def _withdraw(self) -> None:
        """From running back to pending: the call had not begun, and goes to another worker."""
        with self._condition:
            if self._state == _base.RUNNING:
                self._state = _base.PENDING

    def _settle(self, result: Any, exception: BaseException | None) -> bool:
        """The end of the call; False where it has an end already. Whoever settles runs the callbacks afterwards."""
        with self._condition:
            if self._state in _SETTLED:
                return False
            self._result = result
            self._exception = exception
            self._state = _base.FINISHED
            for waiter in self._waiters:
                if exception is None:
                    waiter.add_result(self)
                else:
                    waiter.add_exception(self)
            self._condition.notify_all()
            self._call = None
        return True

    def _has_callbacks(self) -> bool:
        return bool(self._done_callbacks)  # type: ignore[attr-defined]

    def _call_back(self) -> None:
        self._invoke_callbacks()  # type: ignore[attr-defined]
