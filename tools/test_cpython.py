"""Runs CPython's own tests with a part of the standard library replaced by sysclone's: the rows of tests/cpython/suites.toml.

For each row and version: an environment of its own in build/cpython/, which sees the wheel that tools/test_matrix.py
installs, and in which every Python has the replacement; then the module's tests under the watchdog, several rows and
versions at a time. What may fail stands in the row's list of exceptions with its reason; an exception that no longer fails
is a failure. Some rows are run on some versions, and some tests at all, with --full alone.
The last line is "N passed, N failed, N skipped", summed. The standard library is enough to run this file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import beside
import test_matrix
import watchdog

TOOLS = Path(__file__).resolve().parent
TABLE = test_matrix.ROOT / "tests" / "cpython"
HOME = test_matrix.BUILD / "cpython"


@dataclass(frozen=True)
class Suite:
    """A row of the table: see tests/cpython/suites.toml."""

    module: str
    versions: tuple[str, ...]
    always: tuple[str, ...]
    tests: tuple[str, ...]
    after: dict[str, str]
    proof: str
    exceptions: str
    test_seconds: float
    run_seconds: float

    @property
    def name(self) -> str:
        """As on the command line: test_subprocess."""
        return self.module.rpartition(".")[2]


@dataclass
class Run:
    """What came of one row on one version."""

    suite: Suite
    interpreter: test_matrix.Interpreter
    seconds: float = 0.0
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    excepted: int = 0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"
        more = f", {self.excepted} failed as listed" if self.excepted else ""
        version = ".".join(map(str, self.interpreter.version))
        return f"{self.suite.name} of CPython {version}: {counts}{more} in {self.seconds:.0f} s"


def suites() -> list[Suite]:
    """The rows of the table."""
    table = tomllib.loads((TABLE / "suites.toml").read_text())
    found = []
    for row in table["suite"]:
        lists = {name: tuple(row.pop(name, ())) for name in ("versions", "always", "tests")}
        found.append(Suite(**table["patches"][row.pop("patch")], **lists, **row))
    return found


def exceptions(suite: Suite, interpreter: test_matrix.Interpreter, kind: str = "exception") -> dict[str, str]:
    """The tests of a row that may fail on a version, or those that are left out there, with the reasons."""
    rows = tomllib.loads((TABLE / suite.exceptions).read_text()).get(kind, [])
    for row in rows:
        if not row.get("reason", "").strip():
            raise SystemExit(f"test_cpython: {suite.exceptions}: {row.get('test')} has no reason")
    # As in 3.13, and as in 3.13.0.
    names = {interpreter.minor, ".".join(map(str, interpreter.version))}
    return {row["test"]: row["reason"] for row in rows if names & set(row.get("versions", suite.versions))}


def has(suite: Suite, interpreter: test_matrix.Interpreter) -> bool:
    """Whether an interpreter came with its tests: Debian's has them in a package of their own."""
    if (TABLE / f"{suite.module}.py").exists():
        return True
    code = f"import importlib.util as u, sys; sys.exit(u.find_spec({suite.module!r}) is None)"
    return subprocess.run([interpreter.path, "-I", "-c", code], timeout=60).returncode == 0


def prepare(suite: Suite, interpreter: test_matrix.Interpreter, plain: bool) -> str:
    """An environment that sees the installed wheel and has the replacement in every Python; answers its interpreter."""
    home = HOME / f"{suite.name}-{interpreter.minor}{'-plain' if plain else ''}"
    shutil.rmtree(home, ignore_errors=True)
    test_matrix.quietly([interpreter.path, "-m", "venv", "--without-pip", str(home)])
    packages = Path("lib", f"python{interpreter.minor}", "site-packages")
    shutil.copy(TOOLS / "cpython_replace.py", home / packages)
    lines = [str(interpreter.home / packages), str(TABLE)]
    if not plain:
        lines += [f"import cpython_replace; cpython_replace.after({one!r}, {do!r})" for one, do in suite.after.items()]
    (home / packages / "replace.pth").write_text("\n".join(lines) + "\n")
    return str(home / "bin" / "python")


