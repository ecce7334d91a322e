"""Declared steps of a Context: each by its effect within every kind of task, with the creator left as it was."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from features import NOBODY, raw, requires
from steps_seen import (  # noqa: F401
    KEY_SPEC_SESSION_KEYRING,
    SYS_KEYCTL,
    every_kind,
    refusal,
    seen,
    spawn,
    the_creator_stays_as_it_is,
)

from sysclone import CloneError, Context, ContextError, Namespace, Popen, Scheduling, run
from sysclone._steps import session

SYS_IOPRIO_GET = {"x86_64": 252, "aarch64": 31}[os.uname().machine]
IOPRIO_WHO_PROCESS = 1
SCHED_DEADLINE = 6
PR_SET_PDEATHSIG = 1


@every_kind
def test_many_steps_at_once(kind, tmp_path):
    """One task has all of them, and each is seen from within."""
    cpu = min(os.sched_getaffinity(0))
    fields = {
        "cwd": tmp_path,
        "umask": 0o27,
        "session": True,
        "limits": {"NOFILE": (100, 200), "CORE": 0, "RLIMIT_STACK": (None, 64 << 20)},
        "nice": 7,
        "scheduling": "batch",
        "affinity": {cpu},
        "timer_slack_ns": 123_000,
        "personality": 0x40000,
        "no_new_privs": True,
    }

    found = seen(kind, fields)

    assert (found["umask"], found["cwd"]) == (0o27, str(tmp_path))
    assert found["session"] == found["pgrp"] == found["pid"] != os.getsid(0)
    assert found["Max open files"] == ("100", "200")
    assert found["Max core file size"] == ("0", "0")
    assert found["Max stack size"][1] == str(64 << 20)
    assert (found["nice"], found["policy"]) == (7, os.SCHED_BATCH)
    assert found["Cpus_allowed_list"] == str(cpu)
    assert found["timerslack_ns"] == "123000"
    assert found["personality"] == "00040000"
    assert found["NoNewPrivs"] == "1"


@every_kind
def test_cwd_may_be_an_fd(kind, tmp_path):
    """A borrowed fd of a directory is the cwd, and stays the caller's."""
    fd = os.open(tmp_path, os.O_PATH)
    try:
        assert seen(kind, {"cwd": fd})["cwd"] == str(tmp_path)
        os.fstat(fd)
    finally:
        os.close(fd)


