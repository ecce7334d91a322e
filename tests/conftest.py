"""What surrounds every test: its needs are probed before, and what it left behind is looked for after."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import features
import leftovers
import pytest

# numpy's OpenBLAS would start a thread for each core when a file of tests imports it, and a program with threads is
# another case for fork: in every test that comes after.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

JOURNAL = os.environ.get("SYSCLONE_TEST_JOURNAL")
"""A file to note each test's begin and outcome in, at once: who watches from outside learns where a run hangs."""

# A cluster takes long to come up, and Dask is the same on every CPython: once is enough. What it leaves in a program
# (threads, loops, picklers) stays, so its tests are in an interpreter of their own: test_clusters.py.
CLUSTERS = os.environ.get("SYSCLONE_CLUSTERS")
collect_ignore = (
    [] if CLUSTERS == "inside" else ["cluster"] if CLUSTERS != "0" else ["cluster", "kernel/test_clusters.py"]
)


def note(**fields: Any) -> None:
    """Add a line to the journal. The file is opened each time: an fd kept open would be another one in every test."""
    if JOURNAL:
        with Path(JOURNAL).open("a") as file:
            file.write(json.dumps(fields | {"at": time.monotonic()}) + "\n")


def pytest_runtest_logstart(nodeid: str) -> None:
    """Tell the journal which test begins."""
    note(begin=nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Tell the journal what came of a phase of a test."""
    if report.when == "call" or report.outcome != "passed":
        outcome = "xfailed" if hasattr(report, "wasxfail") and report.skipped else report.outcome
        note(test=report.nodeid, when=report.when, outcome=outcome, reason=reason(report))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Tell the journal of files that could not be read or that skip themselves."""
    if report.outcome != "passed":
        note(test=report.nodeid, when="collect", outcome=report.outcome, reason=reason(report))


def pytest_sessionfinish(exitstatus: int) -> None:
    """Tell the journal that the run came to its end."""
    note(end=int(exitstatus))


def reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why something was skipped."""
    if report.skipped and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return ""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine cannot do, before any fixture acts."""
    for mark in item.iter_markers("needs"):
        for feature in mark.args:
            missing = features.why_not(feature)
            if missing:
                pytest.skip(f"needs {feature}: {missing}")


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves fds, children, threads, mappings or blocked signals behind, and name them."""
    allowed = {kind for mark in request.node.iter_markers("leaves") for kind in mark.args}
    before = leftovers.look()
    yield
    left = leftovers.settle(before, allowed)
    signal.pthread_sigmask(signal.SIG_SETMASK, before.blocked)  # or no test after this one would have a time limit
    if left:
        pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture
def adopts_nobody() -> Iterator[None]:
    """This process is no subreaper afterwards: another test's orphans would become its children."""
    yield
    assert ctypes.CDLL(None).prctl(36, 0, 0, 0, 0) == 0
