"""The raw tier: each call by its effect, each field of clone_args, and the kernel's own answers."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import select
import signal
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
from features import NOBODY, cgroup_mount, have, requires
from helpers import ended, in_subprocess, state

from sysclone import Context, ContextError, Share, lowlevel
from sysclone.lowlevel import Clone, CloneArgs

ALL = getattr(lowlevel, "__WALL")
ODD = getattr(lowlevel, "__WCLONE")
STACK = 16384
EXIT = lowlevel.ENTRY_EXIT


def waited(pid, options=0):
    """What waitid tells of a child's end."""
    return lowlevel.waitid(lowlevel.P_PID, pid, lowlevel.WEXITED | ALL | options)


@contextmanager
def stack():
    """A stack for a child that shares this memory: the map and its lowest address."""
    with mmap.mmap(-1, STACK) as block:
        address = ctypes.c_char.from_buffer(block)
        try:
            yield ctypes.addressof(address)
        finally:
            del address


def on_a_stack(low, flags=0, **fields):
    """The arguments of a child that shares this memory and stands on such a stack, as vfork's."""
    fields = {"exit_signal": signal.SIGCHLD, "stack": low, "stack_size": STACK} | fields
    return CloneArgs(flags=Clone.VM | Clone.VFORK | flags, **fields)


def fork():
    """os.fork, without CPython's warning of the idle helper threads that other tests leave."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


@contextmanager
def child(run=lambda: 0):
    """A child by os.fork that runs a function and then stays until the end of the block: its pid."""
    go_on, tell = os.pipe()
    ready, begun = os.pipe()
    pid = fork()
    if pid == 0:
        code = 1
        try:
            os.close(tell)
            run()
            os.write(begun, b"x")
            os.read(go_on, 1)
            code = 0
        finally:
            os._exit(code)
    os.close(begun)
    try:
        assert os.read(ready, 1) == b"x"
        yield pid
    finally:
        for fd in (go_on, tell, ready):
            os.close(fd)
        with_status = os.waitpid(pid, 0)
        assert with_status == (pid, 0) or os.WIFSIGNALED(with_status[1])


# --- clone3


def test_clone3_goes_on_in_a_copy():
    """Without an entry the call returns 0 in a child of its own memory, and the child's pid here."""
    value = [1]
    pid = lowlevel.clone3(CloneArgs(exit_signal=signal.SIGCHLD))
    if pid == 0:
        value[0] = 5
        os._exit(value[0])

    assert waited(pid).status == 5
    assert value == [1]


def test_clone3_runs_an_entry():
    """With an entry, on a stack of its own in this memory, the child exits with what the entry makes of its argument."""
    with stack() as low:
        pid = lowlevel.clone3(on_a_stack(low), entry=EXIT, argument=37)
        assert pid > 0
        assert (waited(pid).code, state(pid)) == (os.CLD_EXITED, "")
        again = lowlevel.clone3(on_a_stack(low), entry=EXIT, argument=38)
        assert waited(again).status == 38


def test_shared_memory_without_an_entry_is_refused():
    """CLONE_VM without an entry raises ContextError before the call, from both calls."""
    for refused in (lambda: lowlevel.clone3(CloneArgs(flags=Clone.VM)), lambda: lowlevel.clone(Clone.VM)):
        with pytest.raises(ContextError) as caught:
            refused()
        assert caught.value.field == "entry"


def test_parent_tid_is_written():
    """PARENT_SETTID writes the child's id at parent_tid, in this memory."""
    word = ctypes.c_int(-1)
    with stack() as low:
        pid = lowlevel.clone3(on_a_stack(low, Clone.PARENT_SETTID, parent_tid=ctypes.addressof(word)), entry=EXIT)
        waited(pid)

    assert word.value == pid


def test_child_tid_is_written_and_cleared():
    """CHILD_SETTID writes the child's id at child_tid in its memory, and CHILD_CLEARTID clears the word and wakes us."""
    word = ctypes.c_int(-1)
    at = ctypes.addressof(word)
    pid = lowlevel.clone3(CloneArgs(flags=Clone.CHILD_SETTID, child_tid=at, exit_signal=signal.SIGCHLD))
    if pid == 0:
        os._exit(7 if word.value == os.getpid() else 8)
    assert waited(pid).status == 7
    assert word.value == -1  # its own copy was written

    with stack() as low:
        args = on_a_stack(low, Clone.CHILD_CLEARTID, child_tid=at)
        args.flags &= ~Clone.VFORK
        pid = lowlevel.clone3(args, entry=EXIT)
        while word.value:
            lowlevel.futex_wait(at, 0xFFFFFFFF, 10)
        assert waited(pid).status == 0


