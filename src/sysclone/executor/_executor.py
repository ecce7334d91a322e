"""Executor: calls in processes that can be stopped, limited and told apart from each other."""

from __future__ import annotations

import concurrent.futures
import os
import threading

from .._api import Context
from .._errors import ContextError
from .._flags import Share
from . import _map
from ._calls import Call
from ._future import Future
from ._manager import LIVE, Manager
from ._options import Options, whole
from ._progress import bar_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Any, Literal, NoReturn, ParamSpec, Self, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")

_AT_EXIT = ("wait", "cancel")


class _Calls(concurrent.futures.Executor):
    """What an Executor and what its options() gives have in common: submit and map under certain limits."""

    _manager: Manager
    _options: Options

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run fn(*args, **kwargs) in a process of the executor's.

        Returns:
            A Future; a call that cannot be pickled, or for which the kernel refuses a process, fails there.

        Raises:
            RuntimeError: the executor was shut down, or belongs to another process.
        """
        return self._call(fn, args, kwargs)

    def _call(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        items: list[Any] | None = None,
        many: bool = False,
    ) -> Future[Any]:
        manager = self._manager
        call = Call(self._options, fn, args, kwargs, items, many, manager)
        future = call.future
        if manager.packs:
            try:
                call.pack()
            except Exception as e:
                manager.check_open()
                future._begin()
                future._settle(None, e)
                return future
        manager.submit(call)
        return future

    def map(
        self,
        fn: Callable[..., R],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        progress: bool = False,
    ) -> Iterator[R]:
        """An iterator over fn's results for the items of the iterables, in order.

        The iterables are read only a few calls ahead of who reads the results, so a million items need no more memory
        than a thousand. The limits of options() hold for each item.

        Args:
            fn: called with one item of each iterable.
            iterables: read until the shortest is at its end.
            timeout: seconds from now until the last result; None for no limit.
            chunksize: items a call. None: as many as take about 20 ms, with warm workers; else 1.
            buffersize: how many items may be on their way at once; None is a few calls a worker.
            progress: draw a bar on standard error, where that is a terminal (needs rich).

        Raises:
            TimeoutError: from the iterator: the results did not come in time.
            BaseException: from the iterator, in its place: what fn raised or its process died of. What is on its way is
                cancelled then.
        """
        bar = bar_for(fn, iterables) if progress else None
        try:
            return _map.results(
                lambda items: self._call(fn, (), {}, items, len(iterables) > 1),
                iterables,
                workers=self._manager.max_workers,
                timeout=timeout,
                chunksize=chunksize,
                adapt=self._manager.warm,
                buffersize=buffersize,
                bar=bar,
            )
        except BaseException:
            if bar is not None:
                bar.close()
            raise

    def options(self, **changes: Any) -> BoundCalls:
        """The same executor with other limits for the calls that are made through what this gives.

        Args:
            changes: timeout, memory_bytes, memory_by, cpu_seconds, files, processes, context; as of Executor.

        Raises:
            ContextError: a value is out of range.
        """
        options = self._options.replace(**changes)
        _check_table(options, self._manager.warm)
        return BoundCalls(self, options)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an Executor cannot be copied or pickled: its processes are those of the program that made it; "
            "a function that needs one makes its own"
        )


def _check_table(options: Options, warm: bool) -> None:
    if warm and Share.FILES in options.context.share:
        raise ContextError(
            "tasks_per_worker with Share.FILES: a warm worker needs a file table of its own", field="context"
        )


class Executor(_Calls):
    """A concurrent.futures.Executor whose calls run in processes that can be stopped, and that say why they died.

    Leaving the `with` block waits for all calls; leaving it by an exception ends them first.

    Args:
        max_workers: how many processes at once, 1 or more; None is the number of processors that this process may use.
        kind: "light" (memory shared: no pickling), "copied" (a copy of the memory), "fresh" (a clean interpreter's).
            None: what the context asks for, and light without one.
        tasks_per_worker: how many calls a process runs: 1 is a process a call; None is warm workers without end.
        timeout: seconds that a call may take, more than 0; its process is ended then. None for no limit.
        memory_bytes: what a call may take beyond the memory that its process begins with, 1 MiB or more; not in light
            processes.
        memory_by: what limits it: "cgroup", "rlimit" (RLIMIT_AS) or "rss" (looked at every 50 ms). None: a cgroup where
            one can be made, else RLIMIT_AS. stats()["memory_by"] tells.
        cpu_seconds: processor time that a call may take, more than 0; in light processes whole seconds.
        files: how many files it may open beyond those that its process begins with.
        processes: how many processes and threads it may have at once beside itself.
        context: what its process shares, what is new in it; a sysclone.Context.
        preload: names of modules that fresh processes have imported already.
        name: of the manager's thread.
        at_exit: "wait" or "cancel": what becomes of calls that run at interpreter exit.

    Raises:
        ContextError: a value is out of range, or cannot be had with this kind; `field` names it.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        kind: Literal["light", "copied", "fresh"] | None = None,
        tasks_per_worker: int | None = 1,
        timeout: float | None = None,
        memory_bytes: int | None = None,
        memory_by: Literal["cgroup", "rlimit", "rss"] | None = None,
        cpu_seconds: float | None = None,
        files: int | None = None,
        processes: int | None = None,
        context: Context | None = None,
        preload: Iterable[str] = (),
        name: str = "sysclone executor",
        at_exit: Literal["wait", "cancel"] = "wait",
    ) -> None:
        if kind is None:
            kind = "copied" if isinstance(context, Context) and Share.VM not in context.share else "light"
        workers = whole(max_workers, "max_workers", 1) or len(os.sched_getaffinity(0))
        self._options = Options(
            kind,
            timeout=timeout,
            memory_bytes=memory_bytes,
            memory_by=memory_by,
            cpu_seconds=cpu_seconds,
            files=files,
            processes=processes,
            context=context,
        )
        calls = whole(tasks_per_worker, "tasks_per_worker", 1)
        _check_table(self._options, calls != 1)
        if at_exit not in _AT_EXIT:
            raise ContextError(f"at_exit={at_exit!r}: one of {', '.join(map(repr, _AT_EXIT))}", field="at_exit")
        names = () if isinstance(preload, str) else tuple(preload)
        if isinstance(preload, str) or not all(isinstance(one, str) for one in names) or (names and kind != "fresh"):
            raise ContextError(f"preload={preload!r}: names of modules, for kind='fresh'", field="preload")
        self._manager = Manager(kind, workers, calls, names, name, at_exit)

    @property
    def kind(self) -> str:
        """What its processes are: "light", "copied" or "fresh"."""
        return self._manager.kind

    @property
    def max_workers(self) -> int:
        """How many processes at once."""
        return self._manager.max_workers

    def stats(self) -> dict[str, Any]:
        """Counters, and the state of this moment: see the reference."""
        return self._manager.stats()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False, cancel_running: bool = False) -> None:
        """Take no more calls.

        Args:
            wait: return when every process is gone and every callback has run.
            cancel_futures: cancel what has not begun.
            cancel_running: and end what runs.
        """
        self._manager.close(cancel_futures, cancel_running)
        if wait:
            self._manager.join()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        failed = kind is not None
        self.shutdown(cancel_futures=failed, cancel_running=failed)

    def __enter__(self) -> Self:
        return self

    def __del__(self) -> None:
        manager = getattr(self, "_manager", None)
        if manager is not None and manager.thread is not None and manager.pid == os.getpid():
            manager.close(False, False)

    def __repr__(self) -> str:
        manager = self._manager
        return f"<Executor kind={manager.kind!r} max_workers={manager.max_workers} tasks_per_worker={manager.tasks_per_worker}>"


class BoundCalls(_Calls):
    """An executor with certain limits: made by options(). An Executor itself, for submit, map and run_in_executor."""

    def __init__(self, owner: _Calls, options: Options) -> None:
        self._owner = owner
        self._manager = owner._manager
        self._options = options

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """The executor's own."""
        self._owner.shutdown(wait, cancel_futures=cancel_futures)

    def __repr__(self) -> str:
        return f"<calls of {self._owner!r} with {self._options.told() or 'no limits'}>"


# --- the ends of the program, and its copies


def _at_exit() -> None:
    """Before the interpreter ends: the calls are waited for, as those of other executors are; a Ctrl-C ends them."""
    managers = [manager for manager in list(LIVE) if manager.pid == os.getpid()]
    for manager in managers:
        manager.close(manager.at_exit == "cancel", manager.at_exit == "cancel")
    try:
        for manager in managers:
            manager.join()
    except BaseException:
        for manager in managers:
            manager.close(True, True)
        for manager in managers:
            manager.join()
        raise


def _in_forked_child() -> None:
    """A copy of this process has none of its executors' threads: their fds are closed here."""
    for manager in list(LIVE):
        manager.forget()
    LIVE.clear()


os.register_at_fork(after_in_child=_in_forked_child)
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
