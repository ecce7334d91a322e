"""Traces without a kernel: records to events, events to a tree, a line, a choice."""

from __future__ import annotations

import json
import pickle

import pytest

from sysclone._trace import tracefs
from sysclone._trace.build import Builder
from sysclone._trace.events import AttachEvent, CloneEvent, ExecEvent, ExitEvent, SetnsEvent, UnshareEvent, fork_struct
from sysclone._trace.policy import Policy
from sysclone._trace.text import line, quote
from sysclone._trace.tree import family, lines
from sysclone.lowlevel import Clone

ENTRY, DONE, EXEC, EXIT, ATTACHED = range(5)
FORK, EXECVE = 2, 6
NS = 1_000_000_000


def entry(tid, call, at=1, first=None, second=None):
    """A call's beginning."""
    return (ENTRY, tid, at * NS, call, 0, (0,) * 6, first, second, 0, False)


def done(tid, result, child=0, at=2):
    """A call's end."""
    return (DONE, tid, at * NS, result, child, None, None, ())


def built(*records, root=7):
    """The events of some records."""
    return Builder(lambda tid: (f"task {tid}", ()), root).feed(records)


def test_entry_and_result_are_one_event():
    """A call that succeeds has a child and a result, one that fails an errno, with the time of its entry."""
    made, failed = built(entry(7, FORK), done(7, 8, 8), entry(7, FORK, 3), done(7, -11, at=4))

    assert (made.time, made.duration, made.child, made.result, made.errno) == (1.0, 1.0, 8, 8, None)
    assert (failed.time, failed.child, failed.result, failed.errno) == (3.0, None, None, 11)


def test_a_call_that_does_not_return_is_told_at_the_end():
    """A task that ends in a call has an event with neither result nor errno, before its end."""
    call, end = built(entry(7, FORK), (EXIT, 7, 2 * NS, 9))

    assert (call.result, call.errno) == (None, None)
    assert line(call) == "7     fork( <unfinished ...>) = ?"
    assert line(end) == "7     +++ killed by SIGKILL +++"


def test_exec_by_a_thread_takes_the_leaders_id():
    """The leader ends as superseded, its own call unfinished, and the exec is the thread's in the leader's process."""
    records = (ATTACHED, 7, 0, 7, 1, ()), (ATTACHED, 8, 0, 7, 1, ())
    begun = entry(7, FORK), entry(8, EXECVE, 1, "/x", ("x",)), (EXEC, 7, 2 * NS, 8)
    attached, call, end, executed = built(*records, *begun)

    assert (attached.tid, attached.pid) == (8, 7)
    assert (call.tid, call.result) == (7, None)
    assert (end.tid, end.superseded_by) == (7, 8)
    assert (executed.pid, executed.tid, executed.argv) == (7, 8, ("x",))


def test_the_root_needs_no_introduction():
    """Of the tasks that are met, the program that was started is not told."""
    assert [one.tid for one in built((ATTACHED, 7, 0, 7, 1, ()), (ATTACHED, 9, 0, 9, 1, ()))] == [9]


EVENTS = [
    CloneEvent(1.0, 7, 7, "clone", (0x100, 0, 0, 0, 17, 5, 0, 0, 0, 0, 0), child=8, result=8),
    CloneEvent(1.0, 7, 7, "clone3", (1 << 40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), 88, errno=22),
    UnshareEvent(1.0, 7, 7, "unshare", 0x40000000, 0),
    SetnsEvent(1.0, 7, 7, "setns", 3, 0, None, 9),
    ExecEvent(1.0, 7, 7, "execve", "/x", ("x",), result=0),
    ExitEvent(1.0, 7, 7, "exit", 0x300),
    AttachEvent(1.0, 7, 7, "attach", "sh", ("sh",), 1),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_event_is_data(event):
    """Each kind has the common keys as JSON, cannot be changed, and survives pickling."""
    told = json.loads(json.dumps(event.as_dict()))

    assert told.keys() >= {"call", "pid", "tid", "time", "flags"}
    assert ("result" in told) != ("errno" in told)
    assert pickle.loads(pickle.dumps(event)) == event
    with pytest.raises(AttributeError):
        event.pid = 1


def test_unknown_flags_are_told_as_a_number():
    """A bit without a name is a number in strace's words, and in the list of names."""
    assert "flags=0x10000000000 /* CLONE_??? */" in line(EVENTS[1])
    assert EVENTS[1].as_dict()["flags"] == ["0x10000000000"]


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("plain", '"plain"'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("tab\tline\n", '"tab\\tline\\n"'),
        ("\x01", '"\\1"'),
        ("\x017", '"\\0017"'),
        ("é", '"\\303\\251"'),
        ("x" * 32, f'"{"x" * 32}"'),
        ("x" * 33, f'"{"x" * 32}"...'),
        ("\udcff", '"\\377"'),
    ],
)
def test_strings_are_quoted_as_by_strace(text, quoted):
    """Quotes, escapes, bytes beyond ASCII, and what is too long."""
    assert quote(text) == quoted


