"""Threads with things of their own: a cwd, root and umask, a file table, namespaces, by unshare(2) in that thread alone."""

from __future__ import annotations

import threading

from . import _core
from ._errors import CloneError, ContextError, load_hints
from ._flags import Namespace, Share, format_step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, Final

    from ._namespaces import Namespaces

_PRIVATE: Final = Share.FS | Share.FILES | Share.SYSVSEM


def unshare_thread(
    own: Share = Share.FS,
    *,
    new: Namespace = Namespace(0),  # noqa: B008 (immutable)
    join: Namespaces | None = None,
    loopback: bool = False,
) -> None:
    """Give the calling thread things of its own, for good: `ThreadPoolExecutor(initializer=unshare_thread)`.

    Threads that it starts afterwards share these with it.

    Args:
        own: FS (cwd, root, umask), FILES (a copy of the file table), SYSVSEM (undo lists).
        new: namespaces to make: MOUNT (FS comes with it), NET, UTS, IPC, CGROUP; and PID, TIME, which are for the processes
            that it makes. After PID it can make no threads.
        join: open namespaces to enter, before new ones are made; MOUNT needs FS among its own, and USER cannot be.
        loopback: lo up, in its new or joined net namespace.

    Raises:
        ContextError: what a thread cannot have alone: memory, handlers, a user namespace.
        CloneError: the kernel refused: namespaces need CAP_SYS_ADMIN. What came before it is done.

    See unshare(2) and setns(2).
    """
    _check(own, new, join, loopback)
    load_hints()
    from ._steps import network

    flags = int(own) | int(new)
    if join is not None and own:
        _unshare(int(own))
        flags = int(new)
    if join is not None:
        join.enter()
    if flags:
        _unshare(flags)
    if loopback:
        try:
            network.loopback_up()
        except OSError as e:
            raise CloneError(e.errno or 0, step="ioctl(SIOCSIFFLAGS, lo)") from None


def _unshare(flags: int) -> None:
    try:
        _core.unshare(flags)
    except OSError as e:
        raise CloneError(e.errno or 0, step=format_step("unshare", flags)) from None


def _check(own: Share, new: Namespace, join: Namespaces | None, loopback: bool) -> None:
    beyond = own & ~_PRIVATE
    if beyond:
        raise ContextError(
            f"{beyond.name}: a thread shares that with its process for good. It can have {_PRIVATE.name} of its own; a light "
            "process (sysclone.call) can have the rest",
            field="own",
        )
    if Namespace.USER in new or (join is not None and Namespace.USER in join.kinds):
        raise ContextError(
            "USER: the kernel lets only a process with one thread change its user namespace. A light process can: "
            "Context(share=Share.VM, …)",
            field="new" if Namespace.USER in new else "join",
        )
    if join is not None and Namespace.MOUNT in join.kinds and Share.FS not in own:
        raise ContextError("join=MOUNT needs own=Share.FS: the root and cwd of the others would move too", field="join")
    nets = new | (join.kinds if join is not None else Namespace(0))
    if loopback and Namespace.NET not in nets:
        raise ContextError("loopback=True without a net namespace: it would be the program's own", field="loopback")


class Thread(threading.Thread):
    """A threading.Thread that has a cwd, root and umask of its own, and what else is asked for.

    os.chdir in it does not move the program. It is the program's thread in everything else: memory, pid, signal handlers,
    and what of these three it is not told to have of its own.

    Args:
        group, target, name, args, kwargs, daemon: as of threading.Thread.
        own, new, join, loopback: as of `unshare_thread`.

    Raises:
        ContextError: what a thread cannot have alone.
        CloneError: raised by start(), when the kernel refused; the thread has ended then, and target was not called.
    """

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        daemon: bool | None = None,
        own: Share = Share.FS,
        new: Namespace = Namespace(0),  # noqa: B008 (immutable)
        join: Namespaces | None = None,
        loopback: bool = False,
    ) -> None:
        super().__init__(group, target, name, args, kwargs, daemon=daemon)
        _check(own, new, join, loopback)
        self._asked: tuple[Share, Namespace, Namespaces | None, bool] = (own, new, join, loopback)
        self._ready: threading.Event = threading.Event()
        self._refused: BaseException | None = None

    def start(self) -> None:
        """Start it, and return when it has what is its own.

        Raises:
            CloneError: the kernel refused.
            RuntimeError: it was started before, or no thread could be made.
        """
        super().start()
        self._ready.wait()
        if self._refused is not None:
            self.join()
            try:
                raise self._refused
            finally:
                self._refused = None

    def _bootstrap_inner(self) -> None:
        # Before anything of run(), which a subclass may override.
        own, new, join, loopback = self._asked
        try:
            unshare_thread(own, new=new, join=join, loopback=loopback)
        except BaseException as e:
            self._refused = e
            self.__dict__["run"] = lambda: None
        self._ready.set()
        super()._bootstrap_inner()  # type: ignore[misc]
