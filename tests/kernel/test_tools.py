"""Debuggers, profilers, tracers and coverage on programs with light processes: each against the real tool."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import sysconfig
import textwrap
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from features import requires
from helpers import SECONDS, SOURCES, in_subprocess

import sysclone
from sysclone import Context, Share, TaskExited, TaskKilled

LIGHT = Context(share=Share.VM)
GDB = ["gdb", "-nx", "-q", "-batch", "-iex", "set auto-load off", "-iex", "set debuginfod enabled off"]
PY_SPY = str(Path(sysconfig.get_path("scripts"), "py-spy"))
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SOURCES)}

LASTS = """
    import os, sysclone

    def innermost():
        print(os.getpid(), flush=True)
        assert os.read(0, 1) == b"x"
        return 41

    def around():
        return innermost() + 1

    print(sysclone.VERB, flush=True)
"""
"""Prints the light process's id, waits for an x, and prints what came of the function."""


@contextlib.contextmanager
def lasting(verb: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A program in the midst of a light process, and that one's id; it must go on to its right end."""
    code = textwrap.dedent(LASTS.replace("VERB", verb))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as program:
        assert program.stdout is not None
        try:
            yield program, int(program.stdout.readline())
            out, _ = program.communicate("x", timeout=SECONDS)
        except BaseException:
            program.kill()
            raise
    assert (program.returncode, out) == (0, "42\n")


def told_by(*command: str | Path) -> str:
    """What a tool says, within the time limit."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=40,
        env=ENVIRONMENT, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A program that makes light processes, some of which die, and prints its id and theirs."""
    path = tmp_path / "program.py"
    path.write_text(
        textwrap.dedent("""
            import os, time
            import sysclone


            def works():
                end = time.process_time() + 0.05
                while time.process_time() < end:
                    pass
                os.umask(0o123)
                return os.getpid()


            os.getppid()
            pids = [os.getpid(), *(sysclone.call(works) for _ in range(3)), *(sysclone.start(works).result() for _ in range(3))]
            try:
                sysclone.call(os._exit, 3)
            except sysclone.TaskExited:
                pass
            os.getppid()
            print(*pids)
        """)
    )
    return path


def pids_in(text: str) -> list[int]:
    """The last line of what the script printed."""
    return [int(word) for word in re.findall(r"^\d+(?: \d+){6}$", text, re.MULTILINE)[-1].split()]


# --- gdb


@requires("gdb")
@pytest.mark.parametrize("verb", ["call(around)", "start(around).result()"])
def test_gdb_attached_to_the_creator(verb):
    """A debugger that comes and goes while a light process runs sees the parked thread, and nothing is lost by it."""
    with lasting(verb) as (program, _):
        told = told_by(*GDB, "-p", str(program.pid), "-ex", "thread apply all bt", "-ex", "detach")

        assert "sc_light_run" in told


@requires("gdb")
@pytest.mark.parametrize("verb", ["call(around)", "start(around).result()"])
def test_gdb_attached_to_the_light_process(verb):
    """The child itself can be attached to: its own frames end where it began."""
    with lasting(verb) as (_, pid):
        told = told_by(*GDB, "-p", str(pid), "-ex", "bt", "-ex", "detach")

        assert "sc_light_child" in told
        assert "sc_light_run" not in told


@requires("gdb")
def test_a_program_under_gdb_is_stepped_through(script):
    """Under a debugger light processes come and go as forks do, and a hardware breakpoint holds before and after them."""
    begin = ["set breakpoint pending on", "break Py_BytesMain", "run", "hbreak getppid"]
    steps = [*begin, *["continue", "next", "next"] * 2, "continue"]
    told = told_by(*GDB, *(word for step in steps for word in ("-ex", step)), "--args", sys.executable, script)

    assert len(re.findall(r"^(?:Thread .* hit )?.*reakpoint 2, .*getppid", told, re.MULTILINE)) == 2, told
    assert len(set(pids_in(told))) == 7
    assert "exited normally" in told


# --- py-spy


@requires("py_spy")
@pytest.mark.parametrize("of", ["creator", "light process"])
@pytest.mark.parametrize("verb", ["call(around)", "start(around).result()"])
def test_py_spy_dump(verb, of):
    """The function's frames stand on the thread that is lent to it, whichever of the two processes is looked at."""
    with lasting(verb) as (program, pid):
        told = told_by(PY_SPY, "dump", "--pid", str(program.pid if of == "creator" else pid))

        assert re.search(r"innermost .*\n\s+around ", told)


@requires("py_spy")
def test_py_spy_record(tmp_path):
    """Samples of the creator find the function, if idle threads are asked for: the parked one sleeps."""
    with lasting("call(around)") as (program, _):
        told_by(PY_SPY, "record", "--idle", "-d", "1", "-r", "20", "-f", "raw", "-o", tmp_path / "samples",
                "--pid", str(program.pid))  # fmt: skip

        assert re.search(r"around .*;innermost .* \d+$", (tmp_path / "samples").read_text(), re.MULTILINE)


# --- perf and strace


@requires("perf")
def test_perf_sees_light_processes_as_processes(script, tmp_path):
    """Samples are counted to the ids that the functions saw as their own."""
    data = str(tmp_path / "data")
    told = told_by("perf", "record", "-q", "-e", "cpu-clock", "-o", data, sys.executable, script)
    samples = told_by("perf", "script", "-i", data, "-F", "pid,tid")

    creator, *light = pids_in(told)
    seen = {tuple(map(int, pair)) for pair in re.findall(r"(\d+)/(\d+)", samples)}
    assert {(pid, pid) for pid in light} <= seen
    assert (creator, creator) in seen


@requires("strace")
def test_strace_follows_light_processes(script, tmp_path):
    """With -f each is followed from its first call on, and its calls bear its own id."""
    out = tmp_path / "calls"
    told = told_by("strace", "-f", "-e", "trace=umask,exit", "-o", out, sys.executable, script)

    _, *light = pids_in(told)
    calls = [line.split(maxsplit=1) for line in out.read_text().splitlines()]
    assert [int(pid) for pid, call in calls if call.startswith("umask(0123)")] == light
    assert {str(pid) for pid in light} <= {pid for pid, call in calls if call.startswith("exit(0)")}


# --- faulthandler and tracemalloc


def test_faulthandler_dumps_the_function():
    """A dump made inside shows the whole stack, and one made outside, or by the timer, shows the function too."""
    told = in_subprocess("""
        import faulthandler, os, sys, sysclone, tempfile, time

        def innermost():
            faulthandler.dump_traceback(sys.stdout, all_threads=False)

        def waits(fd):
            os.read(fd, 1)

        def caller():
            sysclone.call(innermost)

        caller()
        print("outside", flush=True)
        r, w = os.pipe()
        task = sysclone.start(waits, r)
        while not os.path.exists(f"/proc/{task.pid}/wchan") or "pipe" not in open(f"/proc/{task.pid}/wchan").read():
            time.sleep(0.001)
        faulthandler.dump_traceback(sys.stdout)
        os.write(w, b"x")
        task.result()
        print("later", flush=True)

        def called():
            while b"in called" not in os.pread(file.fileno(), 1 << 20, 0):
                time.sleep(0.05)

        with tempfile.TemporaryFile() as file:
            faulthandler.dump_traceback_later(0.05, repeat=True, file=file)
            sysclone.call(called)
            faulthandler.cancel_dump_traceback_later()
            print(os.pread(file.fileno(), 1 << 20, 0).decode())
    """)
    inside, outside, later = re.split(r"^outside$|^later$", told, flags=re.MULTILINE)
    assert re.search(r"in innermost\n(?:.*\n)*.*in caller", inside)
    assert "in waits" in outside
    assert "Timeout" in later and re.search(r"in called\n(?:.*\n)*.*in <module>", later)


def test_faulthandler_leaves_crashes_to_the_creator():
    """With faulthandler enabled a function that crashes is told of as without, and a crash of the program is dumped."""
    told = in_subprocess(
        """
        import ctypes, faulthandler, sys, sysclone
        faulthandler.enable(sys.stdout)
        for _ in range(3):
            try:
                sysclone.call(ctypes.string_at, 8)
            except sysclone.TaskKilled as error:
                assert error.signal == 11
        assert faulthandler.is_enabled()
        print("alive", flush=True)
        ctypes.string_at(8)
        """,
        status=-11,
    )
    before, after = told.split("alive")
    assert "Fatal" not in before
    assert "Segmentation fault" in after


def test_tracemalloc_counts_what_functions_allocate():
    """Blocks that a function made are found under its lines, and deaths in its midst do not stop that."""

    def allocates():
        return [bytearray(1000) for _ in range(50)]

    def dies():
        _kept = allocates()
        os._exit(3)

    tracemalloc.start(5)
    try:
        for _ in range(20):
            with pytest.raises(TaskExited):
                sysclone.call(dies)
        kept = [sysclone.call(allocates), LIGHT.start(allocates).result()]
        line = allocates.__code__.co_firstlineno + 1
        statistics = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, __file__, line)])
        assert sum(one.size for one in statistics.statistics("lineno")) >= len(kept) * 50 * 1000
    finally:
        tracemalloc.stop()


