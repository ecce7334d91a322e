"""The options for what is done before the program: each by its effect on the program, as the program itself sees it."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest
from features import requires

LOOK = """
import ctypes, json, os, resource, socket, sys
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
stat = open("/proc/self/stat").read().rpartition(")")[2].split()
io = ctypes.CDLL(None).syscall({"x86_64": 252, "aarch64": 31}[os.uname().machine], 1, 0)
dead = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(dead))
os.umask(mask := os.umask(0))
print(json.dumps({
    "uid": list(os.getresuid()), "gid": list(os.getresgid()), "groups": os.getgroups(),
    "cwd": os.getcwd(), "umask": mask, "host": socket.gethostname(), "pid": os.getpid(),
    "capabilities": [status[name].strip().lstrip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no_new_privs": status["NoNewPrivs"].strip(), "nice": int(stat[16]), "policy": os.sched_getscheduler(0),
    "cpus": sorted(os.sched_getaffinity(0)), "io": (io >> 13, io & 0x1FFF),
    "oom": int(open("/proc/self/oom_score_adj").read()),
    "nofile": resource.getrlimit(resource.RLIMIT_NOFILE), "core": resource.getrlimit(resource.RLIMIT_CORE),
    "leads": os.getsid(0) == os.getpid(), "death": dead.value,
    "env": {name: os.environ.get(name) for name in ("ADDED", "REMOVED", "KEPT")}, "variables": len(os.environ),
    "mounts": [line.split()[4:6] for line in open("/proc/self/mountinfo")],
    "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd")), "ns": {
        name: os.readlink(f"/proc/self/ns/{name}") for name in ("net", "uts", "ipc", "user", "mnt")},
    "uid_map": open("/proc/self/uid_map").read().split(), "gid_map": open("/proc/self/gid_map").read().split(),
}))
"""
CPU = min(os.sched_getaffinity(0))
# With the right to read anything, since the interpreter may be in root's home.
RIGHTS = f"{1 << 12 | 1 << 2:x}"

# What is asked for in one run, and what is seen by then.
TABLE = {
    "places": (
        ["--chdir", "/usr", "--umask", "027", "--session", "--parent-death-signal", "term"],
        {"cwd": "/usr", "umask": 0o27, "leads": True, "death": 15},
    ),
    "rights": (
        [
            "--uid",
            "nobody",
            "--gid=65534",
            "--groups",
            "7,8",
            "--capabilities",
            "net_admin,CAP_DAC_READ_SEARCH",
            "--no-new-privs",
        ],
        {"uid": [65534] * 3, "gid": [65534] * 3, "groups": [7, 8], "capabilities": [RIGHTS] * 5, "no_new_privs": "1"},
    ),
    "nothing": (
        ["--groups", "none", "--capabilities", "none"],
        {"groups": [], "capabilities": [""] * 5, "no_new_privs": "0"},
    ),
    "limits": (
        ["--limit", "nofile=64:1K", "--limit", "RLIMIT_CORE=0", "--nice", "7", "--oom-score-adj", "250"],
        {"nofile": [64, 1024], "core": [0, 0], "nice": 7, "oom": 250},
    ),
    "priorities": (
        ["--scheduling", "batch", "--affinity", f"{CPU}-{CPU}", "--io-priority", "best-effort:6"],
        {"policy": os.SCHED_BATCH, "cpus": [CPU], "io": [2, 6]},
    ),
    "environment": (
        ["--env", "ADDED=a=b", "--unset-env", "REMOVED"],
        {"env": {"ADDED": "a=b", "REMOVED": None, "KEPT": "yes"}},
    ),
    "environment anew": (
        ["--clear-env", "--env", "ADDED=1"],
        {"env": {"ADDED": "1", "REMOVED": None, "KEPT": None}},
    ),
}


def look(sysclone, *options):
    """What a program sees of itself."""
    environment = {**os.environ, "REMOVED": "yes", "KEPT": "yes"}
    done = sysclone("run", *options, "--", sys.executable, "-I", "-S", "-c", LOOK, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@requires("root")
@pytest.mark.parametrize("name", TABLE)
def test_what_the_program_sees(sysclone, name):
    """Each option has its effect in the program, several at once."""
    options, wanted = TABLE[name]
    seen = look(sysclone, *options)

    assert {key: seen[key] for key in wanted} == wanted


@requires("user_namespaces", "mount_namespaces", "uts_namespaces", "pid_namespaces")
def test_a_place_of_its_own(sysclone, tmp_path):
    """A map makes the user namespace; mounts are made in their order, with their options; names are the namespace's."""
    (tmp_path / "a:b").mkdir()
    seen = look(
        sysclone, "--map-root", "--new", "mount,uts,pid", "--hostname", "blue", "--mount", "proc",
        "--mount", f"tmpfs:{tmp_path}/new:size=1M,create,noexec", "--mount", f"bind:/usr:{tmp_path}/new/usr:ro,create",
        "--mount", f"bind:{tmp_path}/a\\:b:rw,ro", "--mount", f"tmpfs:{tmp_path}/new/rw:ro,create,rw",
        "--chdir", f"{tmp_path}/new/usr",
    )  # fmt: skip

    mounts = dict(seen["mounts"])
    assert (seen["pid"], seen["host"], seen["cwd"]) == (1, "blue", f"{tmp_path}/new/usr")
    assert (seen["uid"], seen["uid_map"]) == ([0, 0, 0], ["0", str(os.geteuid()), "1"])
    assert "noexec" in mounts[f"{tmp_path}/new"].split(",")
    first = {path: mounts[f"{tmp_path}/{path}"].split(",")[0] for path in ("new", "new/usr", "a:b", "new/rw")}
    assert first == {"new": "rw", "new/usr": "ro", "a:b": "ro", "new/rw": "rw"}
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text(encoding="utf-8")


