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
from .._task import STOP_PATIENCE, Task
from ._options import add_context_arguments, context_from
from ._relay import CancelTarget, Relay, Target
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
    from typing import Any

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
    context = context_from(args, Share.VM)
    try:
        function = find(args.function)
    except NotThere as e:
        complain(NAME, str(e))
        return e.status
    words = args.arguments[1:] if args.arguments[:1] == ["--"] else args.arguments
    positional, keywords = parse_arguments(words)
    relay = Relay(NAME)
    mask = relay.block()
    shares_handlers = Share.SIGHAND in context.share

    def body() -> Any:
        if not shares_handlers:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return function(*positional, **keywords)

    begun = time.perf_counter()
    with Warnings(NAME, args.strict):
        task = context.start(body)
    target = _target(task, context)
    relay.begin(target)
    return _Outcome(task, target, begun, args.json).of(context)


def _target(task: Task, context: Context) -> Target:
    if Share.SIGHAND in context.share:
        return CancelTarget(task.cancel)
    if Share.VM in context.share:
        return _LightTarget(task, context)
    return Target(task.pid, task.pidfd, Namespace.PID in context.new)


class _LightTarget(Target):
    """A light process: its pidfd takes every signal but SIGINT, which is Python's and means: stop."""

    def __init__(self, task: Task, context: Context) -> None:
        super().__init__(task.pid, task.pidfd, Namespace.PID in context.new)
        self._cancel = task.cancel

    def has_terminal(self, number: int) -> bool:
        """As of any child; but SIGINT has no effect on a light process, wherever it came from."""
        return number != signal.SIGINT and super().has_terminal(number)

    def send(self, number: int, name: str) -> None:
        """Send the signal, or cancel for SIGINT."""
        if number == signal.SIGINT:
            self._cancel()
        else:
            super().send(number, name)


class _Outcome:
    """What came of the task, told as text or JSON; `of` answers the exit status."""

    def __init__(self, task: Task, target: Target, begun: float, as_json: bool) -> None:
        self._task = task
        self._target = target
        self._begun = begun
        self._json = as_json

    def of(self, context: Context) -> int:
        """Wait for the result, and tell it."""
        patience = None if context.timeout is None else context.timeout + STOP_PATIENCE
        try:
            value = self._task.result(patience)
        except (Cancelled, KeyboardInterrupt) as e:
            asked_by = getattr(self._target, "asked_by", 0)
            return self._failed(e, BY_SIGNAL + asked_by if asked_by else INTERRUPTED)
        except TaskFailed as e:
            if e.pid != self._task.pid:
                return self._raised(e)
            complain(NAME, "\n".join([str(e), *getattr(e, "__notes__", ())]))
            return self._failed(e, exit_code(NAME, self._task.status))
        except TaskTimeout as e:
            return self._late(e) if e.pid == self._task.pid else self._raised(e)
        except BaseException as e:
            return self._raised(e)
        if self._json:
            self._print_json(value, None)
        elif value is not None:
            print(repr(value))
        return 0

    def _late(self, error: TaskTimeout) -> int:
        complain(NAME, str(error))
        status = self._failed(error, TIMED_OUT)
        if error.still_running:
            # It cannot be stopped, and the interpreter would wait for it. It dies with this process.
            sys.stdout.flush()
            os._exit(status)
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
