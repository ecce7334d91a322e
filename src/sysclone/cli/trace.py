"""Trace a program: every call that makes or changes a task, with its flags, and every end.

What is traced goes to standard error, or with -o to a file. The program has our own input, output and terminal, and we
leave as it leaves. Signals that are sent to this process reach the program; Ctrl-C reaches it from the terminal.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import time

from .._errors import CloneError
from .._trace.policy import FOLLOW
from .._trace.text import line
from .._trace.trace import trace
from .._trace.tree import Family, lines
from ._relay import ENDING, Relay, Target
from ._tell import BY_SIGNAL, FAILED, Warnings, complain, exit_code
from ._trace_pictures import AtTheEnd, ChromeWriter, HtmlWriter, JsonSummaryWriter, SummaryWriter
from .run import refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, TextIO

    from .._popen.popen import Popen
    from .._trace.events import Event
    from .._trace.session import Trace

NAME = "sysclone trace"


class Writer:
    """Writes events as they come: a line each."""

    def __init__(self, out: TextIO, spell: Callable[[Event], str]) -> None:
        self._out = out
        self._spell = spell

    def write(self, events: list[Event]) -> None:
        """Write some events."""
        self._out.write("".join([f"{self._spell(event)}\n" for event in events]))
        self._out.flush()

    def end(self) -> None:
        """There are no more."""


class TreeWriter:
    """Writes the family tree, at the end."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._family = Family()

    def write(self, events: list[Event]) -> None:
        """Take some events."""
        for event in events:
            self._family.add(event)

    def end(self) -> None:
        """Write the tree."""
        self._out.write("".join(f"{one}\n" for one in lines(self._family.roots)))
        self._out.flush()


class Interrupt:
    """Ends the reading of a trace, from a signal's handler or another thread; what has happened by then is still written."""

    def __init__(self, told: Trace) -> None:
        self._told = told
        self.number: int = 0
        self._at = 0.0

    def ask(self, number: int, _frame: object = None) -> None:
        """End it, because of a signal."""
        self._at = time.monotonic()
        self.number = number
        self._told.wake()

    def is_reached(self, events: list[Event]) -> bool:
        """Whether all that happened before it was read, by the last events: there are none, or they are later."""
        return bool(self.number) and (not events or events[-1].time > self._at)

    def handle(self, *numbers: int) -> None:
        """These signals end it."""
        for number in numbers:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self.ask)


class Program(Target):
    """The program. When it has ended and others of the trace have not, what would end it ends the trace."""

    def __init__(self, process: Popen, interrupt: Interrupt) -> None:
        super().__init__(process.pid, process.pidfd, False)
        self._interrupt = interrupt

    def has_terminal(self, number: int) -> bool:
        """Whether it has got a signal of the terminal's itself."""
        return not self._has_ended() and super().has_terminal(number)

    def send(self, number: int, name: str) -> None:
        """Send it a signal, or end the trace."""
        if number in ENDING and self._has_ended():
            self._interrupt.ask(number)
        else:
            super().send(number, name)

    def _has_ended(self) -> bool:
        return bool(select.select([self._pidfd], [], [], 0)[0])


def _json(event: Event) -> str:
    return json.dumps(event.as_dict())


if TYPE_CHECKING:
    AnyWriter = Writer | TreeWriter | AtTheEnd

FORMATS: Final[dict[str, Callable[[TextIO], AnyWriter]]] = {
    "text": lambda out: Writer(out, line),
    "json": lambda out: Writer(out, _json),
    "tree": TreeWriter,
    "chrome": ChromeWriter,
    "html": HtmlWriter,
    "summary": SummaryWriter,
}
"""Each has write(events), called as they come, and end()."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to trace, what of it to tell, and how."""
    parser.usage = (
        "%(prog)s [options] [--] PROGRAM [ARGUMENT ...]\n"
        "       %(prog)s [options] -p PID\n"
        "       %(prog)s [options] --system\n"
    )
    add = parser.add_argument
    add("-o", "--output", metavar="FILE", help="write there, and not to standard error")
    add(
        "-f",
        "--format",
        choices=FORMATS,
        default="text",
        help="text as strace's, or JSON lines; at the end: the family tree, Chrome trace JSON for Perfetto, a page, or a table",
    )
    add("--json", action="store_true", help="the same as --format json; of the summary as JSON too")
    add(
        "-c",
        "--summary",
        action="store_true",
        help="the same as --format summary: births by call and flags, and lifetimes",
    )
    add("--follow", choices=FOLLOW, default="all", help="which new tasks are followed")
    add("--depth", type=_count, metavar="N", help="follow so many births below the first task; 0 for it alone")
    add("--only-failed", action="store_true", help="tell of failed calls alone")
    add("-p", "--pid", type=_count, metavar="PID", help="trace a process that runs; Ctrl-C lets it go")
    add("--no-threads", action="store_true", help="with -p: that task alone, and not all threads of its process")
    add("--attach-tree", action="store_true", help="with -p: its descendants too")
    add(
        "--system", action="store_true", help="the whole system, as root, by the kernel's own record; nobody is stopped"
    )
    add("--every-call", action="store_true", help="stop at every system call: slow, and with -p complete")
    add("--kill-on-exit", action="store_true", help="kill what is traced if we are killed; otherwise it lives on")
    add("--strict", action="store_true", help="take every warning for an error, before anything starts")
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="PROGRAM …", help="the program and its arguments")


