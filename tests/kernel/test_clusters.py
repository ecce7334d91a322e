"""The tests of clusters, in an interpreter of their own: Dask leaves threads, loops and picklers in a program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from features import requires

ROOT = Path(__file__).parents[2]


@requires("dask")
@pytest.mark.timeout(115)
def test_clusters():
    """Everything in tests/cluster passes."""
    env = {**os.environ, "SYSCLONE_CLUSTERS": "inside"}
    env.pop("SYSCLONE_TEST_JOURNAL", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ROOT / "tests" / "cluster")]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=105, check=False)

    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