# --- trace functions, profilers, coverage


@contextlib.contextmanager
def traced(where: object, function: object) -> Iterator[None]:
    """With a trace function set in this thread (sys) or those to come (threading), and this test's own put back."""
    before = where.gettrace()  # type: ignore[attr-defined]
    where.settrace(function)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        where.settrace(before)  # type: ignore[attr-defined]


def test_a_trace_function_sees_a_call():
    """sys.settrace's function is told of the lines of a function that is called, and of its end, also where it dies."""
    seen = []

    def trace(frame, event, argument):
        if frame.f_code.co_filename == __file__:
            seen.append((event, frame.f_code.co_name))
        return trace

    def inner():
        return 1

    def dies():
        inner()
        os._exit(3)

    with traced(sys, trace):
        sysclone.call(inner)
        with contextlib.suppress(TaskExited):
            sysclone.call(dies)
        inner()

    whole = [("call", "inner"), ("line", "inner"), ("return", "inner")]
    names = [one for one in seen if one[1] in ("inner", "dies")]
    assert names == [
        *whole,
        *[("call", "dies"), ("line", "dies"), *whole, ("line", "dies"), ("return", "dies")],
        *whole,
    ]


@pytest.mark.parametrize("verb", ["start", "call in time"])
def test_a_trace_function_of_threads_sees_a_helper(verb):
    """threading.settrace's function is set in functions on helper threads, and gone from there afterwards."""
    seen = []

    def trace(frame, event, argument):
        seen.append((event, frame.f_code.co_name))
        return trace

    def inner():
        return sys.gettrace()

    def run(fn):
        if verb == "start":
            with LIGHT.start(fn) as task:
                return task.result()
        return LIGHT.replace(timeout=20).call(fn)

    with traced(threading, trace):
        assert run(inner) is trace
        with pytest.raises(TaskExited):
            run(lambda: os._exit(3))
    seen_then = list(seen)
    assert run(inner) is None
    run(lambda: sys.settrace(trace))
    assert run(inner) is None

    assert [one for one in seen_then if one[1] == "inner"] == [
        ("call", "inner"),
        ("line", "inner"),
        ("return", "inner"),
    ]
    assert seen == seen_then


