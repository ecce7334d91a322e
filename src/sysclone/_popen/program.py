"""What a program is given: its arguments, where it may be, its environment. As subprocess understands them."""

from __future__ import annotations

import os
import sys
import warnings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def argv_and_program(args: Any, executable: Any, shell: bool) -> tuple[list[Any], Any]:
    """The arguments that the program gets, and the program: as subprocess understands its own."""
    if type(args) is list:
        argv: list[Any] = args[:]
    elif isinstance(args, (str, bytes)):
        argv = [args]
    elif isinstance(args, os.PathLike):
        if shell:
            raise TypeError("path-like args is not allowed when shell is true")
        argv = [args]
    else:
        argv = list(args)
    if shell:
        argv = ["/bin/sh", "-c", *argv]
        if executable:
            argv[0] = executable
    if not argv:
        raise IndexError("args is empty: there is no program to run")
    return argv, argv[0] if executable is None else executable


def search(program: Any, env: Any) -> list[bytes]:
    """Where the program may be, in order: the PATH is that of env."""
    name = os.fsencode(program)
    if b"/" in name:
        return [name]
    return [os.path.join(os.fsencode(directory), name) for directory in os.get_exec_path(env)]


def environment(env: Any) -> list[bytes]:
    """A mapping as exec takes it."""
    out = []
    for key, value in env.items():
        name = os.fsencode(key)
        if b"=" in name:
            raise ValueError("illegal environment variable name")
        out.append(name + b"=" + os.fsencode(value))
    return out


def text_encoding() -> str:
    """The encoding of text mode where none was given; with -X warn_default_encoding a warning, at who asked for text."""
    if sys.flags.warn_default_encoding:
        warnings.warn("'encoding' argument not specified.", EncodingWarning, stacklevel=outside())
    if sys.flags.utf8_mode:
        return "utf-8"
    import locale

    return locale.getencoding()


def outside() -> int:
    """The stacklevel, for who calls this, of the first frame that is neither sysclone's nor subprocess's."""
    depth = 1
    frame = sys._getframe(1)
    while frame.f_back is not None and (
        str(frame.f_globals.get("__package__")).startswith("sysclone")
        or frame.f_globals.get("__name__") == "subprocess"
    ):
        depth, frame = depth + 1, frame.f_back
    return depth
