"""Lives, and the pictures and numbers that are made of them, from events that are written down here."""

from __future__ import annotations

import io
import json

import pytest

from sysclone._flags import Clone
from sysclone._trace.chrome import chrome_events, write_chrome
from sysclone._trace.events import (
    AttachEvent,
    CloneEvent,
    Event,
    ExecEvent,
    ExitEvent,
    SetnsEvent,
    UnshareEvent,
    fork_struct,
)
from sysclone._trace.html import page_data, write_html
from sysclone._trace.lives import Lives, kind_of
from sysclone._trace.summary import Summary, duration
from sysclone._trace.text import line

PTHREAD = int(Clone.VM | Clone.FS | Clone.FILES | Clone.SIGHAND | Clone.THREAD | Clone.SYSVSEM)


def born(
    time: float, parent: int, child: int | None, flags: int, *, signal: int = 17, pid: int = 0, errno: int | None = None
):
    """A clone3."""
    struct = (flags, 0, 0, 0, signal, 0, 0, 0, 0, 0, 0)
    return CloneEvent(time, pid or parent, parent, "clone3", struct, 88, (), child, child, errno)


def execs(time: float, tid: int, path: str, pid: int = 0, result: int | None = 0, errno: int | None = None):
    """An execve."""
    return ExecEvent(time, pid or tid, tid, "execve", path, (path, "a<b"), result=result, errno=errno)


def ends(time: float, tid: int, word: int = 0, pid: int = 0, superseded_by: int | None = None):
    """An end."""
    return ExitEvent(time, pid or tid, tid, "exit", word, superseded_by)


def lived(*events: Event) -> Lives:
    """The lives of some events."""
    lives = Lives()
    lives.add_all(events)
    return lives


WHOLE = (
    execs(1.0, 10, "/bin/sh"),
    CloneEvent(1.1, 10, 10, "vfork", fork_struct(True, 17), child=11, result=11),
    execs(1.2, 11, "/bin/true"),
    ends(1.3, 11),
    born(1.4, 10, 12, PTHREAD, signal=0),
    born(1.5, 10, None, int(Clone.NEWUSER), errno=1),
    UnshareEvent(1.6, 10, 12, "unshare", int(Clone.FS), 0),
    SetnsEvent(1.65, 10, 12, "setns", 5, int(Clone.NEWNET), 0),
    execs(1.7, 10, "/no/such", result=None, errno=2),
    born(1.8, 10, 13, int(Clone.VM | Clone.FILES)),
    ends(1.9, 13, 9),
    ends(2.0, 12, pid=10),
    ends(3.0, 10, 3 << 8),
)


def test_each_task_is_a_life():
    """Each birth is a life with its creator, from its call to its end, with its programs and failed calls."""
    first, vforked, thread, light = lived(*WHOLE).all

    assert [life.tid for life in (first, vforked, thread, light)] == [10, 11, 12, 13]
    assert (first.creator, vforked.creator, thread.creator, light.creator) == (None, first, first, first)
    assert (thread.pid, thread.is_thread, light.pid, light.is_thread) == (10, True, 13, False)
    assert [one.path for one in vforked.execs] == ["/bin/true"]
    assert len(first.failed) == 2
    assert vforked.lifetime() == pytest.approx(0.2)
    assert light.how_it_ended() == "killed by SIGKILL (9)"
    assert vforked.how_it_was_made() == "vfork(CLONE_VM|CLONE_VFORK|SIGCHLD)"


def test_names_are_of_programs():
    """A life is called after its last program, and one without any after its creator's at its birth."""
    lives = lived(
        execs(1.0, 10, "/bin/first"),
        born(1.1, 10, 11, 0),
        execs(1.2, 10, "/bin/second"),
        born(1.3, 10, 12, 0),
        AttachEvent(1.4, 30, 30, "attach", "old", ()),
        born(1.5, 30, 31, 0),
    )

    assert [life.name for life in lives.all] == ["second", "first", "second", "old", "old"]


