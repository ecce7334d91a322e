"""Descriptors, signals, environment and what is executed: each by what the kernel says of the task from within."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from steps_seen import KINDS, refusal, spawn

from sysclone import CloneError, Context, ContextError, Share, run

every_kind = pytest.mark.parametrize("kind", KINDS)


def files(count: int) -> list[int]:
    """So many different open files, at high numbers."""
    fds = []
    for number in range(count):
        fd = os.memfd_create(f"file-{number}")
        fds.append(fd)
    return fds


def placed(kind: str, fds: dict[int, int], numbers: list[int], **more: Any) -> list[str]:
    """Which file is at each number in a task with these fds."""
    look = lambda: "\n".join(os.readlink(f"/proc/self/fd/{number}") for number in numbers)  # noqa: E731
    script = "; ".join(f"readlink /proc/self/fd/{number} || echo" for number in numbers)
    told = spawn(kind, {"fds": fds}, look, ["sh", "-c", script], **more)
    return [line.partition("-")[2].partition(" ")[0] for line in told.splitlines()]


@every_kind
def test_fds_are_placed_all_at_once(kind):
    """Swaps, rings, one source for many and moves down are placed as if at one moment."""
    a, b, c = fds = files(3)
    try:
        assert placed(kind, {a: b, b: a}, [a, b]) == ["1", "0"]
        assert placed(kind, {a: b, b: c, c: a}, [a, b, c]) == ["1", "2", "0"]
        assert placed(kind, {a: c, b: c, 40: a, c: c}, [a, b, 40, c]) == ["2", "2", "0", "2"]
        assert [os.readlink(f"/proc/self/fd/{fd}").partition("-")[2][0] for fd in fds] == ["0", "1", "2"]
    finally:
        for fd in fds:
            os.close(fd)


def test_fds_of_a_copied_process_may_be_those_of_its_result():
    """A target that is the number of an fd of the library's is the task's: the result arrives none the less."""
    [a] = files(1)
    try:
        targets = dict.fromkeys(range(a + 1, a + 8), a)
        value = Context(fds=targets).call(
            lambda: (bytes(1 << 20), {os.readlink(f"/proc/self/fd/{n}") for n in targets})
        )
        assert len(value[0]) == 1 << 20
        assert value[1] == {"/memfd:file-0 (deleted)"}
    finally:
        os.close(a)


def test_fds_beside_pipes():
    """A source that is a standard stream is the creator's own one, and everything else is closed."""
    a, b = files(2)
    try:
        context = Context(fds={7: 1, a: b})
        told = run(["ls", "-l", "/proc/self/fd"], context=context, capture_output=True, text=True)
        ours = os.readlink("/proc/self/fd/1")
        there = dict(re.findall(r"(\d+) -> (.*)", told.stdout))
        assert there.pop("1").startswith("pipe:")
        assert there.pop("2").startswith("pipe:")
        assert there.pop("7") == ours
        assert there.pop(str(a)).startswith("/memfd:file-1")
        # Beside stdin there is the directory that is read.
        assert set(there) == {"0", "3"}
        with pytest.raises(ContextError, match="stdin, stdout or stderr"):
            run(["true"], context=Context(fds={1: a}), stdout=subprocess.PIPE)
    finally:
        os.close(a)
        os.close(b)


def signals(kind: str, fields: dict[str, Any], row: str) -> set[int]:
    """A signal set of /proc/self/status, from within."""
    text = spawn(kind, fields, Path("/proc/self/status").read_text, ["cat", "/proc/self/status"])
    bits = next(int(line.split()[1], 16) for line in text.splitlines() if line.startswith(row + ":"))
    return {number for number in range(1, 65) if bits >> (number - 1) & 1}


