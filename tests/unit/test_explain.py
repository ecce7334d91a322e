"""What explain says, with the kernel's dialect given: the verdict against the running kernel is a test of its own."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import FrozenInstanceError
from errno import EBADF, EINVAL, ENOSYS, EPERM
from types import SimpleNamespace

import pytest

from sysclone import _kernel
from sysclone._errors import ContextError
from sysclone._explain import Explanation, explain
from sysclone._flags import Clone, Dialect, Namespace, Share

FATES = {"shared", "copied", "new", "reset"}
NAMESPACES = ("user", "mount", "pid", "net", "uts", "ipc", "cgroup", "time")


@pytest.fixture(autouse=True)
def linux_6_18(monkeypatch: pytest.MonkeyPatch) -> None:
    """No child is made to ask the kernel: it is Linux 6.18's dialect."""
    monkeypatch.setattr(_kernel, "dialect", lambda: Dialect(known=0x3FFFFFF80, old_call_checks_signal=False))


class LikeAContext:
    """What explain asks of a Context."""

    def __init__(self, flags: int, exit_signal: int | None, call_name: str = "clone3") -> None:
        self.flags = Clone(flags)
        self.exit_signal = exit_signal
        self.call_name = call_name


def fates(what: int | str, *names: str) -> dict[str, tuple[str, str]]:
    """For some resources, their fate at clone and after exec."""
    rows = explain(what).resources
    return {name: (rows[name].fate, rows[name].after_exec) for name in names}


def warned(what: int | str, call: str = "clone3") -> str:
    """All warnings as one text."""
    return " ".join(explain(what, call=call).warnings)


# --- what it takes


def test_names_number_strace_and_context_say_the_same() -> None:
    """The same request in each of its forms has the same explanation."""
    expected = explain("CLONE_VM|CLONE_FS|SIGCHLD")
    assert expected == explain(0x300, exit_signal=17)
    assert expected == explain(Clone.VM | Clone.FS, 17)
    assert expected == explain(Share.VM | Share.FS, 17)
    assert expected == explain("clone3({flags=CLONE_VM|CLONE_FS, exit_signal=SIGCHLD, stack=0x7f}, 88) = 12")
    assert expected == explain(LikeAContext(0x300, 17))
    assert hash(expected) == hash(explain(0x300, 17))
    assert (expected.flags, expected.exit_signal, expected.call) == (Clone.VM | Clone.FS, 17, "clone3")


@pytest.mark.parametrize(
    ("flags", "signal"), [(0x100, 17), (Clone.PARENT, 0), (Clone.VM | Clone.SIGHAND | Clone.THREAD, 0)]
)
def test_a_contexts_default_signal(flags: int, signal: int) -> None:
    """A Context without an exit signal stands for SIGCHLD, or for none where the kernel takes none."""
    explanation = explain(LikeAContext(flags, None))
    assert (explanation.exit_signal, explanation.valid) == (signal, True)


def test_a_context_says_which_call_it_is_for() -> None:
    """A Context that needs the old call is explained by the old call's rules."""
    assert explain(LikeAContext(Clone.PARENT, 17, "clone")).valid
    assert not explain(LikeAContext(Clone.PARENT, 17)).valid


def test_a_pasted_line_says_which_call_it_is() -> None:
    """A line of strace is judged by the rules of the call in it, unless another is asked for."""
    line = "clone(child_stack=NULL, flags=CLONE_PARENT|SIGCHLD) = 5"
    assert explain(line).call == "clone" and explain(line).valid
    assert explain(line, call="clone3").reasons != []
    assert explain("vfork() = 7").flags == Clone.VM | Clone.VFORK


def test_a_number_may_hold_the_old_calls_signal() -> None:
    """For the old call a number's low byte is the signal; for clone3 it is an error that says so."""
    old = explain(0x111, call="clone")
    assert old.valid and old.resources["exit signal"].text == "SIGCHLD to the parent"
    new = explain(0x111)
    assert new.errno == EINVAL and "0x11" in new.reasons[0] and "field of its own" in new.reasons[0]