@requires("root", "user_namespaces")
def test_ranges_of_ids(sysclone):
    """--map-users and --map-groups are the maps' lines, one each, and make the user namespace."""
    seen = look(sysclone, "--map-users", "0,0,1", "--map-users", "5,100,3", "--map-groups", "0:0:9")

    assert seen["uid_map"] == ["0", "0", "1", "5", "100", "3"]
    assert seen["gid_map"] == ["0", "0", "9"]


@requires("root", "net_namespaces", "uts_namespaces")
def test_join(sysclone, started):
    """--join enters the named namespaces of a task, or the one at a path, and leaves no fd behind in the program."""
    with_lo = started(
        "run", "--new", "net,uts,ipc", "--loopback", "--hostname", "red", "--", "sh", "-c", "echo $$; read x"
    )
    pid = int(with_lo.line())
    theirs = {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in ("net", "uts", "ipc")}
    ours = {name: os.readlink(f"/proc/self/ns/{name}") for name in theirs}

    everything = look(sysclone, "--join", str(pid))
    some = look(sysclone, "--join", f"{pid},uts", "--join", f"/proc/{pid}/ns/net")

    assert {name: everything["ns"][name] for name in theirs} == theirs
    assert {name: some["ns"][name] for name in theirs} == {**theirs, "ipc": ours["ipc"]}
    assert everything["host"] == "red"
    plain = look(sysclone)
    assert everything["fds"] == some["fds"] == plain["fds"]
    lo = sysclone("run", "--join", str(pid), "--", "cat", "/proc/net/if_inet6", "/proc/net/dev")
    assert lo.stdout.count("lo:") == 1


@requires("root", "net_namespaces")
def test_join_holds_nothing_afterwards(started):
    """Once the program runs, sysclone itself holds no namespace open."""
    there = started("run", "--new", "net", "--", "sh", "-c", "echo $$; read x")
    pid = there.line()
    one = started("run", "--join", f"{pid},net", "--", "sh", "-c", "readlink /proc/$$/ns/net; echo ready; read x")

    assert one.line() == os.readlink(f"/proc/{pid}/ns/net")
    assert one.line() == "ready"
    # The program can be here before its creator has come out of clone and closed them.
    end = time.monotonic() + 20
    while _held(one.pid, "net:") and time.monotonic() < end:
        time.sleep(0.01)
    assert _held(one.pid, "net:") == []


def _held(pid: int, beginning: str) -> list[str]:
    links = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            links.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:
            pass
    return [link for link in links if link.startswith(beginning)]


@requires("root", "uts_namespaces")
def test_join_of_ones_own_is_no_leave(sysclone):
    """A host name is not taken for a joined namespace's where that is our own."""
    before = os.uname().nodename
    done = sysclone("run", "--join", str(os.getpid()), "--hostname", "wrong", "--", "true")

    assert (done.returncode, os.uname().nodename) == (125, before)
    assert done.stderr.startswith("sysclone run: --hostname: ")


@requires("root", "time_namespaces")
def test_time_offset(sysclone):
    """A clock of a new time namespace is ahead by what was asked for."""
    done = sysclone("run", "--new", "time", "--time-offset", "boottime=86400.5", "cat", "/proc/self/timens_offsets")

    offsets = {name: numbers for name, *numbers in map(str.split, done.stdout.splitlines())}
    assert offsets["boottime"] == ["86400", "500000000"]


@requires("landlock")
def test_landlock(sysclone, tmp_path):
    """What no option names cannot be opened; what is read-only cannot be written to."""
    (tmp_path / "rw").mkdir()
    system = [f"--landlock-ro={path}" for path in ("/usr", "/lib", "/lib64", "/bin") if os.path.exists(path)]
    script = f"echo x > {tmp_path}/rw/a && cat {tmp_path}/rw/a; echo x > {tmp_path}/b; cat /etc/passwd; true > /usr/x"
    done = sysclone("run", "--no-new-privs", *system, "--landlock-rw", f"{tmp_path}/rw", "--", "/bin/sh", "-c", script)

    assert done.stdout == "x\n"
    assert done.stderr.count("ermission denied") == 3
    assert not (tmp_path / "b").exists()


