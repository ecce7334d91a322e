"""A program and what it started: killed together, counted together, and why it died."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import features
import pytest
from features import requires
from helpers import ended, in_subprocess, state

import sysclone
from sysclone import Context, Namespace, Popen

# Two generations below the program, all asleep; each tells its pid.
FAMILY = "sh -c 'echo $$; sh -c \"echo \\$\\$; exec sleep 60\" & wait' & echo $$; wait"
# The program ends at once, and what it started holds its output open in a session of its own.
ORPHAN = "setsid sh -c 'echo $$; exec sleep 60' & exec true"


def pids_of(program, count):
    """The pids that a family tells, each with a pidfd of ours."""
    pids = [int(program.stdout.readline()) for _ in range(count)]
    return {pid: os.pidfd_open(pid) for pid in pids}


@contextlib.contextmanager
def family(line, count, **keywords):
    """A program that has a family; its pidfds are closed, and what is left of it is killed."""
    with Popen(["sh", "-c", line], stdout=subprocess.PIPE, **keywords) as program:
        fds = pids_of(program, count)
        try:
            yield program, fds
        finally:
            for fd in fds.values():
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            for fd in fds.values():
                assert ended(fd)
                os.close(fd)


def are_gone(fds):
    """Whether each of the processes has ended, within some seconds."""
    return all(ended(fd) for fd in fds.values())


def test_the_living_descendants_are_killed():
    """kill_tree ends the program and two generations below it, although it asks for no tree beforehand."""
    with family(FAMILY, 3) as (program, fds):
        program.kill_tree()

        assert are_gone(fds)
        assert program.wait() == -signal.SIGKILL


def test_a_tree_that_forks_all_the_time_is_killed():
    """A program whose descendants fork as fast as they can is killed whole: none is left that could go on."""
    line = "f() { while :; do (f & :); done; }; echo $$; sh -c 'while :; do sleep 0.01 & wait $!; done' & wait"
    with family(line, 1) as (program, fds):
        time.sleep(0.2)
        program.kill_tree()
        assert are_gone(fds)
        # The pipe ends when the last that has it is gone.
        assert select.select([program.stdout], [], [], 10)[0]
        assert program.stdout.read() == b""


def test_orphans_are_killed(adopts_nobody):
    """With tree=True what outlives its parent is killed too, in a session of its own, and is reaped."""
    with family(ORPHAN, 1, tree=True) as (program, fds):
        assert program.wait() == 0
        program.kill_tree()

        assert are_gone(fds)
        assert [state(pid) for pid in fds] == [""]


def test_a_program_adopts_its_orphans(adopts_nobody):
    """With tree=True a daemon that left its parent while the program runs is the program's child, and is killed."""
    line = "(setsid sh -c 'echo $$; exec sleep 60' &); echo $$; exec sleep 60"
    with family(line, 2, tree=True) as (program, fds):
        (daemon,) = set(fds) - {program.pid}
        deadline = time.monotonic() + 10
        while int(Path(f"/proc/{daemon}/stat").read_text().rpartition(")")[2].split()[1]) != program.pid:
            assert time.monotonic() < deadline
            os.sched_yield()
        program.kill_tree()

        assert are_gone(fds)
        assert state(daemon) == ""


def test_children_of_ours_are_let_be(adopts_nobody):
    """kill_tree touches no other child of this program, with a tree or without."""
    with Popen(["cat"], stdin=subprocess.PIPE) as other, family(ORPHAN, 1, tree=True) as (program, fds):
        program.kill_tree()
        assert are_gone(fds)
        assert other.poll() is None
        other.stdin.close()
        assert other.wait() == 0


def test_a_timeout_takes_the_tree(adopts_nobody):
    """run with tree=True and a timeout ends what holds the output open, although the program itself has ended."""
    begun = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        sysclone.run(["sh", "-c", ORPHAN], capture_output=True, timeout=1.0, tree=True)
    assert time.monotonic() - begun < 20
    assert state(int(caught.value.output)) == ""


@requires("user_namespaces", "pid_namespaces")
def test_a_pid_namespace_is_killed_whole():
    """In a new pid namespace kill_tree ends everything in it, sessions of their own included."""
    new = Context(new=Namespace.USER | Namespace.PID)
    with Popen(["sh", "-c", f"({ORPHAN}) & wait; exec sleep 60"], stdout=subprocess.PIPE, context=new) as program:
        program.stdout.readline()
        program.kill_tree()
        assert select.select([program.stdout], [], [], 10)[0]
        assert program.stdout.read() == b""


