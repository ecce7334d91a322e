"""A call on its way: what is to be run, under which limits, for which future."""

from __future__ import annotations

import itertools
import sys

from .._zygote.fresh import cloudpickler, main_module
from . import _channel
from ._future import Future

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .._data.transport import Packed
    from ._manager import Manager
    from ._options import Options
    from ._workers import Worker

_numbers = itertools.count(1)
_SEARCHED = 1 << 20
_LOOKED_AT = 16


class Call:
    """One call of a function, or of one function for several items of a map.

    Attributes:
        number: of this call, unlike any other's in this process.
        items: of a map, or None.
        many: whether each item is a tuple of arguments.
        manager: whose call it is.
        packed: the call pickled, where it goes to a worker that is running already.
        worker: who has it, once somebody does.
        handed_to: who is being handed it at this moment; counted in that one's `sending`.
        offer: the number under which it was offered to that worker; 0 until then.
        tries: how often it went to a worker that did not begin with it.
    """

    __slots__ = (
        "args",
        "fn",
        "future",
        "handed_to",
        "items",
        "kwargs",
        "manager",
        "many",
        "number",
        "offer",
        "options",
        "packed",
        "tries",
        "worker",
    )

    def __init__(
        self,
        options: Options,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        items: list[Any] | None,
        many: bool,
        manager: Manager,
    ) -> None:
        self.options = options
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.items = items
        self.many = many
        self.number = next(_numbers)
        self.packed: Packed | None = None
        self.tries = 0
        self.offer = 0
        self.worker: Worker | None = None
        self.handed_to: Worker | None = None
        self.manager = manager
        self.future: Future[Any] = Future(self)

    def cancelled(self) -> None:
        """Its future was cancelled."""
        self.manager.cancelled(self)

    def help(self, seconds: float) -> None:
        """Somebody waits for its result."""
        if self.manager.starts_here:
            self.manager.help(self, seconds)

    def pack(self) -> None:
        """Pickle it.

        Raises:
            ResultError: it cannot be pickled, and which part of it.
        """
        whole = (self.fn, self.args, self.kwargs) if self.items is None else (self.fn, self.items, self.many, self.each)
        try:
            self.packed = _channel.pack(whole, self.options.kind == "fresh", self._is_large())
        except Exception as e:
            args = self.args if self.items is None else self.items
            raise _channel.refused(self.fn, args, self.kwargs) from e

    def _is_large(self) -> bool:
        args = self.args if self.items is None else self.items[:_LOOKED_AT]
        return any(map(_channel.is_large, args)) or (
            bool(self.kwargs) and any(map(_channel.is_large, self.kwargs.values()))
        )

    def main(self) -> tuple[str, str] | None:
        """The main module, where a fresh worker has to import it for this call."""
        if cloudpickler() is not None or self.packed is None:
            return None
        if not any(b"__main__" in bytes(piece) for piece in self.packed.pieces if len(piece) < _SEARCHED):
            return None
        sys.modules.setdefault("__mp_main__", sys.modules["__main__"])
        return main_module()

    @property
    def is_small(self) -> bool:
        """Whether it may go to a worker together with others."""
        return self.packed is not None and _channel.is_small(self.packed)

    @property
    def each(self) -> bool:
        """Whether each item has a limit of its own."""
        return self.options.timeout is not None or self.options.cpu_seconds is not None

    @property
    def limit_ns(self) -> int:
        """The time that it, or each item, may take; 0 for no limit."""
        timeout = self.options.timeout
        return 0 if timeout is None else max(1, int(timeout * 1e9))

    @property
    def kind(self) -> int:
        """Which kind of message it is."""
        return _channel.CALL if self.items is None else _channel.CHUNK

    def forget(self) -> None:
        """Let go of the function and its arguments: the future may be kept for long."""
        self.packed = None
        self.args = ()
        self.kwargs = {}
        self.items = None
        self.fn = _gone


def _gone() -> None:
    """Stands for the function of a call that is over."""
