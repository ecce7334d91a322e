"""Zygote: fresh processes, cloned on request by a small interpreter that was exec'd and has one thread.

The task is a child of the caller's own (CLONE_PARENT), and costs what the zygote costs to clone, whatever the caller's size
and threads. `_zygote.inside` is the other side.

A zygote that dies is replaced, and nothing of a call is lost: the task claims its page before it begins, and so does the
caller when the zygote is gone without an answer. One of them wins, so it is known whether the task has begun. If not, the
call is made again; if it has, it is found by the pid that it left in the page.
"""

from __future__ import annotations

import _thread
import atexit
import os
import sys
import time
from weakref import WeakSet

from .._context.description import Description
from .._data.result import ResultPage
from .._errors import ZygoteError
from .._task.copied import reap_abandoned, result_of
from .._under import under
from . import importing
from .fresh import check, main_module, pack_call
from .left import found, reap_between
from .link import Gone, Server, exists
from .order import FreshTask, Order, task_of
from .request import Inherited

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Any, Final, ParamSpec, Self, TypeVar

    from .._task.task import Task

    P = ParamSpec("P")
    R = TypeVar("R")

_PLAIN: Final = Description()
_LIVES: Final = 3  # zygotes that may die over one call


class Zygote:
    """A clean interpreter from which fresh processes are cloned.

    A task of it starts with what `preload` imported and nothing else of the caller's: no threads, no locks, no fds, no
    memory. Functions and arguments are pickled: by name, or by value with cloudpickle (`sysclone[fresh]`) for lambdas,
    closures and what the main module defines; without it the task imports the main module anew, as `__mp_main__`, for
    which that needs its guard. May be used from any number of threads. A context manager: leaving it closes it.

    Args:
        preload: names of modules to import beforehand; "__main__" is the caller's main module.
        stdio: whether tasks get the caller's standard streams of the moment; else the zygote's.
        cwd: whether tasks get the caller's cwd of the moment; else the zygote's.
        environment: whether tasks get the caller's os.environ of the moment; else the zygote's.
        umask: whether tasks get the calling thread's umask of the moment; else the zygote's.
        limits: whether tasks get the caller's resource limits of the moment; else the zygote's. To raise a hard limit above
            the zygote's needs CAP_SYS_RESOURCE.
        patience: seconds that starting it may take.

    Raises:
        ZygoteError: it could not be started; an exception of a preloaded module is in `traceback`.
        CloneError: the kernel refused.

    Since Linux 5.4. What of the above is not asked for, the zygote has as of the moment when it was started, priorities and
    the namespaces too, and so have its tasks. It is replaced when the caller's ids have changed since.
    """

    def __init__(
        self,
        preload: Iterable[str] = (),
        *,
        stdio: bool = True,
        cwd: bool = True,
        environment: bool = False,
        umask: bool = False,
        limits: bool = False,
        patience: float = 60.0,
    ) -> None:
        if isinstance(preload, str):
            raise TypeError(f"preload={preload!r}: a list of module names is needed")
        self._preload = tuple(preload)
        self._inherited = Inherited(stdio, cwd, environment, umask, limits)
        self._patience = float(patience)
        self._lock = _thread.allocate_lock()
        # By the process that each serves: a light process has this very object, and another pid and file table.
        self._servers: dict[int, Server] = {}
        self._closed = False
        self._ensure()

    @property
    def pid(self) -> int:
        """The zygote's own pid; another one after it was replaced."""
        return self._ensure().pid

    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run fn(*args, **kwargs) in a fresh process, and give a copy of what it returns.

        Raises:
            ContextError: the function or an argument cannot be pickled.
            CloneError: the kernel refused the task.
            ZygoteError: the zygote could not be replaced.
            TaskExited, TaskKilled, TaskLost: it ended without returning or raising.
            ResultError: its result cannot be pickled.
            BaseException: what fn raised, with its traceback there as the cause.
        """
        return self.call_in(_PLAIN, fn, *args, **kwargs)

    def start(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Task:
        """Run fn(*args, **kwargs) in a fresh process, and do not wait: gives a Task. Raises as call() does."""
        return self.start_in(_PLAIN, fn, *args, **kwargs)

    def call_in(self, context: Description, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The same in a Context: all but what would be the zygote's and not the caller's, which is a ContextError."""
        result: R = result_of(self._begin(context, fn, args, kwargs))
        return result

    def start_in(self, context: Description, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Task:
        """The same in a Context, without waiting."""
        task = self._begin(context, fn, args, kwargs)
        task.wanted = True
        return task

    def _begin(
        self, context: Description, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> FreshTask:
        check(context)
        _need_guard()
        reap_abandoned()
        what = getattr(fn, "__qualname__", type(fn).__name__)
        packed, needs_main = pack_call(fn, args, kwargs, context.setup)
        if needs_main:
            # What the task sends back of it is called so there, as with multiprocessing.
            sys.modules.setdefault("__mp_main__", sys.modules["__main__"])
        try:
            main = main_module() if needs_main else None
            with Order(context, what, packed, main, self._inherited) as order:
                return self._place(order)
        finally:
            packed.close()

    def _place(self, order: Order) -> FreshTask:
        for life in range(1, _LIVES + 1):
            server = self._ensure()
            page = ResultPage(named=True)
            began = time.monotonic()
            try:
                return server.ask(order, page, began)
            except Gone as e:
                server.bury()
                born = found(page, server.mark)
                if born is not None:
                    return task_of(order, page, born, began)
                page.close()
                if life == _LIVES:
                    raise ZygoteError(f"{e}, {life} zygotes in a row; the function has not begun") from None
            except BaseException:
                server.settle()
                reap_between(page)
                page.close()
                raise
        raise AssertionError("unreachable")

    def _ensure(self) -> Server:
        return under(self._lock, self._serving)

    def _serving(self) -> Server:
        mine = os.getpid()
        if self._closed:
            raise ZygoteError("the Zygote was closed")
        server = self._servers.get(mine)
        if server is None or not server.serves():
            _need_guard()
            if server is not None:
                server.bury()
            self._servers = {pid: one for pid, one in self._servers.items() if pid != mine and exists(pid)}
            server = self._servers[mine] = Server(self._preload, self._inherited, self._patience)
            _open.add(self)
        return server

    def close(self) -> None:
        """End the zygote; tasks that it made go on."""
        mine = os.getpid()
        self._closed = True
        server = self._servers.pop(mine, None)
        if server is not None:
            server.bury()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_servers", None) and os is not None:
            self.close()

    def __repr__(self) -> str:
        server = self._servers.get(os.getpid())
        state = "closed" if self._closed else "started at the next call" if server is None else f"process {server.pid}"
        return f"<Zygote preload={list(self._preload)}: {state}>"


def _need_guard() -> None:
    """A main module that starts a zygote whenever it is imported would do so in that zygote too, without an end."""
    if importing.importing_main:
        raise ZygoteError(f"{importing.NEEDS_GUARD} (or sysclone[fresh], which needs no import)")


_open: WeakSet[Zygote] = WeakSet()
_default: Zygote | None = None
_default_lock = _thread.allocate_lock()


def default_zygote() -> Zygote:
    """The zygote that serves those who name none: started at its first use, with nothing preloaded."""
    return under(_default_lock, _serving_all)


def _serving_all() -> Zygote:
    global _default
    if _default is None or _default._closed:
        _default = Zygote()
    return _default


def _in_forked_child() -> None:
    """Locks that another thread held at the clone would be held here for ever."""
    global _default_lock
    _default_lock = _thread.allocate_lock()
    for one in list(_open):
        one._lock = _thread.allocate_lock()


os.register_at_fork(after_in_child=_in_forked_child)


@atexit.register
def _close_all() -> None:
    for one in list(_open):
        one.close()
