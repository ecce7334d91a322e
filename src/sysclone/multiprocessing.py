"""multiprocessing over sysclone's processes: a start method that ProcessPoolExecutor, Pool, managers and queues take.

`get_context("clone")` copies, as fork does, with every other switch of a Context, and without fork's deadlock in a
program with threads that libc's own locks cause. `get_context("zygote")` clones a clean interpreter, as forkserver does,
and the process is the caller's own child.

1. The name of a start method is behaviour in the standard library. "fork" alone makes ProcessPoolExecutor start all its
   workers before its thread, refuse max_tasks_per_child, and lets semaphores be unlinked at once. Ours bear other names.
2. A process that was copied while a ProcessPoolExecutor ran has its table of wake-ups: at its exit it would poke its
   parent's executor, so the table is emptied.
3. Python's handlers for the end of a process are not the copy's to run: from 3.13 on those of multiprocessing are kept.
"""

from __future__ import annotations

import atexit
import io
import os
import sys
from multiprocessing import context as _context
from multiprocessing import popen_fork, popen_forkserver, process, reduction
from multiprocessing import util as _util
from multiprocessing.context import BaseContext

from . import _call
from ._api import Context
from ._data.transport import Descriptor
from ._errors import ContextError
from ._flags import Share
from ._zygote.fresh import check as check_fresh
from ._zygote.zygote import Zygote, default_zygote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from ._task.task import Task

__all__ = ["get_context"]

METHODS: Final = ("clone", "zygote")
util: Any = _util  # with the names that typeshed leaves out
_RUNS_EXIT_FUNCTIONS: Final = sys.version_info >= (3, 13)


class ClonePopen(popen_fork.Popen):
    """One process that was cloned: what multiprocessing.Process asks of it."""

    method = "clone"
    sentinel: int
    pid: int
    returncode: int | None
    finalizer: Any
    _task: Task

    def __init__(self, process_obj: Any, context: Context) -> None:
        self._sysclone_context = context
        super().__init__(process_obj)

    def _launch(self, process_obj: Any) -> None:
        theirs, ours = os.pipe()
        try:
            self._task = self._start(process_obj, theirs, ours)
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        self.pid = self._task.pid
        self.sentinel = self._task.fileno()
        self.finalizer = util.Finalize(self, _let_go, (self._task, ours))

    def _start(self, process_obj: Any, theirs: int, ours: int) -> Task:
        return _call.start_copied(self._sysclone_context, _copied_main, (process_obj, theirs, ours), {})

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """The exit code, or minus the signal; None while it runs. 255 where nobody could see it."""
        if self.returncode is None:
            if flag == os.WNOHANG and not self._task.done():
                return None
            code = self._task.wait().returncode
            self.returncode = 255 if code is None else code
        return self.returncode

    def _send_signal(self, sig: int) -> None:
        if self.returncode is None:
            self._task.send_signal(sig)


def _let_go(task: Task, fd: int) -> None:
    os.close(fd)
    task.close()


def _copied_main(process_obj: Any, theirs: int, ours: int) -> None:
    """In the copy: run the process object, and leave with its code."""
    os.close(ours)
    executors = sys.modules.get("concurrent.futures.process")
    if executors is not None:
        executors._threads_wakeups.clear()
    _leave_with(process_obj, theirs)


def _leave_with(process_obj: Any, sentinel: int) -> None:
    code = 1
    try:
        if _RUNS_EXIT_FUNCTIONS:
            atexit._clear()
            atexit.register(util._exit_function)
        code = process_obj._bootstrap(parent_sentinel=sentinel)
    finally:
        if _RUNS_EXIT_FUNCTIONS:
            atexit._run_exitfuncs()
        util._flush_std_streams()
        os._exit(code)


# --- fresh processes


class ZygotePopen(ClonePopen):
    """One process that a zygote has cloned; its object was pickled, as with spawn."""

    method = "zygote"
    DupFd = popen_forkserver._DupFd

    def __init__(self, process_obj: Any, context: Context, zygote: Zygote | None) -> None:
        self._zygote = zygote if zygote is not None else default_zygote()
        self._descriptors: list[Descriptor] = []
        super().__init__(process_obj, context)

    def duplicate_for_child(self, fd: int) -> int:
        """What an fd is called in the child's pickle: its place among those that are sent."""
        self._descriptors.append(Descriptor(fd))
        return len(self._descriptors) - 1

    def _start(self, process_obj: Any, theirs: int, ours: int) -> Task:
        from multiprocessing import resource_tracker, spawn

        fd = resource_tracker.getfd()
        assert fd is not None
        tracker = Descriptor(fd)
        prepared = spawn.get_preparation_data(process_obj._name)
        buffer = io.BytesIO()
        _context.set_spawning_popen(self)  # type: ignore[arg-type]
        try:
            reduction.dump(prepared, buffer)
            reduction.dump(process_obj, buffer)
        finally:
            _context.set_spawning_popen(None)
        return self._zygote.start_in(
            self._sysclone_context, _fresh_main, buffer.getvalue(), Descriptor(theirs), tracker, self._descriptors
        )


