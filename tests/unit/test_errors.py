"""The errors' texts, fields, pickles and base classes, and the hints as they look at a machine."""

from __future__ import annotations

import ast
import copy
import errno
import os
import pickle
import stat
import struct
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import sysclone
from sysclone._errors import (
    Cancelled,
    CloneError,
    ContextError,
    ResultError,
    SyscloneError,
    SyscloneWarning,
    TaskExited,
    TaskFailed,
    TaskKilled,
    TaskLost,
    TaskTimeout,
    Unsupported,
    error_name,
)
from sysclone._hints import looking, paths, table
from sysclone._task.status import Status

SAMPLES: list[tuple[BaseException, dict[str, Any], str]] = [
    (
        ContextError("share=VM: no", field="share"),
        {"problem": "share=VM: no", "field": "share"},
        "share=VM: no",
    ),
    (ContextError("no"), {"problem": "no", "field": None}, "no"),
    (
        CloneError(errno.ENOSPC, step="clone3(NEWUSER|NEWPID)", hint="likely: a limit\ntry: more"),
        {
            "errno": errno.ENOSPC,
            "step": "clone3(NEWUSER|NEWPID)",
            "hint": "likely: a limit\ntry: more",
            "strerror": "No space left on device",
            "filename": None,
        },
        "clone3(NEWUSER|NEWPID): ENOSPC No space left on device\nlikely: a limit\ntry: more",
    ),
    (
        CloneError(errno.ENOENT, "execve(/x)", "", "/x"),
        {"errno": errno.ENOENT, "step": "execve(/x)", "hint": "", "filename": "/x"},
        "execve(/x): ENOENT No such file or directory",
    ),
    (
        Unsupported("CLONE_INTO_CGROUP", "5.7", release="4.19.0"),
        {"feature": "CLONE_INTO_CGROUP", "since": "5.7", "reason": None, "release": "4.19.0"},
        "CLONE_INTO_CGROUP needs Linux 5.7: this is Linux 4.19.0",
    ),
    (
        Unsupported("light processes", reason="CPython 3.20 is not known", release="6.18"),
        {"feature": "light processes", "since": None, "reason": "CPython 3.20 is not known"},
        "no light processes here: CPython 3.20 is not known",
    ),
    (
        TaskFailed(7, Status.unknown("it was stolen"), "a detail"),
        {"pid": 7, "status": Status.unknown("it was stolen"), "detail": "a detail"},
        "task 7 unknown: it was stolen: a detail",
    ),
    (
        TaskExited(pid=7, status=Status(exit_code=3)),
        {"pid": 7, "status": Status(exit_code=3), "exit_code": 3},
        "task 7 exited with 3 before its function returned",
    ),
    (
        TaskKilled(pid=7, status=Status(signal=9)),
        {"pid": 7, "status": Status(signal=9), "signal": 9},
        "task 7 was killed by SIGKILL (9)",
    ),
    (
        TaskLost(pid=7, status=Status.unknown("another reaped it")),
        {"pid": 7, "status": Status.unknown("another reaped it")},
        "task 7 is lost: unknown: another reaped it",
    ),
    (TaskLost(pid=7), {"pid": 7, "status": None}, "task 7 is lost: its status was not seen"),
    (
        ResultError("the value cannot be pickled", pid=7, status=Status(exit_code=0)),
        {"pid": 7, "status": Status(exit_code=0), "detail": "the value cannot be pickled"},
        "task 7: the value cannot be pickled",
    ),
    (ResultError("no pickle"), {"pid": None, "status": None, "detail": "no pickle"}, "no pickle"),
    (
        TaskTimeout(pid=7, seconds=2.5, still_running=True),
        {"pid": 7, "seconds": 2.5, "still_running": True},
        "task 7 was not done in 2.5 s: it goes on",
    ),
    (
        TaskTimeout(pid=7, seconds=2.0, still_running=False),
        {"pid": 7, "seconds": 2.0, "still_running": False},
        "task 7 was not done in 2 s, and was stopped",
    ),
    (Cancelled("the function was cancelled"), {"args": ("the function was cancelled",)}, "the function was cancelled"),
    (SyscloneWarning("shared no longer"), {"args": ("shared no longer",)}, "shared no longer"),
]
NAMES = [f"{type(error).__name__}-{index}" for index, (error, _, _) in enumerate(SAMPLES)]


