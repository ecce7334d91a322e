"""What this kernel and this user can do, found out by doing it, each in a child that leaves nothing behind.

Each probe returns where the thing can be had, and raises No, or the kernel's refusal itself, where it cannot; Unknown
where it cannot be told. A release number decides nothing: filters lie and distributions carry things back.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from errno import EEXIST, ENOSYS, EPERM, errorcode

from .. import _core, lowlevel
from .._api import Context
from .._errors import CloneError, Unsupported
from .._flags import SINCE, Clone, Namespace, Share
from .._kernel import known_flags
from .._popen.run import run as run_program
from ._machine import FILES, read, status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

_NOBODY: Final = 65534
_PATIENCE: Final = 10.0
_COPIED: Final = Context(timeout=_PATIENCE)
_LIGHT: Final = Context(share=Share.VM, timeout=_PATIENCE)


class No(Exception):
    """It cannot be had."""

    def __init__(self, why: str, attempt: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.attempt = attempt


class Unknown(No):
    """Whether it can be had cannot be told."""


@dataclass(frozen=True)
class Finding:
    """What one probe found.

    Args:
        group, name: of the feature.
        answer: "yes", "no" or "unknown".
        since: the Linux release that brought it, or "".
        why: why not, or how.
        attempt: what to do about it, or "".
    """

    group: str
    name: str
    answer: str
    since: str
    why: str
    attempt: str


_PROBES: list[tuple[str, str, str, Callable[[], str | None]]] = []


def _probe(group: str, name: str, since: str = "") -> Callable[[Callable[[], str | None]], Callable[[], str | None]]:
    def enter(function: Callable[[], str | None]) -> Callable[[], str | None]:
        _PROBES.append((group, name, since, function))
        return function

    return enter


def findings() -> list[Finding]:
    """Every probe's finding, in order."""
    return [Finding(group, name, *_ask(function, since)) for group, name, since, function in _PROBES]


def _ask(function: Callable[[], str | None], since: str) -> tuple[str, str, str, str]:
    try:
        return "yes", since, function() or "", ""
    except No as e:
        return "unknown" if isinstance(e, Unknown) else "no", since, e.why, e.attempt
    except CloneError as e:
        likely, attempt = _hint(e)
        refusal = f"{e.step}: {errorcode.get(e.errno, e.errno)}"
        return "no", since, f"{refusal}: {likely}" if likely else f"{refusal} {e.strerror}", attempt
    except Unsupported as e:
        return "no", since, str(e), ""
    except OSError as e:
        why = f"{errorcode.get(e.errno or 0, '')} {e.strerror}"
        return "no", since, why, f"a kernel of Linux {since} or newer" if e.errno == ENOSYS and since else ""
    except Exception as e:
        return "unknown", since, f"{type(e).__name__}: {e}", ""


def _hint(error: CloneError) -> tuple[str, str]:
    """The likely cause and what to try, from an error's hint."""
    told = dict(line.split(": ", 1) for line in error.hint.splitlines() if ": " in line)
    return told.get("likely", ""), told.get("try", "")


# --- tasks


@_probe("tasks", "light processes")
def _light_processes() -> None:
    if _LIGHT.call(os.getpid) == os.getpid():
        raise No("the function ran in this very process")


@_probe("tasks", "SIGKILL at any moment")
def _killed_anywhere() -> str:
    """Not tried: a light process that is killed at the wrong moment hangs its creator."""
    name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    if name != "glibc":
        raise Unknown("this C library is not glibc")
    older = tuple(int(part) for part in version.split(".")[:2]) < (2, 41)
    if older and sys.version_info < (3, 14):
        return f"glibc {version}: the GIL is set right afterwards; cancel() is still the better way"
    if older:
        raise No(
            f"glibc {version}: a light process that SIGKILL strikes while it waits for the GIL may hang its creator",
            "stop it with cancel() or a timeout, which kill only where it is safe",
        )
    return f"glibc {version} survives it in a condition variable; cancel() is still the better way"


@_probe("tasks", "threads (THREAD)")
def _threads() -> None:
    pid, tid = Context.thread().call(lambda: (os.getpid(), lowlevel.gettid()))
    if pid != os.getpid() or tid == pid:
        raise No(f"pid {pid}, tid {tid}")


@_probe("tasks", "copied processes")
def _copied_processes() -> None:
    if _COPIED.call(os.getpid) == os.getpid():
        raise No("the function ran in this very process")