def test_name_of_the_program(sysclone):
    """--argv0 is the program's first argument, and not what is executed."""
    assert sysclone(
        "run", "--argv0", "somebody", "--", "sh", "-c", "tr '\\0' '\\n' < /proc/$$/cmdline"
    ).stdout.startswith("somebody\n-c\n")


def test_call_has_them_too(sysclone):
    """A function in a light process has its own cwd, limits and priority."""
    done = sysclone("call", "--chdir", "/usr", "--nice", "3", "os:getcwd")
    assert (done.returncode, done.stdout) == (0, "'/usr'\n")

    done = sysclone("call", "--limit", "nofile=77", "resource:getrlimit", str(7))
    assert (done.returncode, done.stdout) == (0, "(77, 77)\n")


# --- what is refused

REFUSED = [
    (["--nice", "33"], "--nice", "between -20 and 19"),
    (["--umask", "999"], "--umask", "octal"),
    (["--limit", "nofil=3"], "--limit", "did you mean nofile?"),
    (["--limit", "nofile=9:3"], "--limit", "above the hard one"),
    (["--limit", "nofile"], "--limit", "NAME=SOFT"),
    (["--scheduling", "fifo"], "--scheduling", "priority of 1 to 99"),
    (["--affinity", "3-1"], "--affinity", "list of CPUs"),
    (["--io-priority", "idle:3"], "--io-priority", "'idle' has none"),
    (["--capabilities", "FLY"], "--capabilities", "no capability"),
    (["--uid", "no such user"], "--uid", "no user"),
    (["--groups", "7,nobody-at-all"], "--groups", "no group"),
    (["--mount", "bnd:/usr"], "--mount", "did you mean bind?"),
    (["--mount", "move:/usr"], "--mount", "move:SOURCE:TARGET"),
    (["--mount", "tmpfs:/mnt:sized=3"], "--mount", "takes no sized"),
    (["--mount", "tmpfs:/mnt:or"], "--mount", "no option of a mount"),
    (["--mount", "set:/mnt:nosuid,rw"], "--mount", "set takes no rw"),
    (["--mount", "overlay:/mnt:lower=/usr"], "--mount", "two directories"),
    (["--mount", "proc"], "--mount", "without new=MOUNT"),
    (["--map-root", "--map-users", "0,0,1"], "--map-users", "--map-root makes both"),
    (["--map-users", "0,0,0"], "--map-users", "at least one"),
    (["--hostname", "x"], "--hostname", "without new=UTS"),
    (["--loopback"], "--loopback", "without new=NET"),
    (["--time-offset", "monotonic=1"], "--time-offset", "without new=TIME"),
    (["--time-offset", "clock=1"], "--time-offset", "monotonic=SECONDS"),
    (["--propagation", "private"], "--propagation", "without new=MOUNT"),
    (["--join", "me"], "--join", "a process id"),
    (["--join", "1,usr"], "--join", "did you mean user"),
    (["--env", "x"], "--env", "NAME=VALUE"),
    (["--parent-death-signal", "TREM"], "--parent-death-signal", "did you mean"),
    (["--share", "fs", "--chdir", "/"], "--chdir", "share=FS"),
]


def test_refusals(capfd):
    """A value that makes no sense leaves with 125 before anything starts, and the message names the option and the reason."""
    from sysclone.cli import main

    for options, option, reason in REFUSED:
        assert main(["run", *options, "--", "echo", "started"]) == 125, options
        told = capfd.readouterr()
        assert (told.out, option in told.err.splitlines()[0], reason in told.err) == ("", True, True), told.err


@requires("root")
def test_what_the_kernel_refuses(sysclone):
    """A step that fails is told with the call, and sysclone leaves with 125; no namespace is no namespace."""
    for options, told in (
        (["--chdir", "/no/where"], "chdir(/no/where): ENOENT"),
        (["--join", "/etc/passwd"], "/etc/passwd): ENOTTY"),
        (["--join", str(2**22 + 1)], "ESRCH"),
    ):
        done = sysclone("run", *options, "--", "true")
        assert (done.returncode, told in done.stderr) == (125, True), done.stderr


def test_an_environment_is_not_for_light_processes(sysclone):
    """--env for a function on our own memory is refused, since os.environ is that memory."""
    done = sysclone("call", "--env", "A=1", "os:getpid")

    assert done.returncode == 125
    assert done.stderr.startswith("sysclone call: --env: ")
    assert sysclone("call", "--share", "none", "--env", "A=1", "os:getenv", "A").stdout == "'1'\n"