# --- fields and texts


@pytest.mark.parametrize(("error", "fields", "text"), SAMPLES, ids=NAMES)
def test_fields_and_text(error: BaseException, fields: dict[str, Any], text: str) -> None:
    """An error has the fields it was made with, and its text is built from them."""
    assert {name: getattr(error, name) for name in fields} == fields
    assert str(error) == text


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(("error", "fields", "text"), SAMPLES, ids=NAMES)
def test_pickling_keeps_every_field(protocol: int, error: BaseException, fields: dict[str, Any], text: str) -> None:
    """An error that came through pickle is the same class with the same fields, text and notes."""
    error = copy.copy(error)
    error.add_note("a note")
    for twin in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is type(error)
        assert {name: getattr(twin, name) for name in fields} == fields
        assert str(twin) == text
        assert twin.__notes__ == ["a note"]


@pytest.mark.parametrize(
    ("kind", "bases"),
    [
        (ContextError, (SyscloneError, ValueError)),
        (CloneError, (SyscloneError, OSError)),
        (Unsupported, (SyscloneError,)),
        (TaskExited, (TaskFailed, SyscloneError)),
        (TaskKilled, (TaskFailed,)),
        (TaskLost, (TaskFailed,)),
        (ResultError, (TaskFailed,)),
        (TaskTimeout, (SyscloneError, TimeoutError)),
        (SyscloneWarning, (RuntimeWarning,)),
    ],
)
def test_the_family(kind: type, bases: tuple[type, ...]) -> None:
    """Each error is caught by the family's name and by the name Python's own code would use."""
    assert all(issubclass(kind, base) for base in bases)


def test_cancelled_passes_by_except_exception() -> None:
    """A function's `except Exception` does not swallow the order to stop; the C core raises it without arguments."""
    assert not issubclass(Cancelled, Exception)
    assert str(Cancelled()) == ""


# --- CloneError and OSError's subclasses


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOENT, FileNotFoundError),
        (errno.EACCES, PermissionError),
        (errno.EPERM, PermissionError),
        (errno.ENOTDIR, NotADirectoryError),
        (errno.EISDIR, IsADirectoryError),
        (errno.EAGAIN, BlockingIOError),
        (errno.EEXIST, FileExistsError),
        (errno.ESRCH, ProcessLookupError),
    ],
)
def test_a_refusal_is_also_pythons_own_error(code: int, kind: type[OSError]) -> None:
    """`except FileNotFoundError` catches a program that does not exist, as it would from subprocess."""
    with pytest.raises(kind) as caught:
        raise CloneError(code, step="execve(/x)")
    assert isinstance(caught.value, CloneError)
    assert type(caught.value) is type(CloneError(code, step="chdir(/y)"))
    assert type(caught.value).__name__ == "CloneError"


def test_other_errnos_need_no_class_of_their_own() -> None:
    """Where Python has no subclass, a CloneError is just that."""
    assert type(CloneError(errno.EINVAL, "clone3(0)", "")) is CloneError


def test_subclasses_of_ours_combine_too() -> None:
    """A subclass keeps its name, and is caught by the errno's own class as well."""
    error = Special(errno.ENOENT, "execve(/x)", "")
    assert isinstance(error, Special) and isinstance(error, FileNotFoundError)
    twin = pickle.loads(pickle.dumps(error))
    assert isinstance(twin, Special) and twin.step == "execve(/x)"


class Special(CloneError):
    """A subclass, at the top of a module where pickle finds it."""


def test_attributes_added_later_survive() -> None:
    """What a caller puts on an error goes through pickle with it."""
    error = CloneError(errno.EPERM, "clone3(NEWNET)", "no")
    error.task_name = "build"  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(error)).task_name == "build"


def test_the_hint_is_found_when_the_error_is_made(machine: dict[str, str]) -> None:
    """What a machine looked like is kept: a pickle read elsewhere, or later, tells of then and there."""
    machine["/proc/sys/user/max_user_namespaces"] = "0"
    error = CloneError(errno.ENOSPC, step="clone3(NEWUSER)")
    machine["/proc/sys/user/max_user_namespaces"] = "15000"
    assert "max_user_namespaces is 0" in str(pickle.loads(pickle.dumps(error)))


