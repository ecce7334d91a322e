"""Copied processes: each namespace and each switch by effect, results of every size, ends of every kind."""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import sys
import threading
import warnings
from contextlib import contextmanager

import pytest
from features import requires
from helpers import in_subprocess, shared

import sysclone
from sysclone import Context, Namespace, Share, SyscloneWarning, TaskExited, TaskKilled, lowlevel

COPY = Context()
KINDS = {
    Namespace.USER: "user",
    Namespace.MOUNT: "mnt",
    Namespace.PID: "pid",
    Namespace.NET: "net",
    Namespace.UTS: "uts",
    Namespace.IPC: "ipc",
    Namespace.CGROUP: "cgroup",
    Namespace.TIME: "time",
}
PROBES = {kind: f"{name.replace('mnt', 'mount')}_namespaces" for kind, name in KINDS.items()}


@contextmanager
def another_thread():
    """A block in which the program has one thread more, which waits."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def namespaces():
    """The namespaces of the calling process, by inode."""
    return {name: os.readlink(f"/proc/self/ns/{name}") for name in KINDS.values()}


# --- namespaces


@pytest.mark.parametrize("kind", [pytest.param(k, id=n, marks=requires(PROBES[k])) for k, n in KINDS.items()])
@pytest.mark.parametrize("threads", [False, True], ids=["alone", "with threads"])
@requires("root")
def test_each_namespace_is_new(kind, threads):
    """By inode, the namespace that is asked for is new in the child and all seven others are the caller's."""
    with another_thread() if threads else contextmanager(lambda: iter([None]))():
        theirs, mine = Context(new=kind).call(namespaces), namespaces()

    assert {name for name in mine if mine[name] != theirs[name]} == {KINDS[kind]}


@requires("pid_namespaces", "root")
@pytest.mark.parametrize("threads", [False, True], ids=["alone", "with threads"])
def test_the_first_in_a_pid_namespace_is_1(threads):
    """In a new pid namespace the function is pid 1 with no parent, and the Task has the pid out here."""
    with another_thread() if threads else contextmanager(lambda: iter([None]))():
        task = Context(new=Namespace.PID).start(lambda: (os.getpid(), os.getppid()))
        with task:
            assert task.result() == (1, 0)

    assert task.pid > 1


@requires("user_namespaces", "uts_namespaces")
def test_a_user_namespace_gives_the_right_to_the_others():
    """In new user and UTS namespaces together, the function may set a host name that nobody else sees."""

    def names():
        import socket

        socket.sethostname("inside")
        return socket.gethostname(), os.getuid()

    assert Context(new=Namespace.USER | Namespace.UTS).call(names) == ("inside", 65534)
    assert os.uname().nodename != "inside"


# --- memory and switches


def test_memory_is_private():
    """What the function changes in memory is not changed here, and its value is a copy."""
    here = {"list": [1]}

    def changes():
        here["list"].append(2)
        return here

    there = COPY.call(changes)

    assert there == {"list": [1, 2]}
    assert here == {"list": [1]}
    assert there is not here


def test_it_sees_the_memory_of_its_start():
    """The function sees what was there when it started, closures and arguments too, without pickling them."""
    unpicklable = threading.Lock()

    assert COPY.call(lambda lock, n: (lock is unpicklable, n), unpicklable, n=3) == (True, 3)


@requires("kcmp")
@pytest.mark.parametrize("share", [Share(0), Share.FILES, Share.FS, Share.IO, Share.SYSVSEM], ids=str)
def test_each_switch_is_seen_by_kcmp(share):
    """Of files, cwd, I/O context and undo lists exactly what was asked for is the caller's; memory and handlers never."""
    mine, names = os.getpid(), {one.name for one in share}
    looked_at = {"VM", "SIGHAND", "FILES", "FS"} | names

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyscloneWarning)
        found = Context(share=share).call(lambda: shared(os.getpid(), mine))

    assert found & looked_at == names


@pytest.mark.parametrize("share", [False, True], ids=["copied", "shared"])
def test_files_by_effect(share):
    """With FILES an fd that the function opens or closes is so here; without, it is not."""
    out = in_subprocess(f"""
        import os
        from sysclone import Context, Share
        closed = os.dup(0)
        os.dup2(1, 50)
        opened = Context(share=Share.FILES if {share} else Share(0)).call(lambda: (os.close(50), os.dup2(1, 77))[1])
        print(opened, os.path.exists("/proc/self/fd/50"), os.path.exists("/proc/self/fd/77"))
    """)

    assert out == ("77 False True\n" if share else "77 True False\n")


