"""What the verbs that show tasks have in common: one letter a resource, one mark a task."""

from __future__ import annotations

from collections import Counter

from .._flags import Namespace, Share
from .._inspect.sharing import NAMESPACES, RESOURCES, Answer, names

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import Final

    from .._inspect.inspect import Inspection
    from .._inspect.sharing import ShareGroup, TaskInfo

LETTERS: Final = {
    Share.VM: "M", Share.FILES: "F", Share.FS: "D", Share.SIGHAND: "H", Share.IO: "I", Share.SYSVSEM: "U",
    Share.THREAD: "P",
}  # fmt: skip

WITH_THE_ONE_ABOVE: Final = "="
WITH_ANOTHER_PROCESS: Final = "+"
WITHIN_THE_PROCESS: Final = "t"
ALONE: Final = "."
NOTHING: Final = "-"
UNKNOWN: Final = "?"

SORTS: Final = ("tree", "pid", "name", "shared", "namespaces")

_MARKS: Final = {
    Answer.ALONE: ALONE, Answer.NOTHING: NOTHING, Answer.NOT_ALLOWED: UNKNOWN, Answer.UNSETTLED: UNKNOWN,
}  # fmt: skip

RESOURCES_TOLD: Final = "M memory, F file table, D cwd, root and umask, H signal handlers, I I/O context, U undo list"
MARKS_TOLD: Final = (
    f"{WITH_THE_ONE_ABOVE} shared with its process or parent, {WITH_ANOTHER_PROCESS} with another process, "
    f"{WITHIN_THE_PROCESS} among its own threads, {ALONE} alone, {NOTHING} has none, {UNKNOWN} may not be looked at"
)


def add_tasks(parser: argparse.ArgumentParser, *, many: str = "*") -> None:
    """The processes to look at."""
    parser.add_argument(
        "pids",
        nargs=many,
        type=positive,
        metavar="PID",
        help="a process, with its descendants; without any, all of them",
    )


def positive(text: str) -> int:
    """A process id."""
    number = int(text)
    if number <= 0:
        raise ValueError(text)
    return number


def above(task: TaskInfo) -> int:
    """What a task is set against: a thread's process, a process's parent."""
    return task.pid if task.is_thread else task.ppid


class Marks:
    """How the tasks of one look have their resources. Each group is gone through once, however many are in it."""

    def __init__(self, seen: Inspection) -> None:
        self._seen = seen
        self._counts: dict[int, Counter[int]] = {}

    def of(self, task: TaskInfo) -> str:
        """One mark for each of RESOURCES."""
        return " ".join(self.mark(task, resource) for resource in RESOURCES)

    def mark(self, task: TaskInfo, resource: Share) -> str:
        """How a task has one resource."""
        group = task.group(resource)
        if group.answer is not Answer.SHARED:
            return _MARKS[group.answer]
        processes = self._processes(group)
        over = above(task)
        if processes[over] > (over == task.pid):
            return WITH_THE_ONE_ABOVE
        return WITHIN_THE_PROCESS if processes[task.pid] == len(group.tids) else WITH_ANOTHER_PROCESS

    def is_odd(self, task: TaskInfo) -> bool:
        """Whether it shares something with another process, or as a thread lacks something that threads share."""
        for resource in RESOURCES:
            group = task.group(resource)
            if group.answer is Answer.SHARED and self._processes(group)[task.pid] < len(group.tids):
                return True
            if task.is_thread and group.answer is Answer.ALONE and resource is not Share.IO:
                return True
        return False

    def own_namespaces(self, task: TaskInfo) -> str:
        """The namespaces in which a task differs from the one above it; "?" where that may not be looked at."""
        over = self._seen.get(above(task))
        if over is None or over.inodes is task.inodes:
            return ""
        if None in task.inodes or None in over.inodes:
            return UNKNOWN
        found = Namespace(0)
        for kind, own, others in zip(NAMESPACES, task.inodes, over.inodes, strict=True):
            if own and others and own != others:
                found |= kind
        return ",".join(names(found)).lower()

    def _processes(self, group: ShareGroup) -> Counter[int]:
        """How many tasks of each process are in a group."""
        found = self._counts.get(id(group))
        if found is None:
            found = self._counts[id(group)] = Counter(map(self._seen._process_of, group.tids))
        return found


def label(task: TaskInfo) -> str:
    """What a task is called: its command line; a name in brackets where there is none, in braces for a thread."""
    if task.is_thread:
        return "{" + task.name + "}"
    return printable(" ".join(task.command)) if task.command else f"[{task.name}]"


def printable(text: str) -> str:
    """A command line on one line, with nothing in it that a terminal obeys."""
    return "".join(c if c.isprintable() else "\N{MIDDLE DOT}" for c in text)


def tree(tasks: list[TaskInfo], *, unicode: bool) -> Iterator[tuple[TaskInfo, str]]:
    """The tasks in the order of the tree, each with the branch before its name."""
    by_tid = {task.tid: task for task in tasks}
    below: dict[int, list[TaskInfo]] = {}
    for task in tasks:
        below.setdefault(above(task) if above(task) in by_tid and above(task) != task.tid else 0, []).append(task)
    middle, last, line = ("├─ ", "└─ ", "│  ") if unicode else ("|- ", "`- ", "|  ")
    # A stack of its own: a chain of processes may be deeper than Python's.
    left = [(task, "", "") for task in reversed(below.get(0, []))]
    while left:
        task, branch, indent = left.pop()
        yield task, branch
        children = below.get(task.tid, [])
        for place, child in reversed(list(enumerate(children))):
            is_last = place == len(children) - 1
            left.append((child, indent + (last if is_last else middle), indent + ("   " if is_last else line)))
