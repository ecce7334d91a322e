"""Words of the command line as the values of a Context's fields; what is wrong with one is argparse's error, for the option."""

from __future__ import annotations

import argparse
import re

from .._context.field_table import FIELDS
from .._context.step_fields import CLOCKS, LIMITS, UNLIMITED
from .._errors import ContextError
from .._flags import Clone, Namespace, Share, parse_flags
from ._tell import near

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Final

    Parse = Callable[[str], Any]

# How the kernel and /proc/PID/ns call them.
_ALSO: Final = {"MNT": "MOUNT", "NS": "MOUNT"}
_SIZES: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def wrong(text: str, needed: str) -> argparse.ArgumentTypeError:
    """The error for a word that is not what the option needs."""
    return argparse.ArgumentTypeError(f"{text!r}: {needed} is needed")


def field(name: str, parse: Parse) -> Parse:
    """A parser whose value is checked as the Context's field is, so that argparse can say which option it was."""
    check = FIELDS[name][1]

    def parsed(text: str) -> Any:
        try:
            return check(parse(text), name)
        except ContextError as e:
            raise argparse.ArgumentTypeError(str(e)) from None

    return parsed


def item(parse: Parse) -> Parse:
    """A parser of one of many, which makes a value that checks itself."""

    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except ContextError as e:
            raise argparse.ArgumentTypeError(str(e)) from None

    return parsed


def add_table(group: argparse._ArgumentGroup, rows: Iterable[tuple[str, str, str, Parse, str]]) -> None:
    """Options that are given once, with a value: option, field, metavar, parser, help."""
    for option, name, metavar, parse, text in rows:
        group.add_argument(option, dest=name, type=field(name, parse), metavar=metavar, help=text)


# --- numbers


def whole(text: str) -> int:
    """A decimal number."""
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise wrong(text, "a whole number")
    return int(text)


def octal(text: str) -> int:
    """A mode, as of chmod(1)."""
    if not re.fullmatch(r"[0-7]+", text):
        raise wrong(text, "an octal number, such as 077,")
    return int(text, 8)


def size(text: str) -> int:
    """A number of bytes, or of anything, with K, M and G."""
    number, unit = (text[:-1], _SIZES.get(text[-1:].upper(), 0)) if text[-1:].isalpha() else (text, 1)
    if not number.isascii() or not number.isdecimal() or not unit:
        raise argparse.ArgumentTypeError(f"{text!r}: a number of bytes is needed, such as 65536, 64K or 8M")
    return int(number) * unit


def cpus(text: str) -> tuple[int, ...]:
    """CPUs as taskset(1) lists them: 0-3,8 or 0-6:2."""
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6})(?::([1-9][0-9]{0,5}))?)?", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise wrong(text, "a list of CPUs, such as 0-3,8 or 0-6:2,")
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1, int(match[3] or 1)))
    return tuple(sorted(found))


def limit(text: str) -> tuple[str, int | None, int | None]:
    """A limit as of prlimit(1): NAME=SOFT:HARD, with one number for both, and none for what is to stay."""
    name, equals, values = text.partition("=")
    soft, colon, hard = values.partition(":")
    bare = name.upper().removeprefix("RLIMIT_")
    if bare not in LIMITS:
        known = [known.lower() for known in LIMITS]
        raise argparse.ArgumentTypeError(f"{name!r} is no limit{near(name.lower(), known)}")
    if not equals or not (soft or hard):
        raise wrong(text, "NAME=SOFT[:HARD], each a number or unlimited,")
    both = (_of_limit(soft), _of_limit(hard if colon else soft))
    checked: tuple[tuple[str, int | None, int | None], ...] = FIELDS["limits"][1](((bare, *both),), "limits")
    return checked[0]


def _of_limit(text: str) -> int | None:
    if text in ("unlimited", "-1"):
        return UNLIMITED
    return size(text) if text else None


def id_range(text: str) -> tuple[int, int, int]:
    """A line of an id map."""
    numbers = re.split("[,:]", text)
    if len(numbers) != 3 or not all(number.isascii() and number.isdecimal() for number in numbers):
        raise wrong(text, "INSIDE,OUTSIDE,COUNT, three numbers,")
    lines: tuple[tuple[int, int, int], ...] = FIELDS["uid_map"][1]((tuple(map(int, numbers)),), "map")
    return lines[0]