def run(args: argparse.Namespace) -> int:
    """Trace to the end, and answer the program's exit status."""
    command: list[str] = args.program[1:] if args.program[:1] == ["--"] else args.program
    problem = _problem(args, command)
    if problem:
        complain(NAME, problem)
        return FAILED
    out = open(args.output, "w", encoding="utf-8", errors="backslashreplace") if args.output else sys.stderr  # noqa: SIM115
    try:
        writer = _writer(args, command, out)
        chosen = {
            name: getattr(args, name) for name in ("follow", "depth", "only_failed", "every_call", "kill_on_exit")
        }
        if args.system:
            return _system(args, writer)
        if args.pid is not None:
            return _attached(args, writer, chosen)
        return _started(args, command, writer, chosen)
    except BrokenPipeError:
        # What is still buffered for standard error would fail again at the interpreter's end, with a status of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        raise
    finally:
        if out is not sys.stderr:
            out.close()


def _writer(args: argparse.Namespace, command: list[str], out: TextIO) -> AnyWriter:
    name = "summary" if args.summary else args.format
    if args.json:
        name = "json summary" if name == "summary" else "json"
    writer = JsonSummaryWriter(out) if name == "json summary" else FORMATS[name](out)
    if isinstance(writer, AtTheEnd):
        writer.command = command or ([f"-p {args.pid}"] if args.pid is not None else ["--system"])
    return writer


def _problem(args: argparse.Namespace, command: list[str]) -> str:
    """What is wrong with the options together, or nothing."""
    other = "--system" if args.system else "-p" if args.pid is not None else ""
    if other and command:
        return f"{other} is for what runs already: there is no program to start beside it"
    if args.system and args.pid is not None:
        return "--system and -p do not go together"
    for name, given in (("--no-threads", args.no_threads), ("--attach-tree", args.attach_tree)):
        if given and args.pid is None:
            return f"{name} goes with -p"
    for name, given in (("--every-call", args.every_call), ("--kill-on-exit", args.kill_on_exit)):
        if given and args.system:
            return f"{name} is not for --system: nobody is stopped for it"
    return "" if command or other else f"there is no program to trace\ntry: {NAME} -- /bin/true"


def _started(args: argparse.Namespace, command: list[str], writer: AnyWriter, chosen: dict[str, Any]) -> int:
    relay = Relay(NAME)
    relay.catch()
    try:
        with Warnings(NAME, args.strict):
            told = trace(command, close_fds=False, **chosen)
    except CloneError as e:
        complain(NAME, str(e))
        return refused(e, command[0])
    with told:
        process = told.process
        assert process is not None
        interrupt = Interrupt(told)
        relay.begin(Program(process, interrupt))
        _write_all(told, writer, interrupt)
        if interrupt.number and not args.kill_on_exit:
            complain(NAME, f"{command[0]} has ended; what it left goes on, and is not told of any more")
            told.detach()
        process.wait()
        return exit_code(NAME, process.status)


def _attached(args: argparse.Namespace, writer: AnyWriter, chosen: dict[str, Any]) -> int:
    """Until the last has ended, or a signal."""
    with trace(pid=args.pid, threads=not args.no_threads, tree=args.attach_tree, **chosen) as told:
        interrupt = Interrupt(told)
        interrupt.handle(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if not args.every_call:
            complain(
                NAME, "not seen without --every-call: calls that fail, unshare, setns, children with CLONE_UNTRACED"
            )
        for warning in told.warnings:
            complain(NAME, f"warning: {warning}")
        _write_all(told, writer, interrupt)
        return BY_SIGNAL + interrupt.number if interrupt.number else 0


def _system(args: argparse.Namespace, writer: AnyWriter) -> int:
    """Until a signal, which is this command's ordinary end."""
    from .._trace.system import EventsLost

    chosen = {name: getattr(args, name) for name in ("follow", "depth", "only_failed")}
    with trace(system=True, **chosen) as told:
        interrupt = Interrupt(told)
        interrupt.handle(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        complain(NAME, "not seen with --system: calls that fail, unshare, setns, arguments, how tasks end")
        return _write_all(told, writer, interrupt, EventsLost)


def _write_all(told: Trace, writer: AnyWriter, interrupt: Interrupt, said: type[Exception] | tuple[()] = ()) -> int:
    """Write events until the end or a signal, and say what errors of that kind say; answers whether there were none."""
    if isinstance(writer, AtTheEnd):
        writer.epoch = told.epoch
    answer = 0
    while True:
        try:
            some = told.read()
        except said as e:
            complain(NAME, f"warning: {e}")
            answer = FAILED
            continue
        events = told.take()
        writer.write(events)
        if some is None or interrupt.is_reached(events):
            break
    writer.end()
    return answer


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: a number is needed")
    return int(text)