def test_a_task_that_was_gone_when_it_was_met_is_called_after_its_creator():
    """A task whose creator was killed in the call, and that had ended when it was looked at, has no empty name anywhere."""
    gone = AttachEvent(1.2, 11, 11, "attach", "", (), 10)
    stranger = AttachEvent(1.3, 12, 12, "attach", "")
    lives = lived(execs(1.0, 10, "/bin/sh"), gone, stranger, ends(1.4, 11))

    assert [life.name for life in lives.all] == ["sh", "sh", "?"]
    assert [life.how_it_was_made() for life in lives.all] == ["the first program", *["its birth was not seen"] * 2]
    assert {one["args"]["name"] for one in chrome_events(lives) if one["ph"] == "M"} == {"sh", "?"}
    assert line(stranger) == "12    --- attached: ?, pid 12 ---"


def test_stretches_tell_what_is_shared_still():
    """What a task shares with its creator is less after an exec and an unshare, and the picture's colours say so."""
    first, vforked, thread, light = lived(*WHOLE).all

    assert [one.kind for one in first.stretches] == ["first"]
    assert [(one.began, one.kind, one.shares) for one in vforked.stretches] == [
        (1.1, "vfork", int(Clone.VM)),
        (1.2, "nothing", 0),
    ]
    assert [one.kind for one in thread.stretches] == ["thread", "thread"]
    assert thread.stretches[0].shares & ~thread.stretches[1].shares == Clone.FS
    assert [one.kind for one in light.stretches] == ["light"]


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        (-1, "first"),
        (0, "nothing"),
        (int(Clone.PIDFD | Clone.NEWNET), "nothing"),
        (int(Clone.FS), "some"),
        (int(Clone.IO), "some"),
        (int(Clone.VM), "light"),
        (int(Clone.VM | Clone.VFORK | Clone.FILES), "vfork"),
        (PTHREAD, "thread"),
    ],
)
def test_kinds(flags, kind):
    """Each set of flags has one kind, by the most that it shares."""
    assert kind_of(flags) == kind


def test_what_lasts_through_exec():
    """A cwd that is shared is so after an exec, and memory, files and handlers are not."""
    lives = lived(born(1.0, 1, 2, int(Clone.VM | Clone.FILES | Clone.FS | Clone.SIGHAND)), execs(1.1, 2, "/bin/true"))
    after = lives.all[1].stretches[-1]

    assert (after.kind, after.shares) == ("some", int(Clone.FS))


def test_an_exec_by_a_thread_takes_the_process_over():
    """A thread that calls exec goes on under its process's id, whose first thread has ended; the next end is its own."""
    lives = lived(
        execs(1.0, 10, "/bin/a"),
        born(1.1, 10, 11, PTHREAD, signal=0),
        ends(1.2, 10, superseded_by=11),
        execs(1.2, 11, "/bin/b", pid=10),
        born(1.3, 10, 12, 0),
        ends(1.4, 10, 7 << 8),
    )
    leader, thread, child = lives.all

    assert (leader.ended, leader.how_it_ended()) == (1.2, "ended by the exec of thread 11")
    assert (thread.tid, thread.later_tid, thread.ended) == (11, 10, 1.4)
    assert thread.how_it_ended() == "exited with 7"
    assert child.creator is thread


def test_an_id_that_is_used_again_is_another_life():
    """A pid that comes again after its end is of a task of its own."""
    lives = lived(born(1.0, 1, 2, 0), ends(1.1, 2), born(1.2, 1, 2, 0), ends(1.5, 2, 9))

    assert [(life.tid, life.ended) for life in lives.all] == [(1, None), (2, 1.1), (2, 1.5)]


def test_an_interrupted_call_is_no_failure():
    """What a signal interrupted and the kernel makes again is told once."""
    lives = lived(born(1.0, 1, None, 0, errno=513), born(1.1, 1, 2, 0))

    assert lives.all[0].failed == []
    assert Summary(lives).kinds[0].failed == 0


