"""Landlock by raw calls: what is left is gathered when the task has its files, and is set as one of its last steps."""

from __future__ import annotations

import errno
import os
import stat
import struct

from .. import _core
from .._context.landlock_rules import BITS, RIGHTS, SCOPES, SINCE, of_files
from .._errors import CloneError, Unsupported
from .raw import at_path, close

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from .._context.landlock_rules import Landlock

_VERSION: Final = 1
_RULE_PATH, _RULE_PORT = 1, 2
_BIND, _CONNECT = 1, 2
_HIGH: Final = 3


def abi() -> int:
    """The kernel's version of Landlock; 0 where it has none, or does not use it."""
    try:
        return _core.syscall("landlock_create_ruleset", None, 0, _VERSION)
    except OSError as e:
        if e.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
            return 0
        raise CloneError(e.errno or 0, step="landlock_create_ruleset(VERSION)") from None


class Compiled:
    """A Landlock as this kernel can have it: worked out by the creator.

    Raises:
        Unsupported: the kernel lacks what it asks for, and it does not do without.
        CloneError: the kernel could not be asked.
    """

    def __init__(self, wanted: Landlock) -> None:
        self.version = version = abi()
        if not version:
            raise Unsupported(
                "Landlock", since=SINCE[1], reason="the kernel has none, or lsm= on its command line leaves it out"
            )
        asked = {RIGHTS[right] for _path, rights in wanted.rules for right in rights if len(rights) < len(RIGHTS)}
        if wanted.tcp_bind is not None or wanted.tcp_connect is not None:
            asked.add(4)
        asked |= {SCOPES[scope] for scope in wanted.scopes}
        needed = max(asked, default=1)
        if needed > version and not wanted.best_effort:
            raise Unsupported(
                f"Landlock with all that is asked for (ABI {needed})",
                since=SINCE[needed],
                reason=f"this has ABI {version}",
            )
        self.rights = sum(BITS[name] for name, since in RIGHTS.items() if since <= version)
        self.rules = [(path, sum(BITS[right] for right in rights) & self.rights) for path, rights in wanted.rules]
        ports = ((_BIND, wanted.tcp_bind), (_CONNECT, wanted.tcp_connect))
        self.ports = [(right, port) for right, given in ports for port in given or () if version >= 4]
        self.network = sum(right for right, given in ports if given is not None) if version >= 4 else 0
        self.scopes = sum(1 << list(SCOPES).index(name) for name in wanted.scopes) if version >= 6 else 0

    def attributes(self) -> bytes:
        """A struct landlock_ruleset_attr, no longer than this kernel's."""
        length = 8 if self.version < 4 else 16 if self.version < 6 else 24
        return struct.pack("QQQ", self.rights, self.network, self.scopes)[:length]


def gather(compiled: Compiled, above: int, notes: dict[str, int]) -> None:
    """landlock_create_ruleset(2), landlock_add_rule(2) for each path and port.

    Args:
        compiled: what is left.
        above: the ruleset's fd is at least this, where other steps place fds.
        notes: get it.

    Raises:
        CloneError: a path cannot be opened.
        OSError: the kernel refused.
    """
    import fcntl

    attributes = compiled.attributes()
    low = _core.syscall("landlock_create_ruleset", attributes, len(attributes), 0)
    try:
        ruleset = notes["landlock"] = _core.syscall("fcntl", low, fcntl.F_DUPFD_CLOEXEC, max(above, _HIGH))
    finally:
        close(low)
    for path, rights in compiled.rules:
        try:
            fd = at_path(path, os.O_PATH)
        except OSError as e:
            raise CloneError(e.errno or 0, step=f"open({path})", filename=path) from None
        try:
            allowed = rights if stat.S_ISDIR(os.fstat(fd).st_mode) else of_files(rights)
            _core.syscall("landlock_add_rule", ruleset, _RULE_PATH, struct.pack("=Qi", allowed, fd), 0)
        finally:
            close(fd)
    for right, port in compiled.ports:
        _core.syscall("landlock_add_rule", ruleset, _RULE_PORT, struct.pack("QQ", right, port), 0)


def restrict(notes: dict[str, int]) -> None:
    """landlock_restrict_self(2)."""
    ruleset = notes.pop("landlock")
    try:
        _core.syscall("landlock_restrict_self", ruleset, 0)
    finally:
        close(ruleset)
