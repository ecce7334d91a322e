"""`sysclone trace` as a picture and in numbers: of real programs, the page in a real Chromium."""

from __future__ import annotations

import html
import json
import os
import re
import sys
from pathlib import Path

import pytest
from browser import Tab, picture_of, text_of
from features import requires

pytestmark = requires("ptrace")

THEMES = os.environ.get("SYSCLONE_BROWSER_THEMES", "light,dark").split(",")
GROUND = {"light": "#ffffff", "dark": "#12151b"}
COLOURS = {
    "light": {"first": "#44506b", "thread": "#2f7fd1", "vfork": "#12936f", "light": "#c2569b", "some": "#d98e04"},
    "dark": {"first": "#9aa8c7", "thread": "#5aa5f0", "vfork": "#35c99b", "light": "#ea86c6", "some": "#f0b545"},
}

PROGRAM = """
import os, subprocess, threading, time
import sysclone
from sysclone import Context, Share
told = {"main": os.getpid()}
def body():
    told["thread"] = threading.get_native_id()
    time.sleep(0.05)
one = threading.Thread(target=body)
one.start()
one.join()
def light():
    time.sleep(0.05)
    return os.getpid()
told["light"] = sysclone.call(light)
told["fork"] = os.fork() or os._exit(3)
os.waitpid(told["fork"], 0)
program = sysclone.Popen(["/bin/sleep", "0.05"], context=Context(share=Share.FS))
told["cwd"] = program.pid
program.wait()
killed = subprocess.Popen(["/bin/sh", "-c", "kill -9 $$"], close_fds=False)
told["killed"] = killed.pid
killed.wait()
try:
    os.execv("/no/such", ["x"])
except OSError:
    pass
print(told)
"""


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """Runs the program under sysclone trace, and gives the file that was written and the ids that it told."""
    from commandline import run_command

    made: dict[str, tuple[Path, dict[str, int]]] = {}

    def run(kind: str) -> tuple[Path, dict[str, int]]:
        if kind not in made:
            file = tmp_path_factory.mktemp("trace") / f"trace.{kind}"
            words = ["--format", kind] if kind != "json-summary" else ["-c", "--json"]
            done = run_command("trace", "-o", str(file), *words, "--", sys.executable, "-W", "ignore", "-c", PROGRAM)
            assert (done.returncode, done.stderr) == (0, "")
            made[kind] = file, eval(done.stdout)
        return made[kind]

    return run


def page_rows(file):
    """The rows of a page by id, as dicts."""
    page = file.read_text()
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    kinds = [key for key, _ in data["kinds"]]
    return {
        row[0]: {
            "pid": row[1],
            "creator": data["lives"][row[2]][0] if row[2] >= 0 else None,
            "end": data["strings"][row[7]],
            "kinds": [kinds[kind] for kind in row[9][1::3]],
            "execs": [data["strings"][text] for text in row[10][1::2]],
            "marks": [data["strings"][text] for text in row[11][1::3]],
        }
        for row in data["lives"]
    }


def test_the_page_has_every_task_as_it_was(traced):
    """Each task is a row: with its creator, what it shared with it from when on, its programs, failed calls and its end."""
    file, told = traced("html")
    rows = page_rows(file)

    assert set(told.values()) <= set(rows)
    assert {rows[tid]["creator"] for name, tid in told.items() if name != "main"} == {told["main"]}
    assert rows[told["main"]]["kinds"] == ["first"]
    assert (rows[told["thread"]]["kinds"], rows[told["thread"]]["pid"]) == (["thread"], told["main"])
    assert rows[told["light"]]["kinds"][0] == "light"
    assert (rows[told["fork"]]["kinds"], rows[told["fork"]]["end"]) == (["nothing"], "exited with 3")
    assert rows[told["cwd"]]["kinds"] == ["vfork", "some"]
    assert rows[told["cwd"]]["execs"] == ["/bin/sleep 0.05"]
    assert rows[told["killed"]]["end"] == "killed by SIGKILL (9)"
    assert "execve /no/such: ENOENT" in rows[told["main"]]["marks"]


@requires("chromium")
def test_chromium_builds_the_tree_and_finds(traced):
    """The page's tree has every task under its creator; a search counts and marks what it finds; the chosen one is told of."""
    file, told = traced("html")
    dom = text_of(file, f"q=some+fs&task={told['cwd']}")
    rows = re.findall(r'<div class="row([^"]*)"[^>]*aria-level="(\d+)"[^>]*>(.*?)</div>', dom)
    found = {
        int(re.search(r'class="tid"> (\d+)', inside)[1]): (classes.split(), int(level))
        for classes, level, inside in rows
    }
    tip = html.unescape(re.sub(r"<[^>]+>", " ", re.search(r'<div id="tip".*?</dl>', dom, re.DOTALL)[0]))

    assert set(told.values()) <= set(found)
    assert (found[told["main"]][1], found[told["cwd"]][1], found[told["thread"]][1]) == (1, 2, 2)
    assert {"chosen", "match"} <= set(found[told["cwd"]][0])
    assert "dim" in found[told["light"]][0]
    assert re.search(r'id="found"[^>]*>1 of \d+<', dom)
    assert str(told["cwd"]) in tip
    assert "exec /bin/sleep 0.05" in tip
    assert "CLONE_FS" in tip
    assert "exited with 0" in tip
    assert f'data-ready="{len(page_rows(file))}"' in dom


