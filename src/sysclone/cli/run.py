"""Run a program in a context, with our own input, output and terminal, and leave as it leaves.

Signals that are sent to this process reach the program. Ctrl-C reaches it from the terminal: from ours, or from one of its
own, where it has one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from errno import ENOENT, ENOTDIR

from .._errors import CloneError
from .._flags import Namespace, Share
from .._popen.popen import Popen
from ._options import add_context_arguments, context_from
from ._relay import Relay, Target
from ._tell import CANNOT_EXECUTE, FAILED, NOT_FOUND, TIMED_OUT, Warnings, complain, exit_code
from ._words import seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .._context.description import Description as Context

NAME = "sysclone run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a Context, then the program."""
    parser.usage = "%(prog)s [options] [--] PROGRAM [ARGUMENT ...]"
    add_context_arguments(parser, "nothing")
    parser.add_argument(
        "--pty",
        action=argparse.BooleanOptionalAction,
        help="give the program a terminal of its own (as in another pid namespace, when we have one)",
    )
    add = parser.add_argument
    add("--close-fds", action="store_true", help="leave it no descriptors above 2 but those of --fd")
    add("--kill-tree", action="store_true", help="at its end, or at that of its time, kill all that it has started too")
    add(
        "--grace",
        type=seconds,
        metavar="SECONDS",
        help="at --timeout ask it to end by SIGTERM, and kill it this much later",
    )
    add("--report", action="store_true", help="say at the end how it ended, why, and what it has used")
    add("program", nargs=argparse.REMAINDER, metavar="PROGRAM …", help="the program and its arguments")


def run(args: argparse.Namespace) -> int:
    """Run the program, wait for it, and answer its exit status."""
    command: list[str] = args.program[1:] if args.program[:1] == ["--"] else args.program
    if not command:
        complain(NAME, f"there is no program to run\ntry: {NAME} -- /bin/true")
        return FAILED
    if args.grace is not None and args.timeout is None:
        complain(NAME, "--grace: there is no --timeout beside it")
        return FAILED
    begun = time.monotonic()
    relay = Relay(NAME)
    with context_from(args, Share(0)) as context:
        pty = _wants_pty(args.pty, context)
        if pty is None:
            complain(NAME, "--pty: standard input and output are no terminal\ntry: leave it off, or script(1)")
            return FAILED
        try:
            with Warnings(NAME, args.strict):
                process = _Relayed(
                    command, relay, context=context, close_fds=args.close_fds, pty=pty, tree=args.kill_tree
                )
        except CloneError as e:
            complain(NAME, str(e))
            return refused(e, command[0])
    is_init = Namespace.PID in context.new
    in_time = _on_screen(process, relay, is_init) if pty else _wait(process, relay, is_init)
    if not in_time:
        complain(NAME, f"{command[0]} was not done in {context.timeout:g} s: {_end(process, args.grace)}")
    if args.report:
        _report(process, time.monotonic() - begun)
    if args.kill_tree:
        process.kill_tree()
    return exit_code(NAME, process.status) if in_time else TIMED_OUT


def _end(process: Popen, grace: float | None) -> str:
    """End it, with what it has started if that is to be; how it went, in a word."""
    by_itself = False
    if grace is not None and process.has_tree:
        by_itself = process.terminate_tree(grace)
    elif grace is not None:
        process.terminate()
        try:
            process.wait(grace)
            by_itself = True
        except subprocess.TimeoutExpired:
            pass
    elif process.has_tree:
        process.kill_tree()
    process.kill()
    process.wait()
    return "terminated" if by_itself else "killed"


def _report(process: Popen, seconds: float) -> None:
    complain(NAME, f"{process.cause}, after {seconds:.3f} s")
    usage = process.usage(tree=process.has_tree or process.context.cgroup is not None)
    rows: tuple[tuple[str, float | None, str], ...] = (
        ("CPU {:.3f} s in the program", usage.user_seconds, ", "),
        ("{:.3f} s in the kernel", usage.system_seconds, "; "),
        ("peak memory {:,} bytes", usage.peak_memory_bytes, "; "),
        ("page faults {:,} without I/O", usage.minor_faults, ", "),
        ("{:,} with", usage.major_faults, "; "),
        ("I/O {:,} bytes read", usage.read_bytes, ", "),
        ("{:,} written", usage.written_bytes, ""),
    )
    told = "".join(form.format(value) + after for form, value, after in rows if value is not None)
    complain(NAME, f"{usage.covers}: {told}" + "".join(f"\nunknown: {what}" for what in usage.unseen))


class _Relayed(Popen):
    """A program with our mask of before, and that is told of what came before it was there."""

    def __init__(self, command: list[str], relay: Relay, **keywords: Any) -> None:
        self._relay = relay
        self._signal_mask = sum(1 << (number - 1) for number in relay.block())
        super().__init__(command, **keywords)

    def _spawn(self, *arguments: Any) -> Any:
        self._relay.keep_early()
        return super()._spawn(*arguments)


def _wants_pty(asked: bool | None, context: Context) -> bool | None:
    """Whether there is to be a pty; None where it was asked for and we have no terminal ourselves.

    Unless asked: in a new or joined pid namespace a program cannot name the groups of our session, and has no job control.
    """
    inside = context.new | (context.join.kinds if context.join is not None else Namespace(0))
    if asked is False or (asked is None and Namespace.PID not in inside):
        return False
    on_terminal = os.isatty(0) and os.isatty(1)
    return on_terminal or (None if asked else False)


def _wait(process: Popen, relay: Relay, is_init: bool) -> bool:
    relay.begin(Target(process.pid, process.pidfd, is_init))
    try:
        process.wait(process.context.timeout)
    except subprocess.TimeoutExpired:
        return False
    return True


def _on_screen(process: Popen, relay: Relay, is_init: bool) -> bool:
    from ._screen import OnScreen, Screen

    assert process.terminal is not None
    timeout = process.context.timeout
    target = OnScreen(process, is_init)
    with Screen(process.terminal, process, relay) as target.screen:
        relay.begin(target)
        target.screen.resize()
        in_time = target.screen.carry(None if timeout is None else time.monotonic() + timeout)
    if in_time:
        process.wait()
    return in_time


def refused(error: CloneError, program: str) -> int:
    """The exit status for a program that did not start."""
    if not error.step.startswith("execve("):
        return FAILED
    if error.errno in (ENOENT, ENOTDIR) and not _is_there(program):
        return NOT_FOUND
    return CANNOT_EXECUTE


def _is_there(program: str) -> bool:
    """Whether the program itself exists: ENOENT may be about the interpreter that it names."""
    if "/" in program:
        return os.path.exists(program)
    return any(os.path.exists(os.path.join(directory, program)) for directory in os.get_exec_path())
