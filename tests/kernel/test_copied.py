"""Copied processes: memory of their own, results by pickle, and every other switch free."""

from __future__ import annotations

import os
import select
import tempfile
from contextlib import ExitStack

import pytest
from features import requires
from helpers import in_subprocess

import sysclone
from sysclone import Context, Share


@requires("pid_namespaces")
def test_a_time_limit_ends_the_init_of_a_pid_namespace():
    """As pid 1 of its namespace a process ignores the signals it sends itself: the time limit must come from outside."""
    out = in_subprocess("""
        import os, time, sysclone
        from sysclone import Context, Namespace
        begin = time.monotonic()
        try:
            Context(new=Namespace.PID, timeout=0.2).call(time.sleep, 15)
        except sysclone.TaskTimeout as error:
            print(error.still_running, time.monotonic() - begin < 15)
    """)

    assert out == "False True\n"


def test_a_time_limit_is_told_as_one():
    """A function that was ended for being late raises TaskTimeout, however slow the caller was to look at its clock."""
    in_subprocess("""
        import os, time, sysclone
        os.register_at_fork(after_in_parent=lambda: time.sleep(0.3))
        try:
            sysclone.Context(timeout=0.4).call(time.sleep, 15)
        except sysclone.TaskTimeout as error:
            assert not error.still_running
        else:
            raise SystemExit("no TaskTimeout")
    """)


def test_suspending_the_caller_is_refused():
    """CLONE_VFORK of a copied function would hold the GIL until its end: refused, at the field, before anything starts."""
    with pytest.raises(sysclone.ContextError) as caught:
        Context(suspend_caller=True).call(int)
    assert caught.value.field == "suspend_caller"


def test_a_result_nobody_awaits_is_written_into_no_other_file():
    """With the file table shared, a large result never goes to an fd number that means another file by then."""
    go_on, tell = os.pipe()
    task = Context(share=Share.FILES).start(lambda: (os.read(go_on, 1), bytes(200_000))[1])
    ended = os.dup(task.fileno())
    task.close()
    with ExitStack() as stack:
        others = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(5)]
        os.write(tell, b"x")
        assert select.select([ended], [], [], 10)[0]
        sizes = [os.fstat(one.fileno()).st_size for one in others]
    for fd in (go_on, tell, ended):
        os.close(fd)
    Context().call(int)
    assert sizes == [0] * 5


@requires("compiler")
def test_a_stack_is_refused():
    """A copied process goes on on a copy of its caller's stack: asking for another is refused at the field."""
    with pytest.raises(sysclone.ContextError) as caught:
        Context(stack_bytes=1 << 24).call(int)
    assert caught.value.field == "stack_bytes"
