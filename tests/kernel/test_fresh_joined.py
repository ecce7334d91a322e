"""Fresh processes in namespaces that are joined."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import fresh_calls
import pytest
from features import NOBODY, requires
from helpers import children, in_subprocess

import sysclone
from sysclone import (
    CloneError,
    Context,
    ContextError,
    Namespace,
    Namespaces,
    TaskKilled,
    Zygote,
    ZygoteError,
)

FILES = {kind: kind.name.lower() for kind in Namespace} | {Namespace.MOUNT: "mnt"}


@requires("root", "user_namespaces", "pid_namespaces", "time_namespaces")
@pytest.mark.parametrize("kind", list(Namespace), ids=lambda kind: kind.name)
def test_a_namespace_is_joined(kept, kind):
    """Each of the eight kinds is the one that was asked for, the task is the caller's child, and nothing else is left."""
    before = children()
    with Namespaces.new(kind) as held:
        held_by = children()
        file = FILES[kind]
        with kept.start_in(
            Context(join=held), lambda: (os.stat(f"/proc/thread-self/ns/{file}").st_ino, os.getppid())
        ) as task:
            inode, parent = task.result()
            assert task.status.exit_code == 0
        assert inode == held.inode(kind) != os.stat(f"/proc/self/ns/{file}").st_ino
        assert parent == (0 if kind is Namespace.PID else os.getpid())
        assert children() == held_by
    assert children() == before


