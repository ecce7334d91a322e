"""sysclone trace: its formats, its choices, its exit status, and how it is ended."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commandline import COMMAND, Started, Terminal, run_command
from features import requires

from sysclone._trace import tracefs

pytestmark = requires("ptrace")

KEYS = {"call", "pid", "tid", "time", "flags"}
THREADS = "import threading; t = threading.Thread(target=int); t.start(); t.join()"


def told(*words):
    """What the command says of a program, as JSON, and its exit status."""
    done = run_command("trace", "--json", *words)
    return [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")], done.returncode


def test_json_has_its_keys():
    """Each line is an object with the call's name, pid, tid, time, flags by name, and result or errno."""
    events, status = told("--", "sh", "-c", "/bin/true & wait; /nonexistent; exit 3")
    birth = next(one for one in events if one["call"] == "clone")
    failed = next(one for one in events if "errno" in one)

    assert status == 3
    assert all(one.keys() >= KEYS and ("result" in one) != ("errno" in one) for one in events)
    assert birth["flags"] == ["CLONE_CHILD_SETTID", "CLONE_CHILD_CLEARTID"] or birth["flags"] == [
        "CLONE_CHILD_CLEARTID", "CLONE_CHILD_SETTID"]  # fmt: skip
    assert birth["exit_signal"] == "SIGCHLD"
    assert birth["result"] == birth["child"]
    assert (failed["call"], failed["errno"], failed["error"]) == ("execve", 2, "ENOENT")
    assert [one["time"] for one in events] == sorted(one["time"] for one in events)


@pytest.mark.parametrize(
    ("program", "status"), [("exit 0", 0), ("exit 9", 9), ("kill -TERM $$", 143), ("kill -9 $$", 137)]
)
def test_the_exit_status_is_the_programs(program, status, tmp_path):
    """We leave as the program leaves, and say nothing where -o takes the trace."""
    done = run_command("trace", "-o", str(tmp_path / "log"), "--", "sh", "-c", program)

    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")
    assert (tmp_path / "log").read_text().splitlines()[-1].endswith("+++")


def test_programs_that_cannot_be_run():
    """What is not found is 127, what cannot be executed 126, wrong options 125."""
    assert run_command("trace", "--", "/no/such").returncode == 127
    assert run_command("trace", "--", "/etc/passwd").returncode == 126
    for words in (
        [],
        ["--system", "-p", "1"],
        ["--no-threads", "true"],
        ["--system", "true"],
        ["-p", "1", "--", "true"],
    ):
        assert run_command("trace", *words).returncode == 125


def test_the_tree_has_a_node_for_each_exec():
    """In the tree each birth stands below its creator, and each exec of one task is a node of its own."""
    done = run_command("trace", "-f", "tree", "--", "sh", "-c", "/bin/true & wait; exec sh -c 'exec sh -c \"exit 4\"'")
    lines = done.stderr.splitlines()

    assert done.returncode == 4
    assert [line.lstrip("│├└─ ").partition("  ")[0].isdecimal() for line in lines] == [True] * 5
    assert sum('["sh"' in line for line in lines) == 3
    assert lines[1].startswith("├─ ") and "clone" in lines[1]
    assert lines[2].startswith("│  └─ ") and "/bin/true" in lines[2]
    assert lines[4].startswith("   └─ ") and "exited with 4" in lines[4]


def test_only_failed():
    """--only-failed tells of calls that failed, and of nothing else."""
    events, _ = told("--only-failed", "--", "env", "PATH=/nonexistent:/bin", "true")

    assert [(one["call"], one["path"], one["error"]) for one in events] == [("execve", "/nonexistent/true", "ENOENT")]


def test_depth():
    """--depth 0 is the first task alone; 1 its own children too, and not theirs."""
    program = ("--", "sh", "-c", "(/bin/true & wait) & wait")
    alone, _ = told("--depth", "0", *program)
    near, _ = told("--depth", "1", *program)
    whole, _ = told(*program)

    assert [one["call"] for one in alone] == ["execve", "clone", "exit"]
    assert len({one["tid"] for one in near}) == 2
    assert len({one["tid"] for one in whole}) == 3


