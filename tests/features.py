"""What this machine and this user can do: the only source of skips.

Each probe is a function made before the act, and returns why the thing is not to be had, or None if it is. A probe
looks at the thing itself, by raw system calls or by the system's own tools, and never through sysclone: a bug of ours
must fail a test, not skip it. tests/allowed_skips.txt says which of these may be missing where the suite must be whole.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

Probe = Callable[[], str | None]
PROBES: dict[str, Probe] = {}

NOBODY = 65534
CAP_SETGID, CAP_SETUID, CAP_SYS_PTRACE, CAP_SYS_ADMIN = 6, 7, 19, 21
SYS_KCMP = {"x86_64": 312, "aarch64": 272}
SYS_PTRACE = {"x86_64": 101, "aarch64": 117}
PTRACE_SEIZE = 0x4206
SYS_FSOPEN = 430
SYS_SECCOMP = {"x86_64": 317, "aarch64": 277}
SYS_PIDFD_OPEN, SYS_CLONE3, SYS_PIDFD_GETFD = 434, 435, 438
SECCOMP_GET_ACTION_AVAIL, SECCOMP_RET_ERRNO = 2, 0x00050000
PIDFD_INFO_EXIT = 1 << 3
PROC_PID_INIT_INO = 0xEFFFFFFC

libc = ctypes.CDLL(None, use_errno=True)


def requires(*features: str) -> pytest.MarkDecorator:
    """The mark of a test that needs these features; an unknown name is an error at once."""
    unknown = [name for name in features if name not in PROBES]
    if unknown:
        raise ValueError(f"no probe in features.py for: {', '.join(unknown)}")
    return pytest.mark.needs(*features)


@functools.cache
def why_not(feature: str) -> str | None:
    """Why a feature is not to be had here, or None if it is."""
    return PROBES[feature]()


def have(feature: str) -> bool:
    """Whether a feature is to be had here."""
    return why_not(feature) is None


def probe(function: Probe) -> Probe:
    """Enter a function in the table of probes, under its own name."""
    PROBES[function.__name__] = function
    return function


# --- ways to ask


def raw(number: int, *arguments: int | ctypes.Array[ctypes.c_char]) -> int:
    """A system call, as the kernel answers it: a result, or an errno as a negative number."""
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result: int = libc.syscall(ctypes.c_long(number), *words)
    return result if result != -1 else -ctypes.get_errno()


def says(*command: str, user: int | None = None) -> str | None:
    """None if a command succeeds, else the last line of what it said."""
    if shutil.which(command[0]) is None:
        return f"there is no {command[0]}"
    identity = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd="/", check=False, **identity)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{' '.join(command)}: {error}"
    lines = (done.stderr or done.stdout).strip().splitlines()
    return None if done.returncode == 0 else lines[-1] if lines else f"{command[0]} left with {done.returncode}"


def capable(*bits: int) -> str | None:
    """None if this process has these capabilities in effect."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            effective = int(line.split()[1], 16)
            missing = [bit for bit in bits if not effective >> bit & 1]
            return f"capabilities {missing} are not in effect" if missing else None
    return "/proc/self/status has no CapEff"


def error_name(result: int) -> str:
    """The name of a negative errno."""
    return errno.errorcode.get(-result, str(result))


@contextmanager
def own_pidfd() -> Iterator[int]:
    """A pidfd of this process, or a negative errno."""
    pidfd = raw(SYS_PIDFD_OPEN, os.getpid(), 0)
    try:
        yield pidfd
    finally:
        if pidfd >= 0:
            os.close(pidfd)


# --- who we are


@probe
def root() -> str | None:
    """Root with what root is for: other ids, and administration."""
    return "not root" if os.geteuid() else capable(CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN)


@probe
def nobody() -> str | None:
    """A process may become nobody and lose every privilege."""
    return capable(CAP_SETGID, CAP_SETUID)