# --- numbers


def test_summary_counts_by_call_and_flags():
    """Births are counted by call and flags, with failures, rates and lifetimes."""
    told = Summary(lived(*WHOLE)).as_dict()
    kinds = {(kind["call"], *kind["flags"]): kind for kind in told["births"]}

    assert told["seconds"] == pytest.approx(2.0)
    assert (told["tasks"], told["execs"], told["failed_execs"]) == (4, 2, 1)
    assert told["changes"] == {"unshare(CLONE_FS)": 1, "setns(CLONE_NEWNET)": 1}
    assert kinds["vfork", "CLONE_VM", "CLONE_VFORK", "SIGCHLD"]["births"] == 1
    assert kinds["vfork", "CLONE_VM", "CLONE_VFORK", "SIGCHLD"]["median_lifetime"] == pytest.approx(0.2)
    assert kinds["clone3", "CLONE_NEWUSER", "SIGCHLD"]["failed"] == 1
    assert kinds["clone3", "CLONE_NEWUSER", "SIGCHLD"]["per_second"] == 0


def test_most_in_a_second():
    """The greatest number of births within a second is found wherever it lies."""
    times = [0.0, 0.9, 1.2, 1.3, 1.4, 1.85, 5.0]
    lives = lived(*(born(time, 1, 10 + place, 0) for place, time in enumerate(times)))

    assert Summary(lives).kinds[0].most_in_a_second() == 5


def test_summary_lines():
    """The table has a line for each kind, the most frequent first, a line for all, and the end in a sentence."""
    lines = list(Summary(lived(*WHOLE)).lines())

    assert lines[0].split()[:3] == ["births", "failed", "per"]
    assert [line.split()[0] for line in lines[1:6]] == ["1", "1", "1", "0", "3"]
    assert "4 tasks and 2 programs, 1 that failed in 2 s" in lines
    assert "1 time unshare(CLONE_FS)" in lines


@pytest.mark.parametrize(
    ("seconds", "told"), [(2.0, "2 s"), (0.0123, "12.3 ms"), (45.6e-6, "45.6 µs"), (1234.0, "1234 s"), (3e-8, "30 ns")]
)
def test_times_are_for_people(seconds, told):
    """Three digits and a unit."""
    assert duration(seconds) == told


# --- Chrome trace JSON


def slices_by_track(lives):
    """The slices of each track as whole nanoseconds, as Perfetto reads them."""
    tracks: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for event in chrome_events(lives):
        if event["ph"] == "X":
            begin = round(event["ts"] * 1000)
            tracks.setdefault((event["pid"], event["tid"]), []).append((begin, begin + round(event["dur"] * 1000)))
    return tracks


def nests(slices):
    """Whether each two slices are apart or one within the other."""
    return all(d <= a or b <= c or (c <= a and b <= d) or (a <= c and d <= b) for a, b in slices for c, d in slices)


def test_chrome_slices_lie_within_each_other():
    """On each track, slices nest or follow each other: that is what Perfetto needs of them."""
    tracks = slices_by_track(lived(*WHOLE))

    assert len(tracks) == 4
    assert all(nests(slices) for slices in tracks.values())


def test_chrome_slices_nest_at_any_times():
    """Times that no float has exactly are no reason to overlap, nor is an id that is given away in the midst of a call."""
    events: list[Event] = []
    time = 1234.1
    for number in range(300):
        time += 0.1 / 3
        events += [
            born(time, 1, 5, 0),
            execs(time + 0.001 / 7, 5, f"/bin/{number}"),
            execs(time + 0.002 / 7, 5, "/bin/again"),
            ends(time + 0.1 / 3 + (1e-6 if number % 2 else 0), 5),
        ]
    (_, slices) = slices_by_track(lived(*events)).values()

    assert len(slices) == 900
    assert nests(slices)


