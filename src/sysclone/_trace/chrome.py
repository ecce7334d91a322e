"""A trace as Chrome trace JSON, which Perfetto and chrome://tracing open.

Each life is a slice on its thread's track, with a slice for each program within it; a birth is a flow arrow from its
creator's slice to its own; exec, unshare, setns and failed calls are instant marks. Follows the Trace Event Format.
"""

from __future__ import annotations

import json

from .._flags import format_flags
from .events import AttachEvent, CloneEvent
from .lives import KINDS, failure, program_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, TextIO

    from .lives import Life, Lives


def write_chrome(lives: Lives, out: TextIO, epoch: float = 0.0) -> None:
    """Write the whole trace as one JSON object, an event a line.

    Args:
        lives: all that was seen.
        out: where to.
        epoch: what to add to its times for seconds of CLOCK_REALTIME.
    """
    out.write('{"displayTimeUnit": "ms", "otherData": ')
    json.dump({"tool": "sysclone trace", "began": lives.began + epoch, "kinds": KINDS}, out)
    out.write(', "traceEvents": [')
    comma = "\n"
    for event in chrome_events(lives):
        out.write(comma)
        json.dump(event, out)
        comma = ",\n"
    out.write("\n]}\n")


def chrome_events(lives: Lives) -> Iterator[dict[str, Any]]:
    """Every event of the picture; times are microseconds from the trace's first event."""
    names: set[int] = set()
    for life in lives.all:
        if life.pid not in names and not life.is_thread:
            names.add(life.pid)
            yield {"ph": "M", "name": "process_name", "pid": life.pid, "tid": life.pid, "args": {"name": life.name}}
        yield {"ph": "M", "name": "thread_name", "pid": life.pid, "tid": life.tid, "args": {"name": life.name}}
    clock = _Clock(lives)
    free: dict[tuple[int, int], int] = {}
    for life in lives.all:
        # A call may have begun before the end of the one whose id its child then got.
        track = life.pid, life.tid
        begin = max(clock.nanoseconds(life.began), free.get(track, 0))
        free[track] = max(begin, clock.nanoseconds(lives.ended if life.ended is None else life.ended))
        yield from _life(life, clock, begin, free[track])


class _Clock:
    """Whole nanoseconds: what is rounded one by one would not nest any more."""

    def __init__(self, lives: Lives) -> None:
        self._began = lives.began

    def nanoseconds(self, time: float) -> int:
        return round((time - self._began) * 1e9)


def _span(begin: int, end: int) -> dict[str, float]:
    return {"ts": begin / 1000, "dur": (end - begin) / 1000}


def _life(life: Life, clock: _Clock, begin: int, end: int) -> Iterator[dict[str, Any]]:
    track = {"pid": life.pid, "tid": life.tid}

    def at(time: float) -> int:
        return min(max(clock.nanoseconds(time), begin), end)

    def mark(name: str, kind: str, time: float, **more: Any) -> dict[str, Any]:
        return {"ph": "i", "s": "t", "name": name, "cat": kind, **track, "ts": at(time) / 1000, **more}

    kind = life.stretches[0].kind
    yield {"ph": "X", "name": life.name, "cat": kind, **track, **_span(begin, end), "args": _about(life)}
    for place, program in enumerate(life.execs):
        until = at(life.execs[place + 1].time) if place + 1 < len(life.execs) else end
        args = {"argv": " ".join(program.argv or ()), "path": program.path}
        span = _span(at(program.time), until)
        yield {"ph": "X", "name": program_name(program), "cat": "program", **track, **span, "args": args}
        yield mark(f"exec {program.path}", "exec", program.time, args=args)
    creator = life.creator
    if isinstance(life.birth, CloneEvent) and creator is not None:
        arrow = {"name": life.birth.call, "cat": "birth", "id": life.place}
        yield {"ph": "s", **arrow, "pid": creator.pid, "tid": creator.tid, "ts": clock.nanoseconds(life.began) / 1000}
        yield {"ph": "f", "bp": "e", **arrow, **track, "ts": begin / 1000}
    for change in life.changes:
        yield mark(f"{change.call} {format_flags(change.word)}", "change", change.time)
    for refused in life.failed:
        yield mark(failure(refused), "failed", refused.time)


def _about(life: Life) -> dict[str, Any]:
    """What is told of a life when it is chosen."""
    told: dict[str, Any] = {"made by": life.how_it_was_made(), "end": life.how_it_ended()}
    if life.creator is not None:
        told["creator"] = f"{life.creator.tid} ({life.creator.name})"
    shares = life.stretches[0].shares
    told["shares with its creator"] = format_flags(shares) if shares else KINDS[life.stretches[0].kind]
    if isinstance(life.birth, CloneEvent) and life.birth.child_pids:
        told["pids"] = list(life.birth.child_pids)
    if isinstance(life.birth, AttachEvent) and life.birth.argv:
        told["argv"] = " ".join(life.birth.argv)
    if life.execs:
        told["programs"] = [one.path for one in life.execs]
    return told
