"""Programs: what goes in and comes out, which fds and signals they have, what is told of one that cannot start."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from features import NOBODY, requires
from helpers import in_subprocess

import sysclone
from sysclone import CloneError, Context, Popen, run

LISTS_FDS = 'for fd in /proc/self/fd/*; do echo "${fd##*/}"; done'
FOUR = ("SigPnd", "SigBlk", "SigIgn", "SigCgt")


# --- in and out


def test_output_is_captured():
    """capture_output gives both streams, as bytes, and as text where that is asked for."""
    done = run(["sh", "-c", "echo out; echo err >&2; exit 3"], capture_output=True)
    text = run(["echo", "höher"], capture_output=True, text=True, encoding="utf-8")

    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 3)
    assert text.stdout == "höher\n"
    assert isinstance(done, subprocess.CompletedProcess)


@pytest.mark.parametrize("size", [0, 1, 65536, 3_000_000])
def test_input_goes_through(size):
    """Input of any size goes in while the output comes out: pipes that fill up block nobody."""
    data = os.urandom(size)

    assert run(["cat"], input=data, capture_output=True).stdout == data


def test_input_and_stdin_exclude_each_other():
    """Two sources of input, and two ends for the output, are ValueErrors as from subprocess."""
    with pytest.raises(ValueError, match="stdin and input"):
        run(["cat"], input=b"x", stdin=subprocess.DEVNULL)
    with pytest.raises(ValueError, match="capture_output"):
        run(["cat"], capture_output=True, stdout=subprocess.PIPE)


def test_stderr_goes_to_stdout():
    """stderr=STDOUT joins the two streams in order."""
    done = run(["sh", "-c", "echo 1; echo 2 >&2; echo 3"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    assert done.stdout == b"1\n2\n3\n"


def test_streams_may_change_places():
    """A program may have this program's stdout as stderr and the other way round."""
    out = in_subprocess("""
        import os, sys, sysclone
        one, two = os.pipe(), os.pipe()
        os.dup2(one[1], 1)
        os.dup2(two[1], 2)
        sysclone.run(["sh", "-c", "printf out; printf err >&2"], stdout=2, stderr=1)
        told = (os.read(one[0], 9), os.read(two[0], 9))
        raise SystemExit(0 if told == (b"err", b"out") else repr(told))
    """)

    assert out == ""


def test_env_is_the_whole_environment():
    """The program sees exactly the variables of env, and without it the caller's."""
    os.environ["SYSCLONE_SEEN"] = "yes"
    try:
        theirs = run(["/usr/bin/env"], env={"A": "1", "B": "é", "C": ""}, capture_output=True).stdout
        empty = run(["/usr/bin/env"], env={}, capture_output=True).stdout
        inherited = run(["/usr/bin/env"], capture_output=True).stdout
    finally:
        del os.environ["SYSCLONE_SEEN"]

    assert sorted(theirs.decode().splitlines()) == ["A=1", "B=é", "C="]
    assert empty == b""
    assert b"SYSCLONE_SEEN=yes\n" in inherited


def test_a_bad_env_is_refused():
    """A name with an equals sign is a ValueError, before anything starts."""
    with pytest.raises(ValueError, match="environment variable"):
        run(["true"], env={"A=B": "1"})


