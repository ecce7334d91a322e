"""What a look at the tasks of a system finds: plain, immutable data."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from .._flags import Namespace, Share

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

RESOURCES: Final = (Share.VM, Share.FILES, Share.FS, Share.SIGHAND, Share.IO, Share.SYSVSEM)
"""What kcmp tells of, in the order of the marks."""

WORDS: Final = {
    Share.VM: "memory",
    Share.FILES: "file table",
    Share.FS: "cwd",
    Share.SIGHAND: "signal handlers",
    Share.IO: "I/O context",
    Share.SYSVSEM: "undo list",
    Share.THREAD: "process",
}

NAMESPACES: Final = tuple(Namespace)


class Answer(enum.Enum):
    """Whether a task shares a resource.

    SHARED: with other tasks. ALONE: with none that can be seen. NOTHING: it has no such thing, as kernel threads have no
    memory, the dead have no files, and most tasks have no I/O context or undo list: two nothings are no sharing.
    NOT_ALLOWED: the kernel does not let us look. UNSETTLED: it changed faster than it could be looked at.
    """

    SHARED = "shared"
    ALONE = "alone"
    NOTHING = "nothing"
    NOT_ALLOWED = "not allowed"
    UNSETTLED = "unsettled"

    @property
    def is_known(self) -> bool:
        """Whether it is an answer, and not the want of one."""
        return self not in (Answer.NOT_ALLOWED, Answer.UNSETTLED)


@dataclass(frozen=True, slots=True)
class ShareGroup:
    """The tasks that hold one resource in common.

    Args:
        resource: which one.
        answer: whether it is shared, and if nothing is known, why.
        tids: who shares it, in order: one task where it is alone, none where there is nothing or nothing is known.
    """

    resource: Share
    answer: Answer
    tids: tuple[int, ...] = ()

    def __contains__(self, tid: object) -> bool:
        return tid in self.tids

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"answer": self.answer.value, "tids": list(self.tids)}


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """One task, a thread or a process's only one, as it was at the moment of a look.

    Args:
        pid: its process (the thread group's id).
        tid: its own id.
        ppid: the parent of its process; 0 where that is outside of our pid namespace.
        name: its own name (comm).
        command: the words of its process's command line; empty where there is none.
        state: the letter of /proc/PID/stat.
        started: clock ticks from boot to its start: with the tid it names one task for ever.
        uid: its effective user.
        kernel_thread: the kernel runs it, and no program.
        exit_signal: the signal that the parent gets at its end, 0 for none; None for threads.
        no_new_privs: exec can give it no privileges; None where the kernel does not tell.
        seccomp: "off", "strict", "filter"; None where the kernel does not tell.
        cgroups: its path in each cgroup hierarchy, by controllers or name; version 2's is "".
        pids: its id in each pid namespace, from ours inwards.
        groups: its share group for each resource, in the order of RESOURCES, and its thread group.
        inodes: its namespaces' inodes in the order of Namespace; None where we may not look, 0 where it is in none.
        inodes_for_children: of the pid and time namespaces that its children will be in.
    """

    pid: int
    tid: int
    ppid: int
    name: str
    command: tuple[str, ...]
    state: str
    started: int
    uid: int
    kernel_thread: bool
    exit_signal: int | None
    no_new_privs: bool | None
    seccomp: str | None
    cgroups: tuple[tuple[str, str], ...]
    pids: tuple[int, ...]
    groups: tuple[ShareGroup, ...]
    inodes: tuple[int | None, ...]
    inodes_for_children: tuple[int | None, int | None]

    @property
    def is_thread(self) -> bool:
        """Whether it is not its process's first task."""
        return self.tid != self.pid

    @property
    def is_zombie(self) -> bool:
        """Whether it has ended, and what it had is gone."""
        return self.state in "ZX"

    def group(self, resource: Share) -> ShareGroup:
        """Its share group for one resource; THREAD gives its thread group.

        Raises:
            ValueError: not one of the seven.
        """
        if resource is Share.THREAD:
            return self.groups[-1]
        if resource not in RESOURCES:
            raise ValueError(f"{resource!r} is not one resource")
        return self.groups[RESOURCES.index(resource)]

    def shared_with(self, resource: Share) -> tuple[int, ...]:
        """The other tasks that it shares a resource with, in order."""
        return tuple(tid for tid in self.group(resource).tids if tid != self.tid)

    def _which(self, *answers: Answer) -> Share:
        found = Share(0)
        for group in self.groups:
            if group.answer in answers:
                found |= group.resource
        return found

    @property
    def shared(self) -> Share:
        """What it shares with at least one other task."""
        return self._which(Answer.SHARED)

    @property
    def alone(self) -> Share:
        """What it has to itself."""
        return self._which(Answer.ALONE)

    @property
    def nothing(self) -> Share:
        """What it does not have at all."""
        return self._which(Answer.NOTHING)

    @property
    def unknown(self) -> Share:
        """What may not be looked at, or changed too fast for it."""
        return self._which(Answer.NOT_ALLOWED, Answer.UNSETTLED)

    @property
    def namespaces(self) -> dict[Namespace, int | None]:
        """The inode of each of its namespaces; None where we may not look.

        What it is not in is left out: the dead are in few, and an old kernel has not all kinds.
        """
        return {kind: inode for kind, inode in zip(NAMESPACES, self.inodes, strict=True) if inode != 0}

    @property
    def namespaces_for_children(self) -> dict[Namespace, int]:
        """The pid and time namespaces that its children will be in, where those are not its own."""
        pairs = zip((Namespace.PID, Namespace.TIME), self.inodes_for_children, strict=True)
        return {kind: inode for kind, inode in pairs if inode and inode != self.namespaces.get(kind)}

    @property
    def cgroup(self) -> str | None:
        """Its path in the version 2 hierarchy; None where there is none."""
        return dict(self.cgroups).get("")

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data for JSON."""
        return {
            "pid": self.pid,
            "tid": self.tid,
            "ppid": self.ppid,
            "name": self.name,
            "command": list(self.command),
            "state": self.state,
            "started": self.started,
            "uid": self.uid,
            "kernel_thread": self.kernel_thread,
            "exit_signal": self.exit_signal,
            "no_new_privs": self.no_new_privs,
            "seccomp": self.seccomp,
            "cgroup": self.cgroup,
            "cgroups": dict(self.cgroups),
            "pids": list(self.pids),
            "sharing": {str(group.resource.name): group.as_dict() for group in self.groups},
            "namespaces": {str(kind.name): inode for kind, inode in self.namespaces.items()},
            "namespaces_for_children": {str(k.name): inode for k, inode in self.namespaces_for_children.items()},
        }


def names(resources: Share | Namespace) -> list[str]:
    """The names of the members of a set, in the order of the marks."""
    order: tuple[Share | Namespace, ...] = (*RESOURCES, Share.THREAD) if isinstance(resources, Share) else NAMESPACES
    return [str(one.name) for one in order if one & resources]
