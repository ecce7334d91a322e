"""The switches' names and numbers, the reading of text, and the table of rules, none of which asks a kernel."""

from __future__ import annotations

import pickle
import signal
from errno import EINVAL

import pytest

from sysclone._errors import ContextError
from sysclone._flags import (
    NAMED,
    RULES,
    Clone,
    Dialect,
    Namespace,
    Rule,
    Share,
    as_passed,
    broken_rules,
    format_flags,
    format_signal,
    format_step,
    parse_call,
    parse_flags,
)

HEADER = """
VM 0x100 FS 0x200 FILES 0x400 SIGHAND 0x800 PIDFD 0x1000 PTRACE 0x2000 VFORK 0x4000 PARENT 0x8000 THREAD 0x10000
NEWNS 0x20000 SYSVSEM 0x40000 SETTLS 0x80000 PARENT_SETTID 0x100000 CHILD_CLEARTID 0x200000 DETACHED 0x400000
UNTRACED 0x800000 CHILD_SETTID 0x1000000 NEWCGROUP 0x2000000 NEWUTS 0x4000000 NEWIPC 0x8000000 NEWUSER 0x10000000
NEWPID 0x20000000 NEWNET 0x40000000 IO 0x80000000 NEWTIME 0x80 CLEAR_SIGHAND 0x100000000 INTO_CGROUP 0x200000000
AUTOREAP 0x400000000 NNP 0x800000000 PIDFD_AUTOKILL 0x1000000000 EMPTY_MNTNS 0x2000000000
"""
VALUES = {name: int(value, 0) for name, value in zip(HEADER.split()[::2], HEADER.split()[1::2], strict=True)}


# --- names and numbers


def test_the_values_are_those_of_the_kernels_header() -> None:
    """Every name has the value that linux/sched.h gives it, and there is no other name."""
    assert {flag.name: int(flag) for flag in Clone} == VALUES


def test_unknown_bits_are_kept() -> None:
    """A bit that has no name survives arithmetic, so that a newer kernel's flag can be passed on."""
    assert int(Clone(1 << 50) | Clone.VM) == 1 << 50 | 0x100


def test_share_and_namespace_are_clone_bits() -> None:
    """The words of a Context are the very bits of the call, under the kernel's names."""
    assert {int(share) for share in Share} <= {int(flag) for flag in Clone}
    assert Namespace.MOUNT == Clone.NEWNS and Namespace.TIME == Clone.NEWTIME
    assert len(Namespace) == 8 and len(Share) == 7


def test_str_of_flags_gives_c_names() -> None:
    """Printing flags gives what a C programmer would write."""
    assert str(Clone.FS | Clone.VM) == "CLONE_VM|CLONE_FS"


@pytest.mark.parametrize(
    ("flags", "exit_signal", "text"),
    [
        (0, 0, "0"),
        (0, 17, "SIGCHLD"),
        (0x100 | 0x4000, 17, "CLONE_VM|CLONE_VFORK|SIGCHLD"),
        (0x180, 0, "CLONE_VM|CLONE_NEWTIME"),
        (0x100 | 1 << 40, 10, "CLONE_VM|0x10000000000|SIGUSR1"),
        (0x11, 0, "0x11"),
        (0, 34, "SIGRT_2"),
        (0, 64, "SIGRT_32"),
        (0, 65, "65"),
    ],
)
def test_format_is_straces(flags: int, exit_signal: int, text: str) -> None:
    """Flags are printed in strace's order and words."""
    assert format_flags(flags, exit_signal) == text


def test_format_step_leaves_out_what_is_none() -> None:
    """A step names its flags without their prefix, and only the details that it has."""
    assert format_step("clone3", Clone.NEWUSER | Clone.NEWPID) == "clone3(NEWUSER|NEWPID)"
    assert format_step("clone3", 0, cgroup="/x", set_tid=None) == "clone3(0, cgroup=/x)"


# --- reading text


