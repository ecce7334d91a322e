"""The options for how a program begins and ends: signals, descriptors, personality, keyring, terminal, the tree, the report."""

from __future__ import annotations

import json
import os
import platform
import pty
import signal
import sys

import pytest
from features import requires
from seccomp import NUMBERS

LOOK = """
import ctypes, json, os
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
session = open("/proc/self/stat").read().rpartition(")")[2].split()
print(json.dumps({
    "ignored": int(status["SigIgn"], 16), "blocked": int(status["SigBlk"], 16),
    "personality": ctypes.CDLL(None).personality(0xFFFFFFFF), "slack": int(open("/proc/self/timerslack_ns").read()),
    "leads": os.getsid(0) == os.getpid(), "terminal": int(session[4]),
    "fds": {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/dev/fd/{fd}")},
}))
"""


def bits(*numbers):
    """Signals as a mask of /proc."""
    return sum(1 << (number - 1) for number in numbers)


def look(sysclone, *options, **keywords):
    """What a program sees of itself."""
    done = sysclone("run", *options, "--", sys.executable, "-I", "-S", "-c", LOOK, **keywords)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_signals_personality_and_slack(sysclone):
    """Signals are ignored and blocked as env(1) does, the personality is setarch's, and so for the timer slack."""
    seen = look(
        sysclone, "--ignore-signal", "hup,SIGUSR1", "--ignore-signal", "12", "--block-signal", "term,usr2",
        "--personality", "addr-no-randomize,uname-2.6", "--timer-slack-ns", "70000",
    )  # fmt: skip

    # Python itself ignores two more, and glibc's posix_spawn its own 32 and 33.
    assert seen["ignored"] & ~bits(signal.SIGPIPE, signal.SIGXFSZ, 32, 33) == bits(1, 10, 12)
    assert seen["blocked"] == bits(signal.SIGTERM, signal.SIGUSR2)
    assert (seen["personality"], seen["slack"]) == (0x0060000, 70000)


def test_what_was_blocked_stays_blocked(sysclone):
    """--block-signal adds to what our caller blocks, nameless signals too; --default-signal takes away what it ignores."""

    def careful():
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, 40})
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    seen = look(sysclone, "--block-signal", "usr2", "--default-signal", "hup", preexec_fn=careful)

    assert seen["blocked"] == bits(signal.SIGUSR1, signal.SIGUSR2, 40)
    assert not seen["ignored"] & bits(signal.SIGHUP)


def test_all_signals(sysclone):
    """all is every signal that can be ignored."""
    seen = look(sysclone, "--ignore-signal", "all")

    assert seen["ignored"] | bits(32, 33) == (1 << 64) - 1 & ~bits(signal.SIGKILL, signal.SIGSTOP)


def test_descriptors(sysclone, tmp_path):
    """Numbers are changed at once, swaps included; with --close-fds nothing else is open."""
    for name in "ab":
        (tmp_path / name).touch()
    a, b = (os.open(tmp_path / name, os.O_RDONLY) for name in "ab")
    try:
        swapped = look(sysclone, "--fd", f"{a}={b}", "--fd", f"{b}={a}", pass_fds=(a, b))["fds"]
        alone = look(sysclone, "--close-fds", "--fd", f"9={a}", pass_fds=(a, b))["fds"]
    finally:
        os.close(a)
        os.close(b)

    assert (swapped[str(a)], swapped[str(b)]) == (f"{tmp_path}/b", f"{tmp_path}/a")
    assert {fd: path for fd, path in alone.items() if path.startswith(str(tmp_path))} == {"9": f"{tmp_path}/a"}


SESSION_KEYRING = """
import ctypes, sys
said = ctypes.create_string_buffer(200)
KEYCTL_GET_KEYRING_ID, KEYCTL_DESCRIBE, KEY_SPEC_SESSION_KEYRING = 0, 6, -3
keyctl = lambda *arguments: ctypes.CDLL(None).syscall(int(sys.argv[1]), *arguments)
assert keyctl(KEYCTL_DESCRIBE, KEY_SPEC_SESSION_KEYRING, said, len(said)) > 0
print(said.value.decode().split(";")[-1], keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0))
"""


@requires("keyrings")
@pytest.mark.parametrize(("given", "name"), [("sysclone-test", "sysclone-test"), ("-", "_ses")])
def test_keyring(sysclone, given, name):
    """A session keyring has its name, and - is one without; it is not the caller's. /proc/keys would have everybody's."""
    look = [sys.executable, "-I", "-S", "-c", SESSION_KEYRING, str(NUMBERS[platform.machine()]["keyctl"])]
    ours = sysclone("run", "--", *look)
    theirs = sysclone("run", "--keyring", given, "--", *look)

    assert theirs.stdout.split()[0] == name, theirs.stderr
    assert theirs.stdout.split()[1] != ours.stdout.split()[1]


@requires("numa")
def test_memory_policy(sysclone):
    """The program's memory comes from the nodes by the mode."""
    done = sysclone("run", "--memory-policy", "interleave:0", "--", "cat", "/proc/self/numa_maps")

    assert {line.split()[1] for line in done.stdout.splitlines()} == {"interleave:0"}


def test_a_terminal_for_the_session(sysclone):
    """--controlling-terminal is that of the new session, and what it writes goes there."""
    ours, theirs = pty.openpty()
    try:
        name = os.ttyname(theirs)
        seen = look(sysclone, "--session", "--controlling-terminal", name)
        number = os.fstat(theirs).st_rdev
    finally:
        os.close(ours)
        os.close(theirs)

    minor = number & 0xFF | (number >> 20) << 8
    assert (seen["leads"], seen["terminal"]) == (True, os.major(number) << 8 | minor & 0xFF | (minor >> 8) << 20)


