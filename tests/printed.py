"""What programs print, made comparable: the examples' and the pages' promises against the real thing."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SECONDS = 30


@functools.cache
def printed_by(*arguments: str) -> list[str]:
    """The lines that a Python program prints; a warning, a word on stderr or a failure is an error."""
    command = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def example(name: str, *arguments: str) -> list[str]:
    """The lines that an example prints."""
    return printed_by(str(EXAMPLES / f"{name}.py"), *arguments)


def promised(name: str) -> list[str]:
    """The output block at the end of an example's docstring."""
    docstring = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text())) or ""
    return textwrap.dedent(docstring.partition("Output:\n\n")[2]).splitlines()


def with_ids_numbered(lines: list[str]) -> list[str]:
    """The lines with pids and tids counted in the order of their appearance: the same stays the same, another another."""
    seen: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        return f"{found[1]}{seen.setdefault(found[2], len(seen) + 1)}"

    return [re.sub(r"\b([pt]id[ =])(\d+)", number, line, flags=re.IGNORECASE) for line in lines]
