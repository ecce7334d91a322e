"""Call a Python function in a task of its own, by default a light process, and print what it returns.

Each argument is a Python literal, or else a string; NAME=VALUE is a keyword argument.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time

from .._errors import Cancelled, TaskFailed, TaskTimeout
from .._flags import Namespace, Share
from .._task.task import STOP_PATIENCE, Task
from .._task.wait import wait_readable
from ._options import add_context_arguments, context_from
from ._relay import ENDING, Relay, Target
from ._tell import (
    BY_SIGNAL,
    CANNOT_EXECUTE,
    FAILED,
    INTERRUPTED,
    NOT_FOUND,
    RAISED,
    TIMED_OUT,
    Warnings,
    complain,
    exit_code,
    near,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from .._api import Context

NAME = "sysclone call"


class NotThere(Exception):
    """The function cannot be had; the exit status says whether it is missing or cannot be called."""

    def __init__(self, why: str, status: int) -> None:
        super().__init__(why)
        self.status = status


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a Context, then the function and its arguments."""
    parser.usage = "%(prog)s [options] MODULE:FUNCTION [ARGUMENT ...] [NAME=VALUE ...]"
    add_context_arguments(parser, "vm")
    parser.add_argument(
        "--json", action="store_true", help="print the result, the pid, the status and the time as JSON"
    )
    parser.add_argument("function", metavar="MODULE:FUNCTION", help="where the function is; modules of this folder too")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENT …", help="what it is called with")


def run(args: argparse.Namespace) -> int:
    """Call the function, and answer 0 where it returned."""
    with context_from(args, Share.VM) as context:
        try:
            function = find(args.function)
        except NotThere as e:
            complain(NAME, str(e))
            return e.status
        words = args.arguments[1:] if args.arguments[:1] == ["--"] else args.arguments
        positional, keywords = parse_arguments(words)
        relay = Relay(NAME)
        mask = relay.block()
        if context.signal_mask is not None:
            mask = set(context.signal_mask)

        def body() -> Any:
            if Share.SIGHAND not in context.share:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            return function(*positional, **keywords)

        begun = time.perf_counter()
        with Warnings(NAME, args.strict):
            task = context.start(body)
    asked = _Asked()
    if Share.VM in context.share:
        relay.begin(_LightTarget(task, context, asked))
    else:
        relay.begin(Target(task.pid, task.pidfd, Namespace.PID in context.new))
    return _Outcome(task, asked, begun, args.json).of(context)


def _leave(status: int) -> NoReturn:
    """Leave without waiting for a function that cannot be stopped: it dies with this process."""
    sys.stdout.flush()
    os._exit(status)


class _Asked:
    """Which signal a light process was asked to end by; 0 is none."""

    signal = 0


class _LightTarget(Target):
    """A light process, or a thread: it is asked to stop, and left to die with us where it cannot.

    A signal is sent to it where it has handlers of its own. Where it shares ours, or is one of our threads, it is told by
    cancel() alone: the default action would strike it in the middle of Python.
    """

    def __init__(self, task: Task, context: Context, asked: _Asked) -> None:
        if Share.THREAD not in context.share:
            super().__init__(task.pid, task.pidfd, is_init=False)
        self._task = task
        self._share = context.share
        self._asked = asked

    def has_terminal(self, number: int) -> bool:
        """Never: what it got from the terminal as well, it takes for the same."""
        return False

    def send(self, number: int, name: str) -> None:
        """Send the signal, or cancel for SIGINT, which is Python's own and means that."""
        if number in ENDING:
            if self._asked.signal:
                _leave(BY_SIGNAL + number)
            self._asked.signal = number
        if Share.SIGHAND not in self._share and number != signal.SIGINT:
            super().send(number, name)
        elif number in ENDING:
            self._task.cancel()
        if number in ENDING and Share.THREAD in self._share and not wait_readable(self._task.fileno(), STOP_PATIENCE):
            _leave(BY_SIGNAL + number)


