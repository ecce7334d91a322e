"""call and start: a function in a task of its own.

With memory shared, a light process (light.c tells how); without, a copied one (copied.c). Which of the ways to copy is
taken stands in `_way`.
"""

from __future__ import annotations

import atexit
import os
import sys
import time

from . import _core
from ._cgroup import CgroupDirectory
from ._context.description import Description
from ._data.result import ResultPage, load
from ._errors import Cancelled, CloneError, ContextError, SyscloneWarning, TaskTimeout
from ._flags import Namespace, Share, format_step
from ._idmap import plan_of
from ._steps.steps import need_lending, prepared, steps_of
from ._task.child import flush, live
from ._task.copied import CopiedTask, has_abandoned, put_down, reap_abandoned, result_of
from ._task.light import STOP_CANCEL, LightTask
from ._task.status import Status
from ._task.task import STOP_PATIENCE, Task, failure
from ._task.wait import late_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")

_DIED: Final = 0
_FORK: Final = 0
_FORK_THEN_CLONE: Final = 1
_RAW: Final = 2

# What a libc fork has copied already: only a raw clone shares these with the caller itself.
_RAW_ONLY: Final = Share.FILES | Share.FS | Share.IO | Share.SYSVSEM


# --- what the C core asks of Python


def _clone_failed(plan: _core.Plan, errno: int, step: str) -> CloneError:
    if step == "pthread_create" and plan.stack_bytes:
        step = f"pthread_create(a stack of {plan.stack_bytes} bytes)"
    return CloneError(errno, step=step if step != "clone" else clone_step(plan))


def clone_step(plan: _core.Plan) -> str:
    """What a refused clone is called in its error."""
    return format_step(
        "clone3",
        plan.flags,
        set_tid=plan.tids or None,
        cgroup=plan.cgroup if plan.cgroup >= 0 else None,
        joined=Namespace(plan.joined).name if plan.joined else None,
    )


def _ended(plan: _core.Plan, outcome: tuple[Any, ...]) -> BaseException:
    pid, _end, wait_status, exit_code, stop, stop_signal, value, frames, _threads = outcome
    status = (
        Status.unknown("another reaped it, or SIGCHLD is ignored")
        if wait_status is None
        else Status.from_wait(wait_status)
    )
    exception: BaseException
    if stop_signal:
        exception = failure(pid, status if status.signal == stop_signal else Status(signal=stop_signal))
    elif stop == 1:
        exception = Cancelled(f"the function in process {pid} was cancelled")
    elif stop == 2:
        exception = TaskTimeout(pid=pid, seconds=max(plan.timeout_ns, 0) / 1e9, still_running=False)
    elif isinstance(value, SystemExit):
        exception = failure(pid, Status(exit_code=exit_code))
    else:
        exception = failure(pid, status)
    if isinstance(value, BaseException):
        exception.__cause__ = value
    if _end == _DIED:
        _bury_threads()
    if frames:
        exception.add_note(_dead_traceback(frames))
    return exception


_NO_THREAD: Final = 0x5C105ED


def _bury_threads() -> None:
    """Mark the threads that a dead process took with it as ended: interpreter exit would wait for them for ever."""
    dead = set(_core.bury_dead())
    threading = sys.modules.get("threading")
    if threading is None:
        return
    # From 3.13 on; first, since the interpreter's end goes round and round, in C, while one that is done is on its list. And a
    # thread's objects may be gone before it.
    if hasattr(threading, "_make_thread_handle"):
        _core.bury_handles(threading._make_thread_handle(_NO_THREAD), _NO_THREAD)
    # Every thread there is, also one that has not said yet that it runs, or has said already that it ends.
    for thread in [reference() for reference in list(threading._dangling.data)]:
        ident = getattr(thread, "_ident", None)
        handle = getattr(thread, "_os_thread_handle", None) or getattr(thread, "_handle", None)
        if handle is not None:  # from 3.13 on
            ident = handle.ident or ident
            if not ident or (handle.is_done() and ident not in dead):
                continue
            # What libc keeps of it is there as long as it is not done, unless it is not the interpreter's own.
            if ident not in dead and (isinstance(thread, threading._DummyThread) or not _core.died(ident)):
                continue
            if not handle.is_done():
                _core.bury_handle(handle)
        elif ident not in dead:
            continue
        lock = getattr(thread, "_tstate_lock", None)
        if lock is not None:  # until 3.12
            thread._tstate_lock, thread._is_stopped = None, True
            threading._shutdown_locks.discard(lock)
        if not thread._started.is_set():
            thread._started._at_fork_reinit()  # its lock may be a dead one's
            thread._started.set()
        if threading._active.get(ident) is thread:
            del threading._active[ident]
        threading._limbo.pop(thread, None)