@_probe("tasks", "programs")
def _programs() -> None:
    code = run_program(["/bin/true"], timeout=_PATIENCE).returncode
    if code:
        raise No(f"/bin/true left with {code}")


# --- the switches


@_probe("switches", "clone3", "5.3")
def _clone3() -> None:
    answer = _core.probe_clone3(int(Clone.VM), 0)
    if answer == 0:
        return
    if answer in (ENOSYS, EPERM):
        from .._kernel import is_at_least

        if is_at_least("5.3"):
            raise No(f"a seccomp filter answers {errorcode[answer]}", "a container profile that allows clone3")
        raise No(f"this is Linux {os.uname().release}", "a kernel of Linux 5.3 or newer")
    raise No(errorcode.get(answer, str(answer)))


def _switch(flag: Clone) -> Callable[[], None]:
    def probe() -> None:
        if not known_flags() & flag:
            raise No(f"this kernel's clone3 does not know it (Linux {os.uname().release})")

    return probe


for _flag, _since in SINCE.items():
    _probe("switches", f"CLONE_{_flag.name}", _since)(_switch(_flag))


@_probe("switches", "set_tid", "5.5")
def _set_tid() -> None:
    # A pid that was free a moment ago; if it is taken again, the right to ask for it was there.
    free = _COPIED.call(os.getpid)
    try:
        got = _COPIED.replace(tid=free).call(os.getpid)
    except CloneError as e:
        if e.errno == EEXIST:
            return
        if e.errno == EPERM:
            why = "to choose a pid takes CAP_CHECKPOINT_RESTORE (Linux 5.9) or CAP_SYS_ADMIN where the pid namespace was made"
            raise No(why, "run as root, or in a new user and pid namespace") from None
        raise
    if got != free:
        raise No(f"asked for {free}, got {got}")


# --- namespaces


def _inode(kind: Namespace) -> int:
    name = str(kind.name)
    return os.stat(f"/proc/self/ns/{FILES.get(name, name.lower())}").st_ino


def _enter(kind: Namespace, base: Context = _COPIED) -> None:
    """Make a namespace, and see from within that it is another."""
    try:
        ours = _inode(kind)
    except FileNotFoundError:
        raise No("this kernel was built without it") from None
    if base.replace(new=base.new | kind).call(_inode, kind) == ours:
        raise No("the child is still in ours")


def _namespace(kind: Namespace) -> Callable[[], str]:
    def probe() -> str:
        if os.geteuid() == 0 or kind is Namespace.USER:
            try:
                _enter(kind)
                return ""
            except CloneError as e:
                if e.errno != EPERM or kind is Namespace.USER:
                    raise
        _enter(kind, _COPIED.replace(new=Namespace.USER))
        return "together with a user namespace"

    return probe


_BORN = {Namespace.TIME: "5.6", Namespace.CGROUP: "4.6", Namespace.USER: "3.8"}
for _kind in Namespace:
    _probe("namespaces", str(_kind.name).lower(), _BORN.get(_kind, ""))(_namespace(_kind))


def _as_nobody() -> Finding:
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    return Finding("", "", *_ask(_namespace(Namespace.USER), ""))


@_probe("namespaces", "user, unprivileged")
def _unprivileged() -> str | None:
    if os.geteuid():
        return _namespace(Namespace.USER)()
    try:
        found = _COPIED.call(_as_nobody)
    except PermissionError as e:
        raise Unknown(f"this root may not become another user: {e.strerror}") from None
    if found.answer != "yes":
        raise No(found.why, found.attempt)
    return None


# --- pidfds and looking


@_probe("pidfds", "pidfd_open", "5.3")
def _pidfd_open() -> None:
    os.close(lowlevel.pidfd_open(os.getpid()))


@_probe("pidfds", "PIDFD_THREAD", "6.9")
def _pidfd_thread() -> None:
    os.close(lowlevel.pidfd_open(os.getpid(), lowlevel.PIDFD_THREAD))


@_probe("pidfds", "pidfd_send_signal", "5.1")
def _pidfd_send_signal() -> None:
    _with_pidfd(lambda fd: lowlevel.pidfd_send_signal(fd, 0))


@_probe("pidfds", "pidfd_getfd", "5.6")
def _pidfd_getfd() -> None:
    read, write = os.pipe()
    try:
        _with_pidfd(lambda fd: os.close(lowlevel.pidfd_getfd(fd, read)))
    finally:
        os.close(read)
        os.close(write)


