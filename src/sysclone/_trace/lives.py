"""The lives in a trace: each task from its birth to its end, with its creator, its programs and what it shares.

A task that calls exec and is not the leader of its process takes the leader's id: it is the same life, and the leader's
is over. An id that is used again is another life.
"""

from __future__ import annotations

from .._errors import error_name
from .._flags import Clone, format_flags
from .events import KERNEL_ERRNOS, AttachEvent, CloneEvent, ExecEvent, ExitEvent, SetnsEvent, UnshareEvent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

    from .events import Event

SHARED: Final = int(Clone.VM | Clone.FILES | Clone.FS | Clone.SIGHAND | Clone.SYSVSEM | Clone.IO | Clone.THREAD)
LASTS_THROUGH_EXEC: Final = int(Clone.FS | Clone.SYSVSEM | Clone.IO)
_UNSHARED: Final = int(Clone.FILES | Clone.FS | Clone.SYSVSEM)

FIRST, THREAD, VFORK, LIGHT, SOME, NOTHING = "first", "thread", "vfork", "light", "some", "nothing"
KINDS: Final = {
    FIRST: "was there before the trace, or is its first program",
    THREAD: "a thread of its creator's process",
    VFORK: "shares its creator's memory, and the creator sleeps (vfork)",
    LIGHT: "shares its creator's memory, and is no thread",
    SOME: "shares something with its creator, but not its memory",
    NOTHING: "shares nothing with its creator",
}
"""The kinds of stretch by what the task shares with its creator, which is what a picture's colours say."""


class Stretch:
    """A part of a life in which it runs one program and shares the same things with its creator.

    Attributes:
        began: seconds, as of events.
        kind: one of KINDS.
        shares: the CLONE_* bits of what it shares with its creator.
    """

    __slots__ = ("began", "kind", "shares")

    def __init__(self, began: float, kind: str, shares: int) -> None:
        self.began = began
        self.kind = kind
        self.shares = shares


class Life:
    """One task.

    Attributes:
        pid, tid: its process and its id at its birth.
        later_tid: its process's id, which a thread that calls exec has from then on; None for all others.
        birth: the call that made it, an AttachEvent, or None for the first program.
        creator: whose call that was; None where it was not seen.
        began, ended: seconds, as of events; ended is None where the trace ended first.
        end: its ExitEvent.
        stretches: what it shared with its creator, from when on.
        execs: its programs.
        changes: its calls of unshare and setns that succeeded.
        failed: its calls that failed.
    """

    __slots__ = (
        "began", "birth", "changes", "creator", "end", "ended", "execs", "failed", "later_tid", "pid", "place",
        "stretches", "tid",
    )  # fmt: skip

    def __init__(
        self,
        place: int,
        pid: int,
        tid: int,
        began: float,
        birth: CloneEvent | AttachEvent | None,
        creator: Life | None,
    ) -> None:
        self.place = place
        self.pid = pid
        self.tid = tid
        self.later_tid: int | None = None
        self.birth = birth
        self.creator = creator
        self.began = began
        self.ended: float | None = None
        self.end: ExitEvent | None = None
        self.execs: list[ExecEvent] = []
        self.changes: list[UnshareEvent | SetnsEvent] = []
        self.failed: list[CloneEvent | UnshareEvent | SetnsEvent | ExecEvent] = []
        flags = int(birth.flags) if isinstance(birth, CloneEvent) else -1
        self.stretches = [Stretch(began, kind_of(flags), max(flags, 0) & SHARED)]

    @property
    def name(self) -> str:
        """What it is called: its last program's name, that of a task that was attached, or its creator's at its birth."""
        life: Life | None = self
        before = float("inf")
        while life is not None:
            program = next((one for one in reversed(life.execs) if one.time <= before), None)
            if program is not None:
                return program_name(program)
            if isinstance(life.birth, AttachEvent) and life.birth.name:  # one that was gone when it was met has none
                return life.birth.name
            before, life = life.began, life.creator
        return "?"

    @property
    def is_thread(self) -> bool:
        """Whether it was born a thread of its creator's process."""
        return isinstance(self.birth, CloneEvent) and self.birth.is_thread

    def lifetime(self) -> float | None:
        """Seconds from birth to end; None where the end was not seen."""
        return None if self.ended is None else self.ended - self.began

    def how_it_was_made(self) -> str:
        """The call with its flags, in the kernel's names."""
        if isinstance(self.birth, CloneEvent):
            return f"{self.birth.call}({flags_of(self.birth)})"
        is_first = self.birth is None and not self.place and self.execs and self.execs[0].time == self.began
        return "the first program" if is_first else "its birth was not seen"

    def how_it_ended(self) -> str:
        """Its status in words."""
        if self.end is None:
            return "was there when the trace ended"
        if self.end.superseded_by is not None:
            return f"ended by the exec of thread {self.end.superseded_by}"
        return str(self.end.status)

    def _share(self, time: float, kept: int) -> None:
        """From now on it shares no more than this with its creator."""
        last = self.stretches[-1]
        shares = last.shares & kept
        if last.kind != FIRST and (shares != last.shares or last.kind == VFORK):
            self.stretches.append(Stretch(time, kind_of(shares), shares))


