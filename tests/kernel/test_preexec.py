"""preexec_fn: what it changes is the program's, although it runs in the caller's memory."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading

import pytest
from helpers import in_subprocess

import sysclone

WORDS = ("SigBlk", "SigIgn", "SigCgt")


def words(preexec_fn, **keywords):
    """The signal words of a program's /proc/self/status."""
    text = sysclone.run(["cat", "/proc/self/status"], capture_output=True, text=True, preexec_fn=preexec_fn, **keywords)
    return {name: int(re.search(rf"^{name}:\s*(\w+)$", text.stdout, re.M)[1], 16) for name in WORDS}


def bit(number):
    """A signal's bit in those words."""
    return 1 << (number - 1)


def in_a_thread(function):
    """What function gives or raises in another thread."""
    out = []

    def runs():
        try:
            out.append(function())
        except BaseException as error:
            out.append(error)

    thread = threading.Thread(target=runs)
    thread.start()
    thread.join()
    return out[0]


@pytest.fixture
def variable():
    """A variable of the environment, which is to be as it was."""
    os.environ["SYSCLONE_ONE"] = "before"
    yield "SYSCLONE_ONE"
    del os.environ["SYSCLONE_ONE"]


def change_variables():
    """Set one, remove one, and set one past os.environ."""
    os.environ["SYSCLONE_TWO"] = "set"
    del os.environ["SYSCLONE_ONE"]
    os.putenv("SYSCLONE_THREE", "put")


@pytest.mark.parametrize("where", [lambda function: function(), in_a_thread], ids=["main", "thread"])
def test_the_environment_that_it_sets_is_the_programs(variable, where):
    """The program has the variables that preexec_fn set and lacks those it removed; the caller's are as they were."""
    before = dict(os.environ)
    out = where(lambda: sysclone.run(["env"], capture_output=True, text=True, preexec_fn=change_variables).stdout)
    theirs = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
    again = sysclone.run(["env"], capture_output=True, text=True).stdout.splitlines()

    assert theirs["SYSCLONE_TWO"] == "set" and theirs["SYSCLONE_THREE"] == "put"
    assert variable not in theirs
    assert theirs.keys() >= before.keys() - {variable}
    assert dict(os.environ) == before
    assert f"{variable}=before" in again and not {"SYSCLONE_TWO=set", "SYSCLONE_THREE=put"} & {*again}


@pytest.mark.parametrize("way", ["raises", "exits"])
def test_a_preexec_fn_that_fails_leaves_the_environment(variable, way):
    """os.environ is as it was after a preexec_fn that changed it and then raised or ended the child."""
    before = dict(os.environ)

    def fails():
        change_variables()
        if way == "exits":
            os._exit(3)
        raise KeyError

    with pytest.raises(subprocess.SubprocessError):
        sysclone.run(["true"], preexec_fn=fails)
    assert dict(os.environ) == before


def test_with_env_the_environment_is_that(variable):
    """As with subprocess, the program has exactly env, whatever preexec_fn does to os.environ."""
    done = sysclone.run(["/usr/bin/env"], env={"A": "1"}, capture_output=True, preexec_fn=change_variables)

    assert done.stdout == b"A=1\n"


@pytest.mark.parametrize("where", [lambda function: function(), in_a_thread], ids=["main", "thread"])
def test_a_signal_that_it_ignores_is_ignored_by_the_program_alone(where):
    """signal.signal in preexec_fn sets the program's disposition, in any thread, and neither table of the caller's."""
    handled = []
    before = signal.signal(signal.SIGUSR1, lambda *_: handled.append(1)), signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    ours = signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGUSR2)

    def sets():
        assert signal.signal(signal.SIGUSR1, signal.SIG_IGN) is ours[0]
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
        signal.signal(signal.SIGUSR2, lambda *_: None)

    try:
        found = where(lambda: words(sets))
        assert (signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGUSR2)) == ours
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR1, before[0])
        signal.signal(signal.SIGUSR2, before[1])

    assert found["SigIgn"] & (bit(signal.SIGUSR1) | bit(signal.SIGUSR2)) == bit(signal.SIGUSR1)
    assert handled == [1]


def test_the_mask_that_it_sets_is_the_programs():
    """signal.pthread_sigmask in preexec_fn tells and sets the mask that the program has, and leaves the caller's alone."""
    told = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:

        def sets():
            told.append(signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH}))
            told.append(signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1}))

        found = words(sets)
        after = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    assert found["SigBlk"] == bit(signal.SIGWINCH)
    assert told == [before | {signal.SIGUSR1}, before | {signal.SIGUSR1, signal.SIGWINCH}]
    assert after == before | {signal.SIGUSR1}


def test_bad_signals_are_refused_as_ever():
    """In a preexec_fn too, signal.signal refuses a number and a handler that there are not, and SIGKILL."""
    raised = []

    def sets():
        for number, handler in ((0, signal.SIG_IGN), (99, signal.SIG_IGN), (signal.SIGUSR1, 7), (signal.SIGKILL, 1)):
            try:
                signal.signal(number, handler)
            except Exception as error:
                raised.append(type(error))

    sysclone.run(["true"], preexec_fn=sets, check=True)
    assert raised == [ValueError, ValueError, TypeError, OSError]


def test_nothing_is_replaced_afterwards():
    """signal's and os's functions are their own again when no preexec_fn runs."""
    import _signal

    before = os.putenv, os.unsetenv, _signal.signal, _signal.getsignal, _signal.pthread_sigmask
    sysclone.run(["true"], preexec_fn=lambda: sysclone.run(["true"], preexec_fn=lambda: None))

    assert (os.putenv, os.unsetenv, _signal.signal, _signal.getsignal, _signal.pthread_sigmask) == before


def test_a_stack_that_runs_out_is_met_by_a_guard():
    """A preexec_fn that uses up the stack of a thread with little of it ends its child, and not the program."""
    out = in_subprocess("""
        import ctypes, subprocess, sys, threading, sysclone
        sys.setrecursionlimit(10**6)

        def deep(n):
            return n and max([n], key=lambda one: deep(one - 1))

        def runs():
            try:
                sysclone.run(["true"], preexec_fn=lambda: deep(100_000))
            except (subprocess.SubprocessError, RecursionError) as error:
                print(type(error).__name__)

        threading.stack_size(256 << 10)
        thread = threading.Thread(target=runs)
        thread.start()
        thread.join()
        print(sysclone.run(["true"]).returncode)
    """)

    assert out == "SubprocessError\n0\n"


def test_a_preexec_fn_is_refused_at_the_end_of_the_interpreter():
    """From 3.12 on a preexec_fn is a RuntimeError in atexit, as with subprocess, and a plain program is none."""
    out = in_subprocess("""
        import atexit, sys, sysclone
        sysclone.run(["true"])

        def ends():
            print(sysclone.run(["true"]).returncode)
            try:
                sysclone.run(["true"], preexec_fn=lambda: None)
            except RuntimeError:
                print("refused")
            else:
                print("run")

        atexit.register(ends)
    """)

    assert out in ("0\nrefused\n", "0\nrun\n")
