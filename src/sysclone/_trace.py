"""trace: a program, or tasks that run already, with every call that makes or changes a task.

The stops are taken by a task of its own (_core/tracer.c); here it is started, told whom to trace, and read.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
import warnings
from collections import deque
from errno import EALREADY, EPERM, ESRCH

from . import _core
from ._errors import CloneError, ContextError, SyscloneWarning
from ._popen import Popen
from ._trace_build import Builder
from ._trace_events import CloneEvent, ExitEvent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Any, Final, Self

    from ._context import Description
    from ._status import Status
    from ._trace_events import Event

MODE_FILTER: Final = 0
MODE_ALL: Final = 1
MODE_EVENTS: Final = 2
_KILL, _DETACH, _KEEP = 2, 3, 4
FOLLOW: Final = ("all", "threads", "processes")
_BATCH: Final = 512
_SECONDS_TO_END: Final = 10.0
_CAP_SYS_PTRACE, _CAP_SYS_ADMIN = 19, 21
_INTERRUPTED: Final = 512


class Trace:
    """A trace that goes on: an iterator of events, and a context manager.

    Iteration ends when the last traced task has ended. Leaving the `with` block, or `close()`, ends the program that was
    started, with all its tasks, and lets tasks that ran before go on.
    """

    def __init__(self, tracer: _core.Tracer, builder: Builder, policy: Policy) -> None:
        self._tracer = tracer
        self._builder = builder
        self._policy = policy
        self._ready: deque[Event] = deque()
        self._ended = False
        self._stops = 0
        self._owner = os.getpid()
        self.process: Popen | None = None
        self.epoch: float = time.time() - time.monotonic()
        self.warnings: list[str] = []

    # --- what is known of it

    @property
    def pid(self) -> int | None:
        """The pid of the program that was started; None for tasks that ran before."""
        return self.process.pid if self.process is not None else None

    @property
    def status(self) -> Status | None:
        """How the program that was started ended; None while it runs, and for tasks that ran before."""
        return self.process.status if self.process is not None else None

    @property
    def stops(self) -> int:
        """How often a task was stopped for this trace."""
        return self._stops if self._ended else self._tracer.stops

    def fileno(self) -> int:
        """An eventfd, the trace's own: readable when there may be something to read.

        Raises:
            ValueError: the trace has ended.
        """
        if self._ended:
            raise ValueError("the trace has ended")
        return self._tracer.fd

    # --- reading

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        while not self._ready:
            if self.read() is None:
                raise StopIteration
        return self._ready.popleft()

    def take(self) -> list[Event]:
        """The events that were read and not taken yet, without waiting: for after read()."""
        taken = list(self._ready)
        self._ready.clear()
        return taken

    def read(self, timeout: float | None = None) -> bool | None:
        """Wait until there are events to take, at most timeout seconds.

        Returns:
            True when there are, False when the time was over, None when the trace has ended and all were taken.

        Raises:
            SyscloneError: the tracer was killed: what came after is not known.
        """
        if self._ready:
            return True
        if self._ended:
            return None
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._ready:
            left = -1 if deadline is None else max(0, int(1000 * (deadline - time.monotonic())))
            try:
                records = self._tracer.read(left, _BATCH)
            except ProcessLookupError:
                self._tracer_died()
            if records is None:
                self._end()
                if self.process is not None:
                    self.process.wait()
                return None
            self._ready.extend(self._policy.chosen(self._builder.feed(records)))
            if not records:
                return False
        return True

    def _tracer_died(self) -> None:
        from ._errors import TaskKilled

        pid = self._tracer.pid
        self._end()
        raise TaskKilled(pid, None, "this was the tracer; what the traced tasks did after it is not known")

    def _end(self) -> None:
        """Every task has ended, or was let go."""
        if self._ended:
            return
        self._stops = self._tracer.stops
        self._ended = True
        self._tracer.close()

    # --- ending

    def close(self) -> None:
        """End the trace: the program that was started is killed with all its tasks; tasks that ran before are let go.

        What was not read by then is dropped. Closing twice is no error.
        """
        self._ready.clear()
        self._stop(_KILL if self.process is not None else _DETACH)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr) if self.process is not None else ():
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass  # what was still to be written has no reader any more

    def detach(self) -> None:
        """End the trace and let everything go on.

        A program that was started keeps its filter, which asks for a tracer at each call that makes a task: so the
        tracer stays with it, unheard, until its last task has ended. See docs/trace.md.
        """
        self._ready.clear()
        self._stop(_KEEP if self._policy.filtered else _DETACH)

    def _stop(self, how: int) -> None:
        if self._ended or self._owner != os.getpid():
            return
        try:
            if self._tracer.command(how) and how != _KEEP:
                self._drain()
        finally:
            self._end()
        if self.process is not None and how == _KILL:
            self.process.wait()

    def _drain(self) -> None:
        deadline = time.monotonic() + _SECONDS_TO_END
        while time.monotonic() < deadline:
            try:
                if self._tracer.read(1000, _BATCH) is None:
                    return
            except ProcessLookupError:
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_ended", True):
            self.close()


class Policy:
    """Which events are passed on.

    Args:
        follow: "all", or what is followed beside the first tasks: "threads" or "processes".
        depth: how many births below the first tasks a task may be for its events to be told; None for any.
        only_failed: calls that failed, and nothing else.
        filtered: whether the tasks have the filter.
    """

    def __init__(self, follow: str, depth: int | None, only_failed: bool, filtered: bool) -> None:
        self._all = follow == "all" and depth is None and not only_failed
        self._threads = follow != "processes"
        self._processes = follow != "threads"
        self._depth = depth
        self._only_failed = only_failed
        self._level: dict[int, int] = {}
        self.filtered = filtered

    def begin(self, tid: int) -> None:
        """A task that the trace begins with."""
        self._level[tid] = 0

    def chosen(self, events: list[Event]) -> list[Event]:
        """Those of the events that are passed on."""
        return events if self._all else [event for event in events if self._chooses(event)]

    def _chooses(self, event: Event) -> bool:
        level = self._level.get(event.tid)
        if event.call == "attach":
            level = self._level.setdefault(event.tid, 0)
        if level is None:
            return False
        if isinstance(event, ExitEvent):
            if event.superseded_by is None:
                del self._level[event.tid]
            return not self._only_failed
        if isinstance(event, CloneEvent) and event.child is not None:
            wanted = self._threads if event.is_thread else self._processes
            if wanted and (self._depth is None or level < self._depth):
                self._level[event.child] = level + 1
        errno = getattr(event, "errno", None)
        return not self._only_failed or (errno is not None and errno < _INTERRUPTED)


# --- beginning


def trace(
    args: Any = None,
    *,
    pid: int | None = None,
    threads: bool = True,
    tree: bool = False,
    every_call: bool = False,
    follow: str = "all",
    depth: int | None = None,
    only_failed: bool = False,
    kill_on_exit: bool = False,
    context: Description | None = None,
    **keywords: Any,
) -> Trace:
    """Trace a program, or tasks that run already: every call that makes or changes a task, and every end.

    A program is stopped at these calls alone, by a seccomp filter: clone, clone3, fork, vfork, unshare, setns, execve,
    execveat; failed ones too. Tasks that run already cannot be given the filter: of those, births, programs begun and
    ends are seen, and nothing that failed, no unshare and no setns, unless every_call is set. ptrace(2), seccomp(2).

    Args:
        args: the program and its arguments, as of Popen.
        pid: instead of args, a process (or with threads=False one task) that runs.
        threads: with pid, all threads of the process.
        tree: with pid, its descendants too.
        every_call: stop at every system call, as a tracer without a filter must: slow, and with pid complete.
        follow: "all"; "threads" or "processes" to follow only such new tasks.
        depth: how many births below the first task are followed; 0 is the first task alone. None is any.
        only_failed: pass on failed calls alone.
        kill_on_exit: if this program ends before, kill the traced ones; otherwise they live on.
        context: a Context for the program, as of Popen.
        keywords: every other keyword of Popen.

    Returns:
        A Trace: iterate over it, in a `with` block.

    Raises:
        CloneError: the program could not be started, or the kernel does not let us trace (with a hint).
        ContextError: neither or both of args and pid, or an unknown follow.

    Warns:
        SyscloneWarning: the program is setuid, and we have not the privilege to trace it with a filter.
    """
    if (args is None) == (pid is None):
        raise ContextError("trace needs a program or a pid, and not both", field="args")
    if follow not in FOLLOW:
        raise ContextError(f"follow={follow!r}: it is one of {', '.join(FOLLOW)}", field="follow")
    if depth is not None and depth < 0:
        raise ContextError(f"depth={depth}: it cannot be negative", field="depth")
    if pid is not None:
        if keywords or context is not None:
            raise ContextError("a context and keywords of Popen are for a program, not for a pid", field="pid")
        policy = Policy(follow, depth, only_failed, False)
        return _attach(pid, threads, tree, MODE_ALL if every_call else MODE_EVENTS, policy, kill_on_exit)
    program, keywords = _program(args, keywords)
    mode = MODE_ALL if every_call else MODE_FILTER
    told = _setuid(program)
    if told and mode == MODE_FILTER:
        mode = MODE_ALL
        warnings.warn(told, SyscloneWarning, stacklevel=2)
    policy = Policy(follow, depth, only_failed, mode == MODE_FILTER)
    return _start(args, mode, policy, kill_on_exit, context, keywords)


def _program(args: Any, keywords: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The program's file, found as a shell finds it, so that no failed attempts are traced; None where it is not found."""
    if keywords.get("shell"):
        return "/bin/sh", keywords
    first = keywords.get("executable") or (
        args if isinstance(args, (str, bytes, os.PathLike)) else next(iter(args), "")
    )
    name = os.fsdecode(first)
    env = keywords.get("env")
    path = name if "/" in name else shutil.which(name, path=os.pathsep.join(os.get_exec_path(env)))
    if path is not None and path != name:
        keywords = keywords | {"executable": path}
    return path, keywords


