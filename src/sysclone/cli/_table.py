"""Tables for people: by rich where standard output is a terminal and rich is there, as aligned text elsewhere."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Final

_STYLES: Final = {
    "shared": "green", "own": "blue", "yes": "green", "no": "red", "unknown": "yellow", "?": "yellow",
}  # fmt: skip
_LOUD: Final = "bold white on red"


def show(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table.

    Args:
        title: a line above it.
        headings, rows: the cells, as text.
    """
    if sys.stdout.isatty():
        try:
            import rich
        except ImportError:
            pass
        else:
            rich.print(_rich_table(title, headings, rows))
            return
    print(plain(title, headings, rows))


def plain(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table as aligned text; the last column is not filled up."""
    widths = [max(len(row[i]) for row in (headings, *rows)) for i in range(len(headings) - 1)]
    lines = [title]
    for row in (headings, *rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join(["", *cells, row[-1]]).rstrip())
    return "\n".join(lines)


def _rich_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_LOUD if "!" in cell else _STYLES.get(cell, "")) for cell in row))
    return table
