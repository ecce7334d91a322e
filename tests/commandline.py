"""How tests run the command line: as a real program, with a limit on its time."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from typing import Any, Self

COMMAND = [sys.executable, "-m", "sysclone"]
PATIENCE = 40


def run_command(*words: str, before: tuple[str, ...] = (), **keywords: Any) -> subprocess.CompletedProcess[str]:
    """Run sysclone, with `before` as the beginning of the command line, and give what came of it."""
    keywords = {"capture_output": True, "text": True, "timeout": PATIENCE, "check": False} | keywords
    return subprocess.run([*before, *COMMAND, *words], **keywords)


# It may read what only root may, since the interpreter may be in root's home; nothing else.
AS_NOBODY = (
    "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
    "--inh-caps", "-all,+dac_read_search", "--ambient-caps", "-all,+dac_read_search",
)  # fmt: skip
"""Begins the command line of a program that runs as nobody."""


class Started:
    """A sysclone that runs, with its output to read line by line."""

    def __init__(self, words: tuple[str, ...], before: tuple[str, ...] = (), **keywords: Any) -> None:
        keywords = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | keywords
        self.process = subprocess.Popen([*before, *COMMAND, *words], text=True, **keywords)
        self.pid = self.process.pid

    def line(self) -> str:
        """The next line of its output, when it comes."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def send(self, number: int) -> None:
        """Send it alone a signal."""
        os.kill(self.pid, number)

    def end(self) -> tuple[int, str, str]:
        """Close its input, and give exit status, the rest of its output, and its messages."""
        output, messages = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, output, messages

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:
            self.process.kill()


class Terminal:
    """A sysclone that leads a session on a terminal of its own, seen from the other end of the terminal."""

    def __init__(self, *words: str, **keywords: Any) -> None:
        self.master, slave = os.openpty()
        try:
            command = ["setsid", "--ctty", *COMMAND, *words]
            self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, **keywords)
        finally:
            os.close(slave)
        self.buffer = b""

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self.master, keys)

    def line(self) -> str:
        """The next line on the screen, without what the terminal echoes."""
        while b"\n" not in self.buffer:
            assert select.select([self.master], [], [], 20)[0], f"nothing more on the screen: {self.buffer!r}"
            self.buffer += os.read(self.master, 1000)
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.decode().strip().removeprefix("^C")

    def hang_up(self) -> None:
        """Close the terminal."""
        os.close(self.master)
        self.master = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        if self.master >= 0:
            os.close(self.master)
