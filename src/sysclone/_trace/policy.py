"""Which events of a trace are passed on: by kind of task, by generation, by outcome. Pure."""

from __future__ import annotations

from .events import CloneEvent, ExecEvent, ExitEvent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from .events import Event

FOLLOW: Final = ("all", "threads", "processes")
# What the caller never sees: the kernel makes the call again.
_INTERRUPTED: Final = 512


class Policy:
    """Which events are passed on.

    Args:
        follow: "all", or what is followed beside the first tasks: "threads" or "processes".
        depth: how many births below the first tasks a task may be for its events to be told; None for any.
        only_failed: calls that failed, and nothing else.
        filtered: whether the tasks have the filter.
        everybody: a task that nobody introduced is a first one.
    """

    def __init__(
        self, follow: str, depth: int | None, only_failed: bool, filtered: bool, everybody: bool = False
    ) -> None:
        self._all = follow == "all" and depth is None and not only_failed
        self._threads = follow != "processes"
        self._processes = follow != "threads"
        self._depth = depth
        self._only_failed = only_failed
        self._level: dict[int, int] = {}
        self._muted: set[int] = set()
        self._everybody = everybody
        self.filtered = filtered

    def begin(self, tid: int) -> None:
        """A task that the trace begins with."""
        self._level[tid] = 0

    def chosen(self, events: list[Event]) -> list[Event]:
        """Those of the events that are passed on."""
        return events if self._all else [event for event in events if self._chooses(event)]

    def _chooses(self, event: Event) -> bool:
        level = self._level.get(event.tid)
        if level is None and (event.call == "attach" or (self._everybody and event.tid not in self._muted)):
            level = self._level[event.tid] = 0
        if isinstance(event, ExitEvent):
            self._end(event)
            return level is not None and not self._only_failed
        if isinstance(event, CloneEvent) and event.child is not None:
            self._birth(event, event.child, level)
        elif isinstance(event, ExecEvent) and event.result == 0 and event.tid != event.pid:
            # A thread's exec goes on under its leader's id.
            self._level.setdefault(event.pid, self._level.pop(event.tid, 0))
        errno = getattr(event, "errno", None)
        return level is not None and (not self._only_failed or (errno is not None and errno < _INTERRUPTED))

    def _birth(self, event: CloneEvent, child: int, level: int | None) -> None:
        wanted = self._threads if event.is_thread else self._processes
        if level is not None and wanted and (self._depth is None or level < self._depth):
            self._level[child] = level + 1
        elif self._everybody:
            self._muted.add(child)

    def _end(self, event: ExitEvent) -> None:
        if event.superseded_by is None:
            self._level.pop(event.tid, None)
            self._muted.discard(event.tid)