@probe
def nobody_python() -> str | None:
    """Nobody can run this very interpreter, with what is installed in it."""
    return nobody() or says(sys.executable, "-c", "import sysclone", user=NOBODY)


@probe
def two_cores() -> str | None:
    """Two tasks can run at once."""
    return None if len(os.sched_getaffinity(0)) > 1 else "one core"


@probe
def no_sanitizer() -> str | None:
    """No sanitizer's library in all programs: it needs /proc and 16 TiB of addresses, makes calls, locks each allocation."""
    maps = Path("/proc/self/maps").read_text()
    return next((f"{name} is loaded" for name in ("libasan", "libubsan") if name in maps), None)


# --- calls


@probe
def with_is_whole() -> str | None:
    """No signal's handler runs when `with` has taken a lock and its block has not begun."""
    return "CPython 3.14 runs them there: docs/limits.md" if sys.version_info[:2] == (3, 14) else None


@probe
def clone3() -> str | None:
    """The kernel, and what filters it, know clone3."""
    result = raw(SYS_CLONE3, 0, 0)
    return None if result == -errno.EINVAL else f"clone3 says {error_name(result)}"


@probe
def pidfd() -> str | None:
    """pidfd_open."""
    with own_pidfd() as fd:
        return None if fd >= 0 else f"pidfd_open says {error_name(fd)}"


@probe
def pidfd_getfd() -> str | None:
    """pidfd_getfd, from a process of one's own."""
    with own_pidfd() as pidfd_, tempfile.TemporaryFile() as file:
        fd = raw(SYS_PIDFD_GETFD, pidfd_, file.fileno(), 0)
        if fd >= 0:
            os.close(fd)
        return None if fd >= 0 else f"pidfd_getfd says {error_name(fd)}"


def ask_pidfd_info(mask: int) -> int:
    """The mask that PIDFD_GET_INFO answers, or a negative errno."""
    import fcntl

    asked = bytearray(64)
    struct.pack_into("Q", asked, 0, mask)
    with own_pidfd() as fd:
        try:
            fcntl.ioctl(fd, 3 << 30 | 64 << 16 | 0xFF << 8 | 11, asked)  # _IOWR(PIDFS_IOCTL_MAGIC, 11, 64 bytes)
        except OSError as error:
            return -(error.errno or errno.EIO)
    return int(struct.unpack_from("Q", asked)[0])


@probe
def pidfd_info() -> str | None:
    """ioctl(pidfd, PIDFD_GET_INFO): Linux 6.13."""
    answer = ask_pidfd_info(1)
    return None if answer >= 0 else f"PIDFD_GET_INFO says {error_name(answer)}"


@probe
def pidfd_info_exit() -> str | None:
    """PIDFD_GET_INFO tells the status of a task that was waited for: Linux 6.15."""
    missing = pidfd_info()
    if missing:
        return missing
    child = os.posix_spawn("/bin/true", ["true"], {})
    fd = raw(SYS_PIDFD_OPEN, child, 0)
    os.waitpid(child, 0)
    try:
        import fcntl

        asked = bytearray(64)
        struct.pack_into("Q", asked, 0, PIDFD_INFO_EXIT)
        fcntl.ioctl(fd, 3 << 30 | 64 << 16 | 0xFF << 8 | 11, asked)
        return None if struct.unpack_from("Q", asked)[0] & PIDFD_INFO_EXIT else "the answer has no status"
    except OSError as error:
        return f"PIDFD_GET_INFO of the dead says {errno.errorcode.get(error.errno or 0)}"
    finally:
        os.close(fd)


@probe
def kcmp() -> str | None:
    """kcmp, of this process with itself."""
    result = raw(SYS_KCMP[platform.machine()], os.getpid(), os.getpid(), 1, 0, 0)
    return None if result == 0 else f"kcmp says {error_name(result)}"


