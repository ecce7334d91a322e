"""Fresh processes: the caller's own children, cloned by a zygote that shares nothing with it."""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy
import pytest
from features import requires
from helpers import SECONDS, in_subprocess, state

import sysclone
from sysclone import Context, ContextError, Namespace, Share, TaskExited, TaskKilled, Zygote, ZygoteError
from sysclone._zygote import zygote as zygote_module
from sysclone._zygote.zygote import default_zygote

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import fresh_helper  # noqa: E402 (tasks find it by this path too)

MIB = 1 << 20


@pytest.fixture(scope="module")
def kept():
    """One zygote for the tests that do it no harm."""
    with Zygote(preload=["fresh_helper"]) as one:
        one.call(int)
        yield one


@pytest.fixture
def zygote():
    """A zygote of a test's own."""
    with Zygote() as one:
        yield one


@contextmanager
def pipe():
    """A pipe, closed afterwards."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for fd in ends:
            os.close(fd)


# --- what a task is


def test_a_task_is_the_callers_child(kept):
    """Its parent is the caller, by both sides' word, and it is in the caller's own list of children."""
    with pipe() as (ready, say), kept.start(fresh_helper.tell_and_wait, sysclone.Descriptor(say)) as task:
        os.read(ready, 1)
        children = Path("/proc/thread-self/children").read_text().split()
        children += Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        assert str(task.pid) in children
        assert Path(f"/proc/{task.pid}/stat").read_text().rpartition(")")[2].split()[1] == str(os.getpid())
        task.cancel()


def test_it_comes_of_the_zygote_and_not_of_the_caller(kept):
    """What was preloaded was loaded by the zygote, once; each task has a pid of its own."""
    (pid, parent, loader), (other, _, _) = kept.call(fresh_helper.who), kept.call(fresh_helper.who)

    assert (parent, loader) == (os.getpid(), kept.pid)
    assert pid != other


def test_the_status_and_the_usage_are_seen(kept):
    """wait() gives the true status, by the caller's own waitid, with the rusage."""
    with kept.start(fresh_helper.leave, 7) as task:
        assert task.wait().exit_code == 7
        assert task.rusage.ru_maxrss > 1000
        with pytest.raises(TaskExited) as caught:
            task.result()
        assert caught.value.exit_code == 7


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_a_death_by_signal_is_told(kept, number):
    """A task that a signal ends raises TaskKilled with it, and the zygote serves on."""
    before = kept.pid
    with pytest.raises(TaskKilled) as caught:
        kept.call(fresh_helper.die, int(number))

    assert caught.value.signal == number
    assert kept.pid == before


def test_an_exception_arrives_with_its_traceback(kept):
    """What the function raises is raised here, with the remote traceback as the cause."""
    with pytest.raises(KeyError, match="from there") as caught:
        kept.call(fresh_helper.fail)
    assert "in fail" in str(caught.value.__cause__)


def test_an_exception_that_cannot_be_rebuilt_is_told(kept):
    """Its traceback is not lost."""
    with pytest.raises(sysclone.ResultError, match="RuntimeError: not here") as caught:
        kept.call(fresh_helper.fail_oddly)
    assert "in fail_oddly" in str(caught.value)


def test_the_time_limit_is_kept(kept):
    """A timeout ends the task, and nothing is left of it."""
    with pytest.raises(sysclone.TaskTimeout) as caught:
        kept.call_in(Context(timeout=0.1), time.sleep, 30)
    assert not caught.value.still_running


def test_cancelling_ends_it(kept):
    """cancel() is SIGKILL, by pidfd."""
    with kept.start(time.sleep, 30) as task:
        task.cancel()
        assert task.wait().signal == signal.SIGKILL


def test_progress_is_seen(kept):
    """What the task says of its progress is read from its handle."""
    with kept.start(sysclone.progress, 2, 5, "some") as task:
        task.result()
        assert (task.progress.done, task.progress.total, task.progress.text) == (2.0, 5.0, "some")


def test_many_are_waited_for_together(kept):
    """wait_all and wait_any take fresh tasks like any others."""
    tasks = [kept.start(os.getpid) for _ in range(10)]
    assert sysclone.wait_all(tasks, 20) == tasks
    assert sorted(task.result() for task in tasks) == sorted(task.pid for task in tasks)
    for task in tasks:
        task.close()


