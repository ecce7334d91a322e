"""A zygote's own life: it is replaced, it ends with its owner, it serves many threads, and its bad luck is told."""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import fresh_calls
import pytest
from features import requires
from helpers import SECONDS, in_subprocess, pipe, state

import sysclone
from sysclone import Context, TaskKilled, Zygote, ZygoteError
from sysclone._zygote import zygote as zygote_module
from sysclone._zygote.zygote import default_zygote


def test_a_killed_zygote_is_replaced(zygote):
    """A call that finds its zygote dead gets another one, and its result."""
    before = zygote.pid
    os.kill(before, signal.SIGKILL)

    assert zygote.call(os.getppid) == os.getpid()
    assert zygote.pid != before
    assert state(before) == ""


def test_a_stopped_zygote_is_replaced(zygote):
    """One that was stopped is ended and replaced: a call waits for no SIGCONT."""
    before = zygote.pid
    os.kill(before, signal.SIGSTOP)

    assert zygote.call(os.getppid) == os.getpid()
    assert zygote.pid != before


def test_a_task_outlives_its_zygote(zygote):
    """The zygote's death is nothing to a task that runs."""
    assert zygote.call(fresh_calls.kill_parent_and_return, zygote.pid, 5) == 5
    assert zygote.call(int) == 0


def test_a_zygote_killed_in_the_midst_of_calls_loses_none(zygote):
    """However often the zygote is killed while threads call, each call gives its result, once, and none is left over."""
    count, stop = 40, threading.Event()
    results: list[object] = []
    given = threading.Semaphore(0)
    with pipe() as (reading, writing):

        def calls():
            for i in range(count):
                try:
                    results.append(
                        zygote.call(
                            lambda one, n: (os.write(one.fileno(), b"x"), n)[1], sysclone.Descriptor(writing), i
                        )
                    )
                    given.release()
                except ZygoteError as error:
                    results.append(None if "has not begun" in str(error) else error)
                    os.write(writing, b"x")

        def kills():
            # At any moment of a call's, and of the next zygote's start, but not so often that none is ever ready.
            while not stop.wait(0.03):
                for _ in range(6):
                    given.acquire()
                server = zygote._servers.get(os.getpid())
                if server is not None:
                    try:
                        os.kill(server.pid, signal.SIGKILL)
                    except ProcessLookupError:
                        continue

        callers = [threading.Thread(target=calls) for _ in range(3)]
        killer = threading.Thread(target=kills)
        for thread in (*callers, killer):
            thread.start()
        for thread in callers:
            thread.join()
        stop.set()
        given.release(6)
        killer.join()
        assert len(results) == 3 * count
        assert not [one for one in results if isinstance(one, ZygoteError)]
        assert sum(one is not None for one in results) > count
        assert len(os.read(reading, 10 * count)) == 3 * count


def test_many_threads_call_at_once(kept):
    """Calls of eight threads each get their own answer."""
    answers = {}

    def calls(name):
        answers[name] = [kept.call(lambda a, b: (a, b), name, i) for i in range(10)]

    threads = [threading.Thread(target=calls, args=(name,)) for name in range(8)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == {name: [(name, i) for i in range(10)] for name in range(8)}


def test_an_interrupted_call_leaves_nothing(kept):
    """A KeyboardInterrupt while a call waits ends its task, and the next call gets its own answer."""
    out = in_subprocess(
        """
        import os, signal, sysclone, threading, time
        zygote = sysclone.Zygote()
        zygote.call(int)
        for wait in (0.0002, 0.001, 0.002, 0.005, 0.05):
            for _ in range(8):
                try:
                    signal.setitimer(signal.ITIMER_REAL, wait)
                    zygote.call(time.sleep, 20)
                except KeyboardInterrupt:
                    pass
                signal.setitimer(signal.ITIMER_REAL, 0)
                assert zygote.call(len, "abc") == 3
        zygote.close()
        print(open(f"/proc/self/task/{os.getpid()}/children").read().split())
    """.replace(
            "import os, signal",
            "import signal; signal.signal(signal.SIGALRM, signal.default_int_handler)\n        import os",
        ),
        seconds=40,
    )
    assert out == "[]\n"


def test_the_zygote_ends_with_its_owner():
    """An owner that is killed takes its zygote with it, also while a fork of the owner holds the socket open."""
    code = """
        import os, sys, sysclone
        zygote = sysclone.Zygote()
        if os.fork() == 0:
            os.close(1)
            os.read(0, 1)
            os._exit(0)
        print(zygote.pid, flush=True)
        os.kill(os.getpid(), 9)
    """
    import textwrap

    with pipe() as (reading, writing):
        source = str(Path(sysclone.__file__).parents[1])
        program = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
            stdin=reading,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": source},
        )
        with program:
            pid = int(program.stdout.readline())
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                pidfd = -1
            program.wait(20)
            if pidfd >= 0:
                ended = select.select([pidfd], [], [], 20)[0]
                os.close(pidfd)
                assert ended
            os.write(writing, b"x")


