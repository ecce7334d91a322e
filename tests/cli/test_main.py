"""The command itself: verbs, help, wrong options, and output that nobody reads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import sysclone as package
from sysclone.cli import VERBS

IMPORTED = """
import sys
from sysclone.cli import main
status = main(sys.argv[1:])
print(*sorted(name for name in sys.modules if name.startswith("sysclone.cli.") or name in {"rich", "json", "ctypes", "shutil"}))
"""


def test_version(sysclone):
    """--version prints the package's version."""
    done = sysclone("--version")

    assert (done.returncode, done.stdout) == (0, f"sysclone {package.__version__}\n")


def test_help_lists_every_verb(sysclone):
    """--help names each verb with what it is for."""
    done = sysclone("--help")

    assert done.returncode == 0
    words = " ".join(done.stdout.split())
    assert [verb for verb, what in VERBS.items() if f"{verb} {what}" not in words] == []


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help(sysclone, verb):
    """Each verb explains its options and its exit statuses."""
    done = sysclone(verb, "--help")

    assert done.returncode == 0
    assert "exit status:" in done.stdout
    assert done.stderr == ""


def test_no_verb_is_a_failure(sysclone):
    """Without a verb the help goes to standard error, and the exit status is 125."""
    done = sysclone()

    assert done.returncode == 125
    assert done.stdout == ""
    assert "usage: sysclone" in done.stderr


def test_unknown_verb(sysclone):
    """A verb that does not exist is answered with the one that resembles it."""
    done = sysclone("explian", "VM")

    assert done.returncode == 125
    assert "did you mean explain?" in done.stderr


@pytest.mark.parametrize("words", [["--nonsense"], ["run", "--nonsense"], ["explain"], ["demo", "more"]])
def test_wrong_options(sysclone, words):
    """Wrong options leave with 125, as of env and timeout, since 2 may be the program's own."""
    done = sysclone(*words)

    assert done.returncode == 125
    assert "Traceback" not in done.stderr
    assert "try: sysclone" in done.stderr


def test_only_the_verb_is_imported():
    """`run` loads no other verb's module, and nothing that only drawing needs."""
    command = [sys.executable, "-c", IMPORTED, "run", "true"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)

    assert done.stdout.split() == [
        "sysclone.cli._filter_options",
        "sysclone.cli._mount_words",
        "sysclone.cli._options",
        "sysclone.cli._process_options",
        "sysclone.cli._relay",
        "sysclone.cli._rights_options",
        "sysclone.cli._step_options",
        "sysclone.cli._tell",
        "sysclone.cli._words",
        "sysclone.cli.run",
    ]


@pytest.mark.parametrize("words", [["explain", "VM"], ["call", "os:getpid"], ["doctor", "--json"], ["demo", "--json"]])
def test_output_that_nobody_reads(sysclone, words):
    """A closed pipe as standard output ends it as SIGPIPE would, without a word."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = sysclone(*words, capture_output=False, stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)

    assert (done.returncode, done.stderr) == (141, "")


def test_output_in_a_poor_encoding(sysclone):
    """What the output's encoding has no letter for is spelled out."""
    done = sysclone("call", "builtins:chr", "960", env={**os.environ, "PYTHONIOENCODING": "ascii"})

    assert (done.returncode, done.stdout) == (0, "'\\u03c0'\n")


def test_module_and_script_are_one():
    """`python -m sysclone` runs the same main as the script."""
    import importlib.metadata

    scripts = importlib.metadata.entry_points(group="console_scripts", name="sysclone")
    assert [script.value for script in scripts] in ([], ["sysclone.cli:main"])
