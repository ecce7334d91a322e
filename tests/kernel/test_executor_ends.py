"""How an executor ends: shutdown, the end of the interpreter, Ctrl-C, a death of the program; and executors in executors."""

from __future__ import annotations

import concurrent.futures
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import pytest
from executor_calls import NAMES, VARIANTS, add, nested, waits
from features import requires
from helpers import SECONDS, SOURCES, ended, in_subprocess

from sysclone import Descriptor, Executor, _core


@pytest.fixture(params=VARIANTS, ids=NAMES)
def variant(request):
    """The keywords of an executor of each kind, with a process a call and with warm workers."""
    return request.param


def leave_by_an_exception(executor, futures):
    with executor:
        futures.append(executor.submit(time.sleep, 60))
        raise LookupError


def test_shutdown_waits_for_all_calls(variant):
    """Those that wait for their turn are done too."""
    executor = Executor(1, **variant)
    futures = [executor.submit(time.sleep, 0.01) for _ in range(5)]
    executor.shutdown()

    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(add, 1)


def test_shutdown_without_waiting(variant):
    """Returns at once; the calls are done all the same."""
    executor = Executor(1, **variant)
    futures = [executor.submit(time.sleep, 0.05) for _ in range(3)]
    executor.shutdown(wait=False)

    assert [future.result(SECONDS) for future in futures] == [None] * 3
    executor.shutdown()


def test_shutdown_can_cancel(variant):
    """cancel_futures drops what has not begun; cancel_running ends what has."""
    reads, writes = os.pipe()
    executor = Executor(1, **variant)
    first = executor.submit(waits, Descriptor(reads))
    rest = [executor.submit(add, 1) for _ in range(3)]
    while not first.running():
        time.sleep(0.001)
    writer = threading.Thread(target=lambda: (concurrent.futures.wait(rest, SECONDS), os.write(writes, b"x")))
    writer.start()
    executor.shutdown(cancel_futures=True)
    assert first.result(0) == b"x"
    assert all(future.cancelled() for future in rest)
    writer.join()
    os.close(reads)
    os.close(writes)

    executor = Executor(1, **variant)
    first = executor.submit(time.sleep, 60)
    executor.shutdown(cancel_running=True)
    assert first.cancelled()


def test_leaving_by_an_exception_ends_the_calls(variant):
    """The with block does not wait for a minute to pass an exception on."""
    futures = []
    begin = time.monotonic()
    with pytest.raises(LookupError):
        leave_by_an_exception(Executor(1, **variant), futures)
    (future,) = futures
    assert future.cancelled()
    assert time.monotonic() - begin < 30


def test_an_executor_that_is_let_go_of_ends(variant):
    """Without shutdown: when nobody has it any more, its calls are done and its thread ends."""
    executor = Executor(1, **variant)
    future = executor.submit(add, 1)
    thread = executor._manager.thread
    gone = weakref.ref(executor)
    del executor
    gc.collect()

    assert gone() is None
    assert future.result(SECONDS) == 1
    thread.join(SECONDS)
    assert not thread.is_alive()


def test_shutdown_from_a_callback(variant):
    """A callback may shut its executor down, and does not wait for itself."""
    done = threading.Event()
    executor = Executor(1, **variant)
    executor.submit(add, 1).add_done_callback(lambda _: (executor.shutdown(), done.set()))

    assert done.wait(SECONDS)
    executor.shutdown()


def test_executors_in_calls(variant):
    """A call may have an executor of its own, of any kind."""
    with Executor(2, **variant) as executor:
        for kind in ("light", "copied"):
            assert executor.submit(nested, kind).result(SECONDS) == (10, True)
    deadline = time.monotonic() + SECONDS
    while _core.reap_pending() and time.monotonic() < deadline:  # a thread of a light process ends after its function
        time.sleep(0.001)


def test_an_executor_belongs_to_its_process(variant):
    """A copy of the process is told so, and closes what is not its own."""
    with Executor(1, **variant) as executor:
        executor.submit(add, 1).result(SECONDS)
        with Executor(1, kind="copied") as other, pytest.raises(RuntimeError, match="belongs to process"):
            other.submit(executor.submit, add, 1).result(SECONDS)
        assert executor.submit(add, 1).result(SECONDS) == 1


