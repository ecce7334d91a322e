"""trace(): the events of real programs, by the kernel's own numbers."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading

import pytest
from features import requires
from helpers import ended, in_subprocess

import sysclone
from sysclone import AttachEvent, CloneEvent, ExecEvent, ExitEvent, SetnsEvent, UnshareEvent
from sysclone.lowlevel import Clone

pytestmark = requires("ptrace")

NPTL = (
    Clone.VM | Clone.FS | Clone.FILES | Clone.SIGHAND | Clone.THREAD | Clone.SYSVSEM | Clone.SETTLS
    | Clone.PARENT_SETTID | Clone.CHILD_CLEARTID
)  # fmt: skip


def traced(*command, **keywords):
    """Every event of a program, and the trace when it has ended."""
    with sysclone.trace([*map(str, command)], **keywords) as trace:
        return list(trace), trace


def of(events, kind, **fields):
    """The events of a kind that have these values."""
    return [one for one in events if isinstance(one, kind) and all(getattr(one, k) == v for k, v in fields.items())]


def python(code):
    """The command line of a Python program."""
    return [sys.executable, "-c", code]


def test_a_shell_and_what_it_starts():
    """A shell's fork, its child's exec and both ends are told in order, with the statuses that were seen."""
    events, trace = traced("/bin/sh", "-c", "/bin/false & wait; exit 3")

    assert [one.call for one in events] == ["execve", "clone", "execve", "exit", "exit"]
    assert events[0].argv == ("/bin/sh", "-c", "/bin/false & wait; exit 3")
    assert events[1].child == events[1].result == events[2].pid
    assert events[1].exit_signal == signal.SIGCHLD
    assert [one.status.exit_code for one in events[3:]] == [1, 3]
    assert (trace.pid, trace.status.exit_code) == (events[0].pid, 3)
    assert [one.time for one in events] == sorted(one.time for one in events)


def test_threads_are_told_from_processes():
    """A thread has its creator's pid and NPTL's flags; what the kernel wrote for CLONE_PARENT_SETTID is its tid."""
    events, _ = traced(*python("import threading; t = threading.Thread(target=int); t.start(); t.join()"))
    [birth] = of(events, CloneEvent)
    [end] = of(events, ExitEvent, tid=birth.child)

    assert birth.flags == NPTL
    assert birth.is_thread
    assert birth.parent_tid == birth.child
    assert (end.pid, end.tid) == (birth.pid, birth.child)


def test_failed_calls_are_told():
    """A refused call has the kernel's errno, its flags, and neither result nor child."""
    events, _ = traced(
        *python(
            "import sysclone.lowlevel as l\ntry: l.clone3(l.CloneArgs(flags=l.CLONE_SIGHAND))\nexcept OSError: pass"
        )
    )
    [birth] = of(events, CloneEvent)

    assert (birth.errno, birth.result, birth.child) == (errno.EINVAL, None, None)
    assert birth.flags == Clone.SIGHAND
    assert (birth.call, birth.size) == ("clone3", 88)


def test_a_missing_program_is_as_from_popen():
    """A program that cannot be started raises what Popen raises, and leaves nothing."""
    with pytest.raises(FileNotFoundError):
        sysclone.trace(["/no/such/program"])


def test_keywords_are_popens():
    """Pipes, environment and directory are the program's, and its output is to be had."""
    with sysclone.trace(["/bin/sh", "-c", "echo $X; pwd"], stdout=-1, env={"X": "y"}, cwd="/", text=True) as trace:
        events = list(trace)
        assert trace.process.stdout.read() == "y\n/\n"
    assert of(events, ExecEvent)[0].env_count == 1


def test_leaving_midway_ends_the_program():
    """A trace that is left ends its program with all its tasks, and reaps it."""
    with sysclone.trace(["/bin/sh", "-c", "sleep 1000 & sleep 1000"]) as trace:
        births = []
        for event in trace:
            births += [event.child] if isinstance(event, CloneEvent) else []
            if len(births) == 2:
                break
        pidfds = [os.pidfd_open(pid) for pid in births]
    for pidfd in pidfds:
        assert ended(pidfd)
        os.close(pidfd)

    assert trace.status.signal == signal.SIGKILL


def test_a_forgotten_trace_ends_too():
    """A trace that nobody holds any longer ends its program."""
    trace = sysclone.trace(["/bin/sleep", "1000"])
    pidfd = os.pidfd_open(trace.pid)
    del trace

    assert ended(pidfd)
    os.close(pidfd)


def test_other_children_are_left_alone():
    """Children and threads of the tracing program are its own: its waits find them, and not the tracer's."""
    child = os.spawnl(os.P_NOWAIT, "/bin/true", "true")
    thread = threading.Thread(target=int)
    events, _ = traced("/bin/true")
    thread.start()
    thread.join()

    assert os.waitpid(-1, 0) == (child, 0)
    assert of(events, CloneEvent) == []
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@requires("root", "net_namespaces")
def test_unshare_and_setns_are_told():
    """Both have their flags by name, the fd, and the result."""
    code = "import os; f = os.open('/proc/self/ns/net', 0); from sysclone.lowlevel import unshare, setns; "
    events, _ = traced(*python(code + "unshare(0x40000000); setns(f, 0)"))
    [unshared], [joined] = of(events, UnshareEvent), of(events, SetnsEvent)

    assert (unshared.flags, unshared.result) == (Clone.NEWNET, 0)
    assert (joined.word, joined.result) == (0, 0)
    assert joined.fd >= 3


