"""The loopback interface of a new network namespace, which the kernel makes and leaves down; the names of a UTS one."""

from __future__ import annotations

import os
import struct

from .. import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from .._context.description import Description
    from .steps import Step

_AF_INET: Final = 2
_SOCK_DGRAM_CLOEXEC: Final = 2 | 0o2000000
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
_REQUEST: Final = "16sh22x"


def steps(context: Description) -> list[Step]:
    """What is to be done in new namespaces of the two kinds."""
    found: list[Step] = []
    if context.loopback:
        found.append(("ioctl(SIOCSIFFLAGS, lo)", loopback_up, ()))
    for call, name in (("sethostname", context.hostname), ("setdomainname", context.domainname)):
        if name is not None:
            found.append((f"{call}({name})", set_name, (call, os.fsencode(name))))
    return found


def set_name(call: str, name: bytes) -> None:
    """sethostname(2) or setdomainname(2)."""
    _core.syscall(call, name, len(name))


def loopback_up() -> None:
    """netdevice(7), SIOCSIFFLAGS: lo up in the calling task's network namespace, with 127.0.0.1 and ::1 on it."""
    fd = _core.syscall("socket", _AF_INET, _SOCK_DGRAM_CLOEXEC, 0)
    try:
        request = bytearray(struct.pack(_REQUEST, b"lo", 0))
        _core.syscall("ioctl", fd, _SIOCGIFFLAGS, request)
        _name, flags = struct.unpack(_REQUEST, request)
        _core.syscall("ioctl", fd, _SIOCSIFFLAGS, struct.pack(_REQUEST, b"lo", flags | _IFF_UP))
    finally:
        _core.syscall("close", fd)
