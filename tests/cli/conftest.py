"""Fixtures that run the command line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from commandline import Started, run_command


@pytest.fixture
def sysclone() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs sysclone to its end."""
    return run_command


@pytest.fixture
def sysclone_json() -> Callable[..., Any]:
    """Runs sysclone with --json, and gives what it printed."""

    def run(verb: str, *words: str, **keywords: Any) -> Any:
        done = run_command(verb, "--json", *words, **keywords)
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def started() -> Iterator[Callable[..., Started]]:
    """Starts sysclone; what still runs at the end of the test is killed."""
    every: list[Started] = []

    def start(*words: str, **keywords: Any) -> Started:
        one = Started(words, **keywords)
        every.append(one)
        return one

    yield start
    for one in every:
        with one:
            pass
