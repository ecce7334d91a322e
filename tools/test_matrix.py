"""Runs the suite on every CPython from 3.11 on that this machine has, each with the built wheel, and sums up.

For each version: a virtual environment in build/venvs/, the wheel built from the source distribution and installed
there, then pytest under the watchdog. Three versions run at a time, each in a process of its own, since each watchdog takes
what is left running in its own for a failure. The last line is "N passed, N failed, N skipped", summed across versions.
The standard library is enough to run this file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import beside
import watchdog

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
OLDEST = (3, 11)
LOOK = """
import importlib.util as u, json, os, sys, sysconfig as s
print(json.dumps({
    "version": list(sys.version_info[:3]), "name": sys.implementation.name,
    "path": os.path.realpath(sys._base_executable),
    "no_gil": bool(s.get_config_var("Py_GIL_DISABLED")),
    "headers": os.path.exists(os.path.join(s.get_path("include"), "Python.h")),
    "pip": u.find_spec("ensurepip") is not None,
}))
"""
SOURCES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "src")
SWITCHES = ("SYSCLONE_WERROR", "SYSCLONE_ASAN", "CC", "CFLAGS")
NEEDS = re.compile(r"needs (\w+): ")


@dataclass(frozen=True, order=True)
class Interpreter:
    """A CPython to test with; problem says why it cannot be used."""

    version: tuple[int, int, int]
    path: str
    problem: str | None = None

    @property
    def minor(self) -> str:
        """As in "3.12"."""
        return f"{self.version[0]}.{self.version[1]}"

    @property
    def home(self) -> Path:
        """Its virtual environment."""
        return BUILD / "venvs" / self.minor

    @property
    def python(self) -> str:
        """The interpreter of its virtual environment."""
        return str(self.home / "bin" / "python")


@dataclass
class Result:
    """What came of one version."""

    interpreter: Interpreter
    seconds: float = 0.0
    passed: int = 0
    failed: int = 0
    xfailed: int = 0
    skips: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = f"{self.passed} passed, {self.failed} failed, {len(self.skips)} skipped"
        more = f", {self.xfailed} failed as expected" if self.xfailed else ""
        version = ".".join(map(str, self.interpreter.version))
        return f"CPython {version:<8} {counts}{more} in {self.seconds:.0f} s   {self.interpreter.path}"


# --- which interpreters


def candidates(first: str) -> Iterable[str]:
    """Where a CPython may be: the one asked for, those on PATH, those of Debian, those of pyenv."""
    yield first
    for name in ["python3", *(f"python3.{minor}" for minor in range(OLDEST[1], 16))]:
        for folder in [*os.environ.get("PATH", "").split(os.pathsep), "/usr/bin", "/usr/local/bin"]:
            yield os.path.join(folder or ".", name)
    for root in {os.environ.get("PYENV_ROOT", ""), os.path.expanduser("~/.pyenv"), "/root/.pyenv"} - {""}:
        try:
            yield from map(str, sorted(Path(root).glob("versions/*/bin/python3")))
        except OSError:
            continue


def look(path: str) -> Interpreter | None:
    """What an executable is, or None if it is no CPython for us to judge."""
    if not os.access(path, os.X_OK):
        return None
    try:
        done = subprocess.run([path, "-I", "-c", LOOK], capture_output=True, text=True, timeout=60, check=True, cwd="/")
        facts = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None  # a shim of pyenv for a version that is not switched on
    if tuple(facts["version"][:2]) < OLDEST or facts["name"] != "cpython":
        return None
    problem = (
        "built without a GIL" if facts["no_gil"]
        else "no Python.h (on Debian: python3-dev)" if not facts["headers"]
        else "no ensurepip (on Debian: python3-venv)" if not facts["pip"]
        else None
    )  # fmt: skip
    return Interpreter(tuple(facts["version"]), facts["path"], problem)


def find(first: str) -> list[Interpreter]:
    """One interpreter for each minor version: a usable one before others, then the newest."""
    best: dict[str, Interpreter] = {}
    seen: set[str] = set()
    for path in candidates(first):
        real = os.path.realpath(path)
        if real in seen and not os.path.basename(real).startswith("pyenv"):
            continue
        seen.add(real)
        found = look(path)
        if found is None:
            continue
        known = best.get(found.minor)
        if known is None or (found.problem is None, found.version) > (known.problem is None, known.version):
            best[found.minor] = found
    return sorted(best.values())


# --- the environments


def quietly(command: Sequence[str], **more: object) -> str:
    """Run a command that only speaks if it fails; returns what it wrote."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, **more)
    if done.returncode:
        print(f"$ {' '.join(command)}\n{done.stdout}", flush=True)
        raise SystemExit(f"test_matrix: {command[0]} left with {done.returncode}")
    return done.stdout


