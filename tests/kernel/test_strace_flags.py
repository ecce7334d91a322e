"""What reaches the kernel, in strace's words: the flags that were asked for, and named bookkeeping beside them."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from features import requires

pytestmark = requires("strace", "clone3")

EXAMPLES = Path(__file__).parents[2] / "examples"
SECONDS = 50


@dataclass(frozen=True)
class Call:
    """A call as strace saw it."""

    flags: frozenset[str]
    exit_signal: str = "0"


def call(words: str, exit_signal: str = "0") -> Call:
    """A call with these flags, without their prefix."""
    return Call(frozenset(words.split()), exit_signal)


# --- what the library adds to what was asked for, and why

LIGHT = "CHILD_CLEARTID CLEAR_SIGHAND"
"""The word that the parked thread sleeps on; and no handler of the creator's may run in its memory under another pid."""

LIGHT_WITH_THE_HANDLERS = "CHILD_CLEARTID"
"""Handlers that are shared, or that were asked to be kept, are not cleared."""

LIGHT_VFORK = f"{LIGHT} PARENT_SETTID"
"""The pid, known to the child: the creator does not return from the call before the end."""

LIGHT_STARTED = f"{LIGHT} PIDFD"
"""A Task has a pidfd."""

COPIED_RAW = "PIDFD CHILD_SETTID CHILD_CLEARTID"
"""A pidfd; and libc's record of the thread's id, which its own fork renews in this way."""

COPIED_BY_FORK = "CHILD_SETTID CHILD_CLEARTID"
"""libc's own."""

COPIED_FROM_A_FORK = "PARENT CHILD_SETTID CHILD_CLEARTID"
"""Made by an intermediate of libc's fork, and its sibling: so the caller's child, with the signal of that fork."""

PROGRAM = "VM VFORK PIDFD CHILD_CLEARTID CLEAR_SIGHAND"
"""Nothing is copied for a program; its creator sleeps until exec, where the word is cleared; no handler of the creator's
may run before it."""

PROGRAM_WITH_STEPS = PROGRAM.replace("VFORK ", "")
"""The same with steps in the child: its creator's thread has lent it its place, and sleeps on the word of CHILD_CLEARTID."""


NPTL = "VM FS FILES SIGHAND THREAD SYSVSEM SETTLS PARENT_SETTID CHILD_CLEARTID"
"""glibc's pthread_create, to the letter: nothing is added to it."""

HELPER = call(NPTL)
"""A helper thread of the pool, made by glibc for `start`."""

GUARDIAN = call("VM SETTLS CHILD_CLEARTID")
"""The process that kills siblings at the program's end."""

FORK = call(COPIED_BY_FORK, "SIGCHLD")

EVERY_NAMESPACE = "NEWUSER NEWNS NEWPID NEWNET NEWUTS NEWIPC NEWCGROUP"
NEW = "Namespace.USER | Namespace.MOUNT | Namespace.PID | Namespace.NET | Namespace.UTS | Namespace.IPC | Namespace.CGROUP"

CALLS = {
    # light processes
    "Context.light().call(int)": [call(f"VM {LIGHT}", "SIGCHLD")],
    "sysclone.call(int)": [call(f"VM {LIGHT}", "SIGCHLD")],
    "Context.light().start(int).wait()": [HELPER, call(f"VM {LIGHT_STARTED}", "SIGCHLD")],
    "Context(share=Share.VM, timeout=9).call(int)": [HELPER, call(f"VM {LIGHT_STARTED}", "SIGCHLD")],
    "Context.vfork().call(int)": [call(f"VM VFORK {LIGHT_VFORK}", "SIGCHLD")],
    "Context.thread().call(int)": [call(NPTL)],
    "Context.thread().start(int).wait()": [HELPER, call(NPTL)],
    "Context.linuxthreads().call(int)": [call(f"VM FS FILES SIGHAND {LIGHT_WITH_THE_HANDLERS}", "SIGCHLD")],
    "Context(share=Share.VM | Share.FILES).call(int)": [call(f"VM FILES {LIGHT}", "SIGCHLD")],
    "Context(share=Share.VM | Share.IO, exit_signal=0).call(int)": [call(f"VM IO {LIGHT}")],
    "Context(share=Share.VM, clear_signal_handlers=False).call(int)": [
        call(f"VM {LIGHT_WITH_THE_HANDLERS}", "SIGCHLD")
    ],
    "Context(share=Share.VM, parent='sibling').call(int)": [GUARDIAN, call(f"VM PARENT PARENT_SETTID {LIGHT}")],
    "Context(share=Share.VM, exit_signal=SIGURG, untraced=True).call(int)": [call(f"VM UNTRACED {LIGHT}", "SIGURG")],
    # copied processes
    "Context().call(int)": [FORK],
    "Context.fork().call(int)": [FORK],
    "Context.fork().start(int).wait()": [FORK],
    "Context(share=Share.FILES).call(int)": [call(f"FILES {COPIED_RAW}", "SIGCHLD")],
    "Context(exit_signal=SIGURG).call(int)": [call(COPIED_RAW, "SIGURG")],
    "Context(clear_signal_handlers=True).call(int)": [call(f"CLEAR_SIGHAND {COPIED_RAW}", "SIGCHLD")],
    "Context(share=Share.FS | Share.FILES, parent='sibling', exit_signal=SIGCHLD).call(int)": [
        call(f"FS FILES PARENT {COPIED_RAW}", "SIGCHLD")
    ],
    "Context(share=Share.FS | Share.FILES | Share.IO | Share.SYSVSEM).call(int)": [
        call(f"FS FILES IO SYSVSEM {COPIED_RAW}", "SIGCHLD")
    ],
    # programs
    "sysclone.run(['/bin/true'])": [call(PROGRAM, "SIGCHLD")],
    "Context(share=Share.FS).run(['/bin/true'])": [call(f"FS {PROGRAM}", "SIGCHLD")],
    "Context(share=Share.IO).run(['/bin/true'])": [call(f"IO {PROGRAM}", "SIGCHLD")],
    "Context(share=Share.SYSVSEM).run(['/bin/true'])": [call(f"SYSVSEM {PROGRAM}", "SIGCHLD")],
}

