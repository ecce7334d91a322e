"""The tutorial: its programs run and print what it says, and what it quotes from the examples stands there."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from features import requires
from printed import EXAMPLES, ROOT, printed_by, promised, with_ids_numbered

PAGE = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(\w+)[ ]?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the words after it, its text, the text of the output block below, and its line."""

    language: str
    words: str
    text: str
    output: list[str] | None
    line: int


def blocks() -> list[Block]:
    """The page's blocks; output belongs to the program or quotation above it."""
    page = PAGE.read_text()
    found = list(BLOCK.finditer(page))
    below = [*(one[3].splitlines() if one[1] == "text" else None for one in found[1:]), None]
    return [
        Block(one[1], one[2], one[3], output, page.count("\n", 0, one.start()) + 1)
        for one, output in zip(found, below, strict=True)
    ]


BLOCKS = blocks()
PROGRAMS = [
    pytest.param(block, id=f"line {block.line}", marks=[requires(feature) for feature in block.words.split()[1:]])
    for block in BLOCKS
    if block.words.split()[:1] == ["run"]
]
QUOTATIONS = [pytest.param(block, id=f"line {block.line}") for block in BLOCKS if block.words.startswith("examples/")]
OUTPUTS = [pytest.param(block, id=f"line {block.line}") for block in BLOCKS if block.language == "text"]


@pytest.mark.parametrize("block", PROGRAMS)
def test_programs_run(block, tmp_path):
    """A block that is marked to be run does so without a warning, and prints what stands below it."""
    script = tmp_path / "block.py"
    script.write_text(block.text)

    assert block.output
    assert printed_by(str(script)) == block.output


@pytest.mark.parametrize("block", QUOTATIONS)
def test_quotations_are_true(block):
    """A block that is marked with an example stands in it, to the letter."""
    assert block.text in (ROOT / block.words).read_text()


@pytest.mark.parametrize("block", OUTPUTS)
def test_outputs_are_promised(block):
    """Each block of output is a run program's, or lines that stand together in what an example promises."""
    of_programs = [one.values[0].output for one in PROGRAMS]
    shown = with_ids_numbered(block.text.splitlines())
    of_examples = [stretch for path in EXAMPLES.glob("*.py") for stretch in stretches(promised(path.stem), len(shown))]

    assert shown in of_programs or shown in of_examples


def stretches(lines: list[str], length: int) -> list[list[str]]:
    """Every run of so many lines, with its ids numbered."""
    return [with_ids_numbered(lines[start : start + length]) for start in range(len(lines) - length + 1)]


def test_python_is_marked():
    """No block of Python is there without a mark that has it tested."""
    unmarked = [
        block.line for block in BLOCKS if block.language == "python" and not re.match(r"run|examples/", block.words)
    ]

    assert unmarked == []


def test_every_example_is_linked():
    """The page leads to each example."""
    page = PAGE.read_text()

    assert [path.name for path in EXAMPLES.glob("*.py") if f"examples/{path.name}" not in page] == []


def test_one_sentence_a_line():
    """No line of prose holds two sentences."""
    prose = re.sub(BLOCK, "", PAGE.read_text())

    assert [line for line in prose.splitlines() if re.search(r"[a-z`)][.?!] [A-Z`]", line)] == []