def _dead_traceback(frames: list[tuple[Any, int]]) -> str:
    lines = ["The function was last seen at (most recent call last):"]
    for code, line in reversed(frames):
        if line > 0:
            lines.append(f'  File "{code.co_filename}", line {line}, in {code.co_qualname}')
    return "\n".join(lines)


def _absorb() -> None:
    """Does nothing: an asynchronous exception strikes here rather than in somebody's code."""


def _shield() -> tuple[str | None, ...]:
    """The standard library's code that takes locks which the whole program shares: files, each with a name or None."""
    library = os.path.dirname(os.__file__)
    whole = (
        "threading.py",
        "queue.py",
        "_weakrefset.py",
        "concurrent/futures/_base.py",
        "concurrent/futures/thread.py",
    )
    logging = (
        "acquire",
        "release",
        "handle",
        "flush",
        "close",
        "_acquireLock",
        "_releaseLock",
        "isEnabledFor",
        "getLogger",
    )
    pairs: list[tuple[str, str | None]] = [(os.path.join(library, name), None) for name in whole]
    pairs += [(os.path.join(library, "logging/__init__.py"), name) for name in logging]
    pairs += [
        ("<frozen importlib._bootstrap>", None),
        ("<frozen importlib._bootstrap_external>", None),
        (__file__, None),
    ]
    return tuple(part for pair in pairs for part in pair)


_core.hooks(Cancelled, _clone_failed, _ended, _absorb, _bury_threads, _shield())
os.register_at_fork(after_in_child=_core.pool_after_fork)
_UNSUPPORTED: Final = _core.unsupported()


def _await_the_last() -> None:
    """At interpreter exit: wait for the functions that still run, as for threads; a Ctrl-C meanwhile stops them."""
    try:
        _core.pool_drain(-1.0)
    except BaseException:
        _core.pool_stop()
        if not _core.pool_drain(STOP_PATIENCE):
            # What cannot be stopped now would wait for a GIL that the ending interpreter has taken apart.
            flush()
            os._exit(1)
        raise


atexit.register(_await_the_last)


# --- the verbs


