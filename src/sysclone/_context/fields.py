"""What a field of a Context may be: each check takes a value and the field's name, and gives it in its one form.

Pure: nothing is opened or asked.
"""

from __future__ import annotations

import os

from .. import _core
from .._errors import ContextError
from .._flags import Namespace, Share
from .capabilities import Capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

PARENTS: Final = ("caller", "sibling")
LEAST_STACK_BYTES: Final = 16 * 1024
MOST_STACK_BYTES: Final = 1 << 46
# (uid_t)-1 means "as it is" to the kernel.
MOST_ID: Final = (1 << 32) - 2
MOST_GROUPS: Final = 65536
MAP_WORDS: Final = ("root", "current", "auto")
# user_namespaces(7): Linux 4.15 takes 340 lines.
MOST_MAP_LINES: Final = 340
_MOST_SHOWN: Final = 80
PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def wrong(field: str, value: object, needed: str) -> ContextError:
    """The error for a value that is not what the field needs."""
    return ContextError(f"{field}={shown(value)}: {needed} is needed", field=field)


def shown(value: object) -> str:
    """A value in an error: its beginning, where it is long."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}…"


def is_whole(value: object) -> bool:
    """Whether it is an int, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def flag_of(kind: type[Any]) -> Callable[[object, str], object]:
    """A check for the members of a flag type."""

    def check(value: object, field: str) -> object:
        if not isinstance(value, int) or isinstance(value, bool):
            names = " | ".join(f"{kind.__name__}.{name}" for name in list(kind.__members__)[:2])
            raise wrong(field, value, f"a {kind.__name__}, such as {names},")
        every = 0
        for member in kind.__members__.values():
            every |= int(member)
        beyond = int(value) & ~every
        if beyond:
            raise ContextError(f"{field}={int(value):#x}: bits {beyond} are no {kind.__name__}", field=field)
        return kind(int(value))

    return check


def one_of(*choices: str) -> Callable[[object, str], str]:
    """A check for one of some words."""

    def check(value: object, field: str) -> str:
        if value not in choices:
            raise wrong(field, value, f"one of {', '.join(map(repr, choices))}")
        return str(value)

    return check


def one_of_or_none(*choices: str) -> Callable[[object, str], str | None]:
    """A check for one of some words, or None."""
    word = one_of(*choices)

    def check(value: object, field: str) -> str | None:
        return None if value is None else word(value, field)

    return check


def whole(least: int, most: int) -> Callable[[object, str], int | None]:
    """A check for a whole number, or None."""

    def check(value: object, field: str) -> int | None:
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise wrong(field, value, "a whole number")
        if not least <= value <= most:
            raise ContextError(f"{field}={int(value)}: between {least} and {most} is needed", field=field)
        return int(value)

    return check


def switch(value: object, _field: str) -> bool:
    """On or off."""
    return bool(value)


def switch_or_none(value: object, _field: str) -> bool | None:
    """On, off, or as usual."""
    return value if value is None else bool(value)


def tids(value: object, field: str) -> tuple[int, ...] | None:
    """One process id for each pid namespace, innermost first."""
    if value is None:
        return None
    many = value if isinstance(value, tuple) else (value,)
    if not 1 <= len(many) <= 32:
        raise ContextError(
            f"{field}={value!r}: one id for each pid namespace, innermost first, at most 32", field=field
        )
    one = whole(1, 1 << 22)
    return tuple(one(each, field) or 0 for each in many)


def path_or_fd(value: object, field: str) -> str | int | None:
    """A path, or a borrowed fd."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    raise wrong(field, value, "a path or an open fd")


def seconds(value: object, field: str) -> float | None:
    """A time limit."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1e9:
        raise ContextError(f"{field}={value!r}: seconds, more than 0 and at most 1e9", field=field)
    return float(value)