# --- what it has of the caller


def test_nothing_of_the_caller_is_there(kept):
    """No thread, no fd but the one for its result, and no module that only the caller has loaded."""
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait)
    thread.start()
    with pipe():
        assert kept.call(fresh_helper.threads) == (1, 1)
        assert [target.partition(":")[0] for target in kept.call(fresh_helper.fds)] == ["socket"]
    assert not kept.call(lambda: "pytest" in sys.modules)
    go_on.set()
    thread.join()


def test_it_has_the_callers_cwd_and_streams_of_the_moment(kept, tmp_path, monkeypatch, capfd):
    """The cwd and the standard streams are the caller's when the task starts, not when the zygote did."""
    monkeypatch.chdir(tmp_path)
    assert kept.call(os.getcwd) == str(tmp_path)
    kept.call(print, "out")
    kept.call(os.write, 2, b"err\n")
    assert capfd.readouterr() == ("out\n", "err\n")


def test_cwd_and_streams_may_stay_the_zygotes(tmp_path, monkeypatch, capfd):
    """With cwd=False and stdio=False the task has the zygote's own."""
    before = os.getcwd()
    out = os.fstat(1).st_ino
    with Zygote(cwd=False, stdio=False) as one:
        monkeypatch.chdir(tmp_path)
        with capfd.disabled():
            other = os.fstat(1).st_ino
        assert one.call(os.getcwd) == before
        assert one.call(lambda: os.fstat(1).st_ino) == out
    assert other != out


def test_a_cwd_that_was_removed_is_none(kept, tmp_path, monkeypatch):
    """Where the caller stands in a directory that is gone, so does the task."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(FileNotFoundError):
        kept.call(os.getcwd)


def test_closed_streams_are_no_obstacle():
    """A caller without standard input can start tasks, which then have the zygote's."""
    in_subprocess("""
        import os, sysclone
        os.close(0)
        with sysclone.Zygote() as zygote:
            assert zygote.call(len, "abc") == 3
    """)


def test_fds_go_along(kept):
    """A Descriptor among the arguments is the task's fd for the same file, and the caller's stays open."""
    with pipe() as (reading, writing):
        assert kept.call(lambda one: os.write(one.fileno(), b"hello"), sysclone.Descriptor(writing)) == 5
        assert os.read(reading, 10) == b"hello"
        os.fstat(writing)


def test_more_fds_than_a_message_holds_go_along(kept):
    """Three hundred fds among the arguments arrive, each as itself."""
    fds = [os.memfd_create(f"number {i}") for i in range(300)]
    names = kept.call(
        lambda many: [os.readlink(f"/proc/self/fd/{one.fileno()}") for one in many],
        [sysclone.Descriptor(fd) for fd in fds],
    )
    for fd in fds:
        os.close(fd)
    assert names == [f"/memfd:number {i} (deleted)" for i in range(300)]


def test_large_arguments_and_results_are_not_copied_here(kept):
    """A large array goes out of band both ways; the answer is mapped, writable and whole."""
    answer = kept.call(numpy.add, numpy.ones(2 * MIB), 1.0)

    assert answer.flags.writeable
    assert float(answer.sum()) == 4.0 * MIB
    assert sum("memfd:sysclone" in line for line in Path("/proc/self/maps").read_text().splitlines()) == 1


def test_shared_data_goes_by_reference(kept):
    """A Shared and a part of its array arrive as the very memfd."""
    with sysclone.shared(numpy.arange(MIB)) as one:
        inode, last = kept.call(lambda s: (os.fstat(s.fileno()).st_ino, int(s.array()[-1])), one)
        assert (inode, last) == (os.fstat(one.fileno()).st_ino, MIB - 1)
        mapped = kept.call(
            lambda part: (part[0], "sysclone-shared" in Path("/proc/self/maps").read_text()), one.array()[5:]
        )
        assert mapped == (5, True)


@pytest.mark.parametrize("size", [0, 16_000, 17_000, 70_000, 5 * MIB])
def test_arguments_of_every_size_arrive(kept, size):
    """Around the edges between the message and the memfd nothing is lost."""
    data = os.urandom(size)
    assert kept.call(lambda one, *, key: one == key, data, key=data)
    assert kept.call(bytes, data) == data


