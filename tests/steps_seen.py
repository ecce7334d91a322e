"""What the tests of declared steps have in common: a step's effect, seen from within, for every kind of task."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from features import raw

from sysclone import CloneError, Context, Share, run

KINDS = ("light", "copied", "program")
every_kind = pytest.mark.parametrize("kind", KINDS)
SYS_KEYCTL = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
KEY_SPEC_SESSION_KEYRING = -3
FILES = ("status", "limits", "stat", "oom_score_adj", "personality", "timerslack_ns")
_SCRIPT = "umask; readlink /proc/self/cwd; exec grep -H '' " + " ".join(f"/proc/self/{name}" for name in FILES)


def spawn(kind: str, fields: dict[str, Any], function: Callable[[], Any], program: list[str], **more: Any) -> Any:
    """Run a function in a light or copied process, or a program instead of it, and give its value or its output."""
    if kind == "program":
        return run(program, context=Context(**fields), stdout=subprocess.PIPE, text=True, check=True, **more).stdout
    share = fields.get("share", Share(0)) | (Share.VM if kind == "light" else Share(0))
    return Context(**{**fields, "share": share}).call(function)


def seen(kind: str, fields: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What /proc says of a task with these fields, from within."""
    text = spawn(kind, fields, _look, ["/bin/sh", "-c", _SCRIPT], **more)
    umask, cwd, *rest = text.splitlines()
    found: dict[str, Any] = {"umask": int(umask, 8), "cwd": cwd}
    for line in rest:
        path, _, value = line.partition(":")
        name = os.path.basename(path)
        if name == "status":
            key, _, value = value.partition(":")
            found[key] = value.strip()
        elif name == "limits":
            words = re.split(r"  +", value.strip())
            if len(words) > 2:
                found[words[0]] = (words[1], words[2])
        elif name == "stat":
            found["stat"] = stat = value.rpartition(")")[2].split()
            found |= {"pgrp": int(stat[2]), "session": int(stat[3]), "nice": int(stat[16]), "policy": int(stat[38])}
            found |= {"priority": int(stat[37]), "pid": int(value.split()[0])}
        else:
            found[name] = value.strip()
    return found


def _look() -> str:
    umask = os.umask(0)
    os.umask(umask)
    lines = [f"{umask:o}", os.readlink("/proc/self/cwd")]
    for name in FILES:
        with open(f"/proc/self/{name}") as file:
            lines += [f"/proc/self/{name}:{line}" for line in file.read().splitlines()]
    return "\n".join(lines)


def refusal(kind: str, fields: dict[str, Any]) -> CloneError:
    """The error of a task with these fields, which must be refused."""
    try:
        spawn(kind, fields, os.getpid, ["/bin/true"])
    except CloneError as error:
        return error
    raise AssertionError(f"{kind}: {fields} was not refused")


@pytest.fixture(autouse=True)
def the_creator_stays_as_it_is() -> Iterator[None]:
    """Whatever a task declares, nothing of this process changes."""

    def state() -> list[Any]:
        names = ("limits", "oom_score_adj", "personality", "timerslack_ns")
        files = [Path("/proc/self", name).read_text() for name in names]
        umask = os.umask(0)
        os.umask(umask)
        ids = (os.getsid(0), os.getpgid(0), os.getresuid(), os.getresgid(), os.getgroups())
        places = (os.getcwd(), os.readlink("/proc/self/root"), os.uname().nodename, os.getpriority(os.PRIO_PROCESS, 0))
        scheduling = (os.sched_getaffinity(0), os.sched_getscheduler(0), signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        return [files, umask, ids, places, scheduling, raw(SYS_KEYCTL, 0, KEY_SPEC_SESSION_KEYRING, 0)]

    before = state()
    yield
    assert state() == before
