"""Executor: calls in light and copied processes, one a process or one after the other, that can be ended at any time."""

from __future__ import annotations

import concurrent.futures
import contextlib
import copy
import gc
import os
import pickle
import signal
import sys
import threading
import time

import pytest
from executor_calls import (
    FRESH,
    NAMES,
    VARIANTS,
    Nowhere,
    add,
    blocks,
    fails,
    makes_a_lock,
    never,
    raises_awkward,
    tells_and_waits,
    whoami,
)
from helpers import SECONDS, ended, state

import sysclone
from sysclone import Context, Descriptor, Executor, Share

KINDS = ("light", "copied", "fresh")


@pytest.fixture(params=VARIANTS, ids=NAMES)
def executor(request):
    """An executor of each kind, with a process a call and with warm workers, two at once."""
    with Executor(2, **request.param) as one:
        yield one


@pytest.fixture(params=[1, None], ids=["once", "warm"])
def copied(request):
    """An executor of copied processes."""
    with Executor(2, kind="copied", tasks_per_worker=request.param) as one:
        yield one


@contextlib.contextmanager
def running(executor, **options):
    """A call that is known to run: its future and its pidfd."""
    reads, writes = os.pipe()
    try:
        future = executor.options(**options).submit(blocks, Descriptor(writes))
        pidfd = os.pidfd_open(int.from_bytes(os.read(reads, 4), "little"))
    finally:
        os.close(reads)
    try:
        yield future, pidfd
    finally:
        os.close(pidfd)
        os.close(writes)


# --- calls


def test_a_call_runs_in_a_process_of_its_own(executor):
    """The function has another pid, and this process is its parent."""
    pid, parent = executor.submit(whoami).result(SECONDS)

    assert pid != os.getpid()
    assert parent == os.getpid()


def test_results_and_errors_come_back(executor):
    """What the function returns and what it raises are the future's."""
    assert executor.submit(add, 1, b=2).result(SECONDS) == 3
    with pytest.raises(LookupError, match="not there"):
        executor.submit(fails).result(SECONDS)


def test_a_fresh_process_for_each_call():
    """Its own child, with nothing of this program's; a lambda crosses by value; errors, limits and cancel as elsewhere."""
    with Executor(2, **FRESH) as executor:
        pid, parent = executor.submit(whoami).result(SECONDS)
        assert (pid != os.getpid(), parent) == (True, os.getpid())
        assert executor.submit(lambda: "test_executor" in sys.modules).result(SECONDS) is False
        assert "in fails" in str(executor.submit(fails).exception(SECONDS).__cause__)
        with running(executor, timeout=0.8) as (future, pidfd):
            assert isinstance(future.exception(SECONDS), sysclone.TaskTimeout)
            assert ended(pidfd)
        assert list(executor.map(add, range(6), chunksize=3)) == list(range(6))
        assert isinstance(executor.submit(signal.raise_signal, 9).exception(SECONDS), sysclone.TaskKilled)


def test_a_zygote_that_dies_is_replaced():
    """The executor goes on with another zygote."""
    with Executor(1, **FRESH) as executor:
        executor.submit(add, 1).result(SECONDS)
        os.kill(executor._manager.zygote.pid, signal.SIGKILL)
        assert executor.submit(add, 2).result(SECONDS) == 2


def test_a_preload_that_raises_is_the_calls_error():
    """With the traceback of the module."""
    with Executor(1, kind="fresh", preload=["no_such_module"]) as executor:
        error = executor.submit(add, 1).exception(SECONDS)

    assert isinstance(error, sysclone.ZygoteError)
    assert "no_such_module" in str(error)


def test_a_copied_call_brings_its_traceback(copied):
    """The traceback of the other process is the cause."""
    error = copied.submit(fails).exception(SECONDS)

    assert "in fails" in str(error.__cause__)