def test_pidfd_is_written():
    """CLONE_PIDFD leaves a close-on-exec pidfd of the child at pidfd, readable at its end."""
    word = ctypes.c_int(-1)
    with stack() as low:
        args = on_a_stack(low, Clone.PIDFD, pidfd=ctypes.addressof(word))
        pid = lowlevel.clone3(args, entry=EXIT, argument=9)
    try:
        assert f"Pid:\t{pid}\n" in Path(f"/proc/self/fdinfo/{word.value}").read_text()
        assert not os.get_inheritable(word.value)
        assert ended(word.value)
        assert lowlevel.waitid(lowlevel.P_PIDFD, word.value, lowlevel.WEXITED).status == 9
    finally:
        os.close(word.value)


def test_exit_signal_is_sent():
    """The parent gets the exit signal that the struct names; 0 sends none."""
    got = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: got.append(number))
    try:
        with stack() as low:
            for number in (0, signal.SIGUSR2):
                pid = lowlevel.clone3(on_a_stack(low, exit_signal=number), entry=EXIT)
                assert waited(pid).pid == pid
                assert got == ([number] if number else [])
    finally:
        signal.signal(signal.SIGUSR2, before)


@requires("compiler")
def test_tls_is_the_childs(tmp_path):
    """CLONE_SETTLS makes tls the child's thread pointer: an entry in C reads it."""
    import platform
    import subprocess

    register = {"x86_64": '"mov %%fs:0, %0"', "aarch64": '"mrs %0, tpidr_el0"'}[platform.machine()]
    source = tmp_path / "entry.c"
    source.write_text(
        f"int entry(void *to) {{ unsigned long it; __asm__ volatile({register} : "
        '"=r"(it)); *(unsigned long *)to = it; return 6; }\n'
    )
    library = tmp_path / "entry.so"
    command = ["gcc", "-O1", "-shared", "-fPIC", "-fno-stack-protector", "-fcf-protection=none", "-o", library, source]
    if platform.machine() != "x86_64":
        command.remove("-fcf-protection=none")
    subprocess.run(command, check=True)
    entry = ctypes.cast(ctypes.CDLL(str(library)).entry, ctypes.c_void_p).value
    block = (ctypes.c_ulong * 8)()
    block[0] = ctypes.addressof(block)  # on x86-64 its own address stands there
    seen = ctypes.c_ulong(0)
    with stack() as low:
        args = on_a_stack(low, Clone.SETTLS, tls=ctypes.addressof(block))
        pid = lowlevel.clone3(args, entry=entry, argument=ctypes.addressof(seen))
        assert waited(pid).status == 6

    assert seen.value == ctypes.addressof(block)


def free_pid():
    """A pid that nobody has: the one of a child that was reaped."""
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    return pid


@requires("set_tid")
def test_set_tid_is_the_childs():
    """The child has the id that set_tid chooses; one that is taken is EEXIST."""
    with stack() as low:
        wanted = free_pid()
        assert lowlevel.clone3(on_a_stack(low, set_tid=(wanted,)), entry=EXIT) == wanted
        waited(wanted)
        with pytest.raises(FileExistsError):
            lowlevel.clone3(on_a_stack(low, set_tid=(os.getpid(),)), entry=EXIT)


@requires("set_tid", "pid_namespaces")
def test_set_tid_goes_from_the_innermost_out():
    """In a new pid namespace the first id is the one inside, and the second the one here."""
    wanted = free_pid()
    pid = lowlevel.clone3(CloneArgs(flags=Clone.NEWPID, set_tid=(1, wanted), exit_signal=signal.SIGCHLD))
    if pid == 0:
        os._exit(4 if os.getpid() == 1 else 5)

    assert pid == wanted
    assert waited(pid).status == 4


