"""Many threads that start programs at once, while signals come, fds open and close and the environment changes."""

from __future__ import annotations

import shutil
import threading

import pytest
from features import requires
from gate import Gate
from helpers import in_subprocess

import sysclone

SIXTEEN = """
import os, signal, subprocess, sys, threading, sysclone

# Tells its fds, its word of the environment, and what it read; leaves with its number.
LINE = 'for fd in /proc/self/fd/*; do printf "${fd##*/} "; done; echo; echo "$SYSCLONE_WORD"; cat; exit $1'
WORDS = {"long" * 500, "s", "middle" * 20}
USER = [{"user": 65534, "group": 65534, "extra_groups": []}] if os.getuid() == 0 else []
WAYS = [{}, {"preexec_fn": lambda: os.umask(0o77)}, {"start_new_session": True}, *USER]
alarms, wrong, stop = [], [], threading.Event()
os.environ["SYSCLONE_WORD"] = "s"

def spawns(number):
    for turn in range(int(sys.argv[1])):
        here, there = os.pipe()
        text = f"{number} {turn}".encode()
        try:
            done = sysclone.run(["sh", "-c", LINE, "sh", str(number + 1)], input=text, capture_output=True, timeout=30,
                                pass_fds=[there], **WAYS[(number + turn) % len(WAYS)])
        except BaseException as error:
            wrong.append(repr(error))
            continue
        finally:
            os.close(here)
            os.close(there)
        fds, word, back = done.stdout.split(b"\\n", 2)
        # The one that is passed, the three, and the one that the shell lists with.
        beyond = set(map(int, fds.split())) - {0, 1, 2, there}
        if done.returncode != number + 1 or back != text or word.decode() not in WORDS or len(beyond) > 1 or not fds:
            wrong.append((number, turn, done.returncode, there, fds, word[:20], back, done.stderr))

def opens():
    while not stop.is_set():
        fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
        for fd in fds:
            os.set_inheritable(fd, True)
        for fd in fds:
            os.close(fd)

def changes():
    while not stop.is_set():
        for word in WORDS:
            os.environ["SYSCLONE_WORD"] = word
            os.environ[f"SYSCLONE_{len(word)}"] = word
            del os.environ[f"SYSCLONE_{len(word)}"]

signal.signal(signal.SIGALRM, lambda *_: alarms.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
threads = [threading.Thread(target=spawns, args=(number,)) for number in range(16)]
others = [threading.Thread(target=opens), threading.Thread(target=changes)]
for thread in others + threads:
    thread.start()
for thread in threads:
    thread.join()
signal.setitimer(signal.ITIMER_REAL, 0)
stop.set()
for thread in others:
    thread.join()
print(wrong[:3], len(alarms) > 10, len(os.listdir("/proc/self/fd")) - 1)
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("none left")
"""


def test_sixteen_threads_at_once():
    """Each program of sixteen threads has its own fds, input, environment and status, and none is left or lost."""
    out = in_subprocess(SIXTEEN, 6, seconds=50)

    assert out == "[] True 3\nnone left\n"


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_sixteen_threads_for_long():
    """The same, a few thousand times."""
    assert in_subprocess(SIXTEEN, 300, seconds=1200) == "[] True 3\nnone left\n"


@requires("root", "fanotify_exec")
@pytest.mark.parametrize("setup", [None, lambda: None], ids=["plain", "preexec_fn"])
def test_a_slow_exec_stops_only_its_own_thread(tmp_path, setup):
    """While the kernel lets an exec wait, other threads run, and start and end other programs."""
    program = tmp_path / "slow"
    shutil.copy("/bin/true", program)
    gate = Gate(program)
    codes = []
    try:
        thread = threading.Thread(target=lambda: codes.append(sysclone.run([program], preexec_fn=setup).returncode))
        thread.start()
        event = gate.arrives()
        for _ in range(3):
            assert sysclone.run(["sh", "-c", "exit 3"]).returncode == 3
            assert sysclone.run(["sh", "-c", "exit 4"], preexec_fn=lambda: None).returncode == 4
            assert sysclone.call(lambda: 5) == 5
        assert thread.is_alive() and codes == []
        gate.let_through(event)
        thread.join(20)
    finally:
        gate.close()
        thread.join(20)

    assert codes == [0]


def test_many_wait_for_one():
    """Eight threads that wait for one program, with and without a limit, all get its status."""
    codes = []
    program = sysclone.Popen(["sh", "-c", "read line; exit 5"], stdin=-1)

    def waits(limit):
        codes.append(program.wait(limit))

    threads = [threading.Thread(target=waits, args=(None if number % 2 else 20,)) for number in range(8)]
    for thread in threads:
        thread.start()
    program.stdin.close()
    for thread in threads:
        thread.join()

    assert codes == [5] * 8


def test_signals_to_one_that_ends_reach_nobody_else():
    """Threads that signal a program over and over while another waits for it hit it or nobody, and no error comes."""
    errors, done = [], threading.Event()
    for _ in range(20):
        with sysclone.Popen(["true"]) as program:

            def sends(program=program):
                while program.returncode is None and not done.is_set():
                    try:
                        program.send_signal(0)
                    except BaseException as error:
                        errors.append(error)

            threads = [threading.Thread(target=sends) for _ in range(3)]
            for thread in threads:
                thread.start()
            program.wait()
            for thread in threads:
                thread.join()
    assert errors == []
