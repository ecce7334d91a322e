"""multiprocessing over sysclone's processes: a start method that ProcessPoolExecutor, Pool, managers and queues take.

`get_context("clone")` copies, as fork does, with every other switch of a Context, and without fork's deadlock in a
program with threads that libc's own locks cause. `get_context("zygote")` clones a clean interpreter, as forkserver does,
and the process is the caller's own child.

1. The name of a start method is behaviour in the standard library. "fork" alone makes ProcessPoolExecutor start all its
   workers before its thread, refuse max_tasks_per_child, and lets semaphores be unlinked at once. Ours bear other names.
2. A process that was copied while a ProcessPoolExecutor ran has its table of wake-ups: at its exit it would poke its
   parent's executor, so the table is emptied.
3. Python's handlers for the end of a process are not the copy's to run: from 3.13 on those of multiprocessing are kept.
4. multiprocessing.Process is of no start method: it asks that in force for its _Popen, and gives it an object that is not of
   its class. So what a _Popen needs is bound to it, and is no attribute of the object.
5. Nobody asks for the result of a process: what keeps it from its target has to be printed.
"""

from __future__ import annotations

import _thread
import atexit
import io
import os
import sys
from multiprocessing import context as _context
from multiprocessing import forkserver, popen_fork, popen_forkserver, process, reduction, resource_tracker, spawn
from multiprocessing import util as _util
from multiprocessing.context import BaseContext

from . import _call
from ._api import Context
from ._data.transport import Descriptor
from ._errors import ContextError, TaskFailed, TaskTimeout
from ._flags import Share
from ._task.copied import CopiedTask
from ._under import under
from ._zygote import importing
from ._zygote.fresh import check as check_fresh
from ._zygote.zygote import Zygote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

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
    _task: CopiedTask

    def __init__(self, process_obj: Any, context: Context) -> None:
        self._context = context
        self._name = process_obj.name
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

    def _start(self, process_obj: Any, theirs: int, ours: int) -> CopiedTask:
        return _call.start_copied(self._context, _copied_main, (process_obj, theirs, ours), {})

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """The exit code, or minus the signal; None while it runs. 255 where nobody could see it."""
        if self.returncode is None:
            if flag == os.WNOHANG and not self._task.done():
                return None
            code = self._task.wait().returncode
            self.returncode = 255 if code is None else code
            self._tell()
        return self.returncode

    def _tell(self) -> None:
        """Print what kept the process from its target: a step of its Context."""
        _, exception = self._task.outcome()
        if exception is not None and not isinstance(exception, (TaskFailed, TaskTimeout)):
            sys.stderr.write(f"Process {self._name} ({self.pid}):\n")
            sys.excepthook(type(exception), exception, exception.__traceback__)

    def _send_signal(self, sig: int) -> None:
        if self.returncode is None:
            self._task.send_signal(sig)


def _let_go(task: CopiedTask, fd: int) -> None:
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


_zygotes: dict[tuple[str, ...], Zygote] = {}
_lock = _thread.allocate_lock()
_forkserver: Any = forkserver._forkserver


def shared_zygote() -> Zygote:
    """The zygote that serves the start method where none is given.

    It has this module, and as a forkserver what set_forkserver_preload() has named: the main module unless told. To import
    them would take each process longer than to be cloned.
    """
    return under(_lock, _serving, tuple(map(importing.Hint, _forkserver._preload_modules)))


def _serving(hints: tuple[str, ...]) -> Zygote:
    zygote = _zygotes.get(hints)
    if zygote is None or zygote._closed:
        # One that had other names is closed with the last process object that it serves.
        _zygotes.clear()
        zygote = _zygotes[hints] = Zygote([__name__, *hints])
    return zygote


def _in_forked_child() -> None:
    global _lock
    _lock = _thread.allocate_lock()


os.register_at_fork(after_in_child=_in_forked_child)


