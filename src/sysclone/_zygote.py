"""Zygote: fresh processes, cloned on request by a small interpreter that was exec'd and has one thread.

The task is a child of the caller's own (CLONE_PARENT), and costs what the zygote costs to clone, whatever the caller's size
and threads. `_zygote_main` is the other side.

A zygote that dies is replaced, and nothing of a call is lost: the task claims its page before it begins, and so does the
caller when the zygote is gone without an answer. One of them wins, so it is known whether the task has begun. If not, the
call is made again; if it has, it is found by the pid that it left in the page.
"""

from __future__ import annotations

import _thread
import atexit
import os
import select
import sys
import time
from errno import ESRCH
from weakref import WeakSet

from . import _core, _zygote_main
from ._cgroup import CgroupDirectory
from ._child import flush
from ._context import Description
from ._copied_task import CopiedTask, reap_abandoned
from ._errors import CloneError, ZygoteError
from ._fresh import check, cloudpickler, for_zygote, main_module, pack_call
from ._result import CLAIM, PID, ResultPage
from ._transport import Packed, receive_fds, send_fds, write_letter
from ._wait import WALL, reap, wait_readable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Any, Final, ParamSpec, Self, TypeVar

    from ._task import Task

    P = ParamSpec("P")
    R = TypeVar("R")

_PLAIN: Final = Description()
_INLINE: Final = 16384
_ANCILLARY: Final = 64
_CLOEXEC: Final = 0x40000000  # MSG_CMSG_CLOEXEC
_LIVES: Final = 3  # zygotes that may die over one call
_LOOK_AFTER_S: Final = 1.0
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_GET_CHILD_SUBREAPER: Final = 37


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


def _task(order: _Order, page: ResultPage, made: tuple[int, int], began: float) -> FreshTask:
    page.close_theirs()
    return FreshTask(*made, page, order.what, True, order.context.timeout, began)


