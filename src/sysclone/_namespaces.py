"""Namespaces: open ones, held by fd: those of a task, those pinned at a path, or new ones."""

from __future__ import annotations

import fcntl
import os

from . import _core
from ._context.description import Description
from ._errors import CloneError, ContextError
from ._flags import Namespace, Share, format_step
from ._idmap import plan_of
from ._steps.steps import need_lending, prepared, steps_of
from ._task.wait import P_PIDFD, WALL, wait_readable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Any, Final, Protocol, Self

    class HasFileno(Protocol):
        """An open file, or a Task."""

        def fileno(self) -> int: ...

    class HasPid(Protocol):
        """A Task or a Popen."""

        @property
        def pid(self) -> int: ...

    Target = int | str | os.PathLike[str] | HasFileno | HasPid

# linux/nsfs.h, Linux 4.11
_NS_GET_NSTYPE: Final = 0xB703
# The user namespace first: what is entered by it gives privilege over the rest.
_FILES: Final[Mapping[Namespace, str]] = {
    Namespace.USER: "user",
    Namespace.MOUNT: "mnt",
    Namespace.PID: "pid",
    Namespace.NET: "net",
    Namespace.UTS: "uts",
    Namespace.IPC: "ipc",
    Namespace.CGROUP: "cgroup",
    Namespace.TIME: "time",
}
_EVERY: Final = Namespace(sum(map(int, _FILES)))
_HOLDER_PATIENCE: Final = 0.1


