"""sysclone run on a terminal: when the program gets one of its own, and what keys and sizes do then."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from commandline import Terminal
from features import requires
from teller import telling

TELLER = telling('say("ready", os.getpid(), os.ttyname(0))')
PROGRAM = ("--", sys.executable, "-S", "-c", TELLER)
NEW = ("--new", "user,pid")


def size_of(terminal, columns, lines):
    """Give a terminal a size."""
    fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


def name_of(terminal):
    """The path of a terminal's other end."""
    return f"/dev/pts/{struct.unpack('i', fcntl.ioctl(terminal.master, 0x80045430, bytes(4)))[0]}"


def local_flags(terminal):
    """The local flags of a terminal: cooked has ICANON."""
    return termios.tcgetattr(terminal.master)[3]


def until(terminal, beginning):
    """The next line that begins like that."""
    while not (line := terminal.line()).startswith(beginning):
        pass
    return line


def test_without_asking_a_program_has_our_terminal():
    """A plain program has the terminal that we have, and the process group."""
    with Terminal("run", *PROGRAM) as terminal:
        assert until(terminal, "ready").split()[2] == name_of(terminal)
        terminal.type(b"end\n")
        assert terminal.process.wait(20) == 7


@pytest.mark.parametrize(
    "options", [("--pty",), pytest.param(NEW, marks=requires("user_namespaces", "pid_namespaces"))]
)
def test_a_terminal_of_its_own(options):
    """With --pty, and in a pid namespace, the program has a terminal of its own of our size; keys and status go through."""
    with Terminal("run", *options, *PROGRAM) as terminal:
        size_of(terminal, 91, 23)
        ready = until(terminal, "ready").split()
        assert ready[2] != name_of(terminal)
        terminal.type(b"hello\n")
        assert until(terminal, "line") == "line hello"
        terminal.type(b"\x03")
        until(terminal, "interrupted")
        size_of(terminal, 45, 11)
        while until(terminal, "size") != "size 45 11":
            pass
        terminal.type(b"end\n")
        assert terminal.process.wait(20) == 7
        assert local_flags(terminal) & termios.ICANON


@requires("root", "pid_namespaces")
def test_a_terminal_in_a_joined_pid_namespace(started):
    """With --join of a pid namespace the program has a terminal of its own too, whose Ctrl-C reaches it."""
    there = started("run", "--new", "pid", "--", "sh", "-c", "echo ready; read x")
    assert there.line() == "ready"
    pid = Path(f"/proc/{there.pid}/task/{there.pid}/children").read_text(encoding="ascii").split()[0]
    with Terminal("run", "--join", f"{pid},pid", *PROGRAM) as terminal:
        assert until(terminal, "ready").split()[2] != name_of(terminal)
        terminal.type(b"\x03")
        until(terminal, "interrupted")
        terminal.type(b"end\n")
        assert terminal.process.wait(20) == 7


@requires("user_namespaces", "pid_namespaces")
def test_no_pty_leaves_our_terminal():
    """--no-pty leaves a program in a pid namespace on our terminal."""
    # Its name would lead nowhere in there; the file is the same.
    program = "import os; print('file', os.fstat(0).st_rdev, flush=True)"
    with Terminal("run", "--no-pty", *NEW, "--", sys.executable, "-S", "-c", program) as terminal:
        assert until(terminal, "file").split()[1] == str(os.stat(name_of(terminal)).st_rdev)
        assert terminal.process.wait(20) == 0


def test_pty_without_a_terminal_is_refused(sysclone):
    """--pty is refused where standard input or output is no terminal, and a pid namespace goes without."""
    done = sysclone("run", "--pty", "--", "true")

    assert done.returncode == 125
    assert "no terminal" in done.stderr
    assert sysclone("run", "--no-pty", "--", "sh", "-c", "exit 3").returncode == 3


def test_ctrl_z_where_nobody_would_continue_us():
    """Where sysclone leads the session, and no shell would continue it, Ctrl-Z stops nothing for good."""
    with Terminal("run", "--pty", *PROGRAM) as terminal:
        until(terminal, "ready")
        terminal.type(b"\x1a")
        terminal.type(b"on\n")
        assert until(terminal, "line") == "line on"
        terminal.type(b"end\n")
        assert terminal.process.wait(20) == 7


def test_a_job_of_a_shell_is_stopped_and_continued():
    """As a shell's job, sysclone with --pty is stopped by Ctrl-Z with its program, and goes on with fg."""
    inner = f"{sys.executable} -m sysclone run --pty -- sh -c 'echo rea''dy; read line; echo got $line'"
    shell = ("bash", "--norc", "--noprofile", "--noediting", "-i")
    with Terminal("run", "--pty", "--", *shell) as terminal:
        terminal.type(f"{inner}\n".encode())
        # A prompt may stand before it.
        while not terminal.line().endswith("ready"):
            pass
        terminal.type(b"\x1a")
        while "Stopped" not in terminal.line():
            pass
        terminal.type(b"fg; echo ba''ck\n")
        while "run --pty" not in terminal.line():
            pass
        terminal.type(b"hello\n")
        while not terminal.line().endswith("got hello"):
            pass
        # What is typed before the shell has the terminal again is the program's.
        while not terminal.line().endswith("back"):
            pass
        terminal.type(b"exit 7\n")
        assert terminal.process.wait(20) == 7


def test_a_time_limit_gives_the_terminal_back():
    """A program that is killed for being late leaves our terminal as it was."""
    with Terminal("run", "--pty", "--timeout", "0.3", "--", "sleep", "60") as terminal:
        assert terminal.process.wait(20) == 124
        assert local_flags(terminal) & termios.ICANON


def test_a_killed_relay_hangs_up():
    """When sysclone is killed, the program's own terminal hangs up, and the program gets SIGHUP."""
    with Terminal("run", "--pty", "--", "sh", "-c", "echo ready $$; exec sleep 60") as terminal:
        pidfd = os.pidfd_open(int(until(terminal, "ready").split()[1]))
        try:
            terminal.process.kill()
            assert select.select([pidfd], [], [], 20)[0]
        finally:
            os.close(pidfd)


EARLY = """
import os, signal, threading
from sysclone.cli._relay import Relay

class Target:
    def has_terminal(self, number): return True
    def send(self, number, name):
        print("sent", number, flush=True)
        if number == signal.SIGTERM:
            done.set()

done = threading.Event()
relay = Relay("here")
relay.block()
os.kill(os.getpid(), signal.SIGUSR1)
relay.keep_early()
print("made", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
relay.begin(Target())
assert done.wait(15)
"""


def test_what_comes_before_the_program_reaches_it_once():
    """A signal from before the program is kept and passed on, one from after it too, and each once."""
    done = subprocess.run([sys.executable, "-c", EARLY], capture_output=True, text=True, timeout=20, check=True)

    assert done.stdout.split("\n")[:-1] == ["made", f"sent {int(signal.SIGUSR1)}", f"sent {int(signal.SIGTERM)}"]


def test_the_program_has_our_mask():
    """The program has the signal mask that sysclone was started with, although signals wait while it is made."""
    command = [sys.executable, "-m", "sysclone", "run", "--", "grep", "SigBlk", "/proc/self/status"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR2}),
    )

    assert int(done.stdout.split()[1], 16) == 1 << (signal.SIGUSR2 - 1)