def test_path_is_that_of_env(tmp_path):
    """A bare name is looked up in the PATH of env, the first directory that has it as a program winning."""
    for name, text in (("a", "one"), ("b", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "prog").write_text(f"#!/bin/sh\necho {text}\n")
        (tmp_path / name / "prog").chmod(0o755)
    (tmp_path / "none").mkdir()
    path = ":".join(str(tmp_path / name) for name in ("none", "b", "a"))

    assert run(["prog"], env={"PATH": path}, capture_output=True).stdout == b"two\n"


def test_cwd_is_the_programs(tmp_path):
    """The program starts in cwd, and a relative program is looked for there; the caller stays where it was."""
    (tmp_path / "here").write_text("#!/bin/sh\npwd\n")
    (tmp_path / "here").chmod(0o755)
    before = os.getcwd()

    assert run(["./here"], cwd=tmp_path, capture_output=True).stdout.decode().strip() == str(tmp_path)
    assert os.getcwd() == before


def test_a_missing_cwd_is_named(tmp_path):
    """A cwd that is not there is told of as chdir's, not as the program's."""
    with pytest.raises(FileNotFoundError) as caught:
        run(["true"], cwd=tmp_path / "none")
    assert isinstance(caught.value, CloneError)
    assert caught.value.step == f"chdir({tmp_path}/none)"
    assert f"there is no {tmp_path}/none" in caught.value.hint


def test_check_raises_what_subprocess_raises():
    """check=True raises CalledProcessError with the status and the output, for codes and for signals."""
    for line, status in (("echo x; exit 3", 3), ("echo x; kill -KILL $$", -9)):
        with pytest.raises(subprocess.CalledProcessError) as caught:
            run(["sh", "-c", line], check=True, capture_output=True)
        assert (caught.value.returncode, caught.value.stdout) == (status, b"x\n")
    assert run(["true"], check=True).returncode == 0


@pytest.mark.parametrize("by", ["keyword", "context"])
def test_a_time_limit_kills(by):
    """After timeout seconds the program is killed and reaped, and TimeoutExpired has what it had written."""
    begun = time.monotonic()
    limit = {"timeout": 0.8} if by == "keyword" else {"context": Context(timeout=0.8)}
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        run(["sh", "-c", "echo begun; exec sleep 30"], capture_output=True, **limit)

    assert caught.value.output == b"begun\n"
    assert 0.8 <= time.monotonic() - begun < 25


def test_a_shell_line():
    """shell=True gives the line to /bin/sh, and what follows to its parameters."""
    assert run("echo $0 $(( 1 + 2 ))", shell=True, capture_output=True).stdout == b"/bin/sh 3\n"
    assert run(["echo $0 $1", "a", "b"], shell=True, capture_output=True).stdout == b"a b\n"


# --- fds


def fds_of_a_program(**keywords):
    """The fds of a program but its first three, by its own list; the one that it lists with is left out."""
    done = run(["sh", "-c", LISTS_FDS], capture_output=True, text=True, **keywords)
    keeps = keywords.get("pass_fds", ())
    return {int(fd) for fd in done.stdout.split()} - {0, 1, 2} - ({3} - set(keeps))


@pytest.fixture
def some_fds():
    """Five inheritable fds at 20, 30, … 60, closed afterwards."""
    numbers = [20, 30, 40, 50, 60]
    for number in numbers:
        os.dup2(2, number)
    yield numbers
    for number in numbers:
        os.close(number)


@pytest.mark.parametrize("keep", [(), (20,), (60, 20), (30, 40, 50), (20, 30, 40, 50, 60)])
def test_exactly_the_fds_asked_for_are_passed(some_fds, keep):
    """Of the inheritable fds the program has those of pass_fds, and no others."""
    assert fds_of_a_program(pass_fds=keep) == set(keep)


def test_an_fd_that_is_passed_stays_close_on_exec_here():
    """pass_fds hands over an fd that is close-on-exec, at its number, and leaves the caller's flag alone."""
    here, there = os.pipe()
    try:
        run(["sh", "-c", f"echo through > /proc/self/fd/{there}"], pass_fds=[there])
        assert not os.get_inheritable(there)
    finally:
        os.close(there)
    with open(here, "rb") as file:
        assert file.read() == b"through\n"


def test_without_close_fds_the_inheritable_ones_stay(some_fds):
    """close_fds=False leaves what is inheritable open, and closes what is close-on-exec."""
    os.set_inheritable(40, False)

    assert fds_of_a_program(close_fds=False) >= {20, 30, 50, 60}
    assert 40 not in fds_of_a_program(close_fds=False)


def test_a_closed_fd_to_pass_is_told():
    """An fd to pass that is not open is EBADF of the step fcntl, and no program runs."""
    with pytest.raises(CloneError) as caught:
        run(["true"], pass_fds=[999])
    assert (caught.value.errno, caught.value.step) == (errno.EBADF, "fcntl(999)")
    assert "descriptor 999 is not open" in caught.value.hint


def test_programs_of_eight_threads_have_their_own_fds():
    """While eight threads start programs with pipes, no program gets another's pipe: each sees the end of its input."""
    wrong, bare = [], []

    def spawns(number):
        for turn in range(6):
            text = f"{number} {turn}".encode()
            done = run(["sh", "-c", f"cat; {LISTS_FDS}"], input=text, capture_output=True, timeout=20)
            answer, _, fds = done.stdout.partition(b"0\n1\n2\n")
            wrong.extend([done] if answer != text or done.returncode else [])
            bare.extend(fds.split())

    threads = [threading.Thread(target=spawns, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong
    assert set(bare) <= {b"3"}


# --- signals


def signals_of(*before, **keywords):
    """The signal words of a program's /proc/self/status: pending, blocked, ignored, caught."""
    text = run(["cat", "/proc/self/status"], capture_output=True, text=True, **keywords).stdout
    # Whoever was started by glibc's posix_spawn, as by make, ignores libc's own two, 32 and 33, and so do its children.
    return {name: int(re.search(rf"^{name}:\s*(\w+)$", text, re.M)[1], 16) & ~(0b11 << 31) for name in FOUR}


def bit(number):
    """A signal's bit in the words of /proc/PID/status."""
    return 1 << (number - 1)


def test_a_program_has_plain_signals():
    """SIGPIPE and SIGXFSZ, which Python ignores, are at their defaults; nothing is blocked, caught or ignored."""
    ignored_here = {number for number in range(1, 32) if signal.getsignal(number) == signal.SIG_IGN}
    assert signal.SIGPIPE in ignored_here
    rest = sum(bit(number) for number in ignored_here - {signal.SIGPIPE, signal.SIGXFSZ})

    assert signals_of() == {"SigPnd": 0, "SigBlk": 0, "SigIgn": rest, "SigCgt": 0}


def test_restore_signals_may_be_left_off():
    """restore_signals=False leaves SIGPIPE ignored in the program, as subprocess does."""
    assert signals_of(restore_signals=False)["SigIgn"] & bit(signal.SIGPIPE)


def test_what_is_ignored_and_blocked_goes_through_exec():
    """A signal that the caller ignores or blocks is so in the program; a handler becomes the default."""
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN), signal.signal(signal.SIGUSR2, lambda *_: None)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})
    try:
        found = signals_of()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGUSR1, before[0])
        signal.signal(signal.SIGUSR2, before[1])

    assert found["SigBlk"] == bit(signal.SIGWINCH)
    assert found["SigIgn"] & (bit(signal.SIGUSR1) | bit(signal.SIGUSR2)) == bit(signal.SIGUSR1)
    assert found["SigCgt"] == 0