@_probe("pidfds", "waitid(P_PIDFD)", "5.4")
def _waitid_pidfd() -> None:
    with _COPIED.start(int) as task:
        lowlevel.waitid(lowlevel.P_PIDFD, task.pidfd, lowlevel.WEXITED | lowlevel.WNOWAIT | lowlevel.__WALL)


@_probe("pidfds", "PIDFD_GET_INFO", "6.13")
def _pidfd_info() -> None:
    def ask(fd: int) -> None:
        if lowlevel.pidfd_info(fd).pid != os.getpid():
            raise No("it tells another pid")

    _with_pidfd(ask)


@_probe("pidfds", "PIDFD_INFO_EXIT", "6.15")
def _pidfd_info_exit() -> None:
    with _COPIED.start(int) as task:
        fd = os.dup(task.pidfd)
    try:
        if lowlevel.pidfd_info(fd).exit_code is None:
            raise No("PIDFD_GET_INFO does not keep the status of a process that was waited for")
    finally:
        os.close(fd)


def _with_pidfd(act: Callable[[int], None]) -> None:
    fd = lowlevel.pidfd_open(os.getpid())
    try:
        act(fd)
    finally:
        os.close(fd)


@_probe("looking", "kcmp", "3.5")
def _kcmp() -> None:
    with _COPIED.start(signal.pause) as task:
        try:
            if lowlevel.kcmp(os.getpid(), task.pid, lowlevel.KCMP_VM) == 0:
                raise No("it says that a copied process shares our memory")
        finally:
            task.cancel()


@_probe("looking", "close_range", "5.9")
def _close_range() -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(436, ctypes.c_uint(0xFFFFFFFF), ctypes.c_uint(0xFFFFFFFF), 0) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@_probe("looking", "ptrace of others' tasks")
def _ptrace() -> str:
    scope = read("/proc/sys/kernel/yama/ptrace_scope")
    if scope in ("", "0"):
        return "of the same user" if scope else "of the same user: there is no Yama here"
    words = {"1": "of descendants alone", "2": "for CAP_SYS_PTRACE alone", "3": "for nobody"}
    raise No(f"kernel.yama.ptrace_scope is {scope}: {words.get(scope, '')}", "sysctl kernel.yama.ptrace_scope=0")


@_probe("looking", "no seccomp filter on us")
def _seccomp() -> None:
    mode, count = status("Seccomp"), status("Seccomp_filters")
    if mode and mode != "0":
        raise No(f"Seccomp mode {mode}, {count or 'some'} filters: calls may be refused that the kernel has")


# --- cgroups


@_probe("cgroups", "version 2")
def _cgroup2() -> str:
    where = _mount("cgroup2")
    controllers = read(os.path.join(where, "cgroup.controllers"))
    return f"{where}: {controllers or 'no controllers, placement alone'}"


@_probe("cgroups", "version 1")
def _cgroup1() -> str:
    mounts = [line.split() for line in read("/proc/self/mounts").splitlines()]
    kinds = [os.path.basename(fields[1]) for fields in mounts if fields[2] == "cgroup"]
    if not kinds:
        raise No("no hierarchy of version 1 is mounted")
    return ", ".join(kinds)


@_probe("cgroups", "born in one", "5.7")
def _into_cgroup() -> str:
    where = _mount("cgroup2")
    own = next((line[3:] for line in read("/proc/self/cgroup").splitlines() if line.startswith("0::")), "/")
    parent = os.path.join(where, own.lstrip("/"))
    folder = os.path.join(parent, f"sysclone-doctor-{os.getpid()}")
    try:
        os.mkdir(folder)
    except OSError as e:
        why = f"mkdir({folder}): {errorcode.get(e.errno or 0)} {e.strerror}"
        raise No(why, "as a user: systemd-run --user --scope -p Delegate=yes") from None
    try:
        told = _COPIED.replace(cgroup=folder).call(read, "/proc/self/cgroup")
    finally:
        os.rmdir(folder)
    if os.path.basename(folder) not in told:
        raise No("the child is not there")
    return f"in {parent}"


def _mount(kind: str) -> str:
    for line in read("/proc/self/mounts").splitlines():
        if line.split()[2] == kind:
            return line.split()[1].replace("\\040", " ")
    raise No(f"no {kind} is mounted", f"mount -t {kind} none /sys/fs/cgroup")
