"""Signals that were meant for what we run are passed on to it: each once, none lost, none to a stranger.

1. Ctrl-C strikes the whole foreground group of the terminal: the child has it already. sigwaitinfo tells a signal of
   the kernel's from one that was sent to us alone, which a handler in Python cannot. (A kill of the whole group looks
   like one of us alone; the child then gets it twice.)
2. A signal may come before the child is there. They are blocked before it is made, and it is given our mask of before;
   what waits just before the clone is the child's, whoever sent it, since it cannot have it already. (A Ctrl-C within the
   microseconds between that look and the clone is lost. Where the child cannot be given a mask, handlers keep what comes
   until it runs, and a Ctrl-C of that millisecond reaches it twice.)
3. A signal may come when the child has ended: it is sent by a pidfd of the relay's own, which is never closed.
4. The first process of a pid namespace gets no signal that it has no handler for: the kernel drops it. Then what the
   sender asked for is done by SIGKILL, and said.

The signals stay blocked to the end, so that none that comes late can change the exit status: this is for programs that
are about to leave.
"""

from __future__ import annotations

import os
import signal
import threading

from .. import _core
from ._tell import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

# Our own business: the kernel's alone, about our own faults and children, or about our own use of the terminal.
_KEPT: Final = {
    signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL,
    signal.SIGTRAP, signal.SIGABRT, signal.SIGSYS, signal.SIGPIPE, signal.SIGTTIN, signal.SIGTTOU,
}  # fmt: skip
ENDING: Final = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM}


class Relay:
    """Passes signals on, from a thread, until the program ends.

    Args:
        name: the command, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        # What we were told to ignore (nohup) the child ignores too.
        self._signals = {s for s in signal.valid_signals() - _KEPT if signal.getsignal(s) != signal.SIG_IGN}
        self._early: list[int] = []
        self.before_stop: Callable[[], None] = _nothing
        self.after_stop: Callable[[], None] = _nothing

    def catch(self) -> None:
        """Before a program: keep what comes until it runs."""
        for number in self._signals - {signal.SIGTSTP}:
            signal.signal(number, lambda number, _frame: self._early.append(number))

    def block(self) -> set[int]:
        """Before a function: keep what comes until it runs; answers the mask that the function is to set."""
        return set(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)))

    def keep_early(self) -> None:
        """Just before the child is made: what waits now was sent when there was none."""
        while (info := signal.sigtimedwait(self._signals, 0)) is not None:
            self._early.append(info.si_signo)

    def begin(self, target: Target) -> None:
        """From now on pass on what comes, and what came before."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        for number in self._early:
            target.send(number, self._name)
        threading.Thread(target=self._pass_on, args=(target,), daemon=True, name="sysclone-relay").start()

    def _pass_on(self, target: Target) -> None:
        while True:
            info = signal.sigwaitinfo(self._signals)
            number, by_kernel = info.si_signo, info.si_code > 0
            if not by_kernel or not target.has_terminal(number):
                target.send(number, self._name)
            if number == signal.SIGTSTP:
                self.stop_us(number)

    def stop_us(self, number: int) -> None:
        """Stop as by default: the kernel knows whether there is a shell that will continue us."""
        self.before_stop()
        signal.pthread_kill(threading.get_ident(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        signal.pthread_sigmask(signal.SIG_BLOCK, {number})
        self.after_stop()


def _nothing() -> None:
    """Our terminal is the child's: nothing is to be done to it."""


class Target:
    """A child to pass signals on to.

    Args:
        pid, pidfd: its; the pidfd is borrowed, and copied.
        is_init: whether it is the first process of a pid namespace.
    """

    def __init__(self, pid: int, pidfd: int, is_init: bool) -> None:
        self._pid = pid
        self._pidfd = os.dup(pidfd)
        self._is_init = is_init

    def has_terminal(self, number: int) -> bool:
        """Whether a signal that the kernel sent us reached the child as well."""
        if number == signal.SIGHUP and os.getsid(0) == os.getpid():
            return False  # a terminal that hangs up tells the leader of the session alone
        try:
            return os.getpgid(self._pid) == os.getpgrp()
        except ProcessLookupError:
            return True

    def send(self, number: int, name: str) -> None:
        """Send the child a signal; one that has ended needs none."""
        try:
            _core.pidfd_send_signal(self._pidfd, number, 0)
            if self._is_init and number in ENDING and not minds(self._pid, number):
                complain(
                    name,
                    f"{signal.Signals(number).name} is nothing to the first process of a pid namespace: killing it",
                )
                _core.pidfd_send_signal(self._pidfd, signal.SIGKILL, 0)
        except ProcessLookupError:
            return
        except OSError as e:
            complain(name, f"signal {number} could not be passed on: {e.strerror}")


def minds(pid: int, number: int) -> bool:
    """Whether a process catches, ignores or blocks a signal."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            masks = [int(line.split()[1], 16) for line in file if line.startswith(("SigBlk", "SigIgn", "SigCgt"))]
    except OSError:
        return True
    return any(mask >> (number - 1) & 1 for mask in masks)