def test_sigint_is_the_tasks_own(kept):
    """The zygote is deaf to Ctrl-C; its tasks answer it with KeyboardInterrupt."""
    os.kill(kept.pid, signal.SIGINT)
    assert kept.call(lambda: signal.getsignal(signal.SIGINT) is signal.default_int_handler)


# --- functions by value and by name


def test_lambdas_and_closures_go_by_value(kept):
    """With cloudpickle a closure is pickled, and a class of the test's own comes back as that class."""
    factor = 3

    class Local:
        def __init__(self, value):
            self.value = value

    answer = kept.call(lambda x: Local(x * factor), 5)
    assert isinstance(answer, Local)
    assert answer.value == 15


@pytest.mark.parametrize(
    ("act", "field", "words"),
    [
        (lambda z: z.call(threading.Lock().acquire), "fn", "the function"),
        (lambda z: z.call(int, [1, {"k": threading.Lock()}]), "args", r"at args\[0\]\[1\]\['k'\]"),
        (lambda z: z.call(dict, key=[threading.Lock()]), "kwargs", r"at kwargs\['key'\]\[0\]"),
    ],
    ids=["function", "argument", "keyword"],
)
def test_what_cannot_be_pickled_is_named(kept, act, field, words):
    """Nothing is started for a call that cannot be pickled: the part at fault is named, with the path."""
    with pytest.raises(ContextError, match=words) as caught:
        act(kept)
    assert caught.value.field == field


def test_what_cannot_be_unpickled_there_is_told(kept, tmp_path, monkeypatch):
    """A function of a module that the task cannot import is an error with its own name, and says where it happened."""
    (tmp_path / "only_here.py").write_text("def f():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here

    with pytest.raises(ModuleNotFoundError, match="only_here") as caught:
        kept.call(only_here.f)
    assert any("unpickled in the fresh process" in note for note in caught.value.__notes__)


MAIN = """
    import os, sys
    sys.modules["cloudpickle"] = {block}
    import sysclone

    def double(x):
        return 2 * x

    class Thing:
        value = 5

    def thing():
        return Thing()
"""


def script(tmp_path, block, ending):
    """A program with a main module of its own, with or without cloudpickle."""
    import textwrap

    path = tmp_path / "program.py"
    begin = (
        textwrap.dedent(MAIN.format(block="None"))
        if block
        else textwrap.dedent(MAIN).replace('sys.modules["cloudpickle"] = {block}\n', "")
    )
    path.write_text(begin + textwrap.dedent(ending))
    source = str(Path(sysclone.__file__).parents[1])
    return subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": source},
        check=False,
    )


@pytest.mark.parametrize("block", [False, True], ids=["by value", "by name"])
def test_the_main_modules_functions_run(tmp_path, block):
    """What the main module defines runs in a fresh process: by value, or by importing a main module that has its guard."""
    done = script(
        tmp_path,
        block,
        """
        if __name__ == "__main__":
            with sysclone.Zygote() as zygote:
                print(zygote.call(double, 4), isinstance(zygote.call(thing), Thing), zygote.call(thing).value)
        """,
    )
    assert (done.stdout, done.returncode) == ("8 True 5\n", 0), done.stderr


def test_without_its_guard_the_main_module_is_refused(tmp_path):
    """Imported in a task, a main module that starts tasks itself is told of the guard, and nothing runs on for ever."""
    done = script(tmp_path, True, "print(sysclone.Zygote().call(double, 4))\n")

    assert done.returncode == 1
    assert "it needs the guard" in done.stderr


def test_without_its_guard_it_works_by_value(tmp_path):
    """With cloudpickle the main module is not imported, so it needs no guard."""
    done = script(tmp_path, False, "print(sysclone.Zygote().call(double, 4))\n")

    assert (done.stdout, done.returncode) == ("8\n", 0), done.stderr


def test_without_cloudpickle_a_lambda_is_refused(tmp_path):
    """The error says what to install."""
    done = script(tmp_path, True, "sysclone.Zygote().call(lambda: 1)\n")

    assert "pip install 'sysclone[fresh]'" in done.stderr