def _setuid(program: str | None) -> str:
    """Why a program cannot have the filter, or nothing."""
    if program is None:
        return ""
    try:
        found = os.stat(program)
        gains = found.st_mode & (stat.S_ISUID | stat.S_ISGID) and (found.st_uid, found.st_gid) != _effective()
        gains = gains or "security.capability" in os.listxattr(program)
    except OSError:
        return ""
    if not gains or _capable(_CAP_SYS_ADMIN):
        return ""
    return (
        f"{program} is setuid or has capabilities: the filter would take that from it, so it runs without (and slowly); "
        f"the kernel takes it as well from what an unprivileged tracer watches. try: as root"
    )


def _effective() -> tuple[int, int]:
    return os.geteuid(), os.getegid()


def _capable(bit: int) -> bool:
    """Whether we have a capability, in our user namespace."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            word = next(line.split()[1] for line in file if line.startswith("CapEff:"))
    except (OSError, StopIteration):
        return os.geteuid() == 0
    return bool(int(word, 16) >> bit & 1)


def _start(
    args: Any, mode: int, policy: Policy, kill_on_exit: bool, context: Description | None, keywords: dict[str, Any]
) -> Trace:
    tracer = _core.Tracer(mode, kill_on_exit)
    own_setup = keywords.pop("preexec_fn", None)
    builder = Builder(look)
    entered = False

    def setup() -> None:
        nonlocal entered
        try:
            tracer.enter()
        except OSError as e:
            raise CloneError(e.errno or EPERM, "ptrace(PTRACE_SEIZE)", _why_not_traced(e.errno or 0)) from None
        entered = True
        if own_setup is not None:
            own_setup()

    try:
        process = Popen(args, context=context, preexec_fn=setup, **keywords)
    except BaseException:
        tracer.command(_KILL)
        while tracer.read(-1, _BATCH) is not None:
            pass
        tracer.close()
        raise
    builder.root = process.pid
    policy.begin(process.pid)
    told = Trace(tracer, builder, policy)
    told.process = process
    return told


def _why_not_traced(errno: int) -> str:
    """What keeps us from tracing our own child."""
    if errno == EPERM:
        return (
            "likely: it is traced already (are we run by strace or gdb?), or a seccomp filter or LSM refuses ptrace here\n"
            "try: sysctl kernel.yama.ptrace_scope; grep TracerPid /proc/self/status"
        )
    return ""


# --- tasks that run already


def _attach(pid: int, threads: bool, tree: bool, mode: int, policy: Policy, kill_on_exit: bool) -> Trace:
    tracer = _core.Tracer(mode, kill_on_exit)
    told = Trace(tracer, Builder(look), policy)
    seen: set[int] = set()
    try:
        while new := [tid for tid in _wanted(pid, threads, tree) if tid not in seen]:
            first = not seen
            seen.update(new)
            answers = dict(zip(new, tracer.follow(new), strict=True))
            refused = {tid: errno for tid, errno in answers.items() if errno not in (0, ESRCH, EALREADY)}
            if first and not any(errno == 0 for errno in answers.values()):
                errno = next(iter(answers.values()))
                raise CloneError(errno, f"ptrace(PTRACE_SEIZE, {pid})", _why_not_attached(pid, errno))
            told.warnings += [f"task {tid} could not be attached: {os.strerror(e)}" for tid, e in refused.items()]
        if not seen:
            raise CloneError(ESRCH, f"ptrace(PTRACE_SEIZE, {pid})", f"likely: there is no task {pid}")
    except ProcessLookupError as e:
        if isinstance(e, CloneError):
            told.close()
            raise
    except BaseException:
        told.close()
        raise
    return told


def _wanted(pid: int, threads: bool, tree: bool) -> list[int]:
    """The tasks to attach, as they are now."""
    processes = [pid, *_descendants(pid)] if tree else [pid]
    if not threads:
        return [one for one in processes if os.path.exists(f"/proc/{one}")]
    tids: list[int] = []
    for one in processes:
        try:
            tids += sorted(int(name) for name in os.listdir(f"/proc/{one}/task"))
        except OSError:
            continue
    return tids


def _descendants(pid: int) -> list[int]:
    """Every process below one, by /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(name))
    found = list(children.get(pid, ()))
    for one in found:
        found += children.get(one, ())
    return found


def _why_not_attached(pid: int, errno: int) -> str:
    """What keeps us from tracing a task."""
    if errno != EPERM:
        return ""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            tracer = next(int(line.split()[1]) for line in file if line.startswith("TracerPid:"))
    except (OSError, StopIteration):
        tracer = 0
    if tracer:
        return f"likely: task {tracer} traces it already"
    if not _capable(_CAP_SYS_PTRACE):
        return "likely: it is another user's, or kernel.yama.ptrace_scope lets none but ancestors trace\ntry: as root"
    return "likely: it is a kernel thread, or an LSM refuses"


def look(tid: int) -> tuple[str, tuple[str, ...]]:
    """The name and the command line of a task; empty where it has gone."""
    try:
        with open(f"/proc/{tid}/comm", encoding="utf-8", errors="surrogateescape") as file:
            name = file.read().rstrip("\n")
        with open(f"/proc/{tid}/cmdline", "rb") as cmdline:
            argv = cmdline.read().rstrip(b"\0").split(b"\0")
    except OSError:
        return "", ()
    return name, tuple(os.fsdecode(one) for one in argv) if argv != [b""] else ()