CALLS_WITH_NAMESPACES = {
    f"Context(share=Share.VM, new={NEW}).call(int)": [call(f"VM {EVERY_NAMESPACE} {LIGHT}", "SIGCHLD")],
    f"Context(new={NEW}).call(int)": [call(f"{EVERY_NAMESPACE} {COPIED_RAW}", "SIGCHLD")],
    f"sysclone.run(['/bin/true'], context=Context(new={NEW}))": [
        call(f"{EVERY_NAMESPACE} {PROGRAM_WITH_STEPS}", "SIGCHLD")
    ],
    "Context(new=Namespace.USER | Namespace.PID).call(int)": [call(f"NEWUSER NEWPID {COPIED_RAW}", "SIGCHLD")],
    "r, w = os.pipe(); task = sysclone.start(os.read, r, 1); "
    "Context(new=Namespace.USER | Namespace.PID).call(int); os.write(w, b'.'); task.wait()": [
        HELPER,
        call(f"VM {LIGHT_STARTED}", "SIGCHLD"),
        FORK,
        call(f"NEWUSER NEWPID {COPIED_FROM_A_FORK}"),
    ],
}


def traced(directory: Path, *arguments: str) -> list[Call]:
    """Every clone and clone3 of a Python program and of what it starts, in order."""
    log = directory / "log"
    strace = ["strace", "-f", "-qq", "-o", str(log), "-e", "trace=clone,clone3", "-e", "signal=none"]
    python = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run([*strace, *python], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return [parsed(line) for line in log.read_text().splitlines() if re.search(r"\bclone3?\(", line)]


def parsed(line: str) -> Call:
    """A line of strace's; the old call has its signal among the flags, clone3 in a field."""
    found = re.search(r"\bflags=([^,}) ]*)", line)
    assert found, line
    words = [word for word in found[1].split("|") if word != "0"]
    field = re.search(r"\bexit_signal=(\w+)", line)
    signals = [word for word in words if word.startswith("SIG")]
    flags = frozenset(word.removeprefix("CLONE_") for word in words if word not in signals)
    return Call(flags, field[1] if field else (signals or ["0"])[0])


NAMES = "import os, sysclone; from signal import SIGCHLD, SIGURG; from sysclone import Context, Namespace, Share"


def program(statement: str) -> str:
    """A statement with the names it needs."""
    return f"{NAMES}\n{statement}"


def test_strace_lines_are_understood():
    """The parser reads both calls, a call without flags, and one that strace shows in two halves."""
    old = "7 clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD, child_tidptr=0x7f) = 8"
    new = "7 clone3({flags=CLONE_VM|CLONE_FS, child_tid=0x7f, exit_signal=SIGUSR1, stack=0x7f, stack_size=0x8}, 88) = 8"
    bare = "7 clone3({flags=0, exit_signal=0}, 88) = 8"
    half = "7 clone3({flags=CLONE_VM|0x4000000000, exit_signal=SIGCHLD, stack=0x7f} <unfinished ...>"

    assert parsed(old) == call("CHILD_SETTID CHILD_CLEARTID", "SIGCHLD")
    assert parsed(new) == call("VM FS", "SIGUSR1")
    assert parsed(bare) == call("")
    assert parsed(half) == call("VM 0x4000000000", "SIGCHLD")


@pytest.mark.parametrize("statement", CALLS)
def test_flags_are_those_asked_for(statement, tmp_path):
    """The library makes the calls of the table, with its flags and exit signals, and no other."""
    assert traced(tmp_path, "-c", program(statement)) == CALLS[statement]


@requires("user_namespaces")
@pytest.mark.parametrize("statement", CALLS_WITH_NAMESPACES, ids=range(len(CALLS_WITH_NAMESPACES)))
def test_namespaces_are_those_asked_for(statement, tmp_path):
    """Namespaces are asked of the clone itself, from a program with threads too."""
    assert traced(tmp_path, "-c", program(statement)) == CALLS_WITH_NAMESPACES[statement]


def test_asked_for_is_what_a_context_prints(tmp_path):
    """A Context's own text is strace's line for it, less the bookkeeping."""
    told = tmp_path / "told"
    make = "context = Context(share=Share.FS | Share.FILES, exit_signal=SIGURG)"
    tell = f"with open({str(told)!r}, 'w') as file: file.write(str(context))"
    [made] = traced(tmp_path, "-c", program(f"{make}\n{tell}\ncontext.call(int)"))
    *flags, exit_signal = told.read_text().split("|")

    assert made == Call(frozenset(word.removeprefix("CLONE_") for word in flags) | set(COPIED_RAW.split()), exit_signal)


def test_sums_of_the_array(tmp_path):
    """Threads are cloned with NPTL's flags, processes with fork's, and light processes with CLONE_VM and SIGCHLD."""
    calls = traced(tmp_path, str(EXAMPLES / "sum_array.py"), "2")
    forks = [i for i, one in enumerate(calls) if one == FORK]

    assert len(forks) == 2
    assert set(calls[: forks[0]]) == {call(NPTL)}
    assert set(calls[forks[1] + 1 :]) - {HELPER} == {call(f"VM {LIGHT_STARTED}", "SIGCHLD")}
