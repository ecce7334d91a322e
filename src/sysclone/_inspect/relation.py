"""Two tasks side by side, and one task in words."""

from __future__ import annotations

from dataclasses import dataclass
from signal import SIGCHLD

from .._flags import Clone, Namespace, Share, format_flags, format_signal
from .inspect import inspect, look_at, process_of
from .sharing import NAMESPACES, RESOURCES, WORDS, Answer, names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Final

    from .inspect import Inspection
    from .sharing import TaskInfo

# What glibc's pthread_create shares; CLONE_THREAD itself is told by the process.
_OF_THREADS: Final = Share.VM | Share.FILES | Share.FS | Share.SIGHAND | Share.SYSVSEM
_MOST_OTHERS: Final = 4
_NOT_ALLOWED: Final = (
    "may not be looked at: it is another user's, or not dumpable, or has more capabilities than we have "
    "(ptrace(2), PTRACE_MODE_READ_REALCREDS: CAP_SYS_PTRACE is needed)"
)


@dataclass(frozen=True, slots=True)
class Relation:
    """What two tasks have in common.

    Args:
        a, b: their tids.
        shared: what both hold together; THREAD where they are of one process.
        nothing: what neither of them has at all (no I/O context, no undo list; kernel threads and the dead have less).
        unknown: what may not be looked at.
        same: the namespaces that both are in.
        other: those in which they differ.
        unseen: those that may not be looked at.
        creator: which of the two the other's flags are told from: the parent, where one is the other's.
        flags: the clone flags by which the creator would make such a pair.
        exit_signal: the signal that goes with them; 0 for threads and siblings.
    """

    a: int
    b: int
    shared: Share
    nothing: Share
    unknown: Share
    same: Namespace
    other: Namespace
    unseen: Namespace
    creator: int
    flags: Clone
    exit_signal: int

    @property
    def made_with(self) -> str:
        """Flags and exit signal, as strace prints them: "CLONE_VM|SIGCHLD"."""
        return format_flags(int(self.flags), self.exit_signal)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data for JSON."""
        return {
            "a": self.a,
            "b": self.b,
            "shared": names(self.shared),
            "nothing": names(self.nothing),
            "unknown": names(self.unknown),
            "namespaces": {"same": names(self.same), "other": names(self.other), "unknown": names(self.unseen)},
            "creator": self.creator,
            "flags": names_of_flags(self.flags),
            "exit_signal": self.exit_signal,
        }

    def __str__(self) -> str:
        made = self.b if self.creator == self.a else self.a
        lines = [f"{self.a} and {self.b} share {in_words(self.shared) or 'nothing'}"]
        if self.nothing:
            lines.append(f"neither has: {in_words(self.nothing)}")
        if self.unknown:
            lines.append(f"may not be looked at: {in_words(self.unknown)}")
        if self.other:
            lines.append(f"in other namespaces: {', '.join(names(self.other)).lower()}")
        if self.unseen:
            lines.append(f"namespaces that may not be looked at: {', '.join(names(self.unseen)).lower()}")
        lines.append(f"{self.creator} would make such a {made} with: {self.made_with}")
        return "\n".join(lines)


def names_of_flags(flags: Clone) -> list[str]:
    """The C names of the flags, in the order of their bits."""
    return format_flags(int(flags)).split("|") if flags else []


def in_words(resources: Share) -> str:
    """A set of resources for people: "memory, file table"."""
    return ", ".join(WORDS[one] for one in (Share.THREAD, *RESOURCES) if one & resources)


def relation(a: int, b: int) -> Relation:
    """What two tasks share, by the kernel's word, and the clone flags that would make such a pair.

    Args:
        a, b: ids of processes or threads.

    Raises:
        ProcessLookupError: one of them is not there, or ended while it was looked at.
        Unsupported: this kernel has no kcmp (CONFIG_KCMP), or /proc is not there, or is another pid namespace's.

    Since Linux 3.5; follows kcmp(2).
    """
    seen = look_at([(process_of(a), a), (process_of(b), b)])
    for tid in (a, b):
        if tid not in seen:
            raise ProcessLookupError(3, f"task {tid} ended while it was looked at")
    return relate(seen[a], seen[b], _parent_share(seen[a], seen[b]))


def _parent_share(a: TaskInfo, b: TaskInfo) -> Share:
    """What both children of one parent share with it; nothing where they are not siblings."""
    if a.ppid != b.ppid or a.pid == b.pid or not a.ppid or not (a.shared & b.shared):
        return Share(0)
    seen = look_at([(a.ppid, a.ppid), (a.pid, a.tid), (b.pid, b.tid)])
    found = Share(0)
    for resource in RESOURCES:
        if a.ppid in seen and b.tid in seen and {a.tid, b.tid} <= set(seen[a.ppid].group(resource).tids):
            found |= resource
    return found


def relate(a: TaskInfo, b: TaskInfo, with_parent: Share = Share(0)) -> Relation:  # noqa: B008 (immutable)
    """The relation of two tasks of one look.

    Args:
        a, b: two tasks that the same `inspect` saw.
        with_parent: what two siblings both share with their parent: that makes no sibling's flag.
    """
    shared, nothing, unknown = Share(0), Share(0), Share(0)
    for resource in RESOURCES:
        one, other = a.group(resource), b.group(resource)
        if one.answer is Answer.NOTHING and other.answer is Answer.NOTHING:
            nothing |= resource
        elif not (one.answer.is_known and other.answer.is_known):
            # Having nothing and having something that may not be seen is no sharing for certain.
            unknown |= resource if Answer.NOTHING not in (one.answer, other.answer) else Share(0)
        elif b.tid in one.tids:
            shared |= resource
    if a.pid == b.pid:
        shared |= Share.THREAD
    same, other_namespaces, unseen = _namespaces(a, b)
    creator, made = (b, a) if a.ppid == b.pid and a.pid != b.pid else (a, b)
    flags = Clone(int(shared) | int(other_namespaces))
    exit_signal = 0 if made.exit_signal is None or Share.THREAD in shared else made.exit_signal
    siblings = a.pid != b.pid and a.ppid == b.ppid and bool(shared & ~with_parent)
    if siblings:
        flags |= Clone.PARENT
        exit_signal = 0
    return Relation(
        a.tid, b.tid, shared, nothing, unknown, same, other_namespaces, unseen, creator.tid, flags, exit_signal
    )


def _namespaces(a: TaskInfo, b: TaskInfo) -> tuple[Namespace, Namespace, Namespace]:
    same, other, unseen = Namespace(0), Namespace(0), Namespace(0)
    for kind, one, two in zip(NAMESPACES, a.inodes, b.inodes, strict=True):
        if one is None or two is None:
            unseen |= kind
        elif one and two:  # the dead are in none
            same, other = (same | kind, other) if one == two else (same, other | kind)
    return same, other, unseen


# --- in words


def why(pid: int) -> str:
    """What a process or thread is, in words: whose thread or child, what it shares with whom, and by which flags.

    Args:
        pid: the id of a process or of one thread.

    Raises:
        ProcessLookupError: there is no such task.
    """
    process = process_of(pid)
    seen = inspect([process])
    if pid not in seen:
        raise ProcessLookupError(3, f"task {pid} ended while it was looked at")
    return explain_task(seen, pid)


def explain_task(seen: Inspection, tid: int) -> str:
    """The same from a look that has been taken."""
    task = seen[tid]
    if task.kernel_thread:
        return "a kernel thread: no program's, and it shares nothing with one"
    if task.is_zombie and not task.is_thread and len(task.group(Share.THREAD).tids) == 1:
        return f"a zombie: it has ended, and its parent {_called(seen, task.ppid)} has not waited for it"
    if task.unknown == _of(RESOURCES):
        whose = f"a thread of {_called(seen, task.pid)}" if task.is_thread else _child_of(seen, task)
        return f"{whose}: it {_NOT_ALLOWED}"
    words = _thread_words(seen, task) if task.is_thread else _process_words(seen, task)
    if task.unknown:
        words.append(f"its {_list(task.unknown)} may not be looked at, or changes too fast for it")
    return "; ".join(words)


def _thread_words(seen: Inspection, task: TaskInfo) -> list[str]:
    """A thread is set against its process's first one, or where that is dead against the others."""
    shared = _shared_with(task, task.group(Share.THREAD).tids)
    missing = _OF_THREADS & ~shared & ~task.nothing & ~task.unknown
    words = f"a thread of {_called(seen, task.pid)}"
    if missing:
        flags = format_flags(int(missing))
        verb = "were" if "|" in flags else "was"
        words += f" except for its own {_list(missing)} ({flags} {verb} not set or {verb} unshared)"
    told = [words]
    if shared & Share.IO:
        told.append("it shares its I/O context too (CLONE_IO), as threads seldom do")
    told += _others(seen, task, task.pid, shared)
    leader = seen.get(task.pid)
    differing = _namespaces(task, leader)[1] if leader is not None else Namespace(0)
    if differing:
        told.append(
            f"it is in another {', '.join(names(differing)).lower()} namespace than its process (unshare or setns)"
        )
    return told


