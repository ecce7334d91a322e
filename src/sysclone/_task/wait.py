"""Waiting for a process by its pidfd, and what can be learned of one that is not ours to wait for."""

from __future__ import annotations

import os
import select

from .. import _core
from .status import Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    import resource
    from typing import Final

P_PIDFD: Final = 3
WALL: Final = 0x40000000
_LONGEST_POLL: Final = 2_000_000.0
_INFO_EXIT: Final = 1 << 3
_KCMP_SYSVSEM: Final = 6


def wait_readable(fd: int, timeout: float | None) -> bool:
    """Whether fd became readable within timeout seconds; None waits for ever."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if timeout is None:
        return bool(poll.poll())
    # poll(2) counts milliseconds in an int: 24 days.
    while timeout > _LONGEST_POLL:
        if poll.poll(int(_LONGEST_POLL * 1000)):
            return True
        timeout -= _LONGEST_POLL
    return bool(poll.poll(max(0, round(timeout * 1000 + 0.4999))))


def reap(pidfd: int, pid: int, own_child: bool) -> tuple[Status, tuple[float, ...] | None]:
    """The status of a process that has ended: waited for where it is ours, else as the kernel keeps it, else unknown."""
    if own_child:
        try:
            answer = _core.waitid(P_PIDFD, pidfd, os.WEXITED | WALL)
        except ChildProcessError:
            return late_status(pidfd, pid), None
        if answer is not None:
            return Status.from_waitid(answer[4], answer[3]), answer[5]
    return late_status(pidfd, pid), None


def late_status(pidfd: int, pid: int) -> Status:
    """The status of a process that is not ours to wait for, or that somebody else reaped.

    PIDFD_GET_INFO keeps it (Linux 6.15) once it was reaped; before that it stands in the zombie's /proc/PID/stat.
    """
    for _ in range(2):
        try:
            info = _core.pidfd_info(pidfd, _INFO_EXIT)
            if info[0] & _INFO_EXIT:
                return Status.from_wait(info[13])
        except OSError:
            pass
        status = _zombie_status(pidfd, pid)
        if status is not None:
            return status
    return Status.unknown(
        "it was reaped by another, or SIGCHLD is ignored, and this kernel keeps no record (Linux 6.15 does)"
    )


def _zombie_status(pidfd: int, pid: int) -> Status | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            fields = f.read().rpartition(b")")[2].split()
        # To who may not look, the kernel shows 0 there. kcmp asks for the same permission, and says so.
        _core.kcmp(pid, pid, _KCMP_SYSVSEM, 0, 0)
        # Still the same process: its pidfd can be signalled until it is reaped.
        _core.pidfd_send_signal(pidfd, 0, 0)
    except OSError:
        return None
    return Status.from_wait(int(fields[49])) if fields[0] == b"Z" else None


def to_rusage(fields: tuple[float, ...]) -> resource.struct_rusage:
    """As getrusage(2) and resource.getrusage give it."""
    import resource

    return resource.struct_rusage(fields)