@requires("cgroup2")
def test_cgroup_is_where_the_child_is_born():
    """CLONE_INTO_CGROUP puts the child in the cgroup of the fd."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="lowlevel-", dir=cgroup_mount("cgroup2")))
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    go_on, tell = os.pipe()
    try:
        pid = lowlevel.clone3(CloneArgs(flags=Clone.INTO_CGROUP, cgroup=fd, exit_signal=signal.SIGCHLD))
        if pid == 0:
            os.close(tell)
            os.read(go_on, 1)
            os._exit(0)
        assert (folder / "cgroup.procs").read_text() == f"{pid}\n"
    finally:
        for one in (fd, go_on, tell):
            os.close(one)
        waited(pid)
        folder.rmdir()


@pytest.mark.parametrize("size", [64, 80, 88, 96, 4096])
def test_clone3_takes_each_size_it_knows(size):
    """The struct of each version is taken, and a longer one whose rest is zero."""
    with stack() as low:
        pid = lowlevel.clone3(on_a_stack(low), size=size, entry=EXIT, argument=3)
        assert waited(pid).status == 3


@pytest.mark.parametrize(("size", "answer"), [(0, errno.EINVAL), (63, errno.EINVAL), (8192, errno.E2BIG)])
def test_clone3_refuses_other_sizes(size, answer):
    """Less than the first version is EINVAL and more than a page is E2BIG, as the kernel says it; no child is made."""
    with stack() as low, pytest.raises(OSError, match=r"\[Errno") as caught:
        lowlevel.clone3(on_a_stack(low), size=size, entry=EXIT)
    assert caught.value.errno == answer


def test_the_size_hides_the_later_fields():
    """With the first version's size the kernel does not read set_tid: a taken id is not refused."""
    with stack() as low:
        pid = lowlevel.clone3(on_a_stack(low, set_tid=(os.getpid(),)), size=64, entry=EXIT)
        assert pid != os.getpid()
        waited(pid)


def test_clone3_checks_the_stack():
    """A stack without its size is EINVAL: clone3 wants both or neither."""
    with stack() as low, pytest.raises(OSError, match="Invalid argument"):
        lowlevel.clone3(on_a_stack(low, stack_size=0), entry=EXIT)


@pytest.mark.parametrize("flags", [Clone.SIGHAND, Clone.THREAD, Clone.NEWNS | Clone.FS, 1 << 60])
def test_clone3_answers_as_the_kernel(flags):
    """What breaks the kernel's rules is EINVAL from the kernel, in the parent alone."""
    with pytest.raises(OSError, match="Invalid argument"):
        lowlevel.clone3(CloneArgs(flags=flags, exit_signal=signal.SIGCHLD))


def test_clone_args_show_what_is_set():
    """repr() of the struct names the fields that are set."""
    assert repr(CloneArgs(flags=256, set_tid=(3,))) == "CloneArgs(flags=256, set_tid=(3,))"


# --- clone


def test_the_old_clone_goes_on_in_a_copy():
    """The old call without an entry is fork, with the exit signal in the flags' low byte."""
    pid = lowlevel.clone(signal.SIGCHLD)
    if pid == 0:
        os._exit(11)

    assert waited(pid).status == 11


def test_the_old_clone_starts_at_the_stacks_top():
    """The old call takes the stack's highest address, writes parent_tid, and clears child_tid."""
    parent, cleared = ctypes.c_int(-1), ctypes.c_int(-1)
    flags = Clone.VM | Clone.VFORK | Clone.PARENT_SETTID | Clone.CHILD_CLEARTID | signal.SIGCHLD
    with stack() as low:
        where = (low + STACK, ctypes.addressof(parent), ctypes.addressof(cleared))
        pid = lowlevel.clone(flags, *where, entry=EXIT, argument=12)
        assert waited(pid).status == 12

    assert (parent.value, cleared.value) == (pid, 0)


def test_the_old_clone_gives_its_pidfd_by_parent_tid():
    """In the old call CLONE_PIDFD writes the pidfd where parent_tid points."""
    word = ctypes.c_int(-1)
    with stack() as low:
        flags = Clone.VM | Clone.VFORK | Clone.PIDFD | signal.SIGCHLD
        pid = lowlevel.clone(flags, low + STACK, ctypes.addressof(word), entry=EXIT, argument=13)
    try:
        assert lowlevel.waitid(lowlevel.P_PIDFD, word.value, lowlevel.WEXITED).pid == pid
    finally:
        os.close(word.value)


# --- unshare and setns


