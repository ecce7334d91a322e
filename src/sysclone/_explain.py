"""What a set of switches shares, copies and makes new, what of that lasts through exec, and whether the kernel takes it.

The verdict is the running kernel's on the combination of switches and exit signal, its rules being those of `_flags`.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from signal import SIGCHLD, SIGKILL, SIGSTOP

from ._errors import ContextError, error_name
from ._flags import (
    CSIGNAL,
    NAMED,
    OLD_CALL_BITS,
    SIGNAL_MAX,
    Clone,
    Dialect,
    as_passed,
    broken_rules,
    format_flags,
    format_signal,
    parse_call,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, Protocol

    class HasFlags(Protocol):
        """A Context, or anything else that says which flags it stands for."""

        @property
        def flags(self) -> int: ...
        @property
        def exit_signal(self) -> int | None: ...


SHARED: Final = "shared"
COPIED: Final = "copied"
NEW: Final = "new"
RESET: Final = "reset"

# The least that a kernel with clone3 knows, and all that one could: where they agree, there is nothing to ask the running one.
_LEAST: Final = Dialect(known=0xFFFFFF00, thread_pidfd=False, old_call_checks_signal=False)
_MOST: Final = Dialect(known=(1 << 64) - 1)


@dataclass(frozen=True)
class Resource:
    """One thing that a new task shares with its creator, or has of its own.

    Args:
        name: "memory", "file table", ... "user namespace".
        switch: the switches that decide.
        fate: "shared", "copied", "new" or "reset".
        text: what that means, for a person.
        after_exec: the same word for what it is once the task has started a program.
        exec_text: what happens to it then.
    """

    name: str
    switch: Clone
    fate: str
    text: str
    after_exec: str
    exec_text: str

    def as_dict(self) -> dict[str, str]:
        """Plain data for JSON."""
        return {**vars(self), "switch": str(self.switch)}


@dataclass(frozen=True)
class Explanation:
    """What a combination of switches means, and whether the kernel takes it.

    Args:
        flags: the switches as asked for.
        exit_signal: the exit signal as asked for; 0 is none.
        call: "clone3" or "clone".
        valid: whether the kernel takes it.
        errno: the kernel's answer: 0 where it takes it.
        reasons: a sentence for each rule that is broken; empty where it is valid.
    """

    flags: Clone
    exit_signal: int
    call: str
    valid: bool
    errno: int
    reasons: list[str]

    def __hash__(self) -> int:
        return hash((self.flags, self.exit_signal, self.call, self.errno))

    @functools.cached_property
    def resources(self) -> dict[str, Resource]:
        """Each resource by its name, in the order to read them in; as if the kernel took an invalid combination."""
        flags, exit_signal = as_passed(int(self.flags), self.exit_signal, self.call)
        return {row.name: row for row in _resources(flags, exit_signal)}

    @functools.cached_property
    def warnings(self) -> list[str]:
        """What is legal and not what it seems; empty where the combination is invalid."""
        return _warnings(int(self.flags), self.exit_signal, self.call) if self.valid else []

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data for JSON."""
        return {
            "call": self.call,
            "flags": int(self.flags),
            "names": format_flags(int(self.flags)),
            "exit_signal": self.exit_signal,
            "exit_signal_name": format_signal(self.exit_signal) if self.exit_signal else None,
            "valid": self.valid,
            "errno": self.errno,
            "reasons": list(self.reasons),
            "warnings": list(self.warnings),
            "resources": [row.as_dict() for row in self.resources.values()],
        }

    def _asked(self) -> str:
        if self.call == "clone":
            return f"clone({format_flags(int(self.flags), self.exit_signal)})"
        signal = format_signal(self.exit_signal) if self.exit_signal else "0"
        return f"clone3({format_flags(int(self.flags))}, exit_signal={signal})"

    def __str__(self) -> str:
        verdict = "the kernel takes it" if self.valid else f"{error_name(self.errno)} {os.strerror(self.errno)}"
        lines = [f"{self._asked()}: {verdict}", *(f"  {reason}" for reason in self.reasons)]
        if self.valid:
            rows = [row for row in self.resources.values() if row.text != _THE_CALLERS]
            width = max(len(row.name) for row in rows)
            lines += ["", f"  {'':{width}}  at clone  after exec"]
            lines += [f"  {row.name:{width}}  {row.fate:8}  {row.after_exec:10}  {row.text}" for row in rows]
            others = [
                name.removesuffix(" namespace") for name, row in self.resources.items() if row.text == _THE_CALLERS
            ]
            if others:
                lines.append(f"  {'namespaces':{width}}  {SHARED:8}  {SHARED:10}  the caller's: {', '.join(others)}")
            lasting = [row for row in rows if row.fate == SHARED and row.exec_text != _STAYS]
            lines += ["", *(f"  exec, {row.name}: {row.exec_text}" for row in lasting)] if lasting else []
        if self.warnings:
            lines += ["", *(f"  note: {warning}" for warning in self.warnings)]
        return "\n".join(lines)


