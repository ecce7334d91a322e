"""The rows of programs: Popen against subprocess's, plain and with what makes subprocess copy its memory."""

from __future__ import annotations

import os
import subprocess

from harness import Row, python

import sysclone

TRUE = "/bin/true"
# One's own ids need no privilege, and make subprocess fork all the same.
OWN = {"user": os.getuid(), "group": os.getgid()}


def nothing() -> None:
    """The preexec_fn."""


def plain_ours() -> None:
    """A program by Popen."""
    sysclone.Popen([TRUE]).wait()


def plain_theirs() -> None:
    """The same by subprocess."""
    subprocess.Popen([TRUE]).wait()


def user_ours() -> None:
    """A program with ids."""
    sysclone.Popen([TRUE], **OWN).wait()


def user_theirs() -> None:
    """The same by subprocess."""
    subprocess.Popen([TRUE], **OWN).wait()


def preexec_ours() -> None:
    """A program with a preexec_fn."""
    sysclone.Popen([TRUE], preexec_fn=nothing).wait()


def preexec_theirs() -> None:
    """The same by subprocess."""
    subprocess.Popen([TRUE], preexec_fn=nothing).wait()


PLAIN = python("sysclone.Popen", plain_ours)
USER = python("Popen(user=, group=)", user_ours)
PREEXEC = python("Popen(preexec_fn=)", preexec_ours)

ROWS = (
    Row("popen-plain", PLAIN, python("subprocess.Popen", plain_theirs), target=1.0, noise=0.05, flat=1.2, batch_ms=5),
    Row("popen-user", USER, PLAIN, target=1.2, flat=1.2, batch_ms=5),
    Row("popen-user-peer", USER, python("subprocess, user=", user_theirs), target=1.0, noise=0.05, batch_ms=5),
    Row("popen-preexec", PREEXEC, PLAIN, target=1.5, flat=1.2, batch_ms=5),
    Row(
        "popen-preexec-peer",
        PREEXEC,
        python("subprocess, preexec_fn=", preexec_theirs),
        target=1.0,
        noise=0.05,
        batch_ms=5,
    ),
)
