"""The switches of clone, their names, and the one table of rules between them.

Nothing here makes a system call. What differs from kernel to kernel comes in as a `Dialect`; `_kernel.dialect()` asks
the running one. Follows clone(2), and the checks in the kernel's fork.c and nsproxy.c.
"""

from __future__ import annotations

import enum
import signal
from errno import EINVAL

from ._errors import ContextError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CSIGNAL = 0xFF
SIGNAL_MAX = 64
OLD_CALL_BITS = 0xFFFFFFFF


class Clone(enum.IntFlag, boundary=enum.KEEP):
    """Every CLONE_* switch by its C name without the prefix; bits without a name are kept. `str()` gives C names."""

    VM = 0x100
    FS = 0x200
    FILES = 0x400
    SIGHAND = 0x800
    PIDFD = 0x1000
    PTRACE = 0x2000
    VFORK = 0x4000
    PARENT = 0x8000
    THREAD = 0x10000
    NEWNS = 0x20000
    SYSVSEM = 0x40000
    SETTLS = 0x80000
    PARENT_SETTID = 0x100000
    CHILD_CLEARTID = 0x200000
    DETACHED = 0x400000
    UNTRACED = 0x800000
    CHILD_SETTID = 0x1000000
    NEWCGROUP = 0x2000000
    NEWUTS = 0x4000000
    NEWIPC = 0x8000000
    NEWUSER = 0x10000000
    NEWPID = 0x20000000
    NEWNET = 0x40000000
    IO = 0x80000000
    NEWTIME = 0x80
    CLEAR_SIGHAND = 1 << 32
    INTO_CGROUP = 1 << 33
    AUTOREAP = 1 << 34
    NNP = 1 << 35
    PIDFD_AUTOKILL = 1 << 36
    EMPTY_MNTNS = 1 << 37

    def __str__(self) -> str:
        return format_flags(int(self))


class Share(enum.IntFlag):
    """What a new task shares with its creator; each member's value is its CLONE_* bit.

    VM: memory. FILES: the file descriptor table. FS: root, working directory and umask. SIGHAND: signal handlers.
    SYSVSEM: the list of semaphore adjustments. IO: the I/O context. THREAD: the process itself (thread group and pid).
    """

    VM = int(Clone.VM)
    FILES = int(Clone.FILES)
    FS = int(Clone.FS)
    SIGHAND = int(Clone.SIGHAND)
    SYSVSEM = int(Clone.SYSVSEM)
    IO = int(Clone.IO)
    THREAD = int(Clone.THREAD)


class Namespace(enum.IntFlag):
    """The eight kinds of namespace; each member's value is its CLONE_NEW* bit (MOUNT is CLONE_NEWNS)."""

    USER = int(Clone.NEWUSER)
    MOUNT = int(Clone.NEWNS)
    PID = int(Clone.NEWPID)
    NET = int(Clone.NEWNET)
    UTS = int(Clone.NEWUTS)
    IPC = int(Clone.NEWIPC)
    CGROUP = int(Clone.NEWCGROUP)
    TIME = int(Clone.NEWTIME)


BITS = {flag.name: int(flag) for flag in Clone if flag.name}
NAMED = sum(BITS.values())

# The Linux release that brought each switch that is younger than clone3's oldest ancestors.
SINCE = {
    Clone.PIDFD: "5.2",
    Clone.CLEAR_SIGHAND: "5.5",
    Clone.NEWTIME: "5.6",
    Clone.INTO_CGROUP: "5.7",
    Clone.AUTOREAP: "7.1",
    Clone.NNP: "7.1",
    Clone.PIDFD_AUTOKILL: "7.1",
    Clone.EMPTY_MNTNS: "7.1",
}

# --- names to numbers and back

_GONE = {
    "PID": "; it left in Linux 2.5.16, and its bit is CLONE_PIDFD now",
    "STOPPED": "; it left in Linux 2.6.38, and its bit is CLONE_NEWCGROUP now",
    "SETTID": "; it became CLONE_PARENT_SETTID in Linux 2.5.49",
}
# The kernel numbers real-time signals from 32; libc's SIGRTMIN is 34, since it keeps two for itself.
_KERNEL_RTMIN = 32


def format_signal(number: int) -> str:
    """A signal's name; real-time ones as strace counts them (SIGRT_2 is libc's SIGRTMIN), others as a number."""
    if _KERNEL_RTMIN <= number <= SIGNAL_MAX:
        return f"SIGRT_{number - _KERNEL_RTMIN}"
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def format_flags(flags: int, exit_signal: int = 0) -> str:
    """The C names in the order of their bits, as strace prints them: "CLONE_VM|CLONE_FS|SIGCHLD".

    Bits without a name come together as one number before the signal; nothing at all is "0".
    """
    words = [f"CLONE_{name}" for name, bit in BITS.items() if flags & bit]
    if flags & ~NAMED:
        words.append(hex(flags & ~NAMED))
    if exit_signal:
        words.append(format_signal(exit_signal))
    return "|".join(words) or "0"