class Zygote:
    """A clean interpreter from which fresh processes are cloned.

    A task of it starts with what `preload` imported and nothing else of the caller's: no threads, no locks, no fds, no
    memory. Functions and arguments are pickled: by name, or by value with cloudpickle (`sysclone[fresh]`) for lambdas,
    closures and what the main module defines; without it the task imports the main module anew, as `__mp_main__`, for
    which that needs its guard. May be used from any number of threads. A context manager: leaving it closes it.

    Args:
        preload: names of modules to import beforehand; "__main__" is the caller's main module.
        stdio: whether tasks get the caller's standard streams of the moment; else the zygote's.
        cwd: whether tasks get the caller's cwd of the moment; else the zygote's.
        patience: seconds that starting it may take.

    Raises:
        ZygoteError: it could not be started; an exception of a preloaded module is in `traceback`.
        CloneError: the kernel refused.

    Since Linux 5.4. The credentials, limits and environment of tasks are those of the caller when the zygote was started;
    it is replaced when the caller's ids have changed since.
    """

    def __init__(
        self, preload: Iterable[str] = (), *, stdio: bool = True, cwd: bool = True, patience: float = 60.0
    ) -> None:
        if isinstance(preload, str):
            raise TypeError(f"preload={preload!r}: a list of module names is needed")
        self._preload = tuple(preload)
        self._stdio = bool(stdio)
        self._cwd = bool(cwd)
        self._patience = float(patience)
        self._lock = _thread.allocate_lock()
        # By the process that each serves: a light process has this very object, and another pid and file table.
        self._servers: dict[int, _Server] = {}
        self._closed = False
        self._ensure()

    @property
    def pid(self) -> int:
        """The zygote's own pid; another one after it was replaced."""
        return self._ensure().pid

    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run fn(*args, **kwargs) in a fresh process, and give a copy of what it returns.

        Raises:
            ContextError: the function or an argument cannot be pickled.
            CloneError: the kernel refused the task.
            ZygoteError: the zygote could not be replaced.
            TaskExited, TaskKilled, TaskLost: it ended without returning or raising.
            ResultError: its result cannot be pickled.
            BaseException: what fn raised, with its traceback there as the cause.
        """
        return self.call_in(_PLAIN, fn, *args, **kwargs)

    def start(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Task:
        """Run fn(*args, **kwargs) in a fresh process, and do not wait: gives a Task. Raises as call() does."""
        return self.start_in(_PLAIN, fn, *args, **kwargs)

    def call_in(self, context: Description, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The same in a Context: new namespaces, a cgroup, a time limit, other ids; raises ContextError for the rest."""
        task = self._begin(context, fn, args, kwargs)
        try:
            result: R = task.result()
            return result
        except BaseException:
            if not task.done():
                task.cancel()
                task.wait()
            raise
        finally:
            task.close()

    def start_in(self, context: Description, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Task:
        """The same in a Context, without waiting."""
        task = self._begin(context, fn, args, kwargs)
        task.wanted = True
        return task

    def _begin(
        self, context: Description, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> FreshTask:
        check(context)
        if _zygote_main.importing_main:
            raise ZygoteError(
                "a fresh process was asked for while the main module was being imported in one: it needs the guard "
                "`if __name__ == '__main__':` around what starts the program (or sysclone[fresh], which needs no import)"
            )
        reap_abandoned()
        what = getattr(fn, "__qualname__", type(fn).__name__)
        packed, needs_main = pack_call(fn, args, kwargs, context.setup)
        if needs_main:
            # What the task sends back of it is called so there, as with multiprocessing.
            sys.modules.setdefault("__mp_main__", sys.modules["__main__"])
        try:
            main = main_module() if needs_main else None
            with _Order(context, what, packed, main, self._stdio, self._cwd) as order:
                return self._place(order)
        finally:
            packed.close()

    def _place(self, order: _Order) -> FreshTask:
        for life in range(1, _LIVES + 1):
            server = self._ensure()
            page = ResultPage(named=True)
            began = time.monotonic()
            try:
                return server.ask(order, page, began)
            except _Gone as e:
                server.bury()
                found = _found(page)
                if found is not None:
                    return _task(order, page, found, began)
                page.close()
                if life == _LIVES:
                    raise ZygoteError(f"{e}, {life} zygotes in a row; the function has not begun") from None
            except BaseException:
                page.close()
                server.settle()
                raise
        raise AssertionError("unreachable")

    def _ensure(self) -> _Server:
        mine = os.getpid()
        with self._lock:
            if self._closed:
                raise ZygoteError("the Zygote was closed")
            server = self._servers.get(mine)
            if server is None or not server.serves():
                if server is not None:
                    server.bury()
                self._servers = {pid: one for pid, one in self._servers.items() if pid != mine and _exists(pid)}
                server = self._servers[mine] = _Server(self._preload, self._patience)
                _open.add(self)
            return server

    def close(self) -> None:
        """End the zygote; tasks that it made go on."""
        mine = os.getpid()
        self._closed = True
        server = self._servers.pop(mine, None)
        if server is not None:
            server.bury()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_servers", None) and os is not None:
            self.close()

    def __repr__(self) -> str:
        server = self._servers.get(os.getpid())
        state = "closed" if self._closed else "started at the next call" if server is None else f"process {server.pid}"
        return f"<Zygote preload={list(self._preload)}: {state}>"


class _Gone(Exception):
    """The zygote ended without an answer."""


class _Order:
    """What goes to the zygote with one call, in fds of its own: the same for each zygote that is tried."""

    def __init__(
        self,
        context: Description,
        what: str,
        packed: Packed,
        main: tuple[str, str] | None,
        stdio: bool,
        cwd: bool,
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
            self._lay_out(stdio, cwd)
        except BaseException:
            self._close()
            raise

    def _lay_out(self, stdio: bool, cwd: bool) -> None:
        if cwd:
            self._add(_zygote_main.HAS_CWD, _open_cwd())
        if stdio and _standard_fds_open():
            self._flags |= _zygote_main.HAS_STDIO
            self._fds += (0, 1, 2)
        if self.context.cgroup is not None:
            with CgroupDirectory(self.context.cgroup) as cgroup:
                self._born = cgroup.can_be_born_in
                self._add(_zygote_main.HAS_CGROUP, os.dup(cgroup.fd))
        if not self._packed.is_small or self._packed.length > _INLINE:
            memfd, *table = write_letter(self._packed)
            self._table = (table[0], table[1])
            self._add(_zygote_main.HAS_LETTER, memfd)
            self._fds += self._packed.fds

    def _add(self, flag: int, fd: int) -> None:
        self._flags |= flag
        self._own.append(fd)
        self._fds.append(fd)

    def message(self, number: int, page: ResultPage) -> tuple[bytes, list[int]]:
        """The request for one page."""
        import pickle

        inline = b"" if self._flags & _zygote_main.HAS_LETTER else self._packed.inline()
        fds = [page.fd, page.theirs, *self._fds]
        context = _pickled(self.context)
        fields = (number, self._flags, len(fds), context, self._born, inline, self._table, self._main)
        return pickle.dumps(fields, 5), fds

    def _close(self) -> None:
        # Each is forgotten first: closed twice, it may be another's by then.
        while self._own:
            os.close(self._own.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._close()


def _pickled(context: Description) -> bytes:
    if "fresh" not in context._kept:
        import pickle

        context._kept["fresh"] = pickle.dumps(for_zygote(context), 5)
    data: bytes = context._kept["fresh"]
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


# --- the connection


class _Server:
    """One zygote: its process and the socket to it. Made and used in one process; a copy of it elsewhere is of no use."""

    def __init__(self, preload: tuple[str, ...], patience: float) -> None:
        flush()
        self.owner = os.getpid()
        self._ids = _ids()
        self._lock = _thread.allocate_lock()
        self._number = 0
        self._settled = True
        # What came and is not settled: raw messages, at most one.
        self._arrived: list[Any] = []
        self.pid = self._pidfd = self._sock = -1
        try:
            ours, theirs = _core.socketpair()
        except OSError as e:
            raise CloneError(e.errno or 0, step="socketpair(AF_UNIX)") from None
        import _socket

        self._sock = ours
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, ours)
        self._inode = os.fstat(ours).st_ino
        try:
            try:
                self.pid, self._pidfd = _spawn(theirs)
            finally:
                os.close(theirs)
            self._greet(preload, time.monotonic() + patience, patience)
        except BaseException:
            self.bury()
            raise

    def _greet(self, preload: tuple[str, ...], deadline: float, patience: float) -> None:
        import pickle

        told = {
            "path": sys.path,
            "argv": sys.argv,
            "preload": preload,
            "main": main_module(),
            "cloudpickle": cloudpickler() is not None,
        }
        try:
            send_fds(self._socket, [], pickle.dumps(told, 5))
            while True:
                if not _either(self._sock, self._pidfd, deadline - time.monotonic()):
                    raise ZygoteError(f"the zygote was not ready in {patience:g} s (preload={list(preload)})")
                data, fds = self._receive()
                word, answer = pickle.loads(data)
                if word == "ready":
                    return
                if word == "failed":
                    raise ZygoteError(f"the zygote could not be made ready (preload={list(preload)})", answer)
                self._adopt(answer, deadline)
                del fds
        except (_Gone, OSError) as e:
            raise ZygoteError(f"the zygote could not be started: {e}") from None

    def _adopt(self, old: int, deadline: float) -> None:
        """Take the fork of the zygote for it: its parent ends, and it becomes a child of this process."""
        import pickle

        before = _subreaper()
        _core.syscall("prctl", _PR_SET_CHILD_SUBREAPER, 1)
        try:
            send_fds(self._socket, [])
            if not _either(self._sock, -1, deadline - time.monotonic()):
                raise ZygoteError("the zygote was not ready in time: its fork did not answer")
            data, fds = self._receive()
            _, self_pid = pickle.loads(data)
            reap(self._pidfd, self.pid, own_child=True)
            os.close(self._pidfd)
            self.pid, self._pidfd = self_pid, fds[0]
        finally:
            _core.syscall("prctl", _PR_SET_CHILD_SUBREAPER, int(before))
        send_fds(self._socket, [])

    def _receive(self) -> tuple[bytes, list[int]]:
        try:
            data, fds = receive_fds(self._socket, 1 << 16)
        except ConnectionResetError:
            data, fds = b"", []
        if not data:
            raise _Gone(f"the zygote (process {self.pid}) ended: {self._end()}")
        return data, fds

    def _end(self) -> str:
        if self._pidfd < 0 or not wait_readable(self._pidfd, 1.0):
            return "it closed its socket"
        status, _ = reap(self._pidfd, self.pid, own_child=True)
        return str(status)

    def serves(self) -> bool:
        """Whether it is this process's, lives, and has the ids that this process has now."""
        if self.owner != os.getpid() or self._ids != _ids():
            return False
        with self._lock:
            return self._is_here() and not wait_readable(self._pidfd, 0)

    def _is_here(self) -> bool:
        """Whether its numbers are still those: a process that had this pid before may have left them behind."""
        try:
            return self._sock >= 0 and os.fstat(self._sock).st_ino == self._inode
        except OSError:
            return False

    def ask(self, order: _Order, page: ResultPage, began: float) -> FreshTask:
        """Have a task made.

        Raises:
            _Gone: the zygote ended first.
            CloneError: the kernel refused the task.
        """
        with self._lock:
            self._settle()
            if self._sock < 0:
                raise _Gone(f"the zygote (process {self.pid}) ended while the call waited for its turn")
            number = self._next()
            data, fds = order.message(number, page)
            self._tell(data, fds)
            pid, error, pidfd = self._answer_to(number)
            if error is not None:
                self._forget()
                raise error
            # A copy: an interrupt may strike between any two calls, and what has arrived is let go of here alone.
            task = _task(order, page, (pid, os.dup(pidfd) if pidfd >= 0 else _open_late(pid)), began)
            self._forget()
            return task

    def _next(self) -> int:
        # From here on an interrupt may leave an answer behind, or none: `_settle` finds out.
        self._settled = False
        self._number += 1
        return self._number

    def _tell(self, data: bytes, fds: list[int]) -> None:
        try:
            send_fds(self._socket, fds, data)
        except (BrokenPipeError, ConnectionResetError):
            raise _Gone(f"the zygote (process {self.pid}) ended: {self._end()}") from None

    def _answer_to(self, number: int) -> tuple[int, BaseException | None, int]:
        """The answer to a message; the tasks of those before it, which nobody took, are ended."""
        while True:
            answered, pid, error, pidfd = self._answer()
            if answered == number:
                return pid, error, pidfd
            if pidfd >= 0:
                _end_task(pid, pidfd)
            self._drop()

    def _answer(self) -> tuple[int, int, BaseException | None, int]:
        """The next answer: its number, a pid or an error, and the pidfd, which stays the server's until it is forgotten."""
        import pickle

        while not self._arrived:
            self._await_answer()
            # In one call of C code, so that no interrupt comes between the message and its place.
            try:
                self._arrived.extend(map(self._socket.recvmsg, (1 << 16,), (_ANCILLARY,), (_CLOEXEC,)))
            except ConnectionResetError:
                self._arrived.append((b"", [], 0, None))
        data, ancillary, _, _ = self._arrived[0]
        if not data:
            self._arrived.clear()
            raise _Gone(f"the zygote (process {self.pid}) ended: {self._end()}")
        number, pid, error = pickle.loads(data)
        return number, pid, error, _only_fd(ancillary)

    def _drop(self) -> None:
        """Let go of the answer that was read."""
        pidfd = _only_fd(self._arrived[0][1])
        self._arrived.clear()
        if pidfd >= 0:
            os.close(pidfd)

    def _forget(self) -> None:
        """The same, and nothing else is due."""
        self._drop()
        self._settled = True

    def settle(self) -> None:
        """End the task of a call that was interrupted, if it came to that."""
        with self._lock:
            try:
                self._settle()
            except _Gone:
                return

    def _settle(self) -> None:
        if self._settled or self._sock < 0:
            return
        import pickle

        # What answers were due comes before the answer to this.
        number = self._next()
        fields = (number, _zygote_main.IS_NOTHING, 0, b"", False, b"", (0, 0), None)
        self._tell(pickle.dumps(fields, 5), [])
        self._answer_to(number)
        self._forget()

    def _await_answer(self) -> None:
        while not _either(self._sock, self._pidfd, _LOOK_AFTER_S):
            if _is_stopped(self.pid):
                try:
                    _core.pidfd_send_signal(self._pidfd, 9, 0)
                except ProcessLookupError:
                    pass
                raise _Gone(f"the zygote (process {self.pid}) was stopped, and was killed for that")

    def bury(self) -> None:
        """End it, and let go of everything; nothing happens the second time."""
        with self._lock:
            here = self._is_here()
            if here:
                self._end_now()
            pidfd, self._pidfd = self._pidfd, -1
            sock, self._sock = self._sock, -1
            if not here:
                return
            self._socket.detach()
            os.close(sock)
            if pidfd >= 0:
                os.close(pidfd)

    def _end_now(self) -> None:
        """Kill the zygote, reap it, and end the task of an answer that nobody has taken."""
        if self._pidfd < 0:
            return
        try:
            _core.pidfd_send_signal(self._pidfd, 9, 0)
        except ProcessLookupError:
            pass
        reap(self._pidfd, self.pid, own_child=True)
        try:
            self._answer_to(0)  # which none is
        except _Gone:
            return


def _spawn(theirs: int) -> tuple[int, int]:
    """Exec the zygote: its pid and pidfd."""
    import subprocess

    from ._popen import Popen

    owner = _core.pidfd_open(os.getpid(), 0)
    try:
        home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        code = (
            f"import sys; sys.path.insert(0, {home!r}); from sysclone._zygote_main import main; main({theirs}, {owner})"
        )
        ours: list[str] = getattr(subprocess, "_args_from_interpreter_flags")()  # noqa: B009 (multiprocessing asks so too)
        flags = [flag for flag in ours if flag not in ("-I", "-E", "-s", "-P")]
        process = Popen([sys.executable, *flags, "-I", "-c", code], pass_fds=(theirs, owner))
    finally:
        os.close(owner)
    # The process is this module's from here on: Popen would warn of it, and wait for it, in its own ways.
    pid, pidfd = process.pid, process.pidfd
    process.pidfd, process.returncode = -1, 0
    return pid, pidfd


def _either(sock: int, pidfd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    if pidfd >= 0:
        poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(max(0.0, seconds) * 1000))


def _ids() -> tuple[Any, ...]:
    return os.getresuid(), os.getresgid(), os.getgroups()


def _exists(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def _is_stopped(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            return f.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except OSError:
        return False


def _subreaper() -> bool:
    import ctypes

    answer = ctypes.c_int()
    ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0)
    return bool(answer.value)


def _open_late(pid: int) -> int:
    """The pidfd of a task of ours whose own found no room in the file table; without one, it is ended."""
    try:
        return _core.pidfd_open(pid, 0)
    except OSError as e:
        os.kill(pid, 9)
        os.waitpid(pid, WALL)
        raise CloneError(e.errno or 0, step="pidfd_open") from None


def _end_task(pid: int, pidfd: int) -> None:
    """End a task that nobody holds."""
    try:
        _core.pidfd_send_signal(pidfd, 9, 0)
    except ProcessLookupError:
        pass
    reap(pidfd, pid, own_child=True)


def _only_fd(ancillary: list[tuple[int, int, bytes]]) -> int:
    return int.from_bytes(ancillary[0][2][:4], "little") if ancillary and len(ancillary[0][2]) >= 4 else -1


# --- after a zygote's death


def _found(page: ResultPage) -> tuple[int, int] | None:
    """The task that a dead zygote had made, if it has begun; otherwise it is ended, and never will."""
    begun = page.exchange(CLAIM, 0, _zygote_main.REVOKED) == _zygote_main.BEGUN
    pid = page.word(PID) or _half_born(page)
    if not pid:
        return None
    try:
        if begun:
            return pid, _core.pidfd_open(pid, 0)
        os.waitpid(pid, WALL)
    except ChildProcessError:
        return None
    except OSError as e:
        page.close()
        if e.errno == ESRCH:
            raise ZygoteError(
                f"the zygote ended, and process {pid}, which it had made, was reaped by another"
            ) from None
        raise CloneError(e.errno or 0, step="pidfd_open") from None
    return None


def _half_born(page: ResultPage) -> int:
    """The child that holds a page's memfd: cloned, and not come to claiming it; 0 where there is none."""
    inode = os.fstat(page.fd).st_ino
    for child in _children():
        try:
            if any(os.stat(f"/proc/{child}/fd/{fd}").st_ino == inode for fd in os.listdir(f"/proc/{child}/fd")):
                return int(child)
        except OSError:
            continue
    return 0


def _children() -> list[str]:
    found: list[str] = []
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/children") as f:
                found += f.read().split()
        except OSError:
            continue
    return found


_open: WeakSet[Zygote] = WeakSet()
_default: Zygote | None = None
_default_lock = _thread.allocate_lock()


def default_zygote() -> Zygote:
    """The zygote that serves those who name none: started at its first use, with nothing preloaded."""
    global _default
    with _default_lock:
        if _default is None or _default._closed:
            _default = Zygote()
        return _default


@atexit.register
def _close_all() -> None:
    for one in list(_open):
        one.close()
