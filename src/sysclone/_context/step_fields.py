"""What the fields of a Context that become steps may be: as `_context.fields`, a check each. Pure."""

from __future__ import annotations

import os

from .._errors import ContextError
from .fields import is_whole, whole, wrong
from .scheduling import Scheduling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

UNLIMITED: Final = -1
# asm-generic/resource.h, which every architecture of this library uses.
LIMITS: Final = {
    "CPU": 0, "FSIZE": 1, "DATA": 2, "STACK": 3, "CORE": 4, "RSS": 5, "NPROC": 6, "NOFILE": 7, "MEMLOCK": 8, "AS": 9,
    "LOCKS": 10, "SIGPENDING": 11, "MSGQUEUE": 12, "NICE": 13, "RTPRIO": 14, "RTTIME": 15,
}  # fmt: skip
IO_CLASSES: Final = {"realtime": 1, "best-effort": 2, "idle": 3}
MEMORY_MODES: Final = {
    "default": 0, "preferred": 1, "bind": 2, "interleave": 3, "local": 4, "preferred-many": 5, "weighted-interleave": 6,
}  # fmt: skip
_WITHOUT_NODES: Final = ("default", "local")
_MOST_CPUS: Final = 8192
_MOST_NODES: Final = 1024
_MOST_LIMIT: Final = (1 << 63) - 1
_MOST_NAME: Final = 64
_KEY_MOST: Final = 4095


def path_or_fd(value: object, field: str) -> str | int | None:
    """A path, or a borrowed fd."""
    if value is None or (is_whole(value) and isinstance(value, int) and value >= 0):
        return value
    if isinstance(value, (str, bytes, os.PathLike)):
        path = os.fsdecode(value)
        if path and "\0" not in path:
            return path
    raise wrong(field, value, "a path or an open fd")


def limits(value: object, field: str) -> tuple[tuple[str, int | None, int | None], ...]:
    """Resource limits: (name, soft, hard) each, in the order of the names."""
    if not value:
        return ()
    rows: Any = value
    if hasattr(rows, "items"):
        rows = [(name, *(both if isinstance(both, (tuple, list)) else (both, both))) for name, both in rows.items()]
    found: dict[str, tuple[int | None, int | None]] = {}
    for row in rows:
        if not isinstance(row, (tuple, list)) or len(row) != 3:
            raise wrong(field, row, "a mapping of names to a limit or to (soft, hard)")
        name, soft, hard = row
        found[_limit_name(name, field)] = (_limit(soft, name, field), _limit(hard, name, field))
    for name, (soft, hard) in found.items():
        if soft is not None and hard is not None and hard != UNLIMITED and (soft == UNLIMITED or soft > hard):
            raise ContextError(f"{field}: {name}: the soft limit {soft} is above the hard one {hard}", field=field)
    return tuple((name, *found[name]) for name in sorted(found))


def _limit_name(name: object, field: str) -> str:
    if is_whole(name) and name in LIMITS.values():
        return next(known for known, number in LIMITS.items() if number == name)
    bare = name.upper().removeprefix("RLIMIT_") if isinstance(name, str) else ""
    if bare not in LIMITS:
        raise ContextError(f"{field}: {name!r} is no limit: {', '.join(LIMITS)}", field=field)
    return bare


def _limit(value: object, name: object, field: str) -> int | None:
    if value is None or (is_whole(value) and isinstance(value, int) and UNLIMITED <= value <= _MOST_LIMIT):
        return value
    raise ContextError(f"{field}: {name}: {value!r}: a number, -1 for no limit, or None to leave it", field=field)


def scheduling(value: object, field: str) -> Scheduling | None:
    """A Scheduling, or the name of a policy without parameters."""
    if value is None or isinstance(value, Scheduling):
        return value
    if isinstance(value, str):
        return Scheduling(value)
    raise wrong(field, value, "a Scheduling, or a policy's name,")


def _numbers(most: int, what: str) -> Callable[[object, str], tuple[int, ...] | None]:
    one = whole(0, most - 1)

    def check(value: object, field: str) -> tuple[int, ...] | None:
        if value is None:
            return None
        if not isinstance(value, (tuple, list, set, frozenset, range)) or not value:
            raise wrong(field, value, f"a collection of {what} numbers, at least one,")
        return tuple(sorted({one(each, field) or 0 for each in value}))

    return check


affinity = _numbers(_MOST_CPUS, "CPU")
_nodes = _numbers(_MOST_NODES, "node")


def io_priority(value: object, field: str) -> tuple[str, int] | None:
    """A class of ioprio_set(2) with its level."""
    if value is None:
        return None
    pair: Any = (value, 0 if value == "idle" else 4) if isinstance(value, str) else value
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or pair[0] not in IO_CLASSES:
        raise wrong(field, value, "'idle', 'best-effort' or 'realtime', or such a word with a level,")
    level = pair[1]
    if not is_whole(level) or not 0 <= level <= 7 or (pair[0] == "idle" and level):
        raise ContextError(f"{field}={value!r}: levels are 0 (first) to 7, and 'idle' has none", field=field)
    return pair[0], int(level)