def format_step(call: str, flags: int, **details: object) -> str:
    """The step's name that an error carries: "clone3(NEWUSER|NEWPID, cgroup=/x)"; details that are None are left out."""
    words = [format_flags(flags).replace("CLONE_", "")]
    words += [f"{name}={value}" for name, value in details.items() if value is not None]
    return f"{call}({', '.join(words)})"


def parse_flags(text: str) -> tuple[int, int]:
    """Flags and exit signal from names with or without CLONE_, numbers, or a line of strace's or C's that calls clone.

    A number's low byte stays in the flags: whether it is a signal depends on the call it is meant for.

    Raises:
        ContextError: an unknown name (near ones are offered), two different signals, or nothing at all.
    """
    flags, exit_signal, _ = parse_call(text)
    return flags, exit_signal


def parse_call(text: str) -> tuple[int, int, str | None]:
    """As `parse_flags`, and the call that the text itself names, if it names one; fork and vfork are the old call's."""
    import re

    body = re.sub(r"/\*.*?\*/|<[^<>]*>", " ", text)  # strace's /* CLONE_??? */ and <unfinished ...>
    call = re.search(r"\b(clone3|clone|vfork|fork)\s*\((.*)", body, re.DOTALL)
    if call and call[1].endswith("fork"):
        return int(Clone.VM | Clone.VFORK) if call[1] == "vfork" else 0, int(signal.SIGCHLD), "clone"
    if call:
        body = call[2].rpartition(")")[0] or call[2]
    strace = "flags=" in body
    signals = re.findall(r"\bexit_signal=([\w+-]+)", body)
    body = re.sub(r"\bexit_signal=[\w+-]+", "", body)
    if strace:
        body = " ".join(re.findall(r"\bflags=([^,})]*)", body))
    elif call:
        # C's arguments, or a step's: the first that has flags in it. The rest (a function, a stack) are no words of ours.
        pieces = body.split(",")
        body = next((piece for piece in pieces if re.search(r"\bCLONE_|\bSIG[A-Z]", piece)), pieces[0])
    words = [word for word in re.split(r"[\s|,()]+", body) if word]
    if not words:
        raise ContextError("no flags here: give names (CLONE_VM|CLONE_FS|SIGCHLD), a number, or a line of strace's")
    flags = 0
    for word in words:
        if word.startswith("SIG") and word not in BITS:
            signals.append(word)
        else:
            flags |= _bits(word)
    numbers = {_signal_number(word, _KERNEL_RTMIN if strace else int(signal.SIGRTMIN)) for word in signals} - {0}
    if len(numbers) > 1:
        raise ContextError(f"more than one exit signal: {', '.join(signals)}", field="exit_signal")
    return flags, max(numbers, default=0), (None if call is None else call[1])


def _number(word: str) -> int | None:
    """The word as a number in C's or Python's spelling, or None."""
    try:
        return int(word.rstrip("uUlL") if word[:1].isdigit() else word, 0)
    except ValueError:
        return None


def _bits(word: str) -> int:
    """The bits of one name or number."""
    number = _number(word)
    if number is not None:
        if not 0 <= number < 1 << 64:
            raise ContextError(f"{word} does not fit in 64 bits", field="flags")
        return number
    name = word.upper().removeprefix("CLONE.").removeprefix("SHARE.").removeprefix("CLONE_")
    if name in BITS:
        return BITS[name]
    raise ContextError(f"unknown flag {word!r}{_GONE.get(name) or _near(name, BITS)}", field="flags")


def _signal_number(word: str, rtmin: int) -> int:
    """The number of a signal's name, SIGRT_5, SIGRTMIN+3 and SIGRTMAX-1 included, or of a number's digits."""
    number = _number(word)
    if number is not None:
        return number
    base, sign, offset = word.partition("+") if "+" in word else word.partition("-")
    anchors = {"SIGRTMIN": rtmin, "SIGRTMAX": SIGNAL_MAX}
    if base in anchors and (offset.isdigit() or not sign):
        return anchors[base] + int(f"{sign}{offset or 0}")
    if base.startswith("SIGRT_") and base[6:].isdigit():
        return _KERNEL_RTMIN + int(base[6:])
    if word not in signal.Signals.__members__:
        near = _near(word, [*signal.Signals.__members__, *BITS])
        raise ContextError(f"unknown signal {word!r}{near}", field="exit_signal")
    return int(signal.Signals[word])


