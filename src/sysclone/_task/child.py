"""What a process with a memory of its own does with its function: calls it, and leaves what came of it in its page."""

from __future__ import annotations

import os
import sys

from .. import _core
from .progress import begin_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from .._data.result import ResultPage

    Fallback = Callable[[], Any]


def live(
    page: ResultPage,
    timeout: float | None,
    prepare: Callable[[], tuple[Callable[..., Any], Any, Any]],
    fallback: Fallback | None = None,
) -> NoReturn:
    """The life of the process, from the clone to its exit.

    Args:
        page: where the result goes.
        timeout: seconds until the kernel ends it, or None.
        prepare: gives the function with its arguments; what it raises is told as if the function had.
        fallback: as of `_data.transport.pack`.
    """
    code = 1
    try:
        begin_in(page)
        if timeout is not None:
            _core.kill_self_after(int(timeout * 1e9))
        code = _call(page, prepare, fallback)
        flush()
    finally:
        os._exit(code)


def _call(
    page: ResultPage, prepare: Callable[[], tuple[Callable[..., Any], Any, Any]], fallback: Fallback | None
) -> int:
    try:
        fn, args, kwargs = prepare()
        value = fn(*args, **kwargs)
    except SystemExit as e:
        return _exit_code(e)
    except BaseException as e:
        page.write_exception(e, fallback)
        return 1
    if not page.write_value(value, fallback):
        return 1
    threading = sys.modules.get("threading")
    # What is not touched is not copied.
    if threading is not None and (len(threading._active) > 1 or threading._threading_atexits):
        threading._shutdown()
    return 0


def _exit_code(e: SystemExit) -> int:
    if e.code is None:
        return 0
    if isinstance(e.code, int):
        return e.code & 0xFF
    print(e.code, file=sys.stderr)
    return 1


def flush() -> None:
    """Write out what the standard streams hold: in a copy of the memory it would be written twice."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):
            pass