def prepare(interpreter: Interpreter) -> None:
    """Make the virtual environment with what the tests need, and install the wheel of these very sources."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    tools = [*project["build-system"]["requires"], *project["project"]["optional-dependencies"]["test"]]
    recipe = json.dumps([interpreter.path, interpreter.version, tools])
    stamp = interpreter.home / "recipe"
    if not stamp.exists() or stamp.read_text() != recipe:
        print(f"{interpreter.minor}: making {interpreter.home.relative_to(ROOT)}", flush=True)
        shutil.rmtree(interpreter.home, ignore_errors=True)
        quietly([interpreter.path, "-m", "venv", str(interpreter.home)])
        quietly([interpreter.python, "-m", "pip", "install", "-qq", *tools])
        stamp.write_text(recipe)
    install(interpreter)


def install(interpreter: Interpreter) -> None:
    """Build the wheel from the source distribution and install it, unless it is there."""
    digest = digest_of_sources()
    stamp = interpreter.home / "installed"
    if stamp.exists() and stamp.read_text() == digest:
        return
    print(f"{interpreter.minor}: building and installing the wheel", flush=True)
    stamp.unlink(missing_ok=True)
    wheels = BUILD / "wheels" / interpreter.minor
    shutil.rmtree(wheels, ignore_errors=True)
    pip = [interpreter.python, "-m", "pip"]
    quietly([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(sdist(interpreter, digest))])
    quietly([*pip, "install", "-qq", "--no-deps", "--force-reinstall", *map(str, wheels.glob("sysclone-*.whl"))])
    quietly([interpreter.python, "-I", "-c", "import sysclone._core as core; assert core.__file__"])
    stamp.write_text(digest)


def sdist(interpreter: Interpreter, digest: str) -> Path:
    """The source distribution, made once: what it forgets is missing from every wheel."""
    folder, stamp = BUILD / "sdist", BUILD / "sdist" / "digest"
    if not stamp.exists() or stamp.read_text() != digest:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        hook = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
        quietly([interpreter.python, "-c", hook])
        stamp.write_text(digest)
    return next(folder.glob("sysclone-*.tar.gz"))


def digest_of_sources() -> str:
    """A digest of all that goes into a wheel, and of the switches of the build."""
    total = hashlib.sha256(repr([os.environ.get(name) for name in SWITCHES]).encode())
    for source in SOURCES:
        path = ROOT / source
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            made = {".so", ".pyc"} & {file.suffix} or ".egg-info" in str(file)
            if file.is_file() and not made:
                total.update(f"{file.relative_to(ROOT)} {file.stat().st_size}\n".encode() + file.read_bytes())
    return total.hexdigest()


# --- the runs


def test(interpreter: Interpreter, options: argparse.Namespace, seconds: float, first: bool) -> Result:
    """Run the suite on one version under the watchdog."""
    print(f"\n--- CPython {'.'.join(map(str, interpreter.version))}", flush=True)
    path = BUILD / "test" / f"{interpreter.minor}.journal"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    journal = watchdog.Journal(path)
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    env = bare | {"SYSCLONE_TEST_JOURNAL": str(path), "PATH": f"{interpreter.home}/bin{os.pathsep}{os.environ['PATH']}"}
    if not first:
        # The kernel's verdict on the switches is the same for every CPython: asked for at length once.
        env.setdefault("SYSCLONE_VERDICT_CASES", "5000")
        env.setdefault("SYSCLONE_BROWSER_THEMES", "light")
        env.setdefault("SYSCLONE_CLUSTERS", "0")
    cache = f"cache_dir={BUILD / 'test' / f'cache-{interpreter.minor}'}"
    command = [interpreter.python, "-m", "pytest", "-q", "-o", cache, *options.pytest]
    begin = time.monotonic()
    outcome = watchdog.watch(command, env, journal, options.test_seconds, seconds)
    result = count(journal.entries, Result(interpreter, time.monotonic() - begin))
    judge(result, outcome, journal)
    return result


def count(entries: list[dict[str, object]], result: Result) -> Result:
    """Sum up a journal: a test is passed if no phase of it failed."""
    outcomes: dict[str, str] = {}
    for entry in entries:
        if "test" in entry:
            name, outcome = str(entry["test"]), str(entry["outcome"])
            if outcomes.get(name) != "failed":
                outcomes[name] = outcome
            if outcome == "skipped":
                result.skips[name] = str(entry["reason"])
    counted = list(outcomes.values())
    result.passed, result.failed = counted.count("passed"), counted.count("failed")
    result.xfailed = counted.count("xfailed")
    return result


def judge(result: Result, outcome: watchdog.Outcome, journal: watchdog.Journal) -> None:
    """Count as failures what pytest cannot report itself."""
    if outcome.killed:
        result.faults.append(outcome.killed)
    elif not any("end" in entry for entry in journal.entries):
        running = journal.running()
        result.faults.append(f"pytest died with {outcome.exit_code} in {running[0] if running else 'no test'}")
    elif outcome.exit_code == 5:
        result.faults.append("no test was run")
    elif outcome.exit_code and not result.failed:
        result.faults.append(f"pytest left with {outcome.exit_code}")
    result.faults += [f"left running after the suite: {stray}" for stray in outcome.strays]
    for name, reason in result.skips.items():
        if not NEEDS.match(reason):
            result.faults.append(f"{name} was skipped without a probe: {reason}")
    result.failed += len(result.faults)


def beside_others(interpreters: list[Interpreter], options: argparse.Namespace, begin: float) -> list[Result]:
    """Run several versions at a time; what each prints is shown when it has ended."""
    starts = [partial(start_beside, one, options, begin, first=one is interpreters[0]) for one in interpreters]
    results = {}
    for place, exit_code in beside.ended(options.jobs, starts):
        print(log_of(interpreters[place]).read_text(errors="replace"), end="", flush=True)
        results[place] = told(interpreters[place], exit_code)
    return [results[place] for place in range(len(interpreters))]


def start_beside(
    interpreter: Interpreter, options: argparse.Namespace, begin: float, first: bool
) -> subprocess.Popen[bytes]:
    """One version in a process of its own."""
    left = options.total_seconds - (time.monotonic() - begin)
    result_of(interpreter).unlink(missing_ok=True)
    command = [sys.executable, __file__, "--python", interpreter.path, "--only", interpreter.minor]
    command += [
        "--test-seconds",
        str(options.test_seconds),
        "--run-seconds",
        str(min(options.run_seconds, max(left, 1))),
    ]
    command += ["--result", str(result_of(interpreter)), *(["--first"] if first else []), "--", *options.pytest]
    with log_of(interpreter).open("wb") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)


def log_of(interpreter: Interpreter) -> Path:
    """Where a version that runs beside others prints."""
    path = BUILD / "test" / f"{interpreter.minor}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def result_of(interpreter: Interpreter) -> Path:
    """Where a version that runs beside others leaves its result."""
    return BUILD / "test" / f"{interpreter.minor}.result"


def told(interpreter: Interpreter, exit_code: int) -> Result:
    """The result that a version has left; that there is none is a failure."""
    try:
        fields = json.loads(result_of(interpreter).read_text())
    except (OSError, ValueError):
        return Result(interpreter, failed=1, faults=[f"the run of this version left with {exit_code} and no result"])
    return Result(interpreter, **fields)


def leave(result: Result, path: str) -> None:
    """Leave a result for who started this process."""
    fields = {name: value for name, value in vars(result).items() if name != "interpreter"}
    Path(path).write_text(json.dumps(fields))


def allowed_skips() -> list[tuple[str, str]]:
    """The lines of tests/allowed_skips.txt: the beginning of a test's id, and the feature that it may miss."""
    lines = (ROOT / "tests" / "allowed_skips.txt").read_text().splitlines()
    pairs = (line.split() for line in lines if line.strip() and not line.startswith("#"))
    return [(prefix, feature) for prefix, feature, *_ in pairs]


