"""What the files of /proc/PID say: parsers over bytes, which open nothing. Follows proc_pid_stat(5) and its like."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

KERNEL_THREAD: Final = 0x00200000  # PF_KTHREAD in the flags of stat

EXITING: Final = 0x00000004  # PF_EXITING, which is set before anything is given up

# In the order of Namespace.
NAMESPACE_FILES: Final = ("user", "mnt", "pid", "net", "uts", "ipc", "cgroup", "time")
FOR_CHILDREN_FILES: Final = ("pid_for_children", "time_for_children")

_SECCOMP: Final = ("off", "strict", "filter")


class Stat:
    """One line of /proc/PID/stat or /proc/PID/task/TID/stat.

    Attributes:
        tid: its id, as the file has it.
        name: the task's own name, up to 15 bytes.
        state: one letter: R, S, D, T, t, Z, X, I.
        ppid: the parent process; 0 where it is in no pid namespace of the reader's.
        flags: PF_* bits of the kernel's.
        started: clock ticks from boot to its start.
        exit_signal: the signal that its parent gets at its end; 0 for none, -1 for threads.
    """

    __slots__ = ("exit_signal", "flags", "name", "ppid", "started", "state", "tid")

    def __init__(self, line: bytes) -> None:
        # A name may hold blanks and brackets: the last bracket ends it.
        head, _, tail = line.rpartition(b")")
        number, _, name = head.partition(b"(")
        fields = tail.split()
        self.tid: int = int(number)
        self.name: str = name.decode("utf-8", "surrogateescape")
        self.state: str = fields[0].decode()
        self.ppid: int = int(fields[1])
        self.flags: int = int(fields[6])
        self.started: int = int(fields[19])
        self.exit_signal: int = int(fields[35])

    @property
    def is_kernel_thread(self) -> bool:
        """Whether the kernel runs it, and no program."""
        return bool(self.flags & KERNEL_THREAD)

    @property
    def is_exiting(self) -> bool:
        """Whether it has begun to end, or has ended."""
        return bool(self.flags & EXITING)

    @property
    def is_zombie(self) -> bool:
        """Whether it has ended."""
        return self.state in "ZX"


class Status:
    """Some lines of /proc/PID/status; what an old kernel leaves out is None.

    Attributes:
        tgid: the process.
        uid: its effective user.
        pids: its id in each pid namespace from the reader's inwards (Linux 4.1).
        no_new_privs: whether exec can give it no privileges (Linux 4.10).
        seccomp: "off", "strict" or "filter" (Linux 3.8).
    """

    __slots__ = ("no_new_privs", "pids", "seccomp", "tgid", "uid")

    def __init__(self, text: bytes) -> None:
        self.tgid: int = int(_line(text, b"Tgid:") or 0)
        self.uid: int = int((_line(text, b"Uid:") or b"0 0").split()[1])
        self.pids: tuple[int, ...] = tuple(map(int, (_line(text, b"NSpid:") or b"").split()))
        privileges = _line(text, b"NoNewPrivs:")
        self.no_new_privs: bool | None = None if privileges is None else int(privileges) != 0
        mode = _line(text, b"Seccomp:")
        self.seccomp: str | None = None if mode is None else _SECCOMP[min(int(mode), 2)]


def _line(text: bytes, name: bytes) -> bytes | None:
    """What follows a name at the beginning of a line; a task's own name, on the first line, cannot forge one."""
    at = text.find(b"\n" + name)
    if at < 0:
        return None
    begin = at + 1 + len(name)
    end = text.find(b"\n", begin)
    return text[begin : end if end >= 0 else len(text)].strip()


def parse_cgroups(text: bytes) -> dict[str, str]:
    """The path in each hierarchy of /proc/PID/cgroup, by its controllers or name; version 2 is ""."""
    found = {}
    for line in text.decode("utf-8", "surrogateescape").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        found[controllers] = path
    return found


def parse_command(text: bytes) -> tuple[str, ...]:
    """The words of /proc/PID/cmdline; none for kernel threads and zombies."""
    if not text:
        return ()
    return tuple(text.removesuffix(b"\0").decode("utf-8", "surrogateescape").split("\0"))