def clock_offset(text: str) -> tuple[str, float]:
    """How far a clock is ahead: monotonic=SECONDS or boottime=SECONDS."""
    name, _, seconds = text.partition("=")
    try:
        ahead = (name, float(seconds))
    except ValueError:
        raise wrong(text, "monotonic=SECONDS or boottime=SECONDS") from None
    if name not in CLOCKS:
        raise wrong(text, "monotonic=SECONDS or boottime=SECONDS")
    FIELDS["time_offsets"][1](dict([ahead]), "time_offsets")
    return ahead


# --- names


def user(text: str) -> int:
    """A uid, or the name of a user here."""
    if text.isascii() and text.isdecimal():
        return int(text)
    import pwd

    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError:
        raise argparse.ArgumentTypeError(f"there is no user {text!r}") from None


def group(text: str) -> int:
    """A gid, or the name of a group here."""
    if text.isascii() and text.isdecimal():
        return int(text)
    import grp

    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise argparse.ArgumentTypeError(f"there is no group {text!r}") from None


def groups(text: str) -> tuple[int, ...]:
    """Groups separated by commas, or none."""
    return () if text == "none" else tuple(group(word) for word in text.split(","))


def capabilities(text: str) -> tuple[str, ...]:
    """Names separated by commas, or none."""
    return () if text.lower() == "none" else tuple(word.strip().upper() for word in text.split(","))


def scheduling(text: str) -> object:
    """A policy with its priority, or with runtime, deadline and period in nanoseconds."""
    from .._context.scheduling import Scheduling

    policy, *numbers = text.split(":")
    values = [whole(number) for number in numbers]
    if policy == "deadline" and 2 <= len(values) <= 3:
        runtime, deadline, period = (*values, 0)[:3]
        return Scheduling(policy, runtime_ns=runtime, deadline_ns=deadline, period_ns=period)
    if policy == "deadline" or len(values) > 1:
        raise wrong(text, "POLICY, POLICY:PRIORITY or deadline:RUNTIME:DEADLINE[:PERIOD]")
    return Scheduling(policy, *values)


def io_priority(text: str) -> object:
    """A class, with its level."""
    name, colon, level = text.partition(":")
    return (name, whole(level)) if colon else name


def memory_policy(text: str) -> object:
    """A mode of set_mempolicy(2), with its nodes."""
    mode, colon, nodes = text.partition(":")
    return (mode, cpus(nodes)) if colon else mode


def variable(text: str) -> tuple[str, str]:
    """NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise wrong(text, "NAME=VALUE")
    return name, value


def variable_name(text: str) -> str:
    """A name without a value."""
    if not text or "=" in text:
        raise wrong(text, "the name of a variable")
    return text


# --- flags, signals, times


def shares(text: str) -> Share:
    """What is shared, by its names."""
    return Share(_flags(text, Share, also={}))


def namespaces(text: str) -> Namespace:
    """Kinds of namespaces, by their names."""
    return Namespace(_flags(text, Namespace, also=_ALSO))


def _flags(text: str, kind: type[Share | Namespace], also: dict[str, str]) -> int:
    """Names separated by commas, in any case, with or without CLONE_ (and NEW, for namespaces)."""
    flags = 0
    for word in filter(None, (word.strip() for word in text.replace("|", ",").split(","))):
        name = word.upper().removeprefix("CLONE_")
        if kind is Namespace:
            name = name.removeprefix("NEW")
        name = also.get(name, name)
        if name == "NONE":
            continue
        if name not in kind.__members__:
            raise argparse.ArgumentTypeError(_unknown(word, name, kind))
        flags |= int(kind[name])
    return flags


def _unknown(word: str, name: str, kind: type[Share | Namespace]) -> str:
    other, option = (Namespace, "--new") if kind is Share else (Share, "--share")
    bare = name.removeprefix("NEW")
    if _ALSO.get(bare, bare) in other.__members__:
        return f"{word!r} is for {option}"
    if name in Clone.__members__:
        return f"{word!r} is a clone flag, and has an option of its own or is set by sysclone where it is needed"
    return f"unknown name {word!r}{near(name.lower(), [name.lower() for name in kind.__members__])}"


def signal_number(text: str) -> int:
    """A signal by number, or by name with or without SIG."""
    if text.isdecimal():
        return int(text)
    try:
        return parse_flags("SIG" + text.upper().removeprefix("SIG"))[1]
    except ContextError as e:
        raise argparse.ArgumentTypeError(str(e)) from None


def tids(text: str) -> tuple[int, ...]:
    """Process ids, separated by commas."""
    if not all(word.strip().isdecimal() for word in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r}: process ids separated by commas are needed")
    return tuple(int(word) for word in text.split(","))


def seconds(text: str) -> float:
    """A time limit."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: a number of seconds is needed")
    return seconds
