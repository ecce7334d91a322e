"""The application of `sysclone top`: a table of tasks that looks again and again, and what the chosen one shares."""

from __future__ import annotations

from typing import Any, ClassVar

from rich.markup import escape
from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.coordinate import Coordinate
from textual.message import Message
from textual.widgets import DataTable, Footer, Input, Static

from .._flags import Share, format_signal
from .._inspect.inspect import Inspection, inspect
from .._inspect.relation import explain_task
from .._inspect.sharing import NAMESPACES, RESOURCES, WORDS, Answer, TaskInfo
from ._marks import (
    ALONE,
    NOTHING,
    RESOURCES_TOLD,
    SORTS,
    UNKNOWN,
    WITH_ANOTHER_PROCESS,
    WITH_THE_ONE_ABOVE,
    WITHIN_THE_PROCESS,
    Marks,
    label,
    tree,
)

_STYLES = {
    WITH_THE_ONE_ABOVE: "green", WITH_ANOTHER_PROCESS: "bold magenta", WITHIN_THE_PROCESS: "cyan", ALONE: "blue",
    NOTHING: "dim", UNKNOWN: "yellow",
}  # fmt: skip
_COLUMNS = ("pid", "tid", "S", "M F D H I U", "namespaces", "what")
_MOST_NAMED = 12
_COMMAND_CHARACTERS = 200
_WIDE = 110
"""From so many columns on there is room for both side by side."""

Row = tuple[TaskInfo, str, str, str, str]
"""A task, its state, its marks, its namespaces, and its line of the tree."""


class Looked(Message):
    """A look is done."""

    def __init__(self, found: Inspection | Exception) -> None:
        super().__init__()
        self.found = found