# --- the end of the program

PROGRAMS = [("light", None), ("copied", 1), ("copied", None)]
PROGRAM = """
    import os, signal, sys, time
    from sysclone import Executor
    reads, writes = os.pipe()
    def never():
        print(os.getpid(), flush=True)
        os.write(writes, b".")
        while True:
            time.sleep(0.01)
    def later():
        time.sleep(0.2)
        print("done", flush=True)
"""


@pytest.mark.parametrize(("kind", "calls"), PROGRAMS)
def test_the_interpreter_waits_for_calls(kind, calls):
    """As for other executors, the end of the program waits for what was submitted."""
    out = in_subprocess(
        PROGRAM
        + f"""
    executor = Executor(1, kind={kind!r}, tasks_per_worker={calls})
    executor.submit(later)
    executor.submit(later)
    """
    )

    assert out == "done\ndone\n"


@pytest.mark.parametrize(("kind", "calls"), PROGRAMS)
def test_the_interpreter_may_end_the_calls(kind, calls):
    """at_exit="cancel": a call that never ends does not keep the program, nor outlive it."""
    out = in_subprocess(
        PROGRAM
        + f"""
    executor = Executor(1, kind={kind!r}, tasks_per_worker={calls}, at_exit="cancel")
    future = executor.submit(never)
    os.read(reads, 1)
    """
    )

    assert not os.path.exists(f"/proc/{int(out)}")


@pytest.mark.parametrize(("kind", "calls"), PROGRAMS)
@pytest.mark.parametrize("where", ["result", "exit"])
def test_ctrl_c_ends_the_program_and_its_calls(kind, calls, where):
    """While it waits for a result, or at its end for the calls: no hang, and no orphan."""
    code = textwrap.dedent(PROGRAM) + textwrap.dedent(f"""
        executor = Executor(1, kind={kind!r}, tasks_per_worker={calls})
        future = executor.submit(never)
        if {where!r} == "result":
            with executor:
                future.result()
    """)
    program = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        start_new_session=True,
    )
    with program:
        try:
            worker = os.pidfd_open(int(program.stdout.readline()))
            os.killpg(program.pid, signal.SIGINT)
            _, err = program.communicate(timeout=SECONDS)
        finally:
            program.kill()
    assert ended(worker)
    os.close(worker)
    assert "KeyboardInterrupt" in err
    assert program.returncode in (-signal.SIGINT, 0, 130)


@pytest.mark.parametrize(("kind", "calls"), PROGRAMS)
def test_a_program_that_is_killed_leaves_no_orphan(kind, calls):
    """SIGKILL to the program is the end of its calls, whatever they are at."""
    code = textwrap.dedent(PROGRAM) + f"Executor(1, kind={kind!r}, tasks_per_worker={calls}).submit(never).result()"
    program = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(SOURCES)}
    )
    with program:
        worker = os.pidfd_open(int(program.stdout.readline()))
        program.kill()
    assert ended(worker)
    os.close(worker)


def test_output_of_warm_workers_is_not_lost():
    """What a call prints into a pipe is there when its result is."""
    out = in_subprocess("""
        import os
        from sysclone import Executor
        with Executor(1, kind="copied", tasks_per_worker=None) as executor:
            executor.submit(print, "in the worker").result(20)
            print("here")
    """)

    assert out == "in the worker\nhere\n"


@requires("pids_cgroup")
def test_no_thread_for_the_manager_is_an_error():
    """Without a thread submit() fails, and leaves nothing behind."""
    in_subprocess("""
        import os
        from sysclone import Executor
        from sysclone.executor import _groups
        group = _groups.Group.make(None, 0)
        fd, = group.open()
        before = len(os.listdir("/proc/self/fd"))
        with Executor(1, kind="copied") as executor:
            os.write(fd, b"0")
            try:
                executor.submit(os.getpid)
            except RuntimeError as e:
                assert "thread" in str(e), e
            else:
                raise SystemExit("it was taken")
            assert len(os.listdir("/proc/self/fd")) == before
            root = group.directories[0][0].rpartition("/")[0]
            with open(root + "/cgroup.procs", "w") as f:
                f.write("0")
            assert executor.submit(os.getpid).result(20) != os.getpid()
        assert group.close()
    """)
