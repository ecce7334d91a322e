"""Steps that cannot be done: each is an error of its own, by its name, and nothing is left; within every kind of task."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from typing import Any

import pytest
import seccomp
from features import NOBODY, requires
from helpers import in_subprocess
from steps_seen import KINDS, every_kind, refusal, the_creator_stays_as_it_is  # noqa: F401

from sysclone import (
    Capabilities,
    CloneError,
    Context,
    Mount,
    Namespace,
    Scheduling,
    Share,
    TaskExited,
    TaskKilled,
    run,
)

MISSING = "/nowhere/at/all"
BAD: list[tuple[dict[str, Any], str, int]] = [
    ({"cwd": MISSING}, f"chdir({MISSING})", errno.ENOENT),
    ({"cwd": "/etc/passwd"}, "chdir(/etc/passwd)", errno.ENOTDIR),
    ({"cwd": 1023}, "fchdir(1023)", errno.EBADF),
    ({"root": MISSING}, f"chroot({MISSING})", errno.ENOENT),
    ({"process_group": 1 << 22}, "setpgid(4194304)", errno.EPERM),
    ({"session": True, "controlling_terminal": "/dev/null"}, "ioctl(TIOCSCTTY, /dev/null)", errno.ENOTTY),
    ({"foreground": 1023}, "ioctl(TIOCSPGRP, 1023)", errno.EBADF),
    ({"affinity": [8000]}, "sched_setaffinity(8000)", errno.EINVAL),
    ({"memory_policy": ("bind", 900)}, "set_mempolicy(bind, 900)", errno.EINVAL),
    ({"limits": {"NOFILE": 1 << 40}}, f"prlimit(NOFILE, {1 << 40}:{1 << 40})", errno.EPERM),
]


@every_kind
def test_bad_values(kind):
    """Each step that cannot be done is an error of its own: the step with its argument, the errno, and the file."""
    for fields, step, code in BAD:
        error = refusal(kind, fields)
        assert (error.step, error.errno) == (step, code), fields
        if step.startswith("ch"):
            assert error.filename == step.partition("(")[2][:-1]
            assert "likely: " in error.hint


PRIVILEGED: list[tuple[dict[str, Any], str]] = [
    ({"root": "/tmp"}, "chroot(/tmp)"),
    ({"nice": -5}, "setpriority(-5)"),
    ({"scheduling": Scheduling("fifo", 1)}, "sched_setattr(fifo, 1)"),
    ({"io_priority": ("realtime", 0)}, "ioprio_set(realtime, 0)"),
    ({"limits": {"CORE": (0, 1)}}, "prlimit(CORE, 0:1)"),
]


@requires("nobody")
def test_no_privilege():
    """What needs privilege is refused to nobody, by name, with a hint that says which capability."""

    def as_nobody() -> list[tuple[str, str, int, str]]:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        found = []
        for kind in KINDS:
            for fields, _step in PRIVILEGED:
                error = refusal(kind, fields)
                found.append((kind, error.step, error.errno, error.hint))
        return found

    told = Context(uid=NOBODY, gid=NOBODY, groups=()).call(as_nobody)
    assert [step for _kind, step, _code, _hint in told] == [step for _fields, step in PRIVILEGED] * 3
    for _kind, step, code, hint in told:
        assert code in (errno.EPERM, errno.EACCES), step
        assert "CAP_" in hint, step


SECCOMP: list[tuple[str, dict[str, Any], int | None]] = [
    ("chdir", {"cwd": "/"}, None),
    ("setsid", {"session": True}, None),
    ("setpgid", {"process_group": 0}, None),
    ("prlimit64", {"limits": {"CORE": 0}}, None),
    ("setpriority", {"nice": 1}, None),
    ("sched_setattr", {"scheduling": "batch"}, None),
    ("sched_setaffinity", {"affinity": [0]}, None),
    ("ioprio_set", {"io_priority": "idle"}, None),
    ("set_mempolicy", {"memory_policy": "default"}, None),
    ("personality", {"personality": 0}, None),
    ("keyctl", {"keyring": True}, None),
    ("umask", {"umask": 0}, None),
    ("prctl", {"timer_slack_ns": 1}, 29),
    ("sethostname", {"new": Namespace.USER | Namespace.UTS, "hostname": "x"}, None),
    ("fchdir", {"cwd": 0}, None),
    ("chroot", {"root": "/"}, None),
    ("ioctl", {"foreground": 0}, None),
    ("rt_sigaction", {"ignored_signals": [signal.SIGHUP]}, None),
    ("setgroups", {"groups": ()}, None),
    ("setresgid", {"gid": 1}, None),
    ("setresuid", {"uid": 1}, None),
    ("capset", {"capabilities": Capabilities(inheritable=())}, None),
    ("prctl", {"capabilities": Capabilities(bounding=())}, 24),
    ("prctl", {"uid": 1, "securebits": 0}, 8),
    ("prctl", {"securebits": 0}, 28),
    ("prctl", {"no_new_privs": True}, 38),
    ("prctl", {"parent_death_signal": signal.SIGTERM}, 1),
    ("setdomainname", {"new": Namespace.USER | Namespace.UTS, "domainname": "x"}, None),
]
ODD = errno.EOWNERDEAD


@requires("seccomp")
def test_seccomp_refuses_a_step():
    """A step that a filter refuses is that step's error, for every kind of task."""

    def filtered() -> list[tuple[str, str, int]]:
        seccomp.deny(*(seccomp.Denial(call, ODD, 0 if first else None, first) for call, _fields, first in SECCOMP))
        errors = [
            (call, refusal(kind, fields))
            for kind in KINDS
            for call, fields, _first in SECCOMP
            if (kind, *fields) != ("light", "parent_death_signal")  # it has none
        ]
        return [(call, error.step, error.errno) for call, error in errors]

    told = Context().call(filtered)
    assert len(told) == len(SECCOMP) * len(KINDS) - 1
    for call, step, code in told:
        assert code == ODD, step
        assert step.startswith(call.removesuffix("64"))


