"""From the tracer's records to events: each call's entry and result are one event, and each task has its process.

Pure: what must be looked up (a task's name) is handed in. The kinds and the order of calls are those of _core/tracer.h.
"""

from __future__ import annotations

import os
from signal import SIGCHLD

from .._flags import Clone
from .events import AttachEvent, CloneEvent, ExecEvent, ExitEvent, SetnsEvent, UnshareEvent, fork_struct, old_struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Final

    from .events import Event

CALLS: Final = ("clone", "clone3", "fork", "vfork", "unshare", "setns", "execve", "execveat")
_CLONE3: Final = 1
_ENTRY, _DONE, _EXEC, _EXIT = range(4)
_UNSEEN: Final = -1  # a status that nobody saw
_THREAD: Final = int(Clone.THREAD)
_SECOND: Final = 1e9
# Where the old call has its tls in the fourth word and the child's tid in the fifth.
_BACKWARDS: Final = ("aarch64", "i386", "arm")
_INT: Final = 1 << 31


def _signed(word: int) -> int:
    """A register as an int: AT_FDCWD is -100."""
    word &= 0xFFFFFFFF
    return word - (1 << 32) if word >= _INT else word


class Builder:
    """Joins records.

    Args:
        look: asked for the name and the command line of a task that is met for the first time.
        root: the program that was started, which needs no introduction; 0 for none.
    """

    def __init__(self, look: Callable[[int], tuple[str, tuple[str, ...]]], root: int = 0) -> None:
        machine = os.uname().machine
        self._machines = ("", "i386", "x32") if machine == "x86_64" else ("", "arm", "")
        self._backwards = [(name or machine) in _BACKWARDS for name in self._machines]
        self._look = look
        self.root = root
        self.process: dict[int, int] = {}
        self._pending: dict[int, tuple[Any, ...]] = {}

    def feed(self, records: Iterable[tuple[Any, ...]]) -> list[Event]:
        """The events that these records complete, in their order."""
        out: list[Event] = []
        for record in records:
            kind = record[0]
            if kind == _ENTRY:
                self._pending[record[1]] = record
            elif kind == _DONE:
                self._done(record, out)
            elif kind == _EXIT:
                self._exit(record, out)
            elif kind == _EXEC:
                self._exec(record, out)
            else:
                self._attached(record, out)
        return out

    def _done(self, record: tuple[Any, ...], out: list[Event]) -> None:
        _, tid, when, result, child, parent_tid, pidfd, pids = record
        entry = self._pending.pop(tid, None)
        if entry is None:
            return
        ok = result >= 0
        event = self._event(entry, result if ok else None, None if ok else -result, when)
        if child and type(event) is CloneEvent:
            event = event._replace(child=child, child_pids=pids, parent_tid=parent_tid, pidfd=pidfd)
            self.process[child] = event.pid if event.is_thread else child
        out.append(event)

    def _exec(self, record: tuple[Any, ...], out: list[Event]) -> None:
        _, pid, when, former = record
        entry = self._pending.pop(former, None)
        if former != pid:
            self._unfinished(pid, when, out)
            out.append(ExitEvent(when / _SECOND, pid, pid, "exit", None, former))
            self.process.pop(former, None)
        self.process[pid] = pid
        if entry is not None:
            event = self._event(entry, 0, None, when)
            out.append(event if event.pid == pid else event._replace(pid=pid))

    def _exit(self, record: tuple[Any, ...], out: list[Event]) -> None:
        _, tid, when, status = record
        self._unfinished(tid, when, out)
        word = None if status == _UNSEEN else status
        out.append(ExitEvent(when / _SECOND, self.process.pop(tid, tid), tid, "exit", word))

    def _attached(self, record: tuple[Any, ...], out: list[Event]) -> None:
        _, tid, when, process, parent, pids = record
        self.process[tid] = process
        if tid != self.root:
            name, argv = self._look(tid)
            inside = pids if len(pids) > 1 else ()
            out.append(AttachEvent(when / _SECOND, process, tid, "attach", name, argv, parent, inside))

    def _unfinished(self, tid: int, when: int, out: list[Event]) -> None:
        """A task that ended in a call: nobody saw the result."""
        entry = self._pending.pop(tid, None)
        if entry is not None:
            out.append(self._event(entry, None, None, when))

    def _event(self, entry: tuple[Any, ...], result: int | None, errno: int | None, when: int) -> Event:
        _, tid, began, number, machine, words, first, second, count, more = entry
        start, took = began / _SECOND, (when - began) / _SECOND
        pid, call, foreign = self.process.get(tid, tid), CALLS[number], self._machines[machine]
        if number <= 3:
            size, set_tid = 0, ()
            if number == _CLONE3:
                struct, set_tid, size = first or (), second, words[1]
            elif number == 0:
                flags, stack, parent_tid, fourth, fifth = words[:5]
                child_tid, tls = (fifth, fourth) if self._backwards[machine] else (fourth, fifth)
                struct = old_struct(flags, stack, parent_tid, child_tid, tls)
            else:
                struct = fork_struct(number == 3, int(SIGCHLD))
            return CloneEvent(
                start, pid, tid, call, struct, size, set_tid, None, result, errno, (), None, None, words, took, foreign
            )
        if number == 4:
            return UnshareEvent(start, pid, tid, call, words[0], result, errno, took, foreign)
        if number == 5:
            return SetnsEvent(
                start, pid, tid, call, _signed(words[0]), words[1] & 0xFFFFFFFF, result, errno, took, foreign
            )
        at = number == 7
        return ExecEvent(
            start, pid, tid, call, first, second, words, None if count < 0 else count, more, result, errno,
            _signed(words[0]) if at else None, words[4] & 0xFFFFFFFF if at else 0, took, foreign,
        )  # fmt: skip