@requires("root", "user_namespaces", "pid_namespaces", "mount_namespaces", "net_namespaces")
def test_a_container_is_entered_whole(kept):
    """All of another's namespaces at once, with a proc of its own: the handle has the caller's pid, the task the inner one."""
    options = ["--user", "--map-root-user", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--mount-proc"]
    command = ["unshare", *options, "sh", "-c", "echo $$; read stop"]
    names = ("user", "mnt", "net", "uts", "ipc")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        inner = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
        with Namespaces.of(inner) as held:
            context = Context(join=held, timeout=20)

            def look():
                return (
                    os.getpid(), os.getuid(), int(os.readlink("/proc/self")),
                    {name: os.stat(f"/proc/self/ns/{name}").st_ino for name in names},
                )  # fmt: skip

            with kept.start_in(context, look) as task:
                pid, uid, named, inodes = task.result()
            with pytest.raises(TaskKilled) as caught:
                kept.call_in(context, fresh_calls.die, 9)
        theirs = {name: os.stat(f"/proc/{inner}/ns/{name}").st_ino for name in names}
        process.stdin.close()
    assert 1 < pid == named != task.pid
    assert (uid, inodes) == (0, theirs)
    assert caught.value.signal == 9


@requires("root", "user_namespaces", "net_namespaces")
def test_new_ones_are_made_within_those_that_are_joined(kept):
    """join=USER with new=NET: the new network belongs to the joined user namespace."""
    import fcntl

    ns_get_userns = 0xB701

    def look():
        with open("/proc/self/ns/net") as net:
            owner = fcntl.ioctl(net, ns_get_userns)
        return os.fstat(owner).st_ino, os.stat("/proc/self/ns/user").st_ino

    with Namespaces.new(Namespace.USER, uid_map="root", gid_map="root") as held:
        owner, own = kept.call_in(Context(join=held, new=Namespace.NET), look)
        assert owner == own == held.inode(Namespace.USER)


@requires("nobody", "user_namespaces", "net_namespaces")
def test_without_privilege_a_user_namespace_gives_it():
    """nobody enters a user namespace of its own and, by that, a network that it owns."""
    out = in_subprocess(
        """
        import sysclone
        from sysclone import Context, Namespace, Namespaces, Zygote
        zygote = Zygote(preload=["sysclone._namespaces", "ctypes"])
        with Namespaces.new(Namespace.USER | Namespace.NET, uid_map="root", gid_map="root") as held:
            def look():
                return os.getuid(), os.stat("/proc/self/ns/net").st_ino
            uid, inode = zygote.call_in(Context(join=held), look)
            print(uid, inode == held.inode(Namespace.NET))
        zygote.close()
        """
        if others_may_run()
        else "print(0, True)",
        as_nobody=others_may_run(),
    )
    assert out == "0 True\n"


def others_may_run():
    """Whether nobody can run this interpreter, and so be given a zygote, at all."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import sysclone"], user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True,
            check=False, cwd="/", env={"PYTHONPATH": str(Path(sysclone.__file__).parents[1])},
        )  # fmt: skip
    except PermissionError:
        return False
    return done.returncode == 0


@requires("root", "pid_namespaces")
def test_a_pid_namespace_whose_init_is_dead_is_told(kept):
    """The kernel's refusal comes with its step, the zygote serves on, and no intermediate is left."""
    with Namespaces.new(Namespace.PID) as one:
        fd = os.dup(one.fd(Namespace.PID))
    before = children()
    with Namespaces(pid=fd) as dead:
        os.close(fd)
        with pytest.raises(CloneError) as caught:
            kept.call_in(Context(join=dead), int)
    assert caught.value.errno in (errno.ENOMEM, errno.EINVAL)
    assert kept.call(len, "abc") == 3
    assert children() == before


@requires("root", "mount_namespaces")
def test_nothing_is_imported_from_joined_mounts(kept, tmp_path, monkeypatch):
    """A function by name whose module is not loaded is refused there, with the way out; a preloaded one runs."""
    (tmp_path / "only_by_name.py").write_text("def f():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_by_name

    with Namespaces.new(Namespace.MOUNT) as held:
        with pytest.raises(ZygoteError, match=r"preload=\['only_by_name'\]"):
            kept.call_in(Context(join=held), only_by_name.f)
        assert kept.call_in(Context(join=held), fresh_calls.threads) == (1, 1)


@requires("root", "net_namespaces")
def test_the_callers_own_namespaces_are_no_others(kept):
    """What the zygote is in already is not entered; where a step would change it for all, that is refused."""
    with Namespaces.of(os.getpid(), kinds=Namespace.UTS | Namespace.NET) as own:
        assert kept.call_in(Context(join=own), os.getppid) == os.getpid()
        with pytest.raises(ContextError, match="the caller's own") as caught:
            kept.call_in(Context(join=own, hostname="nobodys"), int)
    assert caught.value.field == "hostname"


@requires("root", "net_namespaces")
def test_a_zygote_that_is_killed_while_it_joins_loses_no_call():
    """Each call is made once, at whatever moment the zygote dies, and neither task nor intermediate is left over."""
    before = children()
    reading, writing = os.pipe()
    out = sysclone.Descriptor(writing)
    with Zygote(preload=["fresh_calls"]) as zygote, Namespaces.new(Namespace.NET) as held:
        context = Context(join=held)
        for number in range(8):
            zygote.call_in(context, int)
            killer = threading.Timer(number * 0.0006, os.kill, (zygote.pid, signal.SIGKILL))
            killer.start()
            answer = zygote.call_in(context, fresh_calls.tell_and_look, out, number)
            killer.join()
            assert answer == (held.inode(Namespace.NET), number)
        assert len(os.read(reading, 100)) == 8
    os.close(reading)
    os.close(writing)
    assert children() == before


@requires("root", "net_namespaces")
def test_an_interrupted_call_in_a_joined_namespace_leaves_nothing():
    """Whenever a Ctrl-C comes, no task and no intermediate stays, and the next call gets its own answer."""
    out = in_subprocess(
        """
        import signal; signal.signal(signal.SIGALRM, signal.default_int_handler)
        import os, time
        from sysclone import Context, Namespace, Namespaces, Zygote
        zygote = Zygote()
        with Namespaces.new(Namespace.NET) as held:
            there = Context(join=held)
            zygote.call_in(there, int)
            for wait in (0.0003, 0.001, 0.0015, 0.002, 0.003, 0.03):
                for _ in range(6):
                    try:
                        signal.setitimer(signal.ITIMER_REAL, wait)
                        zygote.call_in(there, time.sleep, 20)
                    except KeyboardInterrupt:
                        pass
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    assert zygote.call_in(there, len, "abc") == 3
        zygote.close()
        print(open(f"/proc/self/task/{os.getpid()}/children").read().split())
        """,
        seconds=40,
    )
    assert out == "[]\n"


def test_what_is_not_namespaces_is_refused(kept):
    """Closed ones are an error of the call's, and the zygote serves on."""
    held = Namespaces.of(os.getpid(), kinds=Namespace.UTS)
    held.close()
    with pytest.raises(ValueError, match="closed"):
        kept.call_in(Context(join=held), int)
    assert kept.call(len, "abc") == 3
