"""The options for what a program may do: capability sets, securebits, groups, Landlock, seccomp; each by its effect."""

from __future__ import annotations

import os
import pwd
import re
import socket
import struct
import sys
from pathlib import Path

import pytest
from commandline import AS_NOBODY
from features import requires

from sysclone._context.capabilities import NAMES

NET_RAW, CHOWN = (1 << NAMES.index(name) for name in ("NET_RAW", "CHOWN"))
PYTHON = (sys.executable, "-I", "-S", "-c")
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def status(done):
    """The lines of /proc/self/status that a program printed."""
    assert done.returncode == 0, done.stderr
    return dict(line.split(":\t", 1) for line in done.stdout.splitlines())


def sets_of(sysclone, *options, **keywords):
    """The capability sets of a program, as bits."""
    seen = status(sysclone("run", *options, "--", "grep", "^Cap", "/proc/self/status", **keywords))
    return {name: int(seen[name], 16) for name in SETS}


def own_bounding_set():
    """Ours, as bits."""
    return int(re.search(r"^CapBnd:\t(\w+)$", Path("/proc/self/status").read_text(), re.MULTILINE)[1], 16)


# --- capabilities


@requires("root")
def test_the_bounding_set(sysclone):
    """Exactly what is named, or more and fewer than now, as setpriv(1) has it; root's program gets no more."""
    assert sets_of(sysclone, "--bounding-set", "chown,CAP_NET_RAW")["CapPrm"] == CHOWN | NET_RAW
    assert sets_of(sysclone, "--bounding-set=-all,+chown")["CapBnd"] == CHOWN
    assert sets_of(sysclone, "--bounding-set=-chown")["CapBnd"] == own_bounding_set() & ~CHOWN


@requires("root")
def test_ambient_capabilities_outlast_the_uid(sysclone):
    """A program of another user's has what is ambient and inheritable, and nothing else."""
    options = ("--uid", "65534", "--inh-caps=-all,+net_raw", "--ambient-caps", "net_raw")
    seen = sets_of(sysclone, *options)

    assert [seen[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [NET_RAW] * 4
    assert seen["CapBnd"] == own_bounding_set()


@requires("nobody", "user_namespaces")
def test_sets_in_a_new_user_namespace(sysclone):
    """What is taken away there is taken from all that a new user namespace gives, whoever asks."""
    seen = sets_of(sysclone, "--map-root", "--bounding-set=-chown", before=AS_NOBODY)

    every = (1 << len(NAMES)) - 1
    assert (seen["CapBnd"] & every, seen["CapPrm"] & CHOWN) == (every & ~CHOWN, 0)
    assert seen["CapPrm"] & NET_RAW


@requires("root")
def test_securebits(sysclone):
    """With noroot, uid 0 gets no capabilities from a program; names, or a number, are the bits."""
    assert sets_of(sysclone, "--securebits", "noroot,noroot-locked")["CapPrm"] == 0
    assert sets_of(sysclone, "--securebits", "0x3")["CapPrm"] == 0


@requires("root")
def test_groups_of_the_user(sysclone):
    """--init-groups gives the groups that the databases have for --uid."""
    nobody = pwd.getpwuid(65534)
    seen = sysclone("run", "--uid", "65534", "--gid", "7", "--init-groups", "--", "id", "-G")

    wanted = {7, *os.getgrouplist(nobody.pw_name, 7)}
    assert set(map(int, seen.stdout.split())) == wanted


# --- filters


@requires("landlock")
def test_landlock_of_single_rights(sysclone, tmp_path):
    """A path has the rights that are named for it, and those of every other option for it."""
    (tmp_path / "a").write_text("seen\n")
    script = f"cat {tmp_path}/a; echo x > {tmp_path}/b; rm {tmp_path}/a; ls {tmp_path}"
    system = "read_file,read-dir,execute:/"
    done = sysclone(
        "run", "--landlock-rule", system, "--landlock-rule", f"remove_file:{tmp_path}", "--", "sh", "-c", script
    )

    assert (done.stdout, done.stderr.count("ermission denied")) == ("seen\n", 1)


@requires("landlock_tcp")
def test_landlock_of_ports(sysclone):
    """A port that is named may be connected to, and no other; files stay free where no option is about them."""
    script = (
        "import socket, sys\nopen('/etc/passwd').close()\nfor port in map(int, sys.argv[1:]):\n"
        " try: socket.create_connection(('127.0.0.1', port)).close(); print('yes')\n"
        " except OSError as error: print(error.errno)"
    )
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [str(each.getsockname()[1]) for each in (one, other)]
        done = sysclone("run", "--landlock-connect", ports[0], "--", *PYTHON, script, *ports)
        none = sysclone("run", "--landlock-connect", "none", "--", *PYTHON, script, *ports)

    assert (done.stdout, done.stderr) == ("yes\n13\n", "")
    assert (none.stdout, none.stderr) == ("13\n13\n", "")


@requires("landlock_scopes")
def test_landlock_of_signals(sysclone, started):
    """With the scope, processes outside cannot be signalled; without it they can."""
    other = started("run", "--", "sh", "-c", "echo $$; read x")
    pid = other.line()

    assert sysclone("run", "--", "sh", "-c", f"kill -0 {pid}").returncode == 0
    refused = sysclone("run", "--no-new-privs", "--landlock-scope", "signal", "--", "sh", "-c", f"kill -0 {pid}")
    assert "not permitted" in refused.stderr


@requires("libseccomp")
def test_seccomp_by_name(sysclone, tmp_path):
    """Calls of a rule get its errno, or end the program; the others go on."""
    refused = sysclone(
        "run", "--no-new-privs", "--seccomp", "mkdir,mkdirat=enospc", "--seccomp", "uname=kill",
        "--", "sh", "-c", f"mkdir {tmp_path}/a; uname; echo $?",
    )  # fmt: skip

    assert ("No space left on device" in refused.stderr, refused.stdout) == (True, "159\n")
    assert not (tmp_path / "a").exists()


@requires("libseccomp", "no_sanitizer")
def test_seccomp_default(sysclone):
    """With another default only what is named is allowed."""
    calls = "execve,brk,mmap,munmap,mprotect,openat,read,pread64,close,fstat,newfstatat,exit_group,arch_prctl,write,"
    calls += "set_tid_address,set_robust_list,rseq,prlimit64,getrandom,access,faccessat,fcntl,close_range,rt_sigprocmask,futex"
    done = sysclone("run", "--no-new-privs", "--seccomp-default", "EPERM", "--seccomp", f"{calls}=allow", "--", "uname")

    assert (done.returncode, done.stdout) == (1, "")
    assert "not permitted" in done.stderr


@requires("nobody")
def test_a_compiled_filter(sysclone, tmp_path):
    """--seccomp-filter loads the instructions of a file: here, every getppid is a refusal."""
    number = {"x86_64": 110, "aarch64": 173}[os.uname().machine]
    program = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | 38), (0x06, 0, 0, 0x7FFF0000)]
    (tmp_path / "f").write_bytes(b"".join(struct.pack("=HBBI", *one) for one in program))
    script = "import ctypes; print(ctypes.CDLL(None).getppid())"
    done = sysclone("run", "--no-new-privs", "--seccomp-filter", f"{tmp_path}/f", "--", *PYTHON, script)

    assert done.stdout == "-38\n", done.stderr


