"""A real terminal to drive a program in: tmux, with a server of its own."""

from __future__ import annotations

import os
import re
import select
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

PATIENCE = 25.0


class Screen:
    """A program in a terminal of so many columns and rows; keys go in, and what stands on the screen comes out."""

    def __init__(self, *command: str, columns: int = 140, rows: int = 40) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="sysclone-screen-")
        self._socket = f"{self._folder.name}/socket"
        changes = Path(self._folder.name) / "changes"
        os.mkfifo(changes)
        self._changes = os.open(changes, os.O_RDWR | os.O_NONBLOCK)  # so that a writer never waits for a reader
        size = ["-x", str(columns), "-y", str(rows)]
        # The program begins when its output is watched.
        # Its end is told by the shell: tmux 3.3 at times does not hear of a child's end, and leaves a zombie.
        line = f"read go; {shlex.join(command)}; s=$?; echo; echo left with $s.; read end"
        self._tmux("-f", "/dev/null", "new-session", "-d", *size, "sh", "-c", line)
        self._tmux("pipe-pane", f"exec cat > {shlex.quote(str(changes))}")
        self.press("Enter")

    def _tmux(self, *words: str) -> str:
        env = {**os.environ, "LC_ALL": "C.UTF-8", "TERM": "xterm-256color"}
        env.pop("TMUX", None)
        done = subprocess.run(
            ["tmux", "-u", "-S", self._socket, *words], capture_output=True, text=True, timeout=20, env=env, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def press(self, *keys: str) -> None:
        """Press keys by tmux's names, one after the other: "Down", "q", "Enter"."""
        self._tmux("send-keys", *keys)

    def type(self, text: str) -> None:
        """Type a text as it is."""
        self._tmux("send-keys", "-l", text)

    def text(self) -> str:
        """What stands on the screen."""
        return self._tmux("capture-pane", "-p")

    def until(self, is_there: Callable[[str], object]) -> str:
        """The screen as soon as it is as wanted; looked at whenever the program has written."""
        end = time.monotonic() + PATIENCE
        while True:
            text = self.text()
            if is_there(text):
                return text
            left = end - time.monotonic()
            assert left > 0, f"this did not come on the screen:\n{text}"
            if select.select([self._changes], [], [], min(left, 1.0))[0]:
                os.read(self._changes, 1 << 16)

    def status(self) -> int:
        """How the program left, when it has left."""
        found = re.compile(r"^left with (\d+)\.$", re.MULTILINE)
        told = found.search(self.until(found.search))
        assert told
        return int(told[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tmux("kill-server")
        os.close(self._changes)
        self._folder.cleanup()