@pytest.mark.parametrize(
    ("text", "flags", "exit_signal", "call"),
    [
        ("CLONE_VM|CLONE_FS|SIGCHLD", 0x300, 17, None),
        ("vm, fs , SIGCHLD", 0x300, 17, None),
        ("SIGHAND|VM", 0x900, 0, None),
        ("Share.VM | Share.FILES", 0x500, 0, None),
        ("0", 0, 0, None),
        ("0x1200011", 0x1200011, 0, None),
        ("0x100ULL|FS", 0x300, 0, None),
        ("SIGRTMIN+2", 0, int(signal.SIGRTMIN) + 2, None),
        ("SIGRTMAX-1", 0, 63, None),
        ("SIGRT_2", 0, 34, None),
        ("VM, exit_signal=SIGUSR1", 0x100, 10, None),
        (
            "clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD, child_tidptr=0x7f0) = 182",
            0x1200000,
            17,
            "clone",
        ),
        (
            "[pid 7] clone3({flags=CLONE_VM|CLONE_VFORK|CLONE_CLEAR_SIGHAND, exit_signal=SIGCHLD, stack=0x7f0}, 88) = 12",
            0x100004100,
            17,
            "clone3",
        ),
        (
            "clone3({flags=CLONE_VM|CLONE_THREAD, exit_signal=0, stack=0x7, tls=0x1} => {parent_tid=[31702]}, 88) = 31702",
            0x10100,
            0,
            "clone3",
        ),
        ("clone(child_stack=NULL, flags=0x400000 /* CLONE_??? */|SIGCHLD) = 5", 0x400000, 17, "clone"),
        ("clone(child_stack=NULL, flags=SIGRTMIN <unfinished ...>", 0, 32, "clone"),
        ("clone(child_stack=NULL, flags=80)       = 31645", 80, 0, "clone"),
        ("clone3({flags=0, exit_signal=300, stack=NULL, stack_size=0}, 88) = -1 EINVAL", 0, 300, "clone3"),
        ("vfork()                                 = 31656", 0x4100, 17, "clone"),
        ("31661 fork() = 3", 0, 17, "clone"),
        ("clone(child_fn, stack + SIZE, CLONE_VM | CLONE_FILES | SIGUSR1, NULL);", 0x500, 10, "clone"),
        ("clone3(NEWUSER|NEWPID, cgroup=/x)", 0x30000000, 0, "clone3"),
        ("clone3(CLONE_VM|CLONE_FS, exit_signal=SIGCHLD): the kernel takes it", 0x300, 17, "clone3"),
    ],
)
def test_text_is_read(text: str, flags: int, exit_signal: int, call: str | None) -> None:
    """Names, numbers, lines of strace and of C, and our own steps are read for what they say."""
    assert parse_call(text) == (flags, exit_signal, call)
    assert parse_flags(text) == (flags, exit_signal)


@pytest.mark.parametrize("flags", [0, 0x100, NAMED, 0x3FFFFFF80, 1 << 63, 0x7F])
@pytest.mark.parametrize("exit_signal", [0, 1, 17, 32, 33, 34, 64])
def test_what_is_printed_can_be_read(flags: int, exit_signal: int) -> None:
    """Reading undoes printing."""
    assert parse_flags(format_flags(flags, exit_signal)) == (flags, exit_signal)


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("", None, ["no flags here"]),
        (" | ", None, ["no flags here"]),
        ("CLONE_FLIES", "flags", ["'CLONE_FLIES'", "CLONE_FILES"]),
        ("NEWUSR", "flags", ["'NEWUSR'", "CLONE_NEWUSER"]),
        ("CLONE_PID", "flags", ["2.5.16", "CLONE_PIDFD"]),
        ("SIGCHILD", "exit_signal", ["'SIGCHILD'", "SIGCHLD"]),
        ("SIGHANDS", "exit_signal", ["CLONE_SIGHAND"]),
        ("SIGUSR1|SIGUSR2", "exit_signal", ["SIGUSR1, SIGUSR2"]),
        ("unshare(CLONE_NEWUSER)", "flags", ["'unshare'"]),
        ("-1", "flags", ["64 bits"]),
        ("0x10000000000000000", "flags", ["64 bits"]),
        ("0x", "flags", ["'0x'"]),
    ],
)
def test_text_that_says_nothing_is_refused(text: str, field: str | None, words: list[str]) -> None:
    """What cannot be read is named, and names that resemble it are offered."""
    with pytest.raises(ContextError) as caught:
        parse_flags(text)
    assert caught.value.field == field
    assert [word for word in words if word not in str(caught.value)] == []


# --- rules


def reasons(text: str, call: str = "clone3", dialect: Dialect | None = None) -> str:
    """The broken rules' reasons for a combination in words."""
    flags, exit_signal = parse_flags(text)
    return " ".join(rule.reason for rule in broken_rules(flags, exit_signal, call, dialect or Dialect()))


@pytest.mark.parametrize("call", ["clone3", "clone"])
@pytest.mark.parametrize(
    "text",
    [
        "SIGHAND",
        "VM|THREAD",
        "FS|NEWNS",
        "FS|NEWUSER",
        "VM|SIGHAND|THREAD|NEWUSER",
        "VM|SIGHAND|THREAD|NEWPID",
        "NEWIPC|SYSVSEM",
    ],
)
def test_rules_of_both_calls(call: str, text: str) -> None:
    """What copy_process and copy_namespaces refuse is refused whichever call it comes by, and by one rule."""
    assert len(broken_rules(*parse_flags(text), call)) == 1


