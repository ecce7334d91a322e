"""What runs in the zygote: a small interpreter with one thread, which clones a task for each request it reads.

    owner: {request} [page, result socket, cwd, stdio, cgroup, letter and its fds]  ->  zygote
    zygote: {number, pid or an error} [pidfd]                                       ->  owner

Requests are answered one after the other. The task is the owner's own child (CLONE_PARENT), and unpickles its function
itself: nothing of a request is run or kept here. The zygote ends with its owner, whose pidfd it watches, or when the
owner closes the socket; a copy of the owner that holds the socket open keeps nobody alive.
"""

from __future__ import annotations

import _socket
import gc
import os
import pickle
import select
import signal
import sys

from .. import _core
from .._data.result import CLAIM, PID, ResultPage, load
from .._data.transport import read_letter, receive_fds, send_fds, unpickle
from .._errors import CloneError
from .._flags import format_step
from .._idmap import plan_of
from .._steps.steps import steps_of, take
from .._task.child import live

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, NoReturn

    from .._context.description import Description

ROOM: Final = 65536
RAW: Final = 2  # copied.c's way that takes every flag
BEGUN: Final = 1
REVOKED: Final = 2
# What goes with a request beside the page and the socket, in this order.
HAS_CWD: Final = 1
HAS_STDIO: Final = 2
HAS_CGROUP: Final = 4
HAS_LETTER: Final = 8
IS_NOTHING: Final = 16  # a request for an answer alone
# What a task of an importing main module may not do: see `import_main`.
importing_main = False


class Request:
    """One task to be made: what the owner sends, as a tuple of these fields."""

    __slots__ = ("born_in_cgroup", "context", "fds", "flags", "inline", "main", "number", "table", "total")

    def __init__(
        self,
        number: int,
        flags: int,
        total: int,
        context: bytes,
        born_in_cgroup: bool,
        inline: bytes,
        table: tuple[int, int],
        main: tuple[str, str] | None,
    ) -> None:
        self.number = number
        self.flags = flags
        self.total = total
        self.context = context
        self.born_in_cgroup = born_in_cgroup
        self.inline = inline
        self.table = table
        self.main = main
        self.fds: list[int] = []

    def take(self, count: int) -> list[int]:
        """The next fds that came along."""
        taken, self.fds = self.fds[:count], self.fds[count:]
        return taken


def main(sock_fd: int, owner: int) -> None:
    """The zygote, from its exec to its end.

    Args:
        sock_fd: the socket to its owner.
        owner: the owner's pidfd.
    """
    gc.disable()
    # A Ctrl-C in the terminal is for the owner and the tasks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for fd in (sock_fd, owner):
        os.set_inheritable(fd, False)
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, sock_fd)
    data, _ = receive_fds(sock, 1 << 20)
    try:
        _prepare(pickle.loads(data))
        _shed_threads(sock)
    except BaseException:
        import traceback

        send_fds(sock, [], pickle.dumps(("failed", traceback.format_exc())))
        os._exit(1)
    gc.collect()
    gc.freeze()
    send_fds(sock, [], pickle.dumps(("ready", os.getpid())))
    _serve(sock, owner)


def _prepare(told: dict[str, Any]) -> None:
    """Become like the owner where that is wanted, and load what tasks are going to need."""
    sys.path[:] = told["path"]
    sys.argv[:] = told["argv"]
    if told["cloudpickle"]:
        import cloudpickle  # noqa: F401 (so that tasks have it)
    from .. import _api  # noqa: F401 (what a Context is rebuilt with)

    for name in told["preload"]:
        if name == "__main__":
            if told["main"] is not None:
                import_main(*told["main"])
        else:
            from importlib import import_module

            import_module(name)


def _shed_threads(sock: _socket.socket) -> None:
    """Threads that modules started are not in a clone, and would be missed there: go on in a fork without them.

    libc's fork tells libraries with pools of threads (OpenBLAS) to let go of theirs; the raw clones that follow do not.
    """
    if _core.single_threaded():
        return
    threading = sys.modules.get("threading")
    if threading is not None and len(threading.enumerate()) > 1:
        names = ", ".join(one.name for one in threading.enumerate() if one is not threading.main_thread())
        raise RuntimeError(f"preloading started threads, which tasks would not have: {names}")
    import warnings

    send_fds(sock, [], pickle.dumps(("fork", os.getpid())))
    receive_fds(sock, 1)  # the owner is ready to be the parent of an orphan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        os._exit(0)
    send_fds(sock, [_core.pidfd_open(os.getpid(), 0)], pickle.dumps(("forked", os.getpid())))
    receive_fds(sock, 1)


def import_main(kind: str, name: str) -> None:
    """Import the owner's main module, as multiprocessing's spawn does: as `__mp_main__`, so that its guard keeps it still.

    Args:
        kind: "name" or "path".
        name: the module's name, or its file.
    """
    global importing_main
    import runpy
    import types

    if "__mp_main__" in sys.modules:
        return
    importing_main = True
    try:
        module = types.ModuleType("__mp_main__")
        if kind == "name":
            names = runpy.run_module(name, run_name="__mp_main__", alter_sys=True)
        else:
            names = runpy.run_path(name, run_name="__mp_main__")
        module.__dict__.update(names)
    finally:
        importing_main = False
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module


