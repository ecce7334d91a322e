"""The text of a trace against strace's own, on real programs: nothing differs but pids, addresses and chance."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import stracelines
from features import have, requires

import sysclone
from sysclone._trace.text import line

pytestmark = requires("strace", "ptrace")

SECONDS = 50
CALLS = "trace=clone,clone3,fork,vfork,unshare,setns,execve"
SOURCE = "int main(void) { return 0; }\n"
MAKEFILE = "all: a b c d\na b c d:\n\t@sh -c 'echo $@' | cat; true\n"
THREADS = "import threading; threads = [threading.Thread(target=int) for _ in range(5)]; [t.start() for t in threads]"
POOL = "import multiprocessing as m; p = m.get_context('fork').Pool(2); p.map(abs, [1, 2]); p.close(); p.join()"
SUBPROCESS = "import subprocess; subprocess.run(['tr', 'a', 'b'], input=b'abc'); subprocess.run('exit 3', shell=True)"
OURS = (
    "import sysclone; sysclone.call(int); sysclone.run(['/bin/true']); sysclone.start(int).result(); "
    "sysclone.Context().call(int)"
)
EXEC = "import os, threading; threading.Thread(target=os.execv, args=('/bin/true', ['x'] * 40)).start(); threading.Event().wait()"
ODD = r"""printf '%s' x; /bin/echo "quo\"te" 'a	tab' 'ünïcode' "$(printf '\001\0027')" back\\slash; env -i true"""

PROGRAMS = {
    "a shell": ["sh", "-c", "true | cat; ls /nonexistent; (exit 3)"],
    "bash": ["bash", "-c", "for i in 1 2; do /bin/echo $i; done | sort | uniq -c; exec true"],
    "strings": ["sh", "-c", ODD],
    "make": ["make", "-j4"],
    "git": ["git", "init", "-q", "made"],
    "a compiler": ["gcc", "-O2", "-o", "compiled", "source.c"],
    "find": ["find", ".", "-name", "*.c", "-exec", "wc", "{}", "+"],
    "xargs": ["xargs", "-a", "source.c", "-n", "2", "-P", "3", "/bin/echo"],
    "tar": ["tar", "czf", "packed.tgz", "source.c"],
    "perl": ["perl", "-e", "print `date`; system(qq(true; false)); fork; wait"],
    "a chain": ["setsid", "-w", "timeout", "50", "nice", "env", "-i", "A=1", "true"],
    "python's threads": [sys.executable, "-c", THREADS],
    "python's processes": [sys.executable, "-c", POOL],
    "python's subprocess": [sys.executable, "-c", SUBPROCESS],
    "our own tasks": [sys.executable, "-c", OURS],
    "a thread's exec": [sys.executable, "-c", EXEC],
}
NAMESPACES = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "sh", "-c", "true & wait"]


@pytest.fixture
def folder(tmp_path):
    """A directory with what the programs work on."""
    (tmp_path / "source.c").write_text(SOURCE)
    (tmp_path / "Makefile").write_text(MAKEFILE)
    return tmp_path


def by_strace(command, folder: Path) -> dict[str, list[str]]:
    """What strace writes."""
    log = folder / "strace.log"
    strace = ["strace", "-f", "-q", "-o", str(log), "-e", CALLS, "-e", "signal=none"]
    subprocess.run([*strace, *command], cwd=folder, capture_output=True, timeout=SECONDS, check=False)
    return stracelines.family(log.read_text())


def by_us(command, folder: Path) -> dict[str, list[str]]:
    """What we write."""
    null = subprocess.DEVNULL
    with sysclone.trace(command, cwd=folder, stdin=null, stdout=null, stderr=null) as trace:
        return stracelines.family("".join(f"{line(event)}\n" for event in trace))


def compare(command, folder: Path) -> None:
    """Run a program under both."""
    theirs = by_strace(command, folder)
    for made in ("made", "compiled"):
        subprocess.run(["rm", "-rf", str(folder / made)], check=True)
    ours = by_us(command, folder)
    assert ours == theirs
    assert len(ours["0"]) >= 2


@pytest.mark.parametrize("name", PROGRAMS)
def test_lines_are_straces(name, folder):
    """Each task of a program has the very lines that strace gives it, in their order."""
    compare(PROGRAMS[name], folder)


@requires("user_namespaces", "pid_namespaces")
def test_lines_in_namespaces_are_straces(folder):
    """In other namespaces too, where results are other numbers than ours."""
    compare(NAMESPACES, folder)


def test_a_difference_is_seen(folder):
    """Two programs that differ in one argument, one task or one flag do not compare as equal."""
    one = '1 execve("/x", ["x"], 0x7fff1234 /* 2 vars */) = 0\n1 clone(flags=CLONE_VM) = 2\n2 +++ exited with 0 +++\n'

    assert stracelines.family(one) == stracelines.family(
        one.replace("0x7fff1234", "0x7fff9999").replace("2\n2", "7\n7")
    )
    assert stracelines.family(one) != stracelines.family(one.replace("CLONE_VM", "CLONE_FS"))
    assert stracelines.family(one) != stracelines.family(one.replace("with 0", "with 1"))
    assert have("strace")
