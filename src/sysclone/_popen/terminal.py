"""A pseudo-terminal for a program: the end that a person, or this program, sits at."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios
import time
from errno import EIO

from .. import _core
from .._errors import ContextError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Self

_PLAIN: Final = (80, 24)
_MOST: Final = 0xFFFF
_CHUNK: Final = 1 << 16
_TIOCGPTN: Final = 0x80045430  # the name that termios lacks
_SIGNAL_PROCESS_GROUP: Final = 1 << 2  # PIDFD_SIGNAL_PROCESS_GROUP


class Terminal:
    """The outer end of a program's terminal. `with` closes it, which hangs up on the program (SIGHUP).

    Args:
        size: (columns, lines), 0 to 65535 each.

    Raises:
        ContextError: the size is none.
        OSError: there is no pty to be had.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        if not _is_size(size):
            raise ContextError(f"pty={size!r}: True, or (columns, lines), 0 to {_MOST} each, is needed", field="pty")
        outer, inner = os.openpty()
        self._fd: int = _above_stdio(outer)
        self.inner: int = _above_stdio(inner)
        self.resize(*size)

    def fileno(self) -> int:
        """The fd: readable when the program has written.

        Raises:
            ValueError: it is closed.
        """
        if self._fd < 0:
            raise ValueError("the terminal is closed")
        return self._fd

    @property
    def name(self) -> str:
        """The path of the program's end: "/dev/pts/5"."""
        number: int = struct.unpack("i", fcntl.ioctl(self.fileno(), _TIOCGPTN, bytes(4)))[0]
        return f"/dev/pts/{number}"

    @property
    def size(self) -> os.terminal_size:
        """Its columns and lines."""
        lines, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(self.fileno(), termios.TIOCGWINSZ, bytes(8)))
        return os.terminal_size((columns, lines))

    def resize(self, columns: int, lines: int) -> None:
        """Change the size; where it is another one, the foreground programs get SIGWINCH."""
        fcntl.ioctl(self.fileno(), termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    @property
    def foreground(self) -> int:
        """The process group in the foreground: the one that Ctrl-C and Ctrl-Z reach; 0 for none."""
        group: int = struct.unpack("i", fcntl.ioctl(self.fileno(), termios.TIOCGPGRP, bytes(4)))[0]
        return group

    def read(self, size: int = _CHUNK) -> bytes:
        """What the program has written, as soon as there is something; nothing when nobody has the terminal any more."""
        try:
            return os.read(self.fileno(), size)
        except OSError as e:
            if e.errno != EIO:
                raise
            return b""

    def write(self, data: bytes) -> int:
        """Type; how many bytes were taken. A control character is what the terminal makes of it: 3 is Ctrl-C."""
        return os.write(self.fileno(), data)

    def end_of_file(self) -> bytes:
        """The character that ends the input at the beginning of a line: Ctrl-D, unless the program has set another."""
        end: bytes = termios.tcgetattr(self.fileno())[6][termios.VEOF]
        return end

    def converse(self, data: bytes, taken: bytearray, deadline: float | None) -> bytes | None:
        """Type data and read until nobody has the terminal any more.

        Args:
            data: what to type.
            taken: what is read is added to it.
            deadline: as of time.monotonic(); None for none.

        Returns:
            None; or what is left of the data, when the time is over.
        """
        poll, fd = select.poll(), self.fileno()
        poll.register(fd, select.POLLIN | (select.POLLOUT if data else 0))
        os.set_blocking(fd, False)
        try:
            while True:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                ready = poll.poll(None if left is None else min(left, 1e6) * 1000)
                if not ready and left == 0:
                    return data
                for _, events in ready:
                    if events & select.POLLIN or events & select.POLLHUP:
                        piece = self.read()
                        if not piece:
                            return None
                        taken += piece
                    elif events & select.POLLOUT and data:
                        data = data[self._type_some(data) :]
                        if not data:
                            poll.modify(fd, select.POLLIN)
        finally:
            os.set_blocking(fd, True)

    def _type_some(self, data: bytes) -> int:
        try:
            return self.write(data[:512])
        except BlockingIOError:
            return 0

    def close_inner(self) -> None:
        """Close this process's own fd of the program's end."""
        if self.inner >= 0:
            os.close(self.inner)
            self.inner = -1

    def close(self) -> None:
        """Hang up: the program's session gets SIGHUP, and its reads and writes there end."""
        self.close_inner()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            self.close()

    def __repr__(self) -> str:
        return f"<Terminal {self.name}>" if self._fd >= 0 else "<Terminal, closed>"


def usual_size() -> tuple[int, int]:
    """The size of this program's own terminal, or 80 by 24."""
    for fd in (0, 1, 2):
        try:
            size = os.get_terminal_size(fd)
        except OSError:
            continue
        return size.columns, size.lines
    return _PLAIN


def _is_size(size: object) -> bool:
    return (
        isinstance(size, tuple)
        and len(size) == 2
        and all(isinstance(number, int) and 0 <= number <= _MOST for number in size)
    )


def _above_stdio(fd: int) -> int:
    """The same file at a number that is not 0, 1 or 2: the child moves its own there."""
    if fd > 2:
        return fd
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return moved


def signal_group(pidfd: int, number: int) -> None:
    """Send a signal to the process group that a process leads (Linux 6.9); to the process alone before that."""
    try:
        _core.pidfd_send_signal(pidfd, number, _SIGNAL_PROCESS_GROUP)
    except ProcessLookupError:
        return
    except OSError:
        _core.pidfd_send_signal(pidfd, number, 0)