def test_a_light_call_shares_objects():
    """A light call gives the very object, and the error the very traceback."""
    thing = object()
    with Executor(1, kind="light") as executor:
        assert executor.submit(lambda: thing).result(SECONDS) is thing
        error = executor.submit(fails).exception(SECONDS)

    names = []
    tb = error.__traceback__
    while tb is not None:
        names.append(tb.tb_frame.f_code.co_name)
        tb = tb.tb_next
    assert names[-1] == "fails"


def test_warm_workers_are_used_again():
    """Warm workers serve call after call; with tasks_per_worker a process serves so many."""
    for kind in KINDS:
        with Executor(1, kind=kind, tasks_per_worker=None) as executor:
            pids = {executor.submit(os.getpid).result(SECONDS) for _ in range(5)}
            assert len(pids) == 1
        with Executor(1, kind=kind, tasks_per_worker=2) as executor:
            pids = [executor.submit(os.getpid).result(SECONDS) for _ in range(5)]
            assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [2, 2, 1]


def test_never_more_processes_than_workers(executor):
    """Calls wait for their turn when all places are taken."""
    with running(executor) as (first, _), running(executor) as (second, _):
        third = executor.submit(add, 1)
        assert not third.running()
        assert executor.stats()["busy"] == 2
        first.cancel()
        assert third.result(SECONDS) == 1
        second.cancel()


def test_every_callback_runs_and_a_slow_one_delays_no_limit(executor):
    """Callbacks may take their time: limits are kept meanwhile."""
    go = threading.Event()
    slow = executor.submit(add, 1)
    slow.add_done_callback(lambda _: go.wait(SECONDS))
    late = executor.options(timeout=0.05).submit(never)

    assert isinstance(late.exception(SECONDS), TimeoutError)
    go.set()


def test_submitting_from_a_callback(executor):
    """A callback may submit and even wait for the result."""
    seen = concurrent.futures.Future()
    executor.submit(add, 1).add_done_callback(
        lambda f: seen.set_result(executor.submit(add, f.result(), 1).result(SECONDS))
    )

    assert seen.result(SECONDS) == 2


# --- ends


def test_a_running_call_can_be_cancelled(executor):
    """cancel() of a running call is true: its process is gone, its waiters wake, its callbacks run."""
    called = []
    with running(executor) as (future, pidfd):
        future.add_done_callback(called.append)
        waiter = concurrent.futures.Future()
        threading.Thread(target=lambda: waiter.set_result(concurrent.futures.wait([future], SECONDS))).start()
        assert future.running()
        assert future.cancel()
        assert future.cancelled()
        assert called == [future]
        assert waiter.result(SECONDS).done == {future}
        assert ended(pidfd)
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(0)
    assert executor.submit(add, 1).result(SECONDS) == 1


def test_a_waiting_call_can_be_cancelled(executor):
    """A call that has not begun never does."""
    ran = []
    with running(executor) as (one, _), running(executor) as (two, _):
        third = executor.submit(ran.append, 1) if executor.kind == "light" else executor.submit(add, 1)
        assert third.cancel()
        assert list(concurrent.futures.as_completed([third], SECONDS)) == [third]
        one.cancel()
        two.cancel()
    executor.submit(add, 1).result(SECONDS)
    assert ran == []


def test_a_finished_call_cannot_be_cancelled(executor):
    """cancel() after the end is false and changes nothing."""
    future = executor.submit(add, 1)
    future.result(SECONDS)

    assert not future.cancel()
    assert future.result(0) == 1


def test_a_thousand_calls_cancelled_at_once(executor):
    """Running and waiting ones together: all are cancelled, and the executor goes on at full width."""
    futures = [executor.submit(never) for _ in range(1000)]
    for future in futures:
        assert future.cancel()

    assert all(future.cancelled() for future in futures)
    with running(executor) as (one, _), running(executor) as (two, _):
        one.cancel()
        two.cancel()


def test_a_time_limit_ends_the_process(executor):
    """A call that never ends is ended, soon after its time, and the error says so."""
    with running(executor, timeout=0.8) as (future, pidfd):
        error = future.exception(SECONDS)
        assert ended(pidfd)

    assert isinstance(error, sysclone.TaskTimeout)
    assert error.seconds == 0.8
    assert not error.still_running
    assert executor.submit(add, 1).result(SECONDS) == 1


