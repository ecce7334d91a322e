"""Why a program died, in words: what the kernel tells, and no more.

A signal's sender is told to its receiver alone. So the one who sent it is known where it was this program, or where the
kernel's own reasons can be seen: a limit that was reached, a counter of a cgroup, a seccomp filter, a line of its log.
"""

from __future__ import annotations

import os
import re
import signal

from .. import _core
from .._inspect.proc import Status as ProcStatus
from .._task.status import Status, signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_P_PIDFD: Final = 3
_WALL: Final = 0x40000000
# What is looked at before the last of a program is gone, for the signals that the kernel may have sent for it.
_TOLD_BY_REMAINS: Final = {signal.SIGKILL, signal.SIGXCPU, signal.SIGXFSZ, signal.SIGSYS}
_FAULTS: Final = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP}
# The first pid namespace's inode: only there does the kernel's log have the same numbers.
_FIRST_PID_NAMESPACE: Final = 0xEFFFFFFC
_PLAIN: Final = {
    signal.SIGABRT: "it gave up by itself: abort(3), as a failed assertion does",
    signal.SIGPIPE: "it wrote to a pipe or a socket that nobody reads any more",
    signal.SIGALRM: "likely a timer of its own",
    signal.SIGHUP: "its terminal or session may have gone",
    signal.SIGINT: "Ctrl-C at its terminal sends it, and others may",
    signal.SIGQUIT: "Ctrl-\\ at its terminal sends it, and others may",
}
# The limit is kept by ticks of the clock, and what was used is told by the scheduler.
_NEARLY: Final = 0.75
_UNKNOWN: Final = "by whom is unknown: the kernel tells the receiver alone"


class Cause:
    """Why a program ended.

    Attributes:
        kind: "exit", "signal", "oom" (the kernel killed it for memory), "cpu limit", "file size limit", "seccomp",
            "fault" (it touched what it may not), or "unknown".
        by: who sent the signal: "this program", "the kernel", or None where nobody tells.
        status: how it ended.
        evidence: what says so: a line of the kernel's log, a counter, a limit; empty where the status says all.
    """

    __slots__ = ("_words", "by", "evidence", "kind", "status")

    kind: str
    by: str | None
    status: Status
    evidence: str

    def __init__(self, kind: str, status: Status, words: str = "", by: str | None = None, evidence: str = "") -> None:
        self.kind = kind
        self.status = status
        self.by = by
        self.evidence = evidence
        self._words = words

    def __str__(self) -> str:
        return f"{self.status}: {self._words}" if self._words else str(self.status)

    def __repr__(self) -> str:
        return f"<Cause {self.kind}: {self}>"


class Remains:
    """What a zombie still tells: its limits, and whether it had a seccomp filter."""

    __slots__ = ("cpu_limits", "seccomp")

    def __init__(self, cpu_limits: tuple[float, float], seccomp: str | None) -> None:
        self.cpu_limits = cpu_limits
        self.seccomp = seccomp


def look_at(pidfd: int, pid: int) -> Remains | None:
    """Wait for the end of a child without reaping it, and read what its reaping takes away.

    By number, which is its own until it is reaped. None where the status says all, and where it is not ours.
    """
    try:
        answer = _core.waitid(_P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT | _WALL)
        if answer is None or answer[4] == os.CLD_EXITED or answer[3] not in _TOLD_BY_REMAINS:
            return None
        with open(f"/proc/{pid}/limits", encoding="ascii") as file:
            line = next((line for line in file if line.startswith("Max cpu time")), "Max cpu time inf inf")
        soft, hard = (float(word.replace("unlimited", "inf")) for word in line.split()[3:5])
        with open(f"/proc/{pid}/status", "rb") as raw:
            return Remains((soft, hard), ProcStatus(raw.read()).seccomp)
    except Exception:  # at the interpreter's end not even `open` is there
        return None