@requires("chromium")
def test_chromium_answers_mouse_and_keys(traced):
    """Hovering tells of a task, searching finds and goes to it, the wheel zooms, a fold hides what is below, t the threads."""
    file, told = traced("html")
    place = "[...document.querySelectorAll('.row')].find(row => row.querySelector('.tid').textContent.trim() === '{}')"
    with Tab(file) as tab:

        def middle(tid):
            box = f"{place.format(tid)}.getBoundingClientRect()"
            return tab.run(f"[{box}.right - 20, {box}.top + 9]")

        tab.mouse("mouseMoved", *middle(told["light"]))
        tip = tab.run("[getComputedStyle($('tip')).display, $('tip').innerText]")
        assert tip[0] == "block"
        assert f"{told['light']} " in tip[1]
        assert "CLONE_VM" in tip[1]
        assert tab.run(f"{place.format(told['light'])}.className") == "row chosen"

        tab.mouse("mouseMoved", 500, 5)
        assert tab.run("getComputedStyle($('tip')).display") == "none"
        tab.type("/")
        tab.type("kill -9\r")
        assert tab.run("[$('search').value, $('found').textContent.split(' ')[0], location.hash]") == [
            "kill -9", "1", f"#q=kill+-9&task={told['killed']}",
        ]  # fmt: skip

        span = tab.run("state.to - state.from")
        tab.mouse("mouseWheel", 600, 300, deltaX=0, deltaY=-300, modifiers=2)
        assert tab.run("state.to - state.from") < 0.8 * span
        tab.run("$('search').blur()")
        tab.type("0")
        assert tab.run("state.to - state.from") == pytest.approx(span, rel=0.1)

        tab.type("t")
        assert tab.run(f"{place.format(told['thread'])} === undefined")
        x, y = tab.run("(box => [box.left + 7, box.top + 9])(document.querySelector('.fold').getBoundingClientRect())")
        tab.click(x, y)
        assert tab.run("document.querySelectorAll('.row').length") == 1
        tab.type("d")
        assert tab.run("document.documentElement.dataset.theme") == "dark"


@requires("chromium")
@pytest.mark.parametrize("theme", THEMES)
def test_chromium_draws_it(traced, tmp_path, theme):
    """In each theme the ground has its colour, and each kind of life is there in its own: in the tree and the timeline."""
    file, _ = traced("html")
    picture = picture_of(file, f"theme={theme}", tmp_path / f"{theme}.png")
    counted = {kind: picture.count(colour) for kind, colour in COLOURS[theme].items()}

    assert (picture.width, picture.height) == (1000, 420)
    assert picture.at(200, 410) == GROUND[theme]
    assert picture.count(GROUND[theme]) > 0.5 * picture.width * picture.height
    assert {kind: count for kind, count in counted.items() if count < 100} == {}
    assert counted["first"] > 2000


def test_chrome_json_of_a_real_program(traced):
    """Each task has a slice under its own ids, and an arrow from its creator."""
    file, told = traced("chrome")
    events = json.loads(file.read_text())["traceEvents"]
    slices = {event["tid"]: event for event in reversed(events) if event["ph"] == "X" and event["cat"] != "program"}
    begins = {event["id"]: event["tid"] for event in events if event["ph"] == "s"}
    arrows = {event["tid"]: begins[event["id"]] for event in events if event["ph"] == "f"}

    assert set(told.values()) <= set(slices)
    assert {arrows[tid] for name, tid in told.items() if name != "main"} == {told["main"]}
    assert slices[told["thread"]]["pid"] == told["main"]
    assert slices[told["light"]]["cat"] == "light"
    assert slices[told["thread"]]["dur"] > 40_000
    assert any(event["ph"] == "i" and event["name"] == "exec /bin/sleep" for event in events)


def test_summary_of_a_real_program(traced):
    """The table counts what was made, by call and flags, and tells how long it lived."""
    file, _ = traced("json-summary")
    told = json.loads(file.read_text())
    threads = [kind for kind in told["births"] if "CLONE_THREAD" in kind["flags"]]

    assert told["tasks"] == 1 + sum(kind["births"] for kind in told["births"])
    assert sum(kind["births"] for kind in threads) >= 1
    assert threads[0]["longest_lifetime"] > 0.04
    assert told["failed_execs"] == 1


def test_summary_for_people(sysclone):
    """-c prints the table instead of the events, and the program's status is passed on."""
    done = sysclone("trace", "-c", "--", "/bin/sh", "-c", "/bin/true; /bin/true & wait; exit 5")

    assert done.returncode == 5
    assert re.search(r"^ +2 .* (clone|vfork|all)\b", done.stderr, re.MULTILINE)
    assert re.search(r"^3 tasks and 3 programs in ", done.stderr, re.MULTILINE)
