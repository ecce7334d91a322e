"""Between our own terminal and a program's: keys go in, output comes out, and both have one size.

Our terminal is raw meanwhile, so that Ctrl-C and its like are the inner terminal's business: its foreground group gets
them, which may be one that a shell in there has chosen. What the inner terminal cannot do is to stop a lone program by
Ctrl-Z, because its process group is orphaned (its parent is in another session), and the kernel drops SIGTSTP there. So
that is done here, and then we stop ourselves, as the shell that waits for us expects.
"""

from __future__ import annotations

import os
import select
import signal
import termios
import time
import tty

from .._popen.popen import Popen
from .._popen.terminal import Terminal, signal_group
from ._relay import Relay, Target, minds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

_CHUNK = 1 << 16


class Screen:
    """Our own terminal while a program has one: raw on entering, as it was on leaving and while we are stopped.

    Args:
        terminal: the program's.
        process: the program.
        relay: who stops us, and is told what to do before and after.
    """

    def __init__(self, terminal: Terminal, process: Popen, relay: Relay) -> None:
        self._terminal = terminal
        self._process = process
        self._relay = relay
        self._before: list[Any] = termios.tcgetattr(0)
        relay.before_stop, relay.after_stop = self._restore, self._resume

    def __enter__(self) -> Self:
        tty.setraw(0, termios.TCSANOW)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._restore()

    def _restore(self) -> None:
        termios.tcsetattr(0, termios.TCSADRAIN, self._before)

    def _resume(self) -> None:
        tty.setraw(0, termios.TCSANOW)
        self.resize()

    def resize(self) -> None:
        """Give the program's terminal the size of ours."""
        try:
            self._terminal.resize(*os.get_terminal_size(0))
        except OSError:
            return  # ours has gone

    def carry(self, deadline: float | None) -> bool:
        """Carry keys and output until the program ends; False when the time (of time.monotonic) is over before."""
        poll, fd, end = select.poll(), self._terminal.fileno(), self._process.fileno()
        for one in (0, fd, end):
            poll.register(one, select.POLLIN)
        while True:
            left = None if deadline is None else max(0.0, min(deadline - time.monotonic(), 1e6)) * 1000
            ready = dict(poll.poll(left))
            if not ready:
                return False
            if fd in ready and not self._show():
                poll.unregister(fd)  # nobody has it any more; the program may go on without
            if end in ready:
                self._show_the_rest()
                return True
            if 0 in ready and not self._type():
                poll.unregister(0)

    def _show(self) -> bool:
        piece = self._terminal.read(_CHUNK)
        _write_all(1, piece)
        return bool(piece)

    def _show_the_rest(self) -> None:
        poll = select.poll()
        poll.register(self._terminal.fileno(), select.POLLIN)
        while poll.poll(0) and self._show():
            pass

    def _type(self) -> bool:
        try:
            keys = os.read(0, _CHUNK)
        except OSError:
            return False
        stop = self._stop_key()
        while stop and stop in keys:
            before, _, keys = keys.partition(stop)
            _write_all(self._terminal.fileno(), before + stop)
            self._stop_both()
        _write_all(self._terminal.fileno(), keys)
        return True

    def _stop_key(self) -> bytes:
        """Ctrl-Z, where it would be lost: the program itself is in the foreground and leaves it to the kernel."""
        _, _, _, local, _, _, keys = termios.tcgetattr(self._terminal.fileno())
        alone = self._terminal.foreground == self._process.pid
        if not local & termios.ISIG or not alone or minds(self._process.pid, signal.SIGTSTP):
            return b""
        stop: bytes = keys[termios.VSUSP]
        return stop if stop != b"\0" else b""

    def _stop_both(self) -> None:
        signal_group(self._process.fileno(), signal.SIGSTOP)
        self._relay.stop_us(signal.SIGTSTP)
        signal_group(self._process.fileno(), signal.SIGCONT)


class OnScreen(Target):
    """A program on a terminal of its own: no signal of ours has reached it, and the size goes the other way.

    Args:
        process: the program.
        is_init: whether it is the first of a pid namespace.
    """

    screen: Screen | None = None

    def __init__(self, process: Popen, is_init: bool) -> None:
        super().__init__(process.pid, process.pidfd, is_init)

    def has_terminal(self, number: int) -> bool:
        """Never: our terminal is not its."""
        return False

    def send(self, number: int, name: str) -> None:
        """Pass a signal on; a change of size by changing the program's."""
        if number == signal.SIGWINCH and self.screen is not None:
            self.screen.resize()
        else:
            super().send(number, name)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except OSError:
            return
