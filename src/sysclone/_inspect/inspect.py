"""A look at every task of a system, or of some processes: who shares what with whom.

A task that ends, or whose id comes to belong to another one while the look lasts, is left out: it is asked for its
start before and after. The share groups are those of `_core/groups.c`, which says why they hold.
"""

from __future__ import annotations

import os
import time
from array import array
from errno import EACCES, ENOSYS, EPERM

from .. import _core
from .._errors import CloneError, Unsupported
from .._flags import Share
from .._kernel import why_no_proc
from .proc import FOR_CHILDREN_FILES, NAMESPACE_FILES, Stat, Status, parse_cgroups, parse_command
from .sharing import RESOURCES, Answer, ShareGroup, TaskInfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any, Final

    _Inodes = tuple[tuple[int | None, ...], tuple[int | None, int | None]]
    _Details = tuple[Status, tuple[tuple[str, str], ...], _Inodes, tuple[str, ...]]

_KINDS: Final = (1, 2, 3, 4, 5, 6)  # KCMP_VM FILES FS SIGHAND IO SYSVSEM: RESOURCES in kcmp's numbers
_ANSWERS: Final = {-1: Answer.NOTHING, -2: Answer.NOT_ALLOWED, -3: Answer.UNSETTLED, -4: Answer.UNSETTLED}
_DENIED: Final = -2
_NO_GROUP: Final = {
    (resource, answer): ShareGroup(resource, answer) for resource in RESOURCES for answer in set(_ANSWERS.values())
}
_FILE_BYTES: Final = 1 << 16
_COMMAND_BYTES: Final = 1 << 12
_NAMESPACE_LINKS: Final = tuple(name.encode() for name in (*NAMESPACE_FILES, *FOR_CHILDREN_FILES))
# What every kernel thread has of the kernel's own (init_fs, init_files) is no program's, and shared with none.
_OF_THE_KERNEL: Final = tuple(ShareGroup(resource, Answer.NOTHING) for resource in RESOURCES)


