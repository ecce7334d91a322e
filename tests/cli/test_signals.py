"""Signals on their way to what sysclone runs: each arrives, each once, and none goes to a stranger."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

import pytest
from commandline import Terminal
from features import requires

# Tells of each signal that it gets; SIGTERM ends it.
TELLER = """
import os, signal
pipe, told = os.pipe()
os.set_blocking(told, False)
signal.set_wakeup_fd(told)
for name in ("SIGINT", "SIGHUP", "SIGUSR1", "SIGQUIT", "SIGWINCH", "SIGTERM"):
    signal.signal(getattr(signal, name), lambda *_: None)
signal.signal(signal.SIGRTMIN + 3, lambda *_: None)
print("ready", os.getpid(), flush=True)
while True:
    for number in os.read(pipe, 100):
        print(number, flush=True)
        if number == signal.SIGTERM:
            os._exit(7)
"""
PROGRAM = ("--", sys.executable, "-c", TELLER)


@pytest.mark.parametrize(
    "number", [signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGQUIT, signal.SIGWINCH, signal.SIGRTMIN + 3]
)
def test_a_signal_to_us_alone_reaches_the_program_once(started, number):
    """A signal that is sent to sysclone's pid is passed on to the program, once, and the program goes on."""
    one = started("run", *PROGRAM)
    assert one.line().startswith("ready")

    one.send(number)
    assert one.line() == str(int(number))
    one.send(signal.SIGTERM)

    # Signals are passed on in order: a second one of the first kind would have come before this.
    assert one.end() == (7, f"{int(signal.SIGTERM)}\n", "")


def test_sigterm_ends_a_program_that_does_not_catch_it(started):
    """SIGTERM to sysclone ends the program, and the exit status is the program's own: 143."""
    one = started("run", "--", "sh", "-c", "echo ready; exec sleep 60")
    assert one.line() == "ready"
    one.send(signal.SIGTERM)

    assert one.end() == (128 + signal.SIGTERM, "", "")


def test_killing_us_leaves_the_program_alone(started):
    """SIGKILL cannot be passed on: the program goes on, and still gets what is sent to itself."""
    one = started("run", *PROGRAM)
    program = int(one.line().split()[1])
    pidfd = os.pidfd_open(program)
    try:
        one.send(signal.SIGKILL)
        one.process.wait()
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        assert one.end()[:2] == (-signal.SIGKILL, f"{int(signal.SIGTERM)}\n")
        assert select.select([pidfd], [], [], 20)[0]
    finally:
        os.close(pidfd)


def test_ctrl_c_at_a_terminal_reaches_the_program_once():
    """Ctrl-C goes from the terminal to sysclone and the program alike: it is not passed on a second time."""
    with Terminal("run", *PROGRAM) as terminal:
        assert terminal.line().startswith("ready")
        terminal.type(b"\x03")
        assert terminal.line() == str(int(signal.SIGINT))
        terminal.process.send_signal(signal.SIGUSR1)
        assert terminal.line() == str(int(signal.SIGUSR1))
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.line() == str(int(signal.SIGTERM))

        assert terminal.process.wait(20) == 7


def test_ctrl_c_reaches_a_program_in_a_group_of_its_own():
    """A program that left our process group does not get Ctrl-C from the terminal: then it is passed on."""
    leaver = "import os; os.setpgid(0, 0)\n" + TELLER
    with Terminal("run", "--", sys.executable, "-c", leaver) as terminal:
        assert terminal.line().startswith("ready")
        terminal.type(b"\x03")
        assert terminal.line() == str(int(signal.SIGINT))
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.line() == str(int(signal.SIGTERM))

        assert terminal.process.wait(20) == 7


def test_ctrl_c_ends_a_program_that_does_not_catch_it():
    """Ctrl-C ends an ordinary program, and the exit status is 130."""
    with Terminal("run", "--", "sh", "-c", "echo ready; exec sleep 60") as terminal:
        assert terminal.line() == "ready"
        terminal.type(b"\x03")

        assert terminal.process.wait(20) == 130


