"""`sysclone ps`, `groups` and `matrix`: real tasks that share, in text and in JSON."""

from __future__ import annotations

import os
import re
import threading

import pytest
from commandline import run_command
from features import requires

from sysclone import Context, Share, lowlevel

pytestmark = requires("kcmp")


@pytest.fixture(scope="module")
def tasks():
    """A light task, one that shares its cwd and memory, one that shares nothing, and a thread without our cwd."""
    go_on, tell = os.pipe()
    contexts = {"light": Context.light(), "cwd": Context(share=Share.VM | Share.FS), "own": Context()}
    started = {name: context.start(os.read, go_on, 1) for name, context in contexts.items()}
    ready, end = threading.Event(), threading.Event()

    def body():
        lowlevel.unshare(lowlevel.CLONE_FS)
        ready.set()
        end.wait()

    thread = threading.Thread(target=body, name="odd")
    thread.start()
    assert ready.wait(20)
    yield {**{name: task.pid for name, task in started.items()}, "thread": thread.native_id}
    end.set()
    thread.join()
    os.write(tell, b"x" * len(started))
    for task in started.values():
        task.result(20)
        task.close()
    os.close(go_on)
    os.close(tell)


def rows(output):
    """The marks and the rest of each line of ps, by tid."""
    found = {}
    for line in output.splitlines():
        match = re.match(r" +(\d+) +(\d+) +(\w) +((?:\S ){5}\S) (.*)", line)
        if match:
            found[int(match[2])] = (match[4].replace(" ", ""), match[5].strip())
    return found


def test_ps_marks_what_is_shared(sysclone, tasks):
    """Each task has a mark for each resource: with its parent or process, with another, alone, or nothing."""
    done = sysclone("ps", str(os.getpid()))
    found = rows(done.stdout)

    assert (done.returncode, done.stderr) == (0, "")
    assert found[tasks["light"]][0][:4] == "=..."
    assert found[tasks["cwd"]][0][:4] == "=.=."
    assert found[tasks["own"]][0] == "....--"
    assert found[tasks["thread"]][0][:4] == "==.="
    assert found[os.getpid()][0][0] == "+"


def test_ps_draws_the_tree(sysclone, tasks):
    """Children and threads hang below their process; as a table they do not."""
    tree = rows(sysclone("ps", str(os.getpid()), env={**os.environ, "PYTHONIOENCODING": "utf-8"}).stdout)
    ascii_tree = rows(sysclone("ps", str(os.getpid()), env={**os.environ, "PYTHONIOENCODING": "ascii"}).stdout)
    table = rows(sysclone("ps", "--table", str(os.getpid())).stdout)

    assert not re.match(r"[├└]", tree[os.getpid()][1])
    assert re.match(r"[├└]─ ", tree[tasks["light"]][1])
    assert re.match(r"[├└]─ \{", tree[tasks["thread"]][1])
    assert re.match(r"[|`]- ", ascii_tree[tasks["light"]][1])
    assert not re.match(r"[├└]", table[tasks["light"]][1])


def test_ps_leaves_out_what_is_not_asked_for(sysclone, tasks):
    """Threads can be left out, and all that is not odd."""
    without = rows(sysclone("ps", "--no-threads", str(os.getpid())).stdout)
    odd = rows(sysclone("ps", "--odd", str(os.getpid())).stdout)

    assert tasks["thread"] not in without
    assert tasks["light"] in without
    assert {tasks["light"], tasks["cwd"], tasks["thread"], os.getpid()} <= set(odd)
    assert tasks["own"] not in odd


@requires("kernel_threads")
def test_ps_of_the_system(sysclone):
    """Without a pid the whole system is shown, kernel threads only when they are asked for."""
    assert 2 not in rows(sysclone("ps").stdout)
    assert rows(sysclone("ps", "--kernel").stdout)[2][0] == "------"
    assert rows(sysclone("ps", "2").stdout)[2][0] == "------"


