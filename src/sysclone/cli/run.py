"""Run a program in a context, with our own input, output and terminal, and leave as it leaves.

Signals that are sent to this process reach the program. Ctrl-C reaches it from the terminal.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from errno import ENOENT, ENOTDIR

from .._errors import CloneError
from .._flags import Namespace, Share
from .._popen import Popen
from ._options import add_context_arguments, context_from
from ._relay import Relay, Target
from ._tell import CANNOT_EXECUTE, FAILED, NOT_FOUND, TIMED_OUT, Warnings, complain, exit_code

NAME = "sysclone run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a Context, then the program."""
    parser.usage = "%(prog)s [options] [--] PROGRAM [ARGUMENT ...]"
    add_context_arguments(parser, "nothing")
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="PROGRAM …", help="the program and its arguments")


def run(args: argparse.Namespace) -> int:
    """Run the program, wait for it, and answer its exit status."""
    command: list[str] = args.program[1:] if args.program[:1] == ["--"] else args.program
    if not command:
        complain(NAME, f"there is no program to run\ntry: {NAME} -- /bin/true")
        return FAILED
    context = context_from(args, Share(0))
    relay = Relay(NAME)
    relay.catch()
    try:
        with Warnings(NAME, args.strict):
            process = Popen(command, context=context, close_fds=False)
    except CloneError as e:
        complain(NAME, str(e))
        return refused(e, command[0])
    relay.begin(Target(process.pid, process.pidfd, Namespace.PID in context.new))
    try:
        process.wait(context.timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        complain(NAME, f"{command[0]} was not done in {context.timeout:g} s: killed")
        return TIMED_OUT
    return exit_code(NAME, process.status)


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
