"""At the limits: a clear error that names the step, and nothing left behind."""

from __future__ import annotations

import errno

import pytest
from features import requires
from helpers import in_subprocess

from sysclone import CloneError, Context, Share

FULL = """
import os, resource, subprocess, sysclone
from sysclone import Context, Namespace, Share
from leftovers import children
from helpers import full_table

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
verbs = dict(
    start=lambda: sysclone.start(int).result(),
    copied=lambda: Context().call(int),
    namespace=lambda: Context(new=Namespace.UTS).call(int),
    run=lambda: sysclone.run(["true"]).returncode,
    timed=lambda: Context(share=Share.VM, timeout=5).call(int),
)

def attempt(run, spare):
    with full_table(spare):
        try:
            return run()
        except sysclone.CloneError as error:
            return error
"""


def test_a_call_needs_no_fd():
    """A light call works with the file table full."""
    in_subprocess(FULL + "assert attempt(lambda: sysclone.call(int), 0) == 0")


@pytest.mark.parametrize("verb", ["start", "copied", "namespace", "run", "timed"])
@pytest.mark.parametrize("spare", [0, 1, 2])
def test_a_full_file_table_is_told(verb, spare):
    """With the file table full, the error is a CloneError with EMFILE and a step; no fd and no child stays."""
    in_subprocess(
        FULL
        + f"""
import errno
sysclone.call(int)
sysclone.run  # imported late: the import itself needs an fd
before = len(os.listdir("/proc/self/fd"))
answer = attempt(verbs["{verb}"], {spare})
assert answer == 0 or (answer.errno == errno.EMFILE and answer.step), answer
assert {spare} or answer != 0
assert not children()
assert len(os.listdir("/proc/self/fd")) == before
"""
    )


@requires("nobody")
@pytest.mark.parametrize("verb", ["call(int)", "start(int)", "Context().call(int)", 'run(["true"])'])
def test_too_many_processes_are_told(verb):
    """Under RLIMIT_NPROC, without privilege, the error is a CloneError with EAGAIN and a step, and no child stays."""
    in_subprocess(
        f"""
        import errno, os, resource, sysclone, sysclone._hints.table
        from leftovers import children
        sysclone.run, sysclone.Context().call(int)  # what is imported late must be there before the change of ids
        os.setgroups([])
        os.setresgid(65533, 65533, 65533)
        os.setresuid(65533, 65533, 65533)
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        try:
            sysclone.{verb}
        except BlockingIOError as error:
            assert isinstance(error, sysclone.CloneError) and error.errno == errno.EAGAIN and error.step
            print(error)
        else:
            raise SystemExit("not refused")
        assert not children()
        """
    )


def test_a_stack_that_cannot_be_had_is_told():
    """A stack larger than memory is a CloneError that names the stack, and not a limit on tasks; no thread stays."""
    with pytest.raises(CloneError) as caught:
        Context(share=Share.VM, stack_bytes=1 << 46).call(int)
    assert caught.value.errno in (errno.ENOMEM, errno.EAGAIN)
    assert "stack" in str(caught.value)


# --- namespaces and ids that cannot be had: class, errno, step, hint, and nothing left behind

REFUSED = """
import errno, os, sys, sysclone, sysclone._hints.table, sysclone._popen.popen
from sysclone import Context, Namespace, Share
from leftovers import look, settle
Context().call(int), sysclone.start(int).result(), sysclone.run(["true"])

def refused(verb, context):
    before = look()
    try:
        if verb == "run":
            sysclone.run(["true"], context=context)
        else:
            getattr(context.replace(share=Share.VM if verb.startswith("light") else Share(0)), verb.split()[1])(int)
    except sysclone.CloneError as error:
        left = settle(before, set())
        assert not left, left
        return error
    raise SystemExit(f"{verb}: not refused")

VERBS = "run", "light call", "light start", "copied call", "copied start"
"""