def test_a_time_limit_counts_from_the_beginning_of_the_call():
    """The time that a call waits for its turn is not its own."""
    with Executor(1, kind="copied", tasks_per_worker=None) as executor:
        first = executor.submit(time.sleep, 1.2)
        second = executor.options(timeout=1.0).submit(add, 1)
        assert first.result(SECONDS) is None
        assert second.result(SECONDS) == 1


def test_a_context_brings_its_time_limit():
    """A Context's own timeout is the calls' timeout, unless another is given."""
    with Executor(1, context=Context(timeout=0.05)) as executor:
        assert executor.kind == "copied"
        assert isinstance(executor.submit(never).exception(SECONDS), TimeoutError)
        assert executor.options(timeout=None).submit(time.sleep, 0.1).result(SECONDS) is None


@pytest.mark.parametrize("sig", [signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM])
def test_a_killed_call_says_which_signal(copied, sig):
    """Only that call fails, by TaskKilled with the signal's name."""
    others = [copied.submit(time.sleep, 0.05) for _ in range(3)]
    error = copied.submit(signal.raise_signal, sig).exception(SECONDS)

    assert isinstance(error, sysclone.TaskKilled)
    assert error.signal == sig
    assert sig.name in str(error)
    assert [other.result(SECONDS) for other in others] == [None] * 3


def test_a_light_call_that_is_signalled_says_so():
    """A SIGTERM to a light process is its call's end."""
    with Executor(1, kind="light") as executor:
        error = executor.submit(lambda: os.kill(os.getpid(), signal.SIGTERM)).exception(SECONDS)
        assert executor.submit(add, 1).result(SECONDS) == 1

    assert isinstance(error, sysclone.TaskKilled)
    assert error.signal == signal.SIGTERM


@pytest.mark.parametrize("leave", [sys.exit, os._exit])
def test_a_call_that_exits_says_with_what(executor, leave):
    """sys.exit and os._exit are that call's end, and no other's."""
    error = executor.submit(leave, 7).exception(SECONDS)

    assert isinstance(error, sysclone.TaskExited)
    assert error.exit_code == 7
    assert executor.submit(add, 1).result(SECONDS) == 1


def test_an_idle_worker_that_is_killed_costs_no_call():
    """A call that a dying worker has not begun goes to another."""
    with Executor(1, kind="copied", tasks_per_worker=None) as executor:
        for _ in range(5):
            os.kill(executor.submit(os.getpid).result(SECONDS), signal.SIGKILL)
            assert executor.submit(add, 1).result(SECONDS) == 1
        assert executor.stats()["lost"] == 5


def test_a_stopped_worker_is_ended_in_time_and_told_of():
    """SIGSTOP keeps no call from its time limit; the error says that the process was stopped."""
    with Executor(1, kind="copied", tasks_per_worker=None) as executor:
        pid = executor.submit(os.getpid).result(SECONDS)
        os.kill(pid, signal.SIGSTOP)
        error = executor.options(timeout=0.1).submit(add, 1).exception(SECONDS)
        assert "stopped by a signal" in error.__notes__[0]
        assert executor.submit(add, 1).result(SECONDS) == 1
        assert state(pid) == ""


@pytest.mark.parametrize("kind", ["copied", "fresh"])
def test_a_time_limit_holds_while_the_executor_is_held_up(tmp_path, kind):
    """The kernel ends a warm worker whose call is over its time, if the executor's thread cannot; and that is told as ever."""
    told, gate = str(tmp_path / "told"), str(tmp_path / "gate")
    os.mkfifo(told)
    os.mkfifo(gate)
    with Executor(1, **(FRESH if kind == "fresh" else {"kind": kind}), tasks_per_worker=None) as executor:
        future = executor.options(timeout=0.2).submit(tells_and_waits, told, gate)
        with open(told, "rb", buffering=0) as f:
            pidfd = os.pidfd_open(int.from_bytes(f.read(4), "little"))
        with executor._manager._lock:
            assert ended(pidfd)
        with pytest.raises(TimeoutError, match=r"0\.2"):
            future.result(SECONDS)
        assert executor.submit(add, 1).result(SECONDS) == 1
    os.close(pidfd)


