"""Functions and programs in other namespaces, and namespaces held by fd."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from features import requires
from helpers import SECONDS, alone_with, ended, in_subprocess

import sysclone
from sysclone import CloneError, Context, ContextError, Namespace, Namespaces, Share, _core, lowlevel

LIGHT = Share.VM
NAMES = {
    Namespace.USER: "user",
    Namespace.MOUNT: "mnt",
    Namespace.PID: "pid",
    Namespace.NET: "net",
    Namespace.UTS: "uts",
    Namespace.IPC: "ipc",
    Namespace.CGROUP: "cgroup",
    Namespace.TIME: "time",
}
ALL = [
    pytest.param(
        kind, marks=requires("time_namespaces" if kind is Namespace.TIME else f"{kind.name.lower()}_namespaces")
    )
    for kind in NAMES
]


def inode(name):
    return os.stat(f"/proc/thread-self/ns/{name}").st_ino


@contextlib.contextmanager
def elsewhere(*unshare_options):
    """A process of unshare(1)'s in namespaces of its own, ready when it has said so: its pid."""
    command = ["unshare", *unshare_options, "sh", "-c", "echo $$; read stop"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        yield process.pid if "--fork" not in unshare_options else only_child(process.pid)
        process.stdin.close()


def only_child(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return int(file.read().split()[0])


@contextlib.contextmanager
def a_busy_thread():
    """A program with threads: what setns(user) and setns(mnt) are refused for."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    yield
    stop.set()
    thread.join()


# --- join


@requires("root")
@pytest.mark.parametrize("kind", ALL)
def test_a_function_is_in_the_namespace_that_it_joins(kind):
    """Each of the eight kinds, from a program with threads; the creator's own is what it was."""
    share = LIGHT if kind is not Namespace.TIME else Share(0)
    before = inode(NAMES[kind])
    with a_busy_thread(), Namespaces.new(kind) as held:
        context = Context(share=share, join=held)

        assert context.call(inode, NAMES[kind]) == held.inode(kind) != before
        assert context.start(inode, NAMES[kind]).result() == held.inode(kind)
    assert inode(NAMES[kind]) == before


@requires("root", "user_namespaces", "pid_namespaces", "mount_namespaces", "net_namespaces")
def test_a_container_is_entered_whole_and_objects_come_back():
    """All of another's namespaces at once: the function is there by every count, and returns the very object."""
    basket = []

    def look():
        basket.append("seen")
        return basket, os.getpid(), os.getuid(), {name: inode(name) for name in ("user", "mnt", "net", "uts", "ipc")}

    options = ["--user", "--map-root-user", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--mount-proc"]
    with a_busy_thread(), elsewhere(*options) as pid, Namespaces.of(pid) as held:
        task = Context(share=LIGHT, join=held).start(look)
        got, inner_pid, uid, inodes = task.result()
        task.close()
        theirs = {name: os.stat(f"/proc/{pid}/ns/{name}").st_ino for name in inodes}

    assert got is basket
    assert basket == ["seen"]
    assert (inner_pid > 1, inner_pid != task.pid, uid) == (True, True, 0)
    assert inodes == theirs


@requires("root", "net_namespaces")
def test_a_socket_comes_out_of_another_network():
    """With the file table shared, a socket made in there is open here, and stays in its network."""
    with Namespaces.new(Namespace.NET, loopback=True) as held:
        inside = Context(share=LIGHT | Share.FILES, join=held)
        with inside.call(socket.create_server, ("127.0.0.1", 0)) as server:
            address = server.getsockname()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
            with inside.call(socket.create_connection, address) as client, server.accept()[0] as accepted:
                client.sendall(b"x")

                assert accepted.recv(1) == b"x"


@requires("root", "net_namespaces")
@pytest.mark.parametrize("share", [LIGHT, Share(0)], ids=["light", "copied"])
def test_loopback_is_up_by_choice(share):
    """A new network has 127.0.0.1 with loopback=True, and nothing without."""

    def talk():
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
            return client.getpeername()[0]

    assert Context(share=share, new=Namespace.NET, loopback=True).call(talk) == "127.0.0.1"
    with pytest.raises(OSError, match=r"unreachable|Cannot assign"):
        Context(share=share, new=Namespace.NET).call(talk)


@requires("root", "mount_namespaces")
def test_a_file_comes_out_of_other_mounts(tmp_path):
    """With the file table shared, a file that only another mount namespace has is read here."""
    script = f"mount -t tmpfs none {tmp_path} && echo hidden > {tmp_path}/file && exec sh -c 'echo ready; read stop'"
    command = ["unshare", "--mount", "sh", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        held = Namespaces.of(process.pid, kinds=Namespace.MOUNT)
        with held, Context(share=LIGHT | Share.FILES, join=held).call(open, tmp_path / "file") as file:
            text = file.read()
        process.stdin.close()

    assert text == "hidden\n"
    assert not (tmp_path / "file").exists()


@requires("root", "pid_namespaces", "net_namespaces")
def test_a_program_runs_in_joined_namespaces():
    """A program there has its pid of the namespace, its parent is the creator, and its exit status is seen."""
    with Namespaces.new(Namespace.PID | Namespace.NET) as held:
        script = "echo $$ $PPID; readlink /proc/self/ns/net; exit 7"
        done = sysclone.run(["sh", "-c", script], context=Context(join=held), capture_output=True, text=True)
        net = held.inode(Namespace.NET)

    pid, parent, link = done.stdout.split()
    assert (int(pid) > 1, parent, link) == (True, "0", f"net:[{net}]")
    assert done.returncode == 7


@requires("root", "pid_namespaces")
def test_a_copied_process_runs_in_joined_namespaces():
    """A copy of the memory in a joined pid namespace is the creator's own child: its status is seen."""
    with Namespaces.new(Namespace.PID) as held, Context(join=held).start(os.getpid) as task:
        assert 1 < task.result() < task.pid
        assert task.status.exit_code == 0


@requires("root", "pid_namespaces", "net_namespaces")
@pytest.mark.parametrize("share", [LIGHT, Share(0)], ids=["light", "copied"])
def test_a_function_elsewhere_is_stopped_and_dies_as_here(share):
    """Timeouts, cancels, exits and signals reach a function in joined namespaces, by the creator's number for it."""
    with Namespaces.new(Namespace.PID | Namespace.NET) as held:
        there = Context(share=share, join=held)
        with pytest.raises(sysclone.TaskTimeout) as late:
            there.replace(timeout=0.05).call(time.sleep, 60)
        assert not late.value.still_running
        task = there.start(time.sleep, 60)
        task.cancel()
        with pytest.raises((sysclone.Cancelled, sysclone.TaskKilled)):
            task.result(20)
        task.close()
        with pytest.raises(sysclone.TaskExited, match="3"):
            there.call(os._exit, 3)
        with pytest.raises(sysclone.TaskKilled, match="SIGKILL"):
            there.call(lambda: os.kill(os.getpid(), 9))
        assert there.call(int, "7") == 7


@requires("root", "pid_namespaces", "net_namespaces")
def test_many_threads_enter_at_once():
    """Eight threads, each with functions in joined namespaces and at home: every answer is from the right place."""
    home, wrong = inode("net"), []
    with Namespaces.new(Namespace.PID | Namespace.NET) as held:
        there, elsewhere_net = Context(share=LIGHT, join=held), held.inode(Namespace.NET)

        def work():
            for n in range(20):
                answers = there.call(inode, "net"), sysclone.call(inode, "net")
                if n % 5 == 0:
                    with there.start(inode, "net") as task:
                        answers = task.result(), answers[1]
                if answers != (elsewhere_net, home):
                    wrong.append(answers)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert held_are_reaped()


@requires("root", "net_namespaces")
def test_a_threads_own_namespace_is_found_by_its_tid():
    """Namespaces.of a tid are that thread's, which may differ from its process's."""
    got, stop = [], threading.Event()

    def work():
        got.append(lowlevel.gettid())
        stop.wait(20)

    thread = sysclone.Thread(target=work, new=Namespace.NET)
    thread.start()
    assert ends(lambda: got)
    with Namespaces.of(*got, kinds=Namespace.NET) as theirs, Namespaces.of(os.getpid(), kinds=Namespace.NET) as ours:
        assert ours.inode(Namespace.NET) == inode("net") != theirs.inode(Namespace.NET)
    stop.set()
    thread.join()


@requires("root", "net_namespaces")
def test_held_namespaces_are_handed_to_another_process():
    """By fd, over a socket: a program that did not make them enters them."""
    here, there = socket.socketpair()
    with Namespaces.new(Namespace.NET) as held, here, there:
        socket.send_fds(here, [b"x"], [held.fd(Namespace.NET)])
        out = in_subprocess(
            """
            import os, socket, sys
            from sysclone import Context, Namespaces, Share
            _data, fds, *_ = socket.recv_fds(socket.socket(fileno=int(sys.argv[1])), 1, 1)
            with Namespaces(net=fds[0]) as held:
                look = lambda: os.stat("/proc/thread-self/ns/net").st_ino
                print(Context(share=Share.VM, join=held).call(look))
            """,
            there.fileno(),
            pass_fds=(there.fileno(),),
        )
        assert int(out) == held.inode(Namespace.NET)


@requires("root", "net_namespaces", "uts_namespaces")
def test_new_namespaces_are_made_within_joined_ones():
    """A new user namespace in a joined network: both hold, and the joined one was entered with the old privilege."""
    with Namespaces.new(Namespace.NET) as held:
        context = Context(share=LIGHT, join=held, new=Namespace.UTS)
        net, uts = context.call(lambda: (inode("net"), inode("uts")))

        assert net == held.inode(Namespace.NET)
        assert uts != inode("uts")


@requires("unprivileged_user_namespaces", "net_namespaces")
def test_nobody_enters_what_nobody_made():
    """Without privilege: one's own user namespace is joined first, and gives what the others need."""
    in_subprocess(
        """
        import os, sysclone
        from sysclone import Context, Namespace, Namespaces, Share
        kinds = Namespace.USER | Namespace.NET | Namespace.MOUNT | Namespace.PID
        with Namespaces.new(kinds, uid_map="root", gid_map="root", loopback=True) as held:
            inside = Context(share=Share.VM, join=held)
            look = lambda: (os.getuid(), os.getpid(), os.stat("/proc/thread-self/ns/net").st_ino)
            uid, pid, net = inside.call(look)
            assert (uid, pid > 1, net) == (0, True, held.inode(Namespace.NET))
            copied = Context(join=held).call(os.getuid)
            assert copied == 0
        """,
        as_nobody=True,
    )


@requires("root", "net_namespaces")
def test_what_cannot_be_entered_is_named():
    """A namespace that may not be entered is told by kind and errno, from each kind of task, and nothing is left."""
    with Namespaces.new(Namespace.NET) as held:
        in_subprocess(
            f"""
            import os, sysclone
            from sysclone import CloneError, Context, Namespaces, Share
            held = Namespaces(net={held.fd(Namespace.NET)})
            for act in (
                lambda: Context(share=Share.VM, join=held).call(os.getpid),
                lambda: Context(share=Share.VM, join=held).start(os.getpid),
                lambda: Context(join=held).call(os.getpid),
                lambda: sysclone.run(["true"], context=Context(join=held)),
            ):
                try:
                    act()
                except PermissionError as error:
                    assert isinstance(error, CloneError)
                    assert error.step == "setns(net)", error.step
                else:
                    raise SystemExit("entered")
            held.close()
            """,
            as_nobody=True,
            pass_fds=(held.fd(Namespace.NET),),
        )


@requires("root", "pid_namespaces")
def test_a_namespace_whose_first_process_has_ended_is_told():
    """A pid namespace that is dead is ENOMEM from the kernel, and said to be that."""
    with Namespaces.new(Namespace.PID) as first:
        held = Namespaces(pid=first.fd(Namespace.PID))
    with held, pytest.raises(CloneError) as caught:
        Context(share=LIGHT, join=held).call(os.getpid)

    assert caught.value.errno == 12
    assert "init" in str(caught.value)


def test_what_does_not_go_with_join_is_refused():
    """Each field that an intermediate process cannot do for the caller is named, before any system call."""

    class Held:
        kinds = Namespace.MOUNT | Namespace.TIME

        def joins(self):
            raise AssertionError("asked too early")

    for fields, field in (
        ({"share": Context.thread().share}, "join"),
        ({"parent": "sibling"}, "join"),
        ({"share": LIGHT, "suspend_caller": True}, "join"),
        ({"uid_map": "root"}, "uid_map"),
        ({"loopback": True}, "loopback"),
    ):
        with pytest.raises(ContextError) as caught:
            Context(join=Held(), **fields)
        assert caught.value.field == field


@requires("root", "time_namespaces", "mount_namespaces")
def test_what_a_kind_of_task_cannot_join_is_refused():
    """Another time namespace is not for who shares memory, other mounts not for who shares the cwd; one's own are no matter."""
    with Namespaces.of(os.getpid()) as own:
        assert Context(share=LIGHT | Share.FS, join=own).call(inode, "time") == inode("time")
    with Namespaces.new(Namespace.TIME | Namespace.MOUNT) as held:
        for kinds, share in ((Namespace.TIME, LIGHT), (Namespace.MOUNT, LIGHT | Share.FS)):
            with Namespaces(**{kinds.name.lower(): held.fd(kinds)}) as one:
                with pytest.raises(ContextError) as caught:
                    Context(share=share, join=one).call(os.getpid)
                assert caught.value.field == "join"


@requires("root")
@pytest.mark.parametrize("share", [LIGHT, Share(0)], ids=["light", "copied"])
def test_what_changes_a_namespace_never_changes_the_callers_own(share):
    """A joined namespace that is one's own is no other: a host name, mounts, loopback are refused at their field."""
    before = os.uname().nodename
    with Namespaces.of(os.getpid()) as own:
        for field, value in (("hostname", "x"), ("domainname", "x"), ("loopback", True)):
            context, program = Context(share=share, join=own, **{field: value}), Context(join=own, **{field: value})
            for act, arguments in ((context.call, (int,)), (context.start, (int,)), (program.run, (["true"],))):
                with pytest.raises(ContextError) as caught:
                    act(*arguments)
                assert caught.value.field == field
    assert os.uname().nodename == before


# --- Namespaces


@requires("root", "net_namespaces", "uts_namespaces")
def test_namespaces_come_from_tasks_paths_and_fds(tmp_path):
    """A pid, a Popen, a path, an open file and a pidfd lead to the same namespace."""
    with contextlib.ExitStack() as stack:
        pid = stack.enter_context(elsewhere("--net", "--uts"))
        whole = stack.enter_context(Namespaces.of(pid))
        file = stack.enter_context(open(f"/proc/{pid}/ns/uts"))
        pidfd = stack.enter_context(open(os.pidfd_open(pid), "rb"))
        net, uts = whole.inode(Namespace.NET), whole.inode(Namespace.UTS)
        assert net != inode("net")
        for targets in ([pid], [pidfd], [f"/proc/{pid}/ns/net", file]):
            with Namespaces.of(*targets, kinds=Namespace.NET | Namespace.UTS) as held:
                assert held.kinds == Namespace.NET | Namespace.UTS
                assert (held.inode(Namespace.NET), held.inode(Namespace.UTS)) == (net, uts)
        with Namespaces(net=f"/proc/{pid}/ns/net", uts=file.fileno()) as held:
            assert held.inode(Namespace.UTS) == uts
    with sysclone.start(os.getpid) as task:
        task.wait()
        with pytest.raises(CloneError):
            Namespaces.of(task)


def test_what_is_no_namespace_is_refused(tmp_path):
    """A file of another kind, another kind of namespace, a task that is gone, a name that is no kind: each is told."""
    with pytest.raises(CloneError, match="no namespace"):
        Namespaces(net="/dev/null")
    with pytest.raises(ContextError, match="UTS"):
        Namespaces(net="/proc/self/ns/uts")
    with pytest.raises(FileNotFoundError):
        Namespaces(net=tmp_path / "none")
    with pytest.raises(ContextError, match="kind of namespace"):
        Namespaces(network="/proc/self/ns/net")
    with pytest.raises(CloneError, match="no task"):
        Namespaces.of(2**22 - 1)
    with pytest.raises(CloneError):
        Namespaces(net=99999)


@requires("root", "net_namespaces")
def test_held_namespaces_outlive_their_task():
    """The fd keeps the namespace when the task that it came from has ended."""
    with elsewhere("--net") as pid:
        held = Namespaces.of(pid, kinds=Namespace.NET)
    with held:
        assert not os.path.exists(f"/proc/{pid}")
        assert Context(share=LIGHT, join=held).call(inode, "net") == held.inode(Namespace.NET)


@requires("root", "pid_namespaces")
def test_the_end_of_a_pid_namespace_is_the_end_of_all_in_it():
    """close() ends what runs in a pid namespace that was made here."""
    held = Namespaces.new(Namespace.PID)
    with sysclone.Popen(["sleep", "60"], context=Context(join=held)) as sleeper:
        held.close()
        assert sleeper.wait(10) == -9
    assert held_are_reaped()


def held_are_reaped():
    """Whether nothing is left that was to be reaped at a later call."""
    return ends(lambda: _core.reap_pending() == 0)


def ends(condition, seconds=SECONDS):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


@requires("root", "pid_namespaces")
def test_a_pid_namespace_ends_with_the_program():
    """The first process of a namespace goes with the program, also when that is killed."""
    script = """
        import os, sys, sysclone, signal
        from sysclone import Context, Namespace, Namespaces
        held = Namespaces.new(Namespace.PID)
        sleeper = sysclone.Popen(["sleep", "60"], context=Context(join=held))
        print(sleeper.pid, flush=True)
        sys.stdin.readline()
    """
    import textwrap

    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        sleeper = os.pidfd_open(int(program.stdout.readline()))
        try:
            program.kill()
            program.wait()
            assert ended(sleeper)
        finally:
            os.close(sleeper)


def test_namespaces_left_open_are_told_of():
    """Like a file, they warn when they are collected open; closed, they refuse to be joined."""
    held = Namespaces(uts="/proc/self/ns/uts")
    text = repr(held)
    with pytest.warns(ResourceWarning, match="unclosed"):
        del held
    assert "uts:[" in text
    closed = Namespaces(uts="/proc/self/ns/uts")
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        Context(share=LIGHT, join=closed).call(os.getpid)


# --- id maps


@requires("root", "user_namespaces")
@pytest.mark.parametrize("share", [LIGHT, Share(0)], ids=["light", "copied"])
def test_maps_are_written_before_the_function_begins(share):
    """The function finds its maps in place, ranges too, by whichever way it was made."""
    context = Context(share=share, new=Namespace.USER, uid_map=((0, 0, 1), (1, 100000, 10)), gid_map="root")

    def look():
        with open("/proc/thread-self/uid_map") as uids, open("/proc/thread-self/gid_map") as gids:
            return os.getuid(), [list(map(int, line.split())) for line in uids], gids.read().split()

    uid, uids, gids = context.call(look)

    assert (uid, uids, gids) == (0, [[0, 0, 1], [1, 100000, 10]], ["0", "0", "1"])


@requires("root", "user_namespaces")
def test_a_program_has_its_maps():
    """A program's first look at its ids is at mapped ones."""
    context = Context(new=Namespace.USER, uid_map="root", gid_map="root")
    done = sysclone.run(["sh", "-c", "id -u; id -g"], context=context, capture_output=True, text=True)

    assert done.stdout.split() == ["0", "0"]


@requires("unprivileged_user_namespaces")
def test_nobody_maps_the_one_id_that_is_his():
    """Without privilege: "root" and "current" work and deny setgroups; a range is refused with what to do."""
    in_subprocess(
        """
        import os, sysclone
        from sysclone import CloneError, Context, Namespace, Share, SyscloneError
        for share in (Share.VM, Share(0)):
            made = dict(share=share, new=Namespace.USER)
            root = Context(uid_map="root", gid_map="root", **made)
            assert root.call(os.getuid) == 0
            def denied():
                with open("/proc/self/setgroups") as file:
                    return file.read()
            assert root.call(denied) == "deny\\n"
            assert Context(uid_map="current", gid_map="current", **made).call(os.getgid) == 65534
            try:
                Context(uid_map=((0, 65534, 1), (1, 100000, 5)), **made).call(os.getpid)
            except SyscloneError as error:
                assert "newuidmap" in str(error), error
            else:
                raise SystemExit("a range was mapped")
        """,
        as_nobody=True,
    )


@requires("nobody", "unprivileged_user_namespaces")
def test_nobody_cannot_write_maps_while_a_task_is_in_another_user_namespace():
    """The memory is not dumpable then: said, with what to do, and over when the task has ended."""
    in_subprocess(
        """
        import os, sysclone
        from sysclone import CloneError, Context, Namespace, Namespaces, Share
        reading, writing = os.pipe()
        new = Context(share=Share.VM, new=Namespace.USER, uid_map="root")
        with Namespaces.new(Namespace.USER) as held:
            with Context(share=Share.VM, join=held).start(os.read, reading, 1) as task:
                try:
                    new.call(os.getuid)
                except CloneError as error:
                    assert (error.errno, "not dumpable" in str(error)) == (13, True), error
                else:
                    raise SystemExit("written")
                os.write(writing, b"x")
                task.result()
            assert new.call(os.getuid) == 0
        """,
        as_nobody=True,
    )


@requires("user_namespaces")
def test_a_map_that_the_kernel_refuses_is_told_and_leaves_nothing():
    """Overlapping ranges are the kernel's to refuse: the step is named, for functions and programs."""
    overlapping = Context(new=Namespace.USER, uid_map=((0, 0, 10), (5, 20, 10)))
    for act in (
        lambda: overlapping.replace(share=LIGHT).call(os.getpid),
        lambda: overlapping.replace(share=LIGHT).start(os.getpid),
        lambda: overlapping.call(os.getpid),
        lambda: sysclone.run(["true"], context=overlapping),
    ):
        with pytest.raises(CloneError) as caught:
            act()
        assert caught.value.step == "write(uid_map)"
        assert caught.value.errno == 22


def test_wrong_maps_are_refused_at_their_field():
    """A map for nothing, a word that is none, ranges out of range: told before anything is made."""
    for fields in (
        {"uid_map": "root"},
        {"new": Namespace.USER, "uid_map": "boss"},
        {"new": Namespace.USER, "uid_map": ()},
        {"new": Namespace.USER, "uid_map": ((0, 0),)},
        {"new": Namespace.USER, "uid_map": ((0, 0, 0),)},
        {"new": Namespace.USER, "uid_map": ((0, 2**32 - 1, 2),)},
        {"new": Namespace.USER, "uid_map": "root", "share": LIGHT, "suspend_caller": True},
    ):
        with pytest.raises(ContextError) as caught:
            Context(**fields)
        assert caught.value.field == "uid_map"


@requires("root", "newuidmap", "unprivileged_user_namespaces")
def test_ranges_come_through_newuidmap(granted):
    """What /etc/subuid grants is mapped for who has no privilege, and "auto" finds it."""
    first = granted
    in_subprocess(
        f"""
        import os, sysclone
        from sysclone import Context, Namespace, Share
        def look():
            with open("/proc/thread-self/uid_map") as file:
                return os.getuid(), [list(map(int, line.split())) for line in file]
        for share in (Share.VM, Share(0)):
            for wanted in ("auto", ((0, 65534, 1), (1, {first}, 10))):
                context = Context(share=share, new=Namespace.USER, uid_map=wanted, gid_map=wanted)
                uid, lines = context.call(look)
                assert uid == 0
                assert lines[1][:2] == [1, {first}], lines
        """,
        as_nobody=True,
    )


@pytest.fixture
def granted():
    """Ranges for nobody in /etc/subuid and /etc/subgid while the test runs: the first id of them."""
    first, before = 1_000_000_000, {}
    with alone_with("subuid"):
        for name in ("/etc/subuid", "/etc/subgid"):
            try:
                with open(name) as file:
                    before[name] = file.read()
            except FileNotFoundError:
                before[name] = None
            with open(name, "a") as file:
                file.write(f"nobody:{first}:1000\n")
        yield first
        for name, text in before.items():
            if text is None:
                os.unlink(name)
            else:
                with open(name, "w") as file:
                    file.write(text)
