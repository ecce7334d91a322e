"""Fresh processes in a Context: each field by its effect, and fds of the caller's that it names."""

from __future__ import annotations

import errno
import os
import platform
import pty
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import fresh_calls
import pytest
from features import NOBODY, requires

import sysclone
from sysclone import (
    Capabilities,
    CloneError,
    Context,
    ContextError,
    Landlock,
    Mount,
    Namespace,
    Namespaces,
    Scheduling,
    Share,
    TaskTimeout,
    Zygote,
)
from sysclone._context.field_table import FIELDS

SYS = {
    "x86_64": {"ioprio_get": 252, "uname": 63},
    "aarch64": {"ioprio_get": 31, "uname": 160},
}[platform.machine()]
KEYRING = f"sysclone-contexts-{os.getpid()}"


@pytest.fixture(scope="module")
def kept():
    """One zygote for the tests that do it no harm."""
    with Zygote(preload=["fresh_calls", "ctypes", "resource", "socket"]) as one:
        one.call(int)
        yield one


# --- each field


def status(name):
    """A line of the calling task's /proc/self/status."""
    return next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)).split()[1]


def stat(at):
    """A field of the calling task's /proc/self/stat, by its number in proc(5)."""
    return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[at - 3])


# By field: a Context with it, what a task in it says, and what that has to be.
SEEN = {
    "new": (Context(new=Namespace.PID), os.getpid, 1),
    "cwd": (Context(cwd="/usr"), os.getcwd, "/usr"),
    "root": (Context(root="/proc"), lambda: os.path.exists("/self"), True),
    "umask": (Context(umask=0o71), lambda: status("Umask"), "0071"),
    "session": (Context(session=True), lambda: os.getsid(0) == os.getpid(), True),
    "process_group": (Context(process_group=0), lambda: os.getpgid(0) == os.getpid(), True),
    "limits": (Context(limits={"NOFILE": (90, 99)}), lambda: __import__("resource").getrlimit(7), (90, 99)),
    "nice": (Context(nice=7), lambda: os.getpriority(os.PRIO_PROCESS, 0), 7),
    "scheduling": (Context(scheduling=Scheduling("batch")), lambda: os.sched_getscheduler(0), os.SCHED_BATCH),
    "affinity": (
        Context(affinity={min(os.sched_getaffinity(0))}),
        lambda: os.sched_getaffinity(0),
        {min(os.sched_getaffinity(0))},
    ),
    "io_priority": (Context(io_priority="idle"), lambda: raw_call("ioprio_get", 1, 0) >> 13, 3),
    "oom_score_adj": (Context(oom_score_adj=321), lambda: Path("/proc/self/oom_score_adj").read_text(), "321\n"),
    "timer_slack_ns": (Context(timer_slack_ns=5000), lambda: Path("/proc/self/timerslack_ns").read_text(), "5000\n"),
    "signal_mask": (Context(signal_mask={10}), lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()), {10}),
    "ignored_signals": (Context(ignored_signals={12}), lambda: int(status("SigIgn"), 16) >> 11 & 1, 1),
    "default_signals": (Context(default_signals={13}), lambda: int(status("SigIgn"), 16) >> 12 & 1, 0),
    "clear_signal_handlers": (Context(clear_signal_handlers=True), lambda: int(status("SigCgt"), 16) >> 24 & 1, 0),
    "environment": (Context(environment={"ONLY": "this"}), lambda: dict(os.environ), {"ONLY": "this"}),
    "personality": (Context(personality=0x20000), lambda: os.uname().release[:3], "2.6"),
    "untraced": (Context(untraced=True), lambda: int(status("TracerPid")), 0),
    "timeout": (Context(timeout=0.1), signal.pause, TaskTimeout),
    "uid_map": (Context(new=Namespace.USER, uid_map="root"), os.getuid, 0),
    "gid_map": (Context(new=Namespace.USER, gid_map="root"), os.getgid, 0),
    "loopback": (Context(new=Namespace.NET | Namespace.USER, loopback=True), lambda: serves_itself(), "127.0.0.1"),
    "uid": (Context(uid=NOBODY), os.getresuid, (NOBODY,) * 3),
    "gid": (Context(gid=NOBODY), os.getresgid, (NOBODY,) * 3),
    "groups": (Context(groups=[5, 7]), os.getgroups, [5, 7]),
    "capabilities": (Context(capabilities=Capabilities.only("CHOWN")), lambda: status("CapEff"), f"{1:016x}"),
    "securebits": (Context(securebits=0x10), lambda: __import__("ctypes").CDLL(None).prctl(27, 0, 0, 0, 0), 0x10),
    "no_new_privs": (Context(no_new_privs=True), lambda: status("NoNewPrivs"), "1"),
    "hostname": (Context(new=Namespace.UTS, hostname="there"), lambda: os.uname().nodename, "there"),
    "domainname": (
        Context(new=Namespace.UTS, domainname="example"),
        Path("/proc/sys/kernel/domainname").read_text,
        "example\n",
    ),
    "propagation": (
        Context(new=Namespace.MOUNT, propagation="slave"),
        lambda: "shared:" in Path("/proc/self/mountinfo").read_text(),
        False,
    ),
    "mounts": (
        Context(new=Namespace.MOUNT, mounts=[Mount.tmpfs("/mnt")]),
        lambda: " /mnt " in Path("/proc/self/mountinfo").read_text(),
        True,
    ),
    "time_offsets": (
        Context(new=Namespace.TIME, time_offsets={"boottime": 10_000_000}),
        lambda: float(Path("/proc/uptime").read_text().split()[0]) > 10_000_000,
        True,
    ),
    # /proc/keys has the keyrings of everybody who is root, another run of these tests too.
    "keyring": (Context(keyring=KEYRING), lambda: KEYRING in Path("/proc/keys").read_text(), True),
    "landlock": (
        Context(no_new_privs=True, landlock=Landlock(read=["/proc"])),
        lambda: refused(os.listdir, "/usr"),
        errno.EACCES,
    ),
    "seccomp": (
        Context(
            no_new_privs=True,
            seccomp=struct.pack("HBBIHBBI", 0x20, 0, 0, 0, 0x15, 0, 1, SYS["uname"])
            + struct.pack("HBBIHBBI", 6, 0, 0, 0x50000 | errno.EOWNERDEAD, 6, 0, 0, 0x7FFF0000),
        ),
        lambda: refused(os.uname),
        errno.EOWNERDEAD,
    ),
    "setup": (Context(setup=lambda: os.environ.update(SET="up")), lambda: os.environ["SET"], "up"),
    "memory_policy": (
        Context(memory_policy=("bind", 0)),
        lambda: not os.path.exists("/proc/self/numa_maps") or " bind:0 " in Path("/proc/self/numa_maps").read_text(),
        True if os.path.exists("/proc/self/numa_maps") else CloneError,
    ),
}
# Those with a test of their own.
APART = {"join", "tid", "cgroup", "controlling_terminal", "foreground", "parent_death_signal", "fds"}
# What a clone of the zygote's cannot have of the caller's, or what is for programs.
REFUSED = {
    "share": Context(share=Share.FILES),
    "parent": Context(parent="sibling"),
    "exit_signal": Context(exit_signal=10),
    "stack_bytes": Context(share=Share.VM, stack_bytes=1 << 20),
    "ptrace": Context(ptrace=True),
    "suspend_caller": Context(share=Share.VM, suspend_caller=True),
    "memory_exclude": Context(memory_exclude=[bytearray(20_000)]),
    "memory_wipe": Context(memory_wipe=[bytearray(20_000)]),
    "argv0": Context(argv0="x"),
    "executable": Context(executable="/bin/true"),
}