def test_the_main_module_can_be_preloaded(tmp_path):
    """preload=["__main__"] imports it once, in the zygote, and what it prints is not left for the tasks to print again."""
    done = script(
        tmp_path,
        True,
        """
        here = os.getpid()
        if __name__ == "__main__":
            with sysclone.Zygote(preload=["__main__"]) as zygote:
                print(zygote.call(double, 4), zygote.call(double, 5))
        else:
            print("imported")
        """,
    )
    assert (done.stdout, done.returncode) == ("imported\n8 10\n", 0), done.stderr


def test_multiprocessing_does_not_hide_the_main_module(tmp_path):
    """Where it was imported first, the main module's functions are found all the same."""
    done = script(
        tmp_path,
        True,
        """
        if __name__ == "__main__":
            with sysclone.Zygote(preload=["multiprocessing"]) as zygote:
                print(zygote.call(double, 4))
        """,
    )
    assert (done.stdout, done.returncode) == ("8\n", 0), done.stderr


# --- contexts


@requires("root", "pid_namespaces")
@pytest.mark.parametrize("name", ["PID", "MOUNT", "NET", "UTS", "IPC", "CGROUP", "TIME"])
def test_each_namespace_is_new(kept, name):
    """By inode the namespace that is asked for is new, and the others are the zygote's."""
    files = {"MOUNT": "mnt"}
    file = files.get(name, name.lower())

    def look():
        names = ("user", "mnt", "pid", "net", "uts", "ipc", "cgroup")
        if name == "TIME":
            names += ("time_for_children",)
        return {one: os.readlink(f"/proc/thread-self/ns/{one}") for one in names}, os.getpid()

    there, pid = kept.call_in(Context(new=Namespace[name]), look)
    here = {one: os.readlink(f"/proc/self/ns/{one}") for one in there}
    differ = {one for one in there if there[one] != here[one]}

    assert differ <= {file, "time_for_children"}
    assert (file in differ) is (name not in ("TIME",)) or name == "TIME"
    assert (pid == 1) is (name == "PID")


def test_a_user_namespace_has_its_maps(kept):
    """With new=USER and maps the task is root there; the maps were written before it began."""
    context = Context(new=Namespace.USER | Namespace.NET, uid_map="root", gid_map="root", loopback=True)

    assert kept.call_in(context, lambda: (os.getuid(), Path("/proc/self/uid_map").read_text().split()[0])) == (0, "0")


@requires("root")
def test_other_ids_are_taken(kept):
    """uid and gid are the task's alone."""
    assert kept.call_in(
        Context(uid=65534, gid=65534, groups=()), lambda: (os.getuid(), os.getgid(), os.getgroups())
    ) == (
        65534,
        65534,
        [],
    )


@requires("root", "cgroup2")
def test_a_cgroup_is_entered(kept):
    """The task begins in the cgroup that its context names."""
    import features

    with features.cgroup2_directory() if hasattr(features, "cgroup2_directory") else own_cgroup() as path:
        line = kept.call_in(Context(cgroup=str(path)), Path("/proc/self/cgroup").read_text)
        assert str(path).rpartition("/")[2] in line


@contextmanager
def own_cgroup():
    """A cgroup of version 2 of this test's own."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    root = next(Path(words[1]) for words in mounts if words[2] == "cgroup2")
    path = root / f"sysclone-fresh-{os.getpid()}"
    path.mkdir()
    try:
        yield path
    finally:
        path.rmdir()


@requires("root")
def test_steps_are_taken(kept):
    """cwd, umask, limits, session and setup are the task's, as of any other kind; setup may be a closure."""
    import resource

    context = Context(
        cwd="/usr",
        umask=0o70,
        limits={"NOFILE": 99},
        session=True,
        setup=lambda: os.environ.__setitem__("SET_UP", "yes"),
    )

    def look():
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        return os.getcwd(), os.umask(0), limit[0], os.getsid(0) == os.getpid(), os.environ.get("SET_UP")

    assert kept.call_in(context, look) == ("/usr", 0o70, 99, True, "yes")


def test_a_setup_that_cannot_be_pickled_is_refused(kept):
    """It is named like any other part of the call."""
    with pytest.raises(ContextError, match="the context's setup") as caught:
        kept.call_in(Context(setup=threading.Lock().acquire), int)
    assert caught.value.field == "setup"


