"""The suite's own instruments: what is left behind is seen, probes have names, and a hung run is ended from outside."""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import features
import leftovers
import pytest

ROOT = Path(__file__).parents[2]
# Command lines that nobody else has: another run of these tests may be going on.
HUNG, STRAY = (f"{n}{os.getpid()}" for n in (1, 2))


@pytest.fixture
def before(monkeypatch):
    """What is held before the leak; little patience with what follows."""
    monkeypatch.setattr(leftovers, "PATIENCE", 0.1)
    return leftovers.look()


def test_an_open_fd_is_seen(before):
    """An fd that a test leaves open is named with what it leads to."""
    with open("/dev/null") as file:
        left = leftovers.settle(before, set())
        expected = [f"fd {file.fileno()} -> /dev/null"]

    assert left == expected


def test_a_replaced_fd_is_seen(before):
    """An fd that leads elsewhere than before is named though its number is not new."""
    kept = os.dup(0)
    null = os.open("/dev/zero", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    try:
        left = [line for line in leftovers.settle(before, set()) if "/dev/zero" in line]
    finally:
        os.dup2(kept, 0)
        os.close(kept)

    assert left == ["fd 0 -> /dev/zero"]


def test_a_zombie_is_seen(before):
    """A child that nobody waited for is named."""
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    left = leftovers.settle(before, set())
    os.waitpid(pid, 0)

    assert len(left) == 1
    assert left[0].startswith(f"zombie {pid} (true")


def test_a_live_child_is_seen(before):
    """A child that goes on is named with its command line."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        left = [line for line in leftovers.settle(before, {"fds"}) if str(child.pid) in line]

    assert len(left) == 1
    assert left[0].endswith(": cat")


def test_a_thread_is_seen(before):
    """A thread that goes on is named."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    left = leftovers.settle(before, set())
    end.set()
    thread.join()

    assert [line.split()[:2] for line in left] == [["thread", str(thread.native_id)]]


def test_a_shared_mapping_is_seen(before):
    """Shared anonymous memory that stays mapped is counted."""
    with mmap.mmap(-1, 8192):
        left = leftovers.settle(before, set())

    assert [line.split()[1] for line in left] == ["/dev/zero", "/dev/zero"]


def test_a_blocked_signal_is_seen(before):
    """Signals that stay blocked are named: all that is started later would have them blocked too."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    left = leftovers.settle(before, set())
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    assert [line.partition(" -> ")[2] for line in left] == [str(sorted({*map(int, mask), int(signal.SIGUSR1)}))]


def test_what_ends_in_time_is_let_be(monkeypatch):
    """A thread that is on its way out is waited for."""
    monkeypatch.setattr(leftovers, "PATIENCE", 10.0)
    before = leftovers.look()
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    threading.Timer(0.1, end.set).start()

    assert leftovers.settle(before, set()) == []


def test_what_is_allowed_is_let_be(before):
    """A kind of leftover that a test is marked for does not fail it."""
    with open("/dev/null"):
        assert leftovers.settle(before, {"fds"}) == []


def test_unknown_features_are_refused():
    """A need without a probe is an error where it is written."""
    with pytest.raises(ValueError, match=r"no probe in features\.py for: telepathy"):
        features.requires("root", "telepathy")


def test_probes_say_what_they_probe():
    """Each probe has a docstring."""
    assert [name for name, probe in features.PROBES.items() if not probe.__doc__] == []


def test_allowed_skips_are_of_tests_and_features_that_exist():
    """Each line of allowed_skips.txt names a file of tests and a probe."""
    lines = (ROOT / "tests" / "allowed_skips.txt").read_text().splitlines()
    pairs = [line.split()[:2] for line in lines if line and not line.startswith("#")]

    assert [prefix for prefix, _ in pairs if not (ROOT / prefix.partition("::")[0]).exists()] == []
    assert {feature for _, feature in pairs} <= set(features.PROBES)


WATCH = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import watchdog
command, test_seconds = json.loads(sys.argv[3])
watchdog.PATIENCE = 1.0
journal = watchdog.Journal(Path(sys.argv[2]))
outcome = watchdog.watch(command, {"PATH": "/usr/bin:/bin"}, journal, test_seconds, 20)
print(json.dumps([outcome.exit_code, outcome.killed, outcome.strays]))
"""


def watched(tmp_path, script: str, test_seconds: float = 20.0) -> tuple[str, list[object]]:
    """What the watchdog prints about a shell script, and what it reports of it."""
    job = json.dumps([["sh", "-c", script], test_seconds])
    command = [sys.executable, "-c", WATCH, str(ROOT / "tools"), str(tmp_path / "journal"), job]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *told, report = done.stdout.splitlines()
    return "\n".join(told), json.loads(report)


def test_watchdog_passes_an_exit_code_on(tmp_path):
    """A command that ends by itself is reported as it ended."""
    assert watched(tmp_path, "exit 3")[1] == [3, None, []]


def test_watchdog_ends_a_hung_test(tmp_path):
    """A test over its limit is named, its tasks are described, and everything is killed though it ignores SIGABRT."""
    # It is late from the start: so the test begins when all that is to be told of is there.
    begin = json.dumps({"begin": "tests/x.py::test_y", "at": 0.0})
    there = f"until tr '\\0' ' ' </proc/$!/cmdline | grep -q '^sleep {HUNG}'; do :; done"
    script = f"trap '' ABRT; sleep {HUNG} & {there}; echo '{begin}' >{tmp_path}/journal; wait; wait"
    told, (code, killed, strays) = watched(tmp_path, script, test_seconds=1.0)

    assert code == -9
    assert str(killed).startswith("hung for")
    assert str(killed).endswith("tests/x.py::test_y")
    assert strays == []
    assert f"sleep {HUNG}" in told
    assert "syscall" in told
    assert not running(f"sleep {HUNG}")


def test_watchdog_names_what_is_left_running(tmp_path):
    """A process that outlives the command, in a session of its own, is reported and killed."""
    _, (code, killed, strays) = watched(tmp_path, f"setsid sleep {STRAY} >/dev/null 2>&1 &")

    assert (code, killed) == (0, None)
    assert [stray.split(" ", 1)[1] for stray in strays] == [f"(sleep) sleep {STRAY}"]
    assert not running(f"sleep {STRAY}")


JUDGE = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_cpython as cpython, watchdog
outcomes, listed, killed = json.loads(sys.argv[2])
suite = cpython.Suite("test.test_x", ("3.11",), ("3.11",), (), {}, "", "x.toml", 1, 1)
run = cpython.Run(suite, None)
journal = watchdog.Journal(Path("none"))
journal.entries = [{"test": name, "outcome": outcome} for name, outcome in outcomes] + [{"end": 0}]
cpython.judge(run, watchdog.Outcome(0, killed, []), journal, dict.fromkeys(listed, "why"), whole=True)
print(json.dumps([run.passed, run.failed, run.skipped, run.excepted, run.faults]))
"""


def judged(outcomes: list[list[str]], listed: list[str], killed: str | None = None) -> list[object]:
    """What tools/test_cpython.py makes of outcomes: passed, failed, skipped, failed as listed, the faults."""
    job = json.dumps([outcomes, listed, killed])
    done = subprocess.run(
        [sys.executable, "-c", JUDGE, str(ROOT / "tools"), job], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_a_listed_failure_of_cpythons_tests_is_let_be():
    """A test or a sub-test that fails as its list says is no failure, and one that is not listed is."""
    outcomes = [["A.one", "passed"], ["A.two", "failed"], ["A.three (n=1)", "failed"], ["A.four", "failed"]]

    assert judged(outcomes, ["A.two", "A.three (n=1)"]) == [1, 1, 0, 2, ["failed: A.four"]]


def test_a_listed_failure_that_passes_is_a_fault():
    """An exception that no longer fails, or that names no test, fails the run; one whose test was skipped does not."""
    outcomes = [["A.one", "passed"], ["A.two", "skipped"]]
    passed, failed, skipped, excepted, faults = judged(outcomes, ["A.one", "A.two (n=1)", "A.gone"])

    assert (passed, failed, skipped, excepted) == (1, 2, 1, 0)
    assert [str(fault).rpartition(" ")[2] for fault in faults] == ["A.gone", "A.one"]


def test_a_killed_run_of_cpythons_tests_is_a_fault():
    """A run that hung is one failure, and does not accuse the exceptions that it never came to."""
    assert judged([["A.one", "passed"]], ["A.two"], "hung") == [1, 1, 0, 0, ["hung"]]


def test_every_exception_has_a_reason():
    """Each list of tests/cpython says of each entry why it fails, and names versions that its suite runs on."""
    folder = ROOT / "tests" / "cpython"
    rows = tomllib.loads((folder / "suites.toml").read_text())["suite"]
    for row in rows:
        lists = tomllib.loads((folder / row["exceptions"]).read_text())
        assert set(lists) <= {"exception", "left_out"}
        for entry in lists.get("exception", []):
            assert len(entry["reason"]) > 20, entry
            assert set(entry.get("versions", ())) <= set(row["versions"]), entry
        for entry in lists.get("left_out", []):
            assert len(entry["reason"]) > 20, entry
            # A version with its last number: the next may have it mended.
            assert all(version.count(".") == 2 for version in entry["versions"]), entry
        assert set(row["always"]) <= set(row["versions"])
    assert rows


def test_so_many_run_beside_one_another():
    """Processes are started in order, two at a time, and each is told with its own exit code."""
    code = """
import subprocess, sys
from functools import partial
sys.path.insert(0, sys.argv[1])
import beside
begun = []
def start(code):
    assert sum(one.returncode is None for one in begun) < 2
    begun.append(subprocess.Popen(["sh", "-c", f"exit {code}"]))
    return begun[-1]
print(sorted(beside.ended(2, [partial(start, code) for code in range(5)])))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "tools")], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == f"{[(n, n) for n in range(5)]}\n"


def running(command: str) -> bool:
    """Whether a process with this command line is there."""
    words = command.replace(" ", "\0").encode() + b"\0"
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes() == words:
                return True
        except OSError:
            continue
    return False
