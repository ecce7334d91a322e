"""inspect: the share groups and attributes of real tasks of every kind, against kcmp, inodes and /proc itself."""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commandline import AS_NOBODY
from features import requires
from helpers import KCMP, in_subprocess, shared

import sysclone
from sysclone import Answer, Context, Namespace, Share, inspect, lowlevel
from sysclone._inspect.sharing import RESOURCES
from sysclone.cli._sysv import Semaphore

pytestmark = requires("kcmp")

CLEARED = Context(clear_signal_handlers=True)


@pytest.fixture
def thread() -> Iterator[Callable[..., int]]:
    """Starts threads, gives their tids, and ends them with the test."""
    end = threading.Event()
    threads = []

    def start(first: Callable[[], object] = int) -> int:
        ready = threading.Event()

        def body() -> None:
            first()
            ready.set()
            end.wait()

        one = threading.Thread(target=body)
        one.start()
        threads.append(one)
        assert ready.wait(20)
        assert one.native_id is not None
        return one.native_id

    yield start
    end.set()
    for one in threads:
        one.join()


def named(what: Share) -> set[str]:
    """A set of resources by kcmp's names."""
    return {name for name in KCMP if Share[name] & what}


def threads_now() -> set[int]:
    """The threads of this process, by /proc."""
    return set(map(int, os.listdir("/proc/self/task")))


# --- sharing


@pytest.mark.parametrize(
    "share",
    [
        Share.VM,
        Share.FS,
        Share.FILES,
        Share.SYSVSEM,
        Share.VM | Share.SIGHAND,
        Share.VM | Share.FILES | Share.FS,
        Share.VM | Share.FILES | Share.FS | Share.SIGHAND | Share.SYSVSEM,
        Share(0),
    ],
    ids=str,
)
def test_what_a_task_shares_is_what_its_context_says(waiting, share):
    """With whatever it was made to share, the task and its creator are of one group, and with the rest they are not."""
    task = waiting(Context(share=share))
    seen = inspect()
    mine, its = seen[os.getpid()], seen[task.pid]

    for resource in RESOURCES:
        assert (task.pid in mine.group(resource)) == bool(resource & share), resource
    assert named(its.shared) == shared(os.getpid(), task.pid) - named(its.nothing)


def test_an_io_context_is_shared_where_there_is_one():
    """CLONE_IO shares an I/O context that exists; without any, creator and child both have nothing, and share nothing."""
    out = in_subprocess(
        """
        import os
        from sysclone import Answer, Context, Share, inspect
        from sysclone.cli._sysv import set_io_priority
        go_on, tell = os.pipe()
        def look():
            with Context(share=Share.IO).start(os.read, go_on, 1) as task:
                seen = inspect([os.getpid()])
                print(*(seen[pid].group(Share.IO).answer.name for pid in (os.getpid(), task.pid)),
                      task.pid in seen[os.getpid()].group(Share.IO))
                os.write(tell, b"x")
        look()
        set_io_priority(5)
        look()
        print(inspect([os.getpid()])[os.getpid()].group(Share.IO).answer.name)
        """
    )

    assert out.splitlines() == ["NOTHING NOTHING False", "SHARED SHARED True", "ALONE"]


@requires("sysv_semaphores")
def test_undo_lists_are_told_apart(waiting):
    """Who has used SEM_UNDO has an undo list to itself, who has not has none, and a shared one is one."""
    with Semaphore() as semaphore:
        with_one, with_another = (waiting(Context(), lambda: semaphore.add(1)) for _ in range(2))
        without, sharing = waiting(Context()), waiting(Context(share=Share.SYSVSEM))
        seen = inspect([os.getpid()])

    answers = [seen[task.pid].group(Share.SYSVSEM).answer for task in (with_one, with_another, without, sharing)]
    assert answers == [Answer.ALONE, Answer.ALONE, Answer.NOTHING, Answer.SHARED]


