"""The examples, run as a person runs them: each gives the output that it promises, which is the outcome its text states."""

from __future__ import annotations

import ast
import re

import pytest
from printed import EXAMPLES, example, promised, with_ids_numbered


def ids(lines: list[str], pattern: str) -> list[tuple[int, ...]]:
    """The numbers that a pattern's groups find, line by line."""
    return [tuple(map(int, found.groups())) for line in lines if (found := re.search(pattern, line))]


NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_output_is_the_promised_one(name):
    """An example prints what its docstring says, process ids aside."""
    assert promised(name) != []
    assert with_ids_numbered(example(name)) == with_ids_numbered(promised(name))


@pytest.mark.parametrize("name", NAMES)
def test_outcome_is_asserted_here(name):
    """Each example has a test of its own below: the outcome is held to the text it is from, not to its own word alone."""
    assert f"test_{name}" in globals()


def test_listing1_fork():
    """After fork the variable and the file are untouched."""
    assert example("listing1_fork") == [
        "The variable was 9",
        "The variable is now 9",
        "We could read from the file",
    ]


def test_listing2_clone():
    """With VM and FILES both the variable's change and the file's closing are seen."""
    assert example("listing2_clone") == [
        "The variable was 9",
        "The variable is now 42",
        "File read error: Bad file descriptor",
    ]


def test_listings_differ_in_flags_alone():
    """Listing 2 is Listing 1 with other flags: but for docstring and import, one line differs."""
    one, two = (
        ast.unparse(ast.parse((EXAMPLES / f"{name}.py").read_text())).splitlines()
        for name in ("listing1_fork", "listing2_clone")
    )
    start = next(i for i, line in enumerate(one) if line.startswith("variable"))
    differing = [(a, b) for a, b in zip(one[start:], two[start:], strict=True) if a != b]

    assert len(differing) == 1
    assert "Context.fork()" in differing[0][0]
    assert "Share.VM | Share.FILES" in differing[0][1]


def test_basic_clone():
    """The function runs in a process of its own, with its argument, and the creator is told its pid."""
    lines = example("basic_clone")
    [(parent,)] = ids(lines, r"^\[Parent\] PID=(\d+)")
    [(child,)] = ids(lines, r"^\[Child\]  PID=(\d+), message='hello from clone'$")
    [(told, code)] = ids(lines, r"^\[Parent\] Child PID=(\d+) exited with (\d+)")

    assert child != parent
    assert (told, code) == (child, 0)


def test_clone_files():
    """The child's close() is the parent's with CLONE_FILES, and not without."""
    parent = [line for line in example("clone_files") if line.startswith("[Parent]")]

    assert parent == [
        "[Parent] fd 3 OPEN — child's close() did NOT affect parent (CLONE_FILES=OFF)",
        "[Parent] fd 3 CLOSED — child's close() affected parent (CLONE_FILES=ON)",
    ]


def test_clone_signal():
    """A child with SIGUSR1 for its exit signal sends it, is hidden from a plain wait, and is found with __WCLONE."""
    lines = example("clone_signal")
    [(child,)] = ids(lines, r"^\[Child\]  running, PID=(\d+)$")

    assert lines[2:] == [
        "[Parent] has got SIGUSR1",
        "[Parent] a plain wait says ECHILD",
        f"[Parent] with __WCLONE: child PID={child} exited with status 42",
    ]


def test_tuxology():
    """The task has its own pid, its creator's parent, private memory and handlers, and shared files and cwd."""
    lines = example("tuxology")
    [(parent,)] = ids(lines, r"^parent: +pid (\d+)$")
    [(creator, its_parent)] = ids(lines, r"^creator: +pid (\d+), child of pid (\d+)$")
    [(task, its_parent_too)] = ids(lines, r"^task: +pid (\d+), child of pid (\d+)$")

    assert len({parent, creator, task}) == 3
    assert its_parent == its_parent_too == parent
    assert "memory:   the task set 42, its creator still has 9" in lines
    assert "files:    the creator can read from the file that the task opened" in lines
    assert "cwd:      the task went to /, and its creator is in /" in lines
    assert "handlers: the task ignores SIGUSR1, and it still reaches its creator: True" in lines
    assert "the parent's wait finds the task: it exited with 0" in lines


def test_tuxology_by_both_calls():
    """The old call takes a signal beside CLONE_PARENT, clone3 does not, and both verdicts are told."""
    lines = example("tuxology")

    assert lines[0] == "CLONE_FS|CLONE_FILES|CLONE_PARENT|SIGCHLD"
    assert "the old call takes it: True" in lines
    assert "clone3 takes it: False (EINVAL)" in lines
    assert "CLONE_PARENT" in lines[-1]