def test_a_terminal_that_hangs_up():
    """SIGHUP of a terminal comes to the leader of the session alone, and is passed on."""
    reader, writer = os.pipe()
    program = f"import sys; sys.stdout = open({writer}, 'w')\n{TELLER}".replace("== signal.SIGTERM", "== signal.SIGHUP")
    with Terminal("run", "--", sys.executable, "-c", program, pass_fds=(writer,)) as terminal, open(reader) as told:
        os.close(writer)
        assert told.readline().startswith("ready")
        terminal.hang_up()

        assert told.readline() == f"{int(signal.SIGHUP)}\n"
        assert terminal.process.wait(20) == 7


def test_stop_and_continue(started):
    """SIGTSTP to sysclone stops the program and sysclone itself; SIGCONT continues both."""
    one = started("run", *PROGRAM, process_group=0)
    program = int(one.line().split()[1])

    one.send(signal.SIGTSTP)
    stopped = os.waitid(os.P_PID, one.pid, os.WSTOPPED)
    assert stopped is not None
    assert stopped.si_status == signal.SIGTSTP
    # The program is no child of ours, whose stop waitid would tell.
    deadline = time.monotonic() + 20
    while state_of(program) != "T":
        assert time.monotonic() < deadline, f"the program is in state {state_of(program)}"
        os.sched_yield()

    one.send(signal.SIGCONT)
    one.send(signal.SIGTERM)
    assert one.end() == (7, f"{int(signal.SIGTERM)}\n", "")


@requires("user_namespaces", "pid_namespaces")
def test_the_first_process_of_a_pid_namespace(started):
    """As pid 1 a program gets no signal that it does not catch: then it is killed in the signal's place, and that is said."""
    plain = started("run", "--new", "user,pid", "--", "sh", "-c", "echo ready; exec sleep 60")
    assert plain.line() == "ready"
    plain.send(signal.SIGTERM)
    status, _, messages = plain.end()
    assert status == 128 + signal.SIGKILL
    assert "SIGTERM is nothing to the first process of a pid namespace" in messages

    catching = started("run", "--new", "user,pid", *PROGRAM)
    assert catching.line() == "ready 1"
    catching.send(signal.SIGINT)
    assert catching.line() == str(int(signal.SIGINT))
    catching.send(signal.SIGTERM)
    assert catching.end() == (7, f"{int(signal.SIGTERM)}\n", "")


EARLY = """
import os, signal
from sysclone.cli._relay import Relay

class Target:
    def send(self, number, name):
        print(name, number, flush=True)

relay = Relay("here")
relay.catch()
os.kill(os.getpid(), signal.SIGUSR1)
os.kill(os.getpid(), signal.SIGTERM)
print("before", flush=True)
relay.begin(Target())
"""


def test_a_signal_before_the_program_is_there():
    """What comes before the program runs is kept, and passed on when it does."""
    done = subprocess.run([sys.executable, "-c", EARLY], capture_output=True, text=True, timeout=20, check=True)

    assert done.stdout.split("\n")[:-1] == ["before", f"here {int(signal.SIGUSR1)}", f"here {int(signal.SIGTERM)}"]


LATE = """
import os, signal, subprocess
from sysclone.cli._relay import Relay, Target

process = subprocess.Popen(["true"])
pidfd = os.pidfd_open(process.pid)
target = Target(process.pid, pidfd, False)
os.close(pidfd)
process.wait()
relay = Relay("here")
relay.catch()
relay.begin(target)
os.kill(os.getpid(), signal.SIGTERM)
target.send(signal.SIGTERM, "here")
"""


def test_a_signal_after_the_programs_end():
    """What comes when the program has ended hits nobody: no stranger with its pid, and not the exit status."""
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, timeout=20, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def state_of(pid: int) -> str:
    """The state letter of a process."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]