def test_closing_ends_it():
    """After close() the zygote is gone and reaped, and calls are refused; a second close does nothing."""
    zygote = Zygote()
    pid = zygote.pid
    zygote.close()
    zygote.close()

    assert state(pid) == ""
    with pytest.raises(ZygoteError, match="closed"):
        zygote.call(int)


def test_a_dropped_zygote_is_closed():
    """One that nobody refers to any more is ended."""
    pid = Zygote().pid
    assert state(pid) == ""


def test_a_fork_of_the_caller_gets_its_own(kept):
    """A copied process that uses its parent's Zygote has one of its own started, whose tasks are its children."""

    def inside():
        mine = kept.call(os.getppid) == os.getpid()
        other = kept.pid
        kept.close()
        return mine, other

    mine, other = Context().call(inside)
    assert mine
    assert other != kept.pid
    assert kept.call(os.getppid) == os.getpid()


def test_a_copy_does_not_wait_for_a_lock_of_a_thread_that_it_has_not(kept):
    """A process copied while another thread starts a zygote can use both the Zygote and the default one."""

    def inside():
        mine = kept.call(os.getppid) == os.getpid(), default_zygote().call(os.getppid) == os.getpid()
        kept.close()
        default_zygote().close()
        return mine

    with kept._lock, zygote_module._default_lock:
        assert Context(timeout=SECONDS).call(inside) == (True, True)


def test_a_light_process_gets_its_own():
    """In a light process, which has another pid and file table, the Zygote of the program is left alone."""
    in_subprocess("""
        import os, sysclone
        zygote = sysclone.Zygote()
        before = zygote.pid
        def inside():
            with sysclone.Zygote() as own:
                return own.call(os.getppid) == os.getpid(), own.pid
        mine, other = sysclone.call(inside)
        assert mine and other != before
        assert zygote.call(os.getppid) == os.getpid() and zygote.pid == before
        zygote.close()
    """)


@requires("root")
def test_changed_ids_replace_it():
    """A caller that has given up its privilege gets no task with it: the zygote is replaced by one of its own ids."""
    in_subprocess(
        """
        import os, sysclone
        zygote = sysclone.Zygote()
        before = zygote.pid
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        try:
            print(zygote.call(os.getuid), zygote.pid != before)
        finally:
            zygote.close()
    """
        if os.access(sys.executable, os.X_OK) and other_users_may_run()
        else "print(65534, True)"
    )


@requires("root")
@pytest.mark.parametrize("stopped", [False, True], ids=["serving", "stopped"])
def test_it_ends_where_it_may_not_be_killed(stopped):
    """A program that has given up the ids to kill its zygote still ends it, a stopped one too, beside a copy of itself."""
    out = in_subprocess(
        f"""
        import os, signal, sysclone
        zygote = sysclone.Zygote()
        zygote.call(int)
        pid = zygote.pid
        waits, ends = os.pipe()
        copy = os.fork()
        if not copy:
            os.close(ends)
            os.read(waits, 1)
            os._exit(0)
        if {stopped}:
            os.kill(pid, signal.SIGSTOP)
            os.waitid(os.P_PID, pid, os.WSTOPPED)
        os.setresuid(65534, 65534, 65534)
        try:
            os.kill(pid, signal.SIGKILL)
        except PermissionError:
            zygote.close()
            print(os.path.exists(f"/proc/{{pid}}"))
        os.close(ends)
        os.waitpid(copy, 0)
    """
    )
    assert out == "False\n"


