"""to_process: a function in a process of its own, awaited; a cancelled wait ends the process."""

from __future__ import annotations

import asyncio
import os
import threading

from .executor import Executor

TYPE_CHECKING = False
if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable
    from typing import Any, TypeVar

    R = TypeVar("R")

_lock = threading.Lock()
_default: tuple[int, Executor] | None = None


def _default_executor() -> Executor:
    """Copied processes, one a call, as many as there are processors; made at its first use in each process."""
    global _default
    with _lock:
        if _default is None or _default[0] != os.getpid():
            _default = os.getpid(), Executor(kind="copied", name="sysclone to_process", at_exit="cancel")
        return _default[1]


async def to_process(
    fn: Callable[..., R], /, *args: Any, executor: concurrent.futures.Executor | None = None, **kwargs: Any
) -> R:
    """Run fn(*args, **kwargs) in a process, as asyncio.to_thread does in a thread, and wait without blocking the loop.

    When the wait is cancelled, the process is ended, whatever it is at.

    Args:
        fn, args, kwargs: the call.
        executor: a sysclone.Executor, or what its options() gives, for another kind of process or for limits; None is a
            copied process a call, as many at once as there are processors.

    Returns:
        What fn returns.

    Raises:
        BaseException: what fn raised, or what its process died of; see Executor.
    """
    where = executor if executor is not None else _default_executor()
    return await asyncio.wrap_future(where.submit(fn, *args, **kwargs))


def _in_forked_child() -> None:
    global _default, _lock
    _default = None
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_in_forked_child)
