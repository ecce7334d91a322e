"""The limits of an executor's calls, and the reasons that their errors give."""

from __future__ import annotations

import errno
import os
import resource
import signal
import textwrap
import threading
import time
from pathlib import Path

import pytest
from executor_calls import starts
from features import have, requires
from helpers import AS_NOBODY, SECONDS, in_subprocess

import sysclone
from sysclone import Context, Executor, Namespace, TaskOverLimit
from sysclone.executor import _groups, _limits, _reasons

MIB = 1 << 20


@pytest.fixture(params=[1, None], ids=["once", "warm"])
def calls(request):
    """A process a call, and warm workers."""
    return request.param


def hold(size):
    """Takes so much; too much of it for as long as nobody ends it."""
    block = bytearray(b"x") * size
    time.sleep(60 if size > 64 * MIB else 0)
    return len(block)


def burn():
    while True:
        pass


def opens(count):
    """How many files could be opened before the first error, and that error."""
    files = []
    try:
        for _ in range(count):
            files.append(os.open("/dev/null", os.O_RDONLY))  # noqa: PERF401
    except OSError as e:
        return len(files), e.errno
    finally:
        for fd in files:
            os.close(fd)
    return len(files), 0


def opens_too_many():
    """Raise what the kernel says to the file after the last."""
    return [open("/dev/null") for _ in range(100)]


def limit_of_memory():
    return resource.getrlimit(resource.RLIMIT_AS)[0]


# --- memory


@pytest.mark.parametrize(
    "by",
    [
        pytest.param("cgroup", marks=requires("memory_cgroup")),
        "rss",
    ],
)
def test_a_call_that_takes_too_much_memory_is_ended(calls, by):
    """The error is TaskOverLimit, names the limit and what enforced it; the executor goes on."""
    with Executor(1, kind="copied", tasks_per_worker=calls, memory_bytes=64 * MIB, memory_by=by) as executor:
        error = executor.submit(hold, 400 * MIB).exception(SECONDS)
        assert executor.submit(hold, MIB).result(SECONDS) == MIB
        told = executor.stats()["memory_by"]

    assert isinstance(error, TaskOverLimit)
    assert (error.limit, error.value) == ("memory_bytes", 64 * MIB)
    assert error.signal == signal.SIGKILL
    assert error.enforced_by == told
    assert told.startswith("cgroup v" if by == "cgroup" else "watched RSS")


@requires("no_sanitizer")
def test_without_a_cgroup_the_address_space_is_limited(calls):
    """RLIMIT_AS makes a MemoryError in the function, which says whose limit that was."""
    with Executor(1, kind="copied", tasks_per_worker=calls, memory_bytes=64 * MIB, memory_by="rlimit") as executor:
        error = executor.submit(hold, 400 * MIB).exception(SECONDS)
        assert executor.submit(hold, MIB).result(SECONDS) == MIB
        assert executor.stats()["memory_by"] == "RLIMIT_AS"

    assert isinstance(error, MemoryError)
    assert "memory_bytes=" in "".join(error.__notes__)


@requires("no_sanitizer")
def test_where_no_cgroup_can_be_made_the_address_space_is_limited(monkeypatch):
    """The automatic choice falls back, and stats() tell."""
    monkeypatch.setattr(_groups, "find", lambda *_: None)
    with Executor(1, kind="copied", memory_bytes=64 * MIB) as executor:
        assert isinstance(executor.submit(hold, 400 * MIB).exception(SECONDS), MemoryError)
        assert executor.stats()["memory_by"] == "RLIMIT_AS"


def test_a_cgroup_that_was_asked_for_and_cannot_be_made_is_an_error(monkeypatch):
    """memory_by="cgroup" does not fall back: the call fails by CloneError."""
    monkeypatch.setattr(_groups, "find", lambda *_: None)
    with Executor(1, kind="copied", memory_bytes=64 * MIB, memory_by="cgroup") as executor:
        error = executor.submit(hold, 1).exception(SECONDS)

    assert isinstance(error, sysclone.CloneError)
    assert "memory controller" in str(error)