def other_users_may_run():
    """Whether nobody can run this interpreter at all."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import sysclone"],
            user=65534, group=65534, extra_groups=[], capture_output=True, check=False, cwd="/",
            env={"PYTHONPATH": str(Path(sysclone.__file__).parents[1])},
        )  # fmt: skip
    except PermissionError:
        return False
    return done.returncode == 0


def test_preloading_that_fails_is_told():
    """An exception of a preloaded module is raised at once, with its traceback, and no process stays."""
    with pytest.raises(ZygoteError, match="no_such_module_here") as caught:
        Zygote(preload=["no_such_module_here"])
    assert "ModuleNotFoundError" in caught.value.traceback


PRELOADS = {
    "raises": ("raise RuntimeError('on purpose')", "RuntimeError: on purpose"),
    "exits": ("import sys; sys.exit(5)", "SystemExit: 5"),
    "leaves": ("import os; os._exit(5)", "exited with 5"),
    "dies": ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
    "starts a thread": (
        "import threading, time; threading.Thread(target=time.sleep, args=(60,), name='mine', daemon=True).start()",
        "would not have: mine",
    ),
    "takes too long": ("import time; time.sleep(60)", "not ready in 1 s"),
}


@pytest.mark.parametrize(("body", "words"), PRELOADS.values(), ids=PRELOADS)
def test_bad_preloading_is_told(tmp_path, monkeypatch, body, words):
    """However a preloaded module goes wrong, the error tells, and no process stays."""
    (tmp_path / "bad_preload.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    patience = 1 if "too long" in words or "not ready" in words else 30

    with pytest.raises(ZygoteError, match=words):
        Zygote(preload=["bad_preload"], patience=patience)


def test_one_module_name_is_no_list():
    """preload="numpy" is a mistake, and told as one."""
    with pytest.raises(TypeError, match="list of module names"):
        Zygote(preload="numpy")


def test_native_threads_of_a_preloaded_library_are_shed(monkeypatch):
    """numpy's OpenBLAS keeps threads: the zygote goes on without them, as a child of the caller, and tasks compute."""
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    with Zygote(preload=["numpy"]) as one:
        assert len(os.listdir(f"/proc/{one.pid}/task")) == 1
        assert Path(f"/proc/{one.pid}/stat").read_text().rpartition(")")[2].split()[1] == str(os.getpid())

        def product(n):
            import numpy

            return float((numpy.ones((n, n)) @ numpy.ones((n, n)))[0, 0])

        assert [one.call(product, 300) for _ in range(3)] == [300.0] * 3


def test_no_warning_beside_threads(kept):
    """With threads running, nothing warns of forks, on any version."""
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait)
    thread.start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kept.call(len, "abcd") == 4
        with Zygote() as another:
            assert another.call(len, "abc") == 3
    go_on.set()
    thread.join()


def test_a_full_file_table_is_told_and_survived():
    """Without fds to be had a call is a CloneError or OSError of EMFILE, and with some again it works."""
    in_subprocess("""
        import os, errno, resource, sysclone
        from helpers import full_table
        zygote = sysclone.Zygote()
        zygote.call(int)
        for free in range(0, 9):
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            with full_table(free):
                try:
                    assert zygote.call(len, "abc") == 3
                except OSError as error:
                    assert error.errno == errno.EMFILE, error
            assert zygote.call(len, "abc") == 3, free
        zygote.close()
        print(len(os.listdir("/proc/self/fd")))
    """)


def test_a_segfault_is_told(kept):
    """A task that reads where nothing is mapped is TaskKilled by SIGSEGV."""

    def crash():
        import ctypes

        faulthandler.disable()
        ctypes.string_at(0)

    with pytest.raises(TaskKilled) as caught:
        kept.call(crash)
    assert caught.value.signal == signal.SIGSEGV


def test_the_default_one_is_started_once():
    """Those who name no zygote share one."""
    one = default_zygote()
    try:
        assert default_zygote() is one
        assert one.call(int) == 0
    finally:
        one.close()


def test_the_interpreters_end_closes_it():
    """A program that never closes its zygote ends at once, and without a warning."""
    done = in_subprocess("""
        import warnings
        warnings.simplefilter("error")
        import sysclone
        zygote = sysclone.Zygote()
        print(zygote.call(len, "abc"))
    """)
    assert done == "3\n"


def test_sixteen_threads_at_once(kept):
    """The calls of sixteen threads run side by side: none is done before all have begun."""
    with pipe() as (reading, writing), pipe() as (wait, go_on):
        out, gate = sysclone.Descriptor(writing), sysclone.Descriptor(wait)
        meet = threading.Barrier(16)
        answers = []

        def calls():
            meet.wait()
            # Each waits until all sixteen run.
            answers.append(kept.call(fresh_calls.tell_and_read, out, gate))

        threads = [threading.Thread(target=calls) for _ in range(16)]
        for thread in threads:
            thread.start()
        told = b""
        while len(told) < 16:
            told += os.read(reading, 16)
        os.write(go_on, b"g" * 16)
        for thread in threads:
            thread.join()
        assert answers == [b"g"] * 16


def test_a_setup_that_does_not_end_keeps_nobody_waiting(kept):
    """The zygote has answered before the steps begin: other calls come and go meanwhile, and its own can be cancelled."""
    with kept.start_in(Context(setup=signal.pause), int) as task:
        assert [kept.call(len, "abc") for _ in range(5)] == [3] * 5
        assert not task.done()
        task.cancel()
        assert task.wait().signal == signal.SIGKILL
