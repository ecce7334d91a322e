"""The clocks of a new time namespace: how far they are from the creator's.

A task that shares memory enters the namespace at exec, and its creator writes the offsets meanwhile. One with a memory of its
own would be in it at once, when it is too late for that: it makes the namespace itself, writes, and enters.
"""

from __future__ import annotations

import os

from .. import _core
from .._flags import Namespace
from .raw import at_path, close, write_file


def enter_new(offsets: bytes) -> None:
    """unshare(2), time_namespaces(7)'s offsets, setns(2). Linux 5.6."""
    _core.syscall("unshare", int(Namespace.TIME))
    if offsets:
        write_file("/proc/self/timens_offsets", offsets)
    fd = at_path("/proc/self/ns/time_for_children", os.O_RDONLY)
    try:
        _core.syscall("setns", fd, int(Namespace.TIME))
    finally:
        close(fd)