@requires("memory_cgroup")
def test_no_cgroup_stays_behind():
    """The directories go with the processes, also with those that were killed."""
    hierarchy = _groups.find("memory", Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    with Executor(2, kind="copied", memory_bytes=64 * MIB) as executor:
        for future in [executor.submit(hold, size * MIB) for size in (1, 200, 1)]:
            future.exception(SECONDS)

    assert list(Path(hierarchy.base).glob(f"sysclone-{os.getpid()}-*")) == []


@requires("memory_cgroup", "root")
def test_a_kill_by_a_foreign_limit_is_known_from_the_kernels_record():
    """A worker that the OOM killer ends for a cgroup that is not its own says so."""
    parent = _groups.find("memory", Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    folder = Path(parent.base, f"outer-{os.getpid()}")
    folder.mkdir()
    try:
        (folder / "memory.limit_in_bytes").write_text(str(150 * MIB))
        (folder / "memory.memsw.limit_in_bytes").write_text(str(150 * MIB))
        out = in_subprocess(
            f"""
            import os
            from sysclone import Executor
            from pathlib import Path
            Path({str(folder)!r}, "cgroup.procs").write_text("0")
            def hold(): return len(bytearray(b"x") * {600 * MIB})
            with Executor(1, kind="copied") as executor:
                error = executor.submit(hold).exception(20)
                print(type(error).__name__, "OOM killer" in str(error), error.signal)
            """
        )
    finally:
        folder.rmdir()

    assert out == "TaskKilled True 9\n"


@requires("root", "pid_namespaces")
def test_the_kernels_record_is_of_the_first_pid_namespace():
    """Elsewhere it counts as one that cannot be read: the pids in it are other processes'."""
    with Context(new=Namespace.PID).start(lambda: _reasons._kernel_record(os.getpid())) as task:
        assert task.result() is None


# --- processor time


def test_a_call_that_computes_too_long_is_ended(calls):
    """After the fraction of a second that it had, with its limit as the reason."""
    with Executor(1, kind="copied", tasks_per_worker=calls, cpu_seconds=0.2) as executor:
        error = executor.submit(burn).exception(SECONDS)
        assert executor.submit(hold, 1).result(SECONDS) == 1

    assert isinstance(error, TaskOverLimit)
    assert (error.limit, error.value) == ("cpu_seconds", 0.2)


def test_a_warm_worker_has_the_time_anew_for_each_call():
    """Processor time is counted for a call, not for the worker."""
    with Executor(1, kind="copied", tasks_per_worker=None, cpu_seconds=0.4) as executor:
        pids = {executor.submit(burn_for, 0.15).result(SECONDS) for _ in range(5)}

    assert len(pids) == 1


def burn_for(seconds):
    import time

    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return os.getpid()


def test_a_light_call_that_computes_too_long_is_ended():
    """In whole seconds, by SIGXCPU, which a light process survives until it is safe to end it."""
    with Executor(1, kind="light", cpu_seconds=1) as executor:
        error = executor.submit(burn).exception(SECONDS)

    assert isinstance(error, TaskOverLimit)
    assert error.limit == "cpu_seconds"
    assert error.signal == signal.SIGXCPU


# --- files and processes


@pytest.mark.parametrize("kind", ["light", "copied"])
def test_the_number_of_files_is_limited(kind, calls):
    """So many more than it began with, whatever numbers are taken."""
    with Executor(1, kind=kind, tasks_per_worker=calls, files=5) as executor:
        assert executor.submit(opens, 10).result(SECONDS) == (5, errno.EMFILE)
        assert executor.options(files=7).submit(opens, 10).result(SECONDS) == (7, errno.EMFILE)


def test_an_error_of_too_many_files_names_the_limit():
    """A note says which limit of the call's it was."""
    with Executor(1, kind="copied", files=5) as executor:
        error = executor.submit(opens_too_many).exception(SECONDS)

    assert error.errno == errno.EMFILE
    assert "files=5" in "".join(error.__notes__)


@requires("pids_cgroup")
def test_the_number_of_processes_is_limited(calls):
    """By a pids cgroup, which root obeys too."""
    with Executor(1, kind="copied", tasks_per_worker=calls, processes=3) as executor:
        assert executor.submit(starts, 10).result(SECONDS) == 3


@requires("nobody")
def test_the_number_of_processes_of_a_user_is_limited():
    """Where no cgroup can be made, by RLIMIT_NPROC."""
    # A user whom nobody else is: other runs of these tests have processes of nobody's.
    as_its_own = AS_NOBODY.replace("65534", str(2_000_000_000 + os.getpid()))
    out = in_subprocess(
        as_its_own
        + textwrap.dedent("""
        from executor_calls import starts
        from sysclone import Executor
        with Executor(1, kind="copied", processes=3) as executor:
            print(executor.submit(starts, 10).result(20))
        """)
    )

    assert out == "3\n"


def test_root_without_a_pids_cgroup_is_told(monkeypatch):
    """RLIMIT_NPROC does not hold for root: the call fails rather than run without its limit."""
    monkeypatch.setattr(_groups, "find", lambda *_: None)
    if not have("root"):
        monkeypatch.setattr(_limits.os, "geteuid", lambda: 0)
    with Executor(1, kind="copied", processes=3) as executor:
        assert isinstance(executor.submit(hold, 1).exception(SECONDS), sysclone.Unsupported)


def test_calls_with_other_limits_share_the_executor(calls):
    """Calls of one executor may have limits of their own: each gets a process that has them."""
    with Executor(1, kind="copied", tasks_per_worker=calls) as executor:
        plain = executor.submit(limit_of_memory).result(SECONDS)
        tight = executor.options(memory_bytes=64 * MIB, memory_by="rlimit").submit(limit_of_memory).result(SECONDS)
        again = executor.submit(limit_of_memory).result(SECONDS)

    assert plain == again
    assert tight != plain


def test_no_fds_left_is_the_error_of_that_call():
    """With a full table the call fails by CloneError; when there is room again, calls run again."""
    in_subprocess("""
        import os, resource, sysclone
        from helpers import full_table
        from sysclone import Executor
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        with Executor(1, kind="copied") as executor:
            assert executor.submit(os.getpid).result(20)
            with full_table():
                error = executor.submit(os.getpid).exception(20)
            assert isinstance(error, sysclone.CloneError) and error.errno == 24, error
            assert executor.submit(os.getpid).result(20)
    """)


# --- cgroups of either version, found


V1 = """9:name=systemd:/
8:pids:/a
4:memory,hugetlb:/process_api/x
0::/
"""
V1_MOUNTS = """33 32 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory,hugetlb
34 32 0:29 /a /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
"""


def test_version_1_hierarchies_are_found():
    """Each controller's own, below the cgroup that the program is in, whatever the mount's root."""
    assert _groups.find("memory", V1, V1_MOUNTS).base == "/sys/fs/cgroup/memory/process_api/x"
    assert _groups.find("pids", V1, V1_MOUNTS).base == "/sys/fs/cgroup/pids"
    assert _groups.find("cpu", V1, V1_MOUNTS) is None


def test_version_2_uses_what_is_delegated(tmp_path):
    """Below the own cgroup if its children have the controller, else beside it, else not at all."""
    own = tmp_path / "user" / "app"
    own.mkdir(parents=True)
    mounts = f"30 25 0:26 / {tmp_path} rw - cgroup2 cgroup2 rw\n"
    (own / "cgroup.subtree_control").write_text("\n")
    (own.parent / "cgroup.subtree_control").write_text("cpu memory\n")

    found = _groups.find("memory", "0::/user/app\n", mounts)
    assert (found.base, found.version) == (str(own.parent), 2)
    assert _groups.find("pids", "0::/user/app\n", mounts) is None
    (own / "cgroup.subtree_control").write_text("memory pids\n")
    assert _groups.find("pids", "0::/user/app\n", mounts).base == str(own)


def test_version_2_group_writes_its_limits(tmp_path, monkeypatch):
    """Memory, no swap, all of it killed at once, and the number of processes, in one directory; the counters are read."""
    monkeypatch.setattr(_groups, "find", lambda *_: _groups.Hierarchy(str(tmp_path), 2))
    made = []
    real = os.mkdir

    def mkdir(path):
        real(path)
        made.append(Path(path))
        for name in ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cgroup.procs"):
            (made[0] / name).write_text("")
        (made[0] / "memory.events").write_text("low 0\noom 2\noom_kill 1\n")
        (made[0] / "memory.peak").write_text("12345\n")

    monkeypatch.setattr(_groups.os, "mkdir", mkdir)
    group = _groups.Group.make(5000, 2)

    assert len(made) == 1
    assert [
        (made[0] / name).read_text() for name in ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max")
    ] == [
        "5000",
        "0",
        "1",
        "3",
    ]
    assert (group.oom_kills(), group.peak_bytes(), group.memory_by, group.counts_processes) == (
        1,
        12345,
        "cgroup v2",
        True,
    )


def test_threads_do_not_matter_to_limits():
    """Limits are set in the call's process alone: this one keeps its own."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE), threading.active_count()
    with Executor(1, kind="light", files=3) as executor:
        executor.submit(opens, 1).result(SECONDS)

    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before[0]