def explain(what: int | str | HasFlags, exit_signal: int | None = None, call: str | None = None) -> Explanation:
    """What clone would do with a set of switches, and whether the running kernel takes them.

    The verdict is about the combination of switches and exit signal. Beyond it are the caller's permissions, limits and
    circumstances (privilege for namespaces, RLIMIT_NPROC, a seccomp filter, being pid 1) and the other arguments (stack,
    tid, cgroup): what the kernel says about those comes as a CloneError with a hint.

    Where kernels differ, the running one is asked once, by a few children that share memory and exit at once.

    Args:
        what: flags as a number (for the old call, with the signal in its low byte); names with or without CLONE_ and
            numbers, separated by "|" or ","; a line of strace or C that calls clone, clone3, fork or vfork; or a
            Context, or anything with `flags` and `exit_signal`.
        exit_signal: the exit signal. None takes it from the text or the Context, where None means SIGCHLD, or 0 for
            siblings and threads; 0 with a number.
        call: "clone3" or "clone", the old call. None takes it from the text or the Context, or else clone3.

    Returns:
        An Explanation; `print` it to read it.

    Raises:
        ContextError: an unknown name, a number out of range, or two different exit signals.

    Follows clone(2).
    """
    flags, named_signal, named_call = _request(what)
    call = call or named_call or "clone3"
    if call not in ("clone3", "clone"):
        raise ContextError(f"call={call!r}: 'clone3' or 'clone' is needed", field="call")
    if exit_signal is None:
        exit_signal = named_signal
    elif named_signal not in (0, exit_signal) and isinstance(what, str):
        told = f"{format_signal(named_signal)} and {format_signal(exit_signal)}"
        raise ContextError(f"two exit signals: {told}", field="exit_signal")
    exit_signal = int(exit_signal)
    if not 0 <= flags < 1 << 64:
        raise ContextError(f"{flags:#x} does not fit in 64 bits", field="flags")
    if not 0 <= exit_signal < (1 << 64 if call == "clone3" else CSIGNAL + 1):
        raise ContextError(f"exit_signal={exit_signal}: {call} has no room for it", field="exit_signal")
    broken = broken_rules(flags, exit_signal, call, _LEAST)
    if [rule.reason for rule in broken] != [rule.reason for rule in broken_rules(flags, exit_signal, call, _MOST)]:
        from ._kernel import dialect

        broken = broken_rules(flags, exit_signal, call, dialect())
    return Explanation(
        flags=Clone(flags),
        exit_signal=exit_signal,
        call=call,
        valid=not broken,
        errno=broken[0].errno if broken else 0,
        reasons=[rule.reason for rule in broken],
    )


def _request(what: int | str | HasFlags) -> tuple[int, int, str | None]:
    """Flags, exit signal, and the call if it is told."""
    if isinstance(what, str):
        return parse_call(what)
    if isinstance(what, int):
        return int(what), 0, None
    try:
        flags, exit_signal = int(what.flags), what.exit_signal
    except (AttributeError, TypeError, ValueError):
        raise ContextError(f"{what!r}: a number, a text or a Context is needed", field="what") from None
    if exit_signal is None:
        exit_signal = 0 if flags & (Clone.PARENT | Clone.THREAD) else int(SIGCHLD)
    call = getattr(what, "call_name", None) or getattr(what, "call", None)
    return flags, int(exit_signal), call if isinstance(call, str) else None


# --- resources

_STAYS = "stays as it is"
_THE_CALLERS = "the caller's"

