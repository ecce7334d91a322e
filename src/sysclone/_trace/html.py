"""A trace as one HTML page that needs nothing else: the timeline of lives, with the tree beside it.

The page itself is page.html; here is what goes into it. Strings are kept once, and times are microseconds.
"""

from __future__ import annotations

import json
import os

from .._flags import format_flags
from .._version import __version__
from .events import AttachEvent, CloneEvent
from .lives import KINDS, failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, TextIO

    from .events import ExecEvent
    from .lives import Life, Lives

_PAGE: Final = os.path.join(os.path.dirname(__file__), "page.html")
_DATA: Final = '"the data of a trace"'
_KINDS: Final = list(KINDS)
# So that the command lines of a long trace leave the page under its size.
_COMMAND_BUDGET: Final = 400_000
_LEAST_COMMAND, _MOST_COMMAND = 48, 400
_FINE, _FAILED, _KILLED, _UNKNOWN = range(4)


def write_html(lives: Lives, out: TextIO, command: str = "", epoch: float = 0.0) -> None:
    """Write the page.

    Args:
        lives: all that was seen.
        out: where to.
        command: what was traced, for the title.
        epoch: what to add to its times for seconds of CLOCK_REALTIME.
    """
    with open(_PAGE, encoding="utf-8") as file:
        before, _, after = file.read().partition(_DATA)
    out.write(before)
    # Within a script element "<" could end it.
    out.write(json.dumps(page_data(lives, command, epoch), separators=(",", ":")).replace("<", "\\u003c"))
    out.write(after)


def page_data(lives: Lives, command: str = "", epoch: float = 0.0) -> dict[str, Any]:
    """What the page is made of, as plain data."""
    return _Data(lives).page(command, epoch)


class _Data:
    """Collects the rows, and each string once."""

    def __init__(self, lives: Lives) -> None:
        self.lives = lives
        self.strings: dict[str, int] = {}
        programs = sum(len(life.execs) for life in lives.all)
        self.most = max(_LEAST_COMMAND, min(_MOST_COMMAND, _COMMAND_BUDGET // max(1, programs)))

    def page(self, command: str, epoch: float) -> dict[str, Any]:
        rows = [self._row(life) for life in self.lives.all]
        return {
            "version": __version__,
            "command": command,
            "began": self.lives.began + epoch,
            "length": self._us(self.lives.ended),
            "events": self.lives.events,
            "kinds": list(KINDS.items()),
            "strings": list(self.strings),
            "lives": rows,
        }

    def _us(self, time: float) -> int:
        return round((time - self.lives.began) * 1e6)

    def _string(self, text: str) -> int:
        return self.strings.setdefault(text, len(self.strings))

    def _row(self, life: Life) -> list[Any]:
        stretches: list[int] = []
        for one in life.stretches:
            stretches += [self._us(one.began), _KINDS.index(one.kind), self._string(_shares(one.shares))]
        execs: list[int] = []
        for program in life.execs:
            execs += [self._us(program.time), self._string(self._command(program))]
        marks: list[int] = []
        for change in life.changes:
            marks += [self._us(change.time), self._string(f"{change.call} {format_flags(change.word)}"), 0]
        for refused in life.failed:
            marks += [self._us(refused.time), self._string(failure(refused)), 1]
        return [
            life.tid,
            life.pid,
            -1 if life.creator is None else life.creator.place,
            self._us(life.began),
            -1 if life.ended is None else self._us(life.ended),
            self._string(life.name),
            self._string(life.how_it_was_made()),
            self._string(life.how_it_ended()),
            _end(life),
            stretches,
            execs,
            marks,
            life.later_tid or 0,
            _inner_pid(life),
        ]

    def _command(self, program: ExecEvent) -> str:
        text = " ".join(" ".join(program.argv).split()) if program.argv else program.path or "?"
        return text if len(text) <= self.most else text[: self.most - 1] + "…"


def _shares(shares: int) -> str:
    return format_flags(shares).replace("CLONE_", "").replace("|", " ") if shares else ""


def _end(life: Life) -> int:
    """Whether it ended well."""
    if life.end is None or not life.end.status.known:
        return _UNKNOWN
    return _KILLED if life.end.status.signal is not None else _FAILED if life.end.status.exit_code else _FINE


def _inner_pid(life: Life) -> int:
    """Its id in the innermost pid namespace, where that is another one than the tracer's; else 0."""
    if isinstance(life.birth, CloneEvent) and life.birth.child_pids:
        return life.birth.child_pids[-1]
    return life.birth.pids[-1] if isinstance(life.birth, AttachEvent) and life.birth.pids else 0