def test_filters_need_no_new_privs(sysclone):
    """As anybody, a filter without --no-new-privs is refused by name, with what to do."""
    done = sysclone("run", "--landlock-scope", "signal", "--", "true", before=AS_NOBODY)

    assert done.returncode == 125
    assert "no_new_privs" in done.stderr


REFUSED = [
    (["--bounding-set=+fly"], "--bounding-set", "no capability"),
    (["--inh-caps=+chown,kill"], "--inh-caps", "a + or - before each name, or before none"),
    (["--ambient-caps", "none,chown"], "--ambient-caps", "no capability"),
    (["--ambient-caps", "chown", "--inh-caps", "none"], "--ambient-caps", "try: --inh-caps=+chown"),
    (["--capabilities", "none", "--bounding-set", "none"], "--capabilities", "all five sets"),
    (["--securebits", "noruut"], "--securebits", "did you mean noroot"),
    (["--securebits", "0x1000"], "--securebits", "between 0 and 4095"),
    (["--init-groups"], "--init-groups", "--uid is needed"),
    (["--init-groups", "--uid", "4000000"], "--init-groups", "no user with the id 4000000"),
    (["--init-groups", "--uid", "0", "--groups", "none"], "--init-groups", "one of them"),
    (["--landlock-rule", "reed_file:/"], "--landlock-rule", "did you mean read_file"),
    (["--landlock-rule", "read_file"], "--landlock-rule", "RIGHT,…:PATH"),
    (["--landlock-bind", "65536"], "--landlock-bind", "no port"),
    (["--landlock-scope", "signals"], "--landlock-scope", "did you mean signal"),
    (["--landlock-best-effort"], "--landlock-best-effort", "no other option of Landlock's"),
    (["--seccomp", "mount"], "--seccomp", "CALL,…=ACTION"),
    (["--seccomp", "mount=EPRM"], "--seccomp", "no action"),
    (
        ["--seccomp", "mount=EPERM", "--seccomp", "mount=kill"],
        "--seccomp",
        "mount is given twice, with EPERM and with kill",
    ),
    (["--seccomp", "mkdir,mkdirat=log", "--seccomp", "mkdir=kill"], "--seccomp", "mkdir is given twice"),
    (["--seccomp-default", "never"], "--seccomp-default", "no action"),
    (["--seccomp-filter", "/no/such"], "--seccomp-filter", "No such file"),
    (["--seccomp-filter", "/proc/sys/kernel/ostype"], "--seccomp-filter", "8 bytes"),
    (["--seccomp", "mount=EPERM", "--seccomp-filter", "/dev/zero"], "--seccomp-filter", "8 bytes"),
]


@pytest.mark.parametrize(("options", "option", "reason"), REFUSED, ids=lambda value: str(value)[:40])
def test_refusals(capfd, options, option, reason):
    """A value that makes no sense leaves with 125 before anything starts, and the message names the option and the reason."""
    from sysclone.cli import main

    assert main(["run", *options, "--", "echo", "started"]) == 125
    told = capfd.readouterr()
    assert (told.out, option in told.err.splitlines()[0], reason in told.err) == ("", True, True), told.err


@requires("libseccomp")
def test_what_libseccomp_does_not_know(sysclone):
    """A system call that there is not is told by its option."""
    done = sysclone("run", "--seccomp", "nosuchcall=EPERM", "--", "true")

    assert done.returncode == 125
    assert done.stderr.startswith("sysclone run: --seccomp: ")
    assert "'nosuchcall'" in done.stderr