@probe
def seccomp() -> str | None:
    """Seccomp filters that answer with an errno."""
    action = ctypes.create_string_buffer(struct.pack("I", SECCOMP_RET_ERRNO))
    result = raw(SYS_SECCOMP[platform.machine()], SECCOMP_GET_ACTION_AVAIL, 0, action)
    return None if result == 0 else f"seccomp says {error_name(result)}"


@probe
def libseccomp() -> str | None:
    """The library that compiles filters."""
    try:
        ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        return str(error)
    return None


@probe
def landlock() -> str | None:
    """Landlock, in use: Linux 5.13."""
    result = raw(444, 0, 0, 1)
    return None if result > 0 else f"landlock_create_ruleset says {error_name(result)}"


def _landlock_of(version: int, linux: str) -> str | None:
    result = raw(444, 0, 0, 1)
    return None if result >= version else f"landlock_create_ruleset says {result}, and {version} is Linux {linux}"


@probe
def landlock_tcp() -> str | None:
    """Landlock for TCP ports: Linux 6.7."""
    return landlock() or _landlock_of(4, "6.7")


@probe
def landlock_scopes() -> str | None:
    """Landlock for signals and abstract sockets: Linux 6.12."""
    return landlock() or _landlock_of(6, "6.12")


@probe
def keyrings() -> str | None:
    """Keys of the kernel's, and /proc to see them."""
    return None if os.path.exists("/proc/keys") else "there is no /proc/keys"


@probe
def numa() -> str | None:
    """Memory policies, and /proc to see them."""
    return None if os.path.exists("/proc/self/numa_maps") else "there is no /proc/self/numa_maps"


@probe
def set_tid() -> str | None:
    """clone3's set_tid: Linux 5.5, and the right to choose pids in this pid namespace."""
    return clone3() or root()


@probe
def ptrace() -> str | None:
    """A child may be traced, and its system calls told apart: PTRACE_GET_SYSCALL_INFO, Linux 5.3."""
    child = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    try:
        result = raw(SYS_PTRACE[platform.machine()], PTRACE_SEIZE, child, 0, 0)
        if result < 0:
            return f"ptrace says {error_name(result)}"
        major, minor = (int(word) for word in re.match(r"(\d+)\.(\d+)", platform.release()).groups())
        return None if (major, minor) >= (5, 3) else f"this is Linux {platform.release()}"
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


@probe
def tracefs() -> str | None:
    """Tracefs, mounted nowhere, as root: fsopen, Linux 5.2."""
    fd = raw(SYS_FSOPEN, ctypes.create_string_buffer(b"tracefs"), 0)
    if fd >= 0:
        os.close(fd)
    return root() or (None if fd >= 0 else f"fsopen(tracefs) says {error_name(fd)}")


@probe
def x86_64() -> str | None:
    """The machine is an x86-64."""
    return None if platform.machine() == "x86_64" else f"this is {platform.machine()}"


@probe
def ia32() -> str | None:
    """This kernel takes calls of the 32-bit table."""
    if x86_64():
        return x86_64()
    code = 'int main(void) { long r; __asm__ volatile("int $0x80" : "=a"(r) : "a"(20)); return r <= 0; }'
    with tempfile.TemporaryDirectory() as folder:
        compiled = subprocess.run(["gcc", "-xc", "-", "-o", f"{folder}/a"], input=code, text=True, check=False)
        done = compiled.returncode == 0 and subprocess.run([f"{folder}/a"], check=False).returncode == 0
    return None if done else "int 0x80 is refused"


# --- namespaces


@probe
def user_namespaces() -> str | None:
    """This user may make a user namespace and be root there."""
    return says("unshare", "--user", "--map-root-user", "true")


@probe
def unprivileged_user_namespaces() -> str | None:
    """Nobody may make a user namespace and be root there."""
    return nobody() or says("unshare", "--user", "--map-root-user", "true", user=NOBODY)