def memory_policy(value: object, field: str) -> tuple[str, tuple[int, ...]] | None:
    """A mode of set_mempolicy(2) with its nodes."""
    if value is None:
        return None
    pair: Any = (value, ()) if isinstance(value, str) else value
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or pair[0] not in MEMORY_MODES:
        raise wrong(field, value, f"a mode of {', '.join(map(repr, MEMORY_MODES))}, alone or with nodes,")
    mode, given = pair
    nodes = _nodes((given,) if is_whole(given) else given, field) if given != () else ()
    if mode in _WITHOUT_NODES and nodes:
        raise ContextError(f"{field}: {mode!r} takes no nodes", field=field)
    if mode not in (*_WITHOUT_NODES, "preferred") and not nodes:
        raise ContextError(f"{field}: {mode!r} needs nodes: ({mode!r}, (0,))", field=field)
    return mode, nodes or ()


def name(value: object, field: str) -> str | None:
    """A host or domain name."""
    if value is None:
        return None
    if not isinstance(value, str) or "\0" in value or not 0 < len(os.fsencode(value)) <= _MOST_NAME:
        raise wrong(field, value, f"a name of 1 to {_MOST_NAME} bytes")
    return value


def keyring(value: object, field: str) -> str | None:
    """The name of a session keyring; "" (or True) for one without a name."""
    if value is None or value is False:
        return None
    if value is True:
        return ""
    if not isinstance(value, str) or "\0" in value or len(os.fsencode(value)) > _KEY_MOST or value.startswith("."):
        raise wrong(field, value, "True, or a name that does not begin with a dot,")
    return value


def function(value: object, field: str) -> Any:
    """Something to call, without arguments."""
    if value is None or callable(value):
        return value
    raise wrong(field, value, "a function without arguments")


CLOCKS: Final = ("monotonic", "boottime")
_MOST_SECONDS: Final = 9_000_000_000


def time_offsets(value: object, field: str) -> tuple[tuple[str, int], ...]:
    """How far clocks are ahead: a mapping of names to seconds becomes pairs with nanoseconds."""
    if not value:
        return ()
    rows: Any = value
    if hasattr(rows, "items"):
        rows = [(name, _nanoseconds(seconds, field)) for name, seconds in rows.items()]
    for row in rows:
        if not isinstance(row, tuple) or len(row) != 2 or row[0] not in CLOCKS or not is_whole(row[1]):
            raise wrong(field, value, "a mapping of 'monotonic' and 'boottime' to seconds")
    return tuple(sorted(rows))


def _nanoseconds(seconds: object, field: str) -> int:
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not number or not -_MOST_SECONDS <= seconds <= _MOST_SECONDS:  # type: ignore[operator]
        raise wrong(field, seconds, "seconds, at most 9e9 to either side,")
    return round(seconds * 1_000_000_000)  # type: ignore[operator]


def offsets_text(offsets: tuple[tuple[str, int], ...]) -> bytes:
    """What /proc/PID/timens_offsets takes."""
    return b"".join(b"%s %d %d\n" % (name.encode(), *divmod(ns, 1_000_000_000)) for name, ns in offsets)


def signals(value: object, field: str) -> tuple[int, ...]:
    """Signal numbers."""
    if not isinstance(value, (tuple, list, set, frozenset)):
        raise wrong(field, value, "a collection of signals")
    one = whole(1, 64)
    return tuple(sorted({int(one(each, field) or 0) for each in value}))


def signals_or_none(value: object, field: str) -> tuple[int, ...] | None:
    """Signal numbers, or None."""
    return None if value is None else signals(value, field)


def fds(value: object, field: str) -> tuple[tuple[int, int], ...]:
    """Which descriptor becomes which: a mapping of the numbers there to the numbers here becomes pairs."""
    if not value:
        return ()
    rows: Any = value
    pairs = dict(rows)
    one = whole(0, (1 << 20) - 1)
    return tuple(sorted((one(target, field) or 0, one(source, field) or 0) for target, source in pairs.items()))


def environment(value: object, field: str) -> tuple[tuple[str, str], ...] | None:
    """Variables and their values, in the order of their names."""
    if value is None:
        return None
    rows: Any = value
    pairs = {os.fsdecode(name): os.fsdecode(text) for name, text in dict(rows).items()}
    for name, text in pairs.items():
        if not name or "=" in name or "\0" in name + text:
            raise ContextError(f"{field}: {name!r} is no name, or its value has a null byte in it", field=field)
    return tuple(sorted(pairs.items()))


def argv0(value: object, field: str) -> str | None:
    """What a program is called in its own arguments."""
    if value is None or (isinstance(value, str) and "\0" not in value):
        return value
    raise wrong(field, value, "a string without null bytes")