class Top(App[None]):
    """The tasks on the left, or in a narrow terminal above, and beside them what the chosen one shares with whom."""

    TITLE = "sysclone top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #summary { height: 1; background: $panel; padding: 0 1; }
    #tasks { width: 3fr; }
    #side { width: 2fr; border-left: solid $panel; padding: 0 1; }
    .-narrow #both { layout: vertical; }
    .-narrow #tasks { width: 100%; height: 3fr; }
    .-narrow #side { width: 100%; height: 2fr; border-left: none; border-top: solid $panel; }
    #filter { display: none; height: 3; }
    """
    HORIZONTAL_BREAKPOINTS: list[tuple[int, str]] | None = [(0, "-narrow"), (_WIDE, "-wide")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit"),
        Binding("s", "sort", "sort"),
        Binding("slash", "filter", "filter"),
        Binding("t", "toggle('threads')", "threads"),
        Binding("k", "toggle('kernel')", "kernel"),
        Binding("o", "toggle('odd')", "odd"),
        Binding("space", "toggle('paused')", "pause"),
        Binding("escape", "close_filter", "clear filter", show=False),
    ]

    def __init__(self, pids: list[int] | None, interval: float, sort: str, text: str, odd: bool) -> None:
        super().__init__()
        self.failure: Exception | None = None
        self._pids = pids
        self._interval = interval
        self._sort = sort
        self._filter = text
        self._shown = {"threads": True, "kernel": bool(pids), "odd": odd, "paused": False}
        self._seen: Inspection | None = None
        self._rows: list[Row] = []
        self._looking = False

    def compose(self) -> ComposeResult:
        """The widgets, from top to bottom."""
        yield Static("looking …", id="summary", markup=False)
        with Horizontal(id="both"):
            yield DataTable[Text](id="tasks", cursor_type="row", zebra_stripes=True)
            with VerticalScroll(id="side", can_focus=True):
                yield Static("", id="chosen")
        yield Input(placeholder="a part of a line: a name, a pid, a namespace, +", id="filter", value=self._filter)
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        table = self._table()
        for name in _COLUMNS:
            table.add_column(name, key=name)
        table.focus()
        self._look()
        self.set_interval(self._interval, self._look_if_due)

    def _table(self) -> DataTable[Text]:
        return self.query_one("#tasks", DataTable)

    # --- looking

    def _look_if_due(self) -> None:
        if not self._shown["paused"] and not self._looking:
            self._look()

    @work(thread=True)
    def _look(self) -> None:
        """Look outside of the thread that draws: a large system takes a while.

        call_from_thread would wait for an answer, for ever where the application is left meanwhile.
        """
        self._looking = True
        found: Inspection | Exception
        try:
            found = inspect(self._pids)
        except Exception as e:
            found = e
        self._looking = False
        self.post_message(Looked(found))

    def on_looked(self, message: Looked) -> None:
        """Take what was seen; what keeps it from looking is told by who started it."""
        if isinstance(message.found, Inspection):
            self._seen = message.found
            self._show()
        else:
            self.failure = message.found
            self.exit(return_code=1)

    # --- showing

    def _show(self) -> None:
        """Bring the table up to date; who was chosen stays chosen where it is still there."""
        seen = self._seen
        if seen is None:
            return
        rows = self._ordered(seen)
        if [row[0].tid for row in rows] == [row[0].tid for row in self._rows]:
            self._show_changes(rows)
        else:
            self._show_all(rows)
        self._show_summary(seen)
        self._show_chosen()

    def _show_changes(self, rows: list[Row]) -> None:
        """The same tasks in the same order: only what has changed is written."""
        table = self._table()
        before, self._rows = self._rows, rows
        for place, (old, new) in enumerate(zip(before, rows, strict=True)):
            if old[1:] != new[1:] or old[0].pid != new[0].pid:
                for column, cell in enumerate(_cells(new)):
                    table.update_cell_at(Coordinate(place, column), cell)

    def _show_all(self, rows: list[Row]) -> None:
        chosen, table = self._chosen(), self._table()
        top, place = table.scroll_y, table.cursor_row
        table.clear()
        for row in rows:
            table.add_row(*_cells(row), key=str(row[0].tid))
        self._rows = rows
        if rows:
            tids = [row[0].tid for row in rows]
            table.move_cursor(row=tids.index(chosen) if chosen in tids else min(place, len(tids) - 1), scroll=False)
            table.scroll_to(y=top, animate=False)

    def _ordered(self, seen: Inspection) -> list[Row]:
        marks = Marks(seen)
        tasks = [task for task in seen if self._is_wanted(marks, task)]
        branches = list(tree(tasks, unicode=True)) if self._sort == "tree" else [(task, "") for task in tasks]
        rows = []
        for task, branch in branches:
            line = branch + label(task)[:_COMMAND_CHARACTERS]
            rows.append((task, task.state, marks.of(task), marks.own_namespaces(task), line))
        text = self._filter.lower()
        if text:
            rows = [
                row for row in rows if text in f"{row[0].pid} {row[0].tid} {' '.join(row[1:])} {row[0].name}".lower()
            ]
        order = _ORDERS.get(self._sort)
        return sorted(rows, key=order) if order else rows

    def _is_wanted(self, marks: Marks, task: TaskInfo) -> bool:
        if task.kernel_thread and not self._shown["kernel"]:
            return False
        if task.is_thread and not self._shown["threads"]:
            return False
        return not self._shown["odd"] or marks.is_odd(task)

    def _show_summary(self, seen: Inspection) -> None:
        shown = [name for name, on in self._shown.items() if on and name in ("odd", "kernel", "paused")]
        words = [
            f"{len(self._rows)} of {len(seen)} tasks",
            f"by {self._sort}",
            *([f"with {self._filter!r}"] if self._filter else []),
            *shown,
            f"{sum(group.resource in RESOURCES for group in seen.groups)} groups",
            f"{len(seen.unknown)} may not be looked at",
            f"{seen.calls} calls, {seen.seconds * 1000:.0f} ms",
        ]
        self.query_one("#summary", Static).update(" · ".join(words))

    def _chosen(self) -> int | None:
        row = self._table().cursor_row
        return self._rows[row][0].tid if 0 <= row < len(self._rows) else None

    def _show_chosen(self) -> None:
        tid, seen = self._chosen(), self._seen
        task = seen.get(tid) if seen is not None and tid is not None else None
        words = _about(seen, task) if seen is not None and task is not None else "nobody is chosen"
        self.query_one("#chosen", Static).update(words)

    # --- what the keys do

    def on_data_table_row_highlighted(self, _: Any) -> None:
        """Another task is chosen."""
        self._show_chosen()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """A click on a heading sorts by it."""
        name = {"what": "name", "tid": "pid", "M F D H I U": "shared"}.get(str(event.column_key.value), "")
        self._sort = name or (str(event.column_key.value) if str(event.column_key.value) in SORTS else "tree")
        self._show()

    def action_sort(self) -> None:
        """The next order."""
        self._sort = SORTS[(SORTS.index(self._sort) + 1) % len(SORTS)]
        self._show()

    def action_toggle(self, name: str) -> None:  # type: ignore[override]
        """Switch something on or off."""
        self._shown[name] = not self._shown[name]
        self._show()

    def action_filter(self) -> None:
        """Open the line for the filter."""
        line = self.query_one("#filter", Input)
        line.display = True
        line.focus()

    def action_close_filter(self) -> None:
        """Close the line, and show everybody."""
        self.query_one("#filter", Input).value = ""
        self._leave_filter()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Each letter counts at once."""
        self._filter = event.value
        self._show()

    def on_input_submitted(self, _: Input.Submitted) -> None:
        """Keep the filter, and go back to the table."""
        self._leave_filter()

    def _leave_filter(self) -> None:
        self.query_one("#filter", Input).display = False
        self._table().focus()


