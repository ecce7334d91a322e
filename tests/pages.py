"""The blocks of the Markdown pages: programs and commands with what they print."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from printed import ROOT

BLOCK = re.compile(r"^```(\w*)[ ]?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECONDS = 60


@dataclass(frozen=True)
class Block:
    """A fenced block: its page and line, its language, the words after that, its text, and the text block below it."""

    page: str
    line: int
    language: str
    words: list[str]
    text: str
    output: list[str] | None

    @property
    def runs(self) -> bool:
        """Whether it is marked to be run."""
        return self.words[:1] == ["run"]

    @property
    def needs(self) -> list[str]:
        """The features that it needs, as features.py calls them."""
        return self.words[1:]


def blocks(name: str) -> list[Block]:
    """A page's blocks, in order; the page by its path from the root."""
    page = (ROOT / name).read_text()
    found = list(BLOCK.finditer(page))
    below = [*(one[3].splitlines() if one[1] == "text" else None for one in found[1:]), None]
    return [
        Block(name, page.count("\n", 0, one.start()) + 1, one[1], one[2].split(), one[3], output)
        for one, output in zip(found, below, strict=False)
    ]


def prose(name: str) -> list[str]:
    """A page's lines outside of its blocks."""
    return re.sub(BLOCK, "", (ROOT / name).read_text()).splitlines()


def section(name: str, title: str) -> str:
    """What stands under a heading, up to the next one of its level or above; a block's comments are no headings."""
    page = re.sub(BLOCK, lambda block: block[0].replace("\n#", "\n "), (ROOT / name).read_text())
    found = re.search(rf"^(#+) {re.escape(title)}$", page, re.MULTILINE)
    assert found, f"{name} has no heading {title!r}"
    return re.split(rf"^#{{1,{len(found[1])}}} ", page[found.end() :], maxsplit=1, flags=re.MULTILINE)[0]


def printed_in_shell(text: str, folder: Path) -> tuple[list[str], list[str]]:
    """What a console block promises, and what its commands print, each as lines with the commands among them."""
    commands = [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]
    # `(exit …)` hands each command the status of the one before it, past the line that shows the command.
    script = "".join(f"s=$?; echo {_quoted('$ ' + command)}; (exit $s)\n{command}\n" for command in commands)
    path = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
    done = subprocess.run(
        ["bash", "-c", f"exec 2>&1\n{script}"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        cwd=folder,
        env={"PATH": path, "LC_ALL": "C.UTF-8", "HOME": str(folder)},
    )
    return _without_ids(text), _without_ids(done.stdout)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _without_ids(text: str) -> list[str]:
    return [re.sub(r"\b(task|pid) \d{2,}", r"\1 N", line).rstrip() for line in text.splitlines()]