class ZygotePopen(ClonePopen):
    """One process that a zygote has cloned; its object was pickled, as with spawn."""

    method = "zygote"
    DupFd = popen_forkserver._DupFd

    def __init__(self, process_obj: Any, context: Context, zygote: Zygote | None) -> None:
        self._zygote = zygote
        self._descriptors: list[Descriptor] = []
        super().__init__(process_obj, context)

    def duplicate_for_child(self, fd: int) -> int:
        """What an fd is called in the child's pickle: its place among those that are sent."""
        self._descriptors.append(Descriptor(fd))
        return len(self._descriptors) - 1

    def _start(self, process_obj: Any, theirs: int, ours: int) -> CopiedTask:
        fd = resource_tracker.getfd()
        assert fd is not None
        tracker = Descriptor(fd)
        if importing.importing_main:
            raise RuntimeError(importing.NEEDS_GUARD)
        prepared = spawn.get_preparation_data(process_obj._name)
        buffer = io.BytesIO()
        _context.set_spawning_popen(self)  # type: ignore[arg-type]
        try:
            reduction.dump(prepared, buffer)
            reduction.dump(process_obj, buffer)
        finally:
            _context.set_spawning_popen(None)
        zygote = self._zygote if self._zygote is not None else shared_zygote()
        task = zygote.start_in(
            self._context, _fresh_main, buffer.getvalue(), Descriptor(theirs), tracker, self._descriptors
        )
        assert isinstance(task, CopiedTask)
        return task


def _fresh_main(data: bytes, sentinel: Descriptor, tracker: Descriptor, descriptors: list[Descriptor]) -> None:
    """In the fresh process: unpickle the object, run it, and leave with its code."""
    import pickle

    # As multiprocessing's own children of forkserver do: the names are private there, and the same from 3.8 on.
    of_tracker: Any = resource_tracker
    me: Any = process.current_process()
    of_tracker._resource_tracker._fd = tracker.detach()
    _forkserver._inherited_fds = [one.detach() for one in descriptors]
    buffer = io.BytesIO(data)
    me._inheriting = True
    try:
        spawn.prepare(pickle.load(buffer))
        process_obj = pickle.load(buffer)
    except Exception:
        # Nobody asks for the result of this function.
        sys.excepthook(*sys.exc_info())
        util._flush_std_streams()
        os._exit(1)
    finally:
        del me._inheriting
    _leave_with(process_obj, sentinel.detach())


# --- what multiprocessing calls by these names


class CloneProcess(process.BaseProcess):
    """A multiprocessing.Process in a copy of this one."""

    _start_method = "clone"

    @staticmethod
    def _Popen(process_obj: Any) -> ClonePopen:
        return ClonePopen(process_obj, Context())


class ZygoteProcess(process.BaseProcess):
    """A multiprocessing.Process in a clone of a clean interpreter."""

    _start_method = "zygote"

    @staticmethod
    def _Popen(process_obj: Any) -> ZygotePopen:
        return ZygotePopen(process_obj, Context(), None)

    @staticmethod
    def _after_fork() -> None:
        """Nothing was copied."""

    def __reduce__(self) -> tuple[Any, ...]:
        # A context's own class is of no name that another process could find.
        found = ZygoteProcess if "_made_here" in type(self).__dict__ else type(self)
        return _rebuild, (found, self.__dict__)


def _rebuild(cls: Any, state: dict[str, Any]) -> Any:
    one = cls.__new__(cls)
    one.__dict__.update(state)
    return one


class _Name(str):
    """The name of a start method: who unpickles it has this module, and so knows the start method."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Name, (str(self),)


class StartMethod(BaseContext):
    """A multiprocessing context: made by get_context().

    Attributes:
        Process: the class of its processes.
    """

    Process: Any

    def __init__(self, method: str, context: Context, zygote: Zygote | None) -> None:
        self._name = _Name(method)
        base = CloneProcess if method == "clone" else ZygoteProcess

        # multiprocessing.Process asks the class of the context in force for the _Popen of an object that is not of it.
        class Process(base):  # type: ignore[misc, valid-type]
            _made_here = True

            @staticmethod
            def _Popen(process_obj: Any) -> ClonePopen:
                return (
                    ClonePopen(process_obj, context) if method == "clone" else ZygotePopen(process_obj, context, zygote)
                )

        self.Process = Process if context != Context() or zygote is not None else base


def get_context(method: str = "clone", *, context: Context | None = None, zygote: Zygote | None = None) -> StartMethod:
    """A context as of multiprocessing.get_context(): for ProcessPoolExecutor(mp_context=…), Pool, managers, queues.

    Args:
        method: "clone", a copy of this process; "zygote", a clone of a clean interpreter.
        context: what each process shares, what is new in it; no memory. None is nothing.
        zygote: whom to clone; None is one that all share, which imports the main module beforehand, or what
            `multiprocessing.set_forkserver_preload()` names.

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
