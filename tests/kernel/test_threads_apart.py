"""Threads with a cwd, a file table or namespaces of their own, in a program that keeps its own."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from features import requires
from helpers import in_subprocess, shared

import sysclone
from sysclone import CloneError, ContextError, Namespace, Namespaces, Share, Thread, lowlevel, unshare_thread


def inode(name):
    return os.stat(f"/proc/thread-self/ns/{name}").st_ino


def program_umask():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1], 8) for line in file if line.startswith("Umask:"))


def run(target, **keywords):
    """What a target returns in a sysclone.Thread."""
    got = []
    thread = Thread(target=lambda: got.append(target()), **keywords)
    thread.start()
    thread.join()
    return got[0]


def test_a_thread_has_a_cwd_and_umask_of_its_own():
    """chdir and umask in it move nobody else; kcmp says that all else is the program's."""
    home = os.getcwd()

    def work():
        os.chdir("/usr")
        return os.getcwd(), os.umask(0o7), os.umask(0o7), shared(os.getpid(), lowlevel.gettid())

    cwd, _umask, own_umask, common = run(work)

    assert (cwd, own_umask) == ("/usr", 0o7)
    assert os.getcwd() == home
    assert own_umask != program_umask()
    assert {"VM", "FILES", "SIGHAND"} <= common
    assert "FS" not in common


@requires("kcmp")
def test_a_thread_has_a_file_table_of_its_own():
    """An fd that it closes stays open in the program, and one that it opens is not there."""
    reading, writing = os.pipe()

    def work():
        os.close(reading)
        return os.open("/dev/null", os.O_RDONLY), shared(os.getpid(), lowlevel.gettid())

    opened, common = run(work, own=Share.FILES)

    assert "FILES" not in common
    assert opened == reading
    os.write(writing, b"x")
    assert os.read(reading, 1) == b"x"
    os.close(reading)
    os.close(writing)


@requires("root", "net_namespaces", "uts_namespaces")
def test_a_thread_has_namespaces_of_its_own():
    """New ones, or joined ones; the program stays where it is."""
    before = inode("net"), inode("uts")

    with Namespaces.new(Namespace.UTS) as held:
        net, uts = run(lambda: (inode("net"), inode("uts")), new=Namespace.NET, join=held, loopback=True)
        assert uts == held.inode(Namespace.UTS)
    assert net != before[0]
    assert (inode("net"), inode("uts")) == before


@requires("root", "mount_namespaces")
def test_a_thread_joins_other_mounts():
    """With a cwd of its own a thread enters a mount namespace, which the program could not."""
    with Namespaces.new(Namespace.MOUNT) as held:
        assert run(lambda: inode("mnt"), join=held) == held.inode(Namespace.MOUNT)


@requires("nobody", "net_namespaces")
def test_a_refusal_is_raised_by_start():
    """Without privilege: start() raises, the target is not called, and the thread has ended."""
    in_subprocess(
        """
        import sysclone, threading
        called = []
        thread = sysclone.Thread(target=lambda: called.append(1), new=sysclone.Namespace.NET)
        try:
            thread.start()
        except PermissionError as error:
            assert error.step == "unshare(FS|NEWNET)", error.step
            assert "CAP_SYS_ADMIN" in str(error), error
        else:
            raise SystemExit("it was let")
        assert not thread.is_alive()
        assert not called
        assert threading.active_count() == 1
        """,
        as_nobody=True,
    )


def test_a_subclass_with_a_run_of_its_own_is_apart_before_it_runs():
    """run() of a subclass finds the thread's own cwd."""

    class Mover(Thread):
        def run(self):
            os.chdir("/")
            self.cwd = os.getcwd()

    home = os.getcwd()
    mover = Mover()
    mover.start()
    mover.join()

    assert (mover.cwd, os.getcwd()) == ("/", home)


def test_what_a_thread_cannot_have_alone_is_refused():
    """Memory, handlers and user namespaces: told at once, with what can have them."""
    for keywords, field in (
        ({"own": Share.VM}, "own"),
        ({"own": Share.FS | Share.SIGHAND}, "own"),
        ({"new": Namespace.USER}, "new"),
        ({"loopback": True}, "loopback"),
    ):
        with pytest.raises(ContextError) as caught:
            Thread(target=int, **keywords)
        assert caught.value.field == field
    with Namespaces(mount="/proc/self/ns/mnt") as held, pytest.raises(ContextError, match="FS"):
        unshare_thread(Share(0), join=held)


def test_workers_of_an_executor_are_apart():
    """As an initializer: each worker has a cwd of its own."""
    home, together = os.getcwd(), threading.Barrier(2)

    def work(directory):
        os.chdir(directory)
        together.wait(10)
        return os.getcwd()

    with ThreadPoolExecutor(2, initializer=unshare_thread) as executor:
        assert list(executor.map(work, ["/usr", "/etc"])) == ["/usr", "/etc"]
    assert os.getcwd() == home


def test_tasks_are_where_the_thread_is_that_starts_them():
    """Light processes, helpers and threads begin where their thread is, and the program's stay where it is."""
    home = os.getcwd()

    def work():
        os.chdir("/usr")
        inner = []
        thread = threading.Thread(target=lambda: inner.append(sysclone.start(os.getcwd).result()))
        thread.start()
        thread.join()
        return sysclone.call(os.getcwd), sysclone.start(os.getcwd).result(), sysclone.Context().call(os.getcwd), *inner

    assert sysclone.start(os.getcwd).result() == home
    assert run(work) == ("/usr",) * 4
    assert sysclone.start(os.getcwd).result() == home
    assert [sysclone.start(os.getcwd).result() for _ in range(20)] == [home] * 20


def test_a_thread_is_started_once_and_may_be_a_daemon():
    """As of threading.Thread: a second start is refused, name and daemon are kept, arguments are passed."""
    got = []
    thread = Thread(None, lambda *a, **k: got.append((a, k)), "mine", (1,), {"x": 2}, daemon=True)
    assert (thread.name, thread.daemon) == ("mine", True)
    thread.start()
    thread.join()
    assert got == [((1,), {"x": 2})]
    with pytest.raises(RuntimeError):
        thread.start()
    assert issubclass(CloneError, OSError)