@pytest.mark.parametrize("share", [False, True], ids=["copied", "shared"])
def test_fs_by_effect(share):
    """With FS the function's chdir and umask are the caller's; without, its own."""
    out = in_subprocess(f"""
        import os
        from sysclone import Context, Share
        os.chdir("/usr")
        os.umask(0o022)
        Context(share=Share.FS if {share} else Share(0)).call(lambda: (os.chdir("/"), os.umask(0o077)))
        print(os.getcwd(), oct(os.umask(0)))
    """)

    assert out == ("/ 0o77\n" if share else "/usr 0o22\n")


@pytest.mark.parametrize("share", [False, True], ids=["copied", "shared"])
def test_sysvsem_by_effect(share):
    """With SYSVSEM the function's semaphore undo waits for the caller's end; without, it is done at the function's."""
    out = in_subprocess(f"""
        import ctypes, os, struct
        from sysclone import Context, Share
        libc = ctypes.CDLL(None, use_errno=True)
        IPC_CREAT, IPC_RMID, GETVAL, SEM_UNDO = 0o1000, 0, 12, 0x1000
        semaphore = libc.semget(0, 1, IPC_CREAT | 0o600)
        assert semaphore >= 0
        try:
            up = ctypes.create_string_buffer(struct.pack("Hhh", 0, 1, SEM_UNDO))
            if {share}:
                libc.semop(semaphore, ctypes.create_string_buffer(struct.pack("Hhh", 0, 0, SEM_UNDO)), 1)
            context = Context(share=Share.SYSVSEM if {share} else Share(0))
            print(context.call(libc.semop, semaphore, up, 1), libc.semctl(semaphore, 0, GETVAL))
        finally:
            libc.semctl(semaphore, 0, IPC_RMID)
    """)

    assert out == ("0 1\n" if share else "0 0\n")


@pytest.mark.parametrize("share", [False, True], ids=["copied", "shared"])
def test_io_by_effect(share):
    """With IO the function's I/O priority is the caller's; without, its own."""
    import platform

    if platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("no numbers of ioprio_set")
    out = in_subprocess(f"""
        import ctypes, platform
        from sysclone import Context, Share
        set_, get = {{"x86_64": (251, 252), "aarch64": (30, 31)}}[platform.machine()]
        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall(set_, 1, 0, 2 << 13 | 4)
        Context(share=Share.IO if {share} else Share(0)).call(libc.syscall, set_, 1, 0, 2 << 13 | 7)
        print(libc.syscall(get, 1, 0) & 7)
    """)

    assert out == ("7\n" if share else "4\n")


# --- results


SIZES = [0, 1, 65431, 65503, 65504, 65505, *range(65530, 65538), 131072]


@pytest.mark.parametrize("size", SIZES)
def test_results_around_the_page(size):
    """Bytes of every size around the page's edge come back as they were."""
    data = os.urandom(size)

    assert COPY.call(lambda: data) == data


@pytest.mark.parametrize("length", range(65500, 65508))
def test_pickles_around_the_page(length):
    """A pickle of each length around the room in the page comes back, to the byte."""
    text = "x" * length
    while (over := len(pickle.dumps(text, protocol=5)) - length) > 0:
        text = text[:-over]
    assert len(pickle.dumps(text, protocol=5)) == length

    assert COPY.call(lambda: text) == text


def test_a_result_of_50_mb():
    """50 MB come back whole, and no mapping of them stays."""
    block = os.urandom(1 << 20) * 50
    answer = COPY.call(lambda: block)

    assert hashlib.sha256(answer).digest() == hashlib.sha256(block).digest()


def test_results_of_many_kinds():
    """None, False, a nested structure, an exception as a value and a function of a module come back equal."""
    for value in (None, False, {"a": [1, (2.5, b"x"), {3}]}, os.path.join, KeyError):
        assert COPY.call(lambda value=value: value) == value
    assert isinstance(COPY.call(lambda: KeyError("x")), KeyError)


# --- exceptions


def test_an_exception_has_the_childs_traceback_as_its_cause():
    """What the function raised is raised here, with the traceback it had there as the cause's text."""

    def deep_inside():
        raise KeyError("lost", 3)

    with pytest.raises(KeyError) as caught:
        COPY.call(lambda: deep_inside())
    assert caught.value.args == ("lost", 3)
    text = str(caught.value.__cause__)
    assert "in deep_inside" in text and 'raise KeyError("lost", 3)' in text
    assert type(caught.value.__cause__).__name__ == "RemoteTraceback"


def test_a_chain_is_in_the_text():
    """The cause that an exception had there is in the traceback's text."""

    def chains():
        try:
            raise ValueError("first")
        except ValueError as error:
            raise KeyError("second") from error

    with pytest.raises(KeyError) as caught:
        COPY.call(chains)
    assert "ValueError: first" in str(caught.value.__cause__)