def check_replaced(suite: Suite, python: str) -> None:
    """Fail where the replacement is not in place: everything would pass."""
    code = f"import sys, {next(iter(suite.after))}; sys.exit(not ({suite.proof}))"
    if subprocess.run([python, "-I", "-c", code], timeout=60).returncode:
        raise SystemExit(f"test_cpython: {suite.name}: {python} has not the replacement")


def run(suite: Suite, interpreter: test_matrix.Interpreter, options: argparse.Namespace) -> Run:
    """Run one row on one version under the watchdog."""
    print(f"\n--- {suite.name} of CPython {'.'.join(map(str, interpreter.version))}", flush=True)
    if not has(suite, interpreter):
        print(
            f"{interpreter.path} has no {suite.module} (on Debian: libpython{interpreter.minor}-testsuite)", flush=True
        )
        strict = os.environ.get("CI", "") not in ("", "0", "false")
        return Run(
            suite, interpreter, skipped=1, faults=["it is not here, and this is CI"] if strict else [], failed=strict
        )
    python = prepare(suite, interpreter, options.plain)
    if not options.plain:
        check_replaced(suite, python)
    path = HOME / f"{suite.name}-{interpreter.minor}.journal"
    path.unlink(missing_ok=True)
    journal = watchdog.Journal(path)
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    # Without -I: test_subprocess starts Pythons that find their tests beside the one that runs.
    command = [python, "-W", "default", str(TOOLS / "cpython_inside.py"), suite.module, str(path)]
    left_out = exceptions(suite, interpreter, "left_out")
    command += ["cpu,walltime" if options.full else "none", ",".join(left_out), *(options.tests or suite.tests)]
    begin = time.monotonic()
    outcome = watchdog.watch(command, env, journal, suite.test_seconds, min(suite.run_seconds, options.total_seconds))
    result = Run(suite, interpreter, time.monotonic() - begin)
    judge(result, outcome, journal, exceptions(suite, interpreter), whole=not options.tests)
    check_left_out(result, journal, left_out)
    return result


def check_left_out(result: Run, journal: watchdog.Journal, left_out: dict[str, str]) -> None:
    """A test that is to be left out and was run, or is none, is a fault."""
    skipped = {str(entry["test"]) for entry in journal.entries if entry.get("reason") == "left out"}
    if any("end" in entry for entry in journal.entries):
        result.faults += [f"was not there to be left out: {name}" for name in sorted(set(left_out) - skipped)]
        result.failed = len(result.faults)


def judge(
    result: Run, outcome: watchdog.Outcome, journal: watchdog.Journal, listed: dict[str, str], whole: bool
) -> None:
    """Count the outcomes: what may fail, what failed, and what did not although it is listed."""
    outcomes: dict[str, str] = {}
    for entry in journal.entries:
        if "test" in entry:
            name = str(entry["test"])
            if outcomes.get(name) != "failed":
                outcomes[name] = str(entry["outcome"])
    failed = {name for name, told in outcomes.items() if told == "failed"}
    result.passed = sum(told == "passed" for told in outcomes.values())
    result.skipped = sum(told == "skipped" for told in outcomes.values())
    result.excepted = len(failed & set(listed))
    result.faults += [f"failed: {name}" for name in sorted(failed - set(listed))]
    for name in sorted(set(listed) - failed):
        told = outcomes.get(name.partition(" ")[0], "missing" if whole and not outcome.killed else "skipped")
        if told != "skipped":
            result.faults.append(f"does not fail, but {result.suite.exceptions} lists it: {name}")
    if outcome.killed:
        result.faults.append(outcome.killed)
    elif not any("end" in entry for entry in journal.entries):
        running = journal.running()
        result.faults.append(f"it died with {outcome.exit_code} in {running[0] if running else 'no test'}")
    if not result.passed:
        result.faults.append("nothing passed")
    result.faults += [f"left running after the suite: {stray}" for stray in outcome.strays]
    result.failed = len(result.faults)


# --- several at a time


Work = tuple[Suite, test_matrix.Interpreter]


def chosen(options: argparse.Namespace, interpreters: dict[str, test_matrix.Interpreter]) -> Iterator[Work]:
    """The rows with the versions that each is to be run on, those that may take longest first."""
    asked = options.suite.split(",") if options.suite else []
    for suite in sorted(suites(), key=lambda one: -one.run_seconds):
        if asked and suite.name not in asked:
            continue
        # Who names a row or a version wants it run.
        every = options.full or asked or options.only
        for minor in suite.versions if every else suite.always:
            if minor in interpreters:
                yield suite, interpreters[minor]


