"""No event is lost and none made up: the kernel's own record of the same run says the same."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from commandline import AS_NOBODY, COMMAND
from features import requires
from helpers import ended, in_subprocess

import sysclone
from sysclone import AttachEvent, CloneEvent, ExecEvent, ExitEvent, SyscloneError, UnshareEvent, _core
from sysclone._trace import tracefs
from sysclone.lowlevel import Clone

pytestmark = requires("ptrace")

PROGRAMS = Path(__file__).parents[1] / "programs"
CALLS = ("clone", "clone3", "fork", "vfork")
# It is kept from the kernel.
_NOT_THE_KERNELS = int(Clone.UNTRACED)
LIVES = "echo $$; read x; /bin/echo alive; (exit 3); echo $?"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Makes a program of tests/programs."""
    folder = tmp_path_factory.mktemp("programs")

    def compile_(name):
        target = folder / name
        if not target.exists():
            source = str(PROGRAMS / f"{name}.c")
            subprocess.run(["gcc", "-O1", "-Wall", "-Werror", "-o", str(target), source, "-lpthread"], check=True)
        return str(target)

    return compile_


def both(*command):
    """A program's events, and what tracefs recorded meanwhile, of the whole system."""
    instance = tracefs.Instance(32768)
    try:
        with sysclone.trace([*map(str, command)]) as trace:
            events, records = [], []
            while trace.read():
                events += trace.take()
                records += instance.drain()
        instance.stop()
        while more := instance.drain():
            records += more
    finally:
        instance.close()
    assert [one.other for one in records if one.kind == "lost"] == []
    # Each CPU has a buffer of its own, and who is put off its CPU between a look at one and at the next reads the later first.
    records.sort(key=lambda one: one.when)
    return trace, events, records


def made_by(root, records):
    """Each task that the kernel says descends from one, in order; a tid that comes twice is there twice."""
    family, made = {root}, []
    for one in records:
        if one.kind == "task_newtask" and one.tid in family:
            family.add(one.other)
            made.append(one.other)
        elif one.kind == "sched_process_exec" and one.other in family:
            family.add(one.tid)  # of a thread's exec: its leader has ended, and its id is the thread's now
        elif one.kind == "sched_process_exit":
            family.discard(one.tid)  # its number may be a stranger's next
    return made


@requires("tracefs", "first_pid_namespace", "compiler")
@pytest.mark.parametrize("seed", [1, 2])
def test_a_storm_is_told_as_the_kernel_tells_it(compiled, seed):
    """Of tasks that are killed in the midst of making others, each that was made is told once, and ends once."""
    trace, events, records = both(compiled("storm"), 25, seed)
    made = Counter(made_by(trace.pid, records))
    told = Counter(one.child for one in events if isinstance(one, CloneEvent) and one.child is not None)
    told += Counter(one.tid for one in events if isinstance(one, AttachEvent))

    assert told == made
    assert sum(made.values()) >= 25  # a child a round, and what that came to make before it was killed
    assert Counter(one.tid for one in events if isinstance(one, ExitEvent)) == made + Counter([trace.pid])


@requires("tracefs", "first_pid_namespace", "compiler")
@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 9))
def test_flags_at_random_are_told_as_the_kernel_tells_them(compiled, seed):
    """Births with any flags, by any call and from anywhere: each is told once, with its creator and the kernel's flags."""
    trace, events, records = both(compiled("wild"), 1000, seed)
    births = {
        one.child: (one.tid, int(one.flags) & ~_NOT_THE_KERNELS) for one in events if one.call in CALLS and one.child
    }
    unseen = {one.tid for one in events if isinstance(one, AttachEvent)}
    made = made_by(trace.pid, records)
    newborn = [one for one in records if one.kind == "task_newtask" and one.other in made]
    kernels = {one.other: (one.tid, one.flags & ~_NOT_THE_KERNELS) for one in newborn}

    assert len(made) > 400
    assert {child: kernels[child] for child in made if child not in unseen} == births
    assert len(unseen) < len(made) / 10
    assert sum(isinstance(one, ExitEvent) for one in events) == len(made) + 1