# --- serving


def _serve(sock: _socket.socket, owner: int) -> NoReturn:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(owner, select.POLLIN)
    while True:
        if any(fd == owner for fd, _ in poll.poll()):
            os._exit(0)
        data, fds = receive_fds(sock, ROOM)
        if not data:
            os._exit(0)
        _answer(sock, owner, data, fds)


def _answer(sock: _socket.socket, owner: int, data: bytes, fds: list[int]) -> None:
    number = 0
    try:
        request = Request(*pickle.loads(data))
        number = request.number
        while len(fds) < request.total:
            fds += receive_fds(sock, 1)[1]
        request.fds = fds
        if request.flags & IS_NOTHING:
            send_fds(sock, [], pickle.dumps((number, 0, None)))
            return
        pid, pidfd = _make(request, lambda: _close(sock.detach(), owner))
    except Exception as e:
        send_fds(sock, [], pickle.dumps((number, 0, e)))
    else:
        send_fds(sock, [pidfd], pickle.dumps((number, pid, None)))
        os.close(pidfd)
    finally:
        for fd in fds:
            os.close(fd)


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


def _new_gate() -> _core.Mapping:
    return _core.Mapping(-1, 4096, 0, True, True)


_GATE: Final = _new_gate()
# Contexts by their pickle: the description and what it compiles to are kept with it.
_contexts: dict[bytes, Description] = {}


def _make(request: Request, let_go: Callable[[], None]) -> tuple[int, int]:
    """Clone the task; gives its pid and pidfd, and returns in the zygote alone."""
    context = _contexts.get(request.context)
    if context is None:
        if len(_contexts) > 1000:
            _contexts.clear()
        context = _contexts[request.context] = pickle.loads(request.context)
    steps = steps_of(context, light=False)
    at = 2 + bool(request.flags & HAS_CWD) + 3 * bool(request.flags & HAS_STDIO)
    cgroup = request.fds[at] if request.flags & HAS_CGROUP and request.born_in_cgroup else -1
    plan = plan_of(context, "copied", cgroup=cgroup)
    # A child waits there while its id maps and the like are written, and only then.
    gate = _new_gate() if context.new else _GATE
    try:
        pid, pidfd = _core.copied(plan, RAW, gate)
    except OSError as e:
        tids = plan.tids or None
        step = e.filename or format_step("clone3", plan.flags, set_tid=tids, cgroup=cgroup if cgroup >= 0 else None)
        raise CloneError(e.errno or 0, step=step) from None
    if pid == 0:
        _live(request, context, steps, let_go)
    return pid, pidfd


def _live(request: Request, context: Description, steps: tuple[Any, ...], let_go: Callable[[], None]) -> NoReturn:
    """The task's life."""
    try:
        page = ResultPage.arrived(*request.take(2))
        page.set_word(PID, own_pid())
        if page.exchange(CLAIM, 0, BEGUN) == REVOKED:
            os._exit(0)
        let_go()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        gc.enable()
    except BaseException:
        os._exit(255)

    def prepare() -> tuple[Callable[..., Any], Any, Any]:
        _put_in_place(request)
        if request.main is not None:
            import_main(*request.main)
        # Before the steps: afterwards its modules may be out of sight, or of reach.
        fn, args, kwargs, setup = _unpack(request)
        if steps:
            load()
        take(steps if setup is None else steps_of(context.replace(setup=setup), light=False))
        return fn, args, kwargs

    live(page, context.timeout, prepare, fallback=_loaded_pickler)


def own_pid() -> int:
    """This process's pid as its owner knows it, also from within a pid namespace of its own."""
    pid = os.getpid()
    return int(os.readlink("/proc/self")) if pid == 1 else pid


def _put_in_place(request: Request) -> None:
    if request.flags & HAS_CWD:
        (cwd,) = request.take(1)
        os.fchdir(cwd)
        os.close(cwd)
    if request.flags & HAS_STDIO:
        for number, fd in enumerate(request.take(3)):
            os.dup2(fd, number)
            os.close(fd)
    if request.flags & HAS_CGROUP:
        (cgroup,) = request.take(1)
        if not request.born_in_cgroup:
            _enter_cgroup(cgroup)
        os.close(cgroup)


def _enter_cgroup(directory: int) -> None:
    from .._cgroup import CgroupDirectory

    CgroupDirectory(directory).enter()


def _unpack(request: Request) -> Any:
    try:
        if request.flags & HAS_LETTER:
            return read_letter(request.fds, *request.table)
        return unpickle(request.inline, ())
    except Exception as e:
        e.add_note("while the function and its arguments were unpickled in the fresh process")
        raise


def _loaded_pickler() -> Any:
    """cloudpickle's, where it is loaded: classes and functions that came by value go back so."""
    cloudpickle = sys.modules.get("cloudpickle")
    return None if cloudpickle is None else cloudpickle.Pickler