def raw_call(name, *arguments):
    """A raw system call in a task."""
    import ctypes

    return ctypes.CDLL(None).syscall(SYS[name], *arguments)


def refused(function, *arguments):
    """The errno that a call is refused with, or 0."""
    try:
        function(*arguments)
    except OSError as error:
        return error.errno
    return 0


def serves_itself():
    """Talk to oneself over the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        return client.getpeername()[0]


@pytest.fixture(scope="module", autouse=True)
def this_module_goes_by_value():
    """What tasks run of this module they get by value: they have no pytest."""
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_every_field_has_a_test():
    """Each field of a Context is seen by its effect here, or refused."""
    assert set(SEEN) | APART | set(REFUSED) == set(FIELDS)


@requires("root", "pid_namespaces", "user_namespaces", "uts_namespaces", "time_namespaces", "landlock", "seccomp")
@pytest.mark.parametrize("name", SEEN)
def test_a_field_has_its_effect(kept, name):
    """What the Context says is true within the task, and no longer after it."""
    context, look, expected = SEEN[name]
    if isinstance(expected, type):
        with pytest.raises(expected):
            kept.call_in(context, look)
    else:
        assert kept.call_in(context, lambda: look()) == expected
    assert kept.call(len, "abc") == 3


@pytest.mark.parametrize("name", REFUSED)
def test_a_field_that_makes_no_sense_is_refused(kept, name):
    """What would be the zygote's and not the caller's is a ContextError at its field, with the reason."""
    with pytest.raises(ContextError) as caught:
        kept.call_in(REFUSED[name], int)
    assert caught.value.field in (name, "share")


@requires("root")
def test_a_pid_may_be_chosen(kept):
    """The task has the pid that was asked for, and its handle knows it."""
    with kept.start(int) as one:
        one.wait()
    free = one.pid  # reaped: nobody has it now
    with kept.start_in(Context(tid=free), os.getpid) as task:
        assert task.result() == task.pid == free


@requires("root", "cgroup2")
def test_a_cgroup_by_fd(kept):
    """The task is born in the cgroup whose directory is given by fd."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    path = next(Path(words[1]) for words in mounts if words[2] == "cgroup2") / f"sysclone-contexts-{os.getpid()}"
    path.mkdir()
    fd = os.open(path, os.O_RDONLY)
    try:
        assert path.name in kept.call_in(Context(cgroup=fd), Path("/proc/self/cgroup").read_text)
    finally:
        os.close(fd)
        path.rmdir()


