"""Ids and capabilities of the calling task alone, by raw calls.

libc's wrappers change every thread that libc knows, and in a light process those are its creator's. Each function is one
step of a child's set-up, and raises OSError.
"""

from __future__ import annotations

import struct

from .. import _core
from .._context.capabilities import NAMES, Capabilities, mask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_CAPABILITY_VERSION: Final = 0x20080522
PR_SET_KEEPCAPS: Final = 8
PR_CAPBSET_READ: Final = 23
PR_CAPBSET_DROP: Final = 24
PR_GET_SECUREBITS: Final = 27
PR_SET_SECUREBITS: Final = 28
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
_AMBIENT_RAISE: Final = 2
_AMBIENT_CLEAR_ALL: Final = 4
_SAME: Final = -1


def set_groups(groups: tuple[int, ...]) -> None:
    """setgroups(2): the supplementary groups."""
    _core.syscall("setgroups", len(groups), struct.pack(f"{len(groups)}I", *groups))


def set_gid(gid: int) -> None:
    """setresgid(2): real, effective and saved."""
    _core.syscall("setresgid", gid, gid, gid)


def set_uid(uid: int) -> None:
    """setresuid(2): real, effective and saved. From 0 to another, the kernel takes the capabilities away."""
    _core.syscall("setresuid", uid, uid, uid)


def keep_capabilities() -> None:
    """PR_SET_KEEPCAPS: the permitted ones outlast a change from uid 0, until exec."""
    _core.syscall("prctl", PR_SET_KEEPCAPS, 1, 0, 0, 0)


def get_sets() -> tuple[int, int, int]:
    """capget(2): effective, permitted, inheritable, as bits."""
    header, data = struct.pack("Ii", _CAPABILITY_VERSION, 0), bytearray(24)
    _core.syscall("capget", header, data)
    low_e, low_p, low_i, high_e, high_p, high_i = struct.unpack("6I", data)
    return low_e | high_e << 32, low_p | high_p << 32, low_i | high_i << 32


def set_sets(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2), as bits."""
    words = [bits >> shift & 0xFFFFFFFF for shift in (0, 32) for bits in (effective, permitted, inheritable)]
    _core.syscall("capset", struct.pack("Ii", _CAPABILITY_VERSION, 0), struct.pack("6I", *words))


def raise_all() -> None:
    """Make every permitted capability effective."""
    _effective, permitted, inheritable = get_sets()
    set_sets(permitted, permitted, inheritable)


def bound_to(kept: frozenset[str]) -> None:
    """PR_CAPBSET_DROP for every other capability that this kernel knows and this task still has there."""
    wanted = mask(kept)
    for number in range(max(len(NAMES), 64)):
        try:
            present = _core.syscall("prctl", PR_CAPBSET_READ, number, 0, 0, 0)
        except OSError:
            break  # beyond the last that the kernel knows
        if present and not wanted >> number & 1:
            _core.syscall("prctl", PR_CAPBSET_DROP, number, 0, 0, 0)


def set_capabilities(wanted: Capabilities, was_root: bool) -> None:
    """capset(2) for the three sets, then the ambient one.

    Args:
        wanted: what to have; a set that is None is as the kernel makes it.
        was_root: the uid has changed from 0 while the permitted ones were kept for this moment.
    """
    _e, permitted, inheritable = get_sets()
    usual = 0 if was_root else permitted
    new_permitted = usual if wanted.permitted is None else mask(wanted.permitted)
    if wanted.permitted is None and wanted.effective is not None:
        new_permitted |= mask(wanted.effective) & permitted
    new_effective = (usual & new_permitted) if wanted.effective is None else mask(wanted.effective)
    new_inheritable = inheritable if wanted.inheritable is None else mask(wanted.inheritable)
    set_sets(new_effective, new_permitted, new_inheritable)
    if wanted.ambient is not None:
        _core.syscall("prctl", PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0)
        for number in range(len(NAMES)):
            if mask(wanted.ambient) >> number & 1:
                _core.syscall("prctl", PR_CAP_AMBIENT, _AMBIENT_RAISE, number, 0, 0)


def set_securebits(bits: int) -> None:
    """PR_SET_SECUREBITS. Needs CAP_SETPCAP."""
    _core.syscall("prctl", PR_SET_SECUREBITS, bits, 0, 0, 0)


def set_no_new_privs() -> None:
    """PR_SET_NO_NEW_PRIVS: no exec gives privilege any more, to it and to all that come of it. Linux 3.5."""
    _core.syscall("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