def test_termination_is_asked_for_first():
    """terminate_tree lets a tree end by itself, and says so."""
    line = "trap 'echo bye; kill $!; exit 3' TERM; sh -c 'echo $$; exec sleep 60' & echo $$; wait"
    with family(line, 2) as (program, fds):
        assert program.terminate_tree(grace=20)
        assert are_gone(fds)
        assert program.wait() == 3
        assert program.stdout.read() == b"bye\n"


def test_who_is_born_meanwhile_is_asked_too(adopts_nobody):
    """What a program starts when it is asked to end is asked as well: nobody is killed, and nobody is left."""
    # A fork of the shell's itself has for a moment its trap, and would lose the signal: so it tells when it is another.
    line = "trap 'setsid -f sleep 60; exit 3' TERM; sh -c 'echo $$; exec sleep 60' & wait"
    with family(line, 1, tree=True) as (program, _fds):
        assert program.terminate_tree(grace=20)
        assert program.wait() == 3
        assert program.stdout.read() == b""


def test_the_program_is_asked_before_its_children(adopts_nobody):
    """A shell is ended before it could see, and say, that its child was terminated."""
    with family("echo $$; sleep 60; true", 1, tree=True, stderr=subprocess.STDOUT) as (program, _fds):
        assert program.terminate_tree(grace=20)
        assert program.wait() == -signal.SIGTERM
        assert program.stdout.read() == b""


def test_the_stubborn_are_killed_after_the_grace():
    """terminate_tree kills what ignores SIGTERM when the grace is over, and says so."""
    line = "trap '' TERM; sh -c 'echo $$; exec sleep 60' & echo $$; wait"
    with family(line, 2) as (program, fds):
        begun = time.monotonic()
        assert not program.terminate_tree(grace=0.2)
        assert time.monotonic() - begun >= 0.2
        assert are_gone(fds)
        assert program.wait() == -signal.SIGKILL


def test_a_tree_that_has_ended_is_no_error():
    """kill_tree and terminate_tree of a program that has been waited for do nothing."""
    program = Popen(["true"])
    program.wait()
    program.kill_tree()
    assert program.terminate_tree(grace=0)


@requires("nobody")
def test_one_that_refuses_is_named():
    """A descendant that may not be signalled is a CloneError with its number, and the others are killed."""
    out = in_subprocess("""
        import os, select, signal, subprocess, sysclone, sysclone._popen.tree, sysclone._hints.table
        program = sysclone.Popen(["sh", "-c", "echo $$; setpriv --reuid 65534 sleep 60 & sleep 60"], stdout=-1, stderr=-3)
        program.stdout.readline()
        os.setresuid(65534, 65534, 65534)
        try:
            program.kill_tree()
        except sysclone.CloneError as error:
            print(error.step.startswith("pidfd_send_signal("), error.errno, flush=True)
        else:
            print("none", flush=True)
        os._exit(0)
    """)
    assert out == "True 1\n"


# --- cgroups


@pytest.fixture
def cgroup2():
    """A new cgroup of version 2 under our own, removed afterwards."""
    path = features.cgroup_mount("cgroup2") / f"sysclone-tree-{os.getpid()}"
    path.mkdir()
    yield path
    remove(path)


@pytest.fixture
def memory1():
    """A new cgroup of version 1's memory controller, removed afterwards."""
    path = features.memory_mount() / f"sysclone-tree-{os.getpid()}"
    path.mkdir()
    yield path
    remove(path)


def remove(path):
    """Remove a cgroup when the last of its tasks is gone."""
    deadline = time.monotonic() + 10
    while True:
        try:
            path.rmdir()
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            select.select([], [], [], 0.01)


@requires("root", "cgroup2")
def test_a_cgroup_is_killed_whole(cgroup2):
    """With a cgroup kill_tree ends everything in it, orphans of a session of their own included."""
    with family(ORPHAN, 1, context=Context(cgroup=cgroup2)) as (program, fds):
        assert program.wait() == 0
        program.kill_tree()
        assert are_gone(fds)