def kind_of(flags: int) -> str:
    """The kind of a task that was made with these flags; -1 for one whose birth was not seen."""
    if flags < 0:
        return FIRST
    if flags & Clone.THREAD:
        return THREAD
    if flags & Clone.VM:
        return VFORK if flags & Clone.VFORK else LIGHT
    return SOME if flags & SHARED else NOTHING


def flags_of(event: CloneEvent) -> str:
    """Flags and exit signal, as strace prints them."""
    return format_flags(int(event.flags), event.exit_signal)


def program_name(event: ExecEvent) -> str:
    """The last part of a program's path."""
    return (event.path or "?").rstrip("/").rpartition("/")[2] or "?"


class Lives:
    """Grows event by event.

    Attributes:
        all: every life, in the order of births.
        events: how many events there were.
        began, ended: the time of the first event and of the last.
    """

    def __init__(self) -> None:
        self.all: list[Life] = []
        self.events = 0
        self.began = self.ended = 0.0
        self._at: dict[int, Life] = {}

    def add(self, event: Event) -> None:
        """Take an event, in the order of a trace."""
        if not self.events:
            self.began = event.time
        self.events += 1
        self.ended = max(self.ended, event.time)
        if isinstance(event, CloneEvent):
            self._clone(event)
        elif isinstance(event, ExecEvent):
            self._exec(event)
        elif isinstance(event, ExitEvent):
            self._exit(event)
        elif isinstance(event, AttachEvent):
            self._new(event.pid, event.tid, event.time, event, self._at.get(event.parent))
        else:
            self._change(event)

    def add_all(self, events: Iterable[Event]) -> None:
        """Take several."""
        for event in events:
            self.add(event)

    def _new(
        self, pid: int, tid: int, time: float, birth: CloneEvent | AttachEvent | None, creator: Life | None
    ) -> Life:
        life = Life(len(self.all), pid, tid, time, birth, creator)
        self.all.append(life)
        self._at[tid] = life
        return life

    def _life(self, event: Event) -> Life:
        return self._at.get(event.tid) or self._new(event.pid, event.tid, event.time, None, None)

    def _clone(self, event: CloneEvent) -> None:
        maker = self._life(event)
        if event.child is None:
            # What a signal interrupted, the kernel makes again: the next event is the same call.
            if event.errno not in KERNEL_ERRNOS:
                maker.failed.append(event)
        else:
            self._new(event.pid if event.is_thread else event.child, event.child, event.time, event, maker)

    def _exec(self, event: ExecEvent) -> None:
        life = self._life(event)
        if event.result != 0:
            life.failed.append(event)
            return
        if event.tid != event.pid:
            self._at.pop(event.tid, None)
            leader = self._at.get(event.pid)
            if leader is not None and leader.ended is None:
                leader.ended = event.time
            self._at[event.pid] = life
            life.later_tid = event.pid
        life.execs.append(event)
        life._share(event.time, LASTS_THROUGH_EXEC)

    def _exit(self, event: ExitEvent) -> None:
        life = self._at.pop(event.tid, None)
        if life is not None:
            life.end, life.ended = event, event.time

    def _change(self, event: UnshareEvent | SetnsEvent) -> None:
        life = self._life(event)
        if event.result != 0:
            life.failed.append(event)
            return
        life.changes.append(event)
        if isinstance(event, UnshareEvent):
            # A new mount or user namespace takes a cwd of its own along.
            own = event.word | (Clone.FS if event.word & (Clone.NEWNS | Clone.NEWUSER) else 0)
            life._share(event.time, ~(int(own) & _UNSHARED))


def failure(event: CloneEvent | UnshareEvent | SetnsEvent | ExecEvent) -> str:
    """A call that failed, in words: "execve /bin/x: ENOENT"."""
    what = f" {event.path}" if isinstance(event, ExecEvent) else f" {format_flags(int(event.flags))}"
    return f"{event.call}{what}: {'did not return' if event.errno is None else error_name(event.errno)}"
