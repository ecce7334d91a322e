"""What a Landlock sandbox leaves, as a plain value. `_steps.landlock` makes it. Pure."""

from __future__ import annotations

import os

from .._errors import ContextError
from .._value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any, Final

    Path = str | os.PathLike[str]

# linux/landlock.h: the bit of each right, and the ABI version that has it. In the order of the bits.
RIGHTS: Final = {
    "execute": 1, "write_file": 1, "read_file": 1, "read_dir": 1, "remove_dir": 1, "remove_file": 1, "make_char": 1,
    "make_dir": 1, "make_reg": 1, "make_sock": 1, "make_fifo": 1, "make_block": 1, "make_sym": 1, "refer": 2,
    "truncate": 3, "ioctl_dev": 5,
}  # fmt: skip
SCOPES: Final = {"abstract_unix_socket": 6, "signal": 6}
BITS: Final = {name: 1 << bit for bit, name in enumerate(RIGHTS)}
_OF_FILES: Final = frozenset({"execute", "write_file", "read_file", "truncate", "ioctl_dev"})
READ: Final = frozenset({"execute", "read_file", "read_dir"})
# Linux releases with each ABI.
SINCE: Final = {1: "5.13", 2: "5.19", 3: "6.2", 4: "6.7", 5: "6.10", 6: "6.12"}


class Landlock(Value):
    """What a task and all that comes of it may still do with files, and with TCP; everything else of that is refused.

    Paths are opened in the task, after its mounts and its root. A right that the kernel does not know is an error when the task
    is made, unless best_effort is set: then what the kernel knows is restricted.

    Args:
        read: paths to be read and executed, with what is below them.
        write: paths to do everything with, with what is below them.
        rules: further paths with their rights: "execute", "write_file", "read_file", "read_dir", "remove_dir", "remove_file",
            "make_char", "make_dir", "make_reg", "make_sock", "make_fifo", "make_block", "make_sym", "refer" (Linux 5.19),
            "truncate" (6.2), "ioctl_dev" (6.10).
        tcp_bind, tcp_connect: ports, 0 to 65535, that may be; None leaves all of them free (Linux 6.7).
        scopes: "signal" and "abstract_unix_socket": none to processes outside of the sandbox (Linux 6.12).
        best_effort: whether to do without what this kernel does not have.

    Raises:
        ContextError: there is no such right, scope or port.

    Needs no_new_privs, or CAP_SYS_ADMIN. See landlock(7). Linux 5.13.
    """

    __slots__ = ("best_effort", "rules", "scopes", "tcp_bind", "tcp_connect")

    rules: tuple[tuple[str, tuple[str, ...]], ...]
    tcp_bind: tuple[int, ...] | None
    tcp_connect: tuple[int, ...] | None
    scopes: tuple[str, ...]
    best_effort: bool

    def __init__(
        self,
        *,
        read: Collection[Path] = (),
        write: Collection[Path] = (),
        rules: Mapping[Any, Collection[str]] | None = None,
        tcp_bind: Collection[int] | None = None,
        tcp_connect: Collection[int] | None = None,
        scopes: Collection[str] = (),
        best_effort: bool = False,
    ) -> None:
        found: dict[str, set[str]] = {}
        for paths, rights in ((read, READ), (write, RIGHTS)):
            for path in (paths,) if isinstance(paths, (str, os.PathLike)) else paths:
                found.setdefault(_path(path), set()).update(rights)
        for path, names in (rules or {}).items():
            found.setdefault(_path(path), set()).update(_known(names, RIGHTS, "right"))
        self._have(
            rules=tuple((path, tuple(sorted(rights))) for path, rights in sorted(found.items())),
            tcp_bind=_ports(tcp_bind), tcp_connect=_ports(tcp_connect),
            scopes=tuple(sorted(_known(scopes, SCOPES, "scope"))), best_effort=bool(best_effort),
        )  # fmt: skip


def of_files(rights: int) -> int:
    """Those rights that a file, which is no directory, can have."""
    return rights & sum(BITS[name] for name in _OF_FILES)


def landlock(value: object, field: str) -> Landlock | None:
    """A Landlock."""
    if value is None or isinstance(value, Landlock):
        return value
    raise ContextError(f"{field}={value!r}: a Landlock is needed", field=field)


def _known(names: Collection[str], all_of_them: Mapping[str, int], what: str) -> set[str]:
    many = {names} if isinstance(names, str) else set(names)
    for name in many - set(all_of_them):
        raise _wrong(f"{name!r} is no {what}: {', '.join(all_of_them)}")
    return many


def _ports(ports: Collection[Any] | None) -> tuple[int, ...] | None:
    if ports is None:
        return None
    for port in ports:
        if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535:
            raise _wrong(f"{port!r} is no port, 0 to 65535")
    return tuple(sorted(set(ports)))


def _path(path: Any) -> str:
    text = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
    if not text or "\0" in text:
        raise _wrong(f"{path!r} is no path")
    return text


def _wrong(problem: str) -> ContextError:
    return ContextError(f"landlock: {problem}", field="landlock")
