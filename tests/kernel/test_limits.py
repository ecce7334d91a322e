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

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
verbs = dict(
    start=lambda: sysclone.start(int).result(),
    copied=lambda: Context().call(int),
    namespace=lambda: Context(new=Namespace.UTS).call(int),
    run=lambda: sysclone.run(["true"]).returncode,
    timed=lambda: Context(share=Share.VM, timeout=5).call(int),
)

def attempt(run, spare):
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        pass
    for _ in range(spare):
        os.close(taken.pop())
    try:
        return run()
    except sysclone.CloneError as error:
        return error
    finally:
        for fd in taken:
            os.close(fd)
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
        import errno, os, resource, sysclone, sysclone._hints
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
