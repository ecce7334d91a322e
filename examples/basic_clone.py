"""The minimal clone: a function, its argument, SIGCHLD, and nothing shared.

clone's child starts in a function of its own instead of returning from the call, and the creator gets its pid. What the
function returns in C is an exit status; here it is any value.

Output:

    [Parent] PID=4000, creating child with clone(SIGCHLD)...
    [Child]  PID=4001, message='hello from clone'
    [Parent] Child PID=4001 exited with 0, and returned 16
"""

import os

from sysclone import Context


def child_func(message: str) -> int:
    print(f"[Child]  PID={os.getpid()}, {message=}")
    return len(message)


def main() -> None:
    context = Context()
    print(f"[Parent] PID={os.getpid()}, creating child with clone({context})...")

    with context.start(child_func, "hello from clone") as child:
        status = child.wait()
        print(f"[Parent] Child PID={child.pid} {status}, and returned {child.result()}")


if __name__ == "__main__":
    main()
