"""`sysclone run`: the program's own exit status, its context, and what is said when it cannot be had."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from commandline import AS_NOBODY
from features import requires


@pytest.mark.parametrize("code", [0, 1, 3, 125, 255])
def test_exit_status_is_the_programs(sysclone, code):
    """The program's exit code is passed on as it is."""
    assert sysclone("run", "--", "sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGUSR1])
def test_death_by_signal_is_128_and_its_number(sysclone, number):
    """A program that a signal ended gives 128 plus the signal's number, as in a shell."""
    assert sysclone("run", "sh", "-c", f"kill -{int(number)} $$").returncode == 128 + number


@pytest.mark.parametrize("program", ["no-such-program", "/no/such/program", "/etc/passwd/program"])
def test_program_not_found(sysclone, program):
    """A program that is not there gives 127, and the step that failed is named."""
    done = sysclone("run", "--", program)

    assert done.returncode == 127
    assert done.stderr.startswith(f"sysclone run: execve({program}): ENO")
    assert "Traceback" not in done.stderr


def test_program_that_cannot_be_executed(sysclone, tmp_path):
    """What is there and cannot be executed gives 126: a folder, a plain file, a bad interpreter line, no program at all."""
    plain = tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")
    lost = tmp_path / "lost"
    lost.write_text("#!/no/such/interpreter\n")
    noise = tmp_path / "noise"
    noise.write_bytes(b"\x00\x01\x02\x03 noise")
    for path in (lost, noise):
        path.chmod(0o755)

    for path in (tmp_path, plain, lost, noise):
        done = sysclone("run", str(path))
        assert done.returncode == 126, (path, done.stderr)
        assert f"execve({path})" in done.stderr

    on_path = sysclone("run", "lost", env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert on_path.returncode == 126


def test_no_program(sysclone):
    """Without a program there is nothing to run: 125."""
    assert sysclone("run", "--share", "fs", "--").returncode == 125


def test_the_programs_own_options(sysclone):
    """What follows the program is the program's: options, and a second -- too."""
    done = sysclone("run", "--", sys.executable, "-c", "import sys; print(sys.argv[1:])", "--new", "--", "-x")

    assert done.stdout == "['--new', '--', '-x']\n"


def test_input_output_and_fds_are_inherited(sysclone):
    """The program has our standard input, output and error, and the other fds that were handed to us."""
    reader, writer = os.pipe()
    try:
        program = f"cat; echo wrong >&2; echo more >&{writer}"
        done = sysclone("run", "--", "bash", "-c", program, input="typed", pass_fds=(writer,))
        assert (done.stdout, done.stderr, os.read(reader, 100)) == ("typed", "wrong\n", b"more\n")
    finally:
        os.close(reader)
        os.close(writer)


def test_signal_state_of_the_program(sysclone):
    """The program starts with no signal blocked, none caught, and ignores just what we were told to ignore."""
    ignoring = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh")
    done = sysclone("run", "--", "cat", "/proc/self/status", before=ignoring)

    masks = {line.split(":")[0]: line.split()[1] for line in done.stdout.splitlines() if line.startswith("Sig")}
    assert int(masks["SigBlk"], 16) == 0
    assert int(masks["SigCgt"], 16) == 0
    ours = ~(0b11 << 31)  # 32 and 33 are libc's own business
    assert int(masks["SigIgn"], 16) & ours == 1 << (signal.SIGHUP - 1)


# --- the context


@requires("user_namespaces", "net_namespaces")
def test_new_namespaces(sysclone):
    """--new puts the program in namespaces of its own, and only in those; names may be written in many ways."""
    kinds = ("user", "net", "uts", "ipc", "mnt")
    paths = [f"/proc/self/ns/{kind}" for kind in kinds]
    done = sysclone("run", "--new", "USER,CLONE_NEWNET", "--new=mnt", "--", "readlink", *paths)

    ours = [os.readlink(path) for path in paths]
    assert [a != b for a, b in zip(done.stdout.split(), ours, strict=True)] == [True, True, False, False, True]


@requires("user_namespaces", "pid_namespaces")
def test_new_pid_namespace(sysclone):
    """In a pid namespace of its own the program is pid 1."""
    done = sysclone("run", "--new", "user,pid", "--", "sh", "-c", "echo $$")

    assert (done.returncode, done.stdout) == (0, "1\n")


def test_shared_fs(started):
    """With --share fs the program's cd moves sysclone itself; without, it does not."""
    for share, there in (("fs", "/"), ("none", os.getcwd())):
        one = started("run", "--share", share, "--", "sh", "-c", "cd / && echo there && read -r go")
        assert one.line() == "there"
        assert os.readlink(f"/proc/{one.pid}/cwd") == there
        assert one.end()[0] == 1  # read met the end of its input


@requires("pidfd_info_exit")
def test_sibling(sysclone):
    """With --parent sibling the program is a child of our own parent, and its exit status comes all the same."""
    shell = ("sh", "-c", 'echo $$; "$@"; exit $?', "sh")
    done = sysclone("run", "--parent", "sibling", "--", "sh", "-c", "echo $PPID; exit 5", before=shell)

    shell_pid, parent = done.stdout.split()
    assert parent == shell_pid
    assert done.returncode == 5


@requires("set_tid")
def test_chosen_pid(sysclone):
    """With --tid the program has the pid that was asked for."""
    for _ in range(5):
        with subprocess.Popen(["true"]) as process:
            free = process.pid
        process.wait()
        done = sysclone("run", "--tid", str(free), "--", "sh", "-c", "echo $$")
        if "EEXIST" not in done.stderr:
            break

    assert (done.returncode, done.stdout) == (0, f"{free}\n")


@requires("cgroup2")
def test_cgroup(sysclone):
    """With --cgroup the program is born in that cgroup."""
    import features

    folder = features.cgroup_mount("cgroup2") / f"sysclone-test-{os.getpid()}"
    folder.mkdir()
    try:
        done = sysclone("run", "--cgroup", str(folder), "--", "cat", "/proc/self/cgroup")
    finally:
        folder.rmdir()

    assert folder.name in done.stdout


def test_timeout(sysclone):
    """After --timeout the program is killed, and the exit status is timeout's own: 124."""
    done = sysclone("run", "--timeout", "0.8", "--", "sh", "-c", "echo began; exec sleep 60")

    # The output came to its end, so nobody holds it any more.
    assert (done.returncode, done.stdout) == (124, "began\n")
    assert "0.8 s" in done.stderr


def test_timeout_that_is_not_reached(sysclone):
    """A program that ends in time is not touched."""
    assert sysclone("run", "--timeout", "30", "--", "sh", "-c", "exit 4").returncode == 4


# --- warnings and mistakes


def test_warning_is_one_line(sysclone):
    """What exec undoes is told in one line, and the program runs."""
    done = sysclone("run", "--share", "vm,files", "--", "sh", "-c", "exit 6")

    assert done.returncode == 6
    assert done.stderr.startswith("sysclone run: warning: CLONE_VM|CLONE_FILES will not last")
    assert done.stderr.count("\n") == 1


def test_strict_starts_nothing(sysclone, tmp_path):
    """With --strict a warning is an error before anything starts."""
    mark = tmp_path / "mark"
    done = sysclone("run", "--strict", "--exit-signal", "usr1", "--", "touch", str(mark))

    assert done.returncode == 125
    assert "exit signal" in done.stderr
    assert not mark.exists()


def test_context_that_no_program_can_have(sysclone):
    """A context that the rules forbid is refused with the option that is wrong."""
    done = sysclone("run", "--share", "sighand", "--", "true")

    assert done.returncode == 125
    assert done.stderr.startswith("sysclone run: --share: ")
    assert "needs CLONE_VM" in done.stderr


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--share", "flies"], "did you mean files?"),
        (["--share", "net"], "'net' is for --new"),
        (["--new", "vm"], "'vm' is for --share"),
        (["--new", "usr"], "did you mean user or uts?"),
        (["--share", "settls"], "is a clone flag"),
        (["--share", "xyzzy"], "it is one of vm, files"),
        (["--preset", "frok"], "invalid choice"),
        (["--exit-signal", "SIGCHILD"], "did you mean SIGCHLD"),
        (["--exit-signal", "65"], "between 0 and 64"),
        (["--tid", "x"], "process ids"),
        (["--stack-bytes", "8Q"], "a number of bytes"),
        (["--timeout", "soon"], "a number of seconds"),
        (["--timeout", "0"], "more than 0"),
    ],
)
def test_unknown_names_and_values(sysclone, words, answer):
    """A name or value that is none is refused with what may have been meant."""
    done = sysclone("run", *words, "--", "true")

    assert done.returncode == 125
    assert answer in done.stderr
    assert "Traceback" not in done.stderr


def test_refused_cgroup(sysclone, tmp_path):
    """A folder that is no cgroup is refused, and nothing is run."""
    done = sysclone("run", "--cgroup", str(tmp_path), "--", "true")

    assert done.returncode == 125
    assert "cgroup.procs" in done.stderr


@requires("nobody")
def test_refusal_says_why(sysclone):
    """Without the right to it, a namespace is refused with the likely cause and what to try."""
    done = sysclone("run", "--new", "net", "--", "true", before=AS_NOBODY)

    assert done.returncode == 125
    assert "sysclone run: clone3(NEWNET" in done.stderr
    assert "EPERM" in done.stderr
    assert "\nlikely: " in done.stderr
    assert "\ntry: " in done.stderr


def test_vfork_is_an_option(sysclone):
    """--vfork suspends us in the kernel until the program starts, and changes nothing else."""
    done = sysclone("run", "--vfork", "--", "sh", "-c", "exit 7")

    assert (done.returncode, done.stderr) == (7, "")