def test_follow():
    """--follow threads leaves processes out, and processes leaves threads out."""
    code = f"import os\n{THREADS}\nos.spawnl(os.P_WAIT, '/bin/true', 'true')"
    program = ("--", sys.executable, "-c", code)
    threads, _ = told("--follow", "threads", *program)
    processes, _ = told("--follow", "processes", *program)

    assert {one["pid"] for one in threads} == {threads[0]["pid"]}
    assert len({one["tid"] for one in threads}) == 2
    assert all(one["pid"] == one["tid"] for one in processes)
    assert len({one["pid"] for one in processes}) == 2


def test_attached_tasks_go_on(tmp_path):
    """-p tells of a process until Ctrl-C, says what is not seen, and lets the process go."""
    log = tmp_path / "log"
    with subprocess.Popen(["/bin/sh", "-c", "while read x; do /bin/true & wait; done"], stdin=-1) as program:
        with Started(("trace", "--json", "-o", str(log), "-p", str(program.pid))) as command:
            assert "not seen" in command.process.stderr.readline()
            program.stdin.write(b"x\n")
            program.stdin.flush()
            wait_for(log, '"call": "exit"')
            command.send(signal.SIGINT)
            assert command.end()[0] == 130
        program.stdin.close()
        assert program.wait() == 0
    calls = [json.loads(line)["call"] for line in log.read_text().splitlines()]
    assert calls == ["attach", "clone", "execve", "exit"]


CAT_AND_THREAD = """
import os, subprocess, threading
threading.Thread(target=os.read, args=(0, 1)).start()
with subprocess.Popen(["cat"], stdin=0) as child:
    print(child.pid, flush=True)
"""


@pytest.mark.parametrize(("options", "tasks"), [((), 2), (("--no-threads",), 1), (("--attach-tree",), 3)])
def test_whom_to_attach_to(options, tasks):
    """-p is all threads of a process, --no-threads one task, --attach-tree the descendants too."""
    with subprocess.Popen([sys.executable, "-c", CAT_AND_THREAD], stdin=-1, stdout=-1, text=True) as program:
        child = int(program.stdout.readline())
        with Started(("trace", "--json", *options, "-p", str(program.pid))) as command:
            _, *lines = [command.process.stderr.readline() for _ in range(tasks + 1)]
            command.send(signal.SIGINT)
            rest = command.end()[2]
        attached = [json.loads(line) for line in lines]
        program.stdin.close()
        program.stdout.read()

    assert {one["pid"] for one in attached} == ({program.pid, child} if tasks == 3 else {program.pid})
    assert len({one["tid"] for one in attached}) == tasks
    assert rest == ""


def wait_for(path: Path, word: str) -> None:
    """Wait until a file has a word."""
    deadline = time.monotonic() + 20
    while word not in path.read_text():
        assert time.monotonic() < deadline
        os.sched_yield()


def test_ctrl_c_is_the_programs():
    """Ctrl-C at the terminal reaches the program, whose end is told; we leave as it leaves."""
    code = """
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(7))
print("ready", flush=True)
while True:
    time.sleep(0.05)  # not one pause: a handler that runs just before it would be asked only after it
"""
    with Terminal("trace", "-o", "/dev/null", "--", sys.executable, "-c", code) as terminal:
        assert terminal.line() == "ready"
        terminal.type(b"\x03")
        assert terminal.process.wait(20) == 7