@probe
def newuidmap() -> str | None:
    """The set-uid programs that map ranges of ids (Debian: uidmap)."""
    missing = [name for name in ("newuidmap", "newgidmap") if shutil.which(name) is None]
    return f"no {' and no '.join(missing)}" if missing else None


def namespace(kind: str, *options: str) -> str | None:
    """None if this user may make such a namespace, within a user namespace unless root."""
    if not Path(f"/proc/self/ns/{kind}").exists():
        return f"the kernel has no {kind} namespaces"
    return says("unshare", *([] if have("root") else ["--user", "--map-root-user"]), *options, "true")


@probe
def mount_namespaces() -> str | None:
    """A mount namespace."""
    return namespace("mnt", "--mount")


@probe
def pid_namespaces() -> str | None:
    """A pid namespace."""
    return namespace("pid", "--pid", "--fork")


@probe
def net_namespaces() -> str | None:
    """A network namespace."""
    return namespace("net", "--net")


@probe
def uts_namespaces() -> str | None:
    """A UTS namespace."""
    return namespace("uts", "--uts")


@probe
def ipc_namespaces() -> str | None:
    """An IPC namespace."""
    return namespace("ipc", "--ipc")


@probe
def cgroup_namespaces() -> str | None:
    """A cgroup namespace."""
    return namespace("cgroup", "--cgroup")


@probe
def time_namespaces() -> str | None:
    """A time namespace: Linux 5.6."""
    return namespace("time", "--time")


# --- cgroups


def cgroup_mount(kind: str) -> Path | None:
    """Where the first cgroup hierarchy of a kind, "cgroup" or "cgroup2", is mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] == kind:
            return Path(before.split()[4])
    return None


def cgroup_writable(kind: str) -> str | None:
    """None if this user may make a cgroup in such a hierarchy and move a process in."""
    mount = cgroup_mount(kind)
    if mount is None:
        return f"no {kind} hierarchy is mounted"
    try:
        folder = Path(tempfile.mkdtemp(prefix="probe-", dir=mount))
    except OSError as error:
        return f"{mount}: {error.strerror}"
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    try:
        (folder / "cgroup.procs").write_text(str(child.pid))
    except OSError as error:
        return f"{folder}/cgroup.procs: {error.strerror}"
    finally:
        child.communicate()
        folder.rmdir()
    return None


@probe
def cgroup2() -> str | None:
    """A cgroup v2 hierarchy to make groups in."""
    return cgroup_writable("cgroup2")


def controller_writable(controller: str, limit: str) -> str | None:
    """None if this user may make a version 1 cgroup with a controller, below the one it is in, and set a limit."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            folder = Path("/sys/fs/cgroup", controller, path.lstrip("/"))
            try:
                made = Path(tempfile.mkdtemp(prefix="probe-", dir=folder))
            except OSError as error:
                return f"{folder}: {error.strerror}"
            try:
                (made / limit).write_text("1000000000" if controller == "memory" else "1000")
            except OSError as error:
                return f"{made}/{limit}: {error.strerror}"
            finally:
                made.rmdir()
            return None
    return f"no version 1 hierarchy has the {controller} controller"


@probe
def memory_cgroup() -> str | None:
    """A memory cgroup, version 1, with a limit of one's own."""
    return controller_writable("memory", "memory.limit_in_bytes")


@probe
def pids_cgroup() -> str | None:
    """A pids cgroup, version 1, with a limit of one's own."""
    return controller_writable("pids", "pids.max")


@probe
def cgroup1() -> str | None:
    """A cgroup v1 hierarchy to make groups in."""
    return cgroup_writable("cgroup")


