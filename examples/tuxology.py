"""Neither process nor thread: a task with a pid and a memory of its own that shares open files and working directory.

CLONE_FS | CLONE_FILES | CLONE_PARENT | SIGCHLD: the task is the child of its creator's parent, so this program makes a
creator, which makes the task, and waits for both. The old call takes a signal beside CLONE_PARENT and ignores it (a
sibling leaves with its creator's own signal); clone3 refuses the pair, and explain tells.

Output:

    CLONE_FS|CLONE_FILES|CLONE_PARENT|SIGCHLD
    parent:   pid 4000
    creator:  pid 4001, child of pid 4000
    task:     pid 4002, child of pid 4000
    memory:   the task set 42, its creator still has 9
    files:    the creator can read from the file that the task opened
    cwd:      the task went to /, and its creator is in /
    handlers: the task ignores SIGUSR1, and it still reaches its creator: True
    the parent's wait finds the task: it exited with 0
    the old call takes it: True
    clone3 takes it: False (EINVAL)
        A sibling leaves with the caller's own exit signal: with CLONE_PARENT, clone3 takes none but 0.
"""

import errno
import os
import signal

import sysclone
from sysclone import Context, Share

variable = 9


def test() -> tuple[int, int, int, int]:
    """What the new task does."""
    global variable
    variable = 42
    os.chdir("/")
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    return os.getpid(), os.getppid(), variable, os.open(__file__, os.O_RDONLY)


def create(context: Context) -> int:
    """Makes the task and looks at what it did; gives its pid."""
    reached: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: reached.append(number))
    with context.start(test) as task:
        pid, parent, value, fd = task.result()
    readable = bool(os.read(fd, 1))
    signal.raise_signal(signal.SIGUSR1)
    print(f"creator:  pid {os.getpid()}, child of pid {os.getppid()}")
    print(f"task:     pid {pid}, child of pid {parent}")
    print(f"memory:   the task set {value}, its creator still has {variable}")
    print(f"files:    the creator {'can' if readable else 'cannot'} read from the file that the task opened")
    print(f"cwd:      the task went to /, and its creator is in {os.getcwd()}")
    print(f"handlers: the task ignores SIGUSR1, and it still reaches its creator: {bool(reached)}")
    return task.pid


def main() -> None:
    context = Context(share=Share.FS | Share.FILES, parent="sibling", exit_signal=signal.SIGCHLD)
    print(context)
    print(f"parent:   pid {os.getpid()}")

    pid = Context.fork().call(create, context)

    _, status = os.waitpid(pid, 0)
    print(f"the parent's wait finds the task: it exited with {os.waitstatus_to_exitcode(status)}")
    print(f"the old call takes it: {sysclone.explain(str(context), call='clone').valid}")
    refused = sysclone.explain(str(context), call="clone3")
    print(f"clone3 takes it: {refused.valid} ({errno.errorcode[refused.errno]})")
    print("\n".join(f"    {reason}" for reason in refused.reasons))


if __name__ == "__main__":
    main()
