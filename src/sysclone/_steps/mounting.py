"""Mounts and roots of a mount namespace, by the calls of Linux 5.2 (fsopen, open_tree, move_mount) and 5.12 (mount_setattr),
or by mount(2) where the kernel does not have those.

Each function is one step of a child's set-up, and raises OSError. A target is an fd, found in the root without a way out of
it; so no link in a foreign tree leads a mount elsewhere.
"""  # noqa: D205

from __future__ import annotations

import errno
import os
import stat
import struct

from .. import _core
from .._errors import CloneError
from .raw import AT_FDCWD, at_path, close

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from .._context.mount_types import Mount

_MS: Final = {"read_only": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "noatime": 1024, "nosymfollow": 256}
_MS_REMOUNT, _MS_BIND, _MS_MOVE, _MS_REC = 32, 4096, 8192, 16384
_PROPAGATION: Final = {"private": 1 << 18, "slave": 1 << 19, "shared": 1 << 20, "unbindable": 1 << 17}
_ATTR: Final = {"read_only": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "noatime": 0x10, "nosymfollow": 0x200000}
_ATTR_ATIME: Final = 0x70
_AT_EMPTY_PATH: Final = 0x1000
_AT_RECURSIVE: Final = 0x8000
_OPEN_TREE_CLONE: Final = 1
_MOVE_F_EMPTY, _MOVE_T_EMPTY = 4, 0x40
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CREATE = 0, 1, 6
_RESOLVE_IN_ROOT: Final = 0x10
_MNT_DETACH: Final = 2
_O_PATH: Final = os.O_PATH | os.O_CLOEXEC
# What mountinfo calls them, as flags that a remount has to repeat.
_OPTIONS: Final = {b"ro": 1, b"nosuid": 2, b"nodev": 4, b"noexec": 8, b"noatime": 1024, b"nodiratime": 2048,
                   b"relatime": 1 << 21, b"nosymfollow": 256}  # fmt: skip


def set_propagation(how: str) -> None:
    """Whether mounts and unmounts go on to other namespaces, or come from there: for all there is."""
    _core.syscall("mount", b"none", b"/", None, _MS_REC | _PROPAGATION[how], None)


# --- the root


def make_root(where: str | int, notes: dict[str, int]) -> None:
    """Make a directory a mount, which pivot_root(2) asks for, and where targets are looked for from then on."""
    directory = where if isinstance(where, int) else at_path(where, os.O_PATH | os.O_DIRECTORY)
    try:
        tree = _clone_tree(directory, recursive=True)
    except OSError as e:
        if e.errno != errno.ENOSYS:
            raise
        _core.syscall("mount", _of(directory), _of(directory), None, _MS_BIND | _MS_REC, None)
        tree = _again(directory)
    else:
        _attach(tree, directory)
    if directory != where:
        close(directory)
    notes["root"] = tree


def enter_root(notes: dict[str, int]) -> None:
    """pivot_root(2) to the prepared root, and the old one away with all that is mounted in it."""
    root = notes.pop("root")
    _core.syscall("fchdir", root)
    close(root)
    _core.syscall("pivot_root", b".", b".")
    _core.syscall("umount2", b".", _MNT_DETACH)
    _core.syscall("chdir", b"/")


# --- one mount


def make(mount: Mount, notes: dict[str, int]) -> None:
    """Make one mount.

    Raises:
        CloneError: a call of several failed; the hint has the kernel's own words where it gave some.
        OSError: another did.
    """
    root = notes.get("root", -1)
    if mount.create:
        _create(mount, root)
    target = _find(mount.target, root)
    kept = -1
    try:
        try:
            kept = _NEW[mount.kind](mount, target)
        except OSError as e:
            if e.errno != errno.ENOSYS or isinstance(e, CloneError):
                raise
            kept = _by_mount2(mount, target, root)
        if root >= 0 and kept >= 0 and _same_place(target, root):
            # Targets are looked for in what lies on top.
            notes["root"], kept = kept, root
    finally:
        close(target)
        if kept >= 0:
            close(kept)


def _same_place(one: int, other: int) -> bool:
    return os.path.samestat(os.fstat(one), os.fstat(other))


def _find(path: str, root: int) -> int:
    if root < 0:
        return at_path(path, os.O_PATH)
    how = struct.pack("QQQ", _O_PATH, 0, _RESOLVE_IN_ROOT)
    return _core.syscall("openat2", root, os.fsencode(path), how, len(how))


def _create(mount: Mount, root: int) -> None:
    """The target, with the directories above it: in the root, link by link."""
    directory = True
    if mount.kind in ("bind", "move"):
        source: Any = mount.source
        directory = stat.S_ISDIR((os.fstat if isinstance(source, int) else os.stat)(source).st_mode)
    parts = [part for part in mount.target.split("/") if part]
    for count in range(1, len(parts) + 1):
        path = "/" * mount.target.startswith("/") + "/".join(parts[:count])
        try:
            close(_find(path, root))
            continue
        except FileNotFoundError:
            pass
        above = _find(os.path.dirname(path) or ("/" if root >= 0 else "."), root)
        try:
            if count < len(parts) or directory:
                _core.syscall("mkdirat", above, os.fsencode(parts[count - 1]), 0o755)
            else:
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
                close(_core.syscall("openat", above, os.fsencode(parts[count - 1]), flags, 0o644))
        finally:
            close(above)


