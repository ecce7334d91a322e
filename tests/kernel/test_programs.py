"""Programs in a context: run and Popen."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
from features import requires
from helpers import ended, in_subprocess, state

import sysclone

PR_GET_DUMPABLE = 3
SMALLEST = (64 if sys.version_info < (3, 14) else 80) << 10
"""The bounds that CPython 3.14 sets to a stack leave subprocess itself no room in 64 KiB."""


def spawned_by_a_thread(stack_bytes, *arguments, **keywords):
    """The outcome of run in a thread with a stack of that size."""
    outcome = []

    def runs():
        try:
            outcome.append(sysclone.run(*arguments, **keywords).returncode)
        except BaseException as error:
            outcome.append(error)

    before = threading.stack_size(stack_bytes)
    try:
        thread = threading.Thread(target=runs)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    return outcome[0]


@pytest.mark.parametrize("stack_bytes", [SMALLEST, 96 << 10, 128 << 10, 256 << 10])
@pytest.mark.parametrize("setup", [None, lambda: None], ids=["plain", "setup"])
def test_a_thread_with_a_small_stack_may_run_programs(stack_bytes, setup):
    """A program is made from a thread with as small a stack as subprocess does with."""
    assert spawned_by_a_thread(stack_bytes, ["true"], preexec_fn=setup) == 0


@pytest.mark.parametrize(
    "setup",
    [lambda: os._exit(3), lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: 1 / 0],
    ids=["exits", "is killed", "raises"],
)
def test_a_setup_that_fails_leaves_nothing(setup):
    """A preexec_fn that ends the child raises SubprocessError; no zombie and no fd stays, and the program goes on."""
    with pytest.raises(subprocess.SubprocessError, match="preexec_fn"):
        sysclone.run(["true"], preexec_fn=setup)


@requires("root")
def test_a_change_of_ids_is_the_programs_alone():
    """The caller can still be traced and dump core after it ran a program under other ids."""
    libc = ctypes.CDLL(None)
    assert libc.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 1

    out = in_subprocess("""
        import ctypes, sysclone
        sysclone.run(["true"], user=65534, group=65534, extra_groups=[])
        print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
    """)

    assert out == "1\n"


def test_a_forgotten_program_is_reaped():
    """A Popen that was let go of while its program ran is reaped by the next one, as subprocess does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        program = sysclone.Popen(["cat"], stdin=subprocess.PIPE)
        stdin, program.stdin = program.stdin, None
        pid, pidfd = program.pid, os.pidfd_open(program.pid)
        del program
    assert state(pid) in ("R", "S", "D")
    stdin.close()
    assert ended(pidfd)
    os.close(pidfd)
    sysclone.run(["true"])
    assert state(pid) == ""


@requires("nobody")
def test_a_siblings_status_is_not_invented():
    """A sibling whose /proc entry hides its status from us has an unknown status: not 0."""
    mount = Path("/usr/bin/mount")
    assert mount.stat().st_mode & 0o4000, "a program with the set-user-id bit is needed"

    out = in_subprocess("""
        import os, subprocess, sys, sysclone, sysclone._hints.table
        sysclone.Popen, sysclone.Context  # what is imported late must be there before the change of ids

        def runs():
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            program = sysclone.Popen(
                ["/usr/bin/mount", "/no/such/thing"],
                context=sysclone.Context(parent="sibling"),
                stderr=subprocess.DEVNULL,
            )
            program.wait()
            print(program.status.known, program.status.exit_code, flush=True)

        os.chdir("/")
        maker = os.fork()
        if maker == 0:
            code = 1
            try:
                runs()
                code = 0
            finally:
                sys.excepthook(*sys.exc_info()) if code else None
                os._exit(code)
        os.waitpid(maker, 0)
        print(os.waitstatus_to_exitcode(os.wait()[1]))
    """)
    told, true = out.splitlines()

    assert true != "0"
    assert told in ("False None", f"True {true}")