def test_a_trace_function_may_end_the_process():
    """A function that dies in a trace function's own code leaves tracing in order."""
    seen = []

    def trace(frame, event, argument):
        if frame.f_code.co_name == "dies":
            os._exit(3)
        if frame.f_code.co_name == "lives":
            seen.append(event)
        return trace

    def dies():
        return 1

    def lives():
        return 1

    with traced(sys, trace):
        for _ in range(3):
            with contextlib.suppress(TaskExited):
                sysclone.call(dies)
        lives()

    assert seen == ["call", "line", "return"]


def test_profile_functions_see_a_call():
    """sys.setprofile's function is told of calls and returns, in pairs, also where a function died."""
    depth = {}

    def profile(frame, event, argument):
        if event in ("call", "return") and frame.f_code.co_filename == __file__:
            name = frame.f_code.co_name
            depth[name] = depth.get(name, 0) + (1 if event == "call" else -1)

    def lives():
        return 1

    def dies():
        os._exit(3)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        sysclone.call(lives)
        with contextlib.suppress(TaskExited):
            sysclone.call(dies)
    finally:
        sys.setprofile(before)

    assert depth == {"lives": 0, "dies": 0}


if sys.version_info >= (3, 12):

    def test_monitoring_sees_functions():
        """sys.monitoring's callbacks are called for functions in light processes of each kind."""
        in_subprocess("""
            import os, sys, sysclone
            monitoring = sys.monitoring
            seen = []

            def works():
                return 1

            def dies():
                os._exit(3)

            monitoring.use_tool_id(1, "test")
            monitoring.register_callback(1, monitoring.events.PY_START, lambda code, at: seen.append(code.co_name))
            monitoring.set_events(1, monitoring.events.PY_START)
            for verb in (sysclone.call, lambda fn: sysclone.start(fn).result()):
                verb(works)
                try:
                    verb(dies)
                except sysclone.TaskExited:
                    pass
            verb(works)
            names = [name for name in seen if name in ("works", "dies")]
            assert names == ["works", "dies", "works", "dies", "works"], names
        """)