@requires("kcmp")
def test_unshare_is_the_threads_own(tmp_path):
    """unshare(FS) in a thread gives it a cwd of its own: by kcmp, and the program's cwd stays."""
    before, seen = os.getcwd(), []

    def leaves():
        compare = (lowlevel.gettid(), os.getpid(), lowlevel.KCMP_FS)
        seen.append(lowlevel.kcmp(*compare) == 0)
        lowlevel.unshare(Clone.FS)
        seen.append(lowlevel.kcmp(*compare) == 0)
        os.chdir(tmp_path)
        seen.append(os.getcwd())

    thread = threading.Thread(target=leaves)
    thread.start()
    thread.join()

    assert seen == [True, False, str(tmp_path)]
    assert os.getcwd() == before


def test_unshare_is_refused_as_the_kernel_says():
    """A bit that unshare does not take is EINVAL."""
    with pytest.raises(OSError, match="Invalid argument"):
        lowlevel.unshare(Clone.PARENT)


def uts():
    """The UTS namespace of the calling task."""
    return os.readlink("/proc/thread-self/ns/uts")


@requires("root", "uts_namespaces")
@pytest.mark.parametrize("way", ["file", "pidfd"])
def test_setns_enters(way):
    """setns moves the calling task into the namespace of a /proc/PID/ns file, or into those of a pidfd's process."""
    with child(lambda: lowlevel.unshare(Clone.NEWUTS)) as pid:
        theirs = os.readlink(f"/proc/{pid}/ns/uts")
        fd = os.open(f"/proc/{pid}/ns/uts", os.O_RDONLY) if way == "file" else lowlevel.pidfd_open(pid)
        try:
            found = Context(share=Share.VM).call(lambda: (uts(), lowlevel.setns(fd, Clone.NEWUTS), uts()))
            if way == "file":
                with pytest.raises(OSError, match="Invalid argument"):
                    lowlevel.setns(fd, Clone.NEWIPC)
        finally:
            os.close(fd)

    assert found == (uts(), None, theirs)
    assert theirs != uts()


# --- kcmp


@requires("kcmp")
def test_kcmp_compares_files():
    """KCMP_FILE tells one open file under two numbers from two opens, and gives those an order."""
    one, other = os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY)
    copy, me = os.dup(one), os.getpid()
    try:
        assert lowlevel.kcmp(me, me, lowlevel.KCMP_FILE, one, copy) == 0
        orders = {lowlevel.kcmp(me, me, lowlevel.KCMP_FILE, *pair) for pair in ((one, other), (other, one))}
        assert orders == {1, 2}
        with pytest.raises(OSError, match="Bad file descriptor"):
            lowlevel.kcmp(me, me, lowlevel.KCMP_FILE, one, 1 << 20)
    finally:
        for fd in (one, other, copy):
            os.close(fd)


@requires("kcmp")
def test_kcmp_compares_tasks():
    """A forked child has a memory, file table, cwd and handlers of its own, ordered; a task's are its own."""
    with child() as pid:
        for kind in (lowlevel.KCMP_VM, lowlevel.KCMP_FILES, lowlevel.KCMP_FS, lowlevel.KCMP_SIGHAND):
            assert lowlevel.kcmp(pid, pid, kind) == 0
            assert {lowlevel.kcmp(pid, os.getpid(), kind), lowlevel.kcmp(os.getpid(), pid, kind)} == {1, 2}


@requires("kcmp")
def test_kcmp_of_nobody_is_refused():
    """A task that is gone is ProcessLookupError, an unknown kind EINVAL."""
    with pytest.raises(ProcessLookupError):
        lowlevel.kcmp(os.getpid(), free_pid(), lowlevel.KCMP_VM)
    with pytest.raises(OSError, match="Invalid argument"):
        lowlevel.kcmp(os.getpid(), os.getpid(), 99)


@requires("kcmp", "nobody")
def test_kcmp_needs_permission():
    """Who may not trace a task may not compare it: PermissionError."""
    with child(lambda: (os.setresgid(NOBODY, NOBODY, NOBODY), os.setresuid(NOBODY, NOBODY, NOBODY))) as pid:
        parent = os.getpid()
        asker = fork()
        if asker == 0:
            code = 1
            try:
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
                lowlevel.kcmp(parent, pid, lowlevel.KCMP_VM)
            except PermissionError as error:
                code = 42 if error.errno == errno.EPERM else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(asker, 0)[1]) == 42


# --- futex and gettid


