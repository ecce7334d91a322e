"""What runs in the zygote: a small interpreter with one thread, which clones a task for each request it reads.

    owner: {request} [fds, as request.py tells]    ->  zygote
    zygote: {number, pid or an error} [pidfd]      ->  owner

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
from errno import EMFILE, EPROTO

from .. import _core
from .._data.memory import map_fd
from .._data.result import SIZE
from .._data.transport import CONTINUED, receive_fds, send_fds
from .._errors import CloneError
from .._flags import Namespace, format_step
from .._idmap import plan_of
from .._steps.steps import steps_of
from .._task.child import flush
from .importing import Hint, import_main
from .life import begin
from .request import HAS_CGROUP, IS_NOTHING, ROOM, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, NoReturn

    from .._context.description import Description

OF_ZYGOTE: Final = 3  # copied.c's way: the owner's child


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
        flush()
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
    if told["environment"]:
        import ctypes  # noqa: F401 (the same)
    if told["limits"]:
        import resource  # noqa: F401 (the same)
    from .. import _api  # noqa: F401 (what a Context is rebuilt with)

    for name in told["preload"]:
        if name == "__main__":
            if told["main"] is not None:
                import_main(*told["main"])
        else:
            from importlib import import_module

            try:
                import_module(name)
            except ImportError:
                if not isinstance(name, Hint):
                    raise


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


# --- serving


def _serve(sock: _socket.socket, owner: int) -> NoReturn:
    parent = os.getppid()
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(owner, select.POLLIN)
    early: list[tuple[bytes, list[int]]] = []
    while True:
        if not early:
            if any(fd == owner for fd, _ in poll.poll()):
                os._exit(0)
            early.append(receive_fds(sock, ROOM))
        data, fds = early.pop()
        if not data:
            os._exit(0)
        _answer(sock, (owner, parent), data, fds, early)


def _answer(
    sock: _socket.socket,
    owner: tuple[int, int],
    data: bytes,
    fds: list[int],
    early: list[tuple[bytes, list[int]]],
) -> None:
    """Answer one request.

    Args:
        sock: the socket to the owner.
        owner: its pidfd and its pid.
        data, fds: the request's first message.
        early: gets a message that came in place of one that was expected.
    """
    number = 0
    try:
        request = Request(*pickle.loads(data))
        number = request.number
        _gather(sock, request, fds, early)
        if request.flags & IS_NOTHING:
            send_fds(sock, [], pickle.dumps((number, 0, None)))
            return
        request.fds = fds
        request.fetch()
        pid, pidfd = _make(request, owner[1], lambda: _close(sock.detach(), owner[0]))
    except Exception as e:
        send_fds(sock, [], pickle.dumps((number, 0, e)))
    else:
        send_fds(sock, [pidfd], pickle.dumps((number, pid, None)))
        os.close(pidfd)
    finally:
        for fd in fds:
            os.close(fd)


def _gather(sock: _socket.socket, request: Request, fds: list[int], early: list[tuple[bytes, list[int]]]) -> None:
    """The rest of a request's fds; those that found no room in the table here are missing, and are not waited for."""
    for _ in range(request.messages - 1):
        data, more = receive_fds(sock, ROOM)
        if data != CONTINUED:
            early.append((data, more))
            raise CloneError(
                EPROTO, step="recvmsg(in the zygote)", hint="likely: the rest of the fds could not be sent"
            )
        fds += more
    if len(fds) != request.total:
        raise CloneError(
            EMFILE,
            step=f"recvmsg({request.total} fds, in the zygote)",
            hint=f"likely: RLIMIT_NOFILE, which the zygote (process {os.getpid()}) has as of its start",
        )


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


def _new_gate() -> _core.Mapping:
    return _core.Mapping(-1, 4096, 0, True, True)


_GATE: Final = _new_gate()
# Contexts by their pickle: the description and what it compiles to are kept with it.
_contexts: dict[bytes, Description] = {}


def _context_of(request: Request) -> Description:
    context = _contexts.get(request.context)
    if context is None:
        if len(_contexts) > 1000:
            _contexts.clear()
        context = _contexts[request.context] = pickle.loads(request.context)
    if context.join is None:
        return context
    from .beside import arrived

    return arrived(context, request.fds[request.joined_at : request.joined_at + request.joined])


def _make(request: Request, owner: int, let_go: Callable[[], None]) -> tuple[int, int]:
    """Clone the task; gives its pid and pidfd, and returns in the zygote alone."""
    context = _context_of(request)
    if request.borrowed:
        from . import beside  # noqa: F401 (so that its tasks have it)
    else:
        steps_of(context, light=False, creator=owner)  # kept with it for its later tasks
    cgroup = request.fds[request.joined_at - 1] if request.flags & HAS_CGROUP and request.born_in_cgroup else -1
    plan = plan_of(context, "copied", cgroup=cgroup)
    # A child waits there while its id maps and the like are written, and only then.
    gate = _GATE
    if plan.joined:
        gate = map_fd(request.fds[0], SIZE, shared=True)  # where the owner finds the intermediate
    elif context.new:
        gate = _new_gate()
    try:
        pid, pidfd = _core.copied(plan, OF_ZYGOTE, gate)
    except OSError as e:
        raise CloneError(e.errno or 0, step=e.filename or _step_of(plan)) from None
    if pid == 0:
        begin(request, context, owner, bool(plan.joined), let_go)
    return pid, pidfd


def _step_of(plan: _core.Plan) -> str:
    cgroup = plan.cgroup if plan.cgroup >= 0 else None
    joined = Namespace(plan.joined).name if plan.joined else None
    return format_step("clone3", plan.flags, set_tid=plan.tids or None, cgroup=cgroup, joined=joined)