def find_cause(
    status: Status, pid: int, started: float, sent: int | None, seconds: float | None, remains: Remains | None, oom: str
) -> Cause:
    """Why a program ended.

    Args:
        status: how it ended.
        pid: its pid, for the kernel's log.
        started: time.monotonic() before it began: older lines of the log are another's.
        sent: the last signal that this program sent it.
        seconds: the CPU time that it used, if that was seen.
        remains: what was seen of it before it was reaped.
        oom: what a counter of its cgroup says, if that has grown since.
    """
    if not status.known:
        return Cause("unknown", status)
    number = status.signal
    if number is None:
        return Cause("exit", status)
    if number == sent:
        return Cause("signal", status, f"this program sent {signal_name(number)}", by="this program")
    soft, hard = remains.cpu_limits if remains is not None else (float("inf"), float("inf"))
    # The kernel has moved the soft limit up by a second when it sends SIGXCPU.
    if number == signal.SIGXCPU and seconds is not None and seconds >= _NEARLY * (soft - 1):
        return _limit(status, "soft", soft - 1, seconds)
    if number == signal.SIGXFSZ:
        words = "it made a file larger than its limit (RLIMIT_FSIZE)"
        return Cause("file size limit", status, words, by="the kernel")
    if number == signal.SIGSYS and remains is not None and remains.seccomp not in (None, "off"):
        evidence = _log(pid, started, r"type=1326 .*\bpid={pid}\b") or "/proc/PID/status: Seccomp: 2"
        call = re.search(r"syscall=(\d+)", evidence)
        words = "its seccomp filter refused " + (f"system call {call[1]}" if call else "a system call")
        return Cause("seccomp", status, words, by="the kernel", evidence=evidence)
    if number in _FAULTS:
        return _fault(status, pid, started)
    if number == signal.SIGKILL:
        return _killed(status, pid, started, hard, seconds, oom)
    return Cause("signal", status, _PLAIN.get(signal.Signals(number) if number < 32 else None, _UNKNOWN))  # type: ignore[arg-type]


def _limit(status: Status, which: str, limit: float, seconds: float) -> Cause:
    words = f"its CPU time was used up: {seconds:.2f} s, and the {which} limit (RLIMIT_CPU) is {limit:.0f} s"
    return Cause("cpu limit", status, words, by="the kernel", evidence=f"RLIMIT_CPU {limit:.0f}")


def _killed(status: Status, pid: int, started: float, hard: float, seconds: float | None, oom: str) -> Cause:
    line = _log(pid, started, r"[Oo]ut of memory.*Killed process {pid} |Killed process {pid} .*")
    if line:
        where = "its cgroup had no memory left" if "cgroup" in line else "the machine had no memory left"
        return Cause("oom", status, f"{where}, and the kernel chose it", by="the kernel", evidence=line)
    if oom:
        words = "its cgroup had no memory left, and the kernel killed a task there"
        return Cause("oom", status, words, by="the kernel", evidence=oom)
    if seconds is not None and seconds >= _NEARLY * hard:
        return _limit(status, "hard", hard, seconds)
    return Cause("signal", status, _UNKNOWN)


def _fault(status: Status, pid: int, started: float) -> Cause:
    line = _log(pid, started, r"\[{pid}\].*(segfault|trap|general protection|error|fault).*")
    words = "it touched memory or ran code that it may not, or sent itself the signal"
    if line:
        words = line.partition("]: ")[2] or line
    return Cause("fault" if line else "signal", status, words, by="the kernel" if line else None, evidence=line)


def _log(pid: int, started: float, pattern: str) -> str:
    """The last line of the kernel's log about a process; nothing where the log, or the number in it, is not for us."""
    try:
        if os.stat("/proc/self/ns/pid").st_ino != _FIRST_PID_NAMESPACE:
            return ""
        fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    found, wanted = "", re.compile(pattern.replace("{pid}", str(pid)))
    try:
        while True:
            try:
                record = os.read(fd, 8192).decode("utf-8", "replace")
            except BrokenPipeError:
                continue  # overwritten while it was read: the next one
            head, _, text = record.partition(";")
            line = text.partition("\n")[0]
            # The log's clock and ours drift apart by no more than this.
            if int(head.split(",")[2]) / 1e6 >= started - 2 and wanted.search(line):
                found = line
    except (OSError, ValueError, IndexError):
        return found
    finally:
        os.close(fd)
