"""Interpreters whose thread states cannot be lent: unknown versions, other layouts, free-threaded builds."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest
from features import requires
from helpers import SECONDS, TESTS

import sysclone
from sysclone import _core

PACKAGE = Path(sysclone.__file__).parent
C_FILES = TESTS.parent / "src" / "sysclone" / "_core"
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

PRETENCES = {
    "newer": ("const unsigned long Py_Version = 0x03630000UL;", "is not known to sysclone"),
    "another": ("const unsigned long Py_Version = {other}UL;", "built for another version"),
}
if sys.version_info >= (3, 13):
    PRETENCES["layout"] = ("char _PyRuntime[1 << 20];", "laid out otherwise")

WORKS = """
    import os, sys, sysclone
    from sysclone import Context, Namespace, Share, Unsupported, lowlevel
    REASON = sys.argv[1]

    def refused(act, *arguments, **keywords):
        try:
            act(*arguments, **keywords)
        except Unsupported as error:
            assert REASON in str(error), error
        else:
            raise SystemExit(f"{act} was not refused")

    refused(sysclone.call, int)
    refused(sysclone.start, int)
    refused(Context.light().replace(timeout=5).call, int)
    refused(Context(share=Share.VM, no_new_privs=True).call, int)
    refused(sysclone.run, ["true"], preexec_fn=int)
    refused(sysclone.run, ["true"], context=Context(no_new_privs=True))

    assert sysclone.run(["sh", "-c", "echo $$"], capture_output=True).stdout.strip().isdigit()
    with sysclone.Popen(["cat"], stdin=-1, stdout=-1) as program:
        assert program.communicate(b"text")[0] == b"text"
    parent, value = Context().call(lambda: (os.getppid(), {"a": [1]}))
    assert (parent, value) == (os.getpid(), {"a": [1]})
    assert Context(share=Share.FS | Share.FILES).start(pow, 2, 5).result() == 32
    assert sysclone.explain("CLONE_VM|SIGCHLD").errno == 0
    assert lowlevel.gettid() == os.getpid()
    assert sysclone.inspect(os.getpid()) is not None
    print("fine")
"""


def what_works(reason: str, path: Path) -> str:
    """What a program says that tries what is to work, and what is to be refused with a reason."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WORKS), reason],
        env={**os.environ, "PYTHONPATH": str(path)}, cwd="/",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    return done.stdout


if not FREE_THREADED:

    @pytest.fixture(scope="module")
    def objects(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
        """The extension's object files, made once."""
        folder = tmp_path_factory.mktemp("objects")
        flags = ["-c", "-fPIC", "-O0", "-w", "-std=c11", "-D_GNU_SOURCE", "-fvisibility=hidden"]
        sources = sorted(map(str, C_FILES.glob("*.c")))
        subprocess.run(["gcc", *flags, f"-I{sysconfig.get_path('include')}", *sources], cwd=folder, check=True)
        return sorted(map(str, folder.glob("*.o")))

    @requires("compiler")
    @pytest.mark.parametrize("pretence", PRETENCES)
    def test_an_interpreter_that_is_not_known_is_refused(pretence, objects, tmp_path):
        """Built to believe that it runs on another CPython, the extension loads, lends nothing, says why, and does the rest."""
        lie, reason = PRETENCES[pretence]
        other = 12 if sys.version_info < (3, 12) else 11
        (tmp_path / "lie.c").write_text(lie.replace("{other}", f"0x03{other:02x}0000") + "\n")
        copy = tmp_path / "sysclone"
        copy.mkdir()
        for entry in PACKAGE.iterdir():
            if not entry.name.startswith("_core."):
                (copy / entry.name).symlink_to(entry)
        # -Bsymbolic: the lie is believed by its own library alone.
        target = copy / f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"
        link = ["gcc", "-shared", "-fPIC", "-Wl,-Bsymbolic", *objects, str(tmp_path / "lie.c"), "-o", str(target)]
        subprocess.run(link, check=True)

        assert what_works(reason, tmp_path) == "fine\n"

else:

    def test_a_free_threaded_build_lends_nothing():
        """Without a GIL light processes are refused with a sentence, all else works, and no GIL is switched on by it."""
        assert "free-threaded" in str(_core.unsupported())
        assert what_works("free-threaded", PACKAGE.parent) == "fine\n"
        assert not sys._is_gil_enabled()