def test_ignored_handlers_may_be_cleared():
    """With clear_signal_handlers, also what the caller ignores is at its default in the program or stays: never caught."""
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        found = signals_of(context=Context(clear_signal_handlers=True))
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert found["SigCgt"] == found["SigBlk"] == 0


# --- programs that cannot start


def refused(tmp_path, *argv, **keywords):
    """The CloneError of a program that cannot start."""
    with pytest.raises(CloneError) as caught:
        run([str(one) for one in argv], **keywords)
    return caught.value


def test_no_such_program(tmp_path):
    """A path that is not there, and a name in no directory of PATH, are FileNotFoundErrors of execve that say so."""
    error = refused(tmp_path, tmp_path / "none")
    assert isinstance(error, FileNotFoundError) and error.errno == errno.ENOENT
    assert error.filename == str(tmp_path / "none")
    assert error.step == f"execve({tmp_path}/none)"
    assert error.hint == f"likely: there is no {tmp_path}/none"

    bare = refused(tmp_path, "no-such-program-anywhere")
    assert (bare.errno, bare.step) == (errno.ENOENT, "execve(no-such-program-anywhere)")
    assert "in any directory of PATH" in bare.hint


def test_a_directory(tmp_path):
    """A directory is a PermissionError that names it one."""
    error = refused(tmp_path, tmp_path)

    assert isinstance(error, PermissionError) and error.errno == errno.EACCES
    assert error.step == f"execve({tmp_path})"
    assert f"{tmp_path} is a directory" in error.hint


