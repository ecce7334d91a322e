"""A program on a terminal of its own."""

from __future__ import annotations

import subprocess
import time

from .family import Tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from .terminal import Terminal


class OnTerminal(Tree):
    """The part of a Popen that knows of its pty."""

    terminal: Terminal | None = None
    _terminal_fd: int = -1
    _typed: bytes | None = None
    _taken: bytearray

    def _open_terminal(
        self, pty: bool | tuple[int, int], stdin: Any, stdout: Any, stderr: Any
    ) -> tuple[Any, Any, Any, bool]:
        """Make the pty; answers the three streams, and that there is to be a new session."""
        from .terminal import Terminal, usual_size

        self.terminal = Terminal(usual_size() if pty is True else pty)  # type: ignore[arg-type]
        self._terminal_fd = inner = self.terminal.inner
        streams = (inner if one is None else one for one in (stdin, stdout, stderr))
        return (*streams, True)  # type: ignore[return-value]

    def _close_inner(self) -> None:
        if self.terminal is not None:
            self.terminal.close_inner()

    def _drop_terminal(self) -> None:
        if self.terminal is not None:
            self.terminal.close()

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:  # noqa: A002
        """As of subprocess. On a terminal: type input and its end, read until nobody has the terminal, and wait.

        Args:
            input: what the program reads; on a terminal bytes, with Ctrl-D typed after them.
            timeout: seconds.

        Returns:
            The two outputs; on a terminal what was written there, as bytes, and None.

        Raises:
            subprocess.TimeoutExpired: it was not done in time; it may be called again.
            ValueError: on a terminal, while a stream is a pipe: read `terminal` and the pipe by yourself.
        """
        if self.terminal is None:
            return super().communicate(input, timeout)
        if self.stdin or self.stdout or self.stderr:
            raise ValueError("communicate with a pty and a pipe: read program.terminal and the pipe, each by itself")
        deadline = None if timeout is None else time.monotonic() + timeout
        if self._typed is None:
            self._taken = bytearray()
            # At the beginning of a line the first ends the input; after other text it takes two.
            end = self.terminal.end_of_file() if input is not None else b""
            self._typed = bytes(input or b"") + (end if (input or b"\n")[-1:] == b"\n" else end * 2)
        self._typed = self.terminal.converse(self._typed, self._taken, deadline)
        if self._typed is not None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0, output=bytes(self._taken))
        self.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return bytes(self._taken), None

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # As a pipe is closed before the wait: whoever still writes or reads there is not waited for.
        self._drop_terminal()
        super().__exit__(kind, value, traceback)
