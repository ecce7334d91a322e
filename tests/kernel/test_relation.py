"""relation and why: pairs of real tasks, the flags that would make them, and the words for it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading

import pytest
from commandline import AS_NOBODY
from features import requires
from helpers import SOURCES, in_subprocess

from sysclone import Context, Namespace, Share, lowlevel, relation, why
from sysclone.lowlevel import Clone

pytestmark = requires("kcmp")


@pytest.fixture
def odd_thread():
    """The tid of a thread that has unshared its cwd."""
    ready, end = threading.Event(), threading.Event()

    def body():
        lowlevel.unshare(lowlevel.CLONE_FS)
        ready.set()
        end.wait()

    one = threading.Thread(target=body)
    one.start()
    assert ready.wait(20)
    yield one.native_id
    end.set()
    one.join()


@pytest.mark.parametrize(
    "share",
    [Share.VM, Share.FS, Share.FILES, Share.VM | Share.SIGHAND, Share.VM | Share.FS | Share.FILES, Share(0)],
    ids=str,
)
def test_the_flags_are_those_it_was_made_with(waiting, share):
    """What two tasks share, and the flags for such a pair, are those of the context, from either side."""
    task = waiting(Context(share=share, exit_signal=signal.SIGURG))
    pair = relation(os.getpid(), task.pid)
    back = relation(task.pid, os.getpid())

    assert pair.shared == back.shared == share
    assert pair.flags == back.flags == Clone(int(share))
    assert pair.creator == back.creator == os.getpid()
    assert pair.exit_signal == back.exit_signal == signal.SIGURG
    assert pair.unknown == Share(0)


def test_the_flags_make_such_a_pair(waiting):
    """A task that is made with the flags of a pair is related to its creator as that pair is."""
    first = relation(os.getpid(), waiting(Context(share=Share.VM | Share.FS | Share.SYSVSEM)).pid)
    again = relation(os.getpid(), waiting(Context(share=Share(int(first.flags)))).pid)

    assert (again.shared, again.flags) == (first.shared, first.flags)


def test_a_thread_and_its_process(odd_thread):
    """A thread that has unshared its cwd is of the same process, and shares all but that."""
    pair = relation(os.getpid(), odd_thread)

    assert pair.shared == Share.VM | Share.FILES | Share.SIGHAND | Share.SYSVSEM | Share.THREAD
    assert pair.flags == Clone.VM | Clone.FILES | Clone.SIGHAND | Clone.SYSVSEM | Clone.THREAD
    assert pair.exit_signal == 0


def test_siblings_share_with_each_other_or_with_their_parent(waiting):
    """Children that share what their parent shares too need no CLONE_PARENT; one that a sibling made for itself does."""
    one, other = waiting(Context.light()), waiting(Context.light())
    assert relation(one.pid, other.pid).flags == Clone.VM

    made, told = os.pipe()
    go_on, tell = os.pipe()

    def body():
        with Context(share=Share.FILES, parent="sibling").start(os.read, go_on, 1) as sibling:
            os.write(told, str(sibling.pid).encode())

    with Context().start(body) as creator:
        pid = int(os.read(made, 20))
        pair = relation(creator.pid, pid)
        os.write(tell, b"x")
        creator.result(20)
    os.waitid(os.P_PID, pid, os.WEXITED | 0x40000000) if os.path.exists(f"/proc/{pid}") else None
    for fd in (made, told, go_on, tell):
        os.close(fd)

    assert pair.shared == Share.FILES
    assert pair.flags == Clone.FILES | Clone.PARENT


@requires("root", "uts_namespaces")
def test_other_namespaces_are_new_ones(waiting):
    """Namespaces in which two tasks differ are flags to make them."""
    pair = relation(os.getpid(), waiting(Context(new=Namespace.UTS | Namespace.IPC)).pid)

    assert pair.other == Namespace.UTS | Namespace.IPC
    assert Namespace.NET in pair.same
    assert pair.flags == Clone.NEWUTS | Clone.NEWIPC


@requires("kernel_threads")
def test_two_nothings_are_no_sharing():
    """Two kernel threads have nothing, and so share nothing."""
    pair = relation(2, 3)

    assert pair.shared == Share(0)
    assert pair.nothing == Share.VM | Share.FILES | Share.FS | Share.SIGHAND | Share.IO | Share.SYSVSEM


def test_the_dead_share_nothing():
    """Two zombies share nothing, though kcmp calls their memories the same."""
    dead = [os.posix_spawn("/bin/true", ["true"], {}) for _ in range(2)]
    for pid in dead:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    pair = relation(*dead)
    same = lowlevel.kcmp(*dead, lowlevel.KCMP_VM, 0, 0)
    for pid in dead:
        os.waitpid(pid, 0)

    assert same == 0
    assert pair.shared == Share(0)
    assert Share.VM in pair.nothing


@requires("nobody")
def test_what_may_not_be_looked_at_is_unknown():
    """Nobody's relation to root's process is unknown in all but what nobody itself does not have."""
    code = "import sys; from sysclone import relation; print(*relation(int(sys.argv[1]), int(sys.argv[2])).as_dict().items())"
    becomes = [*AS_NOBODY, "sh", "-c", "echo; exec cat"]
    with subprocess.Popen(becomes, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as its:
        assert its.stdout.read(1) == b"\n"
        env = {**os.environ, "PYTHONPATH": str(SOURCES)}
        command = [*AS_NOBODY, sys.executable, "-c", code, str(os.getpid()), str(its.pid)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, env=env, cwd="/", check=False)
        its.communicate()

    assert (done.returncode, done.stderr) == (0, "")
    assert "('shared', []) ('nothing', [])" in done.stdout
    assert "('unknown', ['VM', 'FILES', 'FS', 'SIGHAND'])" in done.stdout


@requires("nobody")
def test_who_is_not_dumpable_still_knows_what_it_can():
    """A process that has given its privileges up tells its own memory and files, and calls the rest unknown if it must."""
    out = in_subprocess(
        """
        import os, threading
        from sysclone import Share, inspect
        os.setgroups([]), os.setresgid(65534, 65534, 65534), os.setresuid(65534, 65534, 65534)
        end = threading.Event()
        one = threading.Thread(target=end.wait)
        one.start()
        dead = os.posix_spawn("/bin/true", ["true"], {})
        os.waitid(os.P_PID, dead, os.WEXITED | os.WNOWAIT)
        seen = inspect(os.getpid())
        four = Share.VM | Share.FILES | Share.FS | Share.SIGHAND
        print(seen[one.native_id].shared & four == four)
        print(Share.VM in seen[dead].nothing | seen[dead].unknown, seen[dead].shared == 0)
        print(seen[one.native_id].shared_with(Share.VM) == (os.getpid(),))
        os.waitpid(dead, 0)
        end.set()
        """
    )

    assert out.split() == ["True"] * 4


def test_who_is_not_there():
    """A task that does not exist is a ProcessLookupError."""
    with pytest.raises(ProcessLookupError):
        relation(os.getpid(), 1 << 22)
    with pytest.raises(ProcessLookupError):
        why(1 << 22)


# --- in words


def test_why_of_threads(odd_thread):
    """A thread is told by its process, with what it has for itself and how that comes."""
    plain = threading.Event()
    one = threading.Thread(target=plain.wait)
    one.start()
    words = why(one.native_id)
    plain.set()
    one.join()

    assert re.fullmatch(rf"a thread of {os.getpid()} \(.*\)", words)
    assert why(odd_thread) == words + " except for its own cwd (CLONE_FS was not set or was unshared)"


def test_why_of_processes(waiting):
    """A process is told by its parent, with what it shares with it."""
    light, plain = waiting(Context.light()), waiting(Context())

    assert why(light.pid).startswith(f"a light process, a child of {os.getpid()} (")
    assert "with which it shares memory (CLONE_VM)" in why(light.pid)
    assert why(plain.pid).endswith("with which it shares nothing")
    assert f"it shares memory with its child {light.pid} (" in why(os.getpid())


def test_why_of_the_dead():
    """A zombie is told as one that nobody has waited for."""
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    words = why(pid)
    os.waitpid(pid, 0)

    assert words.startswith(f"a zombie: it has ended, and its parent {os.getpid()} (")


def test_why_of_a_programs_cwd():
    """A program that was started with the cwd of its creator is told so."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as usual:
        words = why(usual.pid)
        usual.communicate()
    from sysclone import Popen

    with Popen(["cat"], stdin=subprocess.PIPE, context=Context(share=Share.FS)) as sharing:
        told = why(sharing.pid)
        sharing.communicate()

    assert words.endswith("with which it shares nothing")
    assert told.endswith("with which it shares cwd (CLONE_FS)")
