"""Work under a lock that an interrupt cannot leave held."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable
    from typing import TypeVar, TypeVarTuple

    T = TypeVar("T")
    Ts = TypeVarTuple("Ts")


def under(lock: LockType, do: Callable[[*Ts], T], *arguments: *Ts) -> T:
    """do(*arguments), with the lock held.

    `with lock:` does not do: CPython 3.14 looks for signals when the lock has been taken and its block has not begun, and
    what a handler raises there leaves the lock held for ever.
    """
    taken: list[bool] = []
    try:
        # In one call of C code: a lock that was taken is in the list. Between it and the release is no place to interrupt.
        taken.extend(map(lock.acquire, (True,)))
        return do(*arguments)
    finally:
        if taken:
            lock.release()
