"""Mounts to be made in a mount namespace, as plain values. `_steps.mounting` makes them. Pure."""

from __future__ import annotations

import os

from .._errors import ContextError
from .._value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, Final, Self

    Path = str | os.PathLike[str]

ATTRIBUTES: Final = ("read_only", "nosuid", "nodev", "noexec", "noatime", "nosymfollow")
_HARMLESS: Final = ("nosuid", "nodev", "noexec")
PROPAGATIONS: Final = ("private", "slave", "shared", "unbindable", "unchanged")


class Mount(Value):
    """One mount to be made for a task: Mount.bind, Mount.tmpfs, Mount.proc and so on make them.

    With a new root, targets are paths in it, and are looked for without leaving it; sources are paths as the creator sees
    them. Attributes are read_only, nosuid, nodev, noexec, noatime, nosymfollow (Linux 5.14). `create` makes a target that is not
    there: a directory, or an empty file for a source that is none.

    Attributes:
        kind: "bind", "filesystem", "move" or "attributes".
        source: a path, a borrowed fd, or for a file system its source.
        target: where, a path.
        type: a file system's.
        options: a file system's: (name, value or None) each.
        attributes: those that are set.
        recursive: with the mounts below it.
        create: whether to make the target.

    See mount(2), mount_setattr(2).
    """

    __slots__ = ("attributes", "create", "kind", "options", "recursive", "source", "target", "type")

    kind: str
    source: str | int | None
    target: str
    type: str | None
    options: tuple[tuple[str, str | None], ...]
    attributes: tuple[str, ...]
    recursive: bool
    create: bool

    def __init__(
        self,
        kind: str,
        target: Path,
        *,
        source: Path | int | None = None,
        type: str | None = None,  # noqa: A002 (mount(8)'s name)
        options: Iterable[tuple[str, str | None]] = (),
        attributes: Iterable[str] = (),
        recursive: bool = False,
        create: bool = False,
    ) -> None:
        if kind not in ("bind", "filesystem", "move", "attributes"):
            raise _wrong(f"{kind!r} is no kind of mount")
        named = tuple(attributes)
        for name in named:
            if name not in ATTRIBUTES:
                raise _wrong(f"{name!r} is no attribute of a mount: {', '.join(ATTRIBUTES)}")
        where = source if isinstance(source, int) and not isinstance(source, bool) else _path(source, "source")
        self._have(
            kind=kind, source=where, target=_path(target, "target"), type=type, options=tuple(options),
            attributes=tuple(name for name in ATTRIBUTES if name in named), recursive=bool(recursive),
            create=bool(create),
        )  # fmt: skip
        if not self.target:
            raise _wrong("a target is needed")

    @classmethod
    def bind(
        cls,
        source: Path | int,
        target: Path | None = None,
        *,
        recursive: bool = True,
        create: bool = False,
        **attributes: bool,
    ) -> Self:
        """What is at source, at target too; at the same path where there is no target.

        With recursive, attributes are set for all of the mounts below it too (Linux 5.12; one by one before).
        """
        if target is None and isinstance(source, int):
            raise _wrong("a bind of an fd needs a target")
        where: Any = source if target is None else target
        return cls("bind", where, source=source, recursive=recursive, create=create, attributes=_on(attributes))

    @classmethod
    def tmpfs(
        cls,
        target: Path,
        *,
        size_bytes: int | None = None,
        mode: int | None = None,
        create: bool = False,
        **attributes: bool,
    ) -> Self:
        """An empty file system in memory; size_bytes is half of the memory where it is not given, mode 0o1777."""
        options: list[tuple[str, str | None]] = []
        if size_bytes is not None:
            options.append(("size", str(size_bytes)))
        if mode is not None:
            options.append(("mode", f"{mode:o}"))
        return cls("filesystem", target, type="tmpfs", options=options, create=create, attributes=_on(attributes))

    @classmethod
    def proc(
        cls,
        target: Path = "/proc",
        *,
        hide_pid: str | None = None,
        subset: str | None = None,
        create: bool = False,
        **attributes: bool,
    ) -> Self:
        """/proc of the task's own pid namespace. hide_pid: "noaccess", "invisible" or "ptraceable"; subset: "pid" (5.8)."""
        options = [(name, value) for name, value in (("hidepid", hide_pid), ("subset", subset)) if value is not None]
        named = (*_on(attributes), *_HARMLESS)
        return cls("filesystem", target, type="proc", options=options, create=create, attributes=named)

    @classmethod
    def sysfs(cls, target: Path = "/sys", *, create: bool = False, **attributes: bool) -> Self:
        """/sys of the task's own network namespace."""
        named = (*_on(attributes), *_HARMLESS)
        return cls("filesystem", target, type="sysfs", create=create, attributes=named)

    @classmethod
    def overlay(
        cls,
        target: Path,
        lower: Iterable[Path],
        *,
        upper: Path | None = None,
        work: Path | None = None,
        create: bool = False,
        **attributes: bool,
    ) -> Self:
        """Directories over each other, the first of lower on top.

        What is written goes to upper, which needs an empty work directory on its own file system. Without upper, lower are two
        at least, and nothing can be written. In a user namespace: Linux 5.11.
        """
        layers = [_path(each, "lower") or "" for each in lower]
        if len(layers) + (upper is not None) < 2 or (upper is None) != (work is None):
            raise _wrong("an overlay needs two directories at least, upper among them, and upper and work together")
        if any(":" in each for each in layers):
            raise _wrong("an overlay's directories cannot have a colon in their paths")
        options = [
            ("lowerdir", ":".join(layers)),
            ("upperdir", _path(upper, "upper")),
            ("workdir", _path(work, "work")),
        ]
        given = [(name, value) for name, value in options if value is not None]
        return cls("filesystem", target, type="overlay", options=given, create=create, attributes=_on(attributes))

    @classmethod
    def filesystem(
        cls,
        type: str,  # noqa: A002 (mount(8)'s name)
        target: Path,
        *,
        source: Path | None = None,
        options: Mapping[str, str | None] | None = None,
        create: bool = False,
        **attributes: bool,
    ) -> Self:
        """A file system of any type: "devpts", "mqueue", "ext4"; options by name, with None for those without a value."""
        if not type or "\0" in type:
            raise _wrong("a file system's type is needed")
        given = tuple((str(name), None if value is None else str(value)) for name, value in (options or {}).items())
        named = _on(attributes)
        return cls("filesystem", target, source=source, type=type, options=given, create=create, attributes=named)

    @classmethod
    def move(cls, source: Path, target: Path, *, create: bool = False) -> Self:
        """What is mounted at source, at target instead."""
        return cls("move", target, source=source, create=create)

    @classmethod
    def set(cls, target: Path, *, recursive: bool = True, **attributes: bool) -> Self:
        """Attributes for what is mounted at target already, and with recursive for the mounts below it."""
        if not any(attributes.values()):
            raise _wrong("Mount.set needs an attribute")
        return cls("attributes", target, recursive=recursive, attributes=_on(attributes))

    def __str__(self) -> str:
        what = self.type or (self.kind if self.kind != "attributes" else "set")
        if self.kind in ("bind", "move"):
            what += f" {self.source}"
        return f"mount({' '.join((what, *self.attributes))}, {self.target})"


def _on(attributes: Mapping[str, bool]) -> tuple[str, ...]:
    for name in attributes:
        if name not in ATTRIBUTES:
            raise _wrong(f"{name!r} is no attribute of a mount: {', '.join(ATTRIBUTES)}")
    return tuple(name for name, value in attributes.items() if value)


def mounts(value: object, field: str) -> tuple[Mount, ...]:
    """Mounts, in the order in which they are made."""
    many: Any = (value,) if isinstance(value, Mount) else value
    if not isinstance(many, (tuple, list)) or not all(isinstance(each, Mount) for each in many):
        raise ContextError(f"{field}={value!r}: a list of Mount is needed, such as Mount.proc()", field=field)
    return tuple(many)


def _path(value: Any, what: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, (str, bytes, os.PathLike)):
        raise _wrong(f"{what}={value!r} is no path")
    path = os.fsdecode(value)
    if "\0" in path:
        raise _wrong(f"{what}={path!r} has a null byte in it")
    return path


def _wrong(problem: str) -> ContextError:
    return ContextError(f"mounts: {problem}", field="mounts")