def test_a_time_limit_ends_with_its_call():
    """What the worker runs afterwards has no limit."""
    with Executor(1, kind="copied", tasks_per_worker=None) as executor:
        pid = executor.options(timeout=0.1).submit(os.getpid).result(SECONDS)
        assert list(executor.options(timeout=0.1).map(add, range(5))) == list(range(5))
        assert executor.submit(time.sleep, 0.3).result(SECONDS) is None
        assert executor.submit(os.getpid).result(SECONDS) == pid


def test_what_a_call_started_ends_with_it(copied):
    """The processes that a cancelled call has started are ended too."""
    reads, writes = os.pipe()
    code = "import os, sys, time; os.write(int(sys.argv[1]), os.getpid().to_bytes(4, 'little')); time.sleep(60)"

    def starts():
        import subprocess

        subprocess.run([sys.executable, "-c", code, str(writes)], pass_fds=[writes], check=False)

    with Executor(1, kind="copied") as executor:
        future = executor.submit(starts)
        grandchild = os.pidfd_open(int.from_bytes(os.read(reads, 4), "little"))
        future.cancel()
        assert ended(grandchild)
    for fd in (reads, writes, grandchild):
        os.close(fd)


# --- what cannot cross


def test_an_argument_that_cannot_be_pickled_is_named():
    """The error names the object, and the path to it."""
    with Executor(1, kind="copied", tasks_per_worker=None) as executor:
        error = executor.submit(add, {"x": [1, threading.Lock()]}).exception(SECONDS)

    assert isinstance(error, sysclone.ResultError)
    assert "lock" in str(error)
    assert "['x'][1]" in str(error)


def test_a_result_that_cannot_be_pickled_is_named(copied):
    """The worker lives on, and the error names the result's part."""
    error = copied.submit(makes_a_lock).exception(SECONDS)

    assert isinstance(error, sysclone.ResultError)
    assert "return value" in str(error)
    assert ".lock" in str(error)
    assert copied.submit(add, 1).result(SECONDS) == 1


def test_an_exception_that_cannot_be_unpickled_is_told_in_words(copied):
    """Its name and traceback come as text."""
    error = copied.submit(raises_awkward).exception(SECONDS)

    assert isinstance(error, sysclone.ResultError)
    assert "Awkward" in str(error)
    assert "in raises_awkward" in str(error)
    assert copied.submit(add, 1).result(SECONDS) == 1


def test_large_data_crosses(copied):
    """Arguments and results of megabytes, in the pickle and out of band."""
    large = bytes(range(256)) * 20_000
    assert copied.submit(add, large, b"!").result(SECONDS) == large + b"!"
    got = copied.submit(bytearray, large).result(SECONDS)
    assert got == large
    got[0] = 7
    view = copied.submit(memoryview, large).result(SECONDS)
    assert view == large


def test_a_function_that_came_after_the_worker_is_found():
    """A worker that was copied before a module was loaded hands the call to a new one."""
    module = type(sys)("made_late")
    with Executor(1, kind="copied", tasks_per_worker=None) as executor:
        first = executor.submit(os.getpid).result(SECONDS)
        exec("import os\ndef f(): return os.getpid()", module.__dict__)
        sys.modules["made_late"] = module
        try:
            assert executor.submit(module.f).result(SECONDS) != first
        finally:
            del sys.modules["made_late"]


def test_a_function_that_nobody_finds_is_an_error():
    """A name that leads nowhere in any worker is told of, and does not start workers for ever."""
    with Executor(1, kind="copied", tasks_per_worker=None) as executor:
        error = executor.submit(add, Nowhere()).exception(SECONDS)
        assert isinstance(error, sysclone.ResultError)
        assert "made_never" in str(error)
        assert executor.stats()["started"] < 6