def test_errnos_have_the_names_of_the_man_pages() -> None:
    """Where one number has two names, the one that the man pages use is printed; a number without a name is itself."""
    assert error_name(errno.EOPNOTSUPP) == "EOPNOTSUPP"
    assert error_name(errno.EAGAIN) == "EAGAIN"
    assert error_name(9999) == "9999"


# --- hints about clone, on made-up machines


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The files of a made-up /proc and /sys: a process without privilege, and nothing else."""
    files = {"/proc/self/status": "CapEff:\t0000000000000000\nSeccomp:\t0"}
    for module in (table, looking):
        monkeypatch.setattr(module, "read", lambda path: files.get(path, ""))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    return files


def hint(step: str, code: int) -> str:
    """The hint for a refused step."""
    return table.hint_for(step, code)


def test_enospc_names_the_limit_that_is_zero(machine: dict[str, str]) -> None:
    """A namespace limit that is 0 is named, with the command that raises it."""
    machine.update({"/proc/sys/user/max_user_namespaces": "0", "/proc/sys/user/max_pid_namespaces": "100"})
    assert hint("clone3(NEWUSER|NEWPID)", errno.ENOSPC) == (
        "likely: a limit, not disk: user.max_user_namespaces is 0\ntry: sysctl user.max_user_namespaces=15000"
    )


def test_enospc_looks_at_the_namespaces_that_were_asked_for(machine: dict[str, str]) -> None:
    """The limit named is one of the kinds that the step would have made."""
    machine.update({"/proc/sys/user/max_user_namespaces": "0", "/proc/sys/user/max_net_namespaces": "8"})
    told = hint("clone3(CLONE_NEWNET|CLONE_VM)", errno.ENOSPC)
    assert "user.max_net_namespaces allows 8" in told and "sysctl user.max_net_namespaces=16" in told


@pytest.mark.parametrize(
    ("files", "step", "words"),
    [
        ({}, "clone3(NEWNET|NEWUTS)", ["net and uts namespace", "CAP_SYS_ADMIN", "uid 1000", "Namespace.USER"]),
        (
            {"/proc/sys/kernel/unprivileged_userns_clone": "0"},
            "clone3(NEWUSER)",
            ["kernel.unprivileged_userns_clone is 0", "=1"],
        ),
        ({"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1"}, "clone3(NEWUSER|NEWPID)", ["AppArmor"]),
        ({"/proc/self/mountinfo": "1 2 0:1 / /proc rw - proc proc rw"}, "clone3(NEWUSER)", ["chroot"]),
        (
            {"/proc/self/mountinfo": "1 2 0:1 / / rw - ext4 x rw", "/proc/self/uid_map": "0 100000 500"},
            "clone3(NEWUSER)",
            ["uid 1000", "not mapped"],
        ),
        ({}, "clone3(VM, set_tid=77)", ["CAP_CHECKPOINT_RESTORE"]),
        ({}, "clone3(PIDFD|AUTOREAP|PIDFD_AUTOKILL)", ["CLONE_NNP"]),
        ({"/proc/self/status": "CapEff:\t0\nSeccomp:\t2"}, "clone3(VM)", ["seccomp"]),
    ],
)
def test_eperm_names_what_forbids(machine: dict[str, str], files: dict[str, str], step: str, words: list[str]) -> None:
    """Each thing that can forbid a clone is looked at, and named when it is what stands in the way."""
    machine.update(files)
    told = hint(step, errno.EPERM)
    assert [word for word in words if word not in told] == []


def test_eperm_without_evidence_says_nothing(machine: dict[str, str]) -> None:
    """A hint that nothing on the machine bears out is not given."""
    assert hint("clone3(VM)", errno.EPERM) == ""


def test_enosys_is_a_filter_or_an_old_kernel(machine: dict[str, str]) -> None:
    """clone3 that is not there is a container's filter where there is a filter, and else the kernel's age."""
    assert "5.3" in hint("clone3(VM)", errno.ENOSYS)
    machine["/proc/self/status"] += "\nSeccomp:\t2"
    machine["/proc/self/status"] = machine["/proc/self/status"].replace("Seccomp:\t0\n", "")
    assert "seccomp" in hint("clone3(VM)", errno.ENOSYS)


def test_eagain_finds_the_full_cgroup(machine: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The pids controller is looked at from this process's cgroup up, in either version."""
    machine.update(
        {
            "/proc/self/mountinfo": "30 2 0:26 / /sys/fs/cgroup/pids rw shared:9 - cgroup cgroup rw,pids",
            "/proc/self/cgroup": "4:pids:/box/inner\n0::/",
            "/sys/fs/cgroup/pids/box/pids.max": "20",
            "/sys/fs/cgroup/pids/box/pids.current": "20",
        }
    )
    monkeypatch.setattr(os.path, "exists", lambda path: path in machine)
    assert "/sys/fs/cgroup/pids/box/pids.max is 20" in hint("fork()", errno.EAGAIN)