def test_chrome_arrows_go_from_creators_to_births():
    """Each birth is a flow with one start inside of a slice of the creator's, and one end at the child's beginning."""
    events = list(chrome_events(lived(*WHOLE)))
    starts = {event["id"]: event for event in events if event["ph"] == "s"}
    finishes = {event["id"]: event for event in events if event["ph"] == "f"}
    slices = [event for event in events if event["ph"] == "X"]

    assert starts.keys() == finishes.keys()
    assert len(starts) == 3
    for flow in (*starts.values(), *finishes.values()):
        at = [s for s in slices if (s["pid"], s["tid"]) == (flow["pid"], flow["tid"])]
        assert any(s["ts"] <= flow["ts"] <= s["ts"] + s["dur"] for s in at)
    assert {event["bp"] for event in finishes.values()} == {"e"}
    assert all(
        (event["cat"], event["name"]) == (finishes[key]["cat"], finishes[key]["name"]) for key, event in starts.items()
    )


def test_chrome_marks():
    """Exec, unshare, setns and failed calls are instants on the task's track."""
    marks = [(event["tid"], event["name"]) for event in chrome_events(lived(*WHOLE)) if event["ph"] == "i"]

    assert (11, "exec /bin/true") in marks
    assert (12, "unshare CLONE_FS") in marks
    assert (12, "setns CLONE_NEWNET") in marks
    assert (10, "clone3 CLONE_NEWUSER: EPERM") in marks
    assert (10, "execve /no/such: ENOENT") in marks


def test_chrome_file():
    """The file is one JSON object, with microseconds from the first event, and names for processes and threads."""
    out = io.StringIO()
    write_chrome(lived(*WHOLE), out, 100.0)
    told = json.loads(out.getvalue())
    first = next(event for event in told["traceEvents"] if event["ph"] == "X")

    assert told["otherData"]["began"] == 101.0
    assert (first["ts"], first["dur"]) == (0.0, 2e6)
    assert {"process_name", "thread_name"} == {event["name"] for event in told["traceEvents"] if event["ph"] == "M"}


# --- the page


def test_page_data():
    """The page has a row for each life, with strings once and microseconds."""
    told = page_data(lived(*WHOLE), "sh -c x", 100.0)
    rows = {row[0]: row for row in told["lives"]}
    kinds = [key for key, _ in told["kinds"]]

    assert (told["command"], told["began"], told["length"]) == ("sh -c x", 101.0, 2_000_000)
    assert len(told["strings"]) == len(set(told["strings"]))
    assert rows[11][2:5] == [0, 100_000, 300_000]
    assert [kinds[kind] for kind in rows[11][9][1::3]] == ["vfork", "nothing"]
    assert told["strings"][rows[11][10][1]] == "/bin/true a<b"
    assert rows[13][8] == 2


def test_page_is_one_file_that_asks_for_nothing():
    """The page names no other file and no address, and what a program is called cannot end its script."""
    out = io.StringIO()
    write_html(lived(execs(1.0, 10, "</script><script>alert(1)</script>")), out, "</script>", 0.0)
    page = out.getvalue()

    assert page.count("</script>") == 2
    assert "alert(1)" in page
    assert "http:" not in page
    assert "https:" not in page
    assert "src=" not in page
    assert "@import" not in page
    assert "url(" not in page


def test_page_of_2000_tasks_is_under_a_megabyte():
    """Two thousand tasks that each run a program of their own with a long line make a page of less than a megabyte."""
    events: list[Event] = []
    for number in range(2000):
        time = number / 1000
        events.append(born(time, 1, 100 + number, 0))
        long = ("/usr/bin/program", f"--number={number}", "x" * 900)
        events.append(ExecEvent(time, 100 + number, 100 + number, "execve", long[0], long, result=0))
        events.append(ends(time + 0.5, 100 + number))
    out = io.StringIO()
    write_html(lived(*sorted(events, key=lambda event: event.time)), out)

    assert len(out.getvalue().encode()) < 1_000_000
