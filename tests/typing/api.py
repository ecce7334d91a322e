"""How typed code uses sysclone: checked by mypy and pyright, never run."""

from __future__ import annotations

import subprocess
from typing import assert_type

import sysclone
from sysclone import Context, Explanation, Namespace, Share, Status, Task, explain, lowlevel


def add(a: int, b: int) -> int:
    return a + b


async def main() -> None:
    assert_type(sysclone.call(add, 1, b=2), int)
    assert_type(Context(share=Share.VM, timeout=2.0).call(add, 1, 2), int)
    task = sysclone.start(add, 1, 2)
    assert_type(task, Task)
    assert_type(task.pid, int)
    assert_type(task.wait(1.0), Status)
    assert_type(task.status, Status | None)
    await task
    with Context.light().start(add, 1, 2) as other:
        assert_type(sysclone.wait_any([task, other], timeout=1.0), list[Task])
    assert_type(Context(new=Namespace.USER | Namespace.NET).replace(tid=(7,)), Context)
    done = sysclone.run(["make"], context=Context(share=Share.FS), capture_output=True, text=True)
    assert_type(done.returncode, int)
    with sysclone.Popen(["cat"], stdin=subprocess.PIPE) as program:
        assert_type(program.status, Status | None)
    assert_type(explain("CLONE_VM|SIGCHLD"), Explanation)
    assert_type(explain(Context.thread()).valid, bool)
    seen = sysclone.inspect([1])
    assert_type(seen, sysclone.Inspection)
    assert_type(seen[1].shared, Share)
    assert_type(seen[1].group(Share.VM).answer, sysclone.Answer)
    assert_type(seen[1].shared_with(Share.FS), tuple[int, ...])
    assert_type([task.namespaces[Namespace.NET] for task in seen], list[int | None])
    assert_type(sysclone.relation(1, 2).shared, Share)
    assert_type(sysclone.relation(1, 2).flags, lowlevel.Clone)
    assert_type(sysclone.why(1), str)
    assert_type(lowlevel.gettid(), int)
    assert_type(lowlevel.kcmp(1, 2, lowlevel.KCMP_VM), int)
    lowlevel.clone3(lowlevel.CloneArgs(flags=lowlevel.CLONE_VM), entry=lowlevel.ENTRY_EXIT, argument=3)