def test_eagain_finds_rlimit_nproc(machine: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """RLIMIT_NPROC is named for an unprivileged user who is near it."""
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _which: (50, 50))
    monkeypatch.setattr(table, "_tasks_of", lambda _uid: 50)
    assert "RLIMIT_NPROC is 50, and uid 1000 has 50 tasks" in hint("clone3(VM)", errno.EAGAIN)


def test_eagain_finds_a_full_machine(machine: dict[str, str]) -> None:
    """The limits of the whole machine are named when they are nearly reached."""
    machine.update({"/proc/loadavg": "0 0 0 3/990 77", "/proc/sys/kernel/threads-max": "1000"})
    assert "kernel.threads-max is 1000" in hint("clone3(VM)", errno.EAGAIN)


def test_enomem_tells_of_strict_overcommit(machine: dict[str, str]) -> None:
    """With vm.overcommit_memory at 2, a copy of a large process does not fit, and sharing memory does."""
    machine["/proc/sys/vm/overcommit_memory"] = "2"
    assert "Share.VM" in hint("fork()", errno.ENOMEM)


def test_a_dead_pid_namespace_is_no_lack_of_memory(machine: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """After unshare(CLONE_NEWPID) and the end of the first child, fork says ENOMEM: the hint knows."""
    monkeypatch.setattr(table, "_namespace", lambda name: f"pid:[{len(name)}]")
    assert "lost its init" in hint("fork()", errno.ENOMEM)
    assert "unshared" in hint("clone3(NEWPID)", errno.EINVAL)


def test_einval_of_an_init(machine: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pid 1 can have no siblings."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert "init" in hint("clone3(VM|PARENT)", errno.EINVAL)


def test_eexist_names_who_has_the_pid(machine: dict[str, str]) -> None:
    """A pid that was asked for and is taken is told of with its owner's name."""
    machine["/proc/77/comm"] = "sshd"
    assert hint("clone3(VM, set_tid=77)", errno.EEXIST) == "likely: pid 77 is taken by sshd"


@pytest.mark.parametrize(
    ("code", "files", "word"),
    [
        (errno.EBUSY, {"/g/cgroup.subtree_control": "memory pids"}, "/g has memory pids enabled"),
        (errno.EOPNOTSUPP, {"/g/cgroup.type": "domain invalid"}, "echo threaded > /g/cgroup.type"),
        (errno.EOPNOTSUPP, {"/g/cgroup.type": "threaded"}, "threaded subtree"),
        (errno.EACCES, {}, "/g/cgroup.procs is not writable for uid 1000"),
        (errno.EBADF, {}, "version 2"),
        (errno.ENOENT, {}, "removed"),
    ],
)
def test_a_cgroup_that_refuses(machine: dict[str, str], code: int, files: dict[str, str], word: str) -> None:
    """Each way that a cgroup refuses a task is told by its files."""
    machine.update(files)
    assert word in hint("clone3(INTO_CGROUP, cgroup=/g)", code)


def test_steps_of_setting_up(machine: dict[str, str]) -> None:
    """Ids and roots need their capabilities, and a user namespace may forbid setgroups."""
    assert "CAP_SETUID" in hint("setreuid", errno.EPERM)
    assert "CAP_SYS_CHROOT" in hint("chroot(/x)", errno.EPERM)
    machine["/proc/self/setgroups"] = "deny"
    assert "setgroups is deny" in hint("setgroups", errno.EPERM)


def test_a_full_fd_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """EMFILE names the limit, whatever the step; it opens nothing to find out."""
    monkeypatch.setattr(os, "open", None)
    monkeypatch.setattr("builtins.open", None)
    assert "RLIMIT_NOFILE" in hint("clone3(PIDFD)", errno.EMFILE)
    assert "RLIMIT_NOFILE" in hint("execve(/bin/true)", errno.EMFILE)


def test_a_hint_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong while looking, the error itself is raised, without a hint."""
    for module in (table, looking):
        monkeypatch.setattr(module, "read", lambda path: 1 / 0)
    for kind, code in table._HINTS:
        assert isinstance(hint(f"{kind}(NEWUSER, set_tid=x, cgroup=\0)", code), str)
        assert isinstance(hint(kind, code), str)
    assert hint("clone3(\udc80", errno.EPERM) == ""


# --- hints about programs and paths, on real files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def program(path: Path, content: bytes, mode: int = 0o755) -> Path:
    """A file to execute."""
    path.write_bytes(content)
    path.chmod(mode)
    return path


def refused(path: Path | str) -> tuple[int, str]:
    """The errno that the kernel has for executing this, and our hint for it."""
    process = os.fork()
    if process == 0:
        try:
            os.execv(path, [str(path)])
        except OSError as e:
            os._exit(e.errno or 0)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return code, hint(f"execve({path})", code)


def test_a_missing_component_is_named(folder: Path) -> None:
    """Of a long path that does not exist, the part that is missing is told."""
    code, told = refused(folder / "no" / "such" / "program")
    assert (code, told) == (errno.ENOENT, f"likely: there is no {folder}/no")


def test_a_link_to_nothing_is_named(folder: Path) -> None:
    """A dangling link is told of with what it points at."""
    (folder / "link").symlink_to("nowhere")
    code, told = refused(folder / "link")
    assert code == errno.ENOENT and "a link to nowhere" in told


def test_a_missing_interpreter_is_named(folder: Path) -> None:
    """A script that is there and whose interpreter is not: the kernel's ENOENT is about the interpreter."""
    code, told = refused(program(folder / "script", b"#! /no/such/sh -e\n"))
    assert code == errno.ENOENT and f"{folder}/script is there, but /no/such/sh, which it needs to run, is not" in told


def test_windows_line_ends_are_seen(folder: Path) -> None:
    """A carriage return at the end of the #! line is part of the interpreter's name, and invisible."""
    code, told = refused(program(folder / "script", b"#!/bin/sh\r\nexit 0\n"))
    assert code == errno.ENOENT and "carriage return" in told


@pytest.mark.parametrize("bits", [32, 64])
def test_a_missing_loader_is_named(folder: Path, bits: int) -> None:
    """A dynamically linked program names its loader in its ELF header; of both classes."""
    path = program(folder / "program", elf(bits, b"/lib/no-such-ld.so\0"))
    assert "/lib/no-such-ld.so, which it needs to run, is not" in hint(f"execve({path})", errno.ENOENT)


def elf(bits: int, loader: bytes) -> bytes:
    """The head of a program with one segment: the loader's name."""
    if bits == 64:
        head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        return head + struct.pack("<IIQQQQQQ", 3, 4, 120, 0, 0, len(loader), len(loader), 1) + loader
    head = struct.pack("<16sHHIIIIIHHHHHH", b"\x7fELF\x01\x01\x01", 2, 3, 1, 0, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    return head + struct.pack("<IIIIIIII", 3, 84, 0, 0, len(loader), len(loader), 4, 1) + loader


def test_a_directory_is_no_program(folder: Path) -> None:
    """Executing a directory is EACCES, which has nothing to do with permissions."""
    code, told = refused(folder)
    assert code == errno.EACCES and "is a directory" in told


def test_a_file_without_x(folder: Path) -> None:
    """A file that is not executable for anyone is told of with the command that makes it so."""
    path = program(folder / "script", b"#!/bin/sh\n", 0o644)
    code, told = refused(path)
    assert (code, told) == (
        errno.EACCES,
        f"likely: {path} is not executable for uid {os.geteuid()}\ntry: chmod +x {path}",
    )


def test_a_directory_that_cannot_be_searched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The component of the path that lacks search permission is named, not the program at its end."""
    closed = folder / "closed"
    closed.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode, **options: not str(path).startswith(str(closed)))
    assert f"may not search {closed}" in hint(f"execve({closed}/bin/x)", errno.EACCES)
    assert f"may not search {closed}" in hint(f"chdir({closed})", errno.EACCES)


def test_a_mount_without_exec(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An executable file on a file system mounted noexec is told of as that."""
    path = program(folder / "script", b"#!/bin/sh\n")
    real = os.statvfs(path)
    noexec = os.statvfs_result([*real[:8], real.f_flag | os.ST_NOEXEC, real.f_namemax])
    monkeypatch.setattr(os, "statvfs", lambda _path: noexec)
    assert "noexec" in hint(f"execve({path})", errno.EACCES)


def test_a_file_in_the_way_of_a_path(folder: Path) -> None:
    """ENOTDIR names the component that is a file."""
    program(folder / "file", b"")
    code, told = refused(folder / "file" / "x" / "y")
    assert (code, told) == (errno.ENOTDIR, f"likely: {folder}/file is a file, not a directory")
    assert "is a file" in hint(f"chdir({folder}/file)", errno.ENOTDIR)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "is empty"),
        (b"echo hello\n", "no #! line"),
        (b"#!\n", "names no program"),
        (b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 2, 243) + bytes(60), "a program for riscv"),
    ],
)
def test_what_is_no_program(folder: Path, content: bytes, word: str) -> None:
    """ENOEXEC is told apart: an empty file, a script without its first line, another machine's program."""
    code, told = refused(program(folder / "x", content))
    assert code == errno.ENOEXEC and word in told


