"""Fresh processes: the caller's own children, cloned by a zygote that shares nothing with it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import fresh_calls
import numpy
import pytest
from features import requires
from helpers import in_subprocess, pipe, state

import sysclone
from sysclone import Context, ContextError, Namespace, Share, TaskExited, TaskKilled, Zygote

MIB = 1 << 20


# --- what a task is


def test_a_task_is_the_callers_child(kept):
    """Its parent is the caller, by both sides' word, and it is in the caller's own list of children."""
    with pipe() as (ready, say), kept.start(fresh_calls.tell_and_wait, sysclone.Descriptor(say)) as task:
        os.read(ready, 1)
        children = Path("/proc/thread-self/children").read_text().split()
        children += Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        assert str(task.pid) in children
        assert Path(f"/proc/{task.pid}/stat").read_text().rpartition(")")[2].split()[1] == str(os.getpid())
        task.cancel()


def test_it_comes_of_the_zygote_and_not_of_the_caller(kept):
    """What was preloaded was loaded by the zygote, once; each task has a pid of its own."""
    (pid, parent, loader), (other, _, _) = kept.call(fresh_calls.who), kept.call(fresh_calls.who)

    assert (parent, loader) == (os.getpid(), kept.pid)
    assert pid != other


def test_the_status_and_the_usage_are_seen(kept):
    """wait() gives the true status, by the caller's own waitid, with the rusage."""
    with kept.start(fresh_calls.leave, 7) as task:
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
        kept.call(fresh_calls.die, int(number))

    assert caught.value.signal == number
    assert kept.pid == before


def test_an_exception_arrives_with_its_traceback(kept):
    """What the function raises is raised here, with the remote traceback as the cause."""
    with pytest.raises(KeyError, match="from there") as caught:
        kept.call(fresh_calls.fail)
    assert "in fail" in str(caught.value.__cause__)


def test_an_exception_that_cannot_be_rebuilt_is_told(kept):
    """Its traceback is not lost."""
    with pytest.raises(sysclone.ResultError, match="RuntimeError: not here") as caught:
        kept.call(fresh_calls.fail_oddly)
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
        assert kept.call(fresh_calls.threads) == (1, 1)
        assert [target.partition(":")[0] for target in kept.call(fresh_calls.fds)] == ["socket"]
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