@requires("compiler")
def test_threads_that_are_killed_in_an_exec(compiled):
    """A thread that is killed when it has taken its leader's id, before its exec is told, does not keep the trace from ending."""
    with sysclone.trace([compiled("execkill"), "60"]) as trace:
        events = list(trace)
    births = [one for one in events if isinstance(one, CloneEvent) and one.child is not None]
    unseen = [one for one in events if isinstance(one, AttachEvent)]
    ends = [one for one in events if isinstance(one, ExitEvent)]

    assert trace.status.exit_code == 0
    assert len(ends) == len(births) + len(unseen) + 1
    for one in ends:
        if one.word is None and one.superseded_by is None:
            assert not one.status.known


@requires("tracefs", "first_pid_namespace", "compiler")
def test_many_threads_one_by_one(compiled):
    """Two thousand threads are told in the kernel's order, with its flags, at three stops each."""
    trace, events, records = both(compiled("threads"), "one-by-one", 2000)
    births = [one for one in events if isinstance(one, CloneEvent)]
    kernels = [one for one in records if one.kind == "task_newtask" and one.tid == trace.pid]

    assert [one.child for one in births] == [one.other for one in kernels]
    assert {int(one.flags) for one in births} == {one.flags for one in kernels}
    assert len(births) == 2000
    assert trace.stops <= 3 * 2000 + 10


@requires("tracefs", "first_pid_namespace", "compiler")
def test_many_threads_at_once(compiled):
    """Two thousand threads that are alive together and die together are told, and so are their ends."""
    trace, events, records = both(compiled("threads"), "at-once", 2000)
    births = [one.child for one in events if isinstance(one, CloneEvent)]

    assert births == made_by(trace.pid, records)
    assert Counter(one.tid for one in events if isinstance(one, ExitEvent)) == Counter([*births, trace.pid])


@pytest.mark.soak
@requires("tracefs", "first_pid_namespace", "compiler")
def test_a_hundred_thousand_threads(compiled):
    """A hundred thousand threads are told, each once."""
    trace, events, records = both(compiled("threads"), "one-by-one", 100_000)

    assert [one.child for one in events if isinstance(one, CloneEvent)] == made_by(trace.pid, records)


@requires("ia32", "compiler")
def test_calls_of_the_32_bit_table(compiled):
    """Calls by int 0x80 are told by their own numbers, and an untraced child of such a call is traced as well."""
    with sysclone.trace([compiled("ia32")]) as trace:
        _, *events = trace
    births = [one for one in events if isinstance(one, CloneEvent) and one.errno is None]

    assert [one.call for one in births] == ["fork", "clone", "fork"]
    assert {one.machine for one in births} == {"i386"}
    assert (births[1].flags, births[1].exit_signal) == (Clone.UNTRACED, signal.SIGCHLD)
    assert births[2].pid == births[1].child
    assert [one.word for one in events if isinstance(one, UnshareEvent)] == [0x400]
    [failed] = [one for one in events if isinstance(one, ExecEvent)]
    assert (failed.path, failed.errno) == (None, 14)


@requires("x86_64", "compiler")
def test_an_untraced_child_is_traced_unharmed(compiled):
    """CLONE_UNTRACED is told, its child is traced, and the registers are the program's again in both."""
    with sysclone.trace([compiled("untraced")]) as trace:
        births = [one for one in trace if isinstance(one, CloneEvent)]

    assert trace.status.exit_code == 0
    assert Counter((one.call, str(one.flags)) for one in births if one.pid == trace.pid) == {
        ("clone", "CLONE_UNTRACED"): 40,
        ("clone3", "CLONE_UNTRACED"): 20,
    }
    assert len(births) == 120


# --- when the tracer goes


