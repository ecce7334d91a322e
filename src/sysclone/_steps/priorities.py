"""How much of the machine the calling task may have, and when: limits, CPU, disk and memory.

Each function is one step of a child's set-up, and raises OSError.
"""

from __future__ import annotations

import os
import struct

from .. import _core
from .._context.step_fields import IO_CLASSES, LIMITS, MEMORY_MODES, UNLIMITED
from .raw import write_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from .._context.description import Description
    from .steps import Step

    Row = tuple[str, int | None, int | None]

_INFINITY: Final = (1 << 64) - 1
_PR_SET_TIMERSLACK: Final = 29
_IOPRIO_CLASS_SHIFT: Final = 13
_MEMORY: Final = ("AS", "DATA")


def steps(context: Description) -> list[Step]:
    """All but the limits: while there may be the privilege for it."""
    found: list[Step] = []
    if context.oom_score_adj is not None:
        text = b"%d\n" % context.oom_score_adj
        found.append((f"write(oom_score_adj, {context.oom_score_adj})", write_file, ("/proc/self/oom_score_adj", text)))
    if context.timer_slack_ns is not None:
        found.append(
            (f"prctl(PR_SET_TIMERSLACK, {context.timer_slack_ns})", set_timer_slack, (context.timer_slack_ns,))
        )
    if context.memory_policy is not None:
        mode, nodes = context.memory_policy
        found.append((f"set_mempolicy({_listed(mode, *nodes)})", set_memory_policy, (mode, nodes)))
    if context.affinity is not None:
        found.append((f"sched_setaffinity({_listed(*context.affinity)})", set_affinity, (context.affinity,)))
    if context.scheduling is not None:
        packed = context.scheduling.packed(context.nice or 0)
        found.append((f"sched_setattr({context.scheduling})", set_scheduling, (packed,)))
    if context.nice is not None:
        found.append((f"setpriority({context.nice})", set_nice, (context.nice,)))
    if context.io_priority is not None:
        kind, level = context.io_priority
        found.append((f"ioprio_set({kind}, {level})", set_io_priority, (kind, level)))
    return found


def limit_steps(context: Description, late: bool) -> list[Step]:
    """The limits, in two parts.

    Those of memory are raised while there is privilege, and set late: from then on Python itself would have to keep to them,
    with the creator's memory counted in.
    """
    found: list[Step] = []
    for name, soft, hard in context.limits:
        memory = name in _MEMORY
        if memory and not late and hard is not None:
            found.append((f"prlimit({name}, hard={hard})", raise_hard_limit, (name, hard)))
        elif memory == late:
            found.append((f"prlimit({name}, {soft}:{hard})", set_limit, (name, soft, hard)))
    return found


def _listed(*words: object) -> str:
    return ", ".join(map(str, words[:16])) + (", …" if len(words) > 16 else "")


# --- acts


def _limits_now(name: str) -> tuple[int, int]:
    now = bytearray(16)
    _core.syscall("prlimit64", 0, LIMITS[name], None, now)
    soft, hard = struct.unpack("QQ", now)
    return soft, hard


def set_limit(name: str, soft: int | None, hard: int | None) -> None:
    """prlimit64(2), raw: libc's is the same, but for threads that it knows. None leaves one as it is."""
    if soft is None or hard is None:
        soft_now, hard_now = _limits_now(name)
        soft, hard = soft_now if soft is None else soft, hard_now if hard is None else hard
        if soft > hard != UNLIMITED and soft == soft_now:
            soft = hard
    _core.syscall("prlimit64", 0, LIMITS[name], struct.pack("QQ", soft & _INFINITY, hard & _INFINITY), None)


def raise_hard_limit(name: str, hard: int) -> None:
    """The hard limit alone, and only upwards."""
    soft_now, hard_now = _limits_now(name)
    if hard & _INFINITY > hard_now:
        _core.syscall("prlimit64", 0, LIMITS[name], struct.pack("QQ", soft_now, hard & _INFINITY), None)


def set_timer_slack(nanoseconds: int) -> None:
    """PR_SET_TIMERSLACK: 0 is what it was born with. Linux 2.6.28."""
    _core.syscall("prctl", _PR_SET_TIMERSLACK, nanoseconds, 0, 0, 0)


def _bits(numbers: tuple[int, ...]) -> bytes:
    length = (max(numbers, default=0) // 64 + 1) * 8
    return sum(1 << number for number in numbers).to_bytes(length, "little")


def set_memory_policy(mode: str, nodes: tuple[int, ...]) -> None:
    """set_mempolicy(2): where new pages of this task come from. Those that are there stay."""
    mask = _bits(nodes) if nodes else None
    # The kernel looks at one bit less than it is told.
    _core.syscall("set_mempolicy", MEMORY_MODES[mode], mask, len(mask) * 8 + 1 if mask else 0)


def set_affinity(cpus: tuple[int, ...]) -> None:
    """sched_setaffinity(2)."""
    mask = _bits(cpus)
    _core.syscall("sched_setaffinity", 0, len(mask), mask)


def set_scheduling(packed: bytes) -> None:
    """sched_setattr(2). Linux 3.14."""
    _core.syscall("sched_setattr", 0, packed, 0)


def set_nice(nice: int) -> None:
    """setpriority(2): the value itself, not a difference."""
    _core.syscall("setpriority", os.PRIO_PROCESS, 0, nice)


def set_io_priority(kind: str, level: int) -> None:
    """ioprio_set(2)."""
    _core.syscall("ioprio_set", 1, 0, IO_CLASSES[kind] << _IOPRIO_CLASS_SHIFT | level)
