"""The one thread that waits for an executor's processes.

1. It sleeps in epoll_wait on the processes' fds, on their sockets, and on an eventfd that other threads write to; so does
   the bell (_core/bell.c) when light processes of one call, which have no fd there, have ended. There is no thread for a
   call, and nothing is looked at again and again, but the RSS of what is limited by it.
2. It alone ends, reaps and closes processes, so no fd is closed while another thread uses it. The exceptions: a thread
   that submits may hand its call to an idle worker; `Worker.sending` counts those, and the worker is not closed before
   they are done. And a thread that waits for the result of a light process may take its end upon itself (`help`).
3. The lock is held over the lists and counters, over the packet of a small call and over nothing else: never over a
   clone, over pickling, over a future's condition or over a callback.
4. Callbacks of futures run on a thread of their own, made for the first: a slow one delays no time limit.
5. fds are taken out of the epoll before they are closed: a child that was copied meanwhile has the same open files, and
   they would be reported for ever.
"""

from __future__ import annotations

import os
import select
import threading
import time

from .. import _core
from .._errors import CloneError
from . import _reasons
from ._ends import Ends
from ._state import GROUP_PERIOD, READ
from ._workers import Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from ._calls import Call

_EVENTS: Final = 256


class Manager(Ends):
    """The processes, the queue and the thread of one executor."""

    def submit(self, call: Call) -> None:
        """Take a call.

        Raises:
            RuntimeError: the executor was shut down, or belongs to another process.
            CloneError: there is no fd or thread for the manager.
        """
        if os.getpid() != self.pid:
            raise RuntimeError(
                f"this Executor belongs to process {self.pid}: make one of its own in process {os.getpid()}"
            )
        try:
            self._submit(call)
        except BaseException:
            self._withdraw(call)
            raise

    def _withdraw(self, call: Call) -> None:
        """submit() was interrupted, at any point: nobody has the future, so nothing is to come of the call."""
        with self._lock:
            worker, call.handed_to = call.handed_to, None
            if worker is not None:
                worker.sending -= 1
                if worker.ended and not worker.sending:
                    self._let_go.append(worker)
            self._starting.discard(call)
            self._poke()
        call.future.cancel()

    def _submit(self, call: Call) -> None:
        worker = None
        with self._lock:
            if self._broken is not None:
                raise RuntimeError("the executor's manager has failed") from self._broken
            if self._closing:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self.thread is None:
                self._begin()
            self.counts["submitted"] += 1
            here = False
            if not self._pending:
                worker = self._reserve(call) if self.warm else None
                here = self.starts_here and not call.options.spec.limited and self._has_room() and call.future._begin()
            if here:
                self._starting.add(call)
            elif worker is None:
                self._pending.append(call)
                if self._has_room() or any(self._idle.values()):
                    self._poke()  # otherwise whoever is through with a call, or ends, is asked for the next one
        if worker is not None:
            self._hand(worker, call)
        elif here:
            self._start(call)

    def cancelled(self, call: Call) -> None:
        """A future was cancelled: called by its cancel(), in any thread."""
        with self._lock:
            dropped = self._drop(call)
            if not dropped:
                self._cancelled.append(call)
            if not dropped or self._pending or self._closing:
                self._poke()
            self.counts["cancelled"] += 1

    def close(self, cancel_pending: bool, cancel_running: bool) -> None:
        """Take no more calls."""
        with self._lock:
            self._closing = True
            if cancel_pending or cancel_running:
                for worker in list(self._loaded):
                    self._take_back(worker)
            calls = list(self._pending) if cancel_pending or cancel_running else []
            if cancel_running:
                calls += self._starting
                running = [worker.call for worker in self._workers if worker.call is not None]
                calls += running
                # Those too whose cancel() was interrupted before it came here.
                self._cancelled.extend(running)
                calls += [call for worker in self._loaded for call in worker.ahead]
            self._poke()
        for call in calls:
            call.future.cancel()

    def join(self) -> None:
        """Wait until every process is gone and every callback has run."""
        thread = self.thread
        if thread is None or os.getpid() != self.pid or threading.current_thread() in (thread, self._callbacks.thread):
            return
        thread.join()
        self._callbacks.join()

    def _begin(self) -> None:
        self._oom = _reasons.OomWatch()
        try:
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            try:
                self._epoll = select.epoll()
                self._epoll.register(self._wake, READ)
                self._bell = _core.Bell(self._wake)
            except OSError:
                os.close(self._wake)
                self._wake = -1
                raise
        except OSError as e:
            raise CloneError(e.errno or 0, step="epoll_create(executor)") from None
        thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        try:
            thread.start()
        except RuntimeError as e:
            self._close_fds()
            raise RuntimeError(f"no thread for the executor's manager: {e}") from e
        self.thread = thread
        LIVE.add(self)

    def _run(self) -> None:
        try:
            while True:
                self._listen()
                # Whoever waits for a future that was just settled waits for the GIL now: nothing is called for nothing.
                if self._cancelled:
                    self._end_cancelled()
                while self._let_go:
                    self.on_end(self._let_go.popleft())
                if self._late:
                    self._end_late()
                if self._watched:
                    self._look_at_memory()
                if self._groups:
                    self._close_groups()
                if self._pending or self._loaded:
                    self._start_pending()
                if self._closing and self._is_over():
                    break
        except BaseException as e:
            self._fail(e)
        if self.zygote is not None:
            self.zygote.close()
        self._callbacks.close()
        LIVE.discard(self)

    def _is_over(self) -> bool:
        with self._lock:
            if not self._closing or self._pending:
                return False
            for workers in self._idle.values():
                for worker in workers:
                    self._retire(worker)
                workers.clear()
            if self._workers or self._starting or self._groups:
                return False
            # A light process that cannot be stopped goes on; the end of the interpreter waits for it, as for a thread.
            for worker in self._stuck:
                self._listen_no_more(worker)
            self._close_fds()
            return True

    def _fail(self, e: BaseException) -> None:
        """A fault of the manager's own: nobody is to wait for ever."""
        with self._lock:
            self._broken = e
            self._closing = True
            calls = [*self._waiting(), *(worker.call for worker in self._workers if worker.call is not None)]
            self._pending.clear()
        for worker in list(self._workers):
            try:
                worker.end("retire")
            except Exception:
                continue
        for call in calls:
            error = RuntimeError(f"the executor's manager has failed: {type(e).__name__}: {e}")
            error.__cause__ = e
            self._settle(call, Outcome(None, error))
        with self._lock:
            self._close_fds()

    def _listen(self) -> None:
        assert self._epoll is not None
        assert self._bell is not None
        for fd, _ in self._epoll.poll(self._patience(), _EVENTS):
            if fd == self._wake:
                with self._lock:
                    self._woken = False
                    os.eventfd_read(fd)
                for number in self._bell.ended():
                    worker = self._heeded.get(number)
                    if worker is not None:
                        self.on_end(worker)
                continue
            found = self._answers.get(fd)
            if found is not None:
                worker, method = found
                getattr(self, method)(worker)

    def _patience(self) -> float | None:
        """Seconds until there is something to do without an event."""
        if not (self._late or self._groups or self._watched):
            return None
        now = time.monotonic()
        moments = []
        with self._lock:
            if self._late:
                moments.append(self._late[0][0])
        if self._groups:
            moments.append(now + GROUP_PERIOD)
        if self._watched:
            moments.append(self._next_rss)
        return max(0.0, min(moments) - now) if moments else None


LIVE: set[Manager] = set()
"""Those whose thread runs."""
