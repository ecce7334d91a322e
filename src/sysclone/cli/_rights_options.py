"""The options for who a task is and what it may do: ids, capabilities, securebits."""

from __future__ import annotations

import argparse
import re

from .._context.capabilities import NAMES, Capabilities
from .._errors import ContextError
from .._flags import Namespace
from . import _words as words
from ._tell import near

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    Changes = tuple[bool, tuple[tuple[str, str], ...]]

_IDS: Final = (
    ("--uid", "uid", "USER", words.user, "the user id, by number or name: real, effective and saved"),
    ("--gid", "gid", "GROUP", words.group, "the group id, by number or name: real, effective and saved"),
    ("--groups", "groups", "GROUP,…", words.groups, "the further groups; none for none"),
)
_FIELDS: Final = ("uid", "gid", "groups", "securebits")
# In the order of their bits: linux/securebits.h. Those from exec_restrict_file on are of Linux 6.14.
_SECUREBITS: Final = (
    "noroot", "noroot_locked", "no_setuid_fixup", "no_setuid_fixup_locked", "keep_caps", "keep_caps_locked",
    "no_cap_ambient_raise", "no_cap_ambient_raise_locked", "exec_restrict_file", "exec_restrict_file_locked",
    "exec_deny_interactive", "exec_deny_interactive_locked",
)  # fmt: skip
# Option, set, the line of /proc/PID/status, what it has in a new user namespace, help.
_SETS: Final[tuple[tuple[str, str, str, frozenset[str], str], ...]] = (
    (
        "--bounding-set",
        "bounding",
        "CapBnd",
        frozenset(NAMES),
        "the most that any program can get: these, or with a sign before each name more or fewer than now: =-all,+chown",
    ),
    ("--inh-caps", "inheritable", "CapInh", frozenset(), "what a program with file capabilities may get, likewise"),
    ("--ambient-caps", "ambient", "CapAmb", frozenset(), "what every program keeps, likewise; of --inh-caps"),
)


def add_rights_arguments(group: argparse._ArgumentGroup) -> None:
    """The options."""
    words.add_table(group, _IDS)
    add = group.add_argument
    add("--init-groups", action="store_true", help="the further groups are those of --uid's user here")
    add(
        "--capabilities",
        type=words.field("capabilities", words.capabilities),
        metavar="NAME,…",
        help="these in all five sets, and no others; none for none",
    )
    for option, dest, _line, _anew, text in _SETS:
        add(
            option,
            dest=dest,
            type=_changes,
            metavar="[+|-]NAME,…",
            help=text,
        )
    add(
        "--securebits",
        type=words.field("securebits", securebits),
        metavar="NAME,…",
        help="what root's uid means: noroot, no_setuid_fixup, no_cap_ambient_raise, each also with _locked, …",
    )
    add("--no-new-privs", action="store_true", help="no program gives it more rights (PR_SET_NO_NEW_PRIVS)")


def rights_of(args: argparse.Namespace, new: Namespace) -> dict[str, Any]:
    """The fields that they ask for.

    Args:
        args: as parsed.
        new: the namespaces that the task does not share with us: in a user namespace it has other capabilities.

    Raises:
        ContextError: they do not go together.
    """
    found = {name: getattr(args, name) for name in _FIELDS if getattr(args, name) is not None}
    if args.no_new_privs:
        found["no_new_privs"] = True
    if args.init_groups:
        found["groups"] = _groups_of(args)
    wanted = _capabilities(args, Namespace.USER in new)
    if wanted is not None:
        found["capabilities"] = wanted
    return found


def _groups_of(args: argparse.Namespace) -> tuple[int, ...]:
    import os
    import pwd

    if args.groups is not None:
        raise ContextError("--groups beside it: one of them", field="init_groups")
    if args.uid is None:
        raise ContextError("--uid is needed beside it", field="init_groups")
    try:
        user = pwd.getpwuid(args.uid)
    except KeyError:
        raise ContextError(f"there is no user with the id {args.uid} here", field="init_groups") from None
    return tuple(os.getgrouplist(user.pw_name, user.pw_gid if args.gid is None else args.gid))


# --- capabilities


def _changes(text: str) -> Changes:
    """Capabilities, either all with a sign, as setpriv(1) takes them, or none; "all" and "none" among them."""
    parts = [word.strip() for word in text.split(",")]
    signed = [word[:1] in ("+", "-") for word in parts]
    if any(signed) != all(signed):
        raise words.wrong(text, "a + or - before each name, or before none,")
    pairs = [(word[0], word[1:]) if sign else ("+", word) for word, sign in zip(parts, signed, strict=True)]
    known = ("all", "none", *(name.lower() for name in NAMES))
    for _sign, name in pairs:
        bare = name.lower().removeprefix("cap_")
        if bare not in known or (bare == "none" and (signed[0] or len(pairs) > 1)):
            raise argparse.ArgumentTypeError(f"{name!r} is no capability{near(bare, known)}")
    return signed[0], tuple((sign, name.upper().removeprefix("CAP_")) for sign, name in pairs)


def _changed(changes: Changes, now: frozenset[str]) -> frozenset[str]:
    relative, pairs = changes
    kept = set(now) if relative else set()
    for sign, name in pairs:
        meant = set(NAMES) if name == "ALL" else {name} - {"NONE"}
        kept = kept | meant if sign == "+" else kept - meant
    return frozenset(kept)


def _capabilities(args: argparse.Namespace, anew: bool) -> Capabilities | None:
    given = {dest: getattr(args, dest) for _option, dest, *_ in _SETS if getattr(args, dest) is not None}
    if args.capabilities is not None:
        if given:
            raise ContextError("it has all five sets: no option for one of them beside it", field="capabilities")
        chosen: Capabilities = args.capabilities
        return chosen
    if not given:
        return None
    if "ambient" in given:
        given.setdefault("inheritable", (True, ()))  # what is inheritable now
    now = _sets_now()
    sets = {
        dest: _changed(given[dest], full if anew else now[line])
        for _option, dest, line, full, _help in _SETS
        if dest in given
    }
    more = sets.get("ambient", frozenset()) - sets.get("inheritable", frozenset())
    if more:
        names = ",".join(f"+{name.lower()}" for name in sorted(more))
        raise ContextError(f"an ambient capability is inheritable too\ntry: --inh-caps={names}", field="ambient_caps")
    if args.uid and "ambient" in sets:
        # With the uid the kernel takes away what is not asked for, and only what is permitted can be made ambient.
        sets |= {"permitted": sets["ambient"], "effective": sets["ambient"]}
    return Capabilities(**sets)


def _sets_now() -> dict[str, frozenset[str]]:
    from .._context.capabilities import names

    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        lines = [line.split() for line in file if line.startswith("Cap")]
    return {line[0].rstrip(":"): frozenset(names(int(line[1], 16)) & set(NAMES)) for line in lines}


def securebits(text: str) -> int:
    """Names of capabilities(7), or their number; none for none."""
    if re.fullmatch(r"0x[0-9a-fA-F]+|[0-9]+", text):
        return int(text, 0)
    bits = 0
    for word in text.lower().replace("-", "_").split(","):
        name = word.strip().removeprefix("secbit_")
        if name != "none" and name not in _SECUREBITS:
            raise argparse.ArgumentTypeError(f"{word!r} is no securebit{near(name, _SECUREBITS)}")
        bits |= 1 << _SECUREBITS.index(name) if name != "none" else 0
    return bits