class Command:
    """A `sysclone trace` of a shell that waits for a line, then starts programs."""

    def __init__(self, *options):
        self.process = subprocess.Popen(
            [*COMMAND, "trace", "-o", "/dev/null", *options, "--", "/bin/sh", "-c", LIVES],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.shell = int(self.process.stdout.readline())
        self.pidfd = os.pidfd_open(self.shell)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.pidfd)
        with self.process:
            pass

    def tracer(self):
        """The pid of who traces the shell."""
        status = Path(f"/proc/{self.shell}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("TracerPid:"))


def test_the_program_outlives_us():
    """When sysclone is killed, what it traced lives on, and can still make tasks."""
    with Command() as command:
        command.process.kill()
        command.process.wait()
        command.process.stdin.write("x\n")
        command.process.stdin.flush()

        assert command.process.stdout.read() == "alive\n3\n"
        assert ended(command.pidfd)


def test_the_program_dies_with_us():
    """With --kill-on-exit it dies when sysclone is killed."""
    with Command("--kill-on-exit") as command:
        command.process.kill()

        assert ended(command.pidfd)
        assert command.process.stdout.read() == ""


def test_the_program_dies_with_the_tracer_itself():
    """With --kill-on-exit it dies when the tracing task is killed, and the command says that the trace is cut short."""
    with Command("--kill-on-exit") as command:
        os.kill(command.tracer(), signal.SIGKILL)

        assert ended(command.pidfd)
        assert command.process.wait(20) == 125


def test_a_killed_tracer_is_told():
    """A tracing task that is killed is an error for who reads, not an end."""
    trace = sysclone.trace(["/bin/sleep", "1000"], kill_on_exit=True)
    next(trace)
    os.kill(trace._tracer.pid, signal.SIGKILL)
    with pytest.raises(sysclone.TaskKilled):
        list(trace)
    trace.close()

    assert trace.status.signal == signal.SIGKILL


def test_detached_programs_go_on():
    """A program that is let go can make tasks as before, without being told of."""
    trace = sysclone.trace(["/bin/sh", "-c", "read x; /bin/echo on; exit 4"], stdin=-1, stdout=-1, text=True)
    tracer = os.pidfd_open(trace._tracer.pid)
    trace.detach()
    with trace.process as process:
        assert process.communicate("x\n")[0] == "on\n"
    assert process.returncode == 4
    assert trace.read() is None
    assert ended(tracer)
    assert _core.reap_pending() == 0
    os.close(tracer)


def write_and_read(trace):
    """Tell the program to go on, and read to the end."""
    trace.process.stdin.write(b"x")
    trace.process.stdin.flush()
    list(trace)


def test_a_signal_interrupts_reading():
    """A signal whose handler raises ends the waiting for events."""

    class Alarm(Exception):
        pass

    def handler(*_):
        raise Alarm

    before = signal.signal(signal.SIGUSR1, handler)
    code = "import os, sys; sys.stdin.read(1); os.kill(os.getppid(), 10); sys.stdin.read()"
    trace = sysclone.trace([sys.executable, "-c", code], stdin=-1)
    try:
        next(trace)
        with pytest.raises(Alarm):
            write_and_read(trace)
    finally:
        trace.close()
        signal.signal(signal.SIGUSR1, before)
    assert trace.status.signal == signal.SIGKILL


def test_reading_has_a_time_limit():
    """read() answers False when nothing came in time, and take() what did; the fd is readable when there is something."""
    with sysclone.trace(["/bin/sh", "-c", "read x; true & wait"], stdin=-1) as trace:
        assert trace.read() is True
        assert [one.call for one in trace.take()] == ["execve"]
        assert trace.read(0.05) is False
        trace.process.stdin.write(b"\n")
        trace.process.stdin.flush()
        assert select.select([trace], [], [], 20)[0]
        assert [one.call for one in trace][-1] == "exit"


@requires("tracefs")
@pytest.mark.parametrize("system", [False, True])
def test_waking_who_reads(system):
    """wake() ends a read that waits, from another thread, and is not forgotten where none waits yet."""
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        chosen = {"system": True, "only_failed": True} if system else {"pid": program.pid}
        with sysclone.trace(**chosen) as trace:
            while trace.read(0):
                trace.take()
            answers = []
            reader = threading.Thread(target=lambda: answers.append(trace.read()))
            reader.start()
            trace.wake()
            reader.join(20)
            trace.wake()
            answers.append(trace.read())
            assert answers == [False, False]
            assert trace.read(0) is False
        program.stdin.close()
        trace.wake()


@requires("tracefs", "first_pid_namespace")
def test_what_the_kernel_lost_is_told_where_it_was_lost():
    """Of the whole system: with too small a buffer the loss is told, after what came before it, and reading goes on."""
    with sysclone.trace(system=True) as trace:
        trace._instance._write("buffer_size_kb", "4")
        program = "for i in $(seq 400); do (:); done"
        subprocess.run(["/bin/sh", "-c", program], check=True)
        told, lost = [], []
        read_on(trace, told, lost, lambda: lost)
        # Or another's storm could be what fills it, and take the child's records with it.
        trace._instance._write("buffer_size_kb", "4096")
        child = os.posix_spawn("/bin/true", ["true"], os.environ)
        os.waitpid(child, 0)
        read_on(trace, told, lost, lambda: any(one.tid == child and one.call == "exit" for one in told))
    assert all(isinstance(one, SyscloneError) and "events are lost" in str(one) for one in lost)
    assert trace.lost > 0


def read_on(trace, told, lost, until):
    """Read until something is so, past what the kernel lost: each of its processors has a buffer to lose from."""
    deadline = time.monotonic() + 30
    while not until():
        assert time.monotonic() < deadline
        try:
            trace.read(1)
        except SyscloneError as e:
            lost.append(e)
        told += trace.take()


def test_attaching_to_who_has_ended():
    """Of a zombie it is said that it has ended, not that something forbids it."""
    pid = os.posix_spawn("/bin/true", ["true"], os.environ)
    pidfd = os.pidfd_open(pid)
    try:
        assert ended(pidfd)
        with pytest.raises(PermissionError, match="it has ended"):
            sysclone.trace(pid=pid)
    finally:
        os.close(pidfd)
        os.waitpid(pid, 0)


def test_attaching_to_a_busy_program():
    """A tree that makes tasks meanwhile is attached to without a word of those that ended, or that came by themselves."""
    code = "for i in 1 2 3; do while :; do (:) & (:) & wait; done & done; wait"
    with subprocess.Popen(["/bin/sh", "-c", code], start_new_session=True) as program:
        try:
            for _ in range(4):
                with sysclone.trace(pid=program.pid, tree=True) as trace:
                    while not any(isinstance(one, CloneEvent) for one in trace.take()):
                        assert trace.read(20)
                    assert trace.warnings == []
        finally:
            os.killpg(program.pid, signal.SIGKILL)


def test_close_ends_another_threads_reading():
    """A thread that waits for events is told of the end when another closes the trace."""
    trace = sysclone.trace(["/bin/sleep", "1000"])
    read = []
    reader = threading.Thread(target=lambda: read.extend(trace))
    next(trace)
    reader.start()
    trace.close()
    reader.join(20)

    assert not reader.is_alive()
    assert trace.status.signal == signal.SIGKILL


def test_a_wake_comes_after_what_has_happened():
    """What happened before wake() is read first, and the read that would then wait answers False."""
    with sysclone.trace(["/bin/sh", "-c", "/bin/true & wait; echo; read x"], stdin=-1, stdout=-1) as trace:
        assert trace.process.stdout.readline() == b"\n"
        trace.wake()
        calls = []
        while trace.read():
            calls += [one.call for one in trace.take()]

    assert calls == ["execve", "clone", "execve", "exit"]


def test_two_threads_may_see_the_end_at_once():
    """Whichever of a closing and a reading thread is told of the end first, neither is left with what the other has closed."""
    out = in_subprocess("""
        import threading, time, sysclone
        wrong = []
        threading.excepthook = lambda told: wrong.append(told.exc_value)
        for number in range(60):
            trace = sysclone.trace(["/bin/sleep", "1000"])
            reader = threading.Thread(target=lambda: list(trace))
            next(trace)
            reader.start()
            time.sleep(number % 6 * 0.0001)
            trace.detach() if number % 5 == 4 else trace.close()
            reader.join(20)
            wrong += [number] if reader.is_alive() else []
            trace.process.kill()
            trace.process.wait()
            wrong += [] if trace.status.signal == 9 else [trace.status]
        print(wrong)
    """)

    assert out == "[]\n"


def test_a_trace_closed_between_two_looks_has_ended(monkeypatch):
    """A thread that is about to wait for events when another closes the trace is told of the end, not of a closed tracer."""
    trace = sysclone.trace(["/bin/sleep", "1000"])
    next(trace)
    tracer = trace._tracer

    class Late:
        """The tracer, whose next read begins when another thread has closed the trace."""

        def __getattr__(self, name):
            return getattr(tracer, name)

        def read(self, *arguments):
            monkeypatch.undo()
            closer = threading.Thread(target=trace.close)
            closer.start()
            closer.join(20)
            return tracer.read(*arguments)

    monkeypatch.setattr(trace, "_tracer", Late())

    assert trace.read() is None
    assert trace.status.signal == signal.SIGKILL


def test_a_copy_does_not_touch_the_tracer():
    """A forked child, and a light process, may drop the trace: it goes on for its owner."""
    trace = sysclone.trace(["/bin/sh", "-c", "read x; exit 6"], stdin=-1)
    pid = os.fork()
    if pid == 0:
        del trace
        gc.collect()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    sysclone.call(trace.close)
    assert trace.read(0) is not None
    trace.process.stdin.close()
    list(trace)

    assert trace.status.exit_code == 6


@requires("root", "pid_namespaces")
def test_a_tracer_in_a_namespace_of_its_own_is_refused():
    """After unshare(NEWPID) the tracer would be inside: that is said, and nothing is left."""
    code = """
    import os, sysclone
    sysclone.lowlevel.unshare(sysclone.lowlevel.CLONE_NEWPID)
    try:
        sysclone.trace(["/bin/true"])
    except sysclone.Unsupported as error:
        print("pid namespace" in str(error), sysclone.run(["/bin/true"]).returncode)
    """
    assert in_subprocess(code) == "True 0\n"


# --- who we are


@requires("nobody")
def test_nobody_can_trace():
    """Without privileges the program gives up new ones, and is traced."""
    words = [*AS_NOBODY, *COMMAND, "trace", "--", "sh", "-c", "grep NoNewPrivs /proc/self/status; true"]
    done = subprocess.run(words, capture_output=True, text=True, cwd="/", timeout=30, check=True)

    assert done.stdout == "NoNewPrivs:\t1\n"
    assert "execve(" in done.stderr


@requires("root")
def test_root_does_not_give_up_privileges():
    """With the privilege for it the program is given the filter and nothing else."""
    with sysclone.trace(["grep", "NoNewPrivs", "/proc/self/status"], stdout=-1, text=True) as trace:
        list(trace)
        assert trace.process.stdout.read() == "NoNewPrivs:\t0\n"


@requires("nobody", "root")
def test_setuid_programs_are_warned_of():
    """A setuid program is run by nobody without the filter, and that is said; --strict refuses it."""
    folder = Path("/tmp") / f"sysclone-setuid-{os.getpid()}"
    folder.mkdir(mode=0o755)
    program = folder / "true"
    try:
        program.write_bytes(Path("/bin/true").read_bytes())
        program.chmod(0o4755)
        words = [*AS_NOBODY, *COMMAND, "trace"]
        done = subprocess.run([*words, "--", program], capture_output=True, text=True, cwd="/", timeout=30, check=False)
        strict = subprocess.run(
            [*words, "--strict", "--", program], capture_output=True, cwd="/", timeout=30, check=False
        )
    finally:
        program.unlink()
        folder.rmdir()
    assert done.returncode == 0
    assert "is setuid" in done.stderr
    assert f'execve("{program}"' in done.stderr
    assert strict.returncode == 125


def test_every_call_sees_the_same():
    """Without the filter, stopping at every call, the same events come, at more stops."""
    command = ["/bin/sh", "-c", "true & wait; /nonexistent; exit 3"]
    told = []
    for every_call in (False, True):
        with sysclone.trace(command, every_call=every_call, stderr=subprocess.DEVNULL) as trace:
            told.append(([(one.call, getattr(one, "errno", None)) for one in trace], trace.stops))
    (ours, few), (theirs, many) = told

    assert sorted(ours, key=str) == sorted(theirs, key=str)
    assert many > 10 * few
