"""What of a Context is fds of the caller's: they go beside it to a fresh process, in one order that both sides know.

First the namespaces to join, then whatever fields name an fd: cwd, root, terminals, fds, the sources of mounts.
"""

from __future__ import annotations

import os

from .._context.mount_types import Mount
from .._errors import CloneError, ContextError
from .._flags import Namespace
from .._namespaces import Borrowed, Namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Final

    from .._context.description import Description

_PLACES: Final = ("cwd", "root", "controlling_terminal", "foreground")


class Sent:
    """Stands for Namespaces in a Context whose fds go beside it."""

    def __init__(self, order: tuple[Namespace, ...]) -> None:
        self.order = order

    @property
    def kinds(self) -> Namespace:
        """Which kinds they are."""
        kinds = Namespace(0)
        for kind in self.order:
            kinds |= kind
        return kinds

    def joins(self) -> tuple[tuple[int, int], ...]:
        """None: their fds are on their way."""
        raise ValueError("these Namespaces are on their way to a zygote")


def joined_fds(context: Description) -> tuple[tuple[Namespace, int], ...]:
    """The namespaces that a Context joins, each with its fd, also those that the caller is in: the zygote may not be.

    Raises:
        ContextError: they are no Namespaces.
        ValueError: they were closed.
    """
    join = context.join
    if join is None:
        return ()
    if not isinstance(join, Namespaces):
        raise ContextError(f"join={join!r} for a fresh process: sysclone.Namespaces are needed", field="join")
    pairs = tuple((kind, join.fd(kind)) for kind in join)
    if not pairs:
        join.joins()  # which says so
    return pairs


def borrowed_fds(context: Description) -> list[int]:
    """The fds that fields of a Context name, in the order in which `placed` expects them.

    Raises:
        CloneError: one is not open.
    """
    fds = _named(context)
    for fd in fds:
        try:
            os.fstat(fd)
        except OSError as e:
            raise CloneError(e.errno or 0, step=f"fstat({fd}), to hand it to a fresh process") from None
    return fds


def _named(context: Description) -> list[int]:
    found = [where for field in _PLACES if isinstance(where := getattr(context, field), int)]
    found += [source for _target, source in context.fds]
    return found + [mount.source for mount in context.mounts if isinstance(mount.source, int)]


def count(context: Description) -> int:
    """How many fds `placed` expects."""
    return len(_named(context))


def arrived(context: Description, fds: Sequence[int]) -> Description:
    """The same Context with the namespaces whose fds have come: borrowed."""
    sent: Any = context.join
    return context.replace(join=Borrowed(dict(zip(sent.order, fds, strict=True))))


def placed(context: Description, fds: Sequence[int]) -> Description:
    """The same Context with the fds that have come in place of its creator's."""
    left = iter(fds)
    changes: dict[str, Any] = {field: next(left) for field in _PLACES if isinstance(getattr(context, field), int)}
    if context.fds:
        changes["fds"] = {target: next(left) for target, _source in context.fds}
    if any(isinstance(mount.source, int) for mount in context.mounts):
        changes["mounts"] = [_from(mount, left) for mount in context.mounts]
    return context.replace(**changes)


def _from(mount: Mount, fds: Any) -> Mount:
    if not isinstance(mount.source, int):
        return mount
    fields = {name: getattr(mount, name) for name in Mount.__slots__ if name not in ("kind", "target", "source")}
    return Mount(mount.kind, mount.target, source=next(fds), **fields)