@requires("root")
@every_kind
def test_root(kind, tmp_path):
    """The root is another directory, the cwd is in it, and a cwd that is asked for is looked for there."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "mark").write_text("here")
    for cwd, marks in ((None, ["inner"]), ("/inner", ["mark"])):
        fields = {"root": tmp_path, "cwd": cwd}
        shown = start_in_root(fields) if kind == "program" else spawn(kind, fields, lambda: os.listdir("."), [])
        assert shown == marks


def start_in_root(fields: dict[str, Any]) -> list[str]:
    """What the cwd of a program holds whose root has no program to run: its setup looks, and exec fails."""
    shown: list[str] = []
    with pytest.raises(FileNotFoundError):
        run(["/bin/true"], context=Context(**fields, setup=lambda: shown.extend(os.listdir("."))))
    return shown


@every_kind
def test_process_group(kind):
    """0 is a group of one's own, in the creator's session; a number is a group that is there."""
    found = seen(kind, {"process_group": 0})
    assert found["pgrp"] == found["pid"]
    assert found["session"] == os.getsid(0)
    assert seen(kind, {"process_group": os.getpgid(0)})["pgrp"] == os.getpgid(0)


@every_kind
def test_terminal(kind):
    """A new session takes a terminal, by fd or by path, and its group is in front."""
    ours, theirs = pty.openpty()
    try:
        for where in (theirs, os.ttyname(theirs)):
            fields = {"session": True, "controlling_terminal": where, "foreground": where}
            stat = seen(kind, fields)["stat"]
            assert int(stat[4]) == os.fstat(theirs).st_rdev
            assert int(stat[5]) == int(stat[2])
    finally:
        os.close(theirs)
        os.close(ours)


@every_kind
def test_foreground_from_the_background(kind):
    """A group that is not in front comes there, and is not stopped by SIGTTOU for it."""
    ours, theirs = pty.openpty()
    try:

        def outer() -> list[str]:
            stat: list[str] = seen(kind, {"process_group": 0, "foreground": theirs})["stat"]
            return stat

        stat = Context(session=True, controlling_terminal=theirs, foreground=theirs, timeout=20).call(outer)
        assert int(stat[5]) == int(stat[2])
    finally:
        os.close(theirs)
        os.close(ours)


def own_io_priority() -> str:
    """The I/O class and level of this task, as ionice says them."""
    answer = raw(SYS_IOPRIO_GET, IOPRIO_WHO_PROCESS, 0)
    kind, level = answer >> 13, answer & 7
    return {1: f"realtime: prio {level}", 2: f"best-effort: prio {level}", 3: "idle"}.get(kind, f"none: prio {level}")


@every_kind
@pytest.mark.parametrize(("value", "told"), [("idle", "idle"), (("best-effort", 6), "best-effort: prio 6")])
def test_io_priority(kind, value, told):
    """The class and the level are those of ionice(1)."""
    assert spawn(kind, {"io_priority": value}, own_io_priority, ["ionice"]).strip() == told


@every_kind
def test_scheduling(kind):
    """The policy is the one asked for, with its priority, and deadlines too, where this user may have them."""
    cases = [(Scheduling("idle"), os.SCHED_IDLE, 0)]
    if os.geteuid() == 0:
        deadline = Scheduling("deadline", runtime_ns=10_000_000, deadline_ns=50_000_000, reset_on_fork=True)
        cases += [(Scheduling("fifo", 3), os.SCHED_FIFO, 3), (deadline, SCHED_DEADLINE, 0)]
    for scheduling, number, priority in cases:
        if scheduling.policy == "deadline" and kind == "program":
            # Such a task may not fork, as the shell of the others does.
            assert "DEADLINE" in spawn(kind, {"scheduling": scheduling}, str, ["chrt", "-p", "0"])
        else:
            found = seen(kind, {"scheduling": scheduling})
            assert (found["policy"], found["priority"]) == (number, priority)


@every_kind
def test_oom_score_adj(kind):
    """It is the task's alone: a light process needs a vfork for that, since the kernel sets it for a whole memory."""
    fields: dict[str, Any] = {"oom_score_adj": 321}
    if kind == "light":
        with pytest.raises(ContextError, match="shares the memory") as caught:
            seen(kind, fields)
        assert caught.value.field == "oom_score_adj"
        fields["suspend_caller"] = True
    assert seen(kind, fields)["oom_score_adj"] == "321"
    assert Path("/proc/self/oom_score_adj").read_text().strip() != "321"


@every_kind
def test_memory_policy(kind):
    """New pages come from the nodes that are named."""
    if not Path("/proc/self/numa_maps").exists():
        with pytest.raises(CloneError, match="ENOSYS"):
            spawn(kind, {"memory_policy": "local"}, str, ["true"])
        return
    maps = spawn(
        kind, {"memory_policy": ("bind", 0)}, Path("/proc/self/numa_maps").read_text, ["cat", "/proc/self/numa_maps"]
    )
    assert " bind:0 " in maps


@requires("uts_namespaces")
@every_kind
def test_names_of_the_machine(kind):
    """hostname and domainname are those of the new UTS namespace."""
    new = Namespace.UTS if os.geteuid() == 0 else Namespace.UTS | Namespace.USER
    fields = {"new": new, "hostname": "inner", "domainname": "example"}
    names = ["cat", "/proc/sys/kernel/hostname", "/proc/sys/kernel/domainname"]
    read = lambda: "".join(Path(name).read_text() for name in names[1:])  # noqa: E731
    assert spawn(kind, fields, read, names) == "inner\nexample\n"


@every_kind
def test_keyring(kind):
    """A new session keyring, with its name, which the creator does not have."""
    name = f"sysclone-{os.getpid()}-{kind}"
    assert name in spawn(kind, {"keyring": name}, Path("/proc/keys").read_text, ["cat", "/proc/keys"])


@every_kind
def test_setup(kind, tmp_path):
    """setup runs in the task after the other steps; a program has its own memory only afterwards."""
    here: list[Any] = []
    spawn(kind, {"cwd": tmp_path, "setup": lambda: here.append((os.getpid(), os.getcwd()))}, lambda: None, ["true"])
    if kind == "copied":
        assert here == []
    else:
        assert here[0][0] != os.getpid()
        assert here[0][1] == str(tmp_path)


