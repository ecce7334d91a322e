"""The start methods "clone" and "zygote" in a whole program: by name, with its main module, and what goes wrong there."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap

import pytest
from helpers import SECONDS, SOURCES

from sysclone import Context
from sysclone.multiprocessing import get_context

pytestmark = pytest.mark.usefixtures("helpers_of_all")

METHODS = ("clone", "zygote")


@pytest.fixture
def in_force():
    """Sets the program's start method, until the test has ended."""
    before = multiprocessing.get_start_method(allow_none=True)
    yield lambda name: multiprocessing.set_start_method(name, force=True)
    multiprocessing.set_start_method(before, force=True)


def send(sending, tell, *arguments):
    sending.send(tell(*arguments))


def answer_of(method, tell, *arguments):
    """What a function returns in a process of a method; with the exit code."""
    receiving, sending = method.Pipe(duplex=False)
    process = method.Process(target=send, args=(sending, tell, *arguments))
    process.start()
    sending.close()
    with receiving:
        answer = receiving.recv() if receiving.poll(SECONDS) else None
    process.join(SECONDS)
    code = process.exitcode
    process.close()
    return answer, code


def program(tmp_path, text, helper="", name="program.py"):
    """Run a main module of its own, with another beside it; gives what it printed, on both streams."""
    path = tmp_path / name
    path.write_text(textwrap.dedent(text))
    (tmp_path / "helper.py").write_text(helper)
    return subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        timeout=SECONDS * 2,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        check=False,
    )


@pytest.mark.parametrize("name", METHODS)
def test_it_can_be_the_start_method_of_the_program(in_force, name):
    """multiprocessing.Process, which is of no start method, starts such a process, in which it is that of the program too."""
    in_force(name)

    assert answer_of(multiprocessing, multiprocessing.get_start_method) == (name, 0)
    assert answer_of(multiprocessing, os.getppid) == (os.getpid(), 0)


@pytest.mark.parametrize("name", METHODS)
def test_processes_of_other_methods_take_the_name_along(in_force, name):
    """A spawned process of a program with this start method knows it, although it never heard of it before."""
    in_force(name)

    assert answer_of(multiprocessing.get_context("spawn"), multiprocessing.get_start_method) == (name, 0)


def test_a_context_is_bound_to_the_class_and_not_to_the_object(tmp_path, in_force):
    """The Process of a context with a cwd of its own has it, and others of the same start method have not."""
    other = get_context("clone", context=Context(cwd=str(tmp_path)))
    in_force("clone")

    assert answer_of(other, os.getcwd) == (str(tmp_path), 0)
    assert answer_of(multiprocessing, os.getcwd) == (os.getcwd(), 0)


class Shouting(get_context("zygote").Process):
    """A class of one's own, of a name that can be found."""

    def run(self):
        self.sending.send("HELLO")


def test_a_class_of_ones_own_runs_its_own_code():
    """A subclass that can be found by its name runs, and one that cannot is refused: it never runs as another class."""
    receiving, sending = multiprocessing.Pipe(duplex=False)

    class Hidden(Shouting):
        pass

    with receiving, sending:
        process = Shouting()
        process.sending = sending
        process.start()
        assert receiving.recv() == "HELLO"
        process.join(SECONDS)
        process.close()
        # Python 3.14 raises the second.
        with pytest.raises((AttributeError, pickle.PicklingError), match="local object"):
            Hidden().start()


class Fragile:
    """Goes out, and cannot come in."""

    def __init__(self, here):
        if here != os.getpid():
            raise LookupError("not here")
        self.here = here

    def __reduce__(self):
        return Fragile, (self.here,)


def test_what_cannot_be_unpickled_there_is_printed(capfd):
    """The process leaves with 1, and its standard error says which exception kept it from its target, and where."""
    zygote = get_context("zygote")
    process = zygote.Process(target=print, args=(Fragile(os.getpid()),))
    process.start()
    process.join(SECONDS)

    assert process.exitcode == 1
    process.close()
    told = capfd.readouterr().err
    assert "LookupError: not here" in told
    assert "Traceback" in told


def test_a_step_that_fails_is_printed(method, tmp_path, capfd):
    """What its Context asks for in vain is named with the process, once somebody looks for its end."""
    other = get_context(method.get_start_method(), context=Context(cwd=str(tmp_path / "gone")))
    process = other.Process(target=print, name="lost")
    process.start()
    process.join(SECONDS)

    assert process.exitcode == 1
    told = capfd.readouterr().err
    assert f"Process lost ({process.pid}):" in told
    assert "ENOENT" in told
    process.close()


# --- what the zygote has imported


def test_modules_are_preloaded_as_by_forkserver(tmp_path):
    """set_forkserver_preload() names what the zygote imports, one that is not there is let be, and later names count."""
    done = program(
        tmp_path,
        """
        import multiprocessing

        def tell(zygote):
            import helper
            print(helper.loaded_by == zygote, flush=True)

        if __name__ == "__main__":
            from sysclone.multiprocessing import shared_zygote
            multiprocessing.set_start_method("zygote")
            for names in (["helper", "no_such_module"], [], ["helper"]):
                multiprocessing.set_forkserver_preload(names)
                process = multiprocessing.Process(target=tell, args=(shared_zygote().pid,))
                process.start()
                process.join()
        """,
        helper="import os; loaded_by = os.getpid()",
    )
    assert (done.stdout.split(), done.returncode, done.stderr) == (["True", "False", "True"], 0, "")


def test_the_main_module_is_imported_once(tmp_path):
    """In the zygote, as forkserver does: each process has it already, and what it printed is printed once."""
    done = program(
        tmp_path,
        """
        import multiprocessing, os, sys
        importer = os.getpid()
        print("imported", flush=__name__ == "__main__")

        def tell(zygote):
            print(importer == zygote, __name__, flush=True)

        if __name__ == "__main__":
            from sysclone.multiprocessing import shared_zygote
            multiprocessing.set_start_method("zygote")
            zygote = shared_zygote().pid
            for _ in range(3):
                process = multiprocessing.Process(target=tell, args=(zygote,))
                process.start()
                process.join()
        """,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["imported"] * 2 + ["True __mp_main__"] * 3


@pytest.mark.parametrize(
    "start",
    [
        "multiprocessing.get_context('zygote').Process(target=print).start()",
        "sysclone.Zygote(preload=['__main__'])",
    ],
)
def test_a_main_module_without_its_guard_ends(tmp_path, start):
    """What starts a zygote on import would start one in each zygote: it is refused in the first, and its words told."""
    done = program(
        tmp_path,
        f"""
        import multiprocessing, sysclone, sysclone.multiprocessing
        sysclone.multiprocessing.get_context  # ours
        {start}
        """,
    )
    assert done.returncode == 1
    assert "it needs the guard" in done.stderr
    # The program's own, and the zygote's within it.
    assert done.stderr.count("Traceback") == 2


def test_a_main_module_called_ipython_is_left_out(tmp_path):
    """Its launch scripts have no guard: as with multiprocessing's own methods, no process imports them."""
    done = program(
        tmp_path,
        """
        import multiprocessing, sysclone.multiprocessing
        if __name__ != "__main__":
            raise RuntimeError("imported")
        process = multiprocessing.get_context("zygote").Process(target=print, args=("runs",))
        process.start()
        process.join()
        raise SystemExit(process.exitcode)
        """,
        name="ipython",
    )
    assert (done.stdout, done.returncode, done.stderr) == ("runs\n", 0, "")
