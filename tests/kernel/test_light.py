"""Light processes: what is shared with the caller, what is not, and that the program goes on whatever happens in one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from features import requires
from helpers import SECONDS, in_subprocess, shared, state

import sysclone
from sysclone import Cancelled, Context, Namespace, Share, TaskExited, TaskKilled, TaskTimeout

LIGHT = Context.light()


# --- what it is


def test_it_is_a_process_of_its_own():
    """The function has a pid of its own, and the caller is its parent."""
    pid, parent = sysclone.call(lambda: (os.getpid(), os.getppid()))

    assert pid != os.getpid()
    assert parent == os.getpid()
    assert state(pid) == ""


def test_the_same_objects_come_back():
    """The value is the very object that the function returned, and arguments are the caller's own objects."""
    given, kept = object(), []

    assert sysclone.call(lambda thing, *, into: into.append(thing) or into, given, into=kept) is kept
    assert kept[0] is given


def test_an_exception_comes_back_with_its_traceback():
    """What the function raised is raised here, the same object, and its traceback leads to the line in the function."""
    error = KeyError("x")

    def fails():
        raise error

    with pytest.raises(KeyError) as caught:
        sysclone.call(fails)
    assert caught.value is error
    assert caught.traceback[-1].name == "fails"


@requires("kcmp")
def test_memory_alone_is_shared():
    """By kcmp, the light process has the caller's memory and a file table, cwd and handlers of its own."""
    mine = os.getpid()

    assert sysclone.call(lambda: shared(os.getpid(), mine)) & {"VM", "FILES", "FS", "SIGHAND"} == {"VM"}


@requires("kcmp")
@pytest.mark.parametrize(
    "share",
    [Share.FILES, Share.FS, Share.SIGHAND, Share.SYSVSEM, Share.FILES | Share.FS | Share.SIGHAND],
    ids=str,
)
def test_each_switch_shares_what_it_names(share):
    """By kcmp, what is asked for is shared, and nothing besides of files, cwd and handlers."""
    mine, names = os.getpid(), {one.name for one in share}
    looked_at = {"FILES", "FS", "SIGHAND"} | names

    found = Context(share=Share.VM | share).call(lambda: shared(os.getpid(), mine))

    assert found & looked_at == names


def test_its_cwd_umask_and_fds_are_its_own(tmp_path):
    """A function that changes directory, umask and fds leaves the caller's as they were."""
    before, mask = os.getcwd(), os.umask(0o022)

    def changes():
        os.chdir(tmp_path)
        os.umask(0o077)
        return os.dup(0)

    fd = sysclone.call(changes)

    assert os.getcwd() == before
    assert os.umask(mask) == 0o022
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_files_shared_are_the_callers():
    """With FILES, an fd that the function opens is open here, and one that it closes is closed here."""
    closed = os.dup(0)

    def opens():
        os.close(closed)
        return os.dup(1)

    opened = Context(share=Share.VM | Share.FILES).call(opens)
    try:
        assert opened == closed
        assert os.readlink(f"/proc/self/fd/{opened}") == os.readlink("/proc/self/fd/1")
    finally:
        os.close(opened)


def test_fs_shared_moves_the_caller(tmp_path):
    """With FS, the function's chdir is the caller's."""
    before = os.getcwd()
    try:
        Context(share=Share.VM | Share.FS).call(os.chdir, tmp_path)
        assert os.getcwd() == str(tmp_path)
    finally:
        os.chdir(before)


def test_a_thread_has_the_callers_pid():
    """With THREAD, the function runs under the caller's pid and another thread id."""
    pid, tid = Context.thread().call(lambda: (os.getpid(), threading.get_native_id()))

    assert pid == os.getpid()
    assert tid != threading.get_native_id()


@requires("time_namespaces")
def test_a_time_namespace_is_entered_or_refused():
    """The kernel leaves a child that shares memory in its creator's time namespace: that is not passed over in silence."""
    with pytest.raises((sysclone.ContextError, sysclone.SyscloneWarning)):
        Context(share=Share.VM, new=Namespace.TIME).call(int)


# --- ways to end


@pytest.mark.parametrize("code", [0, 3, 255])
def test_an_exit_is_told_with_its_code(code):
    """A function that leaves by os._exit raises TaskExited with the code that the kernel saw."""
    with pytest.raises(TaskExited) as caught:
        sysclone.call(os._exit, code)
    assert caught.value.exit_code == code


