"""What a zygote leaves to its owner: the intermediate of a task in other namespaces, and what is there after its death."""

from __future__ import annotations

import os
from errno import ESRCH

from .. import _core
from .._data.result import BETWEEN, CLAIM, PID, ResultPage
from .._errors import CloneError, ZygoteError
from .._task.copied import put_down
from .._task.wait import WALL
from .request import BEGUN, REVOKED


def reap_between(page: ResultPage) -> None:
    """Reap the process through which a task has come to other namespaces: it has ended, and is this process's child."""
    pid = page.word(BETWEEN) if page.map is not None else 0
    if not pid:
        return
    try:
        os.waitpid(pid, WALL)
    except ChildProcessError:
        pass  # a wait of the program's own was there first
    page.set_word(BETWEEN, 0)


def found(page: ResultPage, mark: str) -> tuple[int, int] | None:
    """The task that a dead zygote had made, if it has begun; otherwise it is ended, and never will.

    Args:
        page: of the call.
        mark: what the zygote's clones have in their command line, as long as they have not begun.

    Raises:
        ZygoteError: it has begun, and was reaped by another.
        CloneError: there is no fd for it.
    """
    begun = page.exchange(CLAIM, 0, REVOKED) == BEGUN
    if not begun:
        while _end_half_born(page, mark):
            pass
    reap_between(page)
    pid = page.word(PID)
    if not pid:
        return None
    try:
        if begun:
            return pid, _core.pidfd_open(pid, 0)
        os.waitpid(pid, WALL)
    except ChildProcessError:
        return None
    except OSError as e:
        page.close()
        if e.errno == ESRCH:
            raise ZygoteError(
                f"the zygote ended, and process {pid}, which it had made, was reaped by another"
            ) from None
        raise CloneError(e.errno or 0, step="pidfd_open") from None
    return None


def _end_half_born(page: ResultPage, mark: str) -> bool:
    """End one that was cloned for this page and has not begun; whether there was one.

    A copy of this very process may have the page's fds too: what it does not have is the zygote's command line.
    """
    inodes = {os.fstat(page.fd).st_ino, os.fstat(page.theirs).st_ino}
    for child in _children():
        try:
            with open(f"/proc/{child}/cmdline", "rb") as f:
                if not f.read().rstrip(b"\0").endswith(mark.encode()):
                    continue
            if inodes.isdisjoint(os.stat(f"/proc/{child}/fd/{fd}").st_ino for fd in os.listdir(f"/proc/{child}/fd")):
                continue
            pidfd = _core.pidfd_open(int(child), 0)
        except OSError:
            continue
        put_down(int(child), pidfd)
        return True
    return False


def _children() -> list[str]:
    found: list[str] = []
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/children") as f:
                found += f.read().split()
        except OSError:
            continue
    return found
