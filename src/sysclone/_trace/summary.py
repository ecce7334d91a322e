"""A trace in numbers: births by call and flags, how many a second, and how long the tasks lived."""

from __future__ import annotations

import statistics

from .._flags import format_flags
from .events import CloneEvent, ExecEvent
from .lives import flags_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .lives import Lives

_HEADINGS = ("births", "failed", "per s", "most/s", "median life", "mean life", "longest", "call", "flags")
_LEFT = 2


class Kind:
    """The births by one call with one set of flags.

    Attributes:
        call, flags: the call, and its flags with the signal, as strace has them.
        times: when each was born, in seconds as of events.
        failed: how many calls failed.
        lifetimes: seconds from birth to end of those whose end was seen.
    """

    __slots__ = ("call", "failed", "flags", "lifetimes", "times")

    def __init__(self, call: str, flags: str) -> None:
        self.call = call
        self.flags = flags
        self.times: list[float] = []
        self.failed = 0
        self.lifetimes: list[float] = []

    def most_in_a_second(self) -> int:
        """The most births within any one second."""
        most = begin = 0
        times = sorted(self.times)
        for place, time in enumerate(times):
            while time - times[begin] >= 1.0:
                begin += 1
            most = max(most, place - begin + 1)
        return most

    def as_dict(self, seconds: float) -> dict[str, Any]:
        """Plain data for JSON."""
        lived = self.lifetimes
        return {
            "call": self.call,
            "flags": self.flags.split("|") if self.flags != "0" else [],
            "births": len(self.times),
            "failed": self.failed,
            "per_second": len(self.times) / seconds if seconds else None,
            "most_in_a_second": self.most_in_a_second(),
            "ended": len(lived),
            "median_lifetime": statistics.median(lived) if lived else None,
            "mean_lifetime": statistics.fmean(lived) if lived else None,
            "longest_lifetime": max(lived, default=None),
        }


class Summary:
    """All births of a trace by kind, the most frequent first.

    Attributes:
        seconds: from the first event to the last.
        tasks: how many tasks there were, those that were there before included.
        kinds: a Kind for each call and set of flags.
        execs, failed_execs: how many programs were begun, and how many could not be.
        changes: how often each unshare and setns was called with success, by call and flags.
    """

    def __init__(self, lives: Lives) -> None:
        self.seconds = lives.ended - lives.began
        self.tasks = len(lives.all)
        self.execs = self.failed_execs = 0
        self.changes: dict[str, int] = {}
        kinds: dict[tuple[str, str], Kind] = {}
        for life in lives.all:
            if isinstance(life.birth, CloneEvent):
                kind = _kind(kinds, life.birth)
                kind.times.append(life.began)
                lived = life.lifetime()
                if lived is not None:
                    kind.lifetimes.append(lived)
            self.execs += len(life.execs)
            for event in life.failed:
                if isinstance(event, CloneEvent):
                    _kind(kinds, event).failed += 1
                self.failed_execs += isinstance(event, ExecEvent)
            for change in life.changes:
                name = f"{change.call}({format_flags(change.word)})"
                self.changes[name] = self.changes.get(name, 0) + 1
        self.kinds = sorted(kinds.values(), key=lambda kind: (-len(kind.times), kind.call, kind.flags))

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "seconds": self.seconds,
            "tasks": self.tasks,
            "births": [kind.as_dict(self.seconds) for kind in self.kinds],
            "execs": self.execs,
            "failed_execs": self.failed_execs,
            "changes": self.changes,
        }

    def lines(self) -> Iterator[str]:
        """The table, a line each."""
        rows = [_row(kind, self.seconds) for kind in self.kinds]
        if len(self.kinds) > 1:
            rows.append(_row(_total(self.kinds), self.seconds))
        widths = [max(len(row[i]) for row in (_HEADINGS, *rows)) for i in range(len(_HEADINGS))]
        for row in (_HEADINGS, *rows):
            cells = [cell.rjust(width) for cell, width in zip(row[:-_LEFT], widths, strict=False)]
            cells += [cell.ljust(width) for cell, width in zip(row[-_LEFT:], widths[-_LEFT:], strict=True)]
            yield "  ".join(cells).rstrip()
        yield ""
        failed = f", {self.failed_execs} that failed" if self.failed_execs else ""
        yield f"{_many(self.tasks, 'task')} and {_many(self.execs, 'program')}{failed} in {duration(self.seconds)}"
        for name, count in sorted(self.changes.items(), key=lambda pair: -pair[1]):
            yield f"{_many(count, 'time')} {name}"


def _many(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _kind(kinds: dict[tuple[str, str], Kind], event: CloneEvent) -> Kind:
    key = event.call, flags_of(event)
    if key not in kinds:
        kinds[key] = Kind(*key)
    return kinds[key]


def _total(kinds: list[Kind]) -> Kind:
    total = Kind("all", "")
    for kind in kinds:
        total.times += kind.times
        total.failed += kind.failed
        total.lifetimes += kind.lifetimes
    return total


def _row(kind: Kind, seconds: float) -> tuple[str, ...]:
    lived = kind.lifetimes
    return (
        str(len(kind.times)),
        str(kind.failed or ""),
        f"{len(kind.times) / seconds:.1f}" if seconds else "",
        str(kind.most_in_a_second()),
        duration(statistics.median(lived)) if lived else "",
        duration(statistics.fmean(lived)) if lived else "",
        duration(max(lived)) if lived else "",
        kind.call,
        kind.flags,
    )


def duration(seconds: float) -> str:
    """A time for people: three digits and a unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}" if seconds < 1000 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds * 1e9:.0f} ns"