def test_no_permission(tmp_path):
    """A file without the x bit is a PermissionError that says how to give it."""
    path = tmp_path / "plain"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o644)
    error = refused(tmp_path, path)

    assert isinstance(error, PermissionError) and error.errno == errno.EACCES
    assert error.step == f"execve({path})"
    assert f"not executable for uid {os.geteuid()}\ntry: chmod +x {path}" in error.hint


@requires("nobody")
def test_no_permission_on_the_way(tmp_path):
    """A directory on the way that the program's new user may not search is EACCES of execve or of chdir."""
    closed = tmp_path / "closed"
    closed.mkdir(0o700)
    (closed / "prog").write_text("#!/bin/sh\n")
    (closed / "prog").chmod(0o755)
    error = refused(tmp_path, closed / "prog", user=NOBODY, extra_groups=[], group=NOBODY)

    assert (error.errno, error.step) == (errno.EACCES, f"execve({closed}/prog)")


@pytest.mark.parametrize(("ending", "hint"), [("", "which it needs to run, is not"), ("\r", "carriage return")])
def test_a_bad_interpreter_line(tmp_path, ending, hint):
    """A #! line that names no program is ENOENT, and the hint tells the interpreter from the script."""
    path = tmp_path / "script"
    path.write_bytes(f"#!/no/such/interpreter{ending}\n".encode())
    path.chmod(0o755)
    error = refused(tmp_path, path)

    assert isinstance(error, FileNotFoundError) and error.errno == errno.ENOENT
    assert error.step == f"execve({path})"
    assert hint in error.hint and str(path) in error.hint


@pytest.mark.parametrize(("data", "hint"), [(b"", "is empty"), (b"echo hello\n", "has no #! line")])
def test_no_program_at_all(tmp_path, data, hint):
    """An empty file, or text without a #! line, is ENOEXEC, and the hint says which."""
    path = tmp_path / "file"
    path.write_bytes(data)
    path.chmod(0o755)
    error = refused(tmp_path, path)

    assert (error.errno, error.step) == (errno.ENOEXEC, f"execve({path})")
    assert f"{path} " in error.hint and hint in error.hint


def test_a_program_open_for_writing(tmp_path):
    """A program that this process has open for writing is ETXTBSY, and the hint names the fd."""
    path = tmp_path / "busy"
    path.write_bytes(b"\x7fELF")
    path.chmod(0o755)
    with open(path, "ab") as file:
        error = refused(tmp_path, path)
        assert (error.errno, error.step) == (errno.ETXTBSY, f"execve({path})")
        assert f"as fd {file.fileno()}" in error.hint


def test_too_long_arguments(tmp_path):
    """An argument of more than 128 KiB is E2BIG, and the hint tells the bounds."""
    error = refused(tmp_path, "true", "x" * (1 << 17))

    assert (error.errno, error.step) == (errno.E2BIG, "execve(true)")
    assert "131072" in error.hint


