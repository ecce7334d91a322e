"""Capabilities: the names, and the five sets of a task. Pure."""

from __future__ import annotations

from .._errors import ContextError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

# In the order of their numbers: linux/capability.h.
NAMES: Final = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip
_NUMBERS: Final = {name: number for number, name in enumerate(NAMES)}
SETS: Final = ("effective", "permitted", "inheritable", "bounding", "ambient")


def mask(names: Iterable[str]) -> int:
    """The bits of some capabilities.

    Args:
        names: with or without CAP_, in any case.

    Raises:
        ContextError: there is no such capability.
    """
    bits = 0
    for name in names:
        bare = str(name).upper().removeprefix("CAP_")
        if bare not in _NUMBERS:
            raise ContextError(f"{name!r} is no capability: see capabilities(7)", field="capabilities")
        bits |= 1 << _NUMBERS[bare]
    return bits


def names(bits: int) -> frozenset[str]:
    """The names of some bits; a bit without a name is its number."""
    return frozenset(
        NAMES[bit] if bit < len(NAMES) else str(bit) for bit in range(bits.bit_length()) if bits >> bit & 1
    )


class Capabilities:
    """The capability sets that a task is to have, as names; a set that is None stays as the kernel makes it.

    Immutable, compared by value, hashable.

    Args:
        effective: what counts at once. Within permitted.
        permitted: what may be made effective.
        inheritable: what a program with file capabilities may get at exec.
        bounding: the most that any exec can give. It can only shrink.
        ambient: what a program without file capabilities keeps at exec. Within permitted and inheritable.

    Raises:
        ContextError: there is no such capability, or one set is not within the other.

    See capabilities(7). Ambient capabilities came with Linux 4.3.
    """

    __slots__ = SETS

    effective: frozenset[str] | None
    permitted: frozenset[str] | None
    inheritable: frozenset[str] | None
    bounding: frozenset[str] | None
    ambient: frozenset[str] | None

    def __init__(
        self,
        *,
        effective: Iterable[str] | None = None,
        permitted: Iterable[str] | None = None,
        inheritable: Iterable[str] | None = None,
        bounding: Iterable[str] | None = None,
        ambient: Iterable[str] | None = None,
    ) -> None:
        given = (effective, permitted, inheritable, bounding, ambient)
        for name, value in zip(SETS, given, strict=True):
            object.__setattr__(self, name, None if value is None else names(mask(value)))
        self._within("effective", "permitted")
        self._within("ambient", "permitted")
        self._within("ambient", "inheritable")

    def _within(self, inner: str, outer: str) -> None:
        small, large = getattr(self, inner), getattr(self, outer)
        if small and large is not None and not small <= large:
            more = ", ".join(sorted(small - large))
            raise ContextError(f"{more}: {inner}, but not {outer}", field="capabilities")

    @classmethod
    def only(cls, *kept: str) -> Capabilities:
        """These capabilities in all five sets, and no others: what the task and its programs can ever have."""
        return cls(effective=kept, permitted=kept, inheritable=kept, bounding=kept, ambient=kept)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("Capabilities cannot be changed")

    def _values(self) -> tuple[frozenset[str] | None, ...]:
        return tuple(getattr(self, name) for name in SETS)

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, Capabilities) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, self._values()

    def __repr__(self) -> str:
        told = (
            f"{name}={sorted(value)}" for name, value in zip(SETS, self._values(), strict=True) if value is not None
        )
        return f"Capabilities({', '.join(told)})"


def _rebuild(*values: frozenset[str] | None) -> Capabilities:
    return Capabilities(**dict(zip(SETS, values, strict=True)))