def test_futex_wait_sees_a_changed_word():
    """A word that is not what was expected any more is False at once, also the highest."""
    word = ctypes.c_uint32(0xFFFFFFFF)

    assert lowlevel.futex_wait(ctypes.addressof(word), 0) is False
    with pytest.raises(TimeoutError):
        lowlevel.futex_wait(ctypes.addressof(word), -1, 0)


def test_futex_wait_keeps_its_time():
    """Where nobody wakes, TimeoutError comes after the time, and not before."""
    word = ctypes.c_uint32(1)
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        lowlevel.futex_wait(ctypes.addressof(word), 1, 0.05)

    assert time.monotonic() - begun >= 0.05


def test_futex_wake_wakes_as_many_as_asked():
    """A wake of one wakes one of two sleepers, and tells how many it woke; none are left at the end."""
    word, answers = ctypes.c_uint32(1), []
    at = ctypes.addressof(word)
    threads = [threading.Thread(target=lambda: answers.append(lowlevel.futex_wait(at, 1, 20))) for _ in range(2)]
    for thread in threads:
        thread.start()
    woken = 0
    deadline = time.monotonic() + 20
    while not woken and time.monotonic() < deadline:
        woken = lowlevel.futex_wake(at)
        os.sched_yield()
    assert woken == 1
    while woken < 2 and time.monotonic() < deadline:
        woken += lowlevel.futex_wake(at, 5)
        os.sched_yield()
    for thread in threads:
        thread.join()

    assert (woken, answers, lowlevel.futex_wake(at, 5)) == (2, [True, True], 0)


def test_futex_wait_is_interrupted():
    """A signal ends the wait with InterruptedError."""
    word = ctypes.c_uint32(1)
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    timer = signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)  # again: the first may come before the wait
    try:
        with pytest.raises(InterruptedError):
            lowlevel.futex_wait(ctypes.addressof(word), 1, 20)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)


def test_futex_refuses_a_bad_address():
    """An address that is not aligned is EINVAL, one that is not mapped EFAULT."""
    word = ctypes.c_uint64(0)
    for address, answer in ((ctypes.addressof(word) + 1, errno.EINVAL), (4096, errno.EFAULT)):
        with pytest.raises(OSError, match=r"\[Errno") as caught:
            lowlevel.futex_wait(address, 0, 1)
        assert caught.value.errno == answer


def test_gettid_is_the_tasks_own():
    """The main thread's id is the pid, and another thread's is its entry in /proc/self/task."""
    seen = []
    thread = threading.Thread(target=lambda: seen.append((lowlevel.gettid(), os.listdir("/proc/self/task"))))
    thread.start()
    thread.join()

    assert lowlevel.gettid() == os.getpid()
    assert seen[0][0] != os.getpid()
    assert str(seen[0][0]) in seen[0][1]


# --- pidfds


def test_pidfd_open_gives_a_handle():
    """A pidfd names the process, is close-on-exec, non-blocking if asked, and readable at the end."""
    with child() as pid:
        fd = lowlevel.pidfd_open(pid, lowlevel.PIDFD_NONBLOCK)
        try:
            assert f"Pid:\t{pid}\n" in Path(f"/proc/self/fdinfo/{fd}").read_text()
            assert not os.get_inheritable(fd)
            assert not os.get_blocking(fd)
            with pytest.raises(BlockingIOError):
                lowlevel.waitid(lowlevel.P_PIDFD, fd, lowlevel.WEXITED)
            assert not select.select([fd], [], [], 0)[0]
            os.kill(pid, signal.SIGKILL)
            assert ended(fd)
        finally:
            os.close(fd)


def test_pidfd_open_refuses():
    """No such process is ESRCH; a thread that leads no group is refused without PIDFD_THREAD and taken with it."""
    with pytest.raises(ProcessLookupError):
        lowlevel.pidfd_open(free_pid())
    tids, done = [], threading.Event()
    told = threading.Event()
    thread = threading.Thread(target=lambda: (tids.append(lowlevel.gettid()), told.set(), done.wait()))
    thread.start()
    assert told.wait(10)
    try:
        with pytest.raises(OSError, match=r"\[Errno"):
            lowlevel.pidfd_open(tids[0])
        if have("pidfd_info"):  # both are younger than PIDFD_THREAD
            os.close(lowlevel.pidfd_open(tids[0], lowlevel.PIDFD_THREAD))
    finally:
        done.set()
        thread.join()


