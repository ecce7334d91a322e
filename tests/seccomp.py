"""Seccomp filters, written by hand, that make one system call fail with a chosen errno.

A filter cannot be taken off again: `deny` belongs in a process that is given up afterwards.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from dataclasses import dataclass

LOAD, JUMP_EQUAL, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, MODE_FILTER = 38, 22, 2
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
NR_OFFSET, ARCH_OFFSET, ARGUMENTS_OFFSET = 0, 4, 16

NUMBERS = {
    "x86_64": {
        "capset": 126, "setgroups": 116, "setresgid": 119, "setresuid": 117,
        "chdir": 80, "chroot": 161, "clone": 56, "dup3": 292, "fchdir": 81, "ioctl": 16, "ioprio_set": 251, "keyctl": 250,
        "mount": 165, "personality": 135, "pivot_root": 155, "prctl": 157, "prlimit64": 302, "rt_sigaction": 13,
        "sched_setaffinity": 203, "sched_setattr": 314, "seccomp": 317, "set_mempolicy": 238, "setdomainname": 171,
        "sethostname": 170, "setpgid": 109, "setpriority": 141, "setsid": 112, "umask": 95, "umount2": 166, "unshare": 272,
    },
    "aarch64": {
        "capset": 91, "setgroups": 159, "setresgid": 149, "setresuid": 147,
        "chdir": 49, "chroot": 51, "clone": 220, "dup3": 24, "fchdir": 50, "ioctl": 29, "ioprio_set": 30, "keyctl": 219,
        "mount": 40, "personality": 92, "pivot_root": 41, "prctl": 167, "prlimit64": 261, "rt_sigaction": 134,
        "sched_setaffinity": 122, "sched_setattr": 274, "seccomp": 277, "set_mempolicy": 237, "setdomainname": 162,
        "sethostname": 161, "setpgid": 154, "setpriority": 140, "setsid": 157, "umask": 166, "umount2": 39, "unshare": 97,
    },
}  # fmt: skip
EVERYWHERE = {
    "clone3": 435, "close_range": 436, "fsopen": 430, "landlock_create_ruleset": 444, "landlock_restrict_self": 446,
    "mount_setattr": 442, "move_mount": 429, "open_tree": 428, "pidfd_open": 434, "pidfd_send_signal": 424,
}  # fmt: skip

PIDFD_GET_INFO = 3 << 30 | 64 << 16 | 0xFF << 8 | 11


@dataclass(frozen=True)
class Denial:
    """One refusal: the call, the errno, and which of its arguments make it.

    Args:
        call: the system call's name.
        errno: what it answers.
        argument: the number of the argument that is looked at, its low 32 bits alone; None refuses every call.
        equals: refuse where the argument is this.
        any_bit: refuse where the argument has one of these bits.
    """

    call: str
    errno: int
    argument: int | None = None
    equals: int | None = None
    any_bit: int | None = None

    def instructions(self) -> list[tuple[int, int, int, int]]:
        """The filter's part for this refusal: (code, jump if true, jump if false, operand) each."""
        number = EVERYWHERE.get(self.call) or NUMBERS[platform.machine()][self.call]
        refuse = (RETURN, 0, 0, ERRNO | self.errno)
        if self.argument is None:
            return [(LOAD, 0, 0, NR_OFFSET), (JUMP_EQUAL, 0, 1, number), refuse]
        code, operand = (JUMP_EQUAL, self.equals) if self.any_bit is None else (JUMP_ANY_BIT, self.any_bit)
        assert operand is not None
        return [
            (LOAD, 0, 0, NR_OFFSET),
            (JUMP_EQUAL, 0, 3, number),
            (LOAD, 0, 0, ARGUMENTS_OFFSET + 8 * self.argument),
            (code, 0, 1, operand),
            refuse,
        ]


def deny(*denials: Denial) -> None:
    """Install a filter with these refusals in this process and in all that it makes."""
    program = [
        (LOAD, 0, 0, ARCH_OFFSET),
        (JUMP_EQUAL, 1, 0, AUDIT_ARCH[platform.machine()]),
        (RETURN, 0, 0, ALLOW),
        *(line for denial in denials for line in denial.instructions()),
        (RETURN, 0, 0, ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    filter_ = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, MODE_FILTER, filter_, 0, 0)):
        words = [ctypes.c_ulong(one) if isinstance(one, int) else one for one in arguments[1:]]
        if libc.prctl(arguments[0], *words):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