KINDS = {
    "MOUNT": ("NEWNS", "mnt"),
    "PID": ("NEWPID", "pid"),
    "NET": ("NEWNET", "net"),
    "UTS": ("NEWUTS", "uts"),
    "IPC": ("NEWIPC", "ipc"),
    "CGROUP": ("NEWCGROUP", "cgroup"),
}


@requires("user_namespaces", "root")
@pytest.mark.parametrize("kind", [*KINDS, "USER"])
def test_too_many_namespaces_are_told(kind):
    """Where user.max_*_namespaces is 0, every verb raises ENOSPC, and the hint names that limit, not disk."""
    name, short = KINDS.get(kind, ("NEWUSER", "user"))
    in_subprocess(
        """
import ctypes
assert ctypes.CDLL(None).unshare(0x10000000) == 0  # before there are helper threads
with open("/proc/self/uid_map", "w") as file:
    file.write("0 0 1")
"""
        + REFUSED
        + f"""
with open("/proc/sys/user/max_{short}_namespaces", "w") as file:
    file.write("0")
for verb in VERBS:
    error = refused(verb, Context(new=Namespace.{kind}))
    assert error.errno == errno.ENOSPC, error
    assert error.step.startswith("clone3(") and "{name}" in error.step, error
    assert error.hint == "likely: a limit, not disk: user.max_{short}_namespaces is 0\\n" \\
        "try: sysctl user.max_{short}_namespaces=15000", error
"""
    )


@requires("set_tid")
def test_a_taken_pid_is_told():
    """A pid that somebody has is a FileExistsError from every verb, whose hint names who has it."""
    in_subprocess(
        REFUSED
        + """
with open("/proc/self/comm") as file:
    me = file.read().strip()
for verb in VERBS:
    error = refused(verb, Context(tid=os.getpid()))
    assert isinstance(error, FileExistsError) and error.errno == errno.EEXIST, error
    assert error.step.startswith("clone3(") and f"set_tid=({os.getpid()},)" in error.step, error
    assert error.hint == f"likely: pid {os.getpid()} is taken by {me}", error
"""
    )


NOBODY_NOW = """
import pickle, traceback  # nobody may not be let into their folder
sysclone.Popen, sysclone._popen.popen
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
"""


@requires("nobody")
@pytest.mark.parametrize("kind", KINDS)
def test_namespaces_need_privilege(kind):
    """As nobody each namespace but a user one is a PermissionError from every verb, and the hint says what is missing."""
    name, short = KINDS[kind]
    in_subprocess(
        REFUSED
        + NOBODY_NOW
        + f"""
for verb in VERBS:
    error = refused(verb, Context(new=Namespace.{kind}))
    assert isinstance(error, PermissionError) and error.errno == errno.EPERM, error
    assert error.step.startswith("clone3(") and "{name}" in error.step, error
    assert "a new {short} namespace needs CAP_SYS_ADMIN, and this process (uid 65534)" in error.hint, error
    assert "Namespace.USER" in error.hint, error
"""
    )


@requires("nobody", "set_tid")
def test_a_chosen_pid_needs_privilege():
    """As nobody a chosen pid is a PermissionError from every verb, and the hint names the capability."""
    in_subprocess(
        REFUSED
        + NOBODY_NOW
        + """
for verb in VERBS:
    error = refused(verb, Context(tid=os.getpid()))
    assert isinstance(error, PermissionError) and error.errno == errno.EPERM, error
    assert "CAP_CHECKPOINT_RESTORE" in error.hint, error
"""
    )


def test_a_pid_beyond_the_last_is_told():
    """A pid above kernel.pid_max is EINVAL from every verb, and the hint tells the bound."""
    in_subprocess(
        REFUSED
        + """
with open("/proc/sys/kernel/pid_max") as file:
    most = int(file.read())
if most < 1 << 22:
    for verb in VERBS:
        error = refused(verb, Context(tid=1 << 22))
        assert error.errno == errno.EINVAL, error
        assert f"1 to {most}" in error.hint, error
"""
    )
