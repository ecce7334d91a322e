"""Runs one module of CPython's own tests, noting each test in a journal as tests/conftest.py does.

Started by tools/test_cpython.py, in an interpreter where the replacement is in place (tools/cpython_replace.py).
"""

from __future__ import annotations

import json
import os
import sys
import time
import unittest
from typing import Any


class Result(unittest.TextTestResult):
    """Notes the begin and the outcome of each test and sub-test at once, so that who watches learns where a run hangs."""

    journal = ""

    def note(self, **fields: Any) -> None:
        """Add a line to the journal."""
        with open(self.journal, "a") as file:
            file.write(json.dumps(fields | {"at": time.monotonic()}) + "\n")

    def outcome(self, test: Any, outcome: str, reason: str = "") -> None:
        """Note what came of a test, or of a sub-test that did not pass."""
        self.note(test=name_of(test), outcome=outcome, reason=reason)

    def startTest(self, test: Any) -> None:
        """Note that a test begins."""
        self.note(begin=name_of(test))
        super().startTest(test)

    def addSuccess(self, test: Any) -> None:
        """Note that it passed."""
        self.outcome(test, "passed")
        super().addSuccess(test)

    def addError(self, test: Any, err: Any) -> None:
        """Note that it failed."""
        self.outcome(test, "failed")
        super().addError(test, err)

    def addFailure(self, test: Any, err: Any) -> None:
        """Note that it failed."""
        self.outcome(test, "failed")
        super().addFailure(test, err)

    def addSkip(self, test: Any, reason: str) -> None:
        """Note that it was skipped."""
        self.outcome(test, "skipped", reason)
        super().addSkip(test, reason)

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        """Note that it failed as its author says."""
        self.outcome(test, "passed")
        super().addExpectedFailure(test, err)

    def addUnexpectedSuccess(self, test: Any) -> None:
        """Note that it passed where its author says it fails."""
        self.outcome(test, "failed")
        super().addUnexpectedSuccess(test)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        """Note that a sub-test failed."""
        if err is not None:
            self.outcome(subtest, "failed")
        super().addSubTest(test, subtest, err)


def name_of(test: Any) -> str:
    """'ProcessTestCase.test_poll', and for a sub-test what tells it apart after that."""
    inner = getattr(test, "test_case", None)
    if inner is None:
        return ".".join(test.id().split(".")[-2:])
    return f"{name_of(inner)} {test._subDescription()}"


def leave_out(tests: Any, names: set[str]) -> None:
    """Have the tests of these names skipped."""

    def left_out() -> None:
        raise AssertionError("it is run all the same")

    for test in tests:
        if isinstance(test, unittest.TestSuite):
            leave_out(test, names)
        elif name_of(test) in names:
            setattr(test, test._testMethodName, unittest.skip("left out")(left_out))


def main() -> int:
    """Run a module: its name, the journal, the resources that its tests may use, tests to leave out, patterns of those to run."""
    module, journal, resources, left_out, *patterns = sys.argv[1:]
    from test import support
    from test.support import os_helper

    # Never what takes gigabytes, a network or a screen.
    support.use_resources = resources.split(",")
    support.verbose = 1
    Result.journal = journal
    loader = unittest.TestLoader()
    loader.testNamePatterns = [f"*{pattern}*" for pattern in patterns] or None
    with os_helper.temp_cwd(f"sysclone-{os.getpid()}"):
        tests = loader.loadTestsFromName(module)
        leave_out(tests, set(left_out.split(",")))
        runner = unittest.TextTestRunner(resultclass=Result, verbosity=1, stream=sys.stdout)
        result = runner.run(tests)
        support.reap_children()
    result.note(end=0, ran=result.testsRun)
    return 0


if __name__ == "__main__":
    sys.exit(main())
