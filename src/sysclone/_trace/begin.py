"""The beginning of a trace: of a program, with the filter, or of tasks that run already, without."""

from __future__ import annotations

import os
import shutil
import stat
from errno import EALREADY, EPERM, ESRCH

from .. import _core
from .._errors import CloneError, Unsupported
from .._kernel import why_no_proc
from .._popen.popen import Popen
from .build import Builder
from .session import BATCH, KILL, Trace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from .._context.description import Description
    from .policy import Policy

MODE_FILTER: Final = 0
MODE_ALL: Final = 1
MODE_EVENTS: Final = 2
_CAP_SYS_PTRACE, _CAP_SYS_ADMIN = 19, 21


def find_program(args: Any, keywords: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
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


def why_no_filter(program: str | None) -> str:
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


def start(
    args: Any, mode: int, policy: Policy, kill_on_exit: bool, context: Description | None, keywords: dict[str, Any]
) -> Trace:
    tracer = begin_tracer(mode, kill_on_exit)
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
        end(tracer)
        raise
    builder.root = process.pid
    policy.begin(process.pid)
    told = Trace(tracer, builder, policy)
    told.process = process
    return told


def end(tracer: _core.Tracer) -> None:
    """End a tracer whose program did not begin."""
    try:
        tracer.command(KILL)
        while tracer.read(-1, BATCH) is not None:
            pass
    except ProcessLookupError:
        pass  # it was killed
    tracer.close()


def begin_tracer(mode: int, kill_on_exit: bool) -> _core.Tracer:
    """A tracer in our own pid namespace: as the first process of another it would end that when it ends.

    Raises:
        Unsupported: our children get a pid namespace of their own, by unshare or setns; or /proc is not ours.
    """
    if why := why_no_proc():
        raise Unsupported("tracing", reason=why)
    try:
        ours, childrens = (os.readlink(f"/proc/thread-self/ns/{name}") for name in ("pid", "pid_for_children"))
    except FileNotFoundError:  # there is no first process in it yet, or there is no /proc
        ours, childrens = "", "" if not os.path.exists("/proc/self/ns/pid") else "another"
    except OSError:
        ours = childrens = ""
    if ours != childrens:
        reason = "this process's children get a pid namespace of their own, and the tracer would be inside"
        raise Unsupported("tracing", reason=reason)
    return _core.Tracer(mode, kill_on_exit)


def _why_not_traced(errno: int) -> str:
    """What keeps us from tracing our own child."""
    if errno == EPERM:
        return (
            "likely: it is traced already (are we run by strace or gdb?), or a seccomp filter or LSM refuses ptrace here\n"
            "try: sysctl kernel.yama.ptrace_scope; grep TracerPid /proc/self/status"
        )
    return ""


# --- tasks that run already


def attach(pid: int, threads: bool, tree: bool, mode: int, policy: Policy, kill_on_exit: bool) -> Trace:
    tracer = begin_tracer(mode, kill_on_exit)
    told = Trace(tracer, Builder(look), policy)
    seen: set[int] = set()
    try:
        # A pass that found nobody who was not traced already has found all: who is made now, is made by one of those.
        found = True
        while found and (new := [tid for tid in _wanted(pid, threads, tree) if tid not in seen]):
            first = not seen
            seen.update(new)
            answers = dict(zip(new, tracer.follow(new), strict=True))
            found = any(errno == 0 for errno in answers.values())
            refused = {tid: e for tid, e in answers.items() if e not in (0, ESRCH, EALREADY)}
            if first and not found:
                errno = next(iter(answers.values()))
                raise CloneError(errno, f"ptrace(PTRACE_SEIZE, {pid})", _why_not_attached(pid, errno))
            told.warnings += [
                f"task {tid} could not be attached: {os.strerror(e)}"
                for tid, e in refused.items()
                if _could_be_attached(tid, tracer.pid)
            ]
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


def _could_be_attached(tid: int, tracer: int) -> bool:
    """Whether a task that was refused is alive, and is not one that came to this tracer by itself, as its creator's child."""
    state, its_tracer = _state_of(tid)
    return state not in "ZX" and its_tracer != tracer


def _state_of(tid: int) -> tuple[str, int]:
    """A task's state ("X" where it has gone) and who traces it (0: nobody)."""
    lines = status_of(tid)
    return (lines["State"].split()[0], int(lines["TracerPid"])) if lines else ("X", 0)


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
    state, tracer = _state_of(pid)
    if state in "ZX":
        return "likely: it has ended, and its parent has not waited for it yet"
    if tracer:
        return f"likely: task {tracer} traces it already"
    if not _capable(_CAP_SYS_PTRACE):
        return "likely: it is another user's, or kernel.yama.ptrace_scope lets none but ancestors trace\ntry: as root"
    return "likely: it is a kernel thread, or an LSM refuses"


def status_of(tid: int) -> dict[str, str]:
    """What /proc says of a task, line by line; empty where it has gone."""
    try:
        with open(f"/proc/{tid}/status", encoding="ascii", errors="replace") as file:
            return dict(line.split(":", 1) for line in file)
    except OSError:
        return {}


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
