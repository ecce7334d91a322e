"""Seccomp filters and Landlock rules: what is refused in the task, what is refused of them, and what is left of nothing."""

from __future__ import annotations

import errno
import os
import platform
import signal
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
import seccomp as by_hand
from features import NOBODY, requires
from steps_seen import KINDS, refusal, spawn

from sysclone import (
    Context,
    ContextError,
    Landlock,
    SeccompFilter,
    Share,
    Unsupported,
    run,
)
from sysclone._context import seccomp_filter
from sysclone._steps import filters, landlock

every_kind = pytest.mark.parametrize("kind", KINDS)
ODD = errno.EOWNERDEAD
ARCH = by_hand.AUDIT_ARCH[platform.machine()]


def returning(action: int) -> bytes:
    """A program that gives every call the same answer."""
    return struct.pack("HBBI", 6, 0, 0, action)


def denied(function: Any, *arguments: Any) -> int:
    """The errno that a call is refused with, or 0."""
    try:
        function(*arguments)
    except OSError as error:
        return error.errno or 0
    return 0


@requires("seccomp", "libseccomp")
@every_kind
def test_filter_by_rules(kind):
    """A call that a rule refuses is refused in the task, with its errno and under its conditions; the creator's is not."""
    rules = {
        ("mkdir", "mkdirat"): "EOWNERDEAD",
        "socket": ("EXDEV", (0, "==", socket.AF_INET)),
        "kill": ("EUCLEAN", (1, "&", 0xFF, signal.SIGUSR1)),
    }
    fields = {"no_new_privs": True, "seccomp": SeccompFilter("allow", rules)}
    told = spawn(
        kind,
        fields,
        lambda: (
            denied(os.mkdir, "/tmp"), denied(lambda: socket.socket(socket.AF_INET).close()),
            denied(lambda: socket.socket(socket.AF_UNIX).close()), denied(os.kill, os.getpid(), signal.SIGUSR1),
            denied(os.kill, os.getpid(), 0),
        ),
        ["sh", "-c", "mkdir /tmp/$$/x 2>&1; grep Seccomp: /proc/self/status"],
    )  # fmt: skip
    if kind == "program":
        assert os.strerror(ODD) in told
        assert "Seccomp:\t2" in told
    else:
        assert told == (ODD, errno.EXDEV, 0, errno.EUCLEAN, 0)
    assert denied(os.mkdir, "/tmp") == errno.EEXIST


@requires("seccomp")
@every_kind
def test_filter_that_is_ready(kind):
    """A program of bytes is taken as it is; one that the kernel does not take is the step's error."""
    getpid = {"x86_64": 39, "aarch64": 172}[platform.machine()]
    code = struct.pack("HBBIHBBI", 0x20, 0, 0, 0, 0x15, 0, 1, getpid) + returning(0x50000 | ODD) + returning(0x7FFF0000)
    fields = {"no_new_privs": True, "seccomp": code}
    told = spawn(kind, fields, lambda: denied(raw_getpid), ["grep", "Seccomp_filters", "/proc/self/status"])
    assert told == ODD if kind != "program" else int(told.split()[1]) >= 1
    # A jump out of itself, after a plain answer to all that is looked at before.
    broken = returning(0x7FFF0000) + struct.pack("HBBI", 0x15, 200, 200, 1)
    error = refusal(kind, {"no_new_privs": True, "seccomp": broken})
    assert (error.step, error.errno) == ("seccomp(SECCOMP_SET_MODE_FILTER)", errno.EINVAL)


def raw_getpid() -> None:
    """getpid, with its refusal."""
    from sysclone import _core

    _core.syscall("getpid")


@requires("nobody", "seccomp", "landlock")
@every_kind
def test_filters_need_no_new_privs(kind):
    """Nobody may have a filter or Landlock with no_new_privs alone, and the hint says so."""

    def as_nobody() -> list[tuple[str, int, str]]:
        fields = [{"seccomp": returning(0x7FFF0000)}, {"landlock": Landlock(read=["/"])}]
        errors = [refusal(kind, one) for one in fields]
        for one in fields:
            spawn(kind, {**one, "no_new_privs": True}, os.getpid, ["true"])
        return [(error.step.partition("(")[0], error.errno, error.hint) for error in errors]

    seccomp, landlock = Context(uid=NOBODY, gid=NOBODY, groups=(), cwd="/").call(as_nobody)
    assert seccomp[:2] == ("seccomp", errno.EACCES)
    assert landlock[:2] == ("landlock_restrict_self", errno.EPERM)
    assert "no_new_privs=True" in seccomp[2]
    assert "no_new_privs=True" in landlock[2]


