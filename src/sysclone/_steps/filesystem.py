"""Mounts, root, cwd and umask of the calling task. Each function is one step of a child's set-up, and raises OSError."""

from __future__ import annotations

import os

from .. import _core
from .._flags import Namespace
from . import mounting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._context.description import Description
    from .steps import Step


def steps(context: Description, notes: dict[str, int]) -> list[Step]:
    """The mounts, the root, then the cwd within it, and the umask.

    Args:
        context: what was asked for.
        notes: what stands for the notes of a task, as an argument.
    """
    found: list[Step] = []
    own = Namespace.MOUNT in context.new
    how = (context.propagation or "private") if own else "unchanged"
    if how != "unchanged":
        found.append((f"mount-propagation({how})", mounting.set_propagation, (how,)))
    if own and context.root is not None:
        found.append((f"root({context.root})", mounting.make_root, (context.root, notes)))
    found += ((str(mount), mounting.make, (mount, notes)) for mount in context.mounts)
    if own and context.root is not None:
        found.append((f"pivot_root({context.root})", mounting.enter_root, (notes,)))
    elif context.root is not None:
        found.append((f"chroot({context.root})", change_root, (context.root,)))
    if context.cwd is not None:
        verb = "chdir" if isinstance(context.cwd, str) else "fchdir"
        found.append((f"{verb}({context.cwd})", change_directory, (context.cwd,)))
    if context.umask is not None:
        found.append((f"umask({context.umask:#o})", set_umask, (context.umask,)))
    return found


def change_directory(where: str | int) -> None:
    """chdir(2), or fchdir(2)."""
    if isinstance(where, int):
        _core.syscall("fchdir", where)
    else:
        _core.syscall("chdir", os.fsencode(where))


def change_root(where: str | int) -> None:
    """chroot(2), and into it: a cwd that stayed outside would be a way out."""
    change_directory(where)
    _core.syscall("chroot", b".")
    _core.syscall("chdir", b"/")


def set_umask(umask: int) -> None:
    """umask(2)."""
    _core.syscall("umask", umask)