def test_cprofile_counts_calls():
    """cProfile attributes a function's calls to it, and goes on after one that died."""
    in_subprocess("""
        import cProfile, os, pstats, sysclone

        def works():
            return sum(range(1000))

        def dies():
            os._exit(3)

        profile = cProfile.Profile()
        profile.enable()
        for _ in range(5):
            sysclone.call(works)
            try:
                sysclone.call(dies)
            except sysclone.TaskExited:
                pass
        profile.disable()
        calls = {name: row[0] for (_, _, name), row in pstats.Stats(profile).stats.items()}
        assert calls["works"] == 5, calls
    """)


MEASURED = """
import os
import sysclone


def called():
    a = 1
    return a


def started():
    b = 1
    return b


def in_time():
    c = 1
    return c


def dies():
    os._exit(3)


for _ in range(2):
    sysclone.call(called)
    sysclone.start(started).result()
    sysclone.Context.light().replace(timeout=20).call(in_time)
    for verb in (sysclone.call, lambda fn: sysclone.start(fn).result()):
        try:
            verb(dies)
        except sysclone.TaskExited:
            d = 1
e = 1
"""


@pytest.mark.parametrize("core", ["pytrace", "ctrace", *(["sysmon"] if sys.version_info >= (3, 12) else [])])
def test_coverage_measures_functions(core, tmp_path):
    """Each line of functions in light processes counts as run, and the lines after a function that died do too."""
    (tmp_path / "measured.py").write_text(MEASURED)
    (tmp_path / "run.py").write_text(
        textwrap.dedent(f"""
            import coverage, runpy
            measuring = coverage.Coverage(data_file=None, include=["*/measured.py"])
            measuring.set_option("run:core", {core!r})
            measuring.start()
            runpy.run_path({str(tmp_path / "measured.py")!r})
            measuring.stop()
            _, lines, _, missing, _ = measuring.analysis2({str(tmp_path / "measured.py")!r})
            assert len(lines) > 20 and not missing, (lines, missing)
        """)
    )
    told_by(sys.executable, "-W", "error", tmp_path / "run.py")


def test_a_killed_function_ends_for_its_tracer(tmp_path):
    """A function that a signal ends in the middle of its frames is told of as ended, frame by frame, inner ones first."""
    seen = []

    def trace(frame, event, argument):
        if event == "return":
            seen.append(frame.f_code.co_name)
        return trace

    def inner():
        os.kill(os.getpid(), 9)

    def outer():
        inner()

    with traced(sys, trace):
        try:
            sysclone.call(outer)
        except TaskKilled:
            pass

    assert [name for name in seen if name in ("inner", "outer")] == ["inner", "outer"]
