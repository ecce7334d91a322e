"""inspect among tasks that end, change and come to be while it looks: it leaves out, or says that it does not know."""

from __future__ import annotations

import os
import time

from features import requires
from helpers import in_subprocess

import sysclone
from sysclone import Context, inspect
from sysclone._inspect import inspect as room

pytestmark = requires("kcmp")

CHURN = """
import os, signal, subprocess, sys, threading, time
import sysclone
from sysclone import Answer, Context, Share, inspect, lowlevel

go_on, tell = os.pipe()
light = [Context.light().start(os.read, go_on, 1) for _ in range(4)]
files = [Context(share=Share.VM | Share.FILES).start(os.read, go_on, 1) for _ in range(4)]
plain = [Context().start(os.read, go_on, 1) for _ in range(4)]
steady = {task.pid for task in light + files + plain}
with_memory = {task.pid for task in light + files} | {os.getpid()}
with_files = {task.pid for task in files} | {os.getpid()}

# Programs that fork, exec, make threads and end as fast as they can, each sharing nothing with any process.
script = "while :; do (exec true) & (exec sh -c 'exec true') & /bin/true; wait; done"
threads = '''
import threading, os, ctypes
libc = ctypes.CDLL(None)
def body():
    libc.unshare(0x200); libc.unshare(0x400)
while True:
    all = [threading.Thread(target=body) for _ in range(5)]
    [t.start() for t in all]; [t.join() for t in all]
'''
churn = [subprocess.Popen(["sh", "-c", script], start_new_session=True, stderr=subprocess.DEVNULL) for _ in range(2)]
churn.append(subprocess.Popen([sys.executable, "-c", threads], start_new_session=True))
mine = {process.pid for process in churn}
looks = gone = unsettled = 0
try:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end or looks < 5:
        seen = inspect()
        looks += 1
        gone += len(seen.gone)
        for resource, members in ((Share.VM, with_memory), (Share.FILES, with_files)):
            for pid in members:
                assert set(seen[pid].group(resource).tids) & (steady | {os.getpid()}) == members, (resource, pid)
        for task in plain:
            assert seen[task.pid].alone >= Share.VM | Share.FILES | Share.FS, seen[task.pid]
        for task in seen:
            unsettled += any(group.answer is Answer.UNSETTLED for group in task.groups)
            if task.is_zombie:
                assert not task.shared & ~(Share.THREAD | Share.SIGHAND), task
        # Memory and handlers are never shared by two of these processes: dash's own vfork is the one exception.
        for group in seen.groups:
            pids = {seen._process_of(tid) for tid in group.tids}
            if group.resource in (Share.FS, Share.FILES, Share.SYSVSEM) and not pids & with_memory:
                strangers = [pid for pid in pids if seen._parent_of(pid) in mine or pid in mine]
                assert len(strangers) < 2, group
finally:
    for process in churn:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    os.write(tell, b"x" * len(steady))
for task in light + files + plain:
    task.result(20)
    task.close()
print(looks, gone, unsettled)
"""


def test_what_is_said_in_the_midst_of_churn_is_right():
    """While processes and threads come, exec, unshare and go, the groups of those that stay are right in every look."""
    looks, gone, unsettled = map(int, in_subprocess(CHURN.replace("SECONDS", "1.5"), seconds=40).split())

    assert looks >= 5
    assert gone > 0
    assert unsettled <= looks


@requires("set_tid")
def test_a_pid_that_changes_hands_is_left_out(monkeypatch):
    """A task that ends in the midst of a look, and whose pid another task then gets, is gone, and not the other."""
    usual = room.share_groups
    go_on, tell = os.pipe()
    first = Context().start(os.read, go_on, 1)
    started = inspect(first.pid)[first.pid].started
    while time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK") < started + 3:
        time.sleep(0.01)  # a start is told in ticks of the clock
    tasks = []

    def change(processes):
        found = usual(processes)
        os.write(tell, b"x")
        first.result(20)
        tasks.append(Context(tid=first.pid).start(os.read, go_on, 1))
        return found

    monkeypatch.setattr(room, "share_groups", change)
    try:
        seen = inspect(first.pid)
    finally:
        os.write(tell, b"x" * len(tasks))
        for task in [*tasks, first]:
            task.result(20)
            task.close()
        os.close(go_on)
        os.close(tell)

    assert tasks[0].pid == first.pid
    assert list(seen) == []
    assert seen.gone == (first.pid,)


def test_a_relation_to_one_that_ends_is_an_error(monkeypatch):
    """A task that ends while two are compared is a ProcessLookupError, and not a relation to nothing."""
    usual = room.share_groups
    go_on, tell = os.pipe()
    task = Context().start(os.read, go_on, 1)

    def end(processes):
        os.write(tell, b"x")
        task.result(20)
        return usual(processes)

    monkeypatch.setattr(room, "share_groups", end)
    try:
        sysclone.relation(os.getpid(), task.pid)
    except ProcessLookupError as error:
        told = str(error)
    finally:
        task.close()
        os.close(go_on)
        os.close(tell)

    assert str(task.pid) in told
