"""The thread that runs the callbacks of futures: they are the user's, and may take as long as they like."""

from __future__ import annotations

import queue
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._future import Future


class Callbacks:
    """Runs callbacks in the order in which their futures ended; the thread is made for the first.

    Attributes:
        thread: it, or None.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: queue.SimpleQueue[Future[Any] | None] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None

    def run(self, future: Future[Any]) -> None:
        """Run a settled future's callbacks; called by one thread alone, and here where no thread is to be had."""
        if self.thread is None:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                future._call_back()
                return
            self.thread = thread
        self._queue.put(future)

    def _run(self) -> None:
        while True:
            future = self._queue.get()
            if future is None:
                return
            future._call_back()
            del future

    def close(self) -> None:
        """After those that are waiting, end the thread."""
        if self.thread is not None:
            self._queue.put(None)

    def join(self) -> None:
        """Wait until they have run."""
        if self.thread is not None and self.thread is not threading.current_thread():
            self.thread.join()
