"""`sysclone explain`: from any spelling to the kernel's verdict, for people and as JSON."""

from __future__ import annotations

import errno
import signal

import pytest

from sysclone import lowlevel

PASTED = """\
[pid  4711] clone3({flags=CLONE_VM|CLONE_VFORK|CLONE_CLEAR_SIGHAND, exit_signal=SIGCHLD, stack=0x7f4d3c7ff000, \
stack_size=0x9000}, 88) = 4712
"""
LOG = f"""\
execve("/bin/sh", ["sh"], 0x7ffe) = 0
{PASTED}\
clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD, child_tidptr=0x7f4d3c5d7a10) = 4713
exit_group(0) = ?
"""


@pytest.mark.parametrize(
    "words",
    [["CLONE_VM|CLONE_FS|SIGCHLD"], ["vm", "fs", "SIGCHLD"], ["VM,FS,SIGCHLD"], ["0x300", "--exit-signal", "chld"]],
)
def test_every_spelling(sysclone_json, words):
    """C names, short names, several words and numbers are the same flags."""
    told = sysclone_json("explain", *words)

    assert (told["flags"], told["exit_signal"], told["valid"]) == (0x300, signal.SIGCHLD, True)
    fates = {row["name"]: row["fate"] for row in told["resources"]}
    assert (fates["memory"], fates["fs"], fates["file table"]) == ("shared", "shared", "copied")


def test_text(sysclone):
    """For people there is the call, the verdict, and a line for each resource."""
    done = sysclone("explain", "CLONE_VM|CLONE_FS|SIGCHLD")

    assert done.returncode == 0
    assert done.stdout.startswith("clone3(CLONE_VM|CLONE_FS, exit_signal=SIGCHLD): the kernel takes it\n")
    assert "file table" in done.stdout


@pytest.mark.parametrize(
    "words", ["SIGHAND", "FS NEWNS", "THREAD VM SIGHAND SIGCHLD", "VM PARENT SIGCHLD", "0x8000000000000000"]
)
def test_refused(sysclone_json, sysclone, words):
    """What the kernel refuses gives 1 and the reasons; the kernel itself says the same."""
    told = sysclone_json("explain", *words.split())
    assert (told["valid"], told["errno"]) == (False, errno.EINVAL)
    assert told["reasons"]

    args = lowlevel.CloneArgs(flags=told["flags"], exit_signal=told["exit_signal"])
    with pytest.raises(OSError, match="Invalid argument"):
        lowlevel.clone3(args, entry=lowlevel.ENTRY_EXIT)

    done = sysclone("explain", *words.split())
    assert done.returncode == 1
    assert told["reasons"][0] in done.stdout


def test_the_old_call_has_other_rules(sysclone):
    """--call says for which of the two calls."""
    assert sysclone("explain", "VM PARENT SIGCHLD").returncode == 1
    assert sysclone("explain", "VM PARENT SIGCHLD", "--call", "clone").returncode == 0


def test_pasted_line(sysclone_json):
    """A line that strace printed is read from standard input."""
    told = sysclone_json("explain", "-", input=PASTED)

    assert told["names"] == "CLONE_VM|CLONE_VFORK|CLONE_CLEAR_SIGHAND"
    assert (told["call"], told["exit_signal_name"]) == ("clone3", "SIGCHLD")


def test_pasted_log(sysclone_json):
    """Of several lines those that call clone are explained, each by the call's own rules."""
    told = sysclone_json("explain", "-", input=LOG)

    assert [one["call"] for one in told] == ["clone3", "clone"]
    assert told[1]["names"] == "CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID"


def test_nothing_to_explain(sysclone):
    """Empty input, and input without a clone in it, is a failure: 125."""
    for text in ("", "\n\n", "read(3, 0x1, 1) = 0\nclose(3) = 0\n"):
        done = sysclone("explain", "-", input=text)
        assert done.returncode == 125
        assert "nothing to explain" in done.stderr


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["CLONE_FLIES"], "did you mean CLONE_FILES"),
        (["VM", "--exit-signal", "CHILD"], "did you mean SIGCHLD"),
        (["VM|SIGCHLD", "--exit-signal", "USR1"], "two exit signals"),
        (["VM", "--call", "fork"], "invalid choice"),
    ],
)
def test_unknown_names(sysclone, words, answer):
    """An unknown name is a failure, 125, with the name that was meant."""
    done = sysclone("explain", *words)

    assert done.returncode == 125
    assert answer in done.stderr
    assert "Traceback" not in done.stderr