CONTEXTS = {
    "Context.light()": 1,
    "Context()": 1,
    "Context.vfork()": 1,
    "Context.linuxthreads()": 1,
    "Context(share=Share.FS | Share.FILES)": 1,
    "Context(share=Share.VM, exit_signal=0)": 1,
    "Context(share=Share.VM, parent='sibling')": 1,
    "Context(share=Share.VM, untraced=True)": 1,
    "Context(share=Share.FS, untraced=True)": 1,
    "Context(share=Share.VM, ptrace=True)": 1,
}


@pytest.mark.parametrize("context", CONTEXTS)
def test_tasks_of_every_context_are_traced(context):
    """What a task of each kind does is traced like anything else: here, a program that it starts."""
    code = f"import os, sysclone; from sysclone import *\n{context}.call(lambda: os.spawnl(os.P_WAIT, '/bin/true', 'true'))"
    # The shell is there to be a sibling's parent.
    events, trace = traced("/bin/sh", "-c", '"$0" -c "$1"; exit $?', sys.executable, code)
    asked = eval(f"sysclone.{context}", {"sysclone": sysclone, "Share": sysclone.Share})
    [end] = [one for one in of(events, ExecEvent) if one.path == "/bin/true"]
    [maker] = of(events, CloneEvent, child=end.pid)
    [birth] = of(events, CloneEvent, child=maker.pid)

    assert trace.status.exit_code == 0
    assert int(birth.flags) & int(asked.flags) == int(asked.flags)
    assert maker.pid not in (birth.pid, end.pid)


@requires("root", "pid_namespaces")
def test_a_pid_namespace_has_both_numbers():
    """In a pid namespace the result is the caller's number, the child ours, and all of them are told."""
    events, _ = traced("unshare", "--pid", "--fork", "/bin/sh", "-c", "/bin/true & wait")
    first, second = of(events, CloneEvent)

    assert (first.result, first.child_pids) == (first.child, (first.child, 1))
    assert (second.result, second.child_pids) == (2, (second.child, 2))
    assert second.child not in (1, 2)


def test_exec_by_a_thread():
    """A thread's exec ends its leader, which is told as superseded, and goes on under the leader's id."""
    start = "threading.Thread(target=os.execv, args=('/bin/true', ['true'])).start()"
    code = f"import os, threading; {start}; threading.Event().wait()"
    events, trace = traced(*python(code))
    [birth] = of(events, CloneEvent)
    executed = of(events, ExecEvent)[-1]
    [superseded] = [one for one in of(events, ExitEvent) if one.superseded_by]

    assert (executed.pid, executed.tid, executed.path) == (trace.pid, birth.child, "/bin/true")
    assert (superseded.tid, superseded.superseded_by) == (trace.pid, birth.child)
    assert [one.tid for one in of(events, ExitEvent)] == [trace.pid, trace.pid]
    assert trace.status.exit_code == 0


def test_attach_to_a_process():
    """A process that runs already is told of with its threads; its births come with flags, and it goes on afterwards."""
    program = sysclone.Popen(
        python("import os, threading; threading.Thread(target=os.read, args=(0, 1)).start(); print(flush=True)\n"
               "while os.read(0, 1): os.spawnl(os.P_WAIT, '/bin/true', 'true'); print(flush=True)"),
        stdin=-1, stdout=-1,
    )  # fmt: skip
    with program:
        program.stdout.readline()
        with sysclone.trace(pid=program.pid) as trace:
            program.stdin.write(b"..")
            program.stdin.flush()
            events = []
            for event in trace:
                events.append(event)
                if isinstance(event, ExitEvent) and event.pid != program.pid:
                    break
        program.stdin.close()
        assert program.wait() == 0
    attached = of(events, AttachEvent)

    assert {one.pid for one in attached} == {program.pid}
    assert len(attached) == 2
    [birth] = of(events, CloneEvent)
    [executed] = of(events, ExecEvent)
    assert executed.pid == birth.child
    assert executed.argv == ("true",)


def test_the_program_itself_can_be_traced():
    """A program may trace itself: its tracer is a process apart, and waits for nobody that it has stopped."""
    code = """
    import os, sysclone
    with sysclone.trace(pid=os.getpid()) as trace:
        for _ in range(20):
            sysclone.call(int)
        events = []
        while len(events) < 20:
            events += [one for one in (trace.take() if trace.read() else ()) if one.call == "clone3"]
    print(len(events), {str(one.flags) for one in events})
    """
    assert in_subprocess(code).strip() == "20 {'CLONE_VM|CLONE_CHILD_CLEARTID|CLONE_CLEAR_SIGHAND'}"


def test_signals_and_job_control_pass_through():
    """A program that is stopped is stopped, continues, and gets its signals, as if nobody looked."""
    code = "trap 'echo caught' USR1; echo ready; read x; kill -USR1 $$; kill -STOP $$; echo on; exit 7"
    with sysclone.trace(["/bin/sh", "-c", code], stdin=-1, stdout=-1, text=True) as trace:
        assert trace.process.stdout.readline() == "ready\n"
        trace.process.stdin.write("\n")
        trace.process.stdin.flush()
        assert trace.process.stdout.readline() == "caught\n"
        assert os.waitid(os.P_PIDFD, trace.process.pidfd, os.WSTOPPED).si_status == signal.SIGSTOP
        trace.process.send_signal(signal.SIGCONT)
        assert trace.process.stdout.readline() == "on\n"
        list(trace)

    assert trace.status.exit_code == 7