def test_a_program_that_is_being_written(folder: Path) -> None:
    """ETXTBSY names the fd of this process that has the program open for writing."""
    path = program(folder / "x", Path("/bin/true").read_bytes())
    with path.open("r+b") as file:
        code, told = refused(path)
        assert code == errno.ETXTBSY and f"as fd {file.fileno()}" in told


def test_too_many_arguments() -> None:
    """E2BIG tells how many bytes there may be, for all and for each."""
    with pytest.raises(OSError, match="Argument list") as caught:
        subprocess.run(["/bin/true", "x" * 200_000], check=False)
    told = hint("execve(/bin/true)", caught.value.errno or 0)
    assert "131072" in told


def test_a_fifo_is_not_opened(folder: Path) -> None:
    """Looking at a path never waits: a FIFO is not opened."""
    os.mkfifo(folder / "fifo")
    (folder / "fifo").chmod(0o777)
    assert stat.S_ISFIFO((folder / "fifo").stat().st_mode)
    for code in (errno.ENOENT, errno.EACCES, errno.ENOEXEC):
        assert isinstance(hint(f"execve({folder}/fifo)", code), str)


def test_names_that_are_not_text(folder: Path) -> None:
    """A file name of any bytes is told of."""
    assert "\\udcff" in ascii(table.hint_for("execve", errno.ENOENT, os.fsencode(folder) + b"/\xff"))