def test_nothing_is_left_of_a_refused_start():
    """A refused start leaves no process, fd or thread, whichever kind it is: the fixture looks."""
    for _ in range(20):
        with pytest.raises(CloneError):
            run(["true"], context=Context(cwd=MISSING, nice=1), capture_output=True)
        for share in (Share(0), Share.VM):
            task = Context(share=share, cwd=MISSING, nice=1).start(os.getpid)
            with pytest.raises(CloneError), task:
                task.result(10)


@requires("user_namespaces")
def test_a_refused_light_call_with_maps_keeps_no_pidfd():
    """The exception of a light call with id maps does not keep its task alive."""
    context = Context(share=Share.VM, new=Namespace.USER, uid_map="root", cwd=MISSING)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        with pytest.raises(CloneError):
            context.call(os.getpid)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("end", "kind", "told"),
    [
        (lambda: os._exit(3), TaskExited, "exited with 3"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), TaskKilled, "killed by SIGKILL (9)"),
    ],
    ids=["exit", "kill"],
)
def test_a_setup_that_ends_the_child(end, kind, told):
    """A program whose setup ends the child is the TaskFailed that says how; of a preexec_fn it is the cause, as it has to be."""
    with pytest.raises(kind, match="within its set-up: no program was run") as caught:
        run(["true"], context=Context(setup=end))
    assert str(caught.value.status) == told
    with pytest.raises(subprocess.SubprocessError) as again:
        run(["true"], preexec_fn=end)
    assert str(again.value.__cause__.status) == told


@requires("user_namespaces", "mount_namespaces")
def test_hints_say_what_is_missing(tmp_path):
    """The part that is not there is told: of a bind its source, of an overlay a layer, of a root the directory."""
    (tmp_path / "there").mkdir()
    none, there = str(tmp_path / "none"), str(tmp_path / "there")
    for fields, told in (
        ({"mounts": Mount.bind(none, there)}, f"there is no {none}"),
        ({"mounts": Mount.overlay(there, lower=[there, none])}, f"lowerdir: there is no {none}"),
        ({"root": none}, f"there is no {none}"),
    ):
        error = refusal("program", {"new": Namespace.USER | Namespace.MOUNT, "uid_map": "root", **fields})
        assert told in error.hint.splitlines()[0], error
    proc = {"new": Namespace.USER | Namespace.MOUNT, "uid_map": "root", "mounts": Mount.proc()}
    assert "new=PID too" in refusal("program", proc).hint


@requires("nobody")
def test_an_oom_score_that_needs_privilege():
    """A lower oom_score_adj than before needs CAP_SYS_RESOURCE, and the hint says so."""
    out = in_subprocess(
        """
        import sysclone
        try:
            sysclone.run(["true"], context=sysclone.Context(oom_score_adj=-1000))
        except PermissionError as error:
            print(error)
        """,
        as_nobody=True,
    )
    assert "CAP_SYS_RESOURCE" in out