def check_skips(result: Result, allowed: list[tuple[str, str]]) -> None:
    """Make failures of the skips that are not on the list."""
    for name, reason in result.skips.items():
        found = NEEDS.match(reason)
        if found and not any(name.startswith(prefix) and found[1] == feature for prefix, feature in allowed):
            result.faults.append(f"a skip that tests/allowed_skips.txt does not allow: {name}: {reason}")
            result.failed += 1


def summarize(results: list[Result]) -> int:
    """Print each version's line, the skips and the faults, and the sum."""
    print("\n--- summary")
    reasons: dict[str, list[str]] = {}
    for result in results:
        print(result)
        for fault in result.faults:
            print(f"    {fault}")
        for name, reason in result.skips.items():
            reasons.setdefault(f"{name}: {reason}", []).append(result.interpreter.minor)
    for text, versions in reasons.items():
        print(f"skipped on {', '.join(versions)}: {text}")
    passed, failed = sum(result.passed for result in results), sum(result.failed for result in results)
    print(f"{passed} passed, {failed} failed, {sum(len(result.skips) for result in results)} skipped", flush=True)
    return 0 if passed and not failed else 1


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="test_matrix.py", description=__doc__)
    parser.add_argument("--python", default=sys.executable, help="an interpreter that must be usable")
    parser.add_argument("--only", default="", help="versions to keep to, as in 3.11,3.13")
    parser.add_argument("--list", action="store_true", help="say which interpreters there are, and leave")
    parser.add_argument("--prepare", action="store_true", help="make and fill the environments, and leave")
    parser.add_argument("--test-seconds", type=float, default=120, help="the limit of one test (default: 120)")
    parser.add_argument("--run-seconds", type=float, default=780, help="the limit of one version (default: 780)")
    parser.add_argument("--jobs", type=int, default=3, help="how many versions at a time (default: 3)")
    parser.add_argument("--result", help=argparse.SUPPRESS)
    parser.add_argument("--first", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--total-seconds", type=float, default=840, help="the limit of all (default: 840)")
    parser.add_argument(
        "--may-miss", default="", help="features that a machine of this kind lacks: kernel_threads,tmux"
    )
    parser.add_argument(
        "--strict-skips",
        action="store_true",
        default=os.environ.get("CI", "") not in ("", "0", "false"),
        help="allow only the skips of tests/allowed_skips.txt (the default if CI is set)",
    )
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    return parser.parse_args()


def choose(options: argparse.Namespace) -> list[Interpreter]:
    """The interpreters to use; those that cannot be are named."""
    asked = shutil.which(options.python) or options.python
    default = look(asked)
    if default is None or default.problem:
        raise SystemExit(f"test_matrix: {options.python}: {default.problem if default else 'no CPython from 3.11 on'}")
    found = find(asked)
    for interpreter in found:
        state = f"not usable: {interpreter.problem}" if interpreter.problem else "found"
        print(f"CPython {'.'.join(map(str, interpreter.version)):<8} {state}   {interpreter.path}")
    only = options.only.split(",") if options.only else [one.minor for one in found]
    usable = [one for one in found if one.minor in only and not one.problem]
    if not usable:
        raise SystemExit(f"test_matrix: no usable CPython among {', '.join(only) or 'none'}")
    return usable


def look_again(options: argparse.Namespace) -> Interpreter:
    """The one interpreter of a process that runs beside others."""
    found = look(options.python)
    if found is None:
        raise SystemExit(f"test_matrix: {options.python} is gone")
    return found


def main() -> int:
    """Test everything, and say what came of it."""
    options = arguments()
    interpreters = choose(options) if not options.result else [look_again(options)]
    if options.list:
        return 0
    begin = time.monotonic()
    if options.result:
        result = test(interpreters[0], options, options.run_seconds, first=options.first)
        leave(result, options.result)
        return 0
    for interpreter in interpreters:
        prepare(interpreter)
    if options.prepare:
        return 0
    if len(interpreters) > 1 and options.jobs > 1:
        results = beside_others(interpreters, options, begin)
    else:
        limit = min(options.run_seconds, options.total_seconds)
        results = [test(interpreter, options, limit, first=n == 0) for n, interpreter in enumerate(interpreters)]
    if options.strict_skips:
        for result in results:
            check_skips(result, [*allowed_skips(), *(("", name) for name in options.may_miss.split(","))])
    return summarize(results)


if __name__ == "__main__":
    sys.exit(main())