# name, switch, (fate, text) with the switch, (fate, text) without, the same for exec.
# fmt: off
_PLAIN: tuple[tuple[str, Clone, tuple[str, str], tuple[str, str], tuple[str, str], tuple[str, str]], ...] = (
    ("memory", Clone.VM,
     (SHARED, "one address space: each sees what the other writes"),
     (COPIED, "a copy, made page by page at the first write"),
     (NEW, "the program gets an address space of its own"),
     (NEW, "the program gets an address space of its own")),
    ("file table", Clone.FILES,
     (SHARED, "one table: a descriptor that either opens or closes is so for both"),
     (COPIED, "a table of its own; the open files behind it, and their offsets, are the same"),
     (COPIED, "unshared into a copy, then close-on-exec descriptors are closed"),
     (COPIED, "close-on-exec descriptors are closed")),
    ("fs", Clone.FS,
     (SHARED, "one root, working directory and umask: a chdir by either moves both"),
     (COPIED, "a root, working directory and umask of its own"),
     (SHARED, "stays shared: a program's chdir moves the creator; set-user-ID programs run without their privilege"),
     (COPIED, _STAYS)),
    ("SysV undo list", Clone.SYSVSEM,
     (SHARED, "one list of semaphore adjustments, made when its last user ends"),
     (NEW, "an empty list of semaphore adjustments"),
     (SHARED, "stays shared"),
     (NEW, _STAYS)),
    ("I/O context", Clone.IO,
     (SHARED, "one I/O context, if the caller has one by now (from ioprio_set, or an I/O scheduler)"),
     (NEW, "an I/O context of its own, with the caller's I/O priority"),
     (SHARED, "stays shared"),
     (NEW, _STAYS)),
    ("TLS", Clone.SETTLS,
     (NEW, "the thread pointer that was given"),
     (COPIED, "the caller's thread pointer"),
     (NEW, "the program sets its own"),
     (NEW, "the program sets its own")),
    ("cgroup", Clone.INTO_CGROUP,
     (NEW, "starts in the given cgroup (version 2)"),
     (SHARED, "starts in the caller's cgroups"),
     (NEW, _STAYS),
     (SHARED, _STAYS)),
)
# fmt: on

_KINDS = {
    "user namespace": (Clone.NEWUSER, "ids and capabilities of its own; its ids are 65534 until its maps are written"),
    "mount namespace": (Clone.NEWNS, "a copy of the mount tree, whose mounts are its own from here on"),
    "pid namespace": (
        Clone.NEWPID,
        "it is pid 1 there: its end ends all others, and signals without a handler miss it",
    ),
    "net namespace": (Clone.NEWNET, "network devices of its own, with lo alone and down"),
    "uts namespace": (Clone.NEWUTS, "a hostname of its own, the caller's at first"),
    "ipc namespace": (Clone.NEWIPC, "System V objects and POSIX message queues of its own, none at first"),
    "cgroup namespace": (Clone.NEWCGROUP, "its own cgroup is the root that it sees"),
    "time namespace": (Clone.NEWTIME, "offsets of its own for the monotonic and boot-time clocks"),
}


def _resources(flags: int, exit_signal: int) -> list[Resource]:
    """Every row; the signal handlers and whose child it is follow what they resemble."""
    rows = []
    for name, switch, given, absent, exec_given, exec_absent in _PLAIN:
        fate, after = (given, exec_given) if flags & switch else (absent, exec_absent)
        rows.append(Resource(name, switch, *fate, *after))
    rows[3:3] = [_handlers(flags), _signal_stack(flags)]
    return [*rows, _group(flags), _parent(flags), _exit_signal(flags, exit_signal), *_namespaces(flags)]


def _handlers(flags: int) -> Resource:
    if flags & Clone.SIGHAND:
        fate, text = SHARED, "one table: a handler that either sets is so for both; masks and pending signals are apart"
    elif flags & Clone.CLEAR_SIGHAND:
        fate, text = RESET, "handlers back to the default; ignored signals stay ignored"
    else:
        fate, text = COPIED, "a table of its own"
    after = "handlers back to the default, in a table of its own; ignored signals stay ignored"
    return Resource("signal handlers", Clone.SIGHAND | Clone.CLEAR_SIGHAND, fate, text, RESET, after)


def _signal_stack(flags: int) -> Resource:
    if flags & (Clone.VM | Clone.VFORK) == Clone.VM:
        fate, text = RESET, "switched off, since two tasks cannot use one"
    else:
        fate, text = COPIED, "the caller's, at the same address"
    return Resource("alternate signal stack", Clone.VM | Clone.VFORK, fate, text, RESET, "switched off")


def _group(flags: int) -> Resource:
    if flags & Clone.THREAD:
        after = "the program takes over the whole process and its pid; the other threads end"
        return Resource("process", Clone.THREAD, SHARED, "a thread of the caller's: same pid, own tid", SHARED, after)
    return Resource("process", Clone.THREAD, NEW, "a process of its own: its pid is its tid", NEW, _STAYS)


def _parent(flags: int) -> Resource:
    switch = Clone.PARENT | Clone.THREAD
    if flags & Clone.THREAD:
        return Resource("parent", switch, SHARED, "the caller's process's; nobody waits for a thread", SHARED, _STAYS)
    if flags & Clone.PARENT:
        return Resource("parent", switch, SHARED, "the caller's parent, who alone can wait for it", SHARED, _STAYS)
    return Resource("parent", switch, NEW, "the caller itself", NEW, _STAYS)


