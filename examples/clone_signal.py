"""The exit signal: a child that leaves with SIGUSR1, whom only a wait with __WCLONE finds.

The low byte of clone's flags is the signal that the parent gets at the child's end. A plain wait knows only the children
whose signal is SIGCHLD, and says ECHILD of any other. (task.wait() looks for all; this program waits by hand.)

Output:

    [Child]  running, PID=4001
    [Child]  exiting
    [Parent] has got SIGUSR1
    [Parent] a plain wait says ECHILD
    [Parent] with __WCLONE: child PID=4001 exited with status 42
"""

import errno
import os
import signal
import sys
from types import FrameType

from sysclone import Context, lowlevel

received: list[str] = []


def note(number: int, frame: FrameType | None) -> None:
    received.append(signal.Signals(number).name)


def child_func() -> None:
    print(f"[Child]  running, PID={os.getpid()}")
    print("[Child]  exiting")
    sys.exit(42)


def plain_wait() -> str:
    try:
        os.waitpid(-1, 0)
    except ChildProcessError as error:
        return errno.errorcode[error.errno or 0]
    return "there it is"


def main() -> None:
    signal.signal(signal.SIGUSR1, note)

    with_signal = Context(exit_signal=signal.SIGUSR1)
    task = with_signal.start(child_func)
    plain = plain_wait()
    found = lowlevel.waitid(lowlevel.P_ALL, 0, lowlevel.WEXITED | lowlevel.__WCLONE)
    task.close()

    assert found is not None
    print(f"[Parent] has got {', '.join(received)}")
    print(f"[Parent] a plain wait says {plain}")
    print(f"[Parent] with __WCLONE: child PID={found.pid} exited with status {found.status}")


if __name__ == "__main__":
    main()