def test_a_keyboard_interrupt_is_handed_over():
    """A BaseException that the function raises is raised here, as it is."""

    def interrupts():
        raise KeyboardInterrupt("there")

    with pytest.raises(KeyboardInterrupt, match="there"):
        COPY.call(interrupts)


def test_a_value_that_cannot_be_pickled_is_told():
    """A result that pickle refuses is a ResultError that names the type and the reason."""
    with pytest.raises(sysclone.ResultError, match=r"the return value, of type _thread\.lock, cannot be pickled"):
        COPY.call(threading.Lock)


def test_an_exception_that_cannot_be_pickled_is_told():
    """An exception that pickle refuses is a ResultError with its traceback in words."""

    def raises():
        raise ValueError(threading.Lock())

    with pytest.raises(sysclone.ResultError, match=r"the exception, of type builtins\.ValueError") as caught:
        COPY.call(raises)
    assert "in raises" in str(caught.value)


class Stubborn(Exception):
    """Its copy cannot be made: its constructor takes more than pickle hands over."""

    def __init__(self, one, two):
        super().__init__(one)
        self.two = two


class Failing:
    """Its copy raises when it is made, in the process that first made it too."""

    def __reduce__(self):
        return fail, ()


def fail():
    raise RuntimeError("no copy")


class Bad(Exception):
    def __reduce__(self):
        return fail, ()


@pytest.mark.parametrize("error", [Stubborn(1, 2), Bad("x")], ids=["constructor", "reduce"])
def test_an_exception_whose_copy_fails_is_told(error):
    """An exception that pickles but cannot be rebuilt is a ResultError with the traceback, never a hang or a crash."""

    def raises():
        raise error

    with pytest.raises(sysclone.ResultError) as caught:
        COPY.call(raises)
    assert type(error).__name__ in str(caught.value)
    assert "in raises" in str(caught.value)


def test_a_value_whose_copy_fails_is_told():
    """A value that pickles but cannot be rebuilt here is a ResultError with the reason."""
    with pytest.raises(sysclone.ResultError, match="cannot be unpickled here: RuntimeError: no copy"):
        COPY.call(Failing)


def test_a_pickling_that_ends_the_process_is_told():
    """A value whose pickling exits raises as an exit, with its code."""

    class Ends:
        def __reduce__(self):
            os._exit(9)

    with pytest.raises(TaskExited) as caught:
        COPY.call(Ends)
    assert caught.value.exit_code == 9


# --- ends


@pytest.mark.parametrize(
    ("argument", "code"), [((), 0), ((None,), 0), ((5,), 5), ((256 + 7,), 7), ((True,), 1)], ids=repr
)
def test_sys_exit_is_an_exit(argument, code):
    """sys.exit in the function is TaskExited with the code it gives the process."""
    with pytest.raises(TaskExited) as caught:
        COPY.call(sys.exit, *argument)
    assert caught.value.exit_code == code


def test_sys_exit_with_a_text_prints_it(capfd):
    """sys.exit with a text prints that to stderr and exits with 1."""
    with pytest.raises(TaskExited) as caught:
        COPY.call(sys.exit, "no more")
    assert caught.value.exit_code == 1
    assert capfd.readouterr().err == "no more\n"


@pytest.mark.parametrize("code", [0, 1, 77, 255])
def test_os_exit_is_told(code):
    """os._exit in the function is TaskExited with its code, 0 too: a result that never came is not None."""
    with pytest.raises(TaskExited) as caught:
        COPY.call(os._exit, code)
    assert caught.value.exit_code == code
    assert caught.value.status.known


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT, signal.SIGSEGV])
def test_a_signal_is_told(sig):
    """A signal that ends the function's process is TaskKilled with its number and name."""
    with pytest.raises(TaskKilled) as caught:
        COPY.call(lambda: (signal.signal(sig, signal.SIG_DFL) if sig != 9 else 0, os.kill(os.getpid(), sig)))
    assert caught.value.signal == sig
    assert sig.name in str(caught.value)


def test_a_real_segfault_is_told():
    """A function that reads where nothing is mapped is TaskKilled by SIGSEGV, and the program goes on."""
    import ctypes
    import faulthandler

    def crashes():
        faulthandler.disable()
        return ctypes.string_at(8)

    with pytest.raises(TaskKilled) as caught:
        COPY.call(crashes)
    assert caught.value.signal == signal.SIGSEGV


# --- hooks, signals, parents


@pytest.mark.parametrize(
    "context", ["Context()", "Context(new=Namespace.UTS)", "Context(share=Share.FS)"], ids=["fork", "namespace", "raw"]
)
@requires("root", "uts_namespaces")
def test_fork_hooks_run(context):
    """The hooks of os.register_at_fork run once each, in order, around every way of copying."""
    out = in_subprocess(f"""
        import os
        from sysclone import Context, Namespace, Share
        seen = []
        os.register_at_fork(before=lambda: seen.append("before"), after_in_parent=lambda: seen.append("parent"),
                            after_in_child=lambda: seen.append("child"))
        print(*{context}.call(lambda: seen), "|", *seen)
    """)

    assert out == "before child | before parent\n"


