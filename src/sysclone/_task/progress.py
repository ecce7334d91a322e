"""How far a function has come: said in its task, read from its handle."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._data.result import ResultPage


class Progress:
    """How far a function said that it has come.

    Attributes:
        done: how much is done.
        total: of how much; None where that was not told.
        text: a few words.
    """

    __slots__ = ("done", "text", "total")

    done: float
    total: float | None
    text: str

    def __init__(self, done: float, total: float | None, text: str) -> None:
        self.done = done
        self.total = total
        self.text = text

    def __repr__(self) -> str:
        return (
            f"Progress({self.done:g}, {self.total if self.total is None else format(self.total, 'g')}, {self.text!r})"
        )


# In a process with a memory of its own: where its creator looks.
_page: ResultPage | None = None
# What light processes said last, by pid: they share this memory.
_by_pid: dict[int, Progress] = {}


def begin_in(page: ResultPage | None) -> None:
    """In a new process: from now on progress goes to this page."""
    global _page
    _page = page
    _by_pid.clear()


def progress(done: float, total: float | None = None, text: str = "") -> None:
    """Say how far this task has come, for whoever holds its Task: `task.progress`.

    Costs a few microseconds and never waits: only what was said last is kept. Outside of a task nobody reads it.

    Args:
        done: how much is done, in any unit.
        total: of how much, 0 or more; None where that is unknown.
        text: a few words, cut at some 400 bytes.
    """
    if total is not None and not total >= 0:
        raise ValueError(f"total={total!r}: 0 or more, or None")
    if _page is not None:
        _page.write_progress(done, total, text)
    else:
        _by_pid[os.getpid()] = Progress(float(done), None if total is None else float(total), text)


def said_by(pid: int) -> Progress | None:
    """What a light process said last."""
    return _by_pid.get(pid)


def forget(pid: int) -> None:
    """A light process has ended, and its handle has been let go of."""
    _by_pid.pop(pid, None)