@requires("root", "cgroup2")
def test_a_cgroup_with_ourselves_in_it_is_refused(cgroup2):
    """kill_tree and terminate_tree refuse a cgroup that this program itself is in, and nobody is hurt."""
    out = in_subprocess(
        """
        import os, sys, sysclone
        open(sys.argv[1] + "/cgroup.procs", "w").write("0")
        with sysclone.Popen(["sleep", "60"], context=sysclone.Context(cgroup=sys.argv[1])) as program:
            for act in (program.kill_tree, lambda: program.terminate_tree(1)):
                try:
                    act()
                except sysclone.ContextError as error:
                    print(error.field, program.poll())
            program.kill()
        """,
        cgroup2,
    )
    assert out == "cgroup None\ncgroup None\n"


@requires("root", "cgroup1_memory")
def test_a_version_1_cgroup_is_killed_by_pidfds(memory1):
    """Without cgroup.kill, kill_tree ends what is in the cgroup one by one, until nobody is left."""
    with family(ORPHAN, 1, context=Context(cgroup=memory1)) as (program, fds):
        program.kill_tree()
        assert are_gone(fds)
        program.wait()


# --- what it used


def test_usage_while_it_runs():
    """usage of a living program tells its own CPU time and memory, and names what it does not see."""
    burner = "import os\nx = bytearray(50_000_000)\nwhile sum(os.times()[:2]) < 0.2: pass\nprint(flush=True)\ninput()"
    with Popen([sys.executable, "-S", "-c", burner], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        program.stdout.readline()
        usage = program.usage()
        program.stdin.close()

    assert 0.15 <= usage.cpu_seconds < 20
    assert 50_000_000 < usage.peak_memory_bytes < 200_000_000
    assert usage.minor_faults > 10_000
    assert usage.covers == "the program alone"


def test_a_peak_that_is_the_creators_is_not_the_programs():
    """exec counts its creator's peak as the program's: a lower one is told as unknown, and a higher one as it is."""
    out = in_subprocess(
        """
        import sys, sysclone
        big = bytearray(b"x") * (100 << 20)
        for size in (1, 200 << 20):
            with sysclone.Popen([sys.executable, "-S", "-c", f"x = bytearray(b'x') * {size}"]) as program:
                program.wait()
            usage = program.usage()
            told = [what for what in usage.unseen if what.startswith("peak_memory_bytes: no more than")]
            print(usage.peak_memory_bytes and usage.peak_memory_bytes >> 20 >= 200, len(told))
            assert program.rusage.ru_maxrss >= 100 << 10
            assert program.usage(tree=True).peak_memory_bytes == usage.peak_memory_bytes
        """
    )
    assert out == "None 1\nTrue 0\n"


def test_usage_of_a_tree():
    """usage(tree=True) counts what descendants use, the living and those that were waited for."""
    burn = f"{sys.executable} -S -c 'import os\nwhile sum(os.times()[:2]) < 0.2: pass\nprint(flush=True)\n{{}}'"
    line = f"{burn.format('')}; {burn.format('input()')}"
    with Popen(["sh", "-c", line], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        program.stdout.readline()
        program.stdout.readline()
        alone, whole = program.usage(), program.usage(tree=True)
        program.stdin.close()
        program.wait()
        after = program.usage(tree=True)

    assert alone.cpu_seconds < 0.2
    assert whole.cpu_seconds >= 0.35
    assert "1 descendants" in whole.covers
    assert any("tree=True" in what for what in whole.unseen)
    assert after.cpu_seconds >= 0.35
    assert "waited for" in after.covers


@requires("root", "cgroup2")
def test_usage_of_a_cgroup(cgroup2):
    """usage(tree=True) of a program in a cgroup is the cgroup's own account, orphans and all."""
    burn = f"{sys.executable} -S -c 'import os\nwhile sum(os.times()[:2]) < 0.2: pass'"
    with Popen(["sh", "-c", f"setsid {burn} &"], context=Context(cgroup=cgroup2), stdout=subprocess.PIPE) as program:
        program.stdout.read()
        usage = program.usage(tree=True)

    assert usage.cpu_seconds >= 0.15
    assert str(cgroup2) in usage.covers


def test_written_bytes_are_counted(tmp_path):
    """usage after the end counts what the program wrote to storage, where the file system does."""
    line = "dd if=/dev/zero of=$0 bs=64k count=16 conv=fsync 2>/dev/null"
    program = Popen(["sh", "-c", line, str(tmp_path / "file")])
    program.wait()
    usage = program.usage()

    assert usage.read_bytes is not None
    storage = subprocess.check_output(["stat", "-f", "-c", "%T", tmp_path], text=True).strip()
    if storage == "tmpfs":
        assert usage.written_bytes < 1 << 20  # the access time of a program on a disk may be written
    else:
        assert usage.written_bytes >= 1 << 20


# --- why it died


def cause_of(*arguments, **keywords):
    """Why a program died."""
    with Popen(*arguments, **keywords, stderr=subprocess.DEVNULL) as program:
        assert program.cause is None or program.done()
        program.wait()
        return program.cause


def test_an_exit_has_no_more_to_tell():
    """A program that exits has a cause of that kind, with its code."""
    cause = cause_of(["sh", "-c", "exit 3"])

    assert (cause.kind, str(cause), cause.by) == ("exit", "exited with 3", None)


def test_a_signal_of_ours_is_ours():
    """A program that this one killed says so; one that another killed says that nobody knows."""
    with Popen(["sleep", "60"]) as program:
        program.terminate()
        program.wait()
        assert (program.cause.kind, program.cause.by) == ("signal", "this program")
    other = cause_of(["sh", "-c", "kill -KILL $$"])

    assert (other.kind, other.by) == ("signal", None)
    assert "by whom is unknown" in str(other)


@pytest.mark.parametrize(("limits", "which"), [((1, 3), "soft"), ((1, 1), "hard")])
def test_a_cpu_limit_is_named(limits, which):
    """A program that used up its CPU time died of RLIMIT_CPU: SIGXCPU at the soft limit, SIGKILL at the hard one."""
    cause = cause_of(
        ["sh", "-c", "while :; do :; done"], preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, limits)
    )

    assert (cause.kind, cause.by) == ("cpu limit", "the kernel")
    assert f"the {which} limit (RLIMIT_CPU) is 1 s" in str(cause)


def test_a_file_size_limit_is_named(tmp_path):
    """A program that made a file too large died of RLIMIT_FSIZE."""
    cause = cause_of(
        ["dd", "if=/dev/zero", f"of={tmp_path}/file", "bs=4096", "count=9"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )

    assert (cause.kind, cause.by) == ("file size limit", "the kernel")


@requires("seccomp")
def test_seccomp_is_named():
    """A program whose filter refused a system call died of seccomp, and not of somebody's SIGSYS."""
    code = """
import ctypes, os, struct
libc = ctypes.CDLL(None)
# Allow all but getppid, number from argv: BPF over struct seccomp_data.
prog = b"".join(struct.pack("HBBI", *one) for one in (
    (0x20, 0, 0, 0), (0x15, 0, 1, 110 if os.uname().machine == "x86_64" else 173),
    (0x06, 0, 0, 0x80000000), (0x06, 0, 0, 0x7FFF0000)))
buffer = ctypes.create_string_buffer(prog)
fprog = struct.pack("HxxxxxxP", len(prog) // 8, ctypes.addressof(buffer))
libc.prctl(38, 1, 0, 0, 0)
assert libc.prctl(22, 2, fprog, 0, 0) == 0
os.getppid()
"""
    cause = cause_of([sys.executable, "-S", "-c", code])
    sent = cause_of(["sh", "-c", "kill -SYS $$"])

    assert (cause.kind, cause.by) == ("seccomp", "the kernel")
    assert sent.kind == "signal"


def test_a_fault_is_told_from_a_signal():
    """A program that touched what it may not died of that, with the kernel's own line where its log is to be read."""
    cause = cause_of([sys.executable, "-S", "-c", "import ctypes; ctypes.string_at(0)"])
    sent = cause_of(["sh", "-c", "kill -SEGV $$"])

    assert cause.status.signal == sent.status.signal == signal.SIGSEGV
    assert sent.by is None
    assert cause.kind in ("fault", "signal")
    if cause.kind == "fault":
        assert "segfault" in str(cause) and "segfault" in cause.evidence


@requires("root", "cgroup1_memory")
def test_an_oom_kill_is_named(memory1):
    """A program that the kernel killed for its cgroup's memory says so, and a kill beforehand is not taken for that."""
    (memory1 / "memory.limit_in_bytes").write_text(str(16 << 20))
    before = cause_of(["sh", "-c", "kill -KILL $$"], context=Context(cgroup=memory1))
    eater = "x = []\nwhile True: x.append(bytearray(1 << 20))"
    cause = cause_of([sys.executable, "-S", "-c", eater], context=Context(cgroup=memory1))

    assert before.kind == "signal"
    assert (cause.kind, cause.by) == ("oom", "the kernel")
    assert "memory" in str(cause)
    assert "oom" in cause.evidence.lower() or "Killed process" in cause.evidence
