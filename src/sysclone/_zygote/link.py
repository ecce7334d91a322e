"""The connection to one zygote: its start, questions and answers, and what is left to find after its death.

An interrupt may strike the owner between any two calls of Python code. So what arrives is kept by the server until its task
has a handle, and after an interrupt a question of its own tells which answers were still due.
"""

from __future__ import annotations

import _thread
import os
import select
import signal
import sys
import time
from itertools import count

from .. import _core
from .._data.transport import send_fds
from .._errors import CloneError, ContextError, ZygoteError
from .._task.child import flush
from .._task.wait import WALL, reap, wait_readable
from .._under import under
from .fresh import cloudpickler, main_module
from .left import reap_between
from .order import FreshTask, Order, task_of
from .request import nothing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from .._data.result import ResultPage
    from .request import Inherited

_ANCILLARY: Final = 64
_FLAGS: Final = 0x40000040  # MSG_CMSG_CLOEXEC | MSG_DONTWAIT
_LOOK_AFTER_S: Final = 1.0
_DISMISSED_S: Final = 5.0
_SHUT_WR: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_GET_CHILD_SUBREAPER: Final = 37
_numbers = count(1)


class Gone(Exception):
    """The zygote ended without an answer."""


class Server:
    """One zygote: its process and the socket to it. Made and used in one process; a copy of it elsewhere is of no use."""

    def __init__(self, preload: tuple[str, ...], inherited: Inherited, patience: float) -> None:
        flush()
        self.owner = os.getpid()
        # The kernel takes it for the parent of the zygote, and of its tasks, as long as it is there.
        self._maker = _core.gettid()
        self._ids = _ids()
        self._lock = _thread.allocate_lock()
        self._number = 0
        self._settled = True
        self._ready = False
        # What came and is not settled: raw messages, at most one.
        self._arrived: list[Any] = []
        self.mark = f"# of {self.owner}, number {next(_numbers)}"
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
                self.pid, self._pidfd = _spawn(theirs, self.mark)
            finally:
                os.close(theirs)
            self._greet(preload, inherited, time.monotonic() + patience, patience)
        except BaseException:
            self.bury()
            raise

    def _greet(self, preload: tuple[str, ...], inherited: Inherited, deadline: float, patience: float) -> None:
        import pickle

        told = {
            "path": sys.path,
            "argv": sys.argv,
            "preload": preload,
            "main": main_module(),
            "cloudpickle": cloudpickler() is not None,
            "environment": inherited.environment,
            "limits": inherited.limits,
        }
        try:
            send_fds(self._socket, [], pickle.dumps(told, 5))
            while True:
                if not _either(self._sock, self._pidfd, deadline - time.monotonic()):
                    raise ZygoteError(f"the zygote was not ready in {patience:g} s (preload={list(preload)})")
                data, fds = self._receive()
                word, answer = pickle.loads(data)
                if word == "ready":
                    self._ready = True
                    return
                if word == "failed":
                    raise ZygoteError(f"the zygote could not be made ready (preload={list(preload)})", answer)
                self._adopt(answer, deadline)
                del fds
        except (Gone, OSError) as e:
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
        """A message that has come while the zygote was made ready."""
        self._fetch()
        data, ancillary, _, _ = self._arrived.pop()
        if not data:
            raise Gone(f"the zygote (process {self.pid}) ended: {self._end()}")
        pidfd = _only_fd(ancillary)
        return data, [pidfd] if pidfd >= 0 else []

    def _fetch(self) -> None:
        """Take a message that has come from the socket; an empty one for the zygote's end.

        The zygote's end is told by its pidfd: what it has cloned may still have the other end of the socket.
        """
        ended = False
        while not self._arrived:
            try:
                # In one call of C code, so that no interrupt comes between the message and its place.
                self._arrived.extend(map(self._socket.recvmsg, (1 << 16,), (_ANCILLARY,), (_FLAGS,)))
            except BlockingIOError:
                if ended:
                    self._arrived.append((b"", [], 0, None))
                elif not (self._pidfd >= 0 and wait_readable(self._pidfd, 0)):
                    _either(self._sock, self._pidfd, _LOOK_AFTER_S)
                else:
                    ended = True  # and its last words, if any, are there by now
            except ConnectionResetError:
                self._arrived.append((b"", [], 0, None))

    def _end(self) -> str:
        if self._pidfd < 0 or not wait_readable(self._pidfd, 1.0):
            return "it closed its socket"
        status, _ = reap(self._pidfd, self.pid, own_child=True)
        return str(status)

    def serves(self) -> bool:
        """Whether it is this process's, lives, and has the ids that this process has now."""
        if self.owner != os.getpid() or self._ids != _ids():
            return False
        return under(self._lock, self._lives)

    def _lives(self) -> bool:
        return self._is_here() and not wait_readable(self._pidfd, 0)

    def _is_here(self) -> bool:
        """Whether its numbers are still those: a process that had this pid before may have left them behind."""
        try:
            return self._sock >= 0 and os.fstat(self._sock).st_ino == self._inode
        except OSError:
            return False

    def ask(self, order: Order, page: ResultPage, began: float) -> FreshTask:
        """Have a task made.

        Raises:
            Gone: the zygote ended first.
            CloneError: the kernel refused the task.
        """
        return under(self._lock, self._ask, order, page, began)

    def _ask(self, order: Order, page: ResultPage, began: float) -> FreshTask:
        if order.context.parent_death_signal is not None:
            self._check_maker()
        self._settle()
        if self._sock < 0:
            raise Gone(f"the zygote (process {self.pid}) ended while the call waited for its turn")
        number = self._next()
        data, fds = order.message(number, page)
        self._tell(data, fds)
        pid, error, pidfd = self._answer_to(number)
        reap_between(page)
        if error is not None:
            self._forget()
            raise error
        # A copy: an interrupt may strike between any two calls, and what has arrived is let go of here alone.
        task = task_of(order, page, (pid, os.dup(pidfd) if pidfd >= 0 else _open_late(pid)), began)
        self._forget()
        return task

    def _check_maker(self) -> None:
        """Refuse where the kernel would send a parent-death signal at the end of a thread, and not of the program."""
        if self._maker != self.owner and os.path.exists(f"/proc/self/task/{self._maker}"):
            raise ContextError(
                f"parent_death_signal for a fresh process whose zygote was started by thread {self._maker}: it would "
                "come at that thread's end. A Zygote that is made in the main thread can",
                field="parent_death_signal",
            )

    def _next(self) -> int:
        # From here on an interrupt may leave an answer behind, or none: `_settle` finds out.
        self._settled = False
        self._number += 1
        return self._number

    def _tell(self, data: bytes, fds: list[int]) -> None:
        try:
            send_fds(self._socket, fds, data)
        except (BrokenPipeError, ConnectionResetError):
            raise Gone(f"the zygote (process {self.pid}) ended: {self._end()}") from None

    def _answer_to(self, number: int) -> tuple[int, BaseException | None, int]:
        """The answer to a message; the tasks of those before it, which nobody took, are ended."""
        while True:
            answered, pid, error, pidfd = self._answer()
            if answered == number:
                return pid, error, pidfd
            if pidfd >= 0:
                _endtask_of(pid, pidfd)
            self._drop()

    def _answer(self) -> tuple[int, int, BaseException | None, int]:
        """The next answer: its number, a pid or an error, and the pidfd, which stays the server's until it is forgotten."""
        import pickle

        while not self._arrived:
            self._await_answer()
            self._fetch()
        data, ancillary, _, _ = self._arrived[0]
        if not data:
            self._arrived.clear()
            raise Gone(f"the zygote (process {self.pid}) ended: {self._end()}")
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
        try:
            under(self._lock, self._settle)
        except Gone:
            return

    def _settle(self) -> None:
        if self._settled or self._sock < 0:
            return
        # What answers were due comes before the answer to this.
        number = self._next()
        self._tell(nothing(number), [])
        self._answer_to(number)
        self._forget()

    def _await_answer(self) -> None:
        while not _either(self._sock, self._pidfd, _LOOK_AFTER_S):
            if _is_stopped(self.pid):
                killed = _may_kill(self._pidfd)
                raise Gone(f"the zygote (process {self.pid}) was stopped{', and was killed for that' * killed}")

    def bury(self) -> None:
        """End it, and let go of everything; nothing happens the second time."""
        under(self._lock, self._bury)

    def _bury(self) -> None:
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
        if not _may_kill(self._pidfd) and not self._dismiss():
            return
        reap(self._pidfd, self.pid, own_child=True)
        if not self._ready:
            return
        try:
            self._answer_to(0)  # which none is
        except Gone:
            return

    def _dismiss(self) -> bool:
        """Have it end by itself, for a program that has given up the ids to kill it; whether it has, in a while.

        One that is kept from it (traced, or in a module that takes long to load) ends later, or with this process.
        """
        # Not by a close: a copy of this process may have this end too.
        try:
            self._socket.shutdown(_SHUT_WR)
        except OSError:
            pass  # its end is closed, so it has ended, or is about to
        try:
            # A stopped one cannot read. Within a session this signal, and no other, needs no ids: kill(2).
            _core.pidfd_send_signal(self._pidfd, signal.SIGCONT, 0)
        except (PermissionError, ProcessLookupError):
            pass
        return wait_readable(self._pidfd, _DISMISSED_S)