# --- by the new calls: each answers an fd of the mount, or -1


def _clone_tree(source: str | int, recursive: bool) -> int:
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    if isinstance(source, int):
        return _core.syscall("open_tree", source, b"", flags | _AT_EMPTY_PATH)
    return _core.syscall("open_tree", AT_FDCWD, os.fsencode(source), flags)


def _attach(tree: int, target: int) -> None:
    _core.syscall("move_mount", tree, b"", target, b"", _MOVE_F_EMPTY | _MOVE_T_EMPTY)


def _set_attributes(fd: int, mount: Mount) -> None:
    wanted = sum(_ATTR[name] for name in mount.attributes)
    cleared = _ATTR_ATIME if "noatime" in mount.attributes else 0
    attr = struct.pack("QQQQ", wanted, cleared, 0, 0)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if mount.recursive else 0)
    _core.syscall("mount_setattr", fd, b"", flags, attr, len(attr))


def _bind(mount: Mount, target: int) -> int:
    assert mount.source is not None
    tree = _clone_tree(mount.source, mount.recursive)
    try:
        if mount.attributes:
            _set_attributes(tree, mount)
        _attach(tree, target)
    except BaseException:
        close(tree)
        raise
    return tree


def _filesystem(mount: Mount, target: int) -> int:
    assert mount.type is not None
    fs = _core.syscall("fsopen", os.fsencode(mount.type), 1)
    try:
        source = mount.type if mount.source is None else str(mount.source)
        for name, value in (("source", source), *mount.options):
            _configure(mount, fs, _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING, name, value)
        _configure(mount, fs, _FSCONFIG_CREATE, None, None)
        tree = _core.syscall("fsmount", fs, 1, sum(_ATTR[name] for name in mount.attributes))
    finally:
        close(fs)
    try:
        _attach(tree, target)
    except BaseException:
        close(tree)
        raise
    return tree


def _configure(mount: Mount, fs: int, command: int, name: str | None, value: str | None) -> None:
    try:
        _core.syscall(
            "fsconfig", fs, command, name and os.fsencode(name), None if value is None else os.fsencode(value), 0
        )
    except OSError as e:
        told = "create" if name is None else name if value is None else f"{name}={value}"
        said = _said(fs)
        raise CloneError(
            e.errno or 0, f"fsconfig({mount.type}, {told})", hint=f"likely: {said}" if said else None
        ) from None


def _said(fs: int) -> str:
    """What the kernel has to say of a refusal: a line begins with its kind, e, w or i."""
    lines: list[str] = []
    line = bytearray(1024)
    while True:
        try:
            length = _core.syscall("read", fs, line, len(line))
        except OSError:
            return "; ".join(lines)
        lines.append(bytes(line[2:length]).decode(errors="replace").strip())


def _move(mount: Mount, target: int) -> int:
    _core.syscall("move_mount", AT_FDCWD, os.fsencode(str(mount.source)), target, b"", _MOVE_T_EMPTY)
    return -1


def _change(mount: Mount, target: int) -> int:
    _set_attributes(target, mount)
    return -1


_NEW: Final = {"bind": _bind, "filesystem": _filesystem, "move": _move, "attributes": _change}


# --- by mount(2): paths alone, so fds go by /proc


def _of(fd: int) -> bytes:
    return b"/proc/self/fd/%d" % fd


def _again(fd: int) -> int:
    """An fd of what is mounted over the place of another."""
    return at_path(os.fsdecode(os.readlink(_of(fd))), os.O_PATH)


def _by_mount2(mount: Mount, target: int, root: int) -> int:
    source = _of(mount.source) if isinstance(mount.source, int) else os.fsencode(mount.source or mount.type or "")
    flags = sum(_MS[name] for name in mount.attributes)
    at = _of(target)
    if mount.kind == "filesystem":
        data = ",".join(name if value is None else f"{name}={value}" for name, value in mount.options)
        _core.syscall("mount", source, at, os.fsencode(mount.type or ""), flags, os.fsencode(data))
    elif mount.kind == "bind":
        _core.syscall("mount", source, at, None, _MS_BIND | (_MS_REC if mount.recursive else 0), None)
    elif mount.kind == "move":
        _core.syscall("mount", source, at, None, _MS_MOVE, None)
    # In a root, its own fd would be found again, under what was mounted over it.
    there = _again(target) if root >= 0 and _same_place(target, root) else _find(mount.target, root)
    if mount.attributes and mount.kind in ("bind", "attributes"):
        try:
            _remount(there, flags, mount.recursive)
        except BaseException:
            close(there)
            raise
    return there


def _remount(fd: int, flags: int, recursive: bool) -> None:
    """A bind mount's attributes, one mount at a time, each with those that it has: what is left out would be taken off."""
    top = os.readlink(_of(fd))
    with open("/proc/self/mountinfo", "rb") as info:
        rows = [line.split(b" ", 6)[4:6] for line in info]
    places = {_unescaped(place): options for place, options in rows}
    for place, options in places.items():
        if place == top or (recursive and place.startswith(top.rstrip(b"/") + b"/")):
            has = sum(_OPTIONS.get(option, 0) for option in options.split(b","))
            _core.syscall("mount", None, place, None, _MS_REMOUNT | _MS_BIND | has | flags, None)


def _unescaped(place: bytes) -> bytes:
    """Blanks and their like are octal in mountinfo."""
    for code, char in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        place = place.replace(code, char)
    return place