def test_pipes_are_closed_when_it_cannot_start(tmp_path):
    """A program that cannot start leaves none of the pipes that were made for it, a hundred times."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(100):
        with pytest.raises(FileNotFoundError):
            Popen([tmp_path / "none"], stdin=-1, stdout=-1, stderr=-1)
    assert len(os.listdir("/proc/self/fd")) == before


# --- whoever else waits


@requires("pidfd_info_exit")
def test_the_status_is_right_with_sigchld_ignored():
    """With SIGCHLD ignored the kernel reaps by itself, and the status still comes from its record."""
    out = in_subprocess("""
        import signal, sysclone
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        for line in ("exit 3", "exit 0", "kill -TERM $$"):
            with sysclone.Popen(["sh", "-c", line]) as program:
                print(program.wait(), program.status)
    """)

    assert out == "3 exited with 3\n0 exited with 0\n-15 killed by SIGTERM (15)\n"


THIEF = """
import os, threading, sysclone
from sysclone import Context
stop = threading.Event()
stolen = []

def steals():
    while not stop.is_set():
        try:
            stolen.append(os.waitpid(-1, 0))
        except ChildProcessError:
            os.sched_yield()

thief = threading.Thread(target=steals)
thief.start()
"""


def test_a_thief_does_not_falsify_a_status():
    """While another thread waits for any child, each program's status is its own or unknown, and never 0."""
    out = in_subprocess(
        THIEF
        + """
try:
    for number in range(60):
        with sysclone.Popen(["sh", "-c", f"exit {number % 5 + 1}"]) as program:
            program.wait()
        status = program.status
        assert not status.known or status.exit_code == number % 5 + 1, status
        assert program.returncode == (status.exit_code if status.known else 255)
finally:
    stop.set()
    thief.join()
print(len(stolen) > 0)
""",
        seconds=30,
    )

    assert out == "True\n"


def test_a_thief_does_not_hurt_functions():
    """While another thread waits for any child, light and copied functions give their values and exits."""
    in_subprocess(
        THIEF
        + """
try:
    for number in range(25):
        assert sysclone.call(lambda: number) == number
        with sysclone.start(lambda: number) as task:
            assert task.result() == number
        for run in (sysclone.call, lambda *function: sysclone.start(*function).result()):
            try:
                run(os._exit, 3)
            except sysclone.TaskExited as error:
                assert error.exit_code == 3
            except sysclone.TaskLost as error:
                assert not error.status.known
            else:
                raise SystemExit("no error")
finally:
    stop.set()
    thief.join()
""",
        seconds=30,
    )


def test_output_of_python_is_all_there():
    """A Python program's output of some MiB on both streams arrives whole."""
    code = "import sys; sys.stdout.write('o' * 2_000_000); sys.stderr.write('e' * 2_000_000)"
    done = run([sys.executable, "-S", "-c", code], capture_output=True)

    assert (len(done.stdout), len(done.stderr)) == (2_000_000, 2_000_000)


def test_a_program_of_eight_threads_at_once():
    """Eight threads that start and wait for programs get each program's own status."""
    wrong = []

    def spawns(number):
        wrong.extend(code for _ in range(12) if (code := run(["sh", "-c", f"exit {number}"]).returncode) != number)

    threads = [threading.Thread(target=spawns, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert sysclone.run(["true"]).returncode == 0


@pytest.mark.parametrize(
    "keywords",
    [
        {"args": ["true\0x"]},
        {"args": ["true", "a\0b"]},
        {"args": ["true"], "cwd": "/tmp\0x"},
        {"args": ["true"], "env": {"A": "1\0B"}},
        {"args": ["true"], "user": 2**32},
        {"args": ["true"], "group": 2**32},
        {"args": ["true"], "extra_groups": [2**32]},
        {"args": ["true"], "pass_fds": [2**32 + 1]},
        {"args": ["true"], "process_group": 2**32},
    ],
    ids=["program", "argument", "cwd", "env", "user", "group", "extra_groups", "pass_fds", "process_group"],
)
def test_what_would_be_cut_short_is_refused(keywords):
    """A null byte in a string, and a number too large for its field, is a ValueError and starts nothing."""
    with pytest.raises((ValueError, OverflowError)):
        sysclone.run(**keywords)
