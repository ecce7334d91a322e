"""`sysclone doctor`: its answers are those of this machine, for root and for a user without rights."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import features
import pytest
from commandline import AS_NOBODY
from features import requires

from sysclone import _kernel
from sysclone._flags import SINCE

# A feature of the doctor's, and the probe of the tests' own that must say the same.
SAME = {
    "clone3": "clone3",
    "set_tid": "set_tid",
    "user": "user_namespaces",
    "mount": "mount_namespaces",
    "pid": "pid_namespaces",
    "net": "net_namespaces",
    "uts": "uts_namespaces",
    "ipc": "ipc_namespaces",
    "cgroup": "cgroup_namespaces",
    "time": "time_namespaces",
    "user, unprivileged": "unprivileged_user_namespaces",
    "pidfd_open": "pidfd",
    "pidfd_getfd": "pidfd_getfd",
    "PIDFD_GET_INFO": "pidfd_info",
    "PIDFD_INFO_EXIT": "pidfd_info_exit",
    "kcmp": "kcmp",
    "born in one": "cgroup2",
}


@pytest.fixture
def told(sysclone_json):
    """What the doctor says, as JSON."""
    return sysclone_json("doctor")


def test_answers_are_this_machines(told):
    """Each feature that the tests probe in another way has the same answer here."""
    answers = {one["name"]: one["answer"] for one in told["features"]}

    assert {name: answers[name] for name in SAME} == {
        name: "yes" if features.have(probe) else "no" for name, probe in SAME.items()
    }


def test_flags_are_the_kernels(told):
    """Each younger flag is there if this kernel's clone3 knows it, with the release that brought it."""
    found = {one["name"]: (one["answer"], one["since"]) for one in told["features"]}

    for flag, since in SINCE.items():
        assert found[f"CLONE_{flag.name}"] == ("yes" if _kernel.known_flags() & flag else "no", since)


def test_whatever_is_missing_has_a_reason(told):
    """No answer but yes is without its reason."""
    assert [one["name"] for one in told["features"] if one["answer"] != "yes" and not one["why"]] == []
    assert {one["answer"] for one in told["features"]} <= {"yes", "no", "unknown"}


def test_system_and_limits(told):
    """The kernel, the user and the limits are this process's own."""
    limits = {one["name"]: one["value"] for one in told["limits"]}
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)

    assert told["system"]["kernel"] == f"Linux {os.uname().release}"
    assert told["system"]["uid"] == str(os.geteuid())
    assert limits["RLIMIT_NOFILE"].startswith(f"{soft} ")
    assert limits["user.max_user_namespaces"] == Path("/proc/sys/user/max_user_namespaces").read_text().strip()


def test_text(sysclone, told):
    """For people there is a line for each feature and limit; the exit status is 0, whatever was found."""
    done = sysclone("doctor")

    assert (done.returncode, done.stderr) == (0, "")
    missing = [one["name"] for one in [*told["features"], *told["limits"]] if f" {one['name']} " not in done.stdout]
    assert missing == []


@requires("nobody")
def test_as_nobody(sysclone_json):
    """Without rights what needs them is told as missing, with the reason and what to do."""
    told = sysclone_json("doctor", before=AS_NOBODY, cwd="/")
    found = {one["name"]: one for one in told["features"]}

    assert told["system"]["uid"] == "65534"
    assert found["set_tid"]["answer"] == "no"
    assert "CAP_CHECKPOINT_RESTORE" in found["set_tid"]["why"]
    assert found["light processes"]["answer"] == "yes"
    expected = "yes" if features.have("unprivileged_user_namespaces") else "no"
    assert found["user"]["answer"] == found["user, unprivileged"]["answer"] == expected
    if expected == "yes":
        assert (found["net"]["answer"], found["net"]["why"]) == ("yes", "together with a user namespace")


@requires("root", "user_namespaces")
def test_a_limit_of_none(sysclone_json):
    """In a user namespace that allows no further one, the limit is named as the reason."""
    inside = (
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"',
        "sh",
    )
    told = sysclone_json("doctor", before=inside)
    found = {one["name"]: one for one in told["features"]}

    assert found["user"]["answer"] == "no"
    assert "ENOSPC" in found["user"]["why"]
    assert "max_user_namespaces" in found["user"]["why"]