REFUSED = {
    "share": Context(share=Share.FILES),
    "memory": Context.light(),
    "parent": Context(parent="sibling"),
    "exit_signal": Context(exit_signal=10),
    "ptrace": Context(ptrace=True),
    "memory_exclude": Context(memory_exclude=[bytearray(20_000)]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_switches_that_make_no_sense_are_refused(kept, name):
    """What would be the zygote's and not the caller's is a ContextError at its field."""
    with pytest.raises(ContextError) as caught:
        kept.call_in(REFUSED[name], int)
    assert caught.value.field == ("share" if name == "memory" else name)


@requires("root")
def test_a_refusal_of_the_kernels_is_told(kept):
    """What the kernel refuses the zygote is a CloneError here, with the step, and the zygote serves on."""
    with pytest.raises(sysclone.CloneError, match="clone3") as caught:
        kept.call_in(Context(tid=(2, 3, 4, 5)), int)
    assert caught.value.errno
    assert kept.call(int) == 0


# --- the zygote's own life


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
    assert zygote.call(fresh_helper.kill_parent_and_return, zygote.pid, 5) == 5
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
        zygote = sysclone.Zygote()
        zygote.call(int)
        for free in range(0, 9):
            hoard = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            try:
                while True:
                    hoard.append(os.dup(0))
            except OSError:
                pass
            for _ in range(min(free, len(hoard))):
                os.close(hoard.pop())
            try:
                assert zygote.call(len, "abc") == 3
            except OSError as error:
                assert error.errno == errno.EMFILE, error
            finally:
                for fd in hoard:
                    os.close(fd)
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


# --- what of the caller's it may have as of the call


def test_environment_umask_and_limits_are_the_callers_if_asked(monkeypatch):
    """With environment, umask and limits they are those of the call's moment; without, those of the zygote's start."""
    import resource

    def look():
        umask = os.umask(0)
        return (
            os.environ.get("OF_THE_MOMENT"),
            umask,
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            "PATH" in os.environ,
        )

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Zygote() as plain, Zygote(environment=True, umask=True, limits=True) as asked:
        monkeypatch.setenv("OF_THE_MOMENT", "é" * 50_000)
        umask = os.umask(0o37)
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[0] - 10, before[1]))
        try:
            assert plain.call(look) == (None, umask, before[0], True)
            assert asked.call(look) == ("é" * 50_000, 0o37, before[0] - 10, True)
            own = Context(environment={"OF_THE_MOMENT": "other"}, umask=0o11, limits={"NOFILE": 77})
            assert asked.call_in(own, look) == ("other", 0o11, 77, False)
            monkeypatch.delenv("OF_THE_MOMENT")
            assert asked.call(look)[0] is None
            assert not asked.call(lambda: os.system("exit ${OF_THE_MOMENT:+1}"))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            os.umask(umask)


def test_a_limit_that_cannot_be_had_is_told():
    """A hard limit above the zygote's is an error of that call where CAP_SYS_RESOURCE is missing, and the zygote serves on."""
    import resource

    status = Path("/proc/self/status").read_text()
    capable = int(status.partition("CapEff:")[2].split()[0], 16) >> 24 & 1
    with Zygote(limits=True) as zygote:
        here = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.prlimit(zygote.pid, resource.RLIMIT_NOFILE, (100, 100))
        if capable:
            assert zygote.call(resource.getrlimit, resource.RLIMIT_NOFILE) == here
        else:
            with pytest.raises(sysclone.CloneError, match=rf"setrlimit\({resource.RLIMIT_NOFILE}, .*EPERM"):
                zygote.call(int)
            with pytest.raises(sysclone.CloneError):
                zygote.call(int)
        assert state(zygote.pid)


def test_sixteen_threads_at_once(kept):
    """The calls of sixteen threads run side by side: none is done before all have begun."""
    with pipe() as (reading, writing), pipe() as (wait, go_on):
        out, gate = sysclone.Descriptor(writing), sysclone.Descriptor(wait)
        meet = threading.Barrier(16)
        answers = []

        def calls():
            meet.wait()
            # Each waits until all sixteen run.
            answers.append(kept.call(fresh_helper.tell_and_read, out, gate))

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
