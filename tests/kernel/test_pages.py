"""The README and the pages of docs/: what they show runs, and prints what they say."""

from __future__ import annotations

import re

import pytest
from features import requires
from pages import blocks, printed_in_shell, prose
from printed import ROOT, printed_by

# The tutorial has a test of its own, which also knows the examples.
PAGES = [
    "README.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "tutorial.md"),
]


def runnable(language):
    """The blocks of a language that are marked to be run, as parameters with the features that they need."""
    return [
        pytest.param(block, id=f"{name} line {block.line}", marks=[requires(one) for one in block.needs])
        for name in PAGES
        for block in blocks(name)
        if block.language == language and block.runs
    ]


@pytest.mark.parametrize("block", runnable("python"))
def test_programs_run(block, tmp_path):
    """A program that is marked to be run does so without a warning, and prints what stands below it."""
    script = tmp_path / "block.py"
    script.write_text(block.text)

    assert block.output
    assert printed_by(str(script)) == block.output


@requires("no_sanitizer")
@pytest.mark.parametrize("block", runnable("console"))
def test_commands_run(block, tmp_path):
    """Commands that are marked to be run print what stands below them, pids apart."""
    promised, printed = printed_in_shell(block.text, tmp_path)

    assert printed == promised


@pytest.mark.parametrize("name", PAGES)
def test_python_is_marked(name):
    """No program stands on a page without being run."""
    assert [block.line for block in blocks(name) if block.language == "python" and not block.runs] == []


@pytest.mark.parametrize("name", [name for name in PAGES if name != "docs/design.md"])
def test_one_sentence_a_line(name):
    """No line of prose holds two sentences; a cell of a table may."""
    lines = [line for line in prose(name) if not line.startswith("|")]

    assert [line for line in lines if re.search(r"[a-z`)][.?!] [A-Z`]", line)] == []