def test_threading_knows_its_one_thread():
    """In the child threading knows one thread, the main one, and libc knows its id."""

    def tells():
        main = threading.main_thread()
        return len(threading.enumerate()), main is threading.current_thread(), threading.get_native_id() == os.getpid()

    with another_thread():
        assert COPY.call(tells) == (1, True, True)


def test_an_exit_signal_arrives():
    """The parent gets the context's exit signal at the end, and a wait for clone children finds the task."""
    got = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: got.append(number))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyscloneWarning)
            task = Context(exit_signal=signal.SIGUSR1).start(os._exit, 6)
        odd = getattr(lowlevel, "__WCLONE") | lowlevel.WEXITED | lowlevel.WNOWAIT
        found = lowlevel.waitid(lowlevel.P_PID, task.pid, odd)
        with pytest.raises(ChildProcessError):
            os.waitid(os.P_PID, task.pid, os.WEXITED | os.WNOWAIT)
        with task:
            status = task.wait()
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert got == [signal.SIGUSR1]
    assert (found.pid, found.status, status.exit_code) == (task.pid, 6, 6)


@pytest.mark.parametrize("kind", ["Context(parent='sibling')", "Context(parent='sibling', share=Share.VM)"])
def test_a_siblings_status(kind):
    """A sibling has the caller's parent, and its status is right, whether the parent reaps it first or not."""
    out = in_subprocess(f"""
        import os, sys, sysclone
        from sysclone import Context, Share
        maker = os.fork()
        if maker == 0:
            code = 1
            try:
                task = {kind}.start(os._exit, 5)
                status = task.wait()
                print(status.exit_code if status.known else "unknown", flush=True)
                task.close()
                print({kind}.call(os.getppid) == os.getppid() != os.getpid(), flush=True)
                code = 0
            finally:
                os._exit(code)
        ends = {{}}
        while True:
            try:
                pid, status = os.waitpid(-1, 0x40000000)
            except ChildProcessError:
                break
            ends[pid] = os.waitstatus_to_exitcode(status)
        print(ends.pop(maker), sorted(ends.values()))
    """)
    told, parent, codes = out.splitlines()

    assert told in ("5", "unknown")
    assert parent == "True"
    assert codes == "0 [0, 5]"


@requires("pidfd_info_exit")
def test_a_reaped_siblings_status_is_known():
    """Where the kernel keeps the record, a sibling's status is known also after its parent reaped it."""
    out = in_subprocess("""
        import os, sysclone
        from sysclone import Context
        go_on, tell = os.pipe()
        maker = os.fork()
        if maker == 0:
            os.close(tell)
            with Context(parent="sibling").start(os._exit, 5) as task:
                os.read(go_on, 1)
                print(task.wait(), flush=True)
            os._exit(0)
        os.close(go_on)
        pid = maker
        while pid == maker:
            pid, status = os.waitpid(-1, 0x40000000)
        os.close(tell)
        os.waitpid(maker, 0)
    """)

    assert out == "exited with 5\n"


# --- the warning


RAW = [Context(share=Share.FILES), Context(share=Share.FS), Context(exit_signal=0)]


@pytest.mark.parametrize("context", RAW, ids=str)
def test_a_raw_clone_warns_of_threads(context):
    """With another thread running, what only a raw clone can do warns, and the warning points here."""
    with another_thread(), pytest.warns(SyscloneWarning, match="1 other thread:") as caught:
        assert context.call(os.getppid) == os.getpid()
    assert [one.filename for one in caught] == [__file__]


@pytest.mark.parametrize("context", [*RAW, COPY], ids=str)
def test_nothing_warns_without_threads(context):
    """Without another thread no copied process warns, whatever it shares."""
    out = in_subprocess(f"""
        import os, warnings
        warnings.simplefilter("error")
        import sysclone
        from sysclone import Context, Share
        context = Context(share=Share({int(context.share)}), exit_signal={context.exit_signal!r})
        assert context.call(os.getppid) == os.getpid()
    """)

    assert out == ""


@requires("root", "uts_namespaces")
@pytest.mark.parametrize("context", [COPY, Context(new=Namespace.UTS)], ids=str)
def test_what_libc_can_copy_does_not_warn(context):
    """fork's own flags and namespaces need no raw clone, and do not warn beside other threads."""
    with another_thread(), warnings.catch_warnings():
        warnings.simplefilter("error", SyscloneWarning)
        assert context.call(os.getppid) == os.getpid()