@pytest.mark.parametrize(
    "sig", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGABRT], ids=lambda sig: sig.name
)
def test_a_signal_to_itself_is_told(sig):
    """A function that kills itself raises TaskKilled with that signal, and the program goes on."""

    def dies():
        os.kill(os.getpid(), sig)
        for _ in range(1000):
            pass

    for _ in range(3):
        with pytest.raises(TaskKilled) as caught:
            sysclone.call(dies)
        assert caught.value.signal == sig


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM], ids=lambda sig: sig.name)
def test_a_signal_from_outside_ends_a_blocked_function(sig):
    """A function blocked in read(2) that is sent a signal ends, and the error names the signal that was sent."""
    ready, tell = os.pipe()
    never, end = os.pipe()

    def blocks():
        os.write(tell, b"x")
        os.read(never, 1)

    try:
        with sysclone.start(blocks) as task:
            os.read(ready, 1)
            while state(task.pid) != "S":
                os.sched_yield()
            task.send_signal(sig)
            with pytest.raises(TaskKilled) as caught:
                task.result(10)
            assert caught.value.signal == sig
    finally:
        for fd in (ready, tell, never, end):
            os.close(fd)


def test_a_signal_after_a_dead_nested_call_is_ones_own():
    """A light process whose own light process died by itself still answers for its signals."""

    def outer():
        with pytest.raises(TaskExited):
            sysclone.call(os._exit, 3)
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass

    with pytest.raises(TaskKilled) as caught:
        sysclone.call(outer)
    assert caught.value.signal == signal.SIGTERM


@pytest.mark.parametrize("verb", ["call(becomes)", "start(becomes).result()"])
def test_an_exec_inside_leaves_the_program_running(verb):
    """A function that becomes another program holds nothing back: the caller's other threads run on until it ends."""
    in_subprocess(f"""
        import os, threading, sysclone
        read, write = os.pipe()
        os.set_inheritable(read, True)

        def becomes():
            os.close(write)
            os.execv("/bin/sh", ["sh", "-c", f"read line <&{{read}}; exit 7"])

        def feed():
            while not any(open(f"/proc/self/task/{{t}}/children").read() for t in os.listdir("/proc/self/task")):
                pass
            os.write(write, b"line\\n")

        threading.Thread(target=feed).start()
        try:
            sysclone.{verb}
        except sysclone.TaskExited as error:
            assert error.exit_code == 7
    """)


def test_a_dead_function_leaves_the_recursion_depth_as_it_was():
    """A function that raised the recursion limit and died leaves the caller at the depth that it has."""
    in_subprocess("""
        import os, sys, sysclone

        def dies():
            sys.setrecursionlimit(5000)
            os._exit(3)

        def deep(n):
            return n and deep(n - 1)

        try:
            sysclone.call(dies)
        except sysclone.TaskExited:
            pass
        assert deep(4000) == 0
        sys.setrecursionlimit(500)
        assert deep(400) == 0
        try:
            deep(600)
        except RecursionError:
            pass
        else:
            raise SystemExit("the limit is not kept")
    """)


# --- being stopped

STOPPABLE = {"light": LIGHT, "linuxthreads": Context.linuxthreads(), "thread": Context.thread()}


