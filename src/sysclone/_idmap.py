"""The maps of a new user namespace: who may write which, worked out before the child is made.

One's own id can be mapped by anybody. More needs CAP_SETUID (CAP_SETGID) in the user namespace above: the creator's own,
or that of newuidmap(1) and newgidmap(1), which give what /etc/subuid and /etc/subgid grant. See user_namespaces(7).
"""

from __future__ import annotations

import os

from ._context.capabilities import mask
from ._context.description import MAP_FIELDS
from ._errors import ContextError, Unsupported, load_hints
from ._steps.credentials import get_sets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from . import _core
    from ._context.description import Description

    Lines = tuple[tuple[int, int, int], ...]

_HELPERS: Final = {"uid": "newuidmap", "gid": "newgidmap"}


class Maps:
    """What is to be written for a child, by whom.

    Attributes:
        uid_map, gid_map: the text to write, or None.
        uid_helper, gid_helper: the helper's argv without the pid, its path first, or None.
        deny_setgroups: whether setgroups is to be denied first, as the kernel demands of who has no privilege.
    """

    __slots__ = MAP_FIELDS

    def __init__(self, uid_map: str | Lines | None, gid_map: str | Lines | None) -> None:
        uid, gid = os.geteuid(), os.getegid()
        capable = get_sets()[0]
        self.uid_map, self.uid_helper = _way("uid", _lines("uid", uid_map, uid), uid, bool(capable & mask(["SETUID"])))
        gid_lines, may_set = _lines("gid", gid_map, gid), bool(capable & mask(["SETGID"]))
        self.gid_map, self.gid_helper = _way("gid", gid_lines, gid, may_set)
        self.deny_setgroups = self.gid_map is not None and not may_set


def plan_of(context: Description, kind: str, **more: Any) -> _core.Plan:
    """`context.plan`, with the maps that the caller may write at this moment."""
    if context.join is not None:
        load_hints()
    if context.uid_map is None and context.gid_map is None:
        return context.plan(kind, **more)
    return context.plan(kind, maps=Maps(context.uid_map, context.gid_map), **more)


def _lines(kind: str, wanted: str | Lines | None, own: int) -> Lines:
    if wanted is None:
        return ()
    if wanted == "root":
        return ((0, own, 1),)
    if wanted == "current":
        return ((own, own, 1),)
    if wanted == "auto":
        return _auto(kind, own)
    assert not isinstance(wanted, str)
    return wanted


def _auto(kind: str, own: int) -> Lines:
    """0 is one's own id, and from 1 on what the files grant; root, who needs no grant, has every id as it is."""
    ranges = granted(kind, own)
    if own == 0 and not ranges:
        return tuple(_own_map(kind))
    lines, inside = [(0, own, 1)], 1
    for first, count in ranges:
        lines.append((inside, first, count))
        inside += count
    if len(lines) == 1:
        path = f"/etc/sub{kind}"
        raise ContextError(
            f"{kind}_map='auto': {path} grants {kind} {own} no range. Try: usermod --add-sub{kind}s 100000-165535 NAME "
            f"as root, or {kind}_map='root' for this one id",
            field=f"{kind}_map",
        )
    return tuple(lines)


def _own_map(kind: str) -> list[tuple[int, int, int]]:
    """Every id that this namespace has, unchanged."""
    with open(f"/proc/self/{kind}_map", "rb") as f:
        return [(int(first), int(first), int(count)) for first, _outside, count in (line.split() for line in f)]


def granted(kind: str, own: int) -> list[tuple[int, int]]:
    """The ranges, (first, count), that /etc/subuid or /etc/subgid grants to the user with this uid."""
    import pwd

    uid = os.geteuid()
    names = {str(uid)}
    try:
        names.add(pwd.getpwuid(uid).pw_name)
    except KeyError:
        pass
    found = []
    try:
        with open(f"/etc/sub{kind}", encoding="utf-8", errors="replace") as f:
            for line in f:
                name, _, rest = line.strip().partition(":")
                first, _, count = rest.partition(":")
                if name in names and first.isdigit() and count.isdigit() and int(count):
                    found.append((int(first), int(count)))
    except OSError:
        pass
    return found


def _way(kind: str, lines: Lines, own: int, privileged: bool) -> tuple[bytes | None, tuple[bytes, ...] | None]:
    """The text to write, or the helper to run."""
    if not lines:
        return None, None
    if privileged or (len(lines) == 1 and lines[0][1:] == (own, 1)):
        return b"".join(b"%d %d %d\n" % line for line in lines), None
    name = _HELPERS[kind]
    path = _find(name)
    if path is None:
        raise Unsupported(
            f"{kind} ranges without privilege",
            reason=f"{name} is not installed (Debian: apt-get install uidmap), and uid {os.geteuid()} may map itself alone",
        )
    words = [str(number).encode() for line in lines for number in line]
    return None, (path, *words)


def _find(name: str) -> bytes | None:
    for directory in os.get_exec_path():
        path = os.path.join(directory, name)
        if os.access(path, os.X_OK):
            return os.fsencode(path)
    return None
