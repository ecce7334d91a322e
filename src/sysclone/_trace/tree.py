"""The family tree of a trace: who made whom, by which call, sharing what; each exec is a node of its own."""

from __future__ import annotations

from .._flags import Clone, format_flags
from .events import AttachEvent, CloneEvent, ExecEvent, ExitEvent, SetnsEvent, UnshareEvent
from .text import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .events import Event

# How the C library makes threads: said in one word.
_NPTL = int(
    Clone.VM | Clone.FS | Clone.FILES | Clone.SIGHAND | Clone.THREAD | Clone.SYSVSEM | Clone.SETTLS
    | Clone.PARENT_SETTID | Clone.CHILD_CLEARTID
)  # fmt: skip
_BOOKKEEPING = int(Clone.PARENT_SETTID | Clone.CHILD_SETTID | Clone.CHILD_CLEARTID | Clone.SETTLS | Clone.PIDFD)
_WORDS = 60


class Node:
    """A stretch of a task's life: from its birth, or from an exec, to the next exec or the end.

    Attributes:
        pid, tid: the process and the task.
        birth: how it came into the tree: the call that made it, or an AttachEvent; None for the first program.
        program: the exec that it begins with; None for what its creator was.
        changes: its calls of unshare and setns.
        failed: calls of its that failed.
        children: what it made, and last its own next exec.
        end: its ExitEvent; None where the trace ended first, and where another exec follows.
        began, ended: seconds, as of events.
    """

    __slots__ = ("began", "birth", "changes", "children", "end", "ended", "failed", "pid", "program", "tid")

    def __init__(
        self,
        pid: int,
        tid: int,
        began: float,
        birth: CloneEvent | AttachEvent | None = None,
        program: ExecEvent | None = None,
    ) -> None:
        self.pid = pid
        self.tid = tid
        self.began = began
        self.birth = birth
        self.program = program
        self.changes: list[UnshareEvent | SetnsEvent] = []
        self.failed: list[CloneEvent | UnshareEvent | SetnsEvent | ExecEvent] = []
        self.children: list[Node] = []
        self.end: ExitEvent | None = None
        self.ended: float | None = None

    def walk(self) -> Iterator[Node]:
        """This node and all below it, in the order of the tree."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.children))


class Family:
    """Grows a tree event by event.

    Attributes:
        roots: the first program, or the tasks that were attached.
    """

    def __init__(self) -> None:
        self.roots: list[Node] = []
        self._at: dict[int, Node] = {}

    def add(self, event: Event) -> None:
        """Take an event, in the order of a trace."""
        if isinstance(event, CloneEvent):
            self._clone(event)
        elif isinstance(event, ExecEvent):
            self._exec(event)
        elif isinstance(event, ExitEvent):
            node = self._at.pop(event.tid, None)
            if node is not None:
                node.end, node.ended = event, event.time
        elif isinstance(event, AttachEvent):
            self._at[event.tid] = node = Node(event.pid, event.tid, event.time, event)
            self.roots.append(node)
        else:
            node = self._node(event)
            (node.changes if event.errno is None else node.failed).append(event)

    def _node(self, event: Event) -> Node:
        node = self._at.get(event.tid)
        if node is None:
            node = self._at[event.tid] = Node(event.pid, event.tid, event.time)
            self.roots.append(node)
        return node

    def _clone(self, event: CloneEvent) -> None:
        maker = self._node(event)
        if event.child is None:
            maker.failed.append(event)
            return
        child = Node(event.pid if event.is_thread else event.child, event.child, event.time, event)
        self._at[event.child] = child
        maker.children.append(child)

    def _exec(self, event: ExecEvent) -> None:
        before = self._at.get(event.tid)
        if event.result != 0:
            self._node(event).failed.append(event)
            return
        node = Node(event.pid, event.pid, event.time, None, event)
        if before is None:
            self.roots.append(node)
        else:
            before.ended = event.time
            before.children.append(node)
            self._at.pop(event.tid, None)
        self._at[event.pid] = node


def family(events: Iterable[Event]) -> list[Node]:
    """The tree of a whole trace: its roots."""
    tree = Family()
    for event in events:
        tree.add(event)
    return tree.roots


def lines(roots: list[Node]) -> Iterator[str]:
    """The tree as text, a line a node."""
    start = min((node.began for node in roots), default=0.0)
    stack = [(node, "", "") for node in reversed(roots)]
    while stack:
        node, here, below = stack.pop()
        yield here + describe(node, start)
        bars = [("├─ ", "│  ")] * (len(node.children) - 1) + [("└─ ", "   ")]
        stack += [
            (child, below + here, below + under) for child, (here, under) in zip(node.children, bars, strict=False)
        ][::-1]


def describe(node: Node, start: float = 0.0) -> str:
    """A node in a line: who, how made, what program, what became of it."""
    told = [str(node.tid), made(node)]
    told += [f"{one.call}({format_flags(one.word)})".replace("CLONE_", "") for one in node.changes]
    told += [f"{one.call}: {_errno(one)}" for one in node.failed[:3]]
    if len(node.failed) > 3:
        told.append(f"{len(node.failed) - 3} more failed")
    told.append(
        f"{node.began - start:.3f}" + (f" to {node.ended - start:.3f} s" if node.ended is not None else " s on")
    )
    if node.end is not None:
        replaced = node.end.superseded_by
        told.append(str(node.end.status) if replaced is None else f"replaced by the exec of its thread {replaced}")
    return "  ".join(told)


def _errno(event: CloneEvent | UnshareEvent | SetnsEvent | ExecEvent) -> str:
    from .._errors import error_name

    name = "did not return" if event.errno is None else error_name(event.errno)
    return f"{name} {event.path}" if isinstance(event, ExecEvent) else name


def made(node: Node) -> str:
    """What a node begins with, in words: a program, a thread, a fork with what it shares."""
    if node.program is not None:
        argv = node.program.argv
        text = node.program.path or "?"
        if argv is not None:
            text += f" [{', '.join(quote(one) for one in argv)}]"
        return text if len(text) <= 2 * _WORDS else text[: 2 * _WORDS - 1] + "…"
    if isinstance(node.birth, AttachEvent):
        return f"attached: {node.birth.name or '?'}" + (f", a thread of {node.pid}" if node.tid != node.pid else "")
    if node.birth is None:
        return "was there before"
    flags = int(node.birth.flags)
    inside = node.birth.child_pids
    also = f" (pid {inside[-1]} in its namespace)" if inside else ""
    if flags & _NPTL == _NPTL:
        more = flags & ~_NPTL
        return f"thread of {node.pid}" + (f" with {_short(more)}" if more else "") + also
    shares = flags & ~_BOOKKEEPING
    return f"{node.birth.call}{f' {_short(shares)}' if shares else ''}{also}"


def _short(flags: int) -> str:
    return format_flags(flags).replace("CLONE_", "")