# --- fds of the caller's that a Context names


def test_fds_are_at_their_numbers(kept):
    """Each is the caller's file at the number asked for, swaps too, beside arguments that are fds; nothing else is open."""
    names = ("zero", "null", "full")
    opened = [os.open(f"/dev/{name}", os.O_RDWR) for name in names]
    try:
        a, b, c = opened
        context = Context(fds={a: b, b: a, 50: c, 7: c, 2: b})

        def look(argument):
            here = {
                int(fd): os.readlink(f"/proc/self/fd/{fd}")
                for fd in os.listdir("/proc/self/fd")
                if os.path.exists(f"/proc/self/fd/{fd}")
            }
            return here, argument.fileno(), os.readlink(f"/proc/self/fd/{argument.fileno()}")

        for _ in range(3):
            here, number, argument = kept.call_in(context, look, sysclone.Descriptor(c))
            assert (here[a], here[b], here[50], here[7], here[2], argument) == (
                "/dev/null", "/dev/zero", "/dev/full", "/dev/full", "/dev/null", "/dev/full",
            )  # fmt: skip
            rest = {fd: name for fd, name in here.items() if fd > 2 and fd not in (a, b, 50, 7, number)}
            # libffi 3.8 keeps the file open that it is loaded from.
            unknown = {name for name in rest.values() if "/libffi.so." not in name}
            assert all(name.startswith(("socket:", "/proc/")) for name in unknown), rest
    finally:
        for fd in opened:
            os.close(fd)


def test_an_fd_that_is_not_open_is_told(kept):
    """Before anything is made."""
    with pytest.raises(CloneError, match="EBADF") as caught:
        kept.call_in(Context(fds={5: 999}), int)
    assert "fstat(999)" in caught.value.step
    assert kept.call(len, "abc") == 3