def test_pidfd_send_signal_arrives():
    """A signal by pidfd ends the process; 0 only asks; to one that was reaped it is ProcessLookupError."""
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    fd = lowlevel.pidfd_open(pid)
    try:
        lowlevel.pidfd_send_signal(fd, 0)
        assert not select.select([fd], [], [], 0)[0]
        lowlevel.pidfd_send_signal(fd, signal.SIGTERM)
        assert ended(fd)
        assert (waited(pid).code, state(pid)) == (os.CLD_KILLED, "")
        with pytest.raises(ProcessLookupError):
            lowlevel.pidfd_send_signal(fd, 0)
        with pytest.raises(OSError, match="Invalid argument"):
            lowlevel.pidfd_send_signal(fd, 0, 1 << 20)
    finally:
        os.close(fd)


@requires("pidfd_getfd")
def test_pidfd_getfd_takes_a_copy():
    """The copy of another process's fd is the same open file, close-on-exec; a number it has not is EBADF."""
    ready, begun = os.pipe()
    with child(lambda: os.dup2(begun, 200)) as pid:
        fd = lowlevel.pidfd_open(pid)
        copy = lowlevel.pidfd_getfd(fd, 200)
        try:
            os.write(copy, b"through it")
            assert os.read(ready, 64) == b"through it"
            assert not os.get_inheritable(copy)
            with pytest.raises(OSError, match="Bad file descriptor"):
                lowlevel.pidfd_getfd(fd, 201)
        finally:
            for one in (fd, copy, ready, begun):
                os.close(one)


@requires("pidfd_info")
def test_pidfd_info_tells_ids():
    """PIDFD_GET_INFO tells the pid, its parent and its credentials; what was not asked for is None."""
    with child() as pid:
        fd = lowlevel.pidfd_open(pid)
        try:
            info = lowlevel.pidfd_info(fd)
            bare = lowlevel.pidfd_info(fd, lowlevel.PIDFD_INFO_PID)
        finally:
            os.close(fd)

    assert (info.pid, info.tgid, info.ppid) == (pid, pid, os.getpid())
    assert (info.ruid, info.euid, info.suid, info.fsuid) == (*os.getresuid(), os.geteuid())
    assert (info.rgid, info.egid, info.sgid, info.fsgid) == (*os.getresgid(), os.getegid())
    assert info.exit_code is None
    assert (bare.pid, bare.cgroupid) == (pid, None) or bare.mask & lowlevel.PIDFD_INFO_CGROUPID
    assert f"pid={pid}" in repr(info)


@requires("pidfd_info")
def test_pidfd_info_of_something_else_is_refused():
    """What is no pidfd is refused with an OSError."""
    with open("/dev/null") as file, pytest.raises(OSError, match=r"\[Errno"):
        lowlevel.pidfd_info(file.fileno())


@requires("pidfd_info_exit")
@pytest.mark.parametrize(
    ("end", "word"), [("exit 3", 3 << 8), ("exit 0", 0), ("kill -KILL $$", signal.SIGKILL)], ids=["3", "0", "killed"]
)
def test_pidfd_info_keeps_the_status(end, word):
    """Once the process was reaped its wait status is there, and before it is not."""
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", end], {})
    fd = lowlevel.pidfd_open(pid)
    try:
        assert ended(fd)
        assert lowlevel.pidfd_info(fd).exit_code is None
        os.waitpid(pid, 0)
        assert lowlevel.pidfd_info(fd, lowlevel.PIDFD_INFO_EXIT).exit_code == word
    finally:
        os.close(fd)


# --- waitid


def test_waitid_tells_by_signal_and_by_code():
    """The code tells an exit from a signal, and the status is the exit code or the signal."""
    exited = waited(os.posix_spawn("/bin/sh", ["sh", "-c", "exit 200"], {}))
    killed = waited(os.posix_spawn("/bin/sh", ["sh", "-c", "kill -TERM $$"], {}))

    assert (exited.code, exited.status, exited.signo) == (os.CLD_EXITED, 200, signal.SIGCHLD)
    assert exited.uid == os.getuid()
    assert killed.code == os.CLD_KILLED and killed.status == signal.SIGTERM
    assert repr(exited) == f"WaitResult(pid={exited.pid}, code=1, status=200)"