@pytest.mark.parametrize(
    ("options", "outlives", "said"),
    [(("-f", "tree"), True, "goes on"), (("--kill-on-exit",), False, "")],
)
def test_ctrl_c_when_the_program_has_ended(options, outlives, said, tmp_path):
    """When the program has ended and left others, Ctrl-C ends the trace: it is written, and they live or die as asked."""
    log, pipe = tmp_path / "log", tmp_path / "pipe"
    os.mkfifo(pipe)
    script = f"trap '' INT HUP; (read x < {pipe}; echo $x; exit 1) & echo $!"
    with Terminal("trace", "-o", str(log), *options, "--", "/bin/sh", "-c", script) as terminal:
        left = int(terminal.line())
        pidfd = os.pidfd_open(left)
        assert terminal.process.poll() is None
        wait_for_end(terminal.process.pid)
        terminal.type(b"\x03")
        assert terminal.process.wait(20) == 0
        ended = bool(select.select([pidfd], [], [], 0 if outlives else 20)[0])
        os.close(pidfd)
        assert ended is not outlives
        if outlives:
            assert said in terminal.line()
            pipe.write_text("alive\n")
            assert terminal.line().strip() == "alive"
    assert str(left) in log.read_text()


def wait_for_end(pid: int) -> None:
    """Wait until the program that a `sysclone trace` started, which is its only child beside the tracer, has ended."""
    deadline = time.monotonic() + 20
    while True:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        states = [Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[0] for one in children]
        if "Z" in states:
            return
        assert time.monotonic() < deadline
        os.sched_yield()


def test_sigterm_is_passed_on():
    """SIGTERM reaches the program, and its end by it is ours."""
    with Started(
        ("trace", "-o", "/dev/null", "--", sys.executable, "-c", "import signal; print(1, flush=True); signal.pause()")
    ) as command:
        assert command.line() == "1"
        command.send(signal.SIGTERM)
        assert command.end()[0] == 143


@requires("tracefs", "first_pid_namespace")
def test_the_whole_system(tmp_path):
    """--system tells of tasks of others with their flags, ends with 0 at Ctrl-C, and leaves no instance behind."""
    log = tmp_path / "log"
    with Started(("trace", "--system", "--json", "-o", str(log))) as command:
        assert "not seen" in command.process.stderr.readline()
        child = os.spawnl(os.P_NOWAIT, "/bin/true", "true")
        os.waitpid(child, 0)
        wait_for(log, f'"exit", "pid": {child}')
        command.send(signal.SIGINT)
        assert command.end()[0] == 0
    events = [json.loads(line) for line in log.read_text().splitlines()]
    ours = [one for one in events if one.get("child") == child or one["pid"] == child]

    assert [one["call"] for one in ours] == ["task_newtask", "execve", "exit"]
    assert [one["name"] for one in events if one["call"] == "attach" and one["pid"] == os.getpid()]
    assert ours[0]["pid"] == os.getpid()
    assert ours[1]["path"] == "/bin/true"
    assert [name for name in tracefs.leftovers() if name.startswith(f"sysclone-{command.pid}-")] == []


@requires("tracefs")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_the_instance_goes_with_us(number, tmp_path):
    """However --system is ended, its instance of tracefs is removed."""
    with Started(("trace", "--system", "-o", str(tmp_path / "log"))) as command:
        assert "not seen" in command.process.stderr.readline()
        mine = [name for name in tracefs.leftovers() if name.startswith(f"sysclone-{command.pid}-")]
        assert len(mine) == 1
        command.send(number)
        command.process.wait(20)
    deadline = time.monotonic() + 10
    while set(mine) & set(tracefs.leftovers()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@requires("tracefs")
def test_the_next_one_removes_what_was_left(tmp_path):
    """An instance whose owner and helper were both killed is removed by the next that is made."""
    code = (
        "import os, signal; from sysclone._trace import tracefs; i = tracefs.Instance(64); os.kill(i._guard, 9); "
        "print(i.name, flush=True); os.kill(os.getpid(), 9)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        name = owner.stdout.read().strip()
        os.waitid(os.P_PID, owner.pid, os.WEXITED | os.WNOWAIT)
        # While the zombie is there nobody else takes the instance for left: another run of these tests sweeps too.
        assert name in tracefs.leftovers()
    tracefs.Instance(64).close()
    assert name not in tracefs.leftovers()


def test_a_full_output_ends_the_program():
    """When nobody reads the trace any more, the program is ended with it."""
    command = [*COMMAND, "trace", "--", "/bin/sh", "-c", "while :; do /bin/true & wait; done"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        process.stderr.read(100)
        process.stderr.close()
        assert process.wait(20) in (125, 141)