def test_a_name_to_look_for_in_path() -> None:
    """A bare name was looked for in PATH; a relative one is missing where we are."""
    assert "any directory of PATH" in hint("execve(no-such-program)", errno.ENOENT)
    assert "'no-such-folder' in " in hint("chdir(no-such-folder)", errno.ENOENT)


def test_every_path_hint_is_in_the_table() -> None:
    """The part of the table that is about paths is part of the table."""
    assert paths.PATH_HINTS.items() <= table._HINTS.items()


def test_a_tasks_namespaces_are_for_who_may_trace_it():
    """A refusal to open them is told as what it is, and not as one of a directory."""
    assert "may trace it" in hint("open(/proc/1/ns/user)", errno.EACCES)
    assert "may trace it" in hint("open(/proc/1/ns)", errno.EACCES)


def test_no_hint_hides_another():
    """The parts of the table of hints have no key in common: the later one would take the place of the earlier."""
    keys = []
    for part in (Path(sysclone.__file__).parent / "_hints").glob("*.py"):
        dicts = [node for node in ast.walk(ast.parse(part.read_text())) if isinstance(node, ast.Dict)]
        keys += [ast.unparse(key) for one in dicts for key in one.keys if isinstance(key, ast.Tuple)]

    assert len(keys) > 80
    assert [key for key, times in Counter(keys).items() if times > 1] == []