def _spawn(theirs: int, mark: str) -> tuple[int, int]:
    """Exec the zygote: its pid and pidfd. It has the mark in its command line, and so have its clones."""
    import subprocess

    from .._popen.popen import Popen

    owner = _core.pidfd_open(os.getpid(), 0)
    try:
        home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        begin = f"import sys; sys.path.insert(0, {home!r}); from sysclone._zygote.inside import main"
        code = f"{begin}; main({theirs}, {owner})  {mark}"
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


def exists(pid: int) -> bool:
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


def _endtask_of(pid: int, pidfd: int) -> None:
    """End a task that nobody holds; it runs to its own end where this process has given up the ids to kill it."""
    if _may_kill(pidfd) or wait_readable(pidfd, 0):
        reap(pidfd, pid, own_child=True)


def _may_kill(pidfd: int) -> bool:
    """Kill a process; whether the kernel let this one, which may have changed its ids since it made it."""
    try:
        _core.pidfd_send_signal(pidfd, signal.SIGKILL, 0)
    except PermissionError:
        return False
    except ProcessLookupError:
        pass
    return True


def _only_fd(ancillary: list[tuple[int, int, bytes]]) -> int:
    return int.from_bytes(ancillary[0][2][:4], "little") if ancillary and len(ancillary[0][2]) >= 4 else -1