@pytest.mark.parametrize(
    ("what", "options", "field"),
    [
        ("CLONE_FLIES", {}, "flags"),
        (-1, {}, "flags"),
        (1 << 64, {}, "flags"),
        (0, {"exit_signal": -1}, "exit_signal"),
        (0, {"exit_signal": 1 << 64}, "exit_signal"),
        (0, {"exit_signal": 256, "call": "clone"}, "exit_signal"),
        ("VM|SIGUSR1", {"exit_signal": 17}, "exit_signal"),
        (0, {"call": "fork"}, "call"),
        (None, {}, "what"),
        (1.5, {}, "what"),
    ],
)
def test_what_makes_no_sense_is_refused(what: object, options: dict[str, object], field: str) -> None:
    """What cannot be asked is a ContextError that points at the argument, and no verdict."""
    with pytest.raises(ContextError) as caught:
        explain(what, **options)  # type: ignore[arg-type]
    assert caught.value.field == field


# --- the verdict


def test_a_valid_combination() -> None:
    """What the kernel takes has errno 0 and no reasons."""
    explanation = explain("VM|SIGHAND|SIGCHLD")
    assert (explanation.valid, explanation.errno, explanation.reasons) == (True, 0, [])


def test_every_broken_rule_is_told() -> None:
    """An invalid combination has the kernel's errno and a sentence for each of its faults."""
    explanation = explain("SIGHAND|THREAD|NEWPID|SIGCHLD")
    assert (explanation.valid, explanation.errno, len(explanation.reasons)) == (False, EINVAL, 3)
    assert explanation.warnings == []


def test_the_kernel_is_asked_only_where_kernels_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """No child is made for a verdict that is the same on every kernel."""
    asked: list[int] = []
    monkeypatch.setattr(_kernel, "dialect", lambda: asked.append(1) or Dialect())
    for text in ("VM|FS|SIGCHLD", "SIGHAND", "VM|SIGHAND|THREAD", "DETACHED", "FS|NEWNS"):
        explain(text)
    assert asked == []
    for text in ("NEWTIME", "AUTOREAP", "INTO_CGROUP", "VM|SIGHAND|THREAD|PIDFD"):
        explain(text)
    assert len(asked) == 4


def test_a_flag_is_valid_where_the_kernel_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags of a newer kernel are judged by what the running one says it knows."""
    assert "CLONE_AUTOREAP" in explain("AUTOREAP").reasons[0]
    assert not explain(1 << 50).valid
    monkeypatch.setattr(_kernel, "dialect", lambda: Dialect(known=Dialect().known | 1 << 50))
    assert explain("AUTOREAP").valid
    assert "0x4000000000000" in warned(1 << 50)


# --- resources


def test_nothing_asked_is_fork() -> None:
    """Without flags, everything is copied or the caller's, and only FS, undo list and I/O context would last."""
    assert fates("SIGCHLD", "memory", "file table", "fs", "signal handlers", "SysV undo list", "I/O context") == {
        "memory": ("copied", "new"),
        "file table": ("copied", "copied"),
        "fs": ("copied", "copied"),
        "signal handlers": ("copied", "reset"),
        "SysV undo list": ("new", "new"),
        "I/O context": ("new", "new"),
    }


def test_what_of_sharing_lasts_through_exec() -> None:
    """exec ends the sharing of memory, file table and handlers, and keeps that of fs, undo list and I/O context."""
    everything = "VM|FILES|FS|SIGHAND|SYSVSEM|IO|SIGCHLD"
    assert fates(everything, "memory", "file table", "fs", "signal handlers", "SysV undo list", "I/O context") == {
        "memory": ("shared", "new"),
        "file table": ("shared", "copied"),
        "fs": ("shared", "shared"),
        "signal handlers": ("shared", "reset"),
        "SysV undo list": ("shared", "shared"),
        "I/O context": ("shared", "shared"),
    }


def test_handlers_can_be_reset() -> None:
    """CLONE_CLEAR_SIGHAND gives a table of defaults."""
    assert fates("CLEAR_SIGHAND", "signal handlers") == {"signal handlers": ("reset", "reset")}


def test_the_alternate_signal_stack_goes_with_shared_memory() -> None:
    """Two running tasks cannot use one signal stack; with CLONE_VFORK only one runs."""
    assert fates("VM", "alternate signal stack")["alternate signal stack"][0] == "reset"
    assert fates("VM|VFORK", "alternate signal stack")["alternate signal stack"][0] == "copied"
    assert fates("0", "alternate signal stack")["alternate signal stack"][0] == "copied"


@pytest.mark.parametrize(
    ("text", "process", "parent", "signal"),
    [
        ("SIGCHLD", "new", "new", "new"),
        ("SIGUSR1", "new", "new", "new"),
        ("PARENT", "new", "shared", "shared"),
        ("VM|SIGHAND|THREAD", "shared", "shared", "reset"),
    ],
)
def test_whose_child_it_is(text: str, process: str, parent: str, signal: str) -> None:
    """Process, parent and exit signal are told for children, siblings and threads."""
    rows = explain(text).resources
    assert (rows["process"].fate, rows["parent"].fate, rows["exit signal"].fate) == (process, parent, signal)
    assert rows["exit signal"].after_exec == "reset"