@every_kind
def test_setup_raises(kind):
    """What setup raises arrives as it is."""

    def setup() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        spawn(kind, {"setup": setup}, lambda: None, ["true"])


@requires("no_sanitizer")
def test_limits_of_memory_bind_the_program():
    """A limit that is far below the creator's memory stops neither its set-up nor the exec."""
    hog = bytearray(200 << 20)
    script = "grep -E 'address|data' /proc/self/limits"
    limits = {"AS": 150 << 20, "DATA": (50 << 20, 60 << 20)}
    told = run(["sh", "-c", script], context=Context(limits=limits, setup=lambda: [0] * 1000), capture_output=True)
    assert (
        told.stdout.split()
        == b"""Max data size 52428800 62914560 bytes
        Max address space 157286400 157286400 bytes""".split()
    )
    assert len(hog)


@requires("nobody")
def test_popen_keywords_and_steps_are_done_in_one_order(tmp_path):
    """Popen's own user, cwd and session are merged with the steps: ids last, where the steps need privilege."""
    tmp_path.chmod(0o755)
    context = Context(root="/", nice=-3, limits={"NOFILE": 50}, setup=lambda: order.append(os.getuid()))
    order: list[int] = []
    told = run(
        ["sh", "-c", "id -u; nice; pwd; cut -d' ' -f6 /proc/$$/stat; echo $$; umask"],
        context=context, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/tmp", umask=0o77, start_new_session=True,
        preexec_fn=lambda: order.append(os.getuid() + 1), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    uid, nice, cwd, session, pid, umask = told.stdout.split()
    assert (uid, nice, cwd, umask) == (str(NOBODY), "-3", "/tmp", "0077")
    assert session == pid
    assert order == [NOBODY, NOBODY + 1]


def test_popen_keyword_against_a_field():
    """A keyword and a field that say different things are refused, and nothing is started."""
    with pytest.raises(ContextError, match="cwd=") as caught:
        run(["true"], context=Context(cwd="/"), cwd="/tmp")
    assert caught.value.field == "cwd"
    assert run(["true"], context=Context(cwd="/tmp"), cwd="/tmp").returncode == 0


def test_parent_death_signal():
    """A program dies when its creator does, with new ids too."""
    for fields in ({}, {"uid": NOBODY} if os.geteuid() == 0 else {"nice": 1}):
        reading, writing = os.pipe()
        context = Context(**fields, parent_death_signal=signal.SIGKILL)

        def creator(context: Context = context, writing: int = writing) -> None:
            Popen(["sleep", "60"], context=context, stdout=writing)
            os._exit(0)

        with Context().start(creator) as task:
            os.close(writing)
            # The pipe ends when the program does.
            assert os.read(reading, 1) == b""
            task.wait(10)
        os.close(reading)


def test_parent_death_signal_beside_descriptors_of_any_number():
    """What is looked at for the creator is at no number that the program is given."""
    with open(os.devnull, "rb") as null:
        for target in range(3, 16):
            context = Context(fds={target: null.fileno()}, parent_death_signal=signal.SIGKILL)
            assert run(["true"], context=context).returncode == 0, target


@requires("pid_namespaces")
@pytest.mark.parametrize("new", [Namespace(0), Namespace.PID])
def test_parent_death_signal_where_the_creator_is_dead(new, tmp_path):
    """The race is closed: who finds its creator dead has the signal at once, in a pid namespace of its own too."""
    mark = tmp_path / "ran"
    reading, writing = os.pipe()
    inner = Context(new=new | (Namespace.USER if os.geteuid() else Namespace(0)), parent_death_signal=signal.SIGKILL,
                    setup=lambda: mark.write_text("ran"))  # fmt: skip

    def creator() -> None:
        see = session.see_creator

        def see_and_lose(above: int, notes: dict[str, Any]) -> None:
            see(above, notes)
            before = parent()
            os.write(writing, b"x")
            while parent() == before:
                os.sched_yield()

        session.see_creator = see_and_lose
        inner.call(os.getpid)

    def parent() -> str:
        status = Path("/proc/self/status").read_text()
        return next(line for line in status.splitlines() if line.startswith("PPid:"))

    with Context().start(creator) as task:
        os.close(writing)
        assert os.read(reading, 1) == b"x"
        task.send_signal(signal.SIGKILL)
        task.wait(10)
        # The pipe ends when the creator's child does.
        assert os.read(reading, 1) == b""
        os.close(reading)
    assert not mark.exists()