class Namespaces:
    """Open namespaces, at most one of each kind, for `Context(join=…)`.

    Each is held by an fd of its own, so it lasts as long as this object, whatever becomes of the task it was taken from;
    a pid namespace alone lasts only while its first process lives. A context manager; `close()` closes the fds.

    Args:
        user, mount, pid, net, uts, ipc, cgroup, time: a path such as /run/netns/blue, or a borrowed fd, which is duplicated.

    Raises:
        CloneError: a path cannot be opened, or is no namespace.
        ContextError: it is a namespace of another kind.

    See namespaces(7) and setns(2).
    """

    def __init__(self, **kinds: str | os.PathLike[str] | int) -> None:
        self._fds: dict[Namespace, int] = {}
        self._holder: tuple[int, int, object] | None = None
        try:
            for name, where in kinds.items():
                kind = Namespace.__members__.get(name.upper())
                if kind is None:
                    known = ", ".join(member.lower() for member in Namespace.__members__)
                    raise ContextError(f"{name}= is no kind of namespace: {known}", field=name)
                self._take(_open(where), str(where), kind)
        except BaseException:
            self.close()
            raise

    # --- where they come from

    @classmethod
    def of(cls, *targets: Target, kinds: Namespace = _EVERY) -> Self:
        """The namespaces of a task, or at a path, or of an open file; several are put together.

        Args:
            *targets: a pid (or tid); a Task or Popen; a path of a namespace file; or an open file: a namespace, or a pidfd.
                Of two of one kind the later counts.
            kinds: which ones, of a task's; all eight otherwise. What this kernel does not have is left out of the eight.

        Raises:
            CloneError: there is no such task, or it may not be looked at (ptrace access is needed, as by proc_ns(5)).
            ContextError: a target is nothing of the kind.
        """
        self = cls()
        try:
            for target in targets:
                self._add(target, kinds)
        except BaseException:
            self.close()
            raise
        return self

    @classmethod
    def new(
        cls,
        kinds: Namespace,
        *,
        uid_map: str | Sequence[tuple[int, int, int]] | None = None,
        gid_map: str | Sequence[tuple[int, int, int]] | None = None,
        loopback: bool = False,
        join: Namespaces | None = None,
    ) -> Self:
        """New namespaces, which nobody is in yet.

        A new pid namespace is kept alive by a first process that does nothing but reap; it ends with close(), and with it
        everything in the namespace, as it does when the program ends. It takes no memory.

        Args:
            kinds: which ones.
            uid_map, gid_map, loopback: as of Context.
            join: where they are made: a net namespace is owned by the user namespace that it is made in.

        Raises:
            CloneError: the kernel refused.
            ContextError: the arguments do not go together.
        """
        if loopback:
            need_lending()
        self = cls()
        share = Share.VM if Namespace.TIME not in kinds else Share(0)
        wanted = Description(share=share, new=kinds, uid_map=uid_map, gid_map=gid_map, join=join, loopback=loopback)
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            pid, pidfd, stack = _hold(wanted, reading)
            self._holder = (pidfd, writing, stack)
            writing = -1
            for kind in _kinds_of(kinds):
                name = "time_for_children" if kind is Namespace.TIME else _FILES[kind]
                self._take(_open(f"/proc/{pid}/ns/{name}"), name, kind)
            if Namespace.PID not in kinds:
                self._let_go()
            if loopback:
                entered = Description(share=Share.VM, join=self._only(~Namespace.TIME), loopback=True)
                _core.light_call(plan_of(entered, "light"), prepared, steps_of(entered, light=True), _nothing, (), {})
        except BaseException:
            self.close()
            raise
        finally:
            os.close(reading)
            if writing >= 0:
                os.close(writing)
        return self

    def _only(self, kinds: Namespace) -> Namespaces:
        return Borrowed({kind: fd for kind, fd in self._fds.items() if kind in kinds})

    def _add(self, target: Any, kinds: Namespace) -> None:
        if isinstance(target, int) and not isinstance(target, bool):
            self._add_task(target, kinds, _core.pidfd_open)
        elif isinstance(target, (str, os.PathLike)):
            self._take(_open(target), str(target), None)
        elif hasattr(target, "pid"):
            self._add_task(int(target.pid), kinds, _core.pidfd_open)
        elif hasattr(target, "fileno"):
            self._add_file(int(target.fileno()), kinds)
        else:
            raise ContextError(f"{target!r} has no namespaces: a pid, a Task, a path or an open file is needed", "join")

    def _add_file(self, fd: int, kinds: Namespace) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("[pidfd]"):
            with open(f"/proc/self/fdinfo/{fd}", "rb") as info:
                pid = next(int(line.split()[1]) for line in info if line.startswith(b"Pid:"))
            if pid <= 0:
                raise CloneError(3, step=f"pidfd {fd}", hint="likely: its process has ended, or is out of sight here")
            self._add_task(pid, kinds, lambda _pid, _flags: os.dup(fd))
        else:
            self._take(_open(fd), f"fd {fd}", None)

    def _add_task(self, pid: int, kinds: Namespace, open_pidfd: Any) -> None:
        # The pidfd tells afterwards whether all were of the same process. A tid has none before Linux 6.9.
        try:
            pidfd = open_pidfd(pid, 0)
        except ProcessLookupError:
            raise CloneError(3, step=f"open(/proc/{pid}/ns)", hint=f"likely: there is no task {pid} any more") from None
        except OSError:
            pidfd = -1
        try:
            for kind in _kinds_of(kinds):
                path = f"/proc/{pid}/ns/{_FILES[kind]}"
                try:
                    self._take(_open(path), path, kind)
                except FileNotFoundError:
                    if kinds != _EVERY or not os.path.exists(f"/proc/{pid}"):
                        raise
            if pidfd >= 0:
                _core.pidfd_send_signal(pidfd, 0, 0)
        except ProcessLookupError:
            raise CloneError(3, step=f"open(/proc/{pid}/ns)", hint=f"likely: task {pid} has just ended") from None
        except PermissionError as e:
            if isinstance(e, CloneError):
                raise  # pidfd_send_signal's EPERM says that it is there
        finally:
            if pidfd >= 0:
                os.close(pidfd)

    def _take(self, fd: int, name: str, kind: Namespace | None) -> None:
        """Keep an fd, which is this object's from here on."""
        try:
            found = Namespace(fcntl.ioctl(fd, _NS_GET_NSTYPE))
        except OSError as e:
            os.close(fd)
            hint = "likely: it is no namespace: /proc/PID/ns/net and files bind-mounted from there are"
            raise CloneError(e.errno or 0, step=f"ioctl(NS_GET_NSTYPE, {name})", hint=hint) from None
        if kind is not None and found is not kind:
            os.close(fd)
            raise ContextError(f"{name} is a {found.name} namespace, and no {kind.name}", field="join")
        if found in self._fds:
            os.close(self._fds.pop(found))
        self._fds[found] = fd

    # --- what they are

    @property
    def kinds(self) -> Namespace:
        """Which kinds are held."""
        kinds = Namespace(0)
        for kind in self._fds:
            kinds |= kind
        return kinds

    def fd(self, kind: Namespace) -> int:
        """The fd of one, borrowed.

        Raises:
            KeyError: there is none of the kind.
        """
        return self._fds[kind]

    def inode(self, kind: Namespace) -> int:
        """The number that tells it from all others of its kind while it is there: that of /proc/PID/ns links.

        Raises:
            KeyError: there is none of the kind.
        """
        return os.fstat(self._fds[kind]).st_ino

    def joins(self) -> tuple[tuple[int, int], ...]:
        """What a child of `Context(join=…)` is to enter: (clone flag, borrowed fd) each, without what the caller is in.

        Raises:
            ValueError: it was closed.
        """
        if not self._fds:
            raise ValueError("these Namespaces hold none: they were closed, or none was given")
        return tuple((int(kind), fd) for kind, fd in self._fds.items() if not _is_own(kind, fd))

    def enter(self) -> None:
        """Move the calling thread there, for good: setns(2).

        For a thread of its own, such as `sysclone.Thread`. A pid namespace is entered by the processes that the thread
        makes from then on; a user or mount namespace can be entered by a process with one thread alone.

        Raises:
            CloneError: the kernel refused one; those before it are entered.
        """
        for kind, fd in self.joins():
            try:
                _core.setns(fd, kind)
            except OSError as e:
                raise CloneError(e.errno or 0, step=f"setns({_FILES[Namespace(kind)]})") from None

    # --- life

    def close(self) -> None:
        """Close the fds, and end the first process of a pid namespace that was made here, and all within it."""
        fds, self._fds = self._fds, {}
        for fd in fds.values():
            os.close(fd)
        self._let_go()

    def _let_go(self) -> None:
        if self._holder is None:
            return
        (pidfd, writing, stack), self._holder = self._holder, None
        os.close(writing)
        if wait_readable(pidfd, _HOLDER_PATIENCE):
            _core.waitid(P_PIDFD, pidfd, os.WEXITED | WALL)
            os.close(pidfd)
        else:
            # An init ends after its members, and one of those may be a child of ours that was not waited for yet.
            _core.reap_later(pidfd, stack)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Iterator[Namespace]:
        return iter(self._fds)

    def __del__(self) -> None:
        if getattr(self, "_fds", None):
            text = repr(self)
            self.close()
            try:
                import warnings
            except ImportError:  # the interpreter is ending
                return
            warnings.warn(f"unclosed {text}", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        held = (f"{_FILES[kind]}:[{os.fstat(fd).st_ino}]" for kind, fd in self._fds.items())
        return f"<Namespaces {' '.join(held) or 'closed'}>"

    def __reduce__(self) -> str:
        raise TypeError("Namespaces are fds of this process: hand them to another one as fds (socket.send_fds)")


class Borrowed(Namespaces):
    """Some of another's fds, which it does not close."""

    def __init__(self, fds: dict[Namespace, int]) -> None:
        self._fds = fds
        self._holder = None

    def __del__(self) -> None:
        pass


def _nothing() -> None:
    """The function of a task that is there for its steps."""


def _kinds_of(kinds: Namespace) -> list[Namespace]:
    return [kind for kind in _FILES if kind in kinds]


def _is_own(kind: Namespace, fd: int) -> bool:
    own, held = os.stat(f"/proc/thread-self/ns/{_FILES[kind]}"), os.fstat(fd)
    return (own.st_dev, own.st_ino) == (held.st_dev, held.st_ino)


def _hold(wanted: Description, reading: int) -> tuple[int, int, object]:
    try:
        return _core.hold(plan_of(wanted, "held"), reading)
    except OSError as e:
        step = e.filename or format_step("clone3", int(wanted.flags), set_tid=None, cgroup=None)
        raise CloneError(e.errno or 0, step=step) from None


def _open(where: str | os.PathLike[str] | int) -> int:
    if isinstance(where, int):
        try:
            return fcntl.fcntl(where, fcntl.F_DUPFD_CLOEXEC, 3)
        except OSError as e:
            raise CloneError(e.errno or 0, step=f"fcntl(F_DUPFD_CLOEXEC, {where})") from None
    try:
        return os.open(where, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as e:
        raise CloneError(e.errno or 0, step=f"open({os.fspath(where)})", filename=os.fspath(where)) from None