def test_the_exit_signal_is_named() -> None:
    """The row says which signal the parent gets, or that it gets none."""
    assert "SIGUSR1" in explain("SIGUSR1").resources["exit signal"].text
    assert "none" in explain("0").resources["exit signal"].text
    assert "none" in explain(0x100 | 200, call="clone").resources["exit signal"].text


@pytest.mark.parametrize("kind", list(Namespace), ids=lambda kind: kind.name)
def test_each_namespace_is_new_when_asked_for(kind: Namespace) -> None:
    """A namespace's row is new with its flag and shared without, and exec changes nothing."""
    named = {name: f"{name} namespace" for name in NAMESPACES}
    rows = explain(int(kind)).resources
    mine = named[(kind.name or "").lower()]
    assert {name: rows[name].fate for name in named.values()} == {
        name: "new" if name == mine else "shared" for name in named.values()
    }
    assert all(rows[name].fate == rows[name].after_exec for name in named.values())


def test_a_time_namespace_waits_for_exec_where_memory_is_shared() -> None:
    """With CLONE_VM the task itself stays in the caller's time namespace until it starts a program."""
    assert fates("VM|NEWTIME", "time namespace") == {"time namespace": ("shared", "new")}
    assert "time namespace" in warned("VM|NEWTIME")


def test_rows_are_those_of_what_the_old_call_takes() -> None:
    """Flags that the old call cuts off or reads as a signal change no row."""
    rows = explain(Clone.CLEAR_SIGHAND | Clone.NEWTIME | Clone.INTO_CGROUP, call="clone").resources
    assert (rows["signal handlers"].fate, rows["time namespace"].fate, rows["cgroup"].fate) == (
        "copied",
        "shared",
        "shared",
    )


@pytest.mark.parametrize("flags", [0, 0x3FFFFFF80, 0x500, 1 << 63])
def test_every_row_is_whole(flags: int) -> None:
    """Each resource has a name, a fate of the four words, and texts, whatever is asked."""
    rows = explain(flags).resources
    assert len(rows) == 20 and list(rows) == [row.name for row in rows.values()]
    for row in rows.values():
        assert {row.fate, row.after_exec} <= FATES
        assert row.text and row.exec_text and int(row.switch)


# --- warnings


@pytest.mark.parametrize(
    ("what", "call", "words"),
    [
        ("PARENT|SIGUSR1", "clone", ["SIGUSR1", "ignores", "sibling"]),
        ("VM|SIGHAND|THREAD|SIGCHLD", "clone", ["SIGCHLD", "thread"]),
        ("DETACHED", "clone", ["CLONE_DETACHED"]),
        ("CLEAR_SIGHAND|SIGCHLD", "clone", ["CLONE_CLEAR_SIGHAND", "cut off"]),
        ("NEWTIME|SIGCHLD", "clone", ["CLONE_NEWTIME", "145"]),
        ("80", "clone", ["80 is no signal"]),
        ("SIGUSR1", "clone3", ["__WALL"]),
        ("0", "clone3", ["__WALL"]),
        ("SIGKILL", "clone3", ["SIGKILL", "kills the parent"]),
        ("SIGSTOP", "clone3", ["stops the parent"]),
        ("VM", "clone3", ["stack of its own", "thread pointer"]),
        ("VM|VFORK", "clone3", ["sleeps", "SIGKILL"]),
        ("VFORK", "clone3", ["no memory"]),
        ("VM|SIGHAND|NEWPID", "clone3", ["SIGCHLD to ignored", "caller's"]),
        ("CHILD_CLEARTID", "clone3", ["CLONE_CHILD_CLEARTID without CLONE_VM"]),
        ("PARENT", "clone3", ["ECHILD"]),
        ("PTRACE", "clone3", ["traced"]),
    ],
)
def test_what_is_legal_and_surprising_is_told(what: str, call: str, words: list[str]) -> None:
    """What the kernel takes and does not do, or does and nobody expects, is warned of."""
    told = warned(what, call)
    assert [word for word in words if word not in told] == []