def ids(value: object, field: str) -> tuple[int, ...] | None:
    """Group ids."""
    if value is None:
        return None
    if not isinstance(value, (tuple, list, set, frozenset)):
        raise wrong(field, value, "a tuple of group ids")
    if len(value) > MOST_GROUPS:
        raise ContextError(f"{field}: {len(value)} groups, and the kernel takes {MOST_GROUPS}", field=field)
    one = whole(0, MOST_ID)
    return tuple(one(each, field) or 0 for each in value)


def id_map(value: object, field: str) -> str | tuple[tuple[int, int, int], ...] | None:
    """A word, or ranges of ids: (inside, outside, count) each."""
    if value is None or value in MAP_WORDS:
        return value
    if not isinstance(value, (tuple, list)) or not value or len(value) > MOST_MAP_LINES:
        words = ", ".join(map(repr, MAP_WORDS))
        raise wrong(field, value, f"one of {words}, or 1 to {MOST_MAP_LINES} tuples (inside, outside, count),")
    lines = []
    for line in value:
        if not isinstance(line, (tuple, list)) or len(line) != 3 or not all(map(is_whole, line)):
            raise wrong(field, line, "(inside, outside, count), three whole numbers,")
        inside, outside, count = map(int, line)
        if min(inside, outside) < 0 or count < 1 or max(inside, outside) + count > MOST_ID + 1:
            raise wrong(field, line, f"ids of 0 to {MOST_ID}, at least one of them,")
        lines.append((inside, outside, count))
    return tuple(lines)


def capabilities(value: object, field: str) -> Capabilities | None:
    """Capability sets; a plain collection of names is those and no others."""
    if value is None or isinstance(value, Capabilities):
        return value
    if isinstance(value, (tuple, list, set, frozenset)):
        return Capabilities.only(*value)
    raise wrong(field, value, "a Capabilities, or a collection of names such as 'NET_ADMIN',")


def joined(value: object, field: str) -> Any:
    """Open namespaces: what has `joins`, as sysclone.Namespaces has."""
    if value is None or hasattr(value, "joins"):
        return value
    raise wrong(field, value, "sysclone.Namespaces, such as Namespaces.of(pid),")


share = flag_of(Share)
new = flag_of(Namespace)


class Buffer:
    """A stretch of this process's memory: compared by identity, since two equal buffers are two stretches.

    Attributes:
        object: whose memory it is, kept alive.
    """

    __slots__ = ("_field", "object")

    object: Any

    def __init__(self, object: Any, field: str) -> None:  # noqa: A002 (what it is)
        self.object = object
        self._field = field
        self.pages()

    def pages(self) -> tuple[int, int]:
        """The whole pages in it: address and length. What shares a page with something else is not among them."""
        try:
            address, length = _core.address_of(self.object)
        except (TypeError, BufferError, ValueError) as e:
            problem = f"{self._field}: {type(self.object).__name__} is no contiguous buffer: {e}"
            raise ContextError(problem, field=self._field) from None
        low, high = -(-address // PAGE) * PAGE, (address + length) // PAGE * PAGE
        if low >= high:
            problem = f"{self._field}: a buffer of {length} bytes has no whole page of {PAGE} to leave out"
            raise ContextError(problem, field=self._field)
        return low, high - low

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Buffer) and other.object is self.object

    def __hash__(self) -> int:
        return id(self.object)

    def __repr__(self) -> str:
        return f"<{type(self.object).__name__} of {_core.address_of(self.object)[1]} bytes>"

    def __reduce__(self) -> tuple[Any, ...]:
        problem = f"{self._field} names memory of this process: such a Context cannot be pickled"
        raise ContextError(problem, field=self._field)


def buffers(value: Any, field: str) -> tuple[Buffer, ...]:
    """Buffers, each with a whole page at least."""
    if isinstance(value, (bytes, bytearray, memoryview, str)) or not hasattr(value, "__iter__"):
        raise ContextError(f"{field} needs a list of buffers, not one {type(value).__name__}", field=field)
    return tuple(one if isinstance(one, Buffer) else Buffer(one, field) for one in value)