@pytest.mark.parametrize(
    "text",
    ["DETACHED", "VM|SIGHAND|CLEAR_SIGHAND", "PARENT|SIGCHLD", "VM|SIGHAND|THREAD|SIGCHLD", "0x11", "1099511627776"],
)
def test_rules_of_clone3_alone(text: str) -> None:
    """clone3 checks its arguments where the old call cuts off, ignores, or has no such thing."""
    assert len(broken_rules(*parse_flags(text), "clone3")) == 1
    assert broken_rules(*parse_flags(text), "clone") == []


@pytest.mark.parametrize("text", ["PIDFD|PARENT_SETTID", "PIDFD|DETACHED"])
def test_rules_of_the_old_call_alone(text: str) -> None:
    """The old call's pidfd has no slot of its own, and keeps CLONE_DETACHED free for later."""
    assert len(broken_rules(*parse_flags(text), "clone")) == 1


def test_an_exit_signal_beyond_the_last() -> None:
    """clone3 refuses signals above 64; the old call does where the kernel checks it."""
    assert broken_rules(0, 64) == [] and len(broken_rules(0, 65)) == 1
    assert len(broken_rules(0, 65, "clone")) == 1
    assert broken_rules(0, 65, "clone", Dialect(old_call_checks_signal=False)) == []


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("AUTOREAP", 0),
        ("AUTOREAP|SIGCHLD", 1),
        ("AUTOREAP|PARENT", 1),
        ("AUTOREAP|VM|SIGHAND|THREAD", 1),
        ("NNP|VM|SIGHAND|THREAD", 1),
        ("PIDFD_AUTOKILL", 2),
        ("PIDFD_AUTOKILL|PIDFD", 1),
        ("PIDFD_AUTOKILL|PIDFD|AUTOREAP", 0),
        ("EMPTY_MNTNS|FS", 1),
    ],
)
def test_rules_of_linux_7_1(text: str, broken: int) -> None:
    """The newest flags have rules among themselves, for kernels that know them."""
    assert len(broken_rules(*parse_flags(text))) == broken


def test_unknown_flags_are_named_with_the_release_that_has_them() -> None:
    """A flag that this kernel is too old for is told of with its release; one without a name by its number."""
    told = reasons("AUTOREAP|0x10000000000", dialect=Dialect(known=0x3FFFFFF80))
    assert "CLONE_AUTOREAP" in told and "7.1" in told and "0x10000000000" in told


def test_a_pidfd_for_a_thread_depends_on_the_kernel() -> None:
    """Before Linux 6.9 both calls refused CLONE_PIDFD with CLONE_THREAD."""
    flags = int(Clone.VM | Clone.SIGHAND | Clone.THREAD | Clone.PIDFD)
    assert broken_rules(flags) == []
    for call in ("clone3", "clone"):
        assert len(broken_rules(flags, 0, call, Dialect(thread_pidfd=False))) == 1


def test_several_rules_are_told_of_together() -> None:
    """A combination with three faults is told all three at once."""
    assert len(broken_rules(int(Clone.SIGHAND | Clone.THREAD | Clone.NEWPID | Clone.DETACHED), 99)) == 5


def test_the_old_call_reads_one_word() -> None:
    """Its 32 bits hold the signal in the low byte, where CLONE_NEWTIME would be; what is above is cut off."""
    assert as_passed(int(Clone.VM | Clone.NEWTIME | Clone.CLEAR_SIGHAND), 17, "clone") == (0x100, 0x91)
    assert as_passed(0x191, 5, "clone3") == (0x191, 5)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.reason)
def test_every_rule_is_fit_to_be_read(rule: Rule) -> None:
    """Each rule has a call that knows it, an errno, and one sentence with a full stop."""
    assert rule.calls and set(rule.calls) <= {"clone3", "clone"}
    assert rule.errno == EINVAL
    assert rule.reason[0].isupper() or rule.reason.startswith(("clone3", "no_new_privs"))
    assert rule.reason.endswith(".") and rule.reason.count(". ") == 0


def test_every_rule_is_broken_by_something_and_kept_by_nothing_asked() -> None:
    """No rule is dead, and no flags at all break none."""
    dialect = Dialect(known=0x3FFFFFF80, thread_pidfd=False)
    samples = [(flags, exit_signal) for flags in [1, 1 << 40, *pairs()] for exit_signal in (0, 17, 65)]
    for rule in RULES:
        assert any(rule.breaks(flags, exit_signal, dialect) for flags, exit_signal in samples), rule.reason
        assert not rule.breaks(0, 0, dialect)


def pairs() -> list[int]:
    """Every flag alone and with every other."""
    return [int(one | other) for one in Clone for other in Clone]


def test_flags_survive_pickling() -> None:
    """Flags, shares and namespaces go through pickle, nameless bits too."""
    for value in (Clone.VM | Clone(1 << 50), Share.VM | Share.FS, Namespace.USER):
        assert pickle.loads(pickle.dumps(value)) == value


def test_signals_without_a_name_are_numbers() -> None:
    """What is no signal is printed as the number it is."""
    assert format_signal(0) == "0" and format_signal(200) == "200"
