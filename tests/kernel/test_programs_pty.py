"""Programs on a terminal of their own: its size, its session and job control, and what is typed and written there."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest
from helpers import ended
from teller import telling

import sysclone
from sysclone import ContextError, Popen

# It tells first who it is on its terminal.
TELLER = telling("""
say(os.getsid(0) == os.getpid(), os.tcgetpgrp(0) == os.getpgrp(), [os.isatty(n) for n in (0, 1, 2)], os.ctermid())
say("size", *os.get_terminal_size())
""")


class Sitting:
    """Somebody at a program's terminal, who reads line by line."""

    def __init__(self, program):
        self.terminal = program.terminal
        self.buffer = b""

    def line(self):
        """The next line, without what the terminal echoes of control characters."""
        while b"\n" not in self.buffer:
            assert select.select([self.terminal], [], [], 20)[0], self.buffer
            piece = self.terminal.read()
            assert piece, self.buffer
            self.buffer += piece
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.decode().strip().removeprefix("^C").removeprefix("^Z")


@pytest.fixture
def teller():
    """A program that tells, and somebody at its terminal."""
    with Popen([sys.executable, "-S", "-c", TELLER], pty=(100, 30)) as program:
        yield program, Sitting(program)
        program.kill()


def test_it_leads_a_session_on_its_terminal(teller):
    """The program leads a session, is in the foreground of its terminal, and has it as all three streams."""
    _, seat = teller
    assert seat.line() == "True True [True, True, True] /dev/tty"
    assert seat.line() == "size 100 30"


def test_a_resize_is_told(teller):
    """A new size reaches the program by SIGWINCH, and the same size does not."""
    program, seat = teller
    seat.line(), seat.line()
    program.terminal.resize(100, 30)
    program.terminal.resize(40, 10)
    assert seat.line() == "size 40 10"
    assert program.terminal.size == (40, 10)


def test_keys_are_typed(teller):
    """What is written is read by the program as a line, echoed before; Ctrl-C interrupts, Ctrl-D ends the input."""
    program, seat = teller
    seat.line(), seat.line()
    program.terminal.write(b"hello\n")
    assert [seat.line(), seat.line()] == ["hello", "line hello"]
    program.terminal.write(b"\x03")
    assert seat.line() == "interrupted"
    program.terminal.write(program.terminal.end_of_file())
    assert program.wait(20) == 0
    assert program.terminal.read() in (b"", b"^D\b\b")
    assert program.terminal.read() == b""


def test_ctrl_c_ends_a_plain_program():
    """Ctrl-C at the terminal ends a program that does not catch it, by SIGINT."""
    with Popen(["sh", "-c", "echo ready; exec sleep 60"], pty=True) as program:
        assert Sitting(program).line() == "ready"
        assert program.terminal.foreground == program.pid
        program.terminal.write(b"\x03")
        assert program.wait(20) == -signal.SIGINT


def test_job_control_works(tmp_path):
    """A shell there has job control: Ctrl-Z stops its job, fg puts it in the foreground again, and Ctrl-C reaches it."""
    # No child of its own: one that is stopped between vfork and exec holds its parent, who then cannot stop.
    (tmp_path / "job").write_text("""
import signal
# Waited for, and not handled: a handler that runs just before pause() would be asked only after it.
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCONT, signal.SIGINT])
print("ready", flush=True)
while signal.sigwait([signal.SIGCONT, signal.SIGINT]) == signal.SIGCONT: print("resumed", flush=True)
print("stopping", flush=True)
""")
    shell = ["bash", "--norc", "--noprofile", "--noediting", "-i"]
    with Popen(shell, pty=True, env={**os.environ, "PS1": "", "PS2": ""}) as program:
        seat, keys = Sitting(program), program.terminal

        def until(line):
            while line not in seat.line():
                pass

        keys.write(f"{sys.executable} -S {tmp_path}/job\n".encode())
        until("ready")
        assert keys.foreground not in (0, program.pid)
        keys.write(b"\x1a")
        until("Stopped")
        # Two words, so that the echo of the line is not taken for its output.
        keys.write(b"fg; echo ba''ck; exit 7\n")
        until("resumed")
        assert keys.foreground not in (0, program.pid)
        keys.write(b"\x03")
        until("stopping")
        until("back")
        assert program.wait(20) == 7


