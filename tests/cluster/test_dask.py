"""Dask: annotated tasks in processes of their own, on a LocalCluster and on two hosts with networks of their own."""

from __future__ import annotations

import concurrent.futures
import json
import logging
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import dask_calls
import pytest
from features import requires
from helpers import SECONDS, SOURCES, TESTS

import sysclone

pytestmark = [
    requires("dask"),
    # Dask's own: sockets that its end leaves to the garbage collector, and pickles of tornado's.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.leaves("fds", "threads", "children", "mappings"),
]

MIB = 1 << 20


@pytest.fixture(scope="module")
def client():
    """A cluster of two worker processes that have the plugin."""
    import distributed

    import sysclone.dask

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(SOURCES), str(TESTS)])
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=logging.CRITICAL
    )
    with cluster, distributed.Client(cluster) as one:
        one.register_plugin(sysclone.dask.WorkerPlugin(timeout=10, memory_bytes=200 * MIB))
        yield one
    del os.environ["PYTHONPATH"]


@pytest.fixture
def annotated(client):
    """submit() of the client's, to our executor."""
    import dask

    def submit(fn, *args):
        with dask.annotate(executor="sysclone"):
            return client.submit(fn, *args, pure=False, retries=0)

    return submit


def test_a_task_runs_in_a_process_of_its_workers(client, annotated):
    """Its parent is a worker, and it has the worker's data."""
    workers = set(client.run(os.getpid).values())
    data = client.scatter(list(range(100)))

    assert annotated(dask_calls.parent).result(SECONDS) in workers
    assert annotated(sum, data).result(SECONDS) == 4950


def test_what_a_task_does_harms_itself_alone(client, annotated):
    """Leaked fds, another cwd, memory, a crash, an exit: the workers keep their pids, fds, cwd and data."""
    data = client.scatter([1, 2, 3], hash=False)  # not the keys of another test's, which may be released only now
    pids, before = client.run(os.getpid), client.run(dask_calls.holdings)

    assert annotated(dask_calls.leaks_and_moves).result(SECONDS) == 300
    for fn, args, kind in (
        (dask_calls.eats, (800 * MIB,), (sysclone.TaskOverLimit, MemoryError)),
        (dask_calls.crashes, (), sysclone.TaskKilled),
        (os._exit, (3,), sysclone.TaskExited),
    ):
        assert isinstance(annotated(fn, *args).exception(SECONDS), kind)

    assert client.run(os.getpid) == pids
    after = client.run(dask_calls.holdings)
    assert {worker: cwd for worker, (cwd, _) in after.items()} == {worker: cwd for worker, (cwd, _) in before.items()}
    assert all(after[worker][1] <= before[worker][1] + 5 for worker in after)
    assert client.submit(sum, data).result(SECONDS) == 6


def test_a_task_that_runs_can_be_cancelled(client, annotated, tmp_path):
    """Its process is ended on the worker, and the worker takes the next task."""
    path = tmp_path / "pid"
    futures = [annotated(dask_calls.say_and_never, str(path) + str(i)) for i in range(2)]
    pids = [await_pid(Path(f"{path}{i}")) for i in range(2)]
    client.cancel(futures, force=True)

    assert annotated(dask_calls.parent).result(SECONDS)
    deadline = time.monotonic() + SECONDS
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def await_pid(path):
    """The pid that a task on a worker leaves in a file."""
    deadline = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return int(path.read_text())


def test_concurrent_futures_on_a_cluster(client, tmp_path):
    """sysclone.dask.Executor: results, deaths with their reasons, time limits, and cancel() of what runs."""
    from sysclone.dask import Executor

    with Executor(client, timeout=2) as executor:
        assert list(executor.map(pow, [1, 2, 3], [2, 2, 2])) == [1, 4, 9]
        assert isinstance(executor.submit(dask_calls.crashes).exception(SECONDS), sysclone.TaskKilled)
        assert isinstance(executor.submit(dask_calls.never).exception(SECONDS), sysclone.TaskTimeout)
    with Executor(client) as executor:
        running = executor.submit(dask_calls.say_and_never, str(tmp_path / "pid"))
        pid = await_pid(tmp_path / "pid")
        assert running.cancel()
        assert executor.submit(abs, -1).result(SECONDS) == 1
        with pytest.raises(concurrent.futures.CancelledError):
            running.result(0)
        deadline = time.monotonic() + SECONDS
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, 1)