def _process_words(seen: Inspection, task: TaskInfo) -> list[str]:
    parent = seen._threads_of(task.ppid)
    shared = _shared_with(task, parent)
    threads = len(task.group(Share.THREAD).tids)
    kind = f"a process of {threads} threads" if threads > 1 else "a process"
    if shared & Share.VM:
        kind = "a light process" + (f" of {threads} threads" if threads > 1 else "")
    words = f"{kind}, {_child_of(seen, task)}"
    if shared:
        words += f", with which it shares {_list(shared)} ({format_flags(int(shared))})"
    elif task.ppid:
        words += (
            ", with which it shares nothing that may be looked at" if task.unknown else ", with which it shares nothing"
        )
    told = [words]
    told += _others(seen, task, task.ppid, shared)
    if task.exit_signal is not None and task.exit_signal != SIGCHLD:
        told.append(
            f"at its end its parent gets {format_signal(task.exit_signal) if task.exit_signal else 'no signal'}"
        )
    return told


def _others(seen: Inspection, task: TaskInfo, known: int, shared: Share) -> list[str]:
    """With which further processes it shares what: those that `known` does not account for."""
    found: dict[int, Share] = {}
    for resource in RESOURCES:
        for tid in task.shared_with(resource):
            pid = seen._process_of(tid)
            if pid not in (task.pid, known):
                found[pid] = found.get(pid, Share(0)) | resource
    told = []
    for pid, what in sorted(found.items())[:_MOST_OTHERS]:
        whose = "its child " if seen._parent_of(pid) == task.pid else ""
        more = "too" if not what & ~shared else "and neither made the other" if not whose else ""
        told.append(f"it shares {_list(what)} with {whose}{_called(seen, pid)} {more}".rstrip())
    if len(found) > _MOST_OTHERS:
        told.append(f"and so on, with {len(found) - _MOST_OTHERS} processes more")
    return told


def _shared_with(task: TaskInfo, tids: Iterable[int]) -> Share:
    others = set(tids) - {task.tid}
    return _of(resource for resource in RESOURCES if not others.isdisjoint(task.group(resource).tids))


def _of(resources: Iterable[Share]) -> Share:
    found = Share(0)
    for resource in resources:
        found |= resource
    return found


def _list(resources: Share) -> str:
    words = [WORDS[one] for one in RESOURCES if one & resources]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _child_of(seen: Inspection, task: TaskInfo) -> str:
    return f"a child of {_called(seen, task.ppid)}" if task.ppid else "a child of none in our pid namespace"


def _called(seen: Inspection, pid: int) -> str:
    name = seen.process_name(pid)
    return f"{pid} ({name})" if name else str(pid)