def test_a_worker_that_loses_its_socket_is_replaced():
    """A function that closes every fd fails alone."""
    with Executor(1, kind="copied", tasks_per_worker=None) as executor:
        error = executor.submit(os.closerange, 3, 200).exception(SECONDS)
        assert isinstance(error, sysclone.ResultError)
        assert "socket" in str(error)
        assert executor.submit(add, 1).result(SECONDS) == 1


# --- requests that are wrong


@pytest.mark.parametrize(
    ("keywords", "field"),
    [
        ({"max_workers": 0}, "max_workers"),
        ({"kind": "heavy"}, "kind"),
        ({"tasks_per_worker": -1}, "tasks_per_worker"),
        ({"timeout": 0}, "timeout"),
        ({"kind": "light", "memory_bytes": 1 << 30}, "memory_bytes"),
        ({"kind": "copied", "memory_bytes": 1}, "memory_bytes"),
        ({"memory_by": "prayer"}, "memory_by"),
        ({"cpu_seconds": -1}, "cpu_seconds"),
        ({"files": 1.5}, "files"),
        ({"kind": "light", "context": Context()}, "context"),
        ({"kind": "copied", "context": Context.light()}, "context"),
        ({"context": Context.thread()}, "context"),
        ({"context": Context(parent="sibling")}, "context"),
        ({"context": Context(share=Share.FILES), "tasks_per_worker": None}, "context"),
        ({"at_exit": "hope"}, "at_exit"),
        ({"kind": "copied", "preload": ["json"]}, "preload"),
        ({"kind": "fresh", "preload": "json"}, "preload"),
        ({"kind": "fresh", "preload": [5]}, "preload"),
        ({"kind": "light", "memory_by": "rss"}, "memory_by"),
        ({"context": {"timeout": 5}}, "context"),
        ({"kind": "fresh", "context": Context(share=Share.FS)}, "share"),
    ],
)
def test_a_wrong_request_is_refused(keywords, field):
    """Nothing is started, and the error names the field."""
    with pytest.raises(sysclone.ContextError) as caught:
        Executor(**keywords)

    assert caught.value.field == field


def test_options_are_held_to_what_the_executor_is_held_to():
    """A warm worker gets no file table of others by its call's context either."""
    with Executor(1, tasks_per_worker=None) as executor:
        with pytest.raises(sysclone.ContextError, match="file table") as caught:
            executor.options(context=Context.light().replace(share=Share.VM | Share.FILES))
        assert caught.value.field == "context"
        bound = executor.options(timeout=2)
        assert "timeout=2.0" in repr(bound) and "kind='light'" in repr(bound)


def test_an_executor_is_not_copied():
    """The copy's end would be the end of the executor itself; the error says what to do."""
    with Executor(1) as executor:
        for one in (executor, executor.options(timeout=2)):
            for copied in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(TypeError, match="makes its own"):
                    copied(one)
        gc.collect()
        assert executor.submit(add, 1).result(SECONDS) == 1


@pytest.mark.parametrize("calls", [1, None], ids=["once", "warm"])
@pytest.mark.parametrize("kind", ["copied", "fresh"])
def test_an_environment_of_its_own(kind, calls, monkeypatch):
    """By the context; without, a fresh process has that of its zygote's start, and a copied one that of its own."""
    with Executor(1, kind=kind, tasks_per_worker=calls) as executor:
        assert executor.submit(os.getenv, "OF_THE_MOMENT").result(SECONDS) is None
        own = executor.options(context=Context(environment={**os.environ, "OF_THE_MOMENT": "own"}))
        assert own.submit(os.getenv, "OF_THE_MOMENT").result(SECONDS) == "own"
        monkeypatch.setenv("OF_THE_MOMENT", "later")
        later = executor.submit(os.getenv, "OF_THE_MOMENT").result(SECONDS)
        assert later == (None if kind == "fresh" else "later")


def test_an_unknown_option_is_refused():
    """options() takes the limits alone."""
    with Executor(1) as executor, pytest.raises(TypeError, match="max_workers"):
        executor.options(max_workers=3)
