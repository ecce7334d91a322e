"""The rows of declared steps: all that need no privilege, a sandbox of namespaces, and birth in a cgroup."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from harness import Row, Side, floor, python
from rows_programs import OWN, PLAIN, TRUE, nothing

import sysclone
from sysclone import Capabilities, Context, Landlock, Mount, Namespace, SeccompFilter

APART_SECONDS = 0.04
# Until its input ends: one that is gone before the move cannot be moved.
STAYS = ("/bin/cat",)
# As bwrap's users write it: the whole of the root, a /proc of its own.
BWRAP = ("--unshare-user", "--unshare-pid", "--uid", "0", "--gid", "0", "--dev-bind", "/", "/", "--proc", "/proc")


# --- every declared step that needs no privilege


@functools.cache
def steps() -> Context:
    """Every field that is done in the child and needs no privilege, but for the two filters."""
    return Context(
        cwd="/", umask=0o77, session=True,
        limits={"NOFILE": (256, None), "CORE": (0, None), "AS": (1 << 40, None)},
        nice=1, scheduling="batch", affinity=os.sched_getaffinity(0), io_priority=("best-effort", 5),
        oom_score_adj=500, timer_slack_ns=60_000, memory_policy="local", parent_death_signal=9,
        signal_mask=[10], ignored_signals=[12], default_signals=[13], personality=0, keyring=True,
        fds={5: os.open(os.devnull, os.O_RDONLY), 6: 2}, environment={"PATH": "/usr/bin:/bin"}, argv0="truth",
        uid=os.getuid(), gid=os.getgid(), capabilities=Capabilities(inheritable=(), ambient=()), no_new_privs=True,
        setup=nothing,
    )  # fmt: skip


@functools.cache
def filtered() -> Context:
    """Those with Landlock and seccomp, which slow down every call that the program makes itself."""
    filters = SeccompFilter("allow", {("socket", "socketpair"): "EACCES"})
    return steps().replace(landlock=Landlock(read=["/"]), seccomp=filters)


def steps_ours() -> None:
    """A program with all steps."""
    sysclone.Popen([TRUE], context=steps()).wait()


def filtered_ours() -> None:
    """A program with all steps and filters."""
    sysclone.Popen([TRUE], context=filtered()).wait()


def user_theirs() -> None:
    """One step by subprocess."""
    subprocess.Popen([TRUE], **OWN).wait()


def preexec_theirs() -> None:
    """No step but a function, by subprocess."""
    subprocess.Popen([TRUE], preexec_fn=nothing).wait()


# --- user, mount and pid namespaces, id maps, /proc


@functools.cache
def sandbox() -> Context:
    """What `unshare -Urpf --mount-proc` makes."""
    namespaces = Namespace.USER | Namespace.MOUNT | Namespace.PID
    return Context(new=namespaces, uid_map="root", gid_map="root", mounts=[Mount.proc()])


def sandbox_ours() -> None:
    """A program in a sandbox."""
    succeeded(sysclone.Popen([TRUE], context=sandbox()).wait())


def unshare_theirs() -> None:
    """The same by unshare(1)."""
    succeeded(subprocess.Popen([peer("unshare", "util-linux"), "-Urpf", "--mount-proc", TRUE]).wait())


def bwrap_theirs() -> None:
    """The same by bubblewrap."""
    succeeded(subprocess.Popen([peer("bwrap", "bubblewrap"), *BWRAP, TRUE]).wait())


def succeeded(code: int) -> None:
    """A sandbox that was refused is quick."""
    if code:
        raise RuntimeError(f"the program ended with {code}")


@functools.cache
def peer(name: str, package: str) -> str:
    """The path of a peer's program."""
    path = shutil.which(name)
    if path is None:
        raise FileNotFoundError(f"no {name} here; in Debian it is in the package {package}")
    return path


# --- a cgroup


def hierarchy() -> Path:
    """Where cgroups of version 2 are mounted."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _device, place, kind, *_rest = line.split(" ")
        if kind == "cgroup2":
            return Path(place)
    raise FileNotFoundError("no cgroup hierarchy of version 2 is mounted here")


def apart(label: str, operation: Callable[[Path], object]) -> Side:
    """A side whose operations get a new cgroup each batch, and are APART_SECONDS apart.

    Moves that follow each other closely are quick: the kernel waits for readers of its lock at the first alone.
    """

    def batch(n: int) -> list[int]:
        cgroup = hierarchy() / f"sysclone-bench-{os.getpid()}"
        cgroup.mkdir()
        try:
            each = []
            for _ in range(n):
                time.sleep(APART_SECONDS)
                start = time.perf_counter_ns()
                operation(cgroup)
                each.append(time.perf_counter_ns() - start)
            return each
        finally:
            cgroup.rmdir()

    return Side(label, batch)


def born_ours(cgroup: Path) -> None:
    """A program that is born there."""
    with sysclone.Popen(STAYS, stdin=subprocess.PIPE, context=Context(cgroup=cgroup)):
        pass


def moved_theirs(cgroup: Path) -> None:
    """A program that is moved there when it runs already, as who has subprocess does it."""
    with subprocess.Popen(STAYS, stdin=subprocess.PIPE) as process:
        (cgroup / "cgroup.procs").write_text(str(process.pid))


STEPS = python("Popen(every step)", steps_ours)
SANDBOX = python("Popen(user, mount, pid, maps, /proc)", sandbox_ours)

ROWS = (
    Row("steps-plain", STEPS, PLAIN, target=1.5, flat=1.2, batch_ms=5),
    Row("steps-filtered", python("Popen(and filters)", filtered_ours), PLAIN, target=1.5, flat=1.2, batch_ms=5),
    Row("steps-user-peer", STEPS, python("subprocess, user=", user_theirs), batch_ms=5),
    Row("steps-preexec-peer", STEPS, python("subprocess, preexec_fn=", preexec_theirs), batch_ms=5),
    Row(
        "sandbox-floor",
        SANDBOX,
        floor("the same in C", "sc_floors_sandbox", TRUE.encode()),
        target=1.8,
        flat=1.2,
        batch_ms=20,
    ),
    Row("sandbox-unshare", SANDBOX, python("unshare -Urpf --mount-proc", unshare_theirs), target=1.0, batch_ms=20),
    Row("sandbox-bwrap", SANDBOX, python("bwrap", bwrap_theirs), target=1.0, batch_ms=20),
    Row("cgroup-born", apart("Popen(cgroup)", born_ours), apart("cgroup.procs", moved_theirs), target=1.0),
)