# --- run's own


def test_what_it_leaves_is_killed(sysclone):
    """--kill-tree kills what the program leaves, sessions of their own included; without it, it lives on."""
    script = "setsid sleep 60 <&- >&- 2>&- & echo $!"
    for options, lives in (((), True), (("--kill-tree",), False)):
        done = sysclone("run", *options, "--", "sh", "-c", script)
        pidfd = None
        try:
            pidfd = os.pidfd_open(int(done.stdout))
        except ProcessLookupError:
            pass
        try:
            assert (done.returncode, pidfd is not None) == (0, lives), options
        finally:
            if pidfd is not None:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                os.close(pidfd)


def test_what_it_started_ends_with_its_time(sysclone):
    """At the timeout, --kill-tree takes the descendants too: nobody is left to hold the pipe."""
    done = sysclone("run", "--timeout", "0.3", "--kill-tree", "--", "sh", "-c", "sleep 60 & sleep 60")

    assert (done.returncode, done.stderr) == (124, "sysclone run: sh was not done in 0.3 s: killed\n")


@pytest.mark.parametrize("more", [(), ("--kill-tree",)], ids=["alone", "tree"])
def test_grace(sysclone, more):
    """With --grace a program may end by itself at its time, and one that does not is killed."""
    waits = "echo ready; while :; do sleep 0.05; done"
    kind = sysclone(
        "run", "--timeout", "0.3", "--grace", "30", *more, "--", "sh", "-c", f"trap 'echo ended; exit' TERM; {waits}"
    )
    assert (kind.returncode, kind.stdout) == (124, "ready\nended\n")
    assert kind.stderr.endswith("terminated\n")

    stubborn = sysclone("run", "--timeout", "0.3", "--grace", "0.1", *more, "--", "sh", "-c", f"trap '' TERM; {waits}")
    assert (stubborn.returncode, stubborn.stdout) == (124, "ready\n")
    assert stubborn.stderr.endswith("killed\n")


def test_report(sysclone):
    """--report tells why the program ended, and what it and what it waited for have used."""
    burn = f"{sys.executable} -S -c 'x = bytearray(b\"x\") * (100 << 20)'; kill -PIPE $$"
    done = sysclone("run", "--report", "--", "sh", "-c", burn)

    assert done.returncode == 128 + signal.SIGPIPE
    first, second = done.stderr.splitlines()
    assert first.startswith("sysclone run: killed by SIGPIPE (13): it wrote to a pipe")
    assert second.startswith("sysclone run: the program and the children that it waited for: CPU 0.")
    peak = int(second.partition("peak memory ")[2].partition(" bytes")[0].replace(",", ""))
    assert 100 << 20 <= peak < 200 << 20


def test_report_of_a_small_program(sysclone):
    """Our own peak is not told as that of a smaller program, and that it is unknown is."""
    done = sysclone("run", "--report", "--", "true")

    assert "peak memory" not in done.stderr
    assert "\nunknown: peak_memory_bytes: no more than the " in done.stderr


# --- what is refused

REFUSED = [
    (["--ignore-signal", "9"], "--ignore-signal", "SIGKILL"),
    (["--ignore-signal", "0"], "--ignore-signal", "1 to 64"),
    (["--default-signal", "hupp"], "--default-signal", "did you mean"),
    (["--ignore-signal", "hup", "--default-signal", "hup"], "--ignore-signal", "and in default_signals"),
    (["--fd", "3"], "--fd", "N=M"),
    (["--fd", "3=1", "--fd", "3=2"], "--fd", "given twice"),
    (["--personality", "linux16"], "--personality", "did you mean linux32"),
    (["--keyring", ".x"], "--keyring", "begin with a dot"),
    (["--memory-policy", "bind"], "--memory-policy", "needs nodes"),
    (["--memory-policy", "bint:0"], "--memory-policy", "a mode of"),
    (["--timer-slack-ns", "-1"], "--timer-slack-ns", "between 0"),
    (["--controlling-terminal", "/dev/tty"], "--controlling-terminal", "session=True"),
    (["--grace", "1"], "--grace", "no --timeout"),
]


@pytest.mark.parametrize(("options", "option", "reason"), REFUSED, ids=lambda value: str(value)[:40])
def test_refusals(capfd, options, option, reason):
    """A value that makes no sense leaves with 125 before anything starts, and the message names the option and the reason."""
    from sysclone.cli import main

    assert main(["run", *options, "--", "echo", "started"]) == 125
    told = capfd.readouterr()
    assert (told.out, option in told.err.splitlines()[0], reason in told.err) == ("", True, True), told.err


def test_what_the_kernel_refuses(sysclone):
    """A descriptor that is not open, and a terminal that is none, are told by their steps."""
    for options, told in (
        (["--fd", "5=777"], "fcntl(F_DUPFD_CLOEXEC, 777): EBADF"),
        (["--session", "--controlling-terminal", "/dev/null"], "ioctl(TIOCSCTTY, /dev/null): ENOTTY"),
    ):
        done = sysclone("run", *options, "--", "true")
        assert (done.returncode, told in done.stderr) == (125, True), done.stderr


def test_call_has_them_too(sysclone):
    """A function in a light process has its own signal mask, and none of the options that are run's."""
    done = sysclone("call", "--block-signal", "usr1", "signal:pthread_sigmask", "0", "()")
    assert done.stdout == "{<Signals.SIGUSR1: 10>}\n", done.stderr
    done = sysclone("call", "--close-fds", "os:getpid")
    assert (done.returncode, "--close-fds" in done.stderr) == (125, True)