def memory_mount() -> Path | None:
    """Where the cgroup v1 hierarchy of the memory controller is mounted."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    found = (Path(words[1]) for words in mounts if words[2] == "cgroup" and "memory" in words[3].split(","))
    return next(found, None)


@probe
def cgroup1_memory() -> str | None:
    """A cgroup v1 hierarchy of the memory controller to make groups in."""
    mount = memory_mount()
    if mount is None:
        return "no cgroup v1 memory hierarchy is mounted"
    folder = mount / f"sysclone-probe-memory-{os.getpid()}"
    try:
        folder.mkdir()
        folder.rmdir()
    except OSError as error:
        return f"{folder}: {error.strerror}"
    return None


@probe
def kernel_threads() -> str | None:
    """Kernel threads can be seen, as in the first pid namespace."""
    return None if Path("/proc/2/comm").exists() and Path("/proc/2/comm").read_text() == "kthreadd\n" else "no kthreadd"


@probe
def first_pid_namespace() -> str | None:
    """Task ids are those of the first pid namespace, which are what the kernel writes into its records (tracefs, kmsg)."""
    here = os.readlink("/proc/self/ns/pid")
    return None if here == f"pid:[{PROC_PID_INIT_INO}]" else f"this is another pid namespace, {here}"


@probe
def sysv_semaphores() -> str | None:
    """System V semaphores can be made, with an undo list."""
    semaphore = libc.semget(0, 1, 0o1600)
    if semaphore < 0:
        return f"semget says {error_name(-ctypes.get_errno())}"
    libc.semctl(semaphore, 0, 0)
    return None


# --- tools


def importable(module: str) -> str | None:
    """None if this interpreter can import a module; it is not imported here."""
    import importlib.util

    return None if importlib.util.find_spec(module) is not None else f"there is no {module}"


@probe
def dask() -> str | None:
    """Dask's distributed."""
    return importable("distributed")


@probe
def arrow() -> str | None:
    """There is pyarrow."""
    return importable("pyarrow")


@probe
def joblib() -> str | None:
    """There is joblib."""
    return importable("joblib")


@probe
def ip_netns() -> str | None:
    """Network namespaces can be made and named by ip(8)."""
    return says("ip", "-V")


@probe
def fanotify_exec() -> str | None:
    """fanotify's FAN_OPEN_EXEC_PERM, by which an exec waits until somebody lets it through."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.fanotify_init(0x4 | 0x1, os.O_RDONLY | os.O_CLOEXEC)
    if fd < 0:
        return f"fanotify_init: {os.strerror(ctypes.get_errno())}"
    try:
        if libc.fanotify_mark(fd, 0x1, ctypes.c_uint64(0x40000), -100, b"/bin/true") < 0:
            return f"fanotify_mark: {os.strerror(ctypes.get_errno())}"
    finally:
        os.close(fd)
    return None


@probe
def strace() -> str | None:
    """Strace can follow a program here."""
    return says("strace", "-f", "-o", "/dev/null", "-e", "trace=clone,clone3", "sh", "-c", "true & wait")


@probe
def gdb() -> str | None:
    """There is gdb."""
    return says("gdb", "--version")


@probe
def py_spy() -> str | None:
    """There is py-spy, and it knows this CPython."""
    program = str(Path(sysconfig.get_path("scripts"), "py-spy"))
    code = "print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as sleeper:
        assert sleeper.stdout is not None
        sleeper.stdout.readline()
        answer = says(program, "dump", "--pid", str(sleeper.pid))
        sleeper.communicate(b"\n")
    return answer


@probe
def perf() -> str | None:
    """Perf can count the time of a program here."""
    return says("perf", "record", "-q", "-e", "cpu-clock", "-o", "/dev/null", "true")


@probe
def tmux() -> str | None:
    """There is tmux, a terminal to drive programs in."""
    return says("tmux", "-V")


@probe
def chromium() -> str | None:
    """There is Chromium, which draws pages without a screen."""
    return says("chromium", "--version")


@probe
def compiler() -> str | None:
    """There is a C compiler, with nm beside it."""
    return says("gcc", "--version") or says("nm", "--version")
