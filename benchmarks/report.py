"""From rounds to a table: every ratio is the median of ratios taken round by round."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness import Row

HEADINGS = ("row", "resident", "ours µs", "min", "against µs", "min", "ratio", "quartiles", "target", "", "rounds")
LEFT = {"row", ""}


@dataclass
class Result:
    """A row at one size, over all turns: nanoseconds a task, a list for each turn."""

    row: Row
    gib: float
    ours: list[list[float]] = field(default_factory=list)
    against: list[list[float]] = field(default_factory=list)
    ours_least: list[float] = field(default_factory=list)
    against_least: list[float] = field(default_factory=list)
    resident_kib: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def add(self, record: Mapping[str, Any]) -> None:
        """Take in what one turn measured."""
        if "error" in record:
            self.errors.append(record["error"])
            return
        self.resident_kib.append(record["resident_kib"])
        self.ours.append(record["ours"]["rounds"])
        self.ours_least.append(record["ours"]["least"])
        self.against.append(record["against"]["rounds"])
        self.against_least.append(record["against"]["least"])


def lines(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One line a result, and one for each row that claims to be flat in size."""
    found = [line(result) for result in results]
    for small, large in itertools.pairwise(results):
        if small.row is large.row and small.row.flat is not None:
            found.append(flat_line(small, large))
    return found


def line(result: Result) -> dict[str, Any]:
    """Ours against the other side at one size."""
    row = result.row
    if result.errors:
        return {"row": row.name, "gib": result.gib, "error": result.errors[0]}
    return {
        "row": row.name,
        "gib": result.gib,
        "resident_mib": max(result.resident_kib) // 1024,
        **compared(result.ours, result.against, row.target, row.noise),
        "ours_min_us": min(result.ours_least) / 1000,
        "against_min_us": min(result.against_least) / 1000,
    }


def flat_line(small: Result, large: Result) -> dict[str, Any]:
    """Ours at the larger size against ours at 0."""
    name = f"{small.row.name} flat"
    if small.errors or large.errors:
        return {"row": name, "gib": large.gib, "error": (small.errors + large.errors)[0]}
    return {
        "row": name,
        "gib": large.gib,
        "resident_mib": max(large.resident_kib) // 1024,
        **compared(large.ours, small.ours, large.row.flat, 0.0),
        "ours_min_us": min(large.ours_least) / 1000,
        "against_min_us": min(small.ours_least) / 1000,
    }


def compared(ours: list[list[float]], against: list[list[float]], target: float | None, noise: float) -> dict[str, Any]:
    """Medians of both, and the ratio of each round to its partner in the same turn."""
    ratios = [
        mine / theirs
        for my_turn, their_turn in zip(ours, against, strict=True)
        for mine, theirs in zip(my_turn, their_turn, strict=False)
    ]
    ratio = quartiles(ratios)
    return {
        "ours_us": microseconds(ours),
        "against_us": microseconds(against),
        "ratio": ratio,
        "rounds": len(ratios),
        "target": target,
        "noise": noise,
        "reached": None if target is None else ratio["median"] <= target + noise,
    }


def microseconds(turns: list[list[float]]) -> dict[str, float]:
    """The median and the quartiles of every round of every turn."""
    return quartiles([nanoseconds / 1000 for turn in turns for nanoseconds in turn])


def quartiles(values: list[float]) -> dict[str, float]:
    """The median and the quartiles around it."""
    if len(values) < 2:
        return dict.fromkeys(("q1", "median", "q3"), values[0])
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"q1": q1, "median": median, "q3": q3}


def show_rows(rows: Sequence[Row]) -> None:
    """Print what each row compares."""
    width = max(len(row.name) for row in rows)
    for row in rows:
        print(f"{row.name:<{width}}  {row.ours.label} / {row.against.label}")


def show(machine: Mapping[str, Any], rows: Sequence[Row], found: Sequence[Mapping[str, Any]]) -> None:
    """Print what was compared, the table, and what missed or was not measured."""
    print(
        f"Linux {machine['kernel']} {machine['machine']}, {machine['libc']}, CPython {machine['python']}, "
        f"{machine['cpus']} CPUs, load {machine['load'][0]} before and {machine['load'][1]} after, "
        f"{machine['seconds']} s\n"
    )
    show_rows(rows)
    print()
    cells = [HEADINGS] + [row_cells(line) for line in found if "error" not in line]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row_ in cells:
        aligned = (
            cell.ljust(width) if heading in LEFT else cell.rjust(width)
            for heading, cell, width in zip(HEADINGS, row_, widths, strict=True)
        )
        print("  ".join(aligned).rstrip())
    for line in found:
        if "error" in line:
            print(f"{line['row']} at {line['gib']:g} GiB: not measured: {line['error']}")
    targets = [line["reached"] for line in found if line.get("reached") is not None]
    print(f"\n{sum(targets)} of {len(targets)} targets reached")


def row_cells(line: Mapping[str, Any]) -> tuple[str, ...]:
    """One line as the table prints it."""
    ratio = line["ratio"]
    return (
        line["row"],
        f"{line['resident_mib']:,} MiB",
        f"{line['ours_us']['median']:,.1f}",
        f"{line['ours_min_us']:,.1f}",
        f"{line['against_us']['median']:,.1f}",
        f"{line['against_min_us']:,.1f}",
        f"{ratio['median']:.2f}",
        f"{ratio['q1']:.2f}-{ratio['q3']:.2f}",
        "-" if line["target"] is None else f"{line['target']:.2f}" + (f"+{line['noise']:.2f}" if line["noise"] else ""),
        {True: "reached", False: "missed", None: ""}[line["reached"]],
        str(line["rounds"]),
    )