@requires("root", "mount_namespaces")
def test_places_may_be_fds(kept, tmp_path):
    """cwd, root and the source of a bind are the caller's directories by fd, and no fd of them stays."""
    (tmp_path / "mark").write_text("here")
    fd = os.open(tmp_path, os.O_PATH)
    try:
        assert kept.call_in(Context(cwd=fd), lambda: (os.listdir("."), os.getcwd())) == (["mark"], str(tmp_path))
        assert kept.call_in(Context(root=fd), lambda: os.listdir("/")) == ["mark"]
        assert [one.partition(":")[0] for one in kept.call_in(Context(cwd=fd), fresh_calls.fds)] == ["socket"]
        os.fstat(fd)
    finally:
        os.close(fd)


@requires("root", "mount_namespaces")
def test_the_source_of_a_bind_may_be_an_fd(kept, tmp_path):
    """A place in the joined mount namespace, held by the caller, is bound there; no fd of it stays."""
    (tmp_path / "mark").write_text("here")
    path = str(tmp_path)
    with Namespaces.new(Namespace.MOUNT) as held:
        there = kept.call_in(Context(join=held), lambda: sysclone.Descriptor(os.open(path, os.O_PATH)))
        bound = Context(join=held, mounts=[Mount.bind(there.fileno(), "/mnt")])
        look = lambda: (os.listdir("/mnt"), fresh_calls.fds())  # noqa: E731
        shown, fds = kept.call_in(bound, look)
    assert shown == ["mark"]
    assert [one.partition(":")[0] for one in fds] == ["socket"]


@pytest.mark.parametrize("by", ["fd", "path"])
def test_a_terminal(kept, by):
    """A new session takes the caller's terminal, by fd or by path, and its group is in front."""
    ours, theirs = pty.openpty()
    try:
        where = theirs if by == "fd" else os.ttyname(theirs)
        context = Context(session=True, controlling_terminal=where, foreground=where)
        look = lambda: (stat(7), stat(8) == stat(5))  # noqa: E731
        assert kept.call_in(context, look) == (os.fstat(theirs).st_rdev, True)
    finally:
        os.close(theirs)
        os.close(ours)


def test_a_parent_death_signal_comes_at_the_programs_end():
    """A task with one dies of it when its program is killed; one without goes on."""
    reading, writing = os.pipe()
    code = """
        import os, sys, sysclone
        out = sysclone.Descriptor(int(sys.argv[1]))
        def tell(fd):
            import signal
            os.write(fd.fileno(), os.getpid().to_bytes(4, "little"))
            signal.pause()
        zygote = sysclone.Zygote()
        zygote.start_in(sysclone.Context(parent_death_signal=9), tell, out)
        os.write(1, b"x")
        os.read(0, 1)
        os.kill(os.getpid(), 9)
    """
    import textwrap

    from helpers import SOURCES, ended

    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(writing)],
        stdin=subprocess.PIPE, pass_fds=[writing], env=os.environ | {"PYTHONPATH": str(SOURCES)},
        stdout=subprocess.DEVNULL,
    ) as program:  # fmt: skip
        os.close(writing)
        pidfd = os.pidfd_open(int.from_bytes(os.read(reading, 4), "little"))
        assert not ended(pidfd, 0)
        program.stdin.write(b"x")
        program.stdin.close()
        program.wait(20)
        assert ended(pidfd)
    os.close(pidfd)
    os.close(reading)


def test_a_parent_death_signal_of_a_thread_is_refused():
    """Of a zygote that a thread has started it would come at the thread's end: refused while the thread is there."""
    made = []
    go_on = threading.Event()
    thread = threading.Thread(target=lambda: (made.append(Zygote()), go_on.wait()))
    thread.start()
    while not made:
        thread.join(0.01)
    with made[0] as zygote:
        with pytest.raises(ContextError, match="that thread's end") as caught:
            zygote.call_in(Context(parent_death_signal=9), int)
        assert caught.value.field == "parent_death_signal"
        go_on.set()
        while os.path.exists(f"/proc/self/task/{thread.native_id}"):
            thread.join(0.01)  # which is there before the kernel has let go of it
        assert zygote.call_in(Context(parent_death_signal=9), len, "abc") == 3