def test_ps_json_has_everything(sysclone_json, tasks):
    """As JSON each task has its groups with their members, namespaces, cgroups and the rest."""
    told = sysclone_json("ps", str(os.getpid()))
    found = {task["tid"]: task for task in told["tasks"]}

    assert told["calls"] > 0
    assert os.getpid() in found[tasks["light"]]["sharing"]["VM"]["tids"]
    assert found[tasks["light"]]["sharing"]["FILES"] == {"answer": "alone", "tids": [tasks["light"]]}
    assert found[tasks["own"]]["sharing"]["IO"]["answer"] == "nothing"
    assert found[tasks["own"]]["namespaces"]["NET"] == os.stat("/proc/self/ns/net").st_ino
    assert found[tasks["own"]]["ppid"] == os.getpid()


def test_groups_put_the_odd_ones_first(sysclone, sysclone_json, tasks):
    """A group that reaches over processes is odd, and comes before those of ordinary threads."""
    told = sysclone_json("groups")
    memory = [group for group in told if tasks["light"] in group["tids"]]
    text = sysclone("groups", str(os.getpid())).stdout

    assert [(group["resource"], group["odd"]) for group in memory] == [("VM", True)]
    assert {os.getpid(), tasks["light"], tasks["cwd"]} <= set(memory[0]["pids"])
    assert [group["odd"] for group in told] == sorted((group["odd"] for group in told), reverse=True)
    assert re.search(rf"^  cwd +\d+ +odd +.*{tasks['cwd']} \(", text, re.MULTILINE)


def test_groups_odd_alone(sysclone_json, tasks):
    """--odd leaves the others out."""
    assert {group["odd"] for group in sysclone_json("groups", "--odd")} == {True}


def test_matrix_of_pairs(sysclone, sysclone_json, tasks):
    """Each pair has its letters, and the flags that would make it."""
    words = [str(os.getpid()), str(tasks["cwd"]), str(tasks["thread"])]
    text = sysclone("matrix", *words).stdout
    pairs = {(pair["a"], pair["b"]): pair for pair in sysclone_json("matrix", *words)}
    cells = next(line.split() for line in text.splitlines() if line.split()[:1] == [words[1]])

    assert "M.D...." in cells
    assert re.search(rf"^  {words[2]} +a thread of {words[0]} .*except for its own cwd", text, re.MULTILINE)
    assert re.search(rf"^  {words[0]} +{words[1]} +CLONE_VM\|CLONE_FS\|SIGCHLD$", text, re.MULTILINE)
    assert pairs[os.getpid(), tasks["thread"]]["flags"] == [
        "CLONE_VM", "CLONE_FILES", "CLONE_SIGHAND", "CLONE_THREAD", "CLONE_SYSVSEM",
    ]  # fmt: skip
    assert pairs[tasks["cwd"], tasks["thread"]]["shared"] == ["VM"]


@pytest.mark.parametrize("verb", ["ps", "groups", "matrix"])
def test_who_is_not_there_is_told(sysclone, verb):
    """A process that does not exist is told as such, with the status of a failure."""
    done = sysclone(verb, str(1 << 22))

    assert done.returncode == 125
    assert "4194304" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


ANOTHER = ("unshare", "--mount", "--pid", "--fork")
NONE = ("unshare", "--mount", "sh", "-c", 'umount -l /proc && exec "$@"', "sh")


@requires("root", "mount_namespaces", "pid_namespaces")
@pytest.mark.parametrize(
    ("before", "words"),
    [
        (ANOTHER, ("ps",)),
        (ANOTHER, ("matrix", "1")),
        (ANOTHER, ("trace", "--", "/bin/true")),
        pytest.param(NONE, ("ps",), marks=requires("no_sanitizer")),
        pytest.param(NONE, ("trace", "-p", "1"), marks=requires("no_sanitizer")),
    ],
)
def test_numbers_of_another_proc_are_refused(before, words):
    """With the /proc of another pid namespace, or none, nothing is said of strangers, and why and what to do is said."""
    done = run_command(*words, before=before)

    assert (done.returncode, done.stdout) == (125, "")
    assert ("another pid namespace" if before is ANOTHER else "there is no /proc") in done.stderr
    assert "try: mount -t proc" in done.stderr
