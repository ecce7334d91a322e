"""`sysclone demo`: the matrix is what was asked for, by two independent ways of looking."""

from __future__ import annotations

import os
import signal

import pytest
from commandline import AS_NOBODY, Terminal
from features import requires

from sysclone.cli import demo
from sysclone.cli._measure import RESOURCES, Resource, Row

SHARED = {
    "light (call)": {"memory"},
    "fork": set(),
    "vfork": {"memory"},
    "thread": {"memory", "files", "fs", "sighand", "sysvsem", "thread"},
    "linuxthreads": {"memory", "files", "fs", "sighand"},
    "sibling": {"files", "fs"},
    "all but thread": {"memory", "files", "fs", "sighand", "sysvsem", "io"},
    "run": set(),
    "run, its cd ours": {"fs"},
}


@pytest.fixture
def rows(sysclone_json):
    """The rows, as JSON, by name."""
    return {row["name"]: row for row in sysclone_json("demo")["rows"]}


@requires("kcmp")
def test_matrix(rows):
    """Each kind of task shares what its flags say and nothing else, by kcmp and by effect alike."""
    for name, shared in SHARED.items():
        found = rows[name]["resources"]
        assert {one for one, answers in found.items() if answers["kcmp"]} == shared, name
        if not name.startswith("run"):
            assert {one for one, answers in found.items() if answers["effect"]} == shared, name
            assert None not in [answers["effect"] for answers in found.values()], name
        assert rows[name]["problems"] == []
    assert set(rows) == set(SHARED)


def test_programs_by_effect(rows):
    """A program's cd moves its creator with FS alone; what it closes and traps is its own."""
    for name, fs in (("run", False), ("run, its cd ours", True)):
        found = {one: answers["effect"] for one, answers in rows[name]["resources"].items()}
        assert (found["fs"], found["files"], found["sighand"], found["thread"]) == (fs, False, False, False)


def test_pids_parents_and_signals(rows):
    """Each task has the pid, the parent and the exit signal that its flags say."""
    for name, row in rows.items():
        assert (row["pid"] == row["creator"]) is (name == "thread")
        assert row["seconds"] > 0
    assert rows["thread"]["tid"] != rows["thread"]["pid"]
    assert rows["sibling"]["parent"] == "creator's parent"
    assert rows["linuxthreads"]["parent"] == "creator"
    assert {name: row["exit_signal"] for name, row in rows.items() if row["exit_signal"] != signal.SIGCHLD} == {
        "thread": 0,
        "sibling": 0,
        "all but thread": signal.SIGUSR1,
    }


def test_text(sysclone):
    """For people there are two tables, and the exit status is 0 when all agrees."""
    done = sysclone("demo")

    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["linuxthreads", *["shared"] * 4, *["own"] * 3] in lines
    assert "!" not in done.stdout


def test_terminal():
    """On a terminal the tables are drawn, with rich where there is rich."""
    with Terminal("demo", env={**os.environ, "TERM": "xterm", "COLUMNS": "120"}) as terminal:
        while "time: " not in (line := terminal.line()):
            assert "Traceback" not in line
        assert terminal.process.wait(20) == 0


@requires("nobody")
def test_as_nobody(sysclone):
    """Without rights it is the same matrix."""
    done = sysclone("demo", before=AS_NOBODY, cwd="/")

    assert (done.returncode, done.stderr) == (0, "")


@requires("root", "ipc_namespaces")
def test_nothing_is_left(sysclone, tmp_path):
    """No folder of its own and no semaphore stays behind: looked for where nobody else makes any."""
    look = '"$@" && tail -n +2 /proc/sysvipc/sem >&2'
    done = sysclone(
        "demo", before=("unshare", "--ipc", "sh", "-c", look, "sh"), env={**os.environ, "TMPDIR": str(tmp_path)}
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


def quarrel(asked, kcmp, effect):
    """A row in which one resource was seen so."""
    resources = {name: Resource(False, False, False) for name in RESOURCES}
    resources["files"] = Resource(asked, kcmp, effect)
    return Row("a row", "0", resources)


@pytest.mark.parametrize(
    "answers", [(True, True, False), (True, False, True), (False, True, True), (True, False, None)]
)
def test_a_quarrel_is_loud(monkeypatch, capsys, answers):
    """Where what was asked for, kcmp and the effect differ, it is said on standard error, and the exit status is 1."""
    import argparse

    monkeypatch.setattr(demo, "CASES", [("a row", None, False)])
    monkeypatch.setattr(demo, "measure", lambda *_: quarrel(*answers))

    assert demo.run(argparse.Namespace(json=False)) == 1
    output, messages = capsys.readouterr()
    assert "DISAGREEMENT: a row: files: asked for" in messages
    assert "!" in output


@pytest.mark.parametrize("answers", [(True, True, True), (False, False, None), (True, None, True), (True, None, None)])
def test_what_is_unknown_is_no_quarrel(answers):
    """An answer that could not be had contradicts nothing."""
    assert demo.disagreements(quarrel(*answers)) == []
