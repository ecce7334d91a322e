"""What goes wrong on a machine, made to happen: an error of that call alone, which says what it was, and nothing left behind."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from executor_calls import FRESH, NAMES, VARIANTS, add, never, recurses, result_of, whoami
from features import requires
from helpers import SECONDS, in_subprocess

import sysclone
from sysclone import CloneError, Context, Executor, ResultError, TaskKilled, Zygote, ZygoteError

MIB = 1 << 20
PIDS = Path("/sys/fs/cgroup/pids")

apart = pytest.mark.parametrize("variant", VARIANTS[2:], ids=NAMES[2:])
"""Those with a memory of their own."""

every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=NAMES)


# --- no pids

NO_PIDS = """
    import errno, os, resource, sysclone, sysclone._hints.table, sysclone._popen.popen
    import executor_calls, leftovers
    from sysclone import CloneError, Executor, Zygote
    {before}
    os.setgroups([])
    os.setresgid(65532, 65532, 65532)
    os.setresuid(65532, 65532, 65532)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
    {act}
"""


@requires("nobody")
@pytest.mark.parametrize("variant", [one for one in VARIANTS if one["kind"] != "fresh"], ids=NAMES[:4])
def test_no_pids_for_an_executor(variant):
    """Under RLIMIT_NPROC as nobody each call fails by EAGAIN with its step; when there is room again, calls run again."""
    act = """
    with Executor(2, **variant) as executor:
        errors = [executor.submit(abs, -5).exception(20) for _ in range(3)]
        assert all(isinstance(one, CloneError) and one.errno == errno.EAGAIN and one.step for one in errors), errors
        resource.setrlimit(resource.RLIMIT_NPROC, resource.getrlimit(resource.RLIMIT_NPROC)[1:] * 2)
        assert executor.submit(abs, -5).result(20) == 5
        assert executor.stats()["failed"] == 3
    assert not leftovers.children()
    """
    # The manager's own thread is there before: it is not what is being tested.
    before = f"""
    variant = {variant!r}
    with Executor(1, **variant) as warm:
        warm.submit(int).result(20)
    sysclone.call(int), sysclone.Context().call(int)
    start = __import__("threading").Thread.start
    def start_with_room(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
        start(self)
        resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
    __import__("threading").Thread.start = start_with_room
    """
    in_subprocess(NO_PIDS.format(before=before, act=act))


@requires("root")
def test_no_pids_for_a_zygote():
    """The zygote's RLIMIT_NPROC is met by the clone: EAGAIN at that call, the zygote serves on when it is raised."""
    with Zygote() as zygote:
        # As nobody's, which no privilege lifts over the limit.
        task = Context(uid=65531, gid=65531, groups=(), limits={"NPROC": (0, 100)})
        told = zygote.call_in(task, result_of, "clone")
        assert told == ("CloneError", 11)
        assert zygote.call(add, 1, 2) == 3


@contextmanager
def pids_cgroup(most):
    """A pids cgroup with so many places, in which a program can be started."""
    path = PIDS / f"sysclone-bad-luck-{os.getpid()}"
    path.mkdir()
    try:
        (path / "pids.max").write_text(str(most))
        yield path
    finally:
        deadline = time.monotonic() + SECONDS
        while (path / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        path.rmdir()


@requires("root", "pids_cgroup")
def test_a_full_pids_cgroup():
    """In a pids cgroup without a place left each kind's call, and a zygote's, fails by EAGAIN alone; with a place they run."""
    code = """
        import errno, os, sys
        from pathlib import Path
        import sysclone, executor_calls
        from sysclone import CloneError, Executor, Zygote
        group = Path(sys.argv[1])
        (group / "cgroup.procs").write_text(str(os.getpid()))
        zygote = Zygote()
        zygote.call(int)
        with Executor(1, kind="copied") as once, Executor(1, kind="light") as light:
            for executor in (once, light):
                assert executor.submit(abs, -5).result(20) == 5
            full = int((group / "pids.current").read_text())
            (group / "pids.max").write_text(str(full))
            for executor in (once,):
                error = executor.submit(abs, -5).exception(20)
                assert isinstance(error, CloneError) and error.errno == errno.EAGAIN, error
            try:
                zygote.call(int)
            except CloneError as error:
                assert error.errno == errno.EAGAIN, error
            else:
                raise SystemExit("not refused")
            (group / "pids.max").write_text(str(full + 4))
            for executor in (once, light):
                assert executor.submit(abs, -5).result(20) == 5
            assert zygote.call(len, "abc") == 3
        zygote.close()
    """
    with pids_cgroup(100) as path:
        in_subprocess(code, path)


# --- no fds


def test_no_fds_in_the_zygote():
    """A zygote whose table is full is an error of the calls that need room there, and of no others; nobody hangs."""
    with Zygote() as zygote:
        zygote.call(int)
        had = 5  # the standard streams, the socket, and a pidfd of its owner
        here = resource.prlimit(zygote.pid, resource.RLIMIT_NOFILE)
        fds = [os.memfd_create("x") for _ in range(300)]
        try:
            many = [sysclone.Descriptor(fd) for fd in fds]
            for room in (0, 3, 5, 7, 100, 254, 280):
                resource.prlimit(zygote.pid, resource.RLIMIT_NOFILE, (had + room, here[1]))
                with pytest.raises(CloneError, match="EMFILE") as caught:
                    zygote.call(len, many)
                assert "zygote" in caught.value.step
            deadline = time.monotonic() + SECONDS
            while len(os.listdir(f"/proc/{zygote.pid}/fd")) != had:
                assert time.monotonic() < deadline
                time.sleep(0.005)  # it answers before it closes what came
            resource.prlimit(zygote.pid, resource.RLIMIT_NOFILE, here)
            assert zygote.call(len, many) == 300
        finally:
            for fd in fds:
                os.close(fd)


def test_no_fds_in_a_warm_worker():
    """A worker that has used up its fds tells it of the calls whose data needs one, and goes on with those that do not."""
    for kind in ({"kind": "copied"}, FRESH):
        with Executor(1, tasks_per_worker=None, **kind) as executor:
            held = executor.submit(result_of, "fill fds").result(SECONDS)
            assert held > 10
            error = executor.submit(len, os.urandom(MIB)).exception(SECONDS)
            assert isinstance(error, ResultError)
            assert "no file descriptor" in str(error) or "EMFILE" in str(error)
            error = executor.submit(result_of, "much").exception(SECONDS)
            assert isinstance(error, ResultError)
            assert "EMFILE" in str(error)
            assert executor.submit(add, 1, 2).result(SECONDS) == 3
            assert executor.stats()["lost"] == 0


def test_no_fds_for_a_warm_executor():
    """With the caller's table full a call that needs a new worker, or a memfd, fails alone, and calls run again after."""
    in_subprocess("""
        import os, resource, sysclone
        from executor_calls import FRESH
        from helpers import full_table
        from sysclone import Executor
        resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))
        for kind in ({"kind": "copied"}, {"kind": "light"}, FRESH):
            with Executor(2, tasks_per_worker=None, **kind) as executor:
                assert executor.submit(abs, -5).result(20) == 5
                with full_table():
                    assert executor.submit(abs, -5).result(20) == 5  # by the worker that is there
                    if kind["kind"] != "light":
                        error = executor.submit(len, os.urandom(1 << 20)).exception(20)
                        assert isinstance(error, OSError) and error.errno == 24, error
                    other = sysclone.Context(nice=1, share=executor._options.context.share)
                    error = executor.options(context=other).submit(abs, -5).exception(20)
                    assert isinstance(error, OSError) and error.errno == 24, (kind, error)
                assert executor.submit(len, os.urandom(1 << 20)).result(20) == 1 << 20
    """)


# --- no memory


def test_a_light_calls_memory_is_refused():
    """The error says why it cannot be limited, by a watched RSS either."""
    for by in (None, "rss"):
        with pytest.raises(sysclone.ContextError, match="whole memory") as caught:
            Executor(1, kind="light", memory_bytes=64 * MIB, memory_by=by)
        assert caught.value.field == "memory_bytes"


@requires("memory_cgroup")
@apart
def test_a_result_that_the_memory_limit_does_not_hold(variant):
    """Where a cgroup's limit is what it exceeds, the kernel kills: the error names the limit; the next call runs."""
    with Executor(1, memory_bytes=64 * MIB, memory_by="cgroup", **variant) as executor:
        error = executor.submit(result_of, "larger").exception(SECONDS)
        assert isinstance(error, sysclone.TaskOverLimit)
        assert (error.limit, error.value) == ("memory_bytes", 64 * MIB)
        assert "cgroup" in error.enforced_by
        assert executor.submit(add, 1, 2).result(SECONDS) == 3


@apart
def test_a_result_larger_than_memory_is_refused(variant):
    """What the machine has no memory for is a ResultError that says how much there is, and the worker lives on."""
    with Executor(1, **variant) as executor:
        error = executor.submit(result_of, "no memory holds").exception(SECONDS)
        assert isinstance(error, ResultError)
        assert "available" in str(error)
        assert executor.submit(add, 1, 2).result(SECONDS) == 3
        assert executor.stats()["lost"] == 0


def test_a_limit_on_file_sizes_is_told():
    """RLIMIT_FSIZE keeps a memfd small: of an argument in the caller, of a result in the worker, EFBIG at that call alone."""
    in_subprocess("""
        import errno, os, resource, signal
        import sysclone, executor_calls
        from sysclone import Executor, ResultError, Zygote
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        with Executor(1, kind="copied", tasks_per_worker=None) as executor, Zygote() as zygote:
            assert executor.submit(abs, -5).result(20) == 5
            zygote.call(int)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
            for error in (
                executor.submit(len, bytes(4 << 20)).exception(20),
                executor_calls.error_of(zygote.call, len, bytes(4 << 20)),
            ):
                assert isinstance(error, OSError) and error.errno == errno.EFBIG, error
            assert executor.submit(abs, -5).result(20) == 5
            assert zygote.call(len, "abc") == 3
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            assert executor.submit(len, bytes(4 << 20)).result(20) == 4 << 20
    """)


# --- stopped and killed


@every_variant
def test_a_worker_that_is_stopped_can_be_cancelled(variant, tmp_path):
    """SIGSTOP keeps no call from its cancel(), and its place goes to the next."""
    with Executor(1, **variant) as executor:
        path = tmp_path / "pid"
        future = executor.submit(result_of, "say and never", str(path))
        while not path.exists():
            time.sleep(0.005)
        pid = int(path.read_text())
        os.kill(pid, signal.SIGSTOP)
        assert future.cancel()
        assert executor.submit(add, 1, 2).result(SECONDS) == 3
        assert not Path(f"/proc/{pid}").exists() or variant["kind"] == "light"


@apart
def test_every_worker_killed_at_once(variant, tmp_path):
    """Each call that ran fails by TaskKilled, those that waited are done. Not for light ones, which docs/limits.md tells of."""
    with Executor(3, **variant) as executor:
        paths = [tmp_path / str(i) for i in range(3)]
        running = [executor.submit(result_of, "say and never", str(path)) for path in paths]
        waiting = [executor.submit(add, i, 1) for i in range(20)]
        deadline = time.monotonic() + SECONDS
        while not all(path.exists() for path in paths):  # one that has not begun would go to another worker
            assert time.monotonic() < deadline
            time.sleep(0.005)
        for path in paths:
            os.kill(int(path.read_text()), signal.SIGKILL)
        assert all(isinstance(one.exception(SECONDS), TaskKilled) for one in running)
        assert [one.result(SECONDS) for one in waiting] == list(range(1, 21))


# --- recursion


@every_variant
def test_recursion(variant):
    """Without end it is a RecursionError of that call; too deep a result, a ResultError or the object; the next call runs."""
    with Executor(1, **variant) as executor:
        assert isinstance(executor.submit(recurses, 0).exception(SECONDS), RecursionError)
        deep = executor.submit(result_of, "deep")
        if variant["kind"] == "light":
            value = deep.result(SECONDS)
            while value:  # taken apart step by step: its end is recursive too
                value = value.pop()
        else:
            assert isinstance(deep.exception(SECONDS), (ResultError, TaskKilled))
        assert executor.submit(add, 1, 2).result(SECONDS) == 3


def test_recursion_in_an_argument(kept_zygote):
    """An argument too deep for pickle is named, for an Executor and a Zygote; nothing is started for it."""
    deep: list[object] = []
    for _ in range(50_000):
        deep = [deep]
    try:
        with pytest.raises(sysclone.ContextError, match=r"args\[0\]|recursion"):
            kept_zygote.call(len, deep)
        with Executor(1, kind="copied", tasks_per_worker=None) as executor:
            error = executor.submit(len, deep).exception(SECONDS)
            assert isinstance(error, ResultError)
            assert executor.submit(add, 1, 2).result(SECONDS) == 3
    finally:
        while deep:
            deep = deep.pop()


@pytest.fixture
def kept_zygote():
    """A zygote of the test's own."""
    with Zygote() as one:
        yield one


# --- preloading


PRELOADS = {
    "raises": ("raise RuntimeError('on purpose')", "RuntimeError: on purpose"),
    "exits": ("import os; os._exit(5)", "exited with 5"),
    "dies": ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
    "leaves a child that holds all": (
        "import os, time\nif os.fork(): os._exit(6)\nelse: time.sleep(2); os._exit(0)",
        "exited with 6",
    ),
}


@pytest.mark.parametrize(("body", "words"), PRELOADS.values(), ids=PRELOADS)
def test_a_preload_that_goes_wrong_is_each_calls_error(tmp_path, monkeypatch, body, words):
    """Every call fails by ZygoteError at once, those in the queue too, and shutdown does not wait for anything."""
    (tmp_path / "bad_luck_preload.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    with Executor(2, kind="fresh", preload=["bad_luck_preload"], tasks_per_worker=None) as executor:
        errors = [one.exception(SECONDS) for one in [executor.submit(abs, -1) for _ in range(3)]]
    assert all(isinstance(one, ZygoteError) and words in str(one) for one in errors), errors


# --- thousands


@every_variant
def test_thousands_cancelled_at_once(variant):
    """Five thousand calls from four threads, cancelled by four others: each has an end, and the executor its full width."""
    with Executor(2, **variant) as executor:
        futures: list[object] = []
        lock = threading.Lock()

        def submits():
            for _ in range(1250):
                one = executor.submit(never)
                with lock:
                    futures.append(one)

        def cancels():
            done = 0
            while done < 1250:
                with lock:
                    one = futures.pop() if futures else None
                if one is None:
                    time.sleep(0.0005)
                    continue
                assert one.cancel()
                done += 1

        threads = [threading.Thread(target=act) for act in (submits, cancels) * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert executor.stats()["cancelled"] == 5000
        pids = {executor.submit(whoami).result(SECONDS)[0] for _ in range(2)}
        assert pids
        assert executor.stats()["pending"] == 0


# --- the main module


MAIN = """
import sys
sys.modules["cloudpickle"] = None
import sysclone

def double(x):
    return 2 * x

{guard}
    with sysclone.Executor(1, kind="fresh", tasks_per_worker={tasks}) as executor:
        print(executor.submit(double, 4).result(20))
"""


@pytest.mark.parametrize("tasks", [1, None])
@pytest.mark.parametrize("guard", ["if True:", 'if __name__ == "__main__":'], ids=["without", "with"])
def test_a_main_module_with_and_without_its_guard(tmp_path, guard, tasks):
    """Without cloudpickle the task imports it: with its guard that works, and without it the error names the guard."""
    import subprocess

    from helpers import SOURCES

    path = tmp_path / "program.py"
    path.write_text(MAIN.format(guard=guard, tasks=tasks))
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=SECONDS, check=False,
        env=os.environ | {"PYTHONPATH": str(SOURCES)},
    )  # fmt: skip
    if guard == "if True:":
        assert done.returncode == 1
        assert "it needs the guard" in done.stderr
    else:
        assert (done.stdout, done.returncode) == ("8\n", 0), done.stderr
