"""Mounts as words of the command line: KIND, paths and options, with colons between."""

from __future__ import annotations

import argparse
import re

from .._context.mount_types import ATTRIBUTES, Mount
from ._tell import near
from ._words import octal, size, wrong

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    Switches = dict[str, Any]
    Values = dict[str, list[str]]
    Maker = Callable[[list[str], Switches, Values], Mount]

_SWITCHES: Final = {"ro": "read_only", **{name: name for name in ATTRIBUTES if name != "read_only"}, "create": "create"}
_FORMS: Final = {
    "bind": "bind:SOURCE[:TARGET]", "tmpfs": "tmpfs:TARGET", "proc": "proc[:TARGET]", "sysfs": "sysfs[:TARGET]",
    "overlay": "overlay:TARGET:lower=DIRECTORY,…", "devpts": "devpts:TARGET", "mqueue": "mqueue:TARGET",
    "move": "move:SOURCE:TARGET", "set": "set:TARGET:OPTION,…",
}  # fmt: skip
_PATHS: Final = {"bind": (1, 2), "proc": (0, 1), "sysfs": (0, 1), "move": (2, 2)}


def mount(text: str) -> Mount:
    """One mount: KIND, its paths and its options, with colons between; a colon or comma in a path has a backslash before it."""
    kind, *parts = _split(":", text)
    if kind not in _FORMS:
        raise argparse.ArgumentTypeError(f"{kind!r} is no kind of mount{near(kind, _FORMS)}")
    least, most = _PATHS.get(kind, (1, 1))
    # What comes after the paths that it must have is one more of them if it begins as one.
    count = least + (len(parts) > least < most and parts[least].startswith("/"))
    paths, rest = [_plain(part) for part in parts[:count]], parts[count:]
    if len(paths) < least or not all(paths) or len(rest) > 1:
        raise wrong(text, f"{_FORMS[kind]}{'' if kind in ('overlay', 'set') else '[:OPTION,…]'}")
    switches, values = _mount_options(rest[0] if rest else "")
    made = _MAKERS[kind](paths, switches, values)
    if values:
        raise argparse.ArgumentTypeError(f"{text!r}: {kind} takes no {next(iter(values))}")
    return made


def _split(sign: str, text: str) -> list[str]:
    return re.split(rf"(?<!\\){sign}", text)


def _plain(text: str) -> str:
    return re.sub(r"\\([:,])", r"\1", text)


def _mount_options(text: str) -> tuple[Switches, Values]:
    switches: Switches = {}
    values: Values = {}
    for word in filter(None, _split(",", text)):
        name, equals, value = word.partition("=")
        if not equals and name in _SWITCHES:
            switches[_SWITCHES[name]] = True
        elif equals or name == "norecursive":
            values.setdefault(name, []).append(_plain(value))
        elif name == "rw":
            switches["read_only"] = False
        else:
            known = ("rw", *_SWITCHES, "norecursive")
            raise argparse.ArgumentTypeError(f"{name!r} is no option of a mount{near(name, known)}")
    return switches, values


def _one(values: Values, name: str, parse: Callable[[str], Any] = str) -> Any:
    found = values.pop(name, None)
    return None if found is None else parse(found[-1])


def _bind(paths: list[str], switches: Switches, values: Values) -> Mount:
    return Mount.bind(*paths, recursive=values.pop("norecursive", None) is None, **switches)


def _tmpfs(paths: list[str], switches: Switches, values: Values) -> Mount:
    return Mount.tmpfs(*paths, size_bytes=_one(values, "size", size), mode=_one(values, "mode", octal), **switches)


def _proc(paths: list[str], switches: Switches, values: Values) -> Mount:
    return Mount.proc(*paths, hide_pid=_one(values, "hidepid"), subset=_one(values, "subset"), **switches)


def _sysfs(paths: list[str], switches: Switches, _values: Values) -> Mount:
    return Mount.sysfs(*paths, **switches)


def _overlay(paths: list[str], switches: Switches, values: Values) -> Mount:
    lower = values.pop("lower", [])
    return Mount.overlay(paths[0], lower, upper=_one(values, "upper"), work=_one(values, "work"), **switches)


def _move(paths: list[str], switches: Switches, _values: Values) -> Mount:
    create = switches.pop("create", False)
    if switches:
        raise argparse.ArgumentTypeError("move takes no option but create: set has the others")
    return Mount.move(*paths, create=create)


def _set(paths: list[str], switches: Switches, values: Values) -> Mount:
    if switches.pop("create", False):
        raise argparse.ArgumentTypeError("set takes no create: it is for what is mounted already")
    if switches.get("read_only") is False:
        raise argparse.ArgumentTypeError("set takes no rw: it takes nothing away from what is set already")
    return Mount.set(*paths, recursive=values.pop("norecursive", None) is None, **switches)


def _of_type(name: str) -> Maker:
    def make(paths: list[str], switches: Switches, values: Values) -> Mount:
        options: dict[str, str | None] = {option: _one(values, option) for option in list(values)}
        return Mount.filesystem(name, *paths, options=options, **switches)

    return make


_MAKERS: Final[dict[str, Maker]] = {
    "bind": _bind, "tmpfs": _tmpfs, "proc": _proc, "sysfs": _sysfs, "overlay": _overlay, "devpts": _of_type("devpts"),
    "mqueue": _of_type("mqueue"), "move": _move, "set": _set,
}  # fmt: skip
