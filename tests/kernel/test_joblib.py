"""The joblib backend: closures, generators, deaths by name, limits."""

from __future__ import annotations

import importlib
import signal
import time

import pytest
from features import requires

import sysclone

pytestmark = [requires("joblib"), pytest.mark.filterwarnings("ignore:.*joblib.*"), pytest.mark.leaves("mappings")]


@pytest.fixture
def joblib():
    """joblib, with the backend registered."""
    import joblib

    importlib.import_module("sysclone.joblib")
    return joblib


def test_closures_in_order(joblib):
    """Results as of joblib's own backends; nothing is pickled on the way in."""
    factor = 3
    with joblib.parallel_config("sysclone", n_jobs=2):
        assert joblib.Parallel()(joblib.delayed(lambda i: i * factor)(i) for i in range(6)) == [0, 3, 6, 9, 12, 15]
        assert list(joblib.Parallel(return_as="generator")(joblib.delayed(abs)(-i) for i in range(4))) == [0, 1, 2, 3]


def test_a_death_is_told_by_name(joblib):
    """The run fails by the reason, and the next run works."""
    with joblib.parallel_config("sysclone", n_jobs=2):
        with pytest.raises(sysclone.TaskKilled, match="SIGKILL"):
            joblib.Parallel()(joblib.delayed(signal.raise_signal)(9) for _ in range(2))
        assert joblib.Parallel()(joblib.delayed(abs)(-i) for i in range(3)) == [0, 1, 2]


def test_options_are_the_executors(joblib):
    """A time limit ends a batch."""
    with joblib.parallel_config("sysclone", n_jobs=2, timeout=0.2), pytest.raises(sysclone.TaskTimeout):
        joblib.Parallel()(joblib.delayed(time.sleep)(60) for _ in range(2))


def test_parallel_in_parallel(joblib):
    """A batch that is parallel itself runs in sequence."""

    def inner(n):
        return sum(joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(-i) for i in range(n)))

    with joblib.parallel_config("sysclone", n_jobs=2):
        assert joblib.Parallel()(joblib.delayed(inner)(n) for n in range(4)) == [0, 0, 1, 3]
