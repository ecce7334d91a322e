"""Waiting for any or all of many tasks and programs."""

from __future__ import annotations

import select
import time

from .._errors import TaskTimeout
from .copied import CopiedTask
from .task import Task
from .wait import wait_readable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Protocol, TypeVar

    class Waitable(Protocol):
        """What can be waited for: a Task or a Popen."""

        def done(self) -> bool: ...
        def fileno(self) -> int: ...
        def wait(self, timeout: float | None = None) -> Any: ...

    W = TypeVar("W", bound=Waitable)


def wait_any(tasks: Iterable[W], timeout: float | None = None) -> list[W]:
    """Wait until at least one task has ended.

    Args:
        tasks: tasks, or anything with a fileno() that becomes readable at its end; thousands are fine.
        timeout: seconds; None waits for ever.

    Returns:
        Those that have ended, in the order given; empty when the time is over first, or when there are no tasks.
    """
    waiting = list(tasks)
    if timeout != 0 and not any(task.done() for task in waiting):
        poll = select.poll()
        by_fd = {task.fileno(): task for task in waiting}
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        for fd, _ in _poll_in_time(poll, timeout, waiting) if by_fd else ():
            by_fd[fd].wait()
    return [task for task in waiting if task.done()]


def _poll_in_time(poll: select.poll, timeout: float | None, waiting: Iterable[Waitable]) -> list[tuple[int, int]]:
    """Poll for at most timeout seconds, ending the copied processes whose own time is over meanwhile."""
    end = None if timeout is None else time.monotonic() + timeout
    limits = [(task._deadline, task) for task in waiting if isinstance(task, CopiedTask) and task._deadline is not None]
    for limit, task in sorted(limits, key=lambda one: one[0]):
        if end is not None and end < limit:
            break
        ready = poll.poll(max(0.0, limit - time.monotonic()) * 1000)
        if ready:
            return ready
        task.kill_unsafely()
    return poll.poll(None if end is None else max(0.0, end - time.monotonic()) * 1000)


def wait_all(tasks: Iterable[W], timeout: float | None = None) -> list[W]:
    """Wait until every task has ended.

    Args:
        tasks: as for wait_any.
        timeout: seconds for all of them together; None waits for ever.

    Returns:
        Those that have ended, in the order given: all of them unless the time was over first.
    """
    waiting = list(tasks)
    deadline = None if timeout is None else time.monotonic() + timeout
    for task in waiting:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if isinstance(task, Task):
            try:
                task.wait(left)
            except TaskTimeout:
                break
        elif not task.done():
            if not wait_readable(task.fileno(), left):
                break
            task.wait()
    return [task for task in waiting if task.done()]