@pytest.mark.parametrize("workers", [2, 3])
def test_sum_array(workers):
    """Threads, processes and light processes give the same sum; threads are in one process, the others in their own."""
    lines = example("sum_array", str(workers))
    found = [re.fullmatch(r"([a-z ]+?) +sum (\d+), in (\d+) process(?:es)?", line) for line in lines]

    assert [one and (one[1], int(one[2]), int(one[3])) for one in found] == [
        ("threads", sum(range(1_000_000)), 1),
        ("processes", sum(range(1_000_000)), workers),
        ("light processes", sum(range(1_000_000)), workers),
    ]


def test_join_by_futex():
    """The kernel writes the thread's id before it runs and clears the word at its end, where no wait would tell."""
    flags, *rest = example("join_by_futex")

    assert "CLONE_THREAD" in flags
    assert "CLONE_CHILD_CLEARTID" in flags
    assert rest == [
        "the kernel has written the thread's id for us: True",
        "waiting for it as for a child: No child processes",
        "joined: the word is 0",
    ]


LINUXTHREADS = {"CLONE_VM", "CLONE_FILES", "CLONE_FS", "CLONE_SIGHAND"}
NPTL = LINUXTHREADS | {
    "CLONE_THREAD",
    "CLONE_SETTLS",
    "CLONE_PARENT_SETTID",
    "CLONE_CHILD_CLEARTID",
    "CLONE_SYSVSEM",
}


def test_nptl_and_linuxthreads():
    """LinuxThreads' threads each have a pid of their own; NPTL's have one, and a tid each."""
    lines = example("nptl_and_linuxthreads")
    old_flags, new_flags = (set(line.split(": ")[1].split("|")) for line in lines if "CLONE_" in line)
    [(program,), _] = ids(lines, r"the program is pid (\d+)")
    old_1, old_2, new_1, new_2 = ids(lines, r"a thread has pid (\d+) and tid (\d+)")

    assert old_flags == LINUXTHREADS | {"SIGCHLD"}
    assert new_flags == NPTL
    assert len({program, old_1[0], old_2[0]}) == 3
    assert {program} == {new_1[0], new_2[0]}
    assert len({program, new_1[1], new_2[1]}) == 3
    assert [line.strip() for line in lines if "share a pid" in line] == [
        "the threads share a pid: no",
        "the threads share a pid: yes",
    ]


def test_raw_clone():
    """The old call has flags first, the signal in their low byte, and the stack's top; clone3 the stack's bottom and size."""
    assert example("raw_clone") == [
        "library: clone(fn, stack, flags, arg): fn gave 42",
        "kernel:  clone(SIGCHLD) went on twice: the child exited with 7",
        "kernel:  clone(SIGUSR1) left with SIGUSR1: a plain wait says ECHILD, one with __WCLONE exited with 7",
        "kernel:  clone(CLONE_VM|SIGCHLD, low + size): exited with 3",
        "kernel:  clone3({flags=CLONE_VM, exit_signal=SIGCHLD, stack=low, stack_size=size}): exited with 3",
        "kernel:  clone3({flags=CLONE_VM, exit_signal=SIGCHLD, stack=low + size}): EINVAL",
    ]


SHARED_BY = {
    "fork": "",
    "light process": "memory",
    "vfork": "memory",
    "Listing 2": "memory files",
    "files and cwd": "files cwd",
    "LinuxThreads": "memory files cwd handlers",
    "thread": "memory files cwd handlers pid",
}


@pytest.mark.parametrize("kind", SHARED_BY)
def test_what_is_shared(kind):
    """Each kind of task shares what its flags name, and nothing more."""
    heads, *rows = (re.split(r" {2,}", line) for line in example("what_is_shared"))
    cells = next(dict(zip(heads, row, strict=True)) for row in rows if row[0] == kind)

    assert {head for head, cell in cells.items() if cell in ("shared", "same")} == set(SHARED_BY[kind].split())
    assert len(rows) == len(SHARED_BY)


def test_who_shares():
    """A thread shares what pthread_create shares but what it unshared, a light process what it was made with, a copy nothing."""
    flags = dict(re.split(r"  +", line) for line in example("who_shares")[:4])

    assert set(flags["a thread"].split("|")) - set(flags["a thread with a cwd of its own"].split("|")) == {"CLONE_FS"}
    assert "CLONE_THREAD" in flags["a thread"]
    assert flags["a light process"] == "CLONE_VM|CLONE_FILES|SIGCHLD"
    assert flags["a copied process"] == "SIGCHLD"
    assert example("who_shares")[4].endswith("True")