@requires("root", "pid_namespaces", "net_namespaces")
def test_each_call_is_in_a_context_of_its_own(client):
    """On every worker a call is alone: the first process of its pid namespace, without the worker's network."""
    from sysclone.dask import Executor

    own = set(client.run(os.readlink, "/proc/self/ns/net").values())
    isolated = sysclone.Context(new=sysclone.Namespace.PID | sysclone.Namespace.NET)
    with Executor(client, context=isolated) as executor:
        assert list(executor.map(dask_calls.alone, range(4))) == [1] * 4
        assert executor.submit(os.readlink, "/proc/self/ns/net").result(SECONDS) not in own


def test_wrong_options_are_known_at_once():
    """Before anything is sent to a worker."""
    from sysclone.dask import WorkerPlugin

    with pytest.raises(sysclone.ContextError):
        WorkerPlugin(memory_bytes=1)


CLIENT = """
    import json, os, sys, dask, distributed, dask_calls
    import sysclone, sysclone.dask
    with distributed.Client(sys.argv[1], timeout=20) as client:
        client.wait_for_workers(2, timeout=20)
        client.register_plugin(sysclone.dask.WorkerPlugin(timeout=1, memory_bytes=200 << 20))
        workers = sorted(client.scheduler_info()["workers"])
        data = client.scatter([1, 2, 3], broadcast=True)
        pids, before = client.run(os.getpid), client.run(dask_calls.holdings)
        told = {}
        with dask.annotate(executor="sysclone"):
            for address in workers:
                def submit(fn, *args):
                    return client.submit(fn, *args, workers=[address], pure=False, retries=0)
                told[address] = [
                    submit(os.readlink, "/proc/self/ns/net").result(20),
                    submit(dask_calls.leaks_and_moves).result(20),
                    type(submit(dask_calls.eats, 800 << 20).exception(20)).__name__,
                    type(submit(dask_calls.crashes).exception(20)).__name__,
                    type(submit(dask_calls.never).exception(20)).__name__,
                    type(submit(os._exit, 3).exception(20)).__name__,
                    submit(sum, data).result(20),
                ]
        after = client.run(dask_calls.holdings)
        same = [
            client.run(os.getpid) == pids,
            all(after[one][0] == before[one][0] for one in after),
            all(after[one][1] <= before[one][1] + 5 for one in after),
            client.submit(sum, data).result(20),
        ]
        print(json.dumps([told, same]))
"""


@requires("root", "net_namespaces", "ip_netns")
def test_workers_on_two_hosts(tmp_path):
    """Two network namespaces joined by a cable, a worker started by hand in each: no task harms its worker."""
    hosts = [f"sc{os.getpid()}a", f"sc{os.getpid()}b"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCES), str(TESTS)])}
    programs = []

    def start(host, *command):
        program = subprocess.Popen(
            ["ip", "netns", "exec", host, sys.executable, "-W", "ignore", *command],
            env=env,
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        programs.append(program)

    def ip(*arguments):
        subprocess.run(["ip", *arguments], check=True, timeout=SECONDS)

    made = []
    try:
        for host in hosts:
            ip("netns", "add", host)
            made.append(host)
        ip("-n", hosts[0], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", hosts[1])
        for number, host in enumerate(hosts, 1):
            ip("-n", host, "link", "set", "lo", "up")
            ip("-n", host, "addr", "add", f"10.99.7.{number}/24", "dev", "eth0")
            ip("-n", host, "link", "set", "eth0", "up")
        start(
            hosts[0], "-m", "distributed.cli.dask_scheduler", "--host", "10.99.7.1", "--port", "8786", "--no-dashboard"
        )
        for number, host in enumerate(hosts, 1):
            start(
                host, "-m", "distributed.cli.dask_worker", "tcp://10.99.7.1:8786", "--host", f"10.99.7.{number}",
                "--no-nanny", "--nthreads", "1", "--no-dashboard", "--name", host,
            )  # fmt: skip
        done = subprocess.run(
            ["ip", "netns", "exec", hosts[0], sys.executable, "-W", "ignore", "-c", textwrap.dedent(CLIENT), "tcp://10.99.7.1:8786"],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )  # fmt: skip
    finally:
        for program in programs:
            program.kill()
            program.wait()
        for host in made:
            ip("netns", "delete", host)

    assert done.returncode == 0, done.stderr[-2000:]
    told, same = json.loads(done.stdout)
    assert [address.rpartition(":")[0] for address in told] == ["tcp://10.99.7.1", "tcp://10.99.7.2"]
    assert len({answers[0] for answers in told.values()}) == 2
    for _, leaked, ate, crashed, never, left, summed in told.values():
        assert (leaked, crashed, never, left, summed) == (300, "TaskKilled", "TaskTimeout", "TaskExited", 6)
        assert ate in ("TaskOverLimit", "MemoryError")
    assert same == [True, True, True, 6]
