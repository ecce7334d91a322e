"""The bar that map draws on a terminal, with rich."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


class Bar:
    """A line on standard error that tells how many items are done, and how many there are where that is known."""

    def __init__(self, what: str, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
        self._progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))
        self._task = self._progress.add_task(what, total=total)
        self._progress.start()

    def advance(self) -> None:
        """One item more is done."""
        self._progress.advance(self._task)

    def close(self) -> None:
        """Leave the line as it is."""
        self._progress.stop()


def bar_for(fn: Any, iterables: tuple[Iterable[Any], ...]) -> Bar | None:
    """A bar, where standard error is a terminal.

    Raises:
        ModuleNotFoundError: rich is not installed.
    """
    if not sys.stderr.isatty():
        return None
    lengths = [one.__len__() for one in iterables if hasattr(one, "__len__")]
    try:
        return Bar(getattr(fn, "__name__", "map"), min(lengths, default=None))
    except ModuleNotFoundError as e:
        raise ModuleNotFoundError(f"progress=True needs rich: pip install 'sysclone[cli]' ({e})", name=e.name) from None
