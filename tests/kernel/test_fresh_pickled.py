"""Functions of fresh processes: by value and by name, of the main module and without cloudpickle."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import sysclone
from sysclone import ContextError


def test_lambdas_and_closures_go_by_value(kept):
    """With cloudpickle a closure is pickled, and a class of the test's own comes back as that class."""
    factor = 3

    class Local:
        def __init__(self, value):
            self.value = value

    answer = kept.call(lambda x: Local(x * factor), 5)
    assert isinstance(answer, Local)
    assert answer.value == 15


@pytest.mark.parametrize(
    ("act", "field", "words"),
    [
        (lambda z: z.call(threading.Lock().acquire), "fn", "the function"),
        (lambda z: z.call(int, [1, {"k": threading.Lock()}]), "args", r"at args\[0\]\[1\]\['k'\]"),
        (lambda z: z.call(dict, key=[threading.Lock()]), "kwargs", r"at kwargs\['key'\]\[0\]"),
    ],
    ids=["function", "argument", "keyword"],
)
def test_what_cannot_be_pickled_is_named(kept, act, field, words):
    """Nothing is started for a call that cannot be pickled: the part at fault is named, with the path."""
    with pytest.raises(ContextError, match=words) as caught:
        act(kept)
    assert caught.value.field == field


def test_what_cannot_be_unpickled_there_is_told(kept, tmp_path, monkeypatch):
    """A function of a module that the task cannot import is an error with its own name, and says where it happened."""
    (tmp_path / "only_here.py").write_text("def f():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here

    with pytest.raises(ModuleNotFoundError, match="only_here") as caught:
        kept.call(only_here.f)
    assert any("unpickled in the fresh process" in note for note in caught.value.__notes__)


MAIN = """
    import os, sys
    sys.modules["cloudpickle"] = {block}
    import sysclone

    def double(x):
        return 2 * x

    class Thing:
        value = 5

    def thing():
        return Thing()
"""


def script(tmp_path, block, ending):
    """A program with a main module of its own, with or without cloudpickle."""
    import textwrap

    path = tmp_path / "program.py"
    begin = (
        textwrap.dedent(MAIN.format(block="None"))
        if block
        else textwrap.dedent(MAIN).replace('sys.modules["cloudpickle"] = {block}\n', "")
    )
    path.write_text(begin + textwrap.dedent(ending))
    source = str(Path(sysclone.__file__).parents[1])
    return subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": source},
        check=False,
    )


@pytest.mark.parametrize("block", [False, True], ids=["by value", "by name"])
def test_the_main_modules_functions_run(tmp_path, block):
    """What the main module defines runs in a fresh process: by value, or by importing a main module that has its guard."""
    done = script(
        tmp_path,
        block,
        """
        if __name__ == "__main__":
            with sysclone.Zygote() as zygote:
                print(zygote.call(double, 4), isinstance(zygote.call(thing), Thing), zygote.call(thing).value)
        """,
    )
    assert (done.stdout, done.returncode) == ("8 True 5\n", 0), done.stderr


def test_without_its_guard_the_main_module_is_refused(tmp_path):
    """Imported in a task, a main module that starts tasks itself is told of the guard, and nothing runs on for ever."""
    done = script(tmp_path, True, "print(sysclone.Zygote().call(double, 4))\n")

    assert done.returncode == 1
    assert "it needs the guard" in done.stderr


def test_without_its_guard_it_works_by_value(tmp_path):
    """With cloudpickle the main module is not imported, so it needs no guard."""
    done = script(tmp_path, False, "print(sysclone.Zygote().call(double, 4))\n")

    assert (done.stdout, done.returncode) == ("8\n", 0), done.stderr


def test_without_cloudpickle_a_lambda_is_refused(tmp_path):
    """The error says what to install."""
    done = script(tmp_path, True, "sysclone.Zygote().call(lambda: 1)\n")

    assert "pip install 'sysclone[fresh]'" in done.stderr


def test_the_main_module_can_be_preloaded(tmp_path):
    """preload=["__main__"] imports it once, in the zygote, and what it prints is not left for the tasks to print again."""
    done = script(
        tmp_path,
        True,
        """
        here = os.getpid()
        if __name__ == "__main__":
            with sysclone.Zygote(preload=["__main__"]) as zygote:
                print(zygote.call(double, 4), zygote.call(double, 5))
        else:
            print("imported")
        """,
    )
    assert (done.stdout, done.returncode) == ("imported\n8 10\n", 0), done.stderr


def test_multiprocessing_does_not_hide_the_main_module(tmp_path):
    """Where it was imported first, the main module's functions are found all the same."""
    done = script(
        tmp_path,
        True,
        """
        if __name__ == "__main__":
            with sysclone.Zygote(preload=["multiprocessing"]) as zygote:
                print(zygote.call(double, 4))
        """,
    )
    assert (done.stdout, done.returncode) == ("8\n", 0), done.stderr