def _near(word: str, names: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: the names that resemble it."""
    import difflib

    near = difflib.get_close_matches(word, list(names), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(f'CLONE_{name}' if name in BITS else name for name in near)}?" if near else ""


# --- the rules


class Dialect:
    """What the rules take from the kernel they are asked about. The defaults are the newest kernel's.

    Args:
        known: the bits that its clone3 knows.
        thread_pidfd: CLONE_PIDFD goes with CLONE_THREAD (since Linux 6.9).
        old_call_checks_signal: the old call refuses exit signals above 64 (Linux 7.1, and some stable kernels before it).
    """

    __slots__ = ("known", "old_call_checks_signal", "thread_pidfd")

    def __init__(self, known: int = NAMED, thread_pidfd: bool = True, old_call_checks_signal: bool = True) -> None:
        self.known = known
        self.thread_pidfd = thread_pidfd
        self.old_call_checks_signal = old_call_checks_signal


NEWEST = Dialect()


class Rule:
    """One thing that the kernel refuses.

    Args:
        calls: the calls that refuse it: "clone3", "clone" (the old one), or both.
        flags: the switches that it speaks of; 0 where it is about any bit, or about the signal alone.
        breaks: given flags, exit signal and dialect, what breaks it: bits or a number; 0 where it is kept.
        reason: a sentence. In the table, `{found}` stands for the flags that break it.
        errno: what the kernel answers.
    """

    __slots__ = ("breaks", "calls", "errno", "flags", "reason")

    def __init__(
        self, calls: str, flags: int, breaks: Callable[[int, int, Dialect], int], reason: str, errno: int = EINVAL
    ) -> None:
        self.calls = tuple(calls.split())
        self.flags = Clone(flags)
        self.breaks = breaks
        self.reason = reason
        self.errno = errno

    def __repr__(self) -> str:
        return f"<Rule: {self.reason}>"

    def told(self, found: int) -> Rule:
        """This rule with its reason filled in for the flags that break it."""
        if "{found}" not in self.reason:
            return self
        ages = [f"CLONE_{flag.name} is Linux {since}'s" for flag, since in SINCE.items() if found & flag]
        words = format_flags(found) + (f" ({', '.join(ages)})" if ages else "")
        return Rule(" ".join(self.calls), found, self.breaks, self.reason.format(found=words), self.errno)


def _apart(calls: str, one: Clone, other: Clone, reason: str) -> Rule:
    """Two switches that exclude each other."""
    both = int(one | other)
    return Rule(calls, both, lambda flags, _signal, _dialect: both if flags & both == both else 0, reason)


def _needs(calls: str, one: Clone, other: Clone, reason: str) -> Rule:
    """A switch that needs another."""
    bit, need = int(one), int(other)
    return Rule(
        calls, bit | need, lambda flags, _signal, _dialect: bit if flags & bit and not flags & need else 0, reason
    )


def _silent(calls: str, one: Clone, reason: str) -> Rule:
    """A switch that excludes an exit signal."""
    bit = int(one)
    return Rule(calls, bit, lambda flags, exit_signal, _dialect: exit_signal if flags & bit else 0, reason)


_LOW = CSIGNAL & ~int(Clone.NEWTIME)
_DETACHED = int(Clone.DETACHED)
_THREAD_PIDFD = int(Clone.THREAD | Clone.PIDFD)

# fmt: off
RULES: tuple[Rule, ...] = (
    Rule("clone3", 0, lambda flags, _signal, dialect: flags & ~dialect.known & ~_LOW & ~_DETACHED,
         "This kernel does not know {found}."),
    Rule("clone3", 0, lambda flags, _signal, dialect: flags & ~dialect.known & _LOW,
         "clone3 has a field of its own for the exit signal: the flags' low byte, here {found}, is not for it."),
    Rule("clone3", _DETACHED, lambda flags, _signal, _dialect: flags & _DETACHED,
         "CLONE_DETACHED has meant nothing since Linux 2.6, and clone3 refuses it."),
    Rule("clone3", 0, lambda _flags, exit_signal, _dialect: exit_signal > SIGNAL_MAX,
         "There is no such exit signal: signals end at 64."),
    Rule("clone", 0, lambda _flags, exit_signal, dialect: dialect.old_call_checks_signal and exit_signal > SIGNAL_MAX,
         "There is no such exit signal: signals end at 64, and this kernel checks it in the old call too."),
    _silent("clone3", Clone.THREAD,
            "Nobody is told of a thread's end: with CLONE_THREAD, clone3 takes no exit signal but 0."),
    _silent("clone3", Clone.PARENT,
            "A sibling leaves with the caller's own exit signal: with CLONE_PARENT, clone3 takes none but 0."),
    _needs("clone3 clone", Clone.SIGHAND, Clone.VM,
           "Signal handlers are addresses in memory: CLONE_SIGHAND needs CLONE_VM."),
    _needs("clone3 clone", Clone.THREAD, Clone.SIGHAND,
           "The threads of a process have their signal handlers in common: CLONE_THREAD needs CLONE_SIGHAND."),
    _apart("clone3", Clone.SIGHAND, Clone.CLEAR_SIGHAND,
           "CLONE_CLEAR_SIGHAND would reset the very table of handlers that CLONE_SIGHAND shares."),
    _apart("clone3 clone", Clone.FS, Clone.NEWNS,
           "A root and working directory shared by CLONE_FS cannot lie in two mount namespaces (CLONE_NEWNS)."),
    _apart("clone3 clone", Clone.FS, Clone.NEWUSER,
           "By CLONE_FS the powers inside a new user namespace (CLONE_NEWUSER) would reach the caller's root directory."),
    _apart("clone3 clone", Clone.THREAD, Clone.NEWUSER,
           "All threads of a process are in one user namespace: CLONE_THREAD rules CLONE_NEWUSER out."),
    _apart("clone3 clone", Clone.THREAD, Clone.NEWPID,
           "All threads of a process are in one pid namespace: CLONE_THREAD rules CLONE_NEWPID out."),
    _apart("clone3 clone", Clone.NEWIPC, Clone.SYSVSEM,
           "A new IPC namespace (CLONE_NEWIPC) is out of reach of the semaphores in a shared undo list (CLONE_SYSVSEM)."),
    _apart("clone", Clone.PIDFD, Clone.PARENT_SETTID,
           "The old call has one slot for the pidfd and the parent's tid: CLONE_PIDFD with CLONE_PARENT_SETTID needs clone3."),
    _apart("clone", Clone.PIDFD, Clone.DETACHED,
           "The old call ignores CLONE_DETACHED, but not beside CLONE_PIDFD."),
    Rule("clone3 clone", _THREAD_PIDFD,
         lambda flags, _signal, dialect: flags & _THREAD_PIDFD == _THREAD_PIDFD and not dialect.thread_pidfd,
         "This kernel has no pidfd for a thread: CLONE_PIDFD goes with CLONE_THREAD since Linux 6.9."),
    _apart("clone3", Clone.AUTOREAP, Clone.THREAD,
           "A thread is never waited for: CLONE_THREAD rules CLONE_AUTOREAP out."),
    _apart("clone3", Clone.AUTOREAP, Clone.PARENT,
           "Only the caller's own child can be told to reap itself: CLONE_PARENT rules CLONE_AUTOREAP out."),
    _silent("clone3", Clone.AUTOREAP,
            "A child that reaps itself announces nothing: with CLONE_AUTOREAP, clone3 takes no exit signal but 0."),
    _apart("clone3", Clone.NNP, Clone.THREAD,
           "no_new_privs is set for whole processes here: CLONE_THREAD rules CLONE_NNP out."),
    _needs("clone3", Clone.PIDFD_AUTOKILL, Clone.PIDFD,
           "It is the closing of a pidfd that kills: CLONE_PIDFD_AUTOKILL needs CLONE_PIDFD."),
    _needs("clone3", Clone.PIDFD_AUTOKILL, Clone.AUTOREAP,
           "Who closed the last pidfd will not wait: CLONE_PIDFD_AUTOKILL needs CLONE_AUTOREAP."),
    _apart("clone3", Clone.PIDFD_AUTOKILL, Clone.THREAD,
           "A thread cannot be killed alone: CLONE_THREAD rules CLONE_PIDFD_AUTOKILL out."),
    _apart("clone3", Clone.EMPTY_MNTNS, Clone.FS,
           "A root and working directory shared by CLONE_FS cannot lie in two mount namespaces (CLONE_EMPTY_MNTNS)."),
)
# fmt: on


def as_passed(flags: int, exit_signal: int, call: str) -> tuple[int, int]:
    """Flags and exit signal as the kernel reads them.

    The old call has one word of 32 bits for both, with the signal in its low byte; what is above is cut off.
    """
    if call == "clone3":
        return flags, exit_signal
    word = (flags | exit_signal) & OLD_CALL_BITS
    return word & ~CSIGNAL, word & CSIGNAL


def broken_rules(flags: int, exit_signal: int = 0, call: str = "clone3", dialect: Dialect = NEWEST) -> list[Rule]:
    """The rules that a combination breaks, with their reasons filled in; empty where the kernel takes it.

    Args:
        flags, exit_signal: what is asked for.
        call: "clone3" or "clone".
        dialect: the kernel to ask about; the newest by default, which makes the answer one of the request alone.
    """
    flags, exit_signal = as_passed(flags, exit_signal, call)
    found = ((rule, rule.breaks(flags, exit_signal, dialect)) for rule in RULES if call in rule.calls)
    return [rule.told(bits) for rule, bits in found if bits]
