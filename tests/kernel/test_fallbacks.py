"""What is done where the first choice fails, each made to fail by a seccomp filter in a process that is then given up."""

from __future__ import annotations

import pytest
from features import requires
from helpers import in_subprocess

pytestmark = requires("seccomp", "clone3")

PRELUDE = """
import errno, os, sys, threading, time, warnings
warnings.simplefilter("error")
import sysclone
from sysclone import Context, Namespace, Share, TaskExited, TaskLost
from helpers import state
from leftovers import children, look, settle
from seccomp import PIDFD_GET_INFO, Denial, deny
EVERYTHING = dict(
    call=lambda: sysclone.call(os.getppid),
    copied=lambda: Context().call(os.getppid),
    shared=lambda: Context(share=Share.FILES | Share.FS).call(os.getppid),
    thread=lambda: Context.thread().call(os.getpid),
    cleared=lambda: Context(clear_signal_handlers=True).call(os.getppid),
)
def exits(run):
    try:
        run(os._exit, 3)
    except TaskExited as error:
        return error.exit_code
"""

FILTERS = {
    "no clone3": 'Denial("clone3", errno.ENOSYS)',
    "clone3 refused": 'Denial("clone3", errno.EPERM)',
    "small clone_args": 'Denial("clone3", errno.E2BIG, 1, 88)',
    "smallest clone_args": 'Denial("clone3", errno.E2BIG, 1, 88), Denial("clone3", errno.E2BIG, 1, 80)',
    "no CLONE_PIDFD": 'Denial("clone3", errno.ENOSYS), Denial("clone", errno.EINVAL, 0, any_bit=0x1000)',
    "no close_range": 'Denial("close_range", errno.ENOSYS)',
    "no PIDFD_GET_INFO": 'Denial("ioctl", errno.ENOTTY, 1, PIDFD_GET_INFO)',
    "no unshare": 'Denial("unshare", errno.EPERM)',
}


@pytest.mark.parametrize("name", FILTERS)
def test_everything_works_without(name):
    """Functions and programs are made, and told of, and leave nothing behind where this is missing."""
    in_subprocess(
        PRELUDE
        + f"""
before = look()
deny({FILTERS[name]})
for verb, run in EVERYTHING.items():
    assert run() == os.getpid(), verb
assert exits(sysclone.call) == exits(Context().call) == 3
assert sysclone.run(["sh", "-c", "exit 5"]).returncode == 5
left = settle(before, set())
assert not left, left
"""
    )


@pytest.mark.parametrize("name", ["no clone3", "no CLONE_PIDFD", "no PIDFD_GET_INFO", "no unshare"])
def test_start_works_without(name):
    """Started tasks have a pidfd, a result and a status where this is missing (a thread needs clone3 or ENOSYS from it)."""
    in_subprocess(
        PRELUDE
        + f"""
before = look()
deny({FILTERS[name]})
with sysclone.start(os.getppid) as task:
    assert task.pidfd >= 0
    assert task.result() == os.getpid()
assert task.status.exit_code == 0
pid = task.pid
del task
assert exits(lambda *function: sysclone.start(*function).result()) == 3
left = settle(before, set())
assert not left, left
"""
    )


def test_no_threads_are_claimed_where_unshare_is_refused():
    """A program with one thread is not told that it has others because a sandbox refuses the question."""
    in_subprocess(
        PRELUDE
        + """
deny(Denial("unshare", errno.EPERM))
assert Context(share=Share.FS).call(os.getppid) == os.getpid()
"""
    )


@requires("cgroup2")
@pytest.mark.parametrize("answer", ["ENOSYS", "E2BIG"])
def test_a_cgroup_is_entered_where_none_can_be_born_in(answer, tmp_path_factory):
    """Without CLONE_INTO_CGROUP a task is moved to its version 2 cgroup by a write to cgroup.procs."""
    in_subprocess(
        PRELUDE
        + f"""
import tempfile
from features import cgroup_mount
folder = tempfile.mkdtemp(prefix="fallback-", dir=cgroup_mount("cgroup2"))
def where():
    with open("/proc/self/cgroup") as file:
        return [line.rstrip().rpartition("/")[2] for line in file if line.startswith("0:")]
try:
    sysclone.start(int).result()
    deny(Denial("clone3", errno.{answer}, *([] if "{answer}" == "ENOSYS" else [1, 88])))
    name = [os.path.basename(folder)]
    assert Context(cgroup=folder).call(where) == name
    assert Context(cgroup=folder, share=Share.VM).call(where) == name
    out = sysclone.run(["grep", "^0:", "/proc/self/cgroup"], context=Context(cgroup=folder), capture_output=True).stdout
    assert out.decode().rstrip().endswith(name[0])
finally:
    os.rmdir(folder)
"""
    )


def test_a_status_that_nobody_kept_is_unknown():
    """With SIGCHLD ignored and no PIDFD_GET_INFO, the status is unknown: never 0."""
    in_subprocess(
        PRELUDE
        + """
import signal
deny(Denial("ioctl", errno.ENOTTY, 1, PIDFD_GET_INFO))
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for run in (sysclone.call, Context().call, lambda *function: sysclone.start(*function).result()):
    try:
        run(os._exit, 3)
    except TaskLost as error:
        assert not error.status.known
    else:
        raise SystemExit("not lost")
with sysclone.Popen(["sh", "-c", "exit 3"]) as program:
    assert program.wait() == 255
    assert not program.status.known
"""
    )


@requires("unprivileged_user_namespaces")
def test_a_refused_namespace_is_not_taken_for_a_missing_clone3():
    """EPERM because nobody may make a mount namespace stays EPERM, and clone3 goes on being used."""
    in_subprocess(
        PRELUDE
        + """
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
for share in (Share(0), Share.VM):
    try:
        Context(share=share, new=Namespace.UTS).call(int)
    except PermissionError as error:
        assert error.step.startswith("clone3(") and "NEWUTS" in error.step, error
    else:
        raise SystemExit("not refused")
"""
    )
