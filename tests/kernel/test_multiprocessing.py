"""multiprocessing and ProcessPoolExecutor over cloned and fresh processes."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import time

import pytest
from executor_calls import add, square, whoami
from features import requires
from helpers import SECONDS

import sysclone
from sysclone import Context, Namespace, Share
from sysclone.multiprocessing import get_context

pytestmark = pytest.mark.usefixtures("helpers_of_all")

METHODS = ("clone", "zygote")


def put(queue, value):
    queue.put((value, os.getpid(), os.getppid()))


def wait_for(event, lock):
    with lock:
        event.set()


def leave(code):
    raise SystemExit(code)


def test_a_process_is_this_ones_child(method):
    """Its target runs, its pid is told, and its exit code."""
    queue = method.Queue()
    process = method.Process(target=put, args=(queue, 5))
    process.start()
    assert queue.get(timeout=SECONDS) == (5, process.pid, os.getpid())
    process.join(SECONDS)
    assert process.exitcode == 0
    process.close()
    queue.close()
    queue.join_thread()


def test_exit_codes(method):
    """SystemExit's code, and minus the signal."""
    process = method.Process(target=leave, args=(7,))
    process.start()
    process.join(SECONDS)
    assert process.exitcode == 7
    process.close()
    process = method.Process(target=time.sleep, args=(60,))
    process.start()
    assert process.is_alive()
    process.terminate()
    process.join(SECONDS)
    assert process.exitcode == -signal.SIGTERM
    process.close()


def test_a_closure_needs_no_pickling():
    """A cloned process has the memory: its target may be anything."""
    method = get_context("clone")
    receive, send = method.Pipe(duplex=False)
    process = method.Process(target=lambda: send.send(os.getpid()))
    process.start()
    assert receive.recv() == process.pid
    process.join(SECONDS)
    process.close()
    receive.close()
    send.close()


def test_locks_and_events(method):
    """The synchronization primitives work across."""
    lock, event = method.Lock(), method.Event()
    with lock:
        process = method.Process(target=wait_for, args=(event, lock))
        process.start()
        assert not event.wait(0.05)
    assert event.wait(SECONDS)
    process.join(SECONDS)
    process.close()


def test_a_pool(method):
    """Pool's maps and errors."""
    with method.Pool(2) as pool:
        assert pool.map(square, range(20)) == [x * x for x in range(20)]
        with pytest.raises(TypeError):
            pool.apply(add, (1, "x"))
        pool.close()
        pool.join()


def test_a_process_pool_executor(method):
    """ProcessPoolExecutor takes it, with max_tasks_per_child too."""
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=method) as pool:
        assert list(pool.map(square, range(20))) == [x * x for x in range(20)]
        assert pool.submit(whoami).result(SECONDS)[1] == os.getpid()
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=method, max_tasks_per_child=1) as pool:
        assert len({pool.submit(os.getpid).result(SECONDS) for _ in range(3)}) == 3


def test_a_manager(method):
    """A manager's process serves objects."""
    with method.Manager() as manager:
        shared = manager.dict()
        process = method.Process(target=shared.update, args=({"a": 1},))
        process.start()
        process.join(SECONDS)
        assert dict(shared) == {"a": 1}
        process.close()


@requires("root", "net_namespaces")
def test_processes_in_a_context(method):
    """What the Context says is true of each of its processes."""
    other = get_context(method.get_start_method(), context=Context(new=Namespace.NET))
    here = os.readlink("/proc/self/ns/net")
    with other.Pool(1) as pool:
        assert pool.apply(os.readlink, ("/proc/self/ns/net",)) != here
        pool.close()
        pool.join()


def test_multiprocessing_knows_them_by_name():
    """multiprocessing.get_context() finds both."""
    assert [multiprocessing.get_context(name).get_start_method() for name in METHODS] == list(METHODS)


@pytest.mark.parametrize(
    ("arguments", "keywords", "field"),
    [
        (["spawn"], {}, "method"),
        (["clone"], {"context": Context.light()}, "context"),
        (["zygote"], {"context": Context(share=Share.FS)}, "share"),
    ],
)
def test_a_wrong_request_is_refused(arguments, keywords, field):
    """With the field that is wrong."""
    with pytest.raises(sysclone.ContextError) as caught:
        get_context(*arguments, **keywords)
    assert caught.value.field == field
