"""What `sysclone trace` writes when the trace has ended: pictures and the summary."""

from __future__ import annotations

import json

from .._trace.lives import Lives

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from .._trace.events import Event


class AtTheEnd:
    """Takes events as they come."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lives = Lives()
        self.command: Sequence[str] = ()
        self.epoch: float = 0.0

    def write(self, events: list[Event]) -> None:
        """Take some events."""
        self._lives.add_all(events)

    def end(self) -> None:
        """There are no more: write."""
        raise NotImplementedError


class ChromeWriter(AtTheEnd):
    """Writes Chrome trace JSON, which Perfetto opens."""

    def end(self) -> None:
        """Write it."""
        from .._trace.chrome import write_chrome

        write_chrome(self._lives, self._out, self.epoch)
        self._out.flush()


class HtmlWriter(AtTheEnd):
    """Writes the page."""

    def end(self) -> None:
        """Write it."""
        from .._trace.html import write_html

        write_html(self._lives, self._out, " ".join(self.command), self.epoch)
        self._out.flush()


class SummaryWriter(AtTheEnd):
    """Writes the table of births."""

    def end(self) -> None:
        """Write it."""
        from .._trace.summary import Summary

        self._out.write("".join(f"{line}\n" for line in Summary(self._lives).lines()))
        self._out.flush()


class JsonSummaryWriter(AtTheEnd):
    """Writes the same as JSON."""

    def end(self) -> None:
        """Write it."""
        from .._trace.summary import Summary

        json.dump(Summary(self._lives).as_dict(), self._out, indent=2)
        self._out.write("\n")
        self._out.flush()