@pytest.mark.parametrize("what", ["SIGCHLD", "FS|FILES|SIGCHLD", "NEWUSER|NEWPID|SIGCHLD"])
def test_what_is_plain_is_not_warned_of(what: str) -> None:
    """A combination without surprises has no warnings."""
    assert explain(what).warnings == []


# --- for people, for programs


def test_it_reads_as_plain_text() -> None:
    """Printed, it says what was asked, the verdict, each resource, what exec undoes, and the notes."""
    text = str(explain("VM|FILES|NEWUTS|SIGCHLD"))
    first, *rest = text.splitlines()
    assert first == "clone3(CLONE_VM|CLONE_FILES|CLONE_NEWUTS, exit_signal=SIGCHLD): the kernel takes it"
    body = "\n".join(rest)
    assert "memory                  shared    new" in body
    assert "uts namespace" in body and "the caller's: user, mount, pid, net, ipc, cgroup, time" in body
    assert "exec, file table: unshared" in body
    assert "note: " in body
    assert max(map(len, text.splitlines())) < 130


def test_an_invalid_one_reads_as_its_reasons() -> None:
    """Printed, an invalid combination is its errno and the broken rules, without a table of what will not be."""
    assert str(explain("SIGHAND|SIGCHLD")).splitlines() == [
        "clone3(CLONE_SIGHAND, exit_signal=SIGCHLD): EINVAL Invalid argument",
        "  Signal handlers are addresses in memory: CLONE_SIGHAND needs CLONE_VM.",
    ]
    assert str(explain(0x18011, call="clone")).startswith("clone(CLONE_PARENT|CLONE_THREAD|0x11): EINVAL")


def test_it_is_json() -> None:
    """as_dict is plain data, through JSON and back."""
    data = explain("VM|SIGUSR1").as_dict()
    assert json.loads(json.dumps(data)) == data
    assert (data["flags"], data["names"], data["exit_signal_name"], data["valid"]) == (256, "CLONE_VM", "SIGUSR1", True)
    assert data["resources"][0] == {
        "name": "memory",
        "switch": "CLONE_VM",
        "fate": "shared",
        "text": "one address space: each sees what the other writes",
        "after_exec": "new",
        "exec_text": "the program gets an address space of its own",
    }
    assert explain("SIGHAND").as_dict()["errno"] == EINVAL


def test_it_is_frozen_and_survives_pickling() -> None:
    """An explanation cannot be changed, and is equal to its own pickle."""
    explanation: Explanation = explain("VM|FS")
    assert pickle.loads(pickle.dumps(explanation)) == explanation
    with pytest.raises(FrozenInstanceError):
        explanation.valid = False  # type: ignore[misc]


# --- the kernel's dialect


def test_release_and_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """Releases are compared by number, whatever follows them in the kernel's name."""
    for name, release in (("6.18.44-fc", (6, 18)), ("7.1-rc3", (7, 1)), ("5.10+", (5, 10))):
        monkeypatch.setattr(os, "uname", lambda name=name: SimpleNamespace(release=name))
        assert _kernel.release.__wrapped__() == release
    monkeypatch.setattr(_kernel, "release", lambda: (5, 10))
    assert _kernel.is_at_least("5.9") and _kernel.is_at_least("5.10") and not _kernel.is_at_least("6.0")


@pytest.mark.parametrize("answer", [ENOSYS, EPERM])
def test_without_clone3_the_release_answers(monkeypatch: pytest.MonkeyPatch, answer: int) -> None:
    """Where a filter or an old kernel keeps clone3 away, its flags are those of the kernel's release."""
    monkeypatch.setattr(_kernel, "_probe", lambda _flags: answer)
    monkeypatch.setattr(_kernel, "release", lambda: (5, 6))
    known = _kernel.known_flags.__wrapped__()
    assert known & Clone.NEWTIME and known & Clone.CLEAR_SIGHAND and known & Clone.VM
    assert not known & Clone.INTO_CGROUP and not known & Clone.AUTOREAP


def test_a_flag_is_known_unless_it_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that is refused for another reason than its argument is the probe of a flag that the kernel knows."""
    answers = {int(Clone.INTO_CGROUP): EBADF, int(Clone.NEWTIME): EPERM, 0: 0, int(Clone.CLEAR_SIGHAND): 0, 1 << 50: 0}
    monkeypatch.setattr(_kernel, "_probe", lambda flags: answers.get(flags, EINVAL))
    known = _kernel.known_flags.__wrapped__()
    assert known == 0xFFFFFF00 | Clone.INTO_CGROUP | Clone.NEWTIME | Clone.CLEAR_SIGHAND | 1 << 50
