"""Session, process group and terminal of the calling task; whose death ends it; who it is in the kernel's keyrings.

Each function is one step of a child's set-up, and raises OSError.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct

from .. import _core
from .raw import at_path, close, with_fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from .._context.description import Description
    from .steps import Step

# asm-generic/ioctls.h
_TIOCSCTTY: Final = 0x540E
_TIOCSPGRP: Final = 0x5410
_PR_SET_PDEATHSIG: Final = 1
_KEYCTL_JOIN_SESSION_KEYRING: Final = 1
_SIG_BLOCK: Final = 0
_SIG_SETMASK: Final = 2


def steps(context: Description) -> list[Step]:
    """Session, group, terminal: paths are as the creator sees them, so before any change of root."""
    found: list[Step] = []
    if context.session:
        found.append(("setsid", lead_session, ()))
    if context.process_group is not None:
        found.append((f"setpgid({context.process_group})", join_group, (context.process_group,)))
    if context.controlling_terminal is not None:
        name = f"ioctl(TIOCSCTTY, {context.controlling_terminal})"
        found.append((name, take_terminal, (context.controlling_terminal,)))
    if context.foreground is not None:
        found.append((f"ioctl(TIOCSPGRP, {context.foreground})", come_to_the_front, (context.foreground,)))
    return found


def late_steps(context: Description) -> list[Step]:
    """The session keyring, which belongs to who makes it, so after the ids; the personality."""
    found: list[Step] = []
    if context.keyring is not None:
        name = f"keyctl(JOIN_SESSION_KEYRING, {context.keyring or 'unnamed'})"
        found.append((name, join_keyring, (os.fsencode(context.keyring) or None,)))
    if context.personality is not None:
        found.append((f"personality({context.personality:#x})", set_personality, (context.personality,)))
    return found


def lead_session() -> None:
    """setsid(2)."""
    _core.syscall("setsid")


def join_group(group: int) -> None:
    """setpgid(2): 0 is a group of one's own."""
    _core.syscall("setpgid", 0, group)


def take_terminal(terminal: str | int) -> None:
    """TIOCSCTTY: the controlling terminal of a session that has none. One that another session has is not stolen."""
    with_fd(terminal, os.O_RDWR | os.O_NOCTTY, lambda fd: _core.syscall("ioctl", fd, _TIOCSCTTY, 0))


def come_to_the_front(terminal: str | int) -> None:
    """TIOCSPGRP: the terminal's foreground group is one's own.

    Who asks from the background is stopped by SIGTTOU unless that is blocked.
    """
    group, before = struct.pack("i", _core.syscall("getpgid", 0)), bytearray(8)
    _core.syscall("rt_sigprocmask", _SIG_BLOCK, struct.pack("Q", 1 << (signal.SIGTTOU - 1)), before, 8)
    try:
        with_fd(terminal, os.O_RDWR | os.O_NOCTTY, lambda fd: _core.syscall("ioctl", fd, _TIOCSPGRP, group))
    finally:
        _core.syscall("rt_sigprocmask", _SIG_SETMASK, before, None, 8)


def join_keyring(name: bytes | None) -> None:
    """KEYCTL_JOIN_SESSION_KEYRING: a new one, or that of the name."""
    _core.syscall("keyctl", _KEYCTL_JOIN_SESSION_KEYRING, name)


def set_personality(personality: int) -> None:
    """personality(2)."""
    _core.syscall("personality", personality)


# --- the creator's death


def see_creator(above: int, notes: dict[str, int]) -> None:
    """/proc/self/status, opened while there is the creator's /proc: what it says of the parent is in its pid namespace.

    Args:
        above: the least number that the fd may have: those below are given to others before it is read.
        notes: gets the fd.
    """
    low = at_path("/proc/self/status", os.O_RDONLY)
    notes["creator"] = _core.syscall("fcntl", low, fcntl.F_DUPFD_CLOEXEC, above)
    close(low)


def creator() -> int:
    """The calling process's pid, as its /proc says it."""
    return int(os.readlink("/proc/self"))


def die_with(number: int, creator: int, notes: dict[str, int]) -> None:
    """PR_SET_PDEATHSIG, and the same death at once where the creator has died before.

    Args:
        number: the signal.
        creator: its pid, as itself sees it.
        notes: has the fd of `see_creator`, which is closed here.
    """
    fd = notes.pop("creator")
    _core.syscall("prctl", _PR_SET_PDEATHSIG, number, 0, 0, 0)
    told = bytearray(4096)
    length = _core.syscall("pread64", fd, told, len(told), 0)
    close(fd)
    parent = next((int(line[5:]) for line in bytes(told[:length]).split(b"\n") if line.startswith(b"PPid:")), 0)
    if parent != creator:
        # A program's signals are blocked until its exec: then it strikes. SIGKILL does at once, but the init of a pid
        # namespace is out of its own reach.
        _core.syscall("kill", _core.syscall("getpid"), number)
        if number == signal.SIGKILL:
            _core.syscall("exit_group", 128 + number)
