"""What goes to a zygote with one call, and the handle on what comes of it."""

from __future__ import annotations

import os

from .._cgroup import CgroupDirectory
from .._data.result import ResultPage
from .._data.transport import write_letter
from .._errors import CloneError
from .._task.copied import CopiedTask
from .beside import Sent, borrowed_fds, joined_fds
from .request import HAS_CGROUP, HAS_CWD, HAS_LETTER, HAS_SPILL, HAS_STDIO, SPILLED, ambient, spill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Final, Self

    from .._context.description import Description
    from .._data.transport import Packed
    from .request import Inherited

_INLINE: Final = 16384


class FreshTask(CopiedTask):
    """A fresh process: the caller's child, cloned by a zygote.

    Attributes:
        wanted: whether somebody was given it: one that was lost on the way, by an interrupt, ends with its object.
    """

    wanted = False

    def _let_go(self) -> None:
        if not self.wanted and os.getpid() == self._owner and not self.done():
            self.cancel()
            self.wait()
        super()._let_go()


def task_of(order: Order, page: ResultPage, made: tuple[int, int], began: float) -> FreshTask:
    page.close_theirs()
    return FreshTask(*made, page, order.what, True, order.context.timeout, began)


class Order:
    """What goes to the zygote with one call, in fds of its own: the same for each zygote that is tried.

    Args:
        context: what was asked for.
        what: the function's name.
        packed: the call, borrowed.
        main: the main module, if the task has to import it.
        inherited: what the task is to have of the caller's.

    Raises:
        CloneError: the kernel refused a memfd, or an fd of the Context's is not open.
    """

    def __init__(
        self,
        context: Description,
        what: str,
        packed: Packed,
        main: tuple[str, str] | None,
        inherited: Inherited,
    ) -> None:
        self.context = context
        self.what = what
        self._packed = packed
        self._main = main
        self._own: list[int] = []
        self._flags = 0
        self._fds: list[int] = []
        self._table = (0, 0)
        self._born = False
        try:
            self._lay_out(inherited)
        except BaseException:
            self._close()
            raise

    def _lay_out(self, inherited: Inherited) -> None:
        if inherited.cwd:
            self._add(HAS_CWD, _open_cwd())
        if inherited.stdio and _standard_fds_open():
            self._flags |= HAS_STDIO
            self._fds += (0, 1, 2)
        if self.context.cgroup is not None:
            with CgroupDirectory(self.context.cgroup) as cgroup:
                self._born = cgroup.can_be_born_in
                self._add(HAS_CGROUP, os.dup(cgroup.fd))
        joined, borrowed = joined_fds(self.context), borrowed_fds(self.context)
        self._counts = (len(joined), len(borrowed))
        self._fds += [fd for _kind, fd in joined]
        self._fds += borrowed
        self._description = _pickled(self.context, Sent(tuple(kind for kind, _fd in joined)) if joined else None)
        self._caller = ambient(inherited)
        if len(self._description) + len(self._caller) > SPILLED:
            self._add(HAS_SPILL, spill(self._description, self._caller))
            self._description = self._caller = b""
        if not self._packed.is_small or self._packed.length > _INLINE:
            memfd, *table = write_letter(self._packed)
            self._table = (table[0], table[1])
            self._add(HAS_LETTER, memfd)
            self._fds += self._packed.fds

    def _add(self, flag: int, fd: int) -> None:
        self._flags |= flag
        self._own.append(fd)
        self._fds.append(fd)

    def message(self, number: int, page: ResultPage) -> tuple[bytes, list[int]]:
        """The request for one page."""
        import pickle

        inline = b"" if self._flags & HAS_LETTER else self._packed.inline()
        fds = [page.fd, page.theirs, *self._fds]
        told = (self._description, self._caller, self._born, inline, self._table, self._main)
        return pickle.dumps((number, self._flags, len(fds), *self._counts, *told), 5), fds

    def _close(self) -> None:
        # Each is forgotten first: closed twice, it may be another's by then.
        while self._own:
            os.close(self._own.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._close()


def _pickled(context: Description, join: Sent | None) -> bytes:
    """The context as the zygote is to make it, without what comes beside it: setup, and fds."""
    if "fresh" in context._kept:
        kept: bytes = context._kept["fresh"]
        return kept
    import pickle

    data = pickle.dumps(context.replace(exit_signal=None, cgroup=None, setup=None, join=join), 5)
    if join is None:
        context._kept["fresh"] = data
    return data


def _open_cwd() -> int:
    try:
        return os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        raise CloneError(e.errno or 0, step="open(.)") from None


def _standard_fds_open() -> bool:
    try:
        for fd in (0, 1, 2):
            os.fstat(fd)
    except OSError:
        return False
    return True