def test_waitid_hangs_not_and_leaves():
    """WNOHANG is None while nothing has changed, and WNOWAIT leaves the zombie for another wait."""
    with child() as pid:
        assert waited(pid, lowlevel.WNOHANG) is None
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 6"], {})
    assert [waited(pid, lowlevel.WNOWAIT).status for _ in range(2)] == [6, 6]
    assert state(pid) == "Z"
    assert waited(pid).status == 6
    with pytest.raises(ChildProcessError):
        waited(pid)


def test_waitid_tells_a_child_by_its_exit_signal():
    """Without options a child with an odd exit signal is not seen; __WCLONE sees it alone, and __WALL sees both."""
    only = lambda extra: lowlevel.waitid(lowlevel.P_ALL, 0, lowlevel.WEXITED | lowlevel.WNOWAIT | extra).pid  # noqa: E731
    with stack() as low:
        odd = lowlevel.clone3(on_a_stack(low, exit_signal=0), entry=EXIT)
        with pytest.raises(ChildProcessError):
            lowlevel.waitid(lowlevel.P_PID, odd, lowlevel.WEXITED)
        usual = lowlevel.clone3(on_a_stack(low), entry=EXIT)
    with pytest.raises(ChildProcessError):
        lowlevel.waitid(lowlevel.P_PID, usual, lowlevel.WEXITED | ODD)
    assert only(ODD) == odd
    assert only(0) == usual
    assert {waited(odd).pid, waited(usual).pid} == {odd, usual}


def test_waitid_sees_stops():
    """WSTOPPED and WCONTINUED tell of a child that was stopped and goes on."""
    with child() as pid:
        os.kill(pid, signal.SIGSTOP)
        stopped = lowlevel.waitid(lowlevel.P_PID, pid, lowlevel.WSTOPPED)
        os.kill(pid, signal.SIGCONT)
        gone_on = lowlevel.waitid(lowlevel.P_PID, pid, lowlevel.WCONTINUED)

    assert (stopped.code, stopped.status) == (os.CLD_STOPPED, signal.SIGSTOP)
    assert gone_on.code == os.CLD_CONTINUED


def test_waitid_tells_the_usage():
    """The usage has getrusage's fields: the memory that the child used is in it."""
    pid = fork()
    if pid == 0:
        block = bytearray(48 << 20)
        block[:: resource.getpagesize()] = b"x" * len(block[:: resource.getpagesize()])
        os._exit(0)
    usage = resource.struct_rusage(waited(pid).rusage)

    assert usage.ru_maxrss >= 48 << 10
    assert usage.ru_minflt >= (48 << 20) // resource.getpagesize() // 512  # huge pages fault once
    assert usage.ru_utime + usage.ru_stime < 60


def test_waitid_of_a_group():
    """P_PGID waits for a child of that process group alone."""
    one = os.posix_spawn("/bin/true", ["true"], {}, setpgroup=0)
    other = os.posix_spawn("/bin/true", ["true"], {})
    assert lowlevel.waitid(lowlevel.P_PGID, one, lowlevel.WEXITED).pid == one
    assert waited(other).pid == other


def test_waitid_goes_on_after_a_signal():
    """A wait that a signal interrupts goes on when the handler returns, and ends when it raises."""
    out = in_subprocess("""
        import os, signal
        from sysclone import lowlevel
        go_on, tell = os.pipe()
        got = []

        def handler(number, frame):
            got.append(number)
            if len(got) == 2:
                raise KeyError("stop")
            signal.setitimer(signal.ITIMER_REAL, 0.05)

        signal.signal(signal.SIGALRM, handler)
        pid = os.fork()
        if pid == 0:
            os.close(tell)
            os.read(go_on, 1)
            os._exit(9)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            lowlevel.waitid(lowlevel.P_PID, pid, lowlevel.WEXITED)
        except KeyError:
            print("raised", len(got))
        os.close(tell)
        print(lowlevel.waitid(lowlevel.P_PID, pid, lowlevel.WEXITED).status)
    """)

    assert out == "raised 2\n9\n"


# --- the names


def test_every_flag_is_there_by_its_c_name():
    """The module has each flag under its C name, and no others of the kind."""
    assert lowlevel.CLONE_VM is Clone.VM
    assert all(getattr(lowlevel, f"CLONE_{name}") == flag for name, flag in Clone.__members__.items())
    assert {f"CLONE_{name}" for name in Clone.__members__} <= set(dir(lowlevel))
    with pytest.raises(AttributeError, match="CLONE_NOTHING"):
        lowlevel.CLONE_NOTHING  # noqa: B018