def test_threads_share_everything_but_what_they_unshared(thread):
    """A thread shares what pthread_create shares, and another that has unshared its cwd and files all but those."""
    plain, odd = thread(), thread(lambda: lowlevel.unshare(lowlevel.CLONE_FS | lowlevel.CLONE_FILES))
    before = threads_now()
    seen = inspect([os.getpid()])
    after = threads_now()
    everything = Share.VM | Share.FILES | Share.FS | Share.SIGHAND | Share.SYSVSEM

    assert seen[plain].shared == everything | Share.THREAD
    assert seen[odd].shared == (everything | Share.THREAD) & ~(Share.FS | Share.FILES)
    assert seen[odd].alone == Share.FS | Share.FILES
    assert {plain, odd, os.getpid()} <= set(seen[odd].group(Share.VM).tids)
    # An idle helper of an earlier test's may end meanwhile.
    assert before & after <= set(seen[plain].group(Share.THREAD).tids) <= before | after


def test_groups_are_those_of_kcmp_between_each_two(waiting, thread):
    """Of tasks of many kinds at once, each two are in one group exactly where kcmp says 0 and neither has nothing."""
    tids = [os.getpid(), thread(), thread(lambda: lowlevel.unshare(lowlevel.CLONE_FS))]
    shares = (Share.VM, Share.VM | Share.FS, Share.VM | Share.FILES, Share.VM | Share.SIGHAND | Share.SYSVSEM)
    tids += [waiting(Context(share=share)).pid for share in shares]
    seen = inspect()

    for a, b in itertools.combinations(tids, 2):
        both = {name for name in KCMP if b in seen[a].group(Share[name])}
        nothing = named(seen[a].nothing & seen[b].nothing)
        assert both | nothing == shared(a, b)
        assert both & nothing == set()


def test_each_group_lists_its_members_once():
    """The groups of a whole system are disjoint for each resource, and each member names its group."""
    seen = inspect()

    for resource in (*RESOURCES, Share.THREAD):
        tids = [tid for group in seen.groups if group.resource is resource for tid in group.tids]
        assert len(tids) == len(set(tids))
    for group in seen.groups:
        assert len(group.tids) > 1
        assert [tid for tid in group.tids if tid in seen and seen[tid].group(group.resource) is not group] == []


# --- nothing


@requires("kernel_threads")
def test_kernel_threads_have_nothing():
    """Kernel threads are known as such, have none of a program's resources, and are in no group."""
    seen = inspect()
    threads = [task for task in seen if task.kernel_thread]

    assert {task.ppid for task in threads} == {0, 2}
    assert {task.shared | task.alone & ~Share.THREAD for task in threads} == {Share(0)}
    assert {2, 3} & {tid for group in seen.groups for tid in group.tids} == set()


def test_zombies_have_nothing(waiting):
    """Two children that have ended have no memory, files, cwd, I/O context or undo list, and so share none."""
    dead = [os.posix_spawn("/bin/true", ["true"], {}) for _ in range(2)]
    for pid in dead:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    seen = inspect([os.getpid()])
    for pid in dead:
        os.waitpid(pid, 0)

    for pid in dead:
        assert seen[pid].is_zombie
        assert seen[pid].nothing == Share.VM | Share.FILES | Share.FS | Share.IO | Share.SYSVSEM
        assert seen[pid].shared == Share(0)
        assert Namespace.NET not in seen[pid].namespaces


def test_a_process_whose_first_thread_is_dead():
    """The threads that live on share with each other, and nothing with the dead first one, which has nothing."""
    out = in_subprocess(
        """
        import os, subprocess, sys
        source = '''
        #include <pthread.h>
        #include <unistd.h>
        static void *body(void *p) { pause(); return p; }
        int main(void) {
            pthread_t t;
            for (int i = 0; i < 2; i++) pthread_create(&t, 0, body, 0);
            pthread_exit(0);
        }'''
        import tempfile, textwrap
        from sysclone import Share, inspect
        with tempfile.TemporaryDirectory() as folder:
            path = folder + "/dead"
            subprocess.run(["gcc", "-pthread", "-x", "c", "-o", path, "-"], input=textwrap.dedent(source), text=True, check=True)
            with subprocess.Popen([path]) as program:
                while True:
                    seen = inspect([program.pid])
                    tasks = list(seen)
                    if len(tasks) == 3 and tasks[0].is_zombie:
                        break
                print(tasks[0].shared == Share.SIGHAND | Share.THREAD, bool(tasks[0].nothing & Share.VM))
                print([set(task.shared_with(Share.VM)) == {t.tid for t in tasks[1:]} - {task.tid} for task in tasks[1:]])
                program.kill()
        """
    )

    assert out.splitlines() == ["True True", "[True, True]"]


