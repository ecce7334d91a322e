"""A scheduling policy with its parameters, as sched_setattr(2) takes them. Pure."""

from __future__ import annotations

import struct

from .._errors import ContextError
from .._value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

POLICIES: Final = {"other": 0, "fifo": 1, "rr": 2, "batch": 3, "idle": 5, "deadline": 6}
_REAL_TIME: Final = ("fifo", "rr")
_RESET_ON_FORK: Final = 1
_ATTR: Final = "IIQiIQQQ"
# sched(7): the kernel takes no less than 1 microsecond, and no more than a 63-bit number.
_LEAST_NS: Final = 1024
_MOST_NS: Final = (1 << 63) - 1


class Scheduling(Value):
    """A scheduling policy with its parameters.

    Args:
        policy: "other", "batch" or "idle"; "fifo" or "rr", which need CAP_SYS_NICE or RLIMIT_RTPRIO; "deadline", which needs
            CAP_SYS_NICE (Linux 3.14).
        priority: 1 to 99, for "fifo" and "rr".
        runtime_ns, deadline_ns, period_ns: for "deadline": so much computing, within so long, each so often. At least 1024,
            runtime_ns <= deadline_ns <= period_ns; period_ns is deadline_ns where it is not given.
        reset_on_fork: what the task makes starts with "other".

    Raises:
        ContextError: a parameter is missing, is of another policy, or is out of its range.

    See sched(7).
    """

    __slots__ = ("deadline_ns", "period_ns", "policy", "priority", "reset_on_fork", "runtime_ns")

    policy: str
    priority: int
    runtime_ns: int
    deadline_ns: int
    period_ns: int
    reset_on_fork: bool

    def __init__(
        self,
        policy: str,
        priority: int = 0,
        *,
        runtime_ns: int = 0,
        deadline_ns: int = 0,
        period_ns: int = 0,
        reset_on_fork: bool = False,
    ) -> None:
        if policy not in POLICIES:
            raise _wrong(f"{policy!r} is no policy: one of {', '.join(map(repr, POLICIES))}")
        times = (runtime_ns, deadline_ns, period_ns or deadline_ns)
        if policy in _REAL_TIME and not 1 <= priority <= 99:
            raise _wrong(f"{policy!r} needs a priority of 1 to 99, not {priority}")
        if policy not in _REAL_TIME and priority:
            raise _wrong(f"{policy!r} takes no priority: 'fifo' and 'rr' do, and nice= is for the others")
        if policy == "deadline":
            if not _LEAST_NS <= times[0] <= times[1] <= times[2] <= _MOST_NS:
                raise _wrong(f"{_LEAST_NS} <= runtime_ns <= deadline_ns <= period_ns is needed, not {times}")
        elif any(times):
            raise _wrong(f"runtime_ns, deadline_ns and period_ns are for 'deadline', not for {policy!r}")
        self._have(
            policy=policy, priority=priority, runtime_ns=times[0], deadline_ns=times[1], period_ns=times[2],
            reset_on_fork=bool(reset_on_fork),
        )  # fmt: skip

    def packed(self, nice: int) -> bytes:
        """A struct sched_attr.

        Args:
            nice: for "other" and "batch", where it is part of it.
        """
        flags = _RESET_ON_FORK if self.reset_on_fork else 0
        times = (self.runtime_ns, self.deadline_ns, self.period_ns)
        return struct.pack(_ATTR, struct.calcsize(_ATTR), POLICIES[self.policy], flags, nice, self.priority, *times)

    def __str__(self) -> str:
        if self.policy == "deadline":
            return f"deadline, {self.runtime_ns} in {self.deadline_ns} of {self.period_ns} ns"
        return f"{self.policy}, {self.priority}" if self.priority else self.policy


def _wrong(problem: str) -> ContextError:
    return ContextError(f"scheduling: {problem}", field="scheduling")