def _shared_most(row: Row) -> tuple[int, int]:
    """Who shares with most others comes first, threads of one process counting little."""
    task = row[0]
    return -sum(one == WITH_ANOTHER_PROCESS for one in row[1]), -sum(len(task.shared_with(r)) for r in RESOURCES)


_ORDERS: dict[str, Any] = {
    "pid": lambda row: (row[0].pid, row[0].tid),
    "name": lambda row: (row[0].name.lower(), row[0].pid, row[0].tid),
    "shared": _shared_most,
    "namespaces": lambda row: (row[3] in ("", UNKNOWN), row[3], row[0].pid, row[0].tid),
}


def _cells(row: Row) -> list[Text]:
    task, state, marks, spaces, line = row
    return [Text(str(task.pid)), Text(str(task.tid)), Text(state), _coloured(marks), Text(spaces), Text(line)]


def _coloured(marks: str) -> Text:
    text = Text()
    for one in marks:
        text.append(one, _STYLES.get(one, ""))
    return text


def _about(seen: Inspection, task: TaskInfo) -> str:
    """What the chosen task is, and with whom it shares what."""
    lines = [f"[b]{task.tid} {escape(task.name)}[/b]", escape(explain_task(seen, task.tid)), ""]
    for resource in (*RESOURCES, Share.THREAD):
        group = task.group(resource)
        word = WORDS[resource]
        if group.answer is Answer.SHARED:
            lines.append(f"[b]{word}[/b]: {escape(_named(seen, task, task.shared_with(resource)))}")
        else:
            lines.append(f"{word}: [dim]{'none' if group.answer is Answer.NOTHING else group.answer.value}[/dim]")
    lines += ["", "[b]namespaces[/b]"]
    for kind in NAMESPACES:
        inode = task.namespaces.get(kind, 0)
        lines.append(f"{str(kind.name).lower()}: {'may not be looked at' if inode is None else inode or 'none'}")
    lines += [f"for children, {str(k.name).lower()}: {inode}" for k, inode in task.namespaces_for_children.items()]
    lines += ["", f"cgroup: {escape(task.cgroup or 'none')}", f"uid: {task.uid}"]
    if task.exit_signal is not None:
        lines.append(f"exit signal: {format_signal(task.exit_signal) if task.exit_signal else 'none'}")
    lines.append(f"no_new_privs: {task.no_new_privs}, seccomp: {task.seccomp}")
    lines += ["", f"[dim]{RESOURCES_TOLD}[/dim]"]
    return "\n".join(lines)


def _named(seen: Inspection, task: TaskInfo, tids: tuple[int, ...]) -> str:
    """With whom it shares, a process at a time: its own first, then by ids; whole processes by name, and threads counted."""
    of: dict[int, list[int]] = {}
    for tid in tids:
        of.setdefault(seen._process_of(tid), []).append(tid)
    found = [_sharers(seen, task, pid, of[pid]) for pid in sorted(of, key=lambda pid: (pid != task.pid, pid))]
    return ", ".join(found[:_MOST_NAMED]) + (
        f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    )


def _sharers(seen: Inspection, task: TaskInfo, pid: int, tids: list[int]) -> str:
    """The tasks of one process: "812 (make) and 3 of its threads"."""
    name = "its own process" if pid == task.pid else f"{pid} ({seen.process_name(pid)})"
    threads = [tid for tid in tids if tid != pid]
    if len(threads) == len(tids):
        return f"thread {threads[0]} of {name}" if len(threads) == 1 else f"{len(threads)} threads of {name}"
    first = f"{pid}, whose thread it is" if pid == task.pid else name
    return first + (f", and {_count(threads)}" if threads else "")


def _count(threads: list[int]) -> str:
    return f"its thread {threads[0]}" if len(threads) == 1 else f"{len(threads)} of its threads"
