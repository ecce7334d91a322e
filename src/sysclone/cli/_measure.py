"""What a task shares with its creator, measured twice: by the kernel's word (kcmp), and by what one sees of the other.

The creator of each row is a copied process of its own: what a row changes (working directory, fds, handlers) ends with
it, and a row that hangs is ended without the others.

The creator's thread is the one that clones, since undo list and I/O context belong to a thread. While it is parked, in
a light process's time, a second thread of the creator looks; with a copied one, where a second thread would be a hazard
at the clone, it looks itself. The child waits for the look by a pipe.
"""

from __future__ import annotations

import faulthandler
import fcntl
import os
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field

from .. import lowlevel
from .._api import Context
from .._flags import Share
from .._popen.popen import Popen
from .._steps.descriptors import is_open
from ._sysv import Semaphore, io_priority, set_io_priority

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

RESOURCES: Final = {
    "memory": (Share.VM, lowlevel.KCMP_VM),
    "files": (Share.FILES, lowlevel.KCMP_FILES),
    "fs": (Share.FS, lowlevel.KCMP_FS),
    "sighand": (Share.SIGHAND, lowlevel.KCMP_SIGHAND),
    "sysvsem": (Share.SYSVSEM, lowlevel.KCMP_SYSVSEM),
    "io": (Share.IO, lowlevel.KCMP_IO),
    "thread": (Share.THREAD, -1),
}

_ROUNDS: Final = 9
_PATIENCE: Final = 20.0
# One that nothing else here handles; a light process catches the ones below 32 for itself.
_SIGNAL: Final = int(signal.SIGRTMIN) + 7
_HIGH: Final = 100
_BEFORE: Final = "the creator's"
_UNDONE_BY_EXEC: Final = Share.VM | Share.FILES | Share.SIGHAND
_SEEN: Final = {signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2}


@dataclass
class Resource:
    """One resource of one row: whether it was to be shared, and is by either way of looking; None is unknown."""

    asked: bool
    kcmp: bool | None = None
    effect: bool | None = None

    @property
    def agrees(self) -> bool:
        """Whether what was asked for is what is there, as far as that is known."""
        return all(one in (None, self.asked) for one in (self.kcmp, self.effect))


@dataclass
class Row:
    """One task, measured.

    Args:
        name, flags: of the context.
        resources: by name, as in RESOURCES.
        pid, tid, ppid: as the task itself sees them.
        creator, creator_parent: the pids of who made it, and of that one's parent.
        signal: the signal that the creator got at its end, or 0.
        seconds: for a call of an empty function, or for /bin/true: the median.
        problems: what could not be measured, and why.
    """

    name: str
    flags: str
    resources: dict[str, Resource]
    pid: int = 0
    tid: int = 0
    ppid: int = 0
    creator: int = 0
    creator_parent: int = 0
    signal: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def parent(self) -> str:
        """Whose child it is."""
        if self.pid == self.creator:
            return "as the creator"
        known = {self.creator: "creator", self.creator_parent: "creator's parent"}
        return known.get(self.ppid, f"pid {self.ppid}")


def measure(name: str, context: Context, program: bool = False) -> Row:
    """Measure one context, from a creator of its own.

    Raises:
        SyscloneError: the kernel refused it, or it was not done in time.
    """
    look = _measure_program if program else _measure_function
    # Made and removed here: the creator may be killed for being late.
    with Semaphore() as semaphore, tempfile.TemporaryDirectory(prefix="sysclone-") as there:
        creator = _Creator(name, context, there, semaphore, program)
        row: Row = Context.fork().replace(timeout=_PATIENCE).call(look, creator)
    return row


def reap_siblings() -> None:
    """Reap the siblings that the creators made: they are children of this process."""
    try:
        while lowlevel.waitid(lowlevel.P_ALL, 0, lowlevel.WEXITED | lowlevel.WNOHANG | lowlevel.__WALL):
            pass
    except ChildProcessError:
        return


# --- the creator's side