@requires("landlock")
@every_kind
def test_landlock(kind, tmp_path):
    """What is not left is refused: reading, writing, a file by itself, and what is outside."""
    for name in ("read", "write", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    (tmp_path / "single").write_text("s")
    system = [path for path in ("/usr", "/bin", "/lib", "/lib64", "/etc", "/root", "/proc") if os.path.exists(path)]
    rules = Landlock(read=[*system, tmp_path / "read"], write=[tmp_path / "write", "/dev"],
                     rules={tmp_path / "single": ["read_file"]})  # fmt: skip
    fields = {"no_new_privs": True, "landlock": rules, "cwd": tmp_path}

    def tries() -> list[bool]:
        return [
            not denied(Path("read/file").read_text), not denied(Path("read/x").write_text, "x"),
            not denied(Path("write/x").write_text, "x"), not denied(Path("other/file").read_text),
            not denied(Path("single").read_text), not denied(Path("single").write_text, "x"),
        ]  # fmt: skip

    acts = ("cat read/file", "touch read/x", "touch write/x", "cat other/file", "cat single", "cp /etc/passwd single")
    script = "; ".join(f"{act} >/dev/null 2>&1 && echo yes || echo no" for act in acts)
    told = spawn(kind, fields, tries, ["sh", "-c", script])
    if kind == "program":
        told = [word == "yes" for word in told.split()]
    assert told == [True, False, True, False, True, False]
    (tmp_path / "other" / "x").write_text("the creator is not bound")


@requires("landlock")
def test_landlock_of_the_network_and_of_signals():
    """Ports are refused but those that are left, and signals do not leave the sandbox, where the kernel has that."""
    version = landlock.abi()

    def connects(port: int) -> int:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port))

    with socket.create_server(("127.0.0.1", 0)) as here, socket.create_server(("127.0.0.1", 0)) as there:
        left, other = here.getsockname()[1], there.getsockname()[1]
        rules = Landlock(read=["/"], tcp_connect=[left], tcp_bind=[])
        if version < 4:
            with pytest.raises(Unsupported):
                Context(no_new_privs=True, landlock=rules).call(os.getpid)
        context = Context(share=Share.VM, no_new_privs=True, landlock=rules)
        if version >= 4:
            assert context.call(lambda: (connects(left), connects(other))) == (0, errno.EACCES)
    scoped = Landlock(read=["/"], scopes=["signal"], best_effort=True)
    me = os.getpid()
    told = Context(share=Share.VM, no_new_privs=True, landlock=scoped).call(denied, os.kill, me, 0)
    assert told == (errno.EPERM if version >= 6 else 0)


@requires("landlock")
def test_landlock_on_an_older_kernel(monkeypatch, tmp_path):
    """What the kernel does not know is an error before anything starts, or with best_effort is left out."""
    monkeypatch.setattr(landlock, "abi", lambda: 1)
    rules = Landlock(read=["/"], tcp_bind=[80])
    with pytest.raises(Unsupported, match=r"6\.7"):
        Context(no_new_privs=True, landlock=rules).call(os.getpid)
    old = Landlock(read=["/"], tcp_bind=[80], scopes=["signal"], best_effort=True)
    assert (
        Context(no_new_privs=True, landlock=old).call(lambda: denied((tmp_path / "x").write_text, "x")) == errno.EACCES
    )
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    with pytest.raises(Unsupported, match=r"Landlock needs Linux 5\.13"):
        Context(no_new_privs=True, landlock=old).replace(nice=1).call(os.getpid)


@requires("landlock", "seccomp")
@every_kind
def test_refused_steps(kind):
    """A path that is not there, and a filter before these, are errors of the step."""
    error = refusal(kind, {"no_new_privs": True, "landlock": Landlock(read=["/nowhere"])})
    assert (error.step, error.errno, error.filename) == ("open(/nowhere)", errno.ENOENT, "/nowhere")

    def filtered() -> list[tuple[str, int]]:
        by_hand.deny(by_hand.Denial("landlock_restrict_self", ODD), by_hand.Denial("seccomp", ODD))
        cases = [{"landlock": Landlock(read=["/"])}, {"seccomp": returning(0x7FFF0000)}]
        errors = [refusal(kind, one) for one in cases]
        return [(error.step.partition("(")[0], error.errno) for error in errors]

    assert Context().call(filtered) == [("landlock_restrict_self", ODD), ("seccomp", ODD)]