def run_all(works: list[Work], options: argparse.Namespace) -> list[Run]:
    """Run rows beside one another; what each prints is shown when it has ended."""
    begin = time.monotonic()
    runs = {}
    for place, exit_code in beside.ended(options.jobs, [partial(start_beside, one, options, begin) for one in works]):
        print(left_by(works[place], "log").read_text(errors="replace"), end="", flush=True)
        runs[place] = told(works[place], exit_code)
    return [runs[place] for place in range(len(works))]


def start_beside(work: Work, options: argparse.Namespace, begin: float) -> subprocess.Popen[bytes]:
    """One row on one version in a process of its own."""
    suite, interpreter = work
    left = max(options.total_seconds - (time.monotonic() - begin), 1)
    result = left_by(work, "result")
    result.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--python", interpreter.path, "--suite", suite.name, "--result", str(result)]
    command += ["--total-seconds", str(left), *(["--plain"] if options.plain else [])]
    command += [*(["--full"] if options.full else []), "--", *options.tests]
    with left_by(work, "log").open("wb") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)


def left_by(work: Work, suffix: str) -> Path:
    """A file that the run of one row on one version leaves."""
    HOME.mkdir(parents=True, exist_ok=True)
    return HOME / f"{work[0].name}-{work[1].minor}.{suffix}"


def told(work: Work, exit_code: int) -> Run:
    """The result that a run has left; that there is none is a failure."""
    try:
        fields = json.loads(left_by(work, "result").read_text())
    except (OSError, ValueError):
        return Run(*work, failed=1, faults=[f"its run left with {exit_code} and no result"])
    return Run(*work, **fields)


def run_one(options: argparse.Namespace) -> int:
    """The one row of a process that runs beside others."""
    suite = next(one for one in suites() if one.name == options.suite)
    result = run(suite, test_matrix.look_again(options), options)
    fields = {name: value for name, value in vars(result).items() if name not in ("suite", "interpreter")}
    Path(options.result).write_text(json.dumps(fields))
    return 0


def summarize(runs: list[Run]) -> int:
    """Print each run's line and faults, and the sum."""
    print("\n--- summary")
    for one in runs:
        print(one)
        for fault in one.faults:
            print(f"    {fault}")
    passed, failed = sum(one.passed for one in runs), sum(one.failed for one in runs)
    print(f"{passed} passed, {failed} failed, {sum(one.skipped for one in runs)} skipped", flush=True)
    return 1 if failed or not (passed or any(one.skipped for one in runs)) else 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="test_cpython.py", description=__doc__)
    parser.add_argument("--python", default=sys.executable, help="an interpreter that must be usable")
    parser.add_argument("--only", default="", help="versions to keep to, as in 3.11,3.13")
    parser.add_argument("--suite", default="", help="rows to keep to, as in test_subprocess")
    parser.add_argument(
        "--plain", action="store_true", help="without the replacement: what fails on this machine anyway"
    )
    parser.add_argument("--full", action="store_true", help="every row on each of its versions, and its slow tests")
    # They sleep for more than half of their time.
    parser.add_argument("--jobs", type=int, default=3, help="how many at a time (default: 3)")
    parser.add_argument(
        "--total-seconds", type=float, default=0, help="the limit of all (default: 480, with --full 1800)"
    )
    parser.add_argument("--result", help=argparse.SUPPRESS)
    parser.add_argument("tests", nargs="*", help="parts of the names of the tests to run, after --")
    return parser.parse_args()


def main() -> int:
    """Run every row on its versions, as far as they are here."""
    options = arguments()
    if options.result:
        return run_one(options)
    options.total_seconds = options.total_seconds or (1800 if options.full else 480)
    works = list(chosen(options, {one.minor: one for one in test_matrix.choose(options)}))
    for interpreter in {one for _, one in works}:
        test_matrix.prepare(interpreter)
    return summarize(run_all(works, options))


if __name__ == "__main__":
    sys.exit(main())