def birth(maker, child, flags=0):
    """A task made by another."""
    return CloneEvent(1.0, maker, maker, "clone", (flags, *(0,) * 10), child=child, result=child)


def test_the_tree_keeps_every_exec():
    """Three execs of one task are three nodes in a chain, and what it makes hangs below the one that made it."""
    execs = [ExecEvent(float(i), 7, 7, "execve", f"/{i}", (), result=0) for i in range(3)]
    [root] = family([execs[0], birth(7, 8), execs[1], birth(7, 9), execs[2], ExitEvent(9.0, 7, 7, "exit", 0)])

    assert [node.program.path if node.program else node.tid for node in root.walk()] == ["/0", 8, "/1", 9, "/2"]
    assert len(list(lines([root]))) == 5


def chosen(events, *policy, **keywords):
    """The tids of the events that a policy passes on."""
    choice = Policy(*policy, False, **keywords)
    choice.begin(7)
    return [one.tid for one in choice.chosen(events)]


FAMILY = [birth(7, 8), birth(7, 9, int(Clone.THREAD)), birth(8, 10), birth(9, 11), ExitEvent(2.0, 10, 10, "exit", 0)]


def test_choices():
    """Threads or processes, generations, failures."""
    assert chosen(FAMILY, "all", None, False) == [7, 7, 8, 9, 10]
    assert chosen(FAMILY, "threads", None, False) == [7, 7, 9]
    assert chosen(FAMILY, "processes", None, False) == [7, 7, 8, 10]
    assert chosen(FAMILY, "all", 0, False) == [7, 7]
    assert chosen(FAMILY, "all", 1, False) == [7, 7, 8, 9]
    assert chosen([*FAMILY, EVENTS[3]], "all", None, True) == [7]
    assert chosen([birth(20, 21), birth(21, 22)], "all", 0, False, everybody=True) == [20]


LINE = b"            sh -x-1234    [001] .....  2669.517563: "


def test_lines_of_tracefs():
    """Names with blanks and signs, lost events, and what is not ours."""
    made = tracefs.parse(LINE + b"task_newtask: pid=5 comm=a pid=3 clone_flags=1200000 oom_score_adj=-17")
    began = tracefs.parse(LINE + b"sched_process_exec: filename=/a b pid=6 pid=7 old_pid=8")
    ended = tracefs.parse(LINE + b"sched_process_exit: comm=x pid=2 pid=9 prio=120 group_dead=true")

    assert (made.tid, made.other, made.flags, made.when) == (1234, 5, 0x1200000, 2669.517563)
    assert (began.tid, began.other, began.name) == (7, 8, "/a b pid=6")
    assert ended.tid == 9
    assert tracefs.parse(b"CPU:1 [LOST 12 EVENTS]").other == 12
    assert tracefs.parse(LINE + b"sched_switch: nothing") is None


def test_a_vfork_shares_memory():
    """What fork and vfork amount to has their flags and signal."""
    assert fork_struct(True, 17)[0] == Clone.VM | Clone.VFORK
    assert fork_struct(False, 17)[4] == 17