def _fresh_main(data: bytes, sentinel: Descriptor, tracker: Descriptor, descriptors: list[Descriptor]) -> None:
    """In the fresh process: unpickle the object, run it, and leave with its code."""
    import pickle
    from multiprocessing import forkserver, resource_tracker, spawn

    # As multiprocessing's own children of forkserver do: the names are private there, and the same from 3.8 on.
    of_tracker: Any = resource_tracker
    of_server: Any = forkserver
    me: Any = process.current_process()
    of_tracker._resource_tracker._fd = tracker.detach()
    of_server._forkserver._inherited_fds = [one.detach() for one in descriptors]
    buffer = io.BytesIO(data)
    me._inheriting = True
    try:
        spawn.prepare(pickle.load(buffer))
        process_obj = pickle.load(buffer)
    finally:
        del me._inheriting
    _leave_with(process_obj, sentinel.detach())


# --- what multiprocessing calls by these names


class CloneProcess(process.BaseProcess):
    """A multiprocessing.Process in a copy of this one."""

    _start_method = "clone"
    _sysclone_context = Context()

    @staticmethod
    def _Popen(process_obj: Any) -> ClonePopen:
        return ClonePopen(process_obj, process_obj._sysclone_context)


class ZygoteProcess(process.BaseProcess):
    """A multiprocessing.Process in a clone of a clean interpreter."""

    _start_method = "zygote"
    _sysclone_context = Context()
    _zygote: Zygote | None = None

    @staticmethod
    def _Popen(process_obj: Any) -> ZygotePopen:
        return ZygotePopen(process_obj, process_obj._sysclone_context, process_obj._zygote)

    @staticmethod
    def _after_fork() -> None:
        """Nothing was copied."""

    def __reduce__(self) -> tuple[Any, ...]:
        # A context's own class is of no name that another process could find.
        made_here = "<locals>" in type(self).__qualname__
        return _rebuild, (ZygoteProcess if made_here else type(self), self.__dict__)


def _rebuild(cls: Any, state: dict[str, Any]) -> Any:
    one = cls.__new__(cls)
    one.__dict__.update(state)
    return one


class StartMethod(BaseContext):
    """A multiprocessing context: made by get_context().

    Attributes:
        Process: the class of its processes.
    """

    Process: Any

    def __init__(self, method: str, context: Context, zygote: Zygote | None) -> None:
        self._name = method
        base = CloneProcess if method == "clone" else ZygoteProcess

        class Process(base):  # type: ignore[misc, valid-type]
            _sysclone_context = context

        if method == "zygote":
            Process._zygote = zygote
        self.Process = Process if context != Context() or zygote is not None else base


def get_context(method: str = "clone", *, context: Context | None = None, zygote: Zygote | None = None) -> StartMethod:
    """A context as of multiprocessing.get_context(): for ProcessPoolExecutor(mp_context=…), Pool, managers, queues.

    Args:
        method: "clone", a copy of this process; "zygote", a clone of a clean interpreter.
        context: what each process shares, what is new in it; no memory. None is nothing.
        zygote: whom to clone; None is one that all share.

    Raises:
        ContextError: no such method, or the context is of no use to it.
    """
    if method not in METHODS:
        raise ContextError(f"method={method!r}: one of {', '.join(map(repr, METHODS))}", field="method")
    context = Context() if context is None else context
    if context.share & (Share.VM | Share.THREAD) or context.parent != "caller":
        raise ContextError(f"{context!r}: multiprocessing needs a child with memory of its own", field="context")
    if method == "zygote":
        check_fresh(context)
    elif zygote is not None:
        raise ContextError("zygote with method='clone': it copies this process", field="zygote")
    return StartMethod(method, context, zygote)


# Known to multiprocessing.get_context() and set_start_method() too, once this module is imported.
for _method in METHODS:
    _context._concrete_contexts.setdefault(_method, get_context(_method))  # type: ignore[attr-defined]
