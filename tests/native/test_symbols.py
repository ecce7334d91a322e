"""The object files: what runs in a child before exec calls nothing of libc's or Python's, and little is exported."""

from __future__ import annotations

import shlex
import subprocess
import sysconfig
from pathlib import Path

import pytest
from features import requires

from sysclone import _core

pytestmark = requires("compiler")

SOURCES = Path(__file__).parents[2] / "src" / "sysclone" / "_core"
INCLUDE = f"-I{sysconfig.get_path('include')}"
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-fPIC", "-Wall", "-Wextra", "-fvisibility=hidden", INCLUDE]

CHILD = {"memcpy", "memset", "memmove", "strlen", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"}
"""What child.c may ask for beside sysclone's own: what gcc itself calls, none of which takes a lock. The last comes
with Debian's flags for extensions, and is called only by a child whose stack is already overwritten."""


def undefined(source: Path, flags: list[str], folder: Path) -> set[str]:
    """The symbols that the object of a source file leaves to others."""
    target = folder / f"{source.stem}.o"
    subprocess.run(["gcc", *flags, "-c", str(source), "-o", str(target)], check=True)
    lines = subprocess.run(["nm", "-u", str(target)], capture_output=True, text=True, check=True).stdout.splitlines()
    return {line.split()[-1] for line in lines}


@pytest.mark.parametrize("flags", [[], shlex.split(sysconfig.get_config_var("CFLAGS") or "")], ids=["plain", "python"])
def test_child_calls_nothing_foreign(flags, tmp_path):
    """What child.c needs from outside is on the short list, with our flags and with this interpreter's."""
    needed = undefined(SOURCES / "child.c", [*flags, *FLAGS], tmp_path)

    assert {symbol for symbol in needed if not symbol.startswith("sc_")} - CHILD == set()


TRACER = sorted(path.name for path in SOURCES.glob("tracer*.c") if path.name != "tracer_object.c")


@pytest.mark.parametrize("name", TRACER)
def test_the_tracer_calls_nothing_foreign(name, tmp_path):
    """The tracing task runs on a thread-local storage that is another's: its files ask for as little as child.c."""
    needed = undefined(SOURCES / name, FLAGS, tmp_path)

    assert {symbol for symbol in needed if not symbol.startswith("sc_")} - CHILD == set()


def test_foreign_calls_are_seen(tmp_path):
    """A child that called malloc and looked at errno would be found out."""
    source = tmp_path / "bad.c"
    source.write_text("#include <errno.h>\n#include <stdlib.h>\nvoid *bad(void) { errno = 0; return malloc(1); }\n")

    assert {"malloc", "__errno_location"} <= undefined(source, FLAGS, tmp_path)


def test_extension_exports_its_init_alone():
    """Of the extension's own symbols only PyInit__core can be seen from outside."""
    command = ["nm", "-D", "--defined-only", str(_core.__file__)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    assert {line.split()[-1] for line in lines} - {"_init", "_fini"} == {"PyInit__core"}
