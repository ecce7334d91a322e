"""How a task ended. Never invented: what was not seen is unknown."""

from __future__ import annotations

import os
import signal as _signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Status:
    """How a task ended: with an exit code, by a signal, or unknown.

    Attributes:
        exit_code: 0 to 255, or None.
        signal: the number of the signal that ended it, or None.
        core_dumped: whether the kernel wrote a core.
        reason: why the status is unknown; empty where it is known.
    """

    __slots__ = ("core_dumped", "exit_code", "reason", "signal")

    exit_code: int | None
    signal: int | None
    core_dumped: bool
    reason: str

    def __init__(
        self, exit_code: int | None = None, signal: int | None = None, core_dumped: bool = False, reason: str = ""
    ) -> None:
        put = object.__setattr__
        put(self, "exit_code", exit_code)
        put(self, "signal", signal)
        put(self, "core_dumped", core_dumped)
        put(self, "reason", reason)

    @classmethod
    def from_wait(cls, status: int) -> Status:
        """From the word that wait4(2) gives, and that PIDFD_GET_INFO keeps."""
        if os.WIFSIGNALED(status):
            return cls(signal=os.WTERMSIG(status), core_dumped=os.WCOREDUMP(status))
        return cls(exit_code=os.WEXITSTATUS(status))

    @classmethod
    def from_waitid(cls, code: int, status: int) -> Status:
        """From si_code and si_status of waitid(2)."""
        if code == os.CLD_EXITED:
            return _SUCCESS if status == 0 else cls(exit_code=status)
        return cls(signal=status, core_dumped=code == os.CLD_DUMPED)

    @classmethod
    def unknown(cls, reason: str) -> Status:
        """A status that nobody saw, and why."""
        return cls(reason=reason)

    @property
    def known(self) -> bool:
        """Whether the kernel told how it ended."""
        return not self.reason

    @property
    def returncode(self) -> int | None:
        """subprocess's number: the exit code, or minus the signal; None where unknown."""
        return -self.signal if self.signal is not None else self.exit_code

    def _key(self) -> tuple[object, ...]:
        return (self.exit_code, self.signal, self.core_dumped, self.reason)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a Status cannot be changed")

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Status) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __reduce__(self) -> tuple[Any, ...]:
        return (Status, self._key())

    def __repr__(self) -> str:
        return f"<Status: {self}>"

    def __str__(self) -> str:
        if self.signal is not None:
            return f"killed by {signal_name(self.signal)}" + (", core dumped" if self.core_dumped else "")
        return f"exited with {self.exit_code}" if self.known else f"unknown: {self.reason}"


# Nearly all there are, and immutable.
_SUCCESS = Status(exit_code=0)


def signal_name(number: int) -> str:
    """'SIGKILL (9)'; for real-time signals 'SIGRTMIN+2 (36)'."""
    try:
        return f"{_signal.Signals(number).name} ({number})"
    except ValueError:
        return f"SIGRTMIN+{number - 34} ({number})" if 34 <= number <= 64 else f"signal {number}"