def test_filters_that_would_end_the_task_at_the_wrong_moment():
    """A light process may not be without futex, a program not be killed at exec; a copied process may have any filter."""
    kill = returning(0x80000000)
    for context, named in (
        (Context(share=Share.VM, no_new_privs=True, seccomp=kill), "exit"),
        (Context(share=Share.VM, no_new_privs=True, seccomp=returning(0x50000 | 1)), "exit"),
    ):
        with pytest.raises(ContextError, match=f"does not allow {named}") as caught:
            context.call(os.getpid)
        assert caught.value.field == "seccomp"
    with pytest.raises(ContextError, match="does not allow futex"):
        run(["true"], context=Context(no_new_privs=True, seccomp=kill))
    for value in (b"", b"1234", "allow", returning(0) * 5000):
        with pytest.raises(ContextError) as caught:
            Context(seccomp=value)  # type: ignore[arg-type]
        assert caught.value.field == "seccomp"
    for make in (
        lambda: SeccompFilter("nonsense"),
        lambda: SeccompFilter("allow", {"mkdir": ("EPERM", (0, "~", 1))}),
        lambda: SeccompFilter("allow", {"mkdir": ("EPERM", (9, "==", 1))}),
        lambda: Landlock(rules={"/": ["fly"]}),
        lambda: Landlock(tcp_bind=[70000]),
        lambda: Landlock(scopes=["world"]),
        lambda: Landlock(read=["a\0b"]),
    ):
        with pytest.raises(ContextError):
            make()


@requires("seccomp", "libseccomp")
def test_a_filter_kills_a_program():
    """A call that the filter kills for ends the program by SIGSYS."""
    context = Context(no_new_privs=True, seccomp=SeccompFilter("allow", {("mkdir", "mkdirat"): "kill"}))
    assert run(["mkdir", "/tmp"], context=context, stderr=subprocess.DEVNULL).returncode == -signal.SIGSYS


@requires("landlock")
def test_a_program_that_landlock_refuses():
    """That nothing is wrong with the program itself is said, and what may have refused it."""
    with pytest.raises(PermissionError) as caught:
        run(["/bin/true"], context=Context(no_new_privs=True, landlock=Landlock(read=["/etc"])))
    assert "Landlock" in caught.value.hint


@requires("seccomp", "libseccomp")
def test_a_program_by_fd_is_asked_for_its_own_exec():
    """What is executed by an fd needs execveat and not execve: the filter is looked at for that."""
    fd = os.open("/bin/true", os.O_RDONLY)
    try:
        for call, lets in (("execve", True), ("execveat", False)):
            context = Context(executable=fd, no_new_privs=True, seccomp=SeccompFilter("allow", {call: "kill"}))
            if lets:
                assert run(["true"], context=context).returncode == 0
            else:
                with pytest.raises(ContextError, match="does not allow execveat"):
                    run(["true"], context=context)
    finally:
        os.close(fd)


@requires("libseccomp")
def test_our_reading_of_a_filter_is_the_kernels():
    """What a filter answers is worked out as the kernel does: for rules with each comparison, and calls with and without."""
    rules = {
        "socket": ("EPERM", (0, "==", 2), (1, "!=", 1)), "kill": ("EACCES", (0, ">", 1 << 33)), "dup3": ("EXDEV", (1, "<=", 7)),
        "lseek": ("ENOSPC", (1, "&", 0xF0, 0x30)), "mkdirat": "log",
    }  # fmt: skip
    code = SeccompFilter("allow", rules).program()
    numbers = {"x86_64": (41, 62, 292, 8, 258), "aarch64": (198, 129, 24, 62, 34)}[platform.machine()]
    socket_, kill, dup3, lseek, mkdirat = numbers
    said = [
        seccomp_filter.answer(code, ARCH, number, arguments)
        for number, arguments in (
            (socket_, (2, 2)), (socket_, (2, 1)), (kill, ((1 << 33) + 1,)), (kill, (1 << 33,)), (dup3, (0, 7)), (dup3, (0, 8)),
            (lseek, (0, 0x35)), (lseek, (0, 0x45)), (mkdirat, ()), (filters._NUMBERS["exit"][0], ()),
        )
    ]  # fmt: skip
    allow = 0x7FFF0000
    refused = [0x50000 | code for code in (errno.EPERM, errno.EACCES, errno.EXDEV, errno.ENOSPC)]
    assert said == [refused[0], allow, refused[1], allow, refused[2], allow, refused[3], allow, 0x7FFC0000, allow]
    with pytest.raises(ContextError, match="system call"):
        SeccompFilter("allow", {"no_such_call": "EPERM"}).program()
