"""`sysclone call`: functions from the command line, their arguments, results, ends and signals."""

from __future__ import annotations

import os
import signal

import pytest
from commandline import Terminal
from features import requires

MODULE = """
import atexit, os, threading, time

seen = []
atexit.register(lambda: seen and print("seen", *seen))

def note(word):
    seen.append(word)

def echo(*args, **kwargs):
    return args, kwargs

def fail(word):
    raise LookupError(word)

def folder():
    os.chdir("/")

def where():
    return os.getcwd()

def nap():
    # Not in one sleep: CPython may overlook a KeyboardInterrupt that comes just before it.
    print("ready", flush=True)
    while True:
        time.sleep(0.1)

def block():
    print("ready", flush=True)
    time.sleep(60)

def spin():
    print("ready", flush=True)
    while True:
        pass

def deadlock():
    lock = threading.Lock()
    lock.acquire()
    print("ready", flush=True)
    lock.acquire()

class Shelf:
    @staticmethod
    def book():
        return {"a book"}

broken = "no function"
"""

CONTEXTS = {
    "light": [],
    "copied": ["--share", "none"],
    "with handlers": ["--preset", "linuxthreads"],
    "threaded": ["--preset", "thread"],
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a module, as the current one."""
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "faulty.py").write_text("import no_such_module_at_all\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(9)\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("options", CONTEXTS.values(), ids=CONTEXTS)
def test_result_is_printed(sysclone, here, options):
    """What the function returns is printed in Python's spelling, and None is not."""
    done = sysclone("call", *options, "mine:Shelf.book")
    assert (done.returncode, done.stdout, done.stderr) == (0, "{'a book'}\n", "")

    done = sysclone(
        "call", *options, "mine:echo", "1", "[2, None]", "three", "'4'", "five=5", "six=six", "a-b=c", "--json"
    )
    positional = (1, [2, None], "three", "4", "a-b=c", "--json")
    assert done.stdout == f"{(positional, {'five': 5, 'six': 'six'})!r}\n"

    assert sysclone("call", *options, "mine:folder").stdout == ""


def test_memory_is_shared_unless_told_otherwise(sysclone, here):
    """By default the function is a light process, whose doing this process sees; with --share none it does not."""
    assert sysclone("call", "mine:note", "hello").stdout == "seen hello\n"
    assert sysclone("call", "--share", "none", "mine:note", "hello").stdout == ""


def test_pids(sysclone_json):
    """A light or copied process has a pid of its own, which --json tells; a thread has its caller's."""
    for options in CONTEXTS.values():
        told = sysclone_json("call", *options, "os:getpid")
        assert (told["result"] == told["pid"]) is (options != CONTEXTS["threaded"])


@requires("user_namespaces", "net_namespaces")
def test_namespaces(sysclone_json):
    """With --new the function runs in a namespace of its own, and still in this memory."""
    told = sysclone_json("call", "--new", "user,net", "os:readlink", "/proc/self/ns/net")

    assert told["result"].startswith("net:[")
    assert told["result"] != os.readlink("/proc/self/ns/net")


def test_json(sysclone_json, here):
    """--json tells result, type, pid, status and seconds; what JSON has no word for is told in Python's spelling."""
    told = sysclone_json("call", "math:hypot", "3", "4")
    assert told.pop("pid") > 1
    assert 0 < told.pop("seconds") < 20
    assert told == {"result": 5.0, "type": "float", "status": "exited with 0"}

    told = sysclone_json("call", "mine:Shelf.book")
    assert (told["result"], told["type"]) == ("{'a book'}", "set")

    told = sysclone_json("call", "mine:fail", "missing")
    assert (told["result"], told["error"]) == (None, "LookupError: missing")


@pytest.mark.parametrize("options", CONTEXTS.values(), ids=CONTEXTS)
def test_function_that_raises(sysclone, here, options):
    """An exception comes with its traceback, without sysclone's own frames in front, and gives 1."""
    done = sysclone("call", *options, "mine:fail", "missing")

    assert (done.returncode, done.stdout) == (1, "")
    assert 'mine.py", line ' in done.stderr
    assert "in fail" in done.stderr
    assert done.stderr.endswith("LookupError: missing\n")
    if options != CONTEXTS["copied"]:
        assert "sysclone" not in done.stderr


@pytest.mark.parametrize("options", [CONTEXTS["light"], CONTEXTS["copied"]], ids=["light", "copied"])
@pytest.mark.parametrize(
    ("function", "status", "told"),
    [
        (["os:_exit", "3"], 3, "exited with 3"),
        (["sys:exit", "4"], 4, "exited with 4"),
        (["os:abort"], 134, "SIGABRT"),
        (["ctypes:string_at", "0"], 139, "SIGSEGV"),
    ],
)
def test_function_that_dies(sysclone, options, function, status, told):
    """A function that ends its process gives that end's exit status, and the reason is said."""
    done = sysclone("call", *options, *function)

    assert (done.returncode, done.stdout) == (status, "")
    assert told in done.stderr
    assert done.stderr.startswith("sysclone call: task ")


@pytest.mark.parametrize(
    ("where", "status", "told"),
    [
        ("no_such_module:x", 127, "no module 'no_such_module'"),
        ("mine:ech", 127, "did you mean echo?"),
        ("mine:Shelf.books", 127, "did you mean book?"),
        ("mine:broken", 126, "mine:broken is no function: it is str"),
        ("mine", 125, "MODULE:FUNCTION"),
        ("faulty:x", 1, "No module named 'no_such_module_at_all'"),
        ("leaves:x", 9, ""),
    ],
)
def test_function_that_is_not_there(sysclone, here, where, status, told):
    """What is not there gives 127, what is no function 126, a module that fails its own traceback and 1."""
    done = sysclone("call", where)

    assert (done.returncode, done.stdout) == (status, "")
    assert told in done.stderr
    assert ("Traceback" in done.stderr) is where.startswith("faulty")


@pytest.mark.parametrize("function", ["block", "spin"])
@pytest.mark.parametrize("options", [CONTEXTS["light"], CONTEXTS["copied"]], ids=["light", "copied"])
def test_timeout(sysclone, here, options, function):
    """After --timeout the function is stopped, asleep or busy, and the exit status is 124."""
    done = sysclone("call", *options, "--timeout", "0.8", f"mine:{function}")

    assert (done.returncode, done.stdout) == (124, "ready\n")
    assert "was not done in 0.8 s, and was stopped" in done.stderr


@pytest.mark.parametrize("function", ["nap", "spin"])
@pytest.mark.parametrize("options", CONTEXTS.values(), ids=CONTEXTS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_the_function(started, here, options, function, number):
    """A signal to sysclone's pid ends the function, asleep or busy, and gives 128 and its number."""
    one = started("call", *options, f"mine:{function}")
    assert one.line() == "ready"
    one.send(number)

    assert one.end()[0] == 128 + number


def test_blocked_function_ends_too(started, here):
    """A light process that is blocked in the kernel is killed in the signal's place; the exit status is the signal's."""
    one = started("call", "mine:block")
    assert one.line() == "ready"
    one.send(signal.SIGTERM)

    assert one.end()[0] == 128 + signal.SIGTERM


def test_a_second_signal_does_not_wait(started, here):
    """A function that cannot be stopped does not keep us: at a second signal we leave, and it dies with us."""
    one = started("call", "mine:deadlock")
    assert one.line() == "ready"
    one.send(signal.SIGTERM)
    one.send(signal.SIGHUP)

    # Its standard output ends, so the function's process is gone as well.
    assert one.end()[0] in (128 + signal.SIGTERM, 128 + signal.SIGHUP)


@pytest.mark.parametrize("function", ["nap", "spin"])
@pytest.mark.parametrize("options", CONTEXTS.values(), ids=CONTEXTS)
def test_ctrl_c(here, options, function):
    """Ctrl-C at a terminal ends the function, asleep or busy, and gives 130."""
    with Terminal("call", *options, f"mine:{function}") as terminal:
        assert terminal.line() == "ready"
        terminal.type(b"\x03")

        assert terminal.process.wait(20) == 130


def test_function_has_the_signal_mask_we_had(sysclone_json, here):
    """The signals that are kept for the function until it runs are not blocked in it."""
    for options in ([], ["--share", "none"]):
        told = sysclone_json("call", *options, "signal:pthread_sigmask", str(int(signal.SIG_BLOCK)), "[]")
        assert told["result"] == "set()"


def test_warnings(sysclone, here):
    """--strict makes a warning an error; a context that the rules forbid is one in any case."""
    done = sysclone("call", "--share", "thread", "os:getpid")

    assert done.returncode == 125
    assert "sysclone call: --share: " in done.stderr
