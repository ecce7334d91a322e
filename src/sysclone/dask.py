"""Dask tasks, each in a process of its own that can be ended, limited and asked why it died, on every node of a cluster.

`client.register_plugin(WorkerPlugin(timeout=60))` gives each worker an executor, and `dask.annotate(executor="sysclone")`
sends tasks there. `Executor(client)` is the same behind concurrent.futures. Needs `sysclone[dask]` on client and workers.

1. A worker knows an executor by its class: one with "ThreadPoolExecutor" in its name would be handed the worker's own
   state along. Ours gets what any other gets: the task and its data.
2. Dask never ends what runs in an executor. So the worker's plugin is told when a task that runs is given up, and ends
   its process.
3. A future of the executor's that was cancelled would be taken for the worker's own end, and its place be lost: the
   worker is told of an error.
"""

from __future__ import annotations

import concurrent.futures
import os
import threading

import dask
import distributed

from ._errors import TaskFailed
from .executor import Executor as _LocalExecutor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from ._api import Context

__all__ = ["Executor", "WorkerPlugin"]

_dask: Any = dask  # neither is typed throughout
_any: Any = distributed


class WorkerPlugin(distributed.WorkerPlugin):
    """Gives each worker of a cluster an executor of processes.

    Args:
        name: what tasks call it: `dask.annotate(executor=name)`.
        kind: "copied", where a task has the worker's memory and its data without a pickle; "fresh", a clean interpreter's;
            "light" has no limits on memory, and no wall between a task and its worker.
        max_workers: how many processes at once; None is the worker's threads, as Dask gives it no more.
        options: what else sysclone.Executor takes: timeout, memory_bytes, cpu_seconds, files, processes, context, ….
    """

    def __init__(
        self, name: str = "sysclone", *, kind: str = "copied", max_workers: int | None = None, **options: Any
    ) -> None:
        self.name = name
        self._keywords = {"kind": kind, "max_workers": max_workers, **options}
        _LocalExecutor(**self._keywords).shutdown()  # what is wrong with them is to be known here

    def setup(self, worker: Any) -> None:
        """Called in each worker."""
        keywords = self._keywords | {"max_workers": self._keywords["max_workers"] or worker.state.nthreads}
        self._calls = worker.executors[self.name] = _TaskExecutor(keywords)

    def teardown(self, worker: Any) -> None:
        """Called in each worker: what runs is ended."""
        worker.executors.pop(self.name, None)
        self._calls.shutdown(wait=False, cancel_futures=True)

    def transition(self, key: Any, start: Any, finish: Any, **_: Any) -> None:
        """Called for each change of a task: one that runs and is wanted no more is ended."""
        if start == "executing" and finish in ("cancelled", "released", "forgotten"):
            self._calls.end(key)


class _TaskExecutor(concurrent.futures.Executor):
    """What a worker runs tasks in: its calls can be ended by the task's key."""

    def __init__(self, keywords: dict[str, Any]) -> None:
        self._executor = _LocalExecutor(**keywords)
        self._lock = threading.Lock()
        self._running: dict[Any, concurrent.futures.Future[Any]] = {}

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """Run it; the first argument is Dask's task, which knows its key."""
        key = getattr(args[0], "key", None) if args else None
        told: concurrent.futures.Future[Any] = concurrent.futures.Future()
        inner = self._executor.submit(fn, *args, **kwargs)
        with self._lock:
            self._running[key] = inner
        inner.add_done_callback(lambda future: self._tell(key, future, told))
        return told

    def _tell(self, key: Any, future: concurrent.futures.Future[Any], told: concurrent.futures.Future[Any]) -> None:
        with self._lock:
            if self._running.get(key) is future:
                del self._running[key]
        if not told.set_running_or_notify_cancel():
            return
        if future.cancelled():
            told.set_exception(TaskFailed(detail="it was cancelled"))
        elif future.exception() is not None:
            told.set_exception(future.exception())
        else:
            told.set_result(future.result())

    def end(self, key: Any) -> None:
        """End the process of a task, if it runs."""
        with self._lock:
            future = self._running.get(key)
        if future is not None:
            future.cancel()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Of the executor; with cancel_futures what runs is ended too: a worker that closes waits for nobody."""
        self._executor.shutdown(wait, cancel_futures=cancel_futures, cancel_running=cancel_futures)


class Executor(concurrent.futures.Executor):
    """concurrent.futures on a Dask cluster, each call in a process of its own on one of the workers.

    Leaving the `with` block waits for all calls.

    Args:
        client: a distributed.Client, borrowed.
        context: what each process shares and what is new in it; a sysclone.Context.
        options: what else WorkerPlugin takes.

    Raises:
        ContextError: an option is wrong.
    """

    def __init__(self, client: distributed.Client, *, context: Context | None = None, **options: Any) -> None:
        self._client: Any = client  # not all of it is typed
        self._name = f"sysclone-{os.getpid()}-{id(self):x}"
        self._futures: set[Any] = set()
        self._closed = False
        self._lock = threading.Lock()
        self._plugin = WorkerPlugin(self._name, context=context, **options)
        client.register_plugin(self._plugin, self._name)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """Run fn(*args, **kwargs) on a worker. cancel() of the future ends it there, also while it runs.

        Raises:
            RuntimeError: after shutdown.
        """
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        with _dask.annotate(executor=self._name):
            theirs: Any = self._client.submit(fn, *args, pure=False, **kwargs)
        ours = _ClusterFuture(theirs)
        with self._lock:
            self._futures.add(theirs)
        theirs.add_done_callback(lambda future: self._done(future, ours))
        return ours

    def _done(self, theirs: Any, ours: _ClusterFuture) -> None:
        with self._lock:
            self._futures.discard(theirs)
        if theirs.status == "cancelled" or not ours.set_running_or_notify_cancel():
            ours.cancel()
            return
        error = theirs.exception()
        if error is not None:
            ours.set_exception(error)
        else:
            ours.set_result(theirs.result())

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        **_: Any,
    ) -> Iterator[Any]:
        """As of concurrent.futures: all items are submitted at once, each a task of Dask's."""
        return super().map(fn, *iterables, timeout=timeout, chunksize=chunksize)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and take the executors away from the workers once all are done.

        Args:
            wait: return when all are done. Without, the workers keep their executors.
            cancel_futures: end those that are not, also those that run.
        """
        self._closed = True
        with self._lock:
            futures = list(self._futures)
        if cancel_futures and futures:
            self._client.cancel(futures, force=True)
        elif wait and futures:
            _any.wait(futures)
        if wait:
            self._client.unregister_worker_plugin(self._name)


class _ClusterFuture(concurrent.futures.Future):  # type: ignore[type-arg]
    """A future whose cancel() reaches the cluster."""

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        self._theirs = theirs

    def cancel(self) -> bool:
        """End the call, running or not; False where it is done."""
        if not super().cancel():
            return False
        if self._theirs.status != "cancelled":
            self._theirs.cancel(force=True)
        return True