class _Creator:
    """What a creator prepares for a row, and looks at afterwards."""

    def __init__(self, name: str, context: Context, there: str, semaphore: Semaphore, program: bool) -> None:
        asked = context.share & ~(_UNDONE_BY_EXEC if program else Share(0))
        wanted = {name: Resource(bool(asked & share)) for name, (share, _) in RESOURCES.items()}
        self.row = Row(name, str(context), wanted)
        self.context = context
        self.there = there
        self.semaphore = semaphore
        self.variable = [_BEFORE]

    def begin(self) -> None:
        """In the creator's own process."""
        self.row.creator, self.row.creator_parent = os.getpid(), os.getppid()
        self.tid = lowlevel.gettid()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SEEN)
        self.victim = _open_high()
        self.ready, self.tell_ready = os.pipe()
        self.go, self.tell_go = os.pipe()
        # Without an undo list and an I/O context there is nothing to compare: kcmp calls two nothings equal.
        self.try_to("sysvsem", lambda: self.semaphore.add(1))
        self.try_to("io", lambda: set_io_priority(4))

    def try_to(self, what: str, act: Callable[[], object]) -> None:
        """Do something, or note why it cannot be done."""
        try:
            act()
        except (OSError, ValueError, KeyError) as e:
            self.row.problems.append(f"{what}: {type(e).__name__}: {e}")

    def see(self, what: str, look: Callable[[], bool]) -> None:
        """Look at an effect, or note why it cannot be seen."""

        def seen() -> None:
            self.row.resources[what].effect = look()

        self.try_to(what, seen)

    def look(self, report: list[int]) -> None:
        """While the task is alive: what the kernel says, and which of its acts are seen from here."""
        row = self.row
        row.pid, row.tid, row.ppid, *acted = report
        # The fd first: it is the only thing here that opening another one could hide.
        self.see("files", lambda: not is_open(self.victim))
        self.see("memory", lambda: self.variable[0] != _BEFORE)
        self.see("fs", lambda: os.getcwd() == os.path.realpath(self.there))
        if all(acted[:1]):
            self.see("sighand", lambda: _handles(os.getpid(), _SIGNAL))
        if all(acted[1:2]):
            self.see("io", lambda: io_priority(self.tid) == 6)
        self.see("thread", lambda: row.pid == row.creator)
        for name, (_, kind) in RESOURCES.items():
            self.ask(name, kind)

    def ask(self, name: str, kind: int) -> None:
        """What the kernel says about one resource."""

        def answer() -> None:
            tid = self.row.tid
            one = lowlevel.kcmp(self.tid, tid, kind) == 0 if kind >= 0 else _thread_group(tid) == os.getpid()
            self.row.resources[name].kcmp = one

        self.try_to(name, answer)

    def settle(self) -> Row:
        """When the task has ended: which signal came."""
        came = signal.sigtimedwait(_SEEN, 0)
        self.row.signal = came.si_signo if came is not None else 0
        return self.row


def _measure_function(creator: _Creator) -> Row:
    creator.begin()
    context = creator.context

    def task() -> None:
        _act(creator)

    def look() -> None:
        creator.look([int(word) for word in os.read(creator.ready, 256).split()])
        os.write(creator.tell_go, b".")

    if Share.VM in context.share:
        observer = threading.Thread(target=look)
        observer.start()
        context.call(task)
        observer.join()
    else:
        with context.start(task) as started:
            look()
            started.result()
    # The task took 1 off; at its end that is undone, unless the list goes on with the creator.
    creator.see("sysvsem", lambda: creator.semaphore.value() == 1)
    row = creator.settle()
    row.seconds = _median(lambda: context.call(_nothing))
    return row


def _act(creator: _Creator) -> None:
    """In the task: change one thing of each kind, report, and stay until the creator has looked."""
    creator.variable[0] = "the task's"
    os.close(creator.victim)
    os.chdir(creator.there)
    acted = [_try(lambda: faulthandler.register(_SIGNAL, file=0)), _try(lambda: set_io_priority(6))]
    _try(lambda: creator.semaphore.add(-1))
    report = [os.getpid(), lowlevel.gettid(), os.getppid(), *acted]
    os.write(creator.tell_ready, " ".join(map(str, map(int, report))).encode())
    os.read(creator.go, 1)
    # What faulthandler knows of it stands in memory, which may be shared where the handlers are not.
    faulthandler.unregister(_SIGNAL)


# A shell can close the fds of one digit alone.
_PROGRAM: Final = 'trap "" "$1" && cd "$2" && exec 9<&- && echo $$ $$ $PPID 1 0 && read -r go'
_DIGIT: Final = 9


def _measure_program(creator: _Creator) -> Row:
    creator.begin()
    context = creator.context
    creator.victim = os.dup2(creator.victim, _DIGIT)
    words = ["sh", "-c", _PROGRAM, "sh", str(_SIGNAL), creator.there]
    pipe = subprocess.PIPE
    with Popen(words, context=context, pass_fds=(_DIGIT,), stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        creator.look([int(word) for word in process.stdout.readline().split()])
        process.communicate(b"go on\n")
    creator.row.resources["memory"].effect = None  # a program has no name for the creator's variable
    row = creator.settle()
    row.seconds = _median(lambda: context.run(["/bin/true"]))
    return row


# --- looking


def _nothing() -> None:
    return None


def _try(act: Callable[[], Any]) -> bool:
    try:
        act()
    except (OSError, ValueError, KeyError, RuntimeError):
        return False
    return True


def _open_high() -> int:
    """An fd with a high number, so that none which is opened on the way takes it when it is closed."""
    low = os.open(os.devnull, os.O_RDONLY)
    high = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    os.close(low)
    return high


def _status(pid: int, key: str) -> str:
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        return next(line.partition(":")[2].strip() for line in file if line.startswith(f"{key}:"))


def _handles(pid: int, number: int) -> bool:
    """Whether a process does not leave a signal to its default action."""
    return any(int(_status(pid, key), 16) >> (number - 1) & 1 for key in ("SigCgt", "SigIgn"))


def _thread_group(tid: int) -> int:
    return int(_status(tid, "Tgid"))


def _median(act: Callable[[], object]) -> float:
    taken = []
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        act()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)
