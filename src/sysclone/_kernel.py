"""What the running kernel can do, found out once.

A flag is probed by making a real child with it that exits at once: the kernel checks its arguments in an order that makes
a size or pointer that is wrong on purpose tell nothing. The child shares memory, so that a large creator is not copied.
"""

from __future__ import annotations

import functools
import itertools
import os
from errno import EBADF, EINVAL, ENOSYS, EPERM

from ._flags import SIGNAL_MAX, SINCE, Clone, Dialect

_VM = int(Clone.VM)
_LEGACY = 0xFFFFFF00
# What some flags are refused without.
_COMPANIONS = {Clone.PIDFD_AUTOKILL: int(Clone.PIDFD | Clone.AUTOREAP)}
# No descriptor that can be open: a kernel that knows INTO_CGROUP answers EBADF, and only to flags that are right.
_NO_FD = 0x7FFFFFFF


@functools.cache
def release() -> tuple[int, int]:
    """The running kernel's release: (6, 18)."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(itertools.takewhile(str.isdigit, minor)))


def is_at_least(since: str) -> bool:
    """Whether the running kernel is of this release ("5.7") or a later one."""
    major, minor = since.split(".")
    return release() >= (int(major), int(minor))


def why_no_proc() -> str:
    """Why the numbers in /proc are not those that system calls know here; empty where they are.

    In a new pid namespace with its creator's /proc a look at both would speak of strangers.
    """
    try:
        with open("/proc/self/status", "rb") as file:
            numbers = next((line.split()[1:] for line in file if line.startswith(b"NSpid:")), [b""])
    except OSError:
        numbers = [b"", b""] if os.path.exists("/proc/version") else []
    if len(numbers) == 1:
        return ""
    why = "/proc is that of another pid namespace" if numbers else "there is no /proc"
    return f"{why}\ntry: mount -t proc proc /proc, in a mount namespace of its own (unshare --mount-proc)"


@functools.cache
def known_flags() -> int:
    """Every bit that the running kernel's clone3 knows.

    Where clone3 cannot be asked (no clone3, or a seccomp filter before it), the release number has to answer.
    """
    if _probe(0) in (ENOSYS, EPERM):
        return functools.reduce(lambda known, flag: known | int(flag), _by_release(), _LEGACY)
    young = [1 << bit for bit in range(64) if not _LEGACY >> bit & 1]
    return functools.reduce(lambda known, bit: known | (bit if _probe(bit) != EINVAL else 0), young, _LEGACY)


def can_be_born_in_cgroup() -> bool:
    """Whether CLONE_INTO_CGROUP works here and now: Linux 5.7, and no seccomp filter before clone3.

    Asked each time, since a filter may have come meanwhile: an fd that cannot be open is refused as one by who knows it.
    """
    from . import _core

    return _core.probe_clone3(_VM | int(Clone.INTO_CGROUP), 0, _NO_FD) == EBADF


@functools.cache
def dialect() -> Dialect:
    """How the running kernel differs from others in the rules between the switches."""
    from . import _core

    thread = _probe(int(Clone.SIGHAND | Clone.THREAD | Clone.PIDFD))
    unsure = thread in (ENOSYS, EPERM)
    return Dialect(
        known=known_flags(),
        thread_pidfd=is_at_least("6.9") if unsure else thread != EINVAL,
        old_call_checks_signal=_core.probe_clone(_VM | SIGNAL_MAX + 1) == EINVAL,
    )


def _by_release() -> list[Clone]:
    return [flag for flag, since in SINCE.items() if is_at_least(since)]


def _probe(flags: int) -> int:
    """0 or the errno of a clone3 with these flags, shared memory, and what they cannot go without."""
    from . import _core

    return _core.probe_clone3(flags | _VM | _COMPANIONS.get(Clone(flags), 0), 0, _NO_FD)