# --- not allowed


NOBODY = """
import os, sys
from sysclone import Answer, Share, inspect
seen = inspect(int(sys.argv[1]))
task = seen[int(sys.argv[1])]
print({group.answer.name for group in task.groups[:-1]}, set(task.inodes), task.tid in seen.unknown)
me = inspect(os.getpid())[os.getpid()]
print(me.group(Share.VM).answer.name, me.uid)
print(any(task.tid in group for group in seen.groups if group.resource is not Share.THREAD))
"""


@requires("nobody")
def test_what_may_not_be_looked_at_is_said():
    """To nobody, root's process is not alone and not sharing: it may not be looked at; and its own is told as ever."""
    env = {**os.environ, "PYTHONPATH": str(Path(sysclone.__file__).parents[1])}
    command = [*AS_NOBODY, sys.executable, "-c", NOBODY, str(os.getpid())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, env=env, cwd="/", check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["{'NOT_ALLOWED'} {None} True", "ALONE 65534", "False"]


# --- who is looked at


def test_descendants_come_along(waiting):
    """A look at some processes has them, their threads and their descendants, and nobody else."""
    child = waiting(Context())
    other = waiting(Context())
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as sibling:
        seen = inspect(child.pid)
        both = inspect([child.pid, other.pid])
        mine = inspect(os.getpid())
        sibling.communicate()

    assert [task.tid for task in seen] == [child.pid]
    assert {task.pid for task in both} == {child.pid, other.pid}
    assert {os.getpid(), child.pid, other.pid, sibling.pid} <= {task.pid for task in mine}
    assert all(task.pid == os.getpid() or task.ppid == os.getpid() for task in mine)


def test_sharing_with_those_outside_is_told(waiting):
    """A task that is looked at alone is not called alone where it shares with one that was not asked for."""
    task = waiting(Context.light())
    seen = inspect(task.pid)

    assert len(seen) == 1
    assert os.getpid() in seen[task.pid].shared_with(Share.VM)


def test_a_thread_stands_for_its_process(thread):
    """The id of a thread is taken for its process."""
    tid = thread()

    assert os.getpid() in inspect(tid)


@pytest.mark.parametrize("pid", [1 << 22, 0, -1])
def test_who_is_not_there_is_an_error(pid):
    """A process that does not exist is a ProcessLookupError."""
    with pytest.raises(ProcessLookupError, match=str(pid)):
        inspect(pid)


# --- what else is told

FILTERED = """
import ctypes
allow = (ctypes.c_ulong * 1)(0x7FFF000000000006)
program = (ctypes.c_ulong * 2)(1, ctypes.addressof(allow))
libc = ctypes.CDLL(None)
libc.prctl(38, 1, 0, 0, 0)
print(libc.prctl(22, 2, program), flush=True)
input()
"""


def test_attributes_are_those_of_proc(waiting):
    """Name, parent, exit signal, user and ids are those of the task."""
    task = waiting(Context(exit_signal=signal.SIGURG, clear_signal_handlers=True))
    silent = waiting(Context(exit_signal=0))
    seen = inspect(os.getpid())
    one = seen[task.pid]

    assert (one.pid, one.tid, one.ppid) == (task.pid, task.pid, os.getpid())
    assert (one.exit_signal, seen[silent.pid].exit_signal) == (signal.SIGURG, 0)
    assert one.name == Path(f"/proc/{task.pid}/comm").read_text().strip()
    assert one.command == tuple(Path(f"/proc/{task.pid}/cmdline").read_text().split("\0")[:-1])
    assert one.uid == os.geteuid()
    assert one.pids[0] == task.pid
    assert not one.is_thread


def test_the_exit_signal_of_a_thread_is_none(thread):
    """Nobody is told of a thread's end."""
    tid = thread()

    assert inspect(os.getpid())[tid].exit_signal is None


def test_privileges_are_told(waiting):
    """no_new_privs is the task's own, and told."""
    libc = ctypes.CDLL(None)
    task = waiting(Context(), lambda: libc.prctl(38, 1, 0, 0, 0))
    seen = inspect(os.getpid())

    assert (seen[task.pid].no_new_privs, seen[os.getpid()].no_new_privs) == (True, False)
    assert seen[os.getpid()].seccomp == "off"


def test_a_seccomp_filter_is_told():
    """A process with a filter has one, and its creator has none."""
    with subprocess.Popen([sys.executable, "-c", FILTERED], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"0\n"
        seen = inspect(os.getpid())
        program.communicate()

    assert (seen[program.pid].seccomp, seen[os.getpid()].seccomp) == ("filter", "off")


@requires("root", "uts_namespaces")
def test_namespaces_are_inodes(waiting):
    """Each namespace is told by its inode, and a new one differs from the creator's."""
    task = waiting(Context(new=Namespace.UTS | Namespace.IPC))
    seen = inspect(os.getpid())
    mine, its = seen[os.getpid()].namespaces, seen[task.pid].namespaces
    files = {Namespace.UTS: "uts", Namespace.MOUNT: "mnt", Namespace.USER: "user", Namespace.CGROUP: "cgroup"}

    assert {kind for kind in mine if mine[kind] != its[kind]} == {Namespace.UTS, Namespace.IPC}
    for kind, name in files.items():
        assert its[kind] == os.stat(f"/proc/{task.pid}/ns/{name}").st_ino


@requires("root", "pid_namespaces", "time_namespaces")
def test_namespaces_for_children(waiting):
    """Where the children will be in another pid or time namespace, that is told, and only there."""
    flags = lowlevel.CLONE_NEWPID | lowlevel.CLONE_NEWTIME
    task = waiting(Context(), lambda: lowlevel.unshare(flags))
    seen = inspect(os.getpid())
    found = seen[task.pid].namespaces_for_children

    assert seen[os.getpid()].namespaces_for_children == {}
    # Until its first process is there, the new pid namespace has no name yet.
    assert set(found) <= {Namespace.PID, Namespace.TIME}
    assert found[Namespace.TIME] == os.stat(f"/proc/{task.pid}/ns/time_for_children").st_ino


@requires("cgroup2")
def test_the_cgroup_is_told(waiting, tmp_path):
    """A task that was born in a cgroup has its path there."""
    from features import cgroup_mount

    mount = cgroup_mount("cgroup2")
    assert mount is not None
    folder = mount / f"inspect-{os.getpid()}"
    folder.mkdir()
    try:
        with Context(cgroup=folder).start(signal.pause) as task:
            seen = inspect(task.pid)
            task.cancel()
            path = seen[task.pid].cgroup
            with pytest.raises(sysclone.TaskFailed):
                task.result()
    finally:
        folder.rmdir()

    assert path is not None
    assert path.endswith(folder.name)


# --- what it does not do


def test_nothing_of_a_look_can_be_changed():
    """An inspection, its tasks and groups are immutable."""
    seen = inspect(os.getpid())

    with pytest.raises(AttributeError):
        seen.calls = 0
    with pytest.raises(AttributeError):
        seen[os.getpid()].pid = 1
    with pytest.raises(AttributeError):
        seen[os.getpid()].group(Share.VM).tids = ()


def test_the_look_leaves_no_trace():
    """No SIGCHLD comes of it, waitpid(-1) finds nobody afterwards, and it works where SIGCHLD is ignored."""
    out = in_subprocess(
        """
        import os, signal
        from sysclone import inspect
        got = []
        signal.signal(signal.SIGCHLD, lambda *_: got.append(1))
        for _ in range(20):
            inspect(os.getpid())
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            print("no child", got)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        print(len(inspect(os.getpid())))
        """
    )

    assert out.splitlines() == ["no child []", "1"]


def test_it_works_everywhere(waiting, thread):
    """In a light process, and in several threads at once, a look tells the same."""
    task = waiting(Context.light())
    inside = sysclone.call(lambda: (os.getpid(), inspect(task.pid)[task.pid].shared_with(Share.VM)))
    found = []
    threads = [threading.Thread(target=lambda: found.append(inspect(task.pid)[task.pid].shared)) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()

    assert inside[0] in inside[1]
    assert os.getpid() in inside[1]
    assert found == [Share.VM] * 4