class Inspection:
    """What `inspect` saw: a collection of TaskInfo, in the order of processes and threads. Immutable.

    Attributes:
        tasks: a TaskInfo for each task that was asked for.
        gone: tids of those that ended while they were looked at; nothing is said of them.
        calls: how many kcmp calls it took.
        seconds: how long it took.
    """

    __slots__ = ("_by_tid", "_pid_of", "_processes", "_stats", "calls", "gone", "seconds", "tasks")

    tasks: tuple[TaskInfo, ...]
    gone: tuple[int, ...]
    calls: int
    seconds: float
    _by_tid: dict[int, TaskInfo]
    _pid_of: dict[int, int]
    _processes: Mapping[int, Sequence[int]]
    _stats: Mapping[int, Stat]

    def __init__(self, tasks: tuple[TaskInfo, ...], gone: tuple[int, ...], look: _Look, seconds: float) -> None:
        put = object.__setattr__
        put(self, "tasks", tasks)
        put(self, "gone", gone)
        put(self, "calls", look.calls)
        put(self, "seconds", seconds)
        put(self, "_processes", look.processes)
        put(self, "_pid_of", {tid: pid for pid, tids in look.processes.items() for tid in tids})
        put(self, "_stats", look.stats)
        put(self, "_by_tid", {task.tid: task for task in tasks})

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("an Inspection cannot be changed")

    def __iter__(self) -> Iterator[TaskInfo]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def __contains__(self, tid: object) -> bool:
        return tid in self._by_tid

    def __getitem__(self, tid: int) -> TaskInfo:
        return self._by_tid[tid]

    def get(self, tid: int) -> TaskInfo | None:
        """The task with this id, or None."""
        return self._by_tid.get(tid)

    def __repr__(self) -> str:
        return f"<Inspection of {len(self.tasks)} tasks: {len(self.groups)} groups, {self.calls} calls>"

    @property
    def groups(self) -> tuple[ShareGroup, ...]:
        """Each group of more than one task that a task here is in, resource by resource; thread groups come last."""
        found = {}
        for task in self.tasks:
            for group in task.groups:
                if group.answer is Answer.SHARED:
                    found[group.resource, group.tids[0]] = group
        order = [*RESOURCES, Share.THREAD]
        return tuple(sorted(found.values(), key=lambda group: (order.index(group.resource), group.tids)))

    @property
    def unknown(self) -> tuple[int, ...]:
        """The tasks of which something may not be looked at, or changed too fast for it."""
        return tuple(task.tid for task in self.tasks if task.unknown)

    def process_name(self, pid: int) -> str:
        """The name of a process, of one that was not asked for too; empty where it was not seen."""
        stat = self._stats.get(pid)
        return stat.name if stat is not None else ""

    def _parent_of(self, pid: int) -> int:
        stat = self._stats.get(pid)
        return stat.ppid if stat is not None else 0

    def _threads_of(self, pid: int) -> Sequence[int]:
        return self._processes.get(pid, ())

    def _process_of(self, tid: int) -> int:
        return self._pid_of.get(tid, 0)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data for JSON."""
        return {
            "tasks": [task.as_dict() for task in self.tasks],
            "gone": list(self.gone),
            "calls": self.calls,
            "seconds": self.seconds,
        }


def inspect(pids: int | Iterable[int] | None = None) -> Inspection:
    """Look at every task of the system, or of some processes and their descendants, threads included.

    The share groups are found among all tasks that can be seen, whoever is asked for: alone is alone among those. Tasks
    of other pid namespaces than ours and its descendants cannot be seen, nor those that /proc hides (its hidepid).

    Args:
        pids: a process id, or several (a thread's id stands for its process); None is the whole system.

    Returns:
        An Inspection: iterate it, or take a task by its tid.

    Raises:
        ProcessLookupError: one of `pids` is not there.
        Unsupported: this kernel has no kcmp (CONFIG_KCMP), or /proc is not there, or is another pid namespace's.
        CloneError: no child could be made, which is needed to know those who have nothing.

    Makes two children that end at once. Follows kcmp(2), proc(5) and namespaces(7); asking about another user's tasks
    needs CAP_SYS_PTRACE. Since Linux 3.5.
    """
    began = time.monotonic()
    _need_proc()
    wanted = None if pids is None else _numbers(pids)
    everybody = _processes()
    stats = _stats_of([(pid, pid) for pid in everybody])
    chosen = None if wanted is None else _descendants(wanted, stats)
    look = _Look({pid: tids for pid, tids in everybody.items() if pid in stats}, stats, chosen)
    return look.result(began)


def look_at(tasks: Sequence[tuple[int, int]]) -> Inspection:
    """Look at a few tasks alone, each given as (pid, tid); their groups are those among them."""
    began = time.monotonic()
    _need_proc()
    processes: dict[int, list[int]] = {}
    for pid, tid in dict.fromkeys(tasks):
        processes.setdefault(pid, []).append(tid)
    leaders = _stats_of([(pid, pid) for pid in processes])
    return _Look({pid: tids for pid, tids in processes.items() if pid in leaders}, leaders, None).result(began)


def _need_proc() -> None:
    if why := why_no_proc():
        raise Unsupported("looking at tasks", reason=why)


def _numbers(pids: int | Iterable[int]) -> list[int]:
    return [pids] if isinstance(pids, int) else list(pids)


def _processes() -> dict[int, list[int]]:
    """The threads of each process, its first one at the head."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            tids = threads_of(int(name))
            if tids:
                found[int(name)] = tids
    return dict(sorted(found.items()))


def threads_of(pid: int) -> list[int]:
    """The threads of a process, its first one at the head; none where it has gone."""
    try:
        return sorted(map(int, os.listdir(f"/proc/{pid}/task")), key=lambda tid: (tid != pid, tid))
    except (FileNotFoundError, ProcessLookupError):
        return []


def _stats_of(tasks: Sequence[tuple[int, int]]) -> dict[int, Stat]:
    """The stat of each (pid, tid) that is there."""
    texts = _core.read_files(tuple(b"/proc/%d/task/%d/stat" % task for task in tasks), _FILE_BYTES)
    return {tid: Stat(text) for (_, tid), text in zip(tasks, texts, strict=True) if isinstance(text, bytes) and text}


def process_of(pid: int) -> int:
    """The process that a task id belongs to.

    Raises:
        ProcessLookupError: there is no such task.
        Unsupported: as of inspect.
    """
    _need_proc()
    (text,) = _core.read_files((b"/proc/%d/status" % pid,), _FILE_BYTES) if pid > 0 else (0,)
    if not isinstance(text, bytes) or not text:
        raise ProcessLookupError(3, f"there is no task {pid}")
    return Status(text).tgid


def _descendants(wanted: list[int], stats: Mapping[int, Stat]) -> set[int]:
    """The processes that are asked for, and all that come from them."""
    children: dict[int, list[int]] = {}
    for pid, stat in stats.items():
        children.setdefault(stat.ppid, []).append(pid)
    found: set[int] = set()
    left = [pid if pid in stats else process_of(pid) for pid in wanted]
    while left:
        pid = left.pop()
        if pid not in found:
            found.add(pid)
            left += children.get(pid, ())
    return found


class _Look:
    """The steps of one look, and what they found."""

    processes: dict[int, list[int]]
    stats: dict[int, Stat]
    tasks: list[tuple[int, int]]
    before: dict[int, Stat]
    groups: dict[int, tuple[ShareGroup, ...]]
    calls: int

    def __init__(self, processes: dict[int, list[int]], stats: dict[int, Stat], chosen: set[int] | None) -> None:
        self.processes = processes
        self.stats = stats
        self.tasks = [(pid, tid) for pid, tids in processes.items() if chosen is None or pid in chosen for tid in tids]
        self.before = {**stats, **_stats_of([task for task in self.tasks if task[0] != task[1]])}
        self.groups, self.calls = share_groups(
            {pid: tids for pid, tids in processes.items() if not stats[pid].is_kernel_thread}
        )

    def result(self, began: float) -> Inspection:
        """Read what else is told, and leave out who is not there any more."""
        details = self._details()
        after = _stats_of(self.tasks)
        there = [task for task in self.tasks if task[1] in details and self._is_the_same(task[1], after)]
        kept = set(there)
        gone = tuple(task[1] for task in self.tasks if task not in kept)
        threads = {pid: _thread_group(threads_of(pid) or [pid]) for pid in {pid for pid, _ in there}}
        tasks = tuple(self._info(pid, tid, after[tid], threads[pid], details[tid]) for pid, tid in there)
        return Inspection(tasks, gone, self, time.monotonic() - began)

    def _is_the_same(self, tid: int, after: Mapping[int, Stat]) -> bool:
        before, now = self.before.get(tid), after.get(tid)
        if before is None or now is None:
            return False
        # One that died in between had other groups than it has now.
        return before.started == now.started and before.is_zombie == now.is_zombie

    def _info(self, pid: int, tid: int, stat: Stat, threads: ShareGroup, details: _Details) -> TaskInfo:
        status, cgroups, (inodes, for_children), command = details
        return TaskInfo(
            pid=pid,
            tid=tid,
            ppid=stat.ppid,
            name=stat.name,
            command=command,
            state=stat.state,
            started=stat.started,
            uid=status.uid,
            kernel_thread=stat.is_kernel_thread,
            exit_signal=stat.exit_signal if stat.exit_signal >= 0 else None,
            no_new_privs=status.no_new_privs,
            seccomp=status.seccomp,
            cgroups=cgroups,
            pids=status.pids,
            groups=(*self.groups.get(tid, _OF_THE_KERNEL), threads),
            inodes=inodes,
            inodes_for_children=for_children,
        )

    def _details(self) -> dict[int, _Details]:
        """What else /proc says of each task: status, cgroups, namespaces; and the command line of its process."""
        at = [b"/proc/%d/task/%d/" % task for task in self.tasks]
        statuses = _core.read_files(tuple(path + b"status" for path in at), _FILE_BYTES)
        cgroups = _core.read_files(tuple(path + b"cgroup" for path in at), _FILE_BYTES)
        leaders = [pid for pid, tid in self.tasks if pid == tid]
        lines = _core.read_files(tuple(b"/proc/%d/cmdline" % pid for pid in leaders), _COMMAND_BYTES)
        commands = {
            pid: parse_command(line) for pid, line in zip(leaders, lines, strict=True) if isinstance(line, bytes)
        }
        parsed: dict[bytes, tuple[tuple[str, str], ...]] = {}
        found = {}
        for (pid, tid), status, cgroup, inodes in zip(self.tasks, statuses, cgroups, _namespaces(at), strict=True):
            if not isinstance(status, bytes) or not status or not isinstance(cgroup, bytes):
                continue
            if cgroup not in parsed:
                parsed[cgroup] = tuple(parse_cgroups(cgroup).items())
            found[tid] = (Status(status), parsed[cgroup], inodes, commands.get(pid, ()))
        return found


def _namespaces(at: Sequence[bytes]) -> Iterator[_Inodes]:
    """The namespaces of each task by its folder, and those for its children; the same tuple for the same ones."""
    known: dict[tuple[int, ...], _Inodes] = {}
    for row in _core.read_links(tuple(path + b"ns" for path in at), _NAMESPACE_LINKS):
        if row not in known:
            *own, pid, time_ = [None if n in (-EACCES, -EPERM) else max(n, 0) for n in row]
            known[row] = tuple(own), (pid, time_)
        yield known[row]


def _thread_group(tids: Sequence[int]) -> ShareGroup:
    return ShareGroup(Share.THREAD, Answer.SHARED if len(tids) > 1 else Answer.ALONE, tuple(sorted(tids)))


def share_groups(processes: Mapping[int, Sequence[int]]) -> tuple[dict[int, tuple[ShareGroup, ...]], int]:
    """The share group of each task for each of RESOURCES, by tid; and how many kcmp calls that took.

    Args:
        processes: the threads of each process, its first one at the head. A kernel thread is none.
    """
    tids, leaders = array("i"), array("i")
    for threads in processes.values():
        leaders.extend([len(tids)] * len(threads))
        tids.extend(threads)
    try:
        raw, calls, blind = _core.groups(tids.tobytes(), leaders.tobytes(), _KINDS)
    except OSError as e:
        if e.errno == ENOSYS:
            raise Unsupported("kcmp", reason="it was built without CONFIG_KCMP") from None
        raise CloneError(e.errno or 0, step="clone(VM)") from e
    labels = [array("i", one) for one in raw]
    if blind:
        _mark_the_dead(processes, labels)
    columns = [_column(resource, tids, one) for resource, one in zip(RESOURCES, labels, strict=True)]
    return dict(zip(tids, zip(*columns, strict=True), strict=True)), calls


def _mark_the_dead(processes: Mapping[int, Sequence[int]], labels: Sequence[array[int]]) -> None:
    """Where kcmp could not tell them: who has not begun to end by now had a memory, files and a cwd until now."""
    tasks = [(pid, tid) for pid, tids in processes.items() for tid in tids]
    stats = _stats_of(tasks)
    for place, (_, tid) in enumerate(tasks):
        stat = stats.get(tid)
        if stat is None or stat.is_exiting:
            answer = -1 if stat is not None and stat.is_zombie else -4
            for resource, one in zip(RESOURCES, labels, strict=True):
                if resource in Share.VM | Share.FILES | Share.FS and one[place] != _DENIED:
                    one[place] = answer


def _column(resource: Share, tids: array[int], labels: array[int]) -> list[ShareGroup]:
    """The group of each task for one resource."""
    members: dict[int, list[int]] = {}
    for tid, label in zip(tids, labels, strict=True):
        if label >= 0:
            members.setdefault(label, []).append(tid)
    groups = {
        label: ShareGroup(resource, Answer.SHARED if len(found) > 1 else Answer.ALONE, tuple(sorted(found)))
        for label, found in members.items()
    }
    groups.update({label: _NO_GROUP[resource, answer] for label, answer in _ANSWERS.items()})
    return [groups[label] for label in labels]
