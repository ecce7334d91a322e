"""A trace as Chrome trace JSON, which Perfetto and chrome://tracing open.

Each life is a slice on its thread's track, with a slice for each program within it; a birth is a flow arrow from its
creator's slice to its own; exec, unshare, setns and failed calls are instant marks. Follows the Trace Event Format.
"""

from __future__ import annotations

import json

from ._flags import format_flags
from ._trace_events import AttachEvent, CloneEvent
from ._trace_lives import KINDS, failure, program_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, TextIO

    from ._trace_lives import Life, Lives

_NANOSECOND = 0.001


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
    for life in lives.all:
        yield from _life(lives, life)


def _life(lives: Lives, life: Life) -> Iterator[dict[str, Any]]:
    end = lives.ended if life.ended is None else life.ended
    track = {"pid": life.pid, "tid": life.tid}

    def at(time: float) -> float:
        return round((time - lives.began) * 1e6, 3)

    def span(began: float, ended: float) -> dict[str, float]:
        return {"ts": at(began), "dur": max(round((ended - began) * 1e6, 3), _NANOSECOND)}

    kind = life.stretches[0].kind
    yield {"ph": "X", "name": life.name, "cat": kind, **track, **span(life.began, end), "args": _about(life)}
    for place, program in enumerate(life.execs):
        until = life.execs[place + 1].time if place + 1 < len(life.execs) else end
        argv = {"argv": " ".join(program.argv or ()), "path": program.path}
        yield {
            "ph": "X",
            "name": program_name(program),
            "cat": "program",
            **track,
            **span(program.time, until),
            "args": argv,
        }
        yield {
            "ph": "i",
            "s": "t",
            "name": f"exec {program.path}",
            "cat": "exec",
            **track,
            "ts": at(program.time),
            "args": argv,
        }
    if isinstance(life.birth, CloneEvent) and life.creator is not None:
        arrow = {"name": life.birth.call, "cat": "birth", "id": life.place}
        creator = life.creator
        yield {"ph": "s", **arrow, "pid": creator.pid, "tid": creator.tid, "ts": at(life.birth.time)}
        yield {"ph": "f", "bp": "e", **arrow, **track, "ts": at(life.began)}
    for change in life.changes:
        name = f"{change.call} {format_flags(change.word)}"
        yield {"ph": "i", "s": "t", "name": name, "cat": "change", **track, "ts": at(change.time)}
    for refused in life.failed:
        yield {"ph": "i", "s": "t", "name": failure(refused), "cat": "failed", **track, "ts": at(refused.time)}


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