@every_kind
def test_signals(kind):
    """The mask and what is ignored are the task's own."""
    mask, ignored = {signal.SIGUSR1, signal.SIGRTMIN}, {signal.SIGHUP, signal.SIGPIPE}
    assert signals(kind, {"signal_mask": mask}, "SigBlk") == mask
    assert ignored <= signals(kind, {"ignored_signals": ignored}, "SigIgn")
    assert signals(kind, {"signal_mask": (), "ignored_signals": ignored}, "SigBlk") == set()
    if kind == "light":
        assert refused(kind, {"default_signals": {signal.SIGINT}}) == "default_signals"
        return
    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        assert signal.SIGUSR2 in signals(kind, {}, "SigIgn")
        assert signal.SIGUSR2 not in signals(kind, {"default_signals": {signal.SIGUSR2}}, "SigIgn")
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_environment_of_a_program():
    """A program has the environment of its context, and no other; beside env= it is refused."""
    context = Context(environment={"A": "1", "PATH": os.environ["PATH"]})
    told = run(["env"], context=context, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    assert sorted(told) == ["A=1", f"PATH={os.environ['PATH']}"]
    with pytest.raises(ContextError, match="env="):
        run(["env"], context=context, env={})


def test_environment_of_a_copied_process():
    """A copied process has it in os.environ and in C's, and its creator has its own."""
    before = dict(os.environ)
    told = Context(environment={"A": "é"}).call(lambda: (dict(os.environ), subprocess.check_output(["/usr/bin/env"])))
    assert told == ({"A": "é"}, "A=é\n".encode())
    assert dict(os.environ) == before


def test_argv0_and_executable(tmp_path):
    """A program may be called as one likes, be found elsewhere than by its name, or be an open file."""
    told = run(["sh", "-c", "echo $0"], context=Context(argv0="-login"), stdout=subprocess.PIPE)
    assert told.stdout == b"-login\n"
    told = run(["anything", "x"], context=Context(executable="/bin/echo"), stdout=subprocess.PIPE)
    assert told.stdout == b"x\n"
    fd = os.open("/bin/sh", os.O_PATH)
    try:
        for close_fds in (True, False):
            context = Context(executable=fd, argv0="-named", cwd="/")
            script = "echo $0; cd /proc/$$/fd; echo *"
            told = run(["sh", "-c", script], context=context, stdout=subprocess.PIPE, close_fds=close_fds, text=True)
            name, numbers = told.stdout.splitlines()
            assert name == "-named"
            # It is closed at exec.
            assert str(fd) not in numbers.split()
    finally:
        os.close(fd)


def test_executable_fd_of_a_script(tmp_path):
    """A script that is run from an fd stays open for its interpreter."""
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho script $1\n")
    script.chmod(0o755)
    fd = os.open(script, os.O_RDONLY | os.O_CLOEXEC)
    try:
        told = run(["s", "arg"], context=Context(executable=fd), stdout=subprocess.PIPE)
        assert told.stdout == b"script arg\n"
        os.unlink(script)
        assert run(["s", "gone"], context=Context(executable=fd), stdout=subprocess.PIPE).stdout == b"script gone\n"
    finally:
        os.close(fd)


def test_exec_refusals(tmp_path):
    """What cannot be executed by fd is an execveat error; both of two names are refused."""
    fd = os.memfd_create("nothing")
    try:
        with pytest.raises(CloneError) as caught:
            run(["x"], context=Context(executable=fd))
        assert (caught.value.step, caught.value.errno) == (f"execveat({fd})", errno.ENOEXEC)
        with pytest.raises(ContextError, match="executable"):
            run(["x"], context=Context(executable="/bin/true"), executable="/bin/true")
    finally:
        os.close(fd)
    with pytest.raises(CloneError) as caught:
        run(["x"], context=Context(executable=1000))
    assert (caught.value.step, caught.value.errno) == ("fcntl(1000)", errno.EBADF)


@every_kind
def test_bad_fds(kind):
    """A source that is not open, and a target beyond the limit, are the step's errors."""
    error = refusal(kind, {"fds": {9: 1000}})
    assert (error.step, error.errno) == ("fcntl(F_DUPFD_CLOEXEC, 1000)", errno.EBADF)
    error = refusal(kind, {"fds": {1 << 19: 0}} if sys.platform else {})
    assert error.errno in (errno.EBADF, errno.EINVAL, errno.EMFILE)


def refused(kind: str, fields: dict[str, Any]) -> str | None:
    """The field at which a task of the kind is refused."""
    with pytest.raises(ContextError) as caught:
        spawn(kind, fields, os.getpid, ["true"])
    return caught.value.field


def test_fields_that_make_no_sense():
    """A field that a kind of task cannot have is refused there, and never ignored."""
    for kind in ("light", "copied"):
        assert refused(kind, {"argv0": "x"}) == "argv0"
        assert refused(kind, {"executable": "/bin/sh"}) == "executable"
        assert refused(kind, {"share": Share.FILES, "fds": {3: 0}}) == "fds"
    assert refused("light", {"environment": {}}) == "environment"
    for fields, field in (
        ({"executable": 1}, "executable"),
        ({"executable": 9, "fds": {9: 0}}, "executable"),
        ({"ignored_signals": {9}}, "ignored_signals"),
        ({"ignored_signals": {10}, "default_signals": {10}}, "ignored_signals"),
        ({"environment": {"A=B": "x"}}, "environment"),
        ({"signal_mask": {0}}, "signal_mask"),
        ({"argv0": "a\0b"}, "argv0"),
        ({"fds": {-1: 0}}, "fds"),
    ):
        with pytest.raises(ContextError) as caught:
            Context(**fields)
        assert caught.value.field == field