def _exit_signal(flags: int, exit_signal: int) -> Resource:
    switch = Clone.PARENT | Clone.THREAD
    if flags & Clone.THREAD:
        fate, text = RESET, "none: nobody is told when a thread ends"
    elif flags & Clone.PARENT:
        fate, text = SHARED, "the signal that the caller itself leaves with"
    elif exit_signal and exit_signal <= SIGNAL_MAX:
        fate, text = NEW, f"{format_signal(exit_signal)} to the parent"
    else:
        fate, text = NEW, "none: the parent is not told, and waits with __WALL or __WCLONE"
    return Resource("exit signal", switch, fate, text, RESET, "SIGCHLD, whatever it was")


def _namespaces(flags: int) -> list[Resource]:
    rows = []
    for name, (switch, text) in _KINDS.items():
        fate, after, exec_text = (NEW, NEW, _STAYS) if flags & switch else (SHARED, SHARED, _STAYS)
        if switch == Clone.NEWTIME and flags & switch and flags & Clone.VM:
            # The clock page is mapped in memory, so a task moves only with an address space of its own.
            fate, text, exec_text = (
                SHARED,
                "the caller's until exec; for its own children the new one",
                "enters the new one",
            )
        rows.append(Resource(name, switch, fate, text if flags & switch else _THE_CALLERS, after, exec_text))
    return rows


# --- warnings


def _warnings(flags: int, exit_signal: int, call: str) -> list[str]:
    taken, signal = as_passed(flags, exit_signal, call)
    found = _old_call_warnings(flags, exit_signal, taken, signal) if call == "clone" else []
    found += _signal_warnings(taken, signal)
    found += [text for given, missing, text in _LEGAL if taken & given == given and not taken & missing]
    nameless = taken & ~NAMED
    if nameless:
        found.append(f"The kernel knows {nameless:#x}, and sysclone does not: the rows above may not be all.")
    return found


def _old_call_warnings(flags: int, exit_signal: int, taken: int, signal: int) -> list[str]:
    found = []
    cut = flags & ~OLD_CALL_BITS
    if cut:
        found.append(f"The old call has 32 bits: {format_flags(cut)} is cut off, and does nothing.")
    if flags & CSIGNAL & ~exit_signal:
        low = format_flags(flags & CSIGNAL)
        found.append(
            f"The old call's low byte is the exit signal: {low} is read as such, {format_signal(signal)} in all."
        )
    if signal and taken & (Clone.PARENT | Clone.THREAD):
        who = "A thread leaves with none" if taken & Clone.THREAD else "A sibling leaves with the caller's own"
        found.append(f"The old call takes {format_signal(signal)} here and ignores it. {who}.")
    if signal > SIGNAL_MAX:
        found.append(f"{signal} is no signal: this kernel takes it in the old call, and sends nothing.")
    if taken & Clone.DETACHED:
        found.append("The old call ignores CLONE_DETACHED.")
    return found


def _signal_warnings(taken: int, signal: int) -> list[str]:
    if taken & (Clone.PARENT | Clone.THREAD | Clone.AUTOREAP) or signal == SIGCHLD:
        return []
    found = ["Without SIGCHLD as exit signal, wait finds it with __WALL or __WCLONE alone, until it starts a program."]
    if signal in (SIGKILL, SIGSTOP):
        verb = "kills" if signal == SIGKILL else "stops"
        found.append(f"{format_signal(signal)} as exit signal {verb} the parent when the task ends.")
    return found


# (all of these, none of those, what is told then)
# fmt: off
_LEGAL: Final[tuple[tuple[int, int, str], ...]] = (
    (Clone.VM, Clone.VFORK,
     "Two tasks in one memory run at once: in a raw call the new one needs a stack of its own."),
    (Clone.VM, Clone.VFORK | Clone.SETTLS,
     "Both tasks have one thread pointer, and so one errno: libc and Python cannot run in both at the same time."),
    (Clone.VM | Clone.VFORK, 0,
     "The caller sleeps until the new task ends or starts a program, and no signal but SIGKILL reaches it."),
    (Clone.VFORK, Clone.VM,
     "The caller sleeps until the new task ends or starts a program, though they share no memory."),
    (Clone.SIGHAND | Clone.NEWPID, 0,
     "When the init of a pid namespace ends, the kernel sets SIGCHLD to ignored in its handler table: also the caller's."),
    (Clone.NEWTIME | Clone.VM, 0,
     "With shared memory, the task enters its new time namespace when it starts a program, not before."),
    (Clone.CHILD_CLEARTID, Clone.VM,
     "CLONE_CHILD_CLEARTID without CLONE_VM does nothing: the word is cleared only in memory that another task uses."),
    (Clone.PARENT, Clone.THREAD,
     "The caller cannot wait for a sibling: its wait says ECHILD."),
    (Clone.PTRACE, 0,
     "CLONE_PTRACE matters only while the caller itself is traced."),
)
# fmt: on