def call(context: Description, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Run fn in a task as context says, and give what it returns."""
    if Share.VM not in context.share:
        if context.timeout is None and context.cgroup is None and context.parent == "caller":
            at_once: R = _copied_at_once(context, fn, args, kwargs)
            return at_once
        copied: R = result_of(start_copied(context, fn, args, kwargs))
        return copied
    steps = steps_of(context, light=True)
    if steps:
        prepared_result: R = _light_result(context, prepared, steps, fn, args, kwargs)
        return prepared_result
    result: R = _light_result(context, fn, *args, **kwargs)
    return result


def _light_result(context: Description, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    if context.cgroup is None and context.timeout is not None and not _UNSUPPORTED:
        # The parked helper keeps the time; this wait only bounds how long an unstoppable function is waited for.
        patience = context.timeout + STOP_PATIENCE
        answer = _core.timed_call(patience, plan_of(context, "light"), _watched(fn), *args, **kwargs)
        if isinstance(answer, _core.Job):
            raise TaskTimeout(pid=answer.pid, seconds=context.timeout, still_running=True)
        return answer
    # Maps may be written by another program (newuidmap): not with the GIL in hand.
    maps = context.uid_map is not None or context.gid_map is not None
    if maps or context.cgroup is not None or context.timeout is not None:
        return _timed_result(context, _start_prepared(context, fn, args, kwargs))
    if _UNSUPPORTED:
        need_lending()
    return _core.light_call(plan_of(context, "light"), fn, *args, **kwargs)


def _watched(fn: Callable[..., Any]) -> Callable[..., Any]:
    """With threading's trace and profile functions set while it runs, as in a thread of threading's."""
    threading = sys.modules.get("threading")
    if threading is None:
        return fn
    trace, profile = threading.gettrace(), threading.getprofile()
    if trace is None and profile is None:
        return fn

    def watched(*args: Any, **kwargs: Any) -> Any:
        sys.setprofile(profile)
        sys.settrace(trace)
        try:
            return fn(*args, **kwargs)
        finally:
            sys.settrace(None)
            sys.setprofile(None)

    return watched


def start(context: Description, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Task:
    """Run fn in a task as context says, and do not wait for it."""
    if Share.VM in context.share:
        return start_light(context, fn, args, kwargs)
    return start_copied(context, fn, args, kwargs)


def _timed_result(context: Description, task: LightTask) -> Any:
    # The parked helper keeps the time; this wait only bounds how long an unstoppable function is waited for.
    patience = None if context.timeout is None else context.timeout + STOP_PATIENCE
    try:
        if task._job.wait(patience):
            try:
                return task._job.result()
            finally:
                task.close()
    except BaseException:
        task._job.stop(STOP_CANCEL)
        raise
    else:
        pid = task.pid
    finally:
        # The exception that the job keeps has this frame in its traceback.
        del task
    raise TaskTimeout(pid=pid, seconds=context.timeout or 0.0, still_running=True)


def start_light(
    context: Description, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> LightTask:
    """A light process on a helper thread."""
    what = getattr(fn, "__qualname__", type(fn).__name__)
    steps = steps_of(context, light=True)
    if steps:
        return _start_prepared(context, prepared, (steps, fn, args, kwargs), {}, what)
    return _start_prepared(context, fn, args, kwargs, what)


def _start_prepared(
    context: Description, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], what: str = ""
) -> LightTask:
    if _UNSUPPORTED:
        need_lending()
    is_thread = Share.THREAD in context.share
    fn = _watched(fn)
    if context.cgroup is None:
        job = _core.start(plan_of(context, "light"), fn, *args, **kwargs)
        return LightTask(job, what, is_thread)
    with CgroupDirectory(context.cgroup) as cgroup:
        if cgroup.can_be_born_in and context.call_name == "clone3":
            return LightTask(
                _core.start(plan_of(context, "light", cgroup=cgroup.fd), fn, *args, **kwargs), what, is_thread
            )
        moved = CgroupDirectory(os.dup(cgroup.fd))

    def in_cgroup() -> Any:
        try:
            moved.enter()
        finally:
            os.close(moved.fd)
        return fn(*args, **kwargs)

    return LightTask(_core.start(plan_of(context, "light"), in_cgroup), what, is_thread)


def start_soon(
    context: Description, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> _core.Job:
    """A light process on a helper thread, which may be cloned a moment after this returns.

    Where it is refused then, the job's result() raises that, and its pid is negative.
    """
    if context.cgroup is not None:
        return start_light(context, fn, args, kwargs)._job
    if _UNSUPPORTED:
        need_lending()
    steps = steps_of(context, light=True)
    if steps:
        return _core.start_soon(plan_of(context, "light"), _watched(prepared), steps, fn, args, kwargs)
    return _core.start_soon(plan_of(context, "light"), _watched(fn), *args, **kwargs)


# --- copied processes


def other_threads() -> int:
    """How many threads, or processes that share this memory, could hold a lock at the moment of a clone.

    Idle helpers of this library do not count: they wait in the kernel and hold nothing. The thread that watches over threads
    that a function left (left.c) counts, and stands for them.
    """
    if _core.single_threaded():
        return 0
    idle, _busy = _core.pool_info()
    try:
        threads = len(os.listdir("/proc/self/task")) - 1 - idle
    except OSError as e:
        raise CloneError(e.errno or 0, step="open(/proc/self/task)") from None
    # No other thread, and not alone: a light process, or the creator of one.
    return max(0, threads) or (0 if idle else 1)


def _way(context: Description) -> int:
    plain = not context.flags and context.signal == 17 and not context.tid and context.cgroup is None
    if plain and context.join is None and not context.clear_signal_handlers:
        return _FORK
    raw_only = context.share & _RAW_ONLY or context.suspend_caller or context.signal not in (0, 17) or context.ptrace
    threads = other_threads()
    if context.join is not None and raw_only:
        raise ContextError(
            f"join= without share=VM, with {context}: an intermediate process enters the namespaces, and cannot share or "
            "signal for the caller",
            field="join",
        )
    if not raw_only and context.parent == "caller" and context.signal == 17 and (threads or context.join is not None):
        return _FORK_THEN_CLONE
    if threads:
        import warnings

        warnings.warn(
            f"{context} needs a raw clone, and this program has {threads} other thread{'s' * (threads > 1)}: "
            "one of them may hold a lock of libc's, which the child would wait for for ever. "
            "Share memory (Share.VM), or start it before the threads.",
            SyscloneWarning,
            stacklevel=5,
        )
    return _RAW


def start_copied(
    context: Description, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> CopiedTask:
    """A function in a copy of the memory, as after fork."""
    reap_abandoned()
    plan_of(context, "copied")
    what = getattr(fn, "__qualname__", type(fn).__name__)
    fn, args, kwargs = _with_steps(context, fn, args, kwargs)
    began = time.monotonic()
    way = _way(context)
    flush()
    ranges = context.ranges()
    page = ResultPage()
    made: list[tuple[int, int]] = []
    task: CopiedTask | None = None
    try:
        if context.fds:
            page.keep_clear(target for target, _source in context.fds)
        if context.cgroup is None:
            pid, pidfd = _copy(context, way, page, -1, ranges, made)
            enter = None
        else:
            with CgroupDirectory(context.cgroup) as cgroup:
                born = cgroup.can_be_born_in and context.call_name == "clone3"
                pid, pidfd = _copy(context, way, page, cgroup.fd if born else -1, ranges, made)
                enter = None if born or pid else cgroup.enter
                if pid == 0:
                    live(page, context.timeout, lambda: _entered(enter, fn, args, kwargs))
        if pid == 0:
            live(page, context.timeout, lambda: (fn, args, kwargs))
        if Share.FILES not in context.share:
            page.close_theirs()
        # The Task is whole before the pidfd is its own: an interrupt finds one owner, never two or none.
        task = CopiedTask(pid, -1, page, what, context.parent == "caller", context.timeout, began)
        task._pidfd = pidfd
        return task
    except BaseException:
        if task is not None and task.pidfd >= 0:
            task.cancel()
            task.wait()
            task.close()
        else:
            for pid, pidfd in made:
                put_down(pid, pidfd)
            page.close()
        raise


def _copy(
    context: Description,
    way: int,
    page: ResultPage,
    cgroup: int,
    ranges: tuple[tuple[int, ...], ...],
    made: list[tuple[int, int]],
) -> tuple[int, int]:
    plan = plan_of(context, "copied", cgroup=cgroup)
    try:
        return _core.copied(plan, way, page.map, ranges, made)
    except OSError as e:
        step = e.filename or ("fork()" if way == _FORK else clone_step(plan))
        raise CloneError(e.errno or 0, step=step) from None


def _entered(
    enter: Callable[[], None] | None, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    if enter is not None:
        enter()
    return fn, args, kwargs


def _with_steps(
    context: Description, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    steps = steps_of(context, light=False)
    if not steps:
        return fn, args, kwargs
    load()
    return prepared, (steps, fn, args, kwargs), {}


def _copied_at_once(context: Description, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The same, and wait for it: without a Task, since what is touched while there are two is copied page by page."""
    if has_abandoned():
        reap_abandoned()
    way: int = _FORK
    ranges: tuple[tuple[int, ...], ...] = ()
    plan = context._kept.get("plain fork")
    if plan is None:
        plan = plan_of(context, "copied")
        fn, args, kwargs = _with_steps(context, fn, args, kwargs)
        way, ranges = _way(context), context.ranges()
        if not (way or ranges or steps_of(context, light=False)):
            context._kept["plain fork"] = plan
    flush()
    page = ResultPage()
    try:
        if context.fds:
            page.keep_clear(target for target, _source in context.fds)
        try:
            pid, pidfd, code, status = _core.copied_call(plan, way, page.map, ranges)
        except OSError as e:
            step = e.filename or ("fork()" if way == _FORK else clone_step(plan))
            raise CloneError(e.errno or 0, step=step) from None
        if pid == 0:
            live(page, None, lambda: (fn, args, kwargs))
        try:
            if page.kind():
                return page.read()
            raise failure(pid, Status.from_waitid(code, status) if code else late_status(pidfd, pid))
        finally:
            os.close(pidfd)
    finally:
        page.close()