def spin():
    """Runs Python code until it is stopped, for ten seconds at most."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        pass


@pytest.mark.parametrize("kind", STOPPABLE)
def test_a_time_limit_stops_a_spinning_function(kind):
    """A function that runs Python code is stopped when its time is over, whatever it shares."""
    with pytest.raises(TaskTimeout) as caught:
        STOPPABLE[kind].replace(timeout=0.1).call(spin)
    assert not caught.value.still_running


@pytest.mark.parametrize("kind", STOPPABLE)
def test_a_cancel_stops_a_spinning_function(kind):
    """A function that runs Python code is cancelled, whatever it shares."""
    began = threading.Event()
    with STOPPABLE[kind].start(lambda: (began.set(), spin())) as task:
        began.wait()
        task.cancel()
        with pytest.raises(Cancelled):
            task.result(20)


def test_a_time_limit_on_a_lock_is_told_as_it_is():
    """A function that waits for a lock cannot be killed safely: it goes on, which the error says, and ends when it may."""
    lock = threading.Lock()
    with lock:
        task = sysclone.start(lambda: lock.acquire() and lock.release())
        with pytest.raises(TaskTimeout) as caught:
            task.result(0.1, cancel=True)
        assert caught.value.still_running
    with task, pytest.raises(TaskTimeout) as caught:
        task.result(10)
    assert not caught.value.still_running
    assert caught.value.seconds == 0.1


# --- threads that the function leaves behind


def test_a_thread_left_behind_outlives_the_thread_that_called():
    """The end of the thread that made the call is not the end of what its function left running."""
    in_subprocess("""
        import threading, sysclone
        from sysclone import _core

        for _ in range(20):
            go_on, turns = threading.Event(), []

            def spin():
                while not go_on.is_set():
                    turns.append(1)

            def leaves():
                threading.Thread(target=spin).start()

            caller = threading.Thread(target=sysclone.call, args=(leaves,))
            caller.start()
            caller.join()
            seen = len(turns)
            while len(turns) < seen + 1000:
                pass
            turns.clear()
            go_on.set()
        while _core.reap_pending():
            pass
    """)


@pytest.mark.parametrize("verb", [sysclone.call, lambda fn: sysclone.start(fn).result()], ids=["call", "start"])
def test_a_thread_left_behind_leaves_no_zombie(verb):
    """When the threads that a function left behind have ended, its process is reaped by a later call."""
    go_on = threading.Event()
    left = []

    def leaves():
        left.append(threading.Thread(target=go_on.wait))
        left[0].start()
        return os.getpid()

    pid = verb(leaves)
    while state(pid) != "Z":  # the result is there a moment before its thread has quite ended
        os.sched_yield()
    assert os.listdir(f"/proc/{pid}/task") != [str(pid)]
    pidfd = os.pidfd_open(pid)
    try:
        go_on.set()
        left[0].join()
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    finally:
        os.close(pidfd)
    deadline = time.monotonic() + SECONDS
    while state(pid) and time.monotonic() < deadline:  # who watches it may have seen its end after us
        sysclone.call(int)
    assert state(pid) == ""


# --- start


def test_start_does_not_wait_for_a_thread_that_waits_for_the_caller():
    """With tracemalloc, making a thread state needs the GIL, which start must not keep from it."""
    in_subprocess("""
        import sysclone, tracemalloc
        tracemalloc.start()
        tasks = [sysclone.start(int, str(i)) for i in range(20)]
        assert [task.result() for task in tasks] == list(range(20))
    """)


def test_a_cancel_strikes_no_other_task():
    """Cancelling a task at the very moment of its end never cancels the next one on the same helper."""
    out = in_subprocess("""
        import os, sysclone
        ready, tell = os.pipe()
        stray = 0
        for _ in range(3000):
            with sysclone.start(os.write, tell, b"x") as task:
                os.read(ready, 1)
                task.cancel()
            with sysclone.start(int) as task:
                try:
                    task.result()
                except sysclone.Cancelled:
                    stray += 1
        print(stray)
    """)

    assert out == "0\n"


# --- the program's signals

INTERRUPTED = """
import os, sys, time, sysclone
from sysclone import Context, Share

def naps():
    os.write(1, b"ready\\n")
    for _ in range(300):  # a signal whose handler runs just before a system call does not end it, here as anywhere
        time.sleep(0.1)

times = 0
try:
    {verb}
except KeyboardInterrupt:
    times += 1
try:
    for _ in range(20):
        time.sleep(0.01)
except KeyboardInterrupt:
    times += 1
os.write(1, b"%d\\n" % times)
"""


@pytest.mark.parametrize("to_group", [True, False], ids=["group", "program"])
@pytest.mark.parametrize(
    "verb", ["sysclone.call(naps)", "Context(share=Share.VM, timeout=25).call(naps)", "Context().call(naps)"]
)
def test_an_interrupt_is_answered_once_and_at_once(verb, to_group):
    """SIGINT during a call is one KeyboardInterrupt, whether it comes to the group, as Ctrl-C does, or to the program."""
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED.format(verb=verb)], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as program:
        try:
            assert program.stdout.readline() == "ready\n"
            (os.killpg if to_group else os.kill)(program.pid, signal.SIGINT)
            answer, _ = program.communicate(timeout=15)
        finally:
            program.kill()

    assert (answer, program.returncode) == ("1\n", 0)