class _Outcome:
    """What came of the task, told as text or JSON; `of` answers the exit status."""

    def __init__(self, task: Task, asked: _Asked, begun: float, as_json: bool) -> None:
        self._task = task
        self._asked = asked
        self._begun = begun
        self._json = as_json

    def of(self, context: Context) -> int:
        """Wait for the result, and tell it."""
        patience = None if context.timeout is None else context.timeout + STOP_PATIENCE
        try:
            value = self._task.result(patience)
        except (Cancelled, KeyboardInterrupt) as e:
            return self._failed(e, BY_SIGNAL + self._asked.signal if self._asked.signal else INTERRUPTED)
        except TaskFailed as e:
            return self._ended(e) if e.pid == self._task.pid else self._raised(e)
        except TaskTimeout as e:
            return self._late(e) if e.pid == self._task.pid else self._raised(e)
        except BaseException as e:
            return self._raised(e)
        if self._json:
            self._print_json(value, None)
        elif value is not None:
            print(repr(value))
        return 0

    def _ended(self, error: TaskFailed) -> int:
        complain(NAME, "\n".join([str(error), *getattr(error, "__notes__", ())]))
        status = exit_code(NAME, self._task.status)
        if self._asked.signal and status == BY_SIGNAL + signal.SIGKILL:
            # It was blocked in the kernel, and was killed in place of the signal.
            status = BY_SIGNAL + self._asked.signal
        return self._failed(error, status)

    def _late(self, error: TaskTimeout) -> int:
        complain(NAME, str(error))
        status = self._failed(error, TIMED_OUT)
        if error.still_running:
            _leave(status)
        return status

    def _raised(self, error: BaseException) -> int:
        _print_traceback(error)
        return self._failed(error, RAISED)

    def _failed(self, error: BaseException, status: int) -> int:
        if self._json:
            self._print_json(None, error)
        return status

    def _print_json(self, value: object, error: BaseException | None) -> None:
        import json

        answer: dict[str, object] = {"result": value, "type": type(value).__qualname__}
        if error is not None:
            answer = {"result": None, "error": f"{type(error).__qualname__}: {error}"}
        answer["pid"] = self._task.pid
        answer["status"] = str(self._task.status or "running")
        answer["seconds"] = round(time.perf_counter() - self._begun, 6)
        try:
            text = json.dumps(answer, indent=2)
        except (TypeError, ValueError, RecursionError):
            text = json.dumps({**answer, "result": repr(value)}, indent=2)
        print(text)


def _print_traceback(error: BaseException) -> None:
    """Print an exception of the user's, from the first frame that is not sysclone's own."""
    import traceback

    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(ours + os.sep):
        frames = frames.tb_next
    traceback.print_exception(error.with_traceback(frames))


def find(where: str) -> Callable[..., Any]:
    """The function that "module:function" names; the current directory is looked in first, as by python -m.

    Raises:
        NotThere: there is no such module or function, or it cannot be called.
    """
    import importlib

    module_name, _, path = where.partition(":")
    if not module_name or not path:
        raise NotThere(f"{where!r} is no MODULE:FUNCTION\ntry: {NAME} os:getpid", FAILED)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as e:
        if e.name is None or not f"{module_name}.".startswith(f"{e.name}."):
            _print_traceback(e)
            raise NotThere(f"the module {module_name!r} cannot be imported", RAISED) from None
        raise NotThere(f"there is no module {e.name!r} in {os.getcwd()} or on Python's path", NOT_FOUND) from None
    except Exception as e:
        _print_traceback(e)
        raise NotThere(f"the module {module_name!r} cannot be imported", RAISED) from None
    for name in path.split("."):
        if not hasattr(found, name):
            known = [known for known in dir(found) if not known.startswith("_")]
            close = near(name, known) if known else ""
            raise NotThere(f"there is no {name!r} in {module_name}{close if '?' in close else ''}", NOT_FOUND)
        found = getattr(found, name)
    if not callable(found):
        raise NotThere(f"{where} is no function: it is {type(found).__qualname__}", CANNOT_EXECUTE)
    called: Callable[..., Any] = found
    return called


def parse_arguments(words: list[str]) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments, in Python's spelling where it is one, else as strings."""
    positional, keywords = [], {}
    for word in words:
        name, equals, rest = word.partition("=")
        if equals and name.isidentifier():
            keywords[name] = _literal(rest)
        else:
            positional.append(_literal(word))
    return positional, keywords


def _literal(word: str) -> Any:
    from ast import literal_eval

    try:
        return literal_eval(word)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return word
