"""The life of a fresh process, from the clone on: it puts itself in its place, unpickles its call, and makes it."""

from __future__ import annotations

import gc
import os
import signal
import sys

from .. import _core
from .._data.result import CLAIM, PID, ResultPage, load
from .._data.transport import read_letter, unpickle
from .._errors import CloneError, ZygoteError
from .._flags import Namespace
from .._steps.steps import steps_of, take
from .._task.child import live
from .importing import import_main
from .request import BEGUN, HAS_CGROUP, HAS_CWD, HAS_LETTER, HAS_SPILL, HAS_STDIO, REVOKED, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from .._context.description import Description


def begin(request: Request, context: Description, owner: int, told: bool, let_go: Callable[[], None]) -> NoReturn:
    """The task's life.

    Args:
        request: what it is made of.
        context: as it was compiled for the clone.
        owner: the pid of the task's parent.
        told: whether who made it tells its pid, which it does not know itself in namespaces that it joined.
        let_go: closes what is the zygote's.
    """
    try:
        page = ResultPage.arrived(*request.take(2))
        if not told:
            page.set_word(PID, own_pid())
        elif not page.word(PID):
            os._exit(0)  # who made it was killed before it could tell: nobody would ever find this process
        if page.exchange(CLAIM, 0, BEGUN) == REVOKED:
            os._exit(0)
        let_go()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        gc.enable()
    except BaseException:
        os._exit(255)
    live(page, context.timeout, lambda: _prepare(request, context, owner, page), fallback=_loaded_pickler)


def _prepare(
    request: Request, context: Description, owner: int, page: ResultPage
) -> tuple[Callable[..., Any], Any, Any]:
    caller = unpickle(request.caller, ()) if request.caller else {}
    if context.fds:
        _keep_clear(request, page, [target for target, _source in context.fds])
    borrowed = _put_in_place(request, caller)
    if borrowed:
        from .beside import placed

        context = placed(context, borrowed)
    # Before the steps: afterwards its modules may be out of sight, or of reach.
    with _NoImports(context):
        if request.main is not None:
            import_main(*request.main)
        fn, args, kwargs, setup = _unpack(request)
    if setup is not None:
        context = context.replace(setup=setup)
    steps = steps_of(context, light=False, creator=owner)
    if steps:
        load()
    if "limits" in caller:
        _limit(caller["limits"])
    try:
        take(steps)
    finally:
        for fd in borrowed:
            if fd not in dict(context.fds):
                _core.syscall("close", fd)
    return fn, args, kwargs


def own_pid() -> int:
    """This process's pid as its owner knows it, also from within a new pid namespace of its own."""
    pid = os.getpid()
    return int(os.readlink("/proc/self")) if pid == 1 else pid


def _keep_clear(request: Request, page: ResultPage, targets: list[int]) -> None:
    """Let no fd that came along have a number at which the task is to have another."""
    import fcntl

    page.keep_clear(targets)
    for at, fd in enumerate(request.fds):
        if fd in targets:
            try:
                request.fds[at] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, max(targets) + 1)
            except OSError as e:
                raise CloneError(e.errno or 0, step=f"fcntl(F_DUPFD_CLOEXEC, {fd})") from None
            os.close(fd)


def _put_in_place(request: Request, caller: dict[str, Any]) -> list[int]:
    """The caller's cwd and the like; gives the fds that the Context names."""
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
    for fd in request.take(request.joined):
        os.close(fd)
    borrowed = request.take(request.borrowed)
    if request.flags & HAS_SPILL:
        os.close(*request.take(1))
    if "umask" in caller:
        os.umask(caller["umask"])
    if "environment" in caller:
        _take_environment(caller["environment"])
    return borrowed


def _enter_cgroup(directory: int) -> None:
    from .._cgroup import CgroupDirectory

    CgroupDirectory(directory).enter()


def _take_environment(pairs: tuple[tuple[str, str], ...]) -> None:
    from .._steps.descriptors import environment_step

    _name, act, arguments = environment_step(pairs)
    act(*arguments)


def _limit(limits: list[tuple[int, int]]) -> None:
    """The caller's resource limits, which a context's own may lower further."""
    import resource

    for which, wanted in enumerate(limits):
        if resource.getrlimit(which) != wanted:
            try:
                resource.setrlimit(which, wanted)
            except (OSError, ValueError) as e:
                raise CloneError(getattr(e, "errno", 0) or 1, step=f"setrlimit({which}, {wanted})") from None


def _unpack(request: Request) -> Any:
    try:
        if request.flags & HAS_LETTER:
            return read_letter(request.fds, *request.table)
        return unpickle(request.inline, ())
    except Exception as e:
        e.add_note("while the function and its arguments were unpickled in the fresh process")
        raise


class _NoImports:
    """While this is entered, in another mount namespace, nothing is imported: the files there are others."""

    def __init__(self, context: Description) -> None:
        self._on = context.join is not None and Namespace.MOUNT in context.join.kinds

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """As of a finder, the first one that is asked."""
        if name not in sys.builtin_module_names and not name.startswith("_frozen"):
            raise ZygoteError(
                f"module {name} would be imported from the files of the joined mount namespace, and is not: "
                f"Zygote(preload=[{name!r}]) loads it beforehand"
            )

    def __enter__(self) -> None:
        if self._on:
            sys.meta_path.insert(0, self)

    def __exit__(self, *_: object) -> None:
        if self._on:
            sys.meta_path.remove(self)


def _loaded_pickler() -> Any:
    """cloudpickle's, where it is loaded: classes and functions that came by value go back so."""
    cloudpickle = sys.modules.get("cloudpickle")
    return None if cloudpickle is None else cloudpickle.Pickler