def test_a_hang_up_ends_the_session():
    """Leaving the with block hangs up: the program, and what it has in the foreground, gets SIGHUP."""
    with Popen(["sh", "-c", "sh -c 'echo $$; exec sleep 60'; :"], pty=True) as program:
        pidfd = os.pidfd_open(int(Sitting(program).line()))
    try:
        assert program.returncode == -signal.SIGHUP
        assert ended(pidfd)
    finally:
        os.close(pidfd)


def test_communicate_talks():
    """communicate types the input and its end, and gives all that was written, echo and all."""
    with Popen(["sh", "-c", "stty -echo; echo begun; cat; exit 3"], pty=True) as program:
        out, err = program.communicate(b"one\ntwo")
    assert out.replace(b"one\r\ntwo", b"", 1).startswith((b"begun", b"one", b"two"))
    assert b"two" in out and err is None
    assert program.returncode == 3


def test_much_output_does_not_block():
    """A program that writes more than a terminal holds goes on while communicate and run read."""
    done = sysclone.run(["seq", "100000"], pty=True, check=True)

    assert done.stdout.splitlines() == [str(number).encode() for number in range(1, 100001)]


def test_much_input_does_not_block():
    """More lines than a terminal holds are typed as the program reads them."""
    data = b"".join(b"%d\n" % number for number in range(5000))
    done = sysclone.run(["sh", "-c", "stty -echo; sleep 0.1; cat"], pty=True, input=data)

    assert done.stdout.splitlines()[-1] == b"4999"
    assert len([line for line in done.stdout.splitlines() if line.isdigit()]) >= 5000


def test_a_time_limit_ends_it():
    """communicate with a timeout raises what was written, may be called again, and run kills."""
    with Popen(["sh", "-c", "echo begun; sleep 60"], pty=True) as program:
        assert select.select([program.terminal], [], [], 20)[0]
        for _ in range(2):
            with pytest.raises(subprocess.TimeoutExpired) as caught:
                program.communicate(timeout=0.2)
            assert caught.value.output == b"begun\r\n"
        program.kill()
    with pytest.raises(subprocess.TimeoutExpired):
        sysclone.run(["sleep", "60"], pty=True, timeout=0.1)


def test_streams_may_be_elsewhere():
    """A stream that is given is not the terminal; the terminal is the session's all the same."""
    line = "test -t 0 && test ! -t 1 && test -t 2 && echo yes > /dev/tty; echo out"
    with Popen(["sh", "-c", line], pty=True, stdout=subprocess.PIPE) as program:
        with pytest.raises(ValueError, match="pty and a pipe"):
            program.communicate()
        assert program.stdout.read() == b"out\n"
        assert Sitting(program).line() == "yes"


@pytest.mark.parametrize("size", [(1, 2, 3), (80, -1), (70000, 2), ("80", 24), [80, 24]])
def test_a_wrong_size_is_refused(size):
    """A size that is none is a ContextError of the field, and no pty is left."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ContextError) as caught:
        Popen(["true"], pty=size)
    assert caught.value.field == "pty"
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_failed_start_leaves_no_pty(tmp_path):
    """A program that is not there leaves no fd of its terminal."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with pytest.raises(FileNotFoundError):
            Popen([tmp_path / "none"], pty=True)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_pty_without_stdio():
    """Where 0, 1 and 2 are closed, the pty's own fds stay clear of them and the program has its terminal."""
    code = """
import os, sysclone, sysclone._popen.popen, sysclone._popen.pty, sysclone._popen.terminal, sysclone._popen.run
kept = os.dup(1)
for fd in (0, 1, 2): os.close(fd)
done = sysclone.run(["sh", "-c", "test -t 0 && test -t 1 && test -t 2 && tty"], pty=True)
os.write(kept, done.stdout)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert out.stdout.startswith("/dev/pts/")
