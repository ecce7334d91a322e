"""`sysclone top`, driven in a real terminal."""

from __future__ import annotations

import os
import re
import sys

import pytest
from commandline import COMMAND
from features import requires
from screen import Screen

from sysclone import Context, Share

pytestmark = requires("kcmp", "tmux")


@pytest.fixture
def tasks():
    """A light task that shares our cwd too, and one that shares nothing."""
    go_on, tell = os.pipe()
    started = [Context(share=share).start(os.read, go_on, 1) for share in (Share.VM | Share.FS, Share(0))]
    yield [task.pid for task in started]
    os.write(tell, b"xx")
    for task in started:
        task.result(20)
        task.close()
    os.close(go_on)
    os.close(tell)


def line_of(tid, screen):
    """The marks and the rest of a task's line on the screen, or None."""
    found = re.search(rf"^ ?\d+ +{tid} +\w +((?:\S ){{5}}\S) (.*?)│", screen, re.MULTILINE)
    return (found[1].replace(" ", ""), found[2].strip()) if found else None


def test_it_shows_sorts_filters_and_tells_of_the_chosen(tasks):
    """Each task has its marks; filter, order and choice do what they say; the chosen one's sharers are named; q leaves."""
    light, own = tasks
    with Screen(*COMMAND, "top", "--interval", "0.3", str(os.getpid())) as screen:
        first = screen.until(lambda text: line_of(light, text) and line_of(own, text) and "shares" in text)
        assert line_of(light, first)[0][:4] == "=.=."
        assert line_of(own, first)[0] == "....--"
        assert re.search(rf"│ {os.getpid()} ", first)

        screen.press("/")
        screen.until(lambda text: "a part of a line" in text)
        screen.type(str(light))
        screen.until(lambda text: "1 of " in text.splitlines()[0] and line_of(light, text) and not line_of(own, text))
        screen.press("Enter")
        memory = f"memory: {os.getpid()}"
        told = screen.until(
            lambda text: re.search(rf"│ {light} ", text) and "a light process" in text and memory in text
        )
        assert re.search(r"a light process, a child of\s+(│\s+)?" + str(os.getpid()), re.sub(r".*│", "", told))

        screen.press("Escape")
        screen.until(lambda text: line_of(own, text))
        screen.press("s", "s")
        screen.until(lambda text: "by name" in text.splitlines()[0] and line_of(own, text))
        screen.press("o")
        odd = screen.until(lambda text: not line_of(own, text) and line_of(light, text))
        assert "odd" in odd.splitlines()[0]
        screen.press("o")
        screen.until(lambda text: line_of(own, text))
        screen.press("s", "s", "s", "Down", "Up", "End")
        screen.until(lambda text: "by tree" in text.splitlines()[0])
        screen.press("q")
        assert screen.status() == 0


@pytest.mark.parametrize("columns", [80, 120])
def test_it_fits_in_the_terminal(tasks, columns):
    """In 80 columns the names and what the chosen one shares are there to be read, below each other; in 120 side by side."""
    with Screen(*COMMAND, "top", str(os.getpid()), columns=columns, rows=24) as screen:
        text = screen.until(lambda text: "memory:" in text and " pause" in text)
        [heading] = [line for line in text.splitlines() if "namespaces" in line and "what" in line]
        assert ("│" in heading) is (columns == 120)
        assert "python" in text
        assert "by tree" in text.splitlines()[0]
        assert " pause" in text


def test_it_keeps_up_with_what_comes_and_goes(tasks):
    """A task that comes is shown at the next look, and one that ends is not any more; in a pause neither is so."""
    go_on, tell = os.pipe()
    with Screen(*COMMAND, "top", "--interval", "0.2", "--odd", str(os.getpid()), columns=200) as screen:
        screen.until(lambda text: line_of(tasks[0], text))
        with Context.light().start(os.read, go_on, 1) as task:
            screen.until(lambda text: line_of(task.pid, text))
            screen.press("Space")
            screen.until(lambda text: "paused" in text.splitlines()[0])
            os.write(tell, b"x")
            task.result(20)
            assert line_of(task.pid, screen.text())
        screen.press("Space")
        screen.until(lambda text: not line_of(task.pid, text) and line_of(tasks[0], text))
        screen.press("C-q")
        assert screen.status() == 0
    os.close(go_on)
    os.close(tell)


def test_who_is_not_there_is_told():
    """A process that does not exist ends it with the reason, on a terminal that is as it was."""
    with Screen(*COMMAND, "top", str(1 << 22)) as screen:
        text = screen.until(lambda text: "sysclone top:" in text)
        assert "there is no task 4194304" in text
        assert screen.status() == 125


def test_without_textual_it_says_what_to_install(tmp_path):
    """Where textual is missing, that and the way to have it is all that is said."""
    (tmp_path / "textual.py").write_text("raise ImportError('not here')")
    with Screen("env", f"PYTHONPATH={tmp_path}", *COMMAND, "top") as screen:
        screen.until(lambda text: "pip install 'sysclone[top]'" in text)
        assert screen.status() == 125


def test_without_a_terminal_it_says_so(sysclone):
    """Where nobody looks, it names the verb for that."""
    done = sysclone("top", stdin=0)

    assert (done.returncode, done.stdout) == (125, "")
    assert "sysclone ps" in done.stderr


def test_wrong_intervals_are_refused(sysclone):
    """An interval out of its range is an error of the options."""
    done = sysclone("top", "--interval", "0")

    assert done.returncode == 125
    assert "0.1 to 3600" in done.stderr
    assert sys.executable not in done.stderr
