"""Two libraries, two sets of flags: the threads of LinuxThreads each had a pid, NPTL's have one in common.

LinuxThreads shared as much as processes may share, and its threads were processes still. NPTL, glibc's since 2003, joins
them into one thread group with CLONE_THREAD: getpid() gives the group's id, and gettid() a thread's own.

Output:

    LinuxThreads: CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|SIGCHLD
        the program is pid 4000
        a thread has pid 4001 and tid 4001
        a thread has pid 4002 and tid 4002
        the threads share a pid: no
    NPTL: CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD|CLONE_SYSVSEM|CLONE_SETTLS|CLONE_PARENT_SETTID|CLONE_CHILD_CLEARTID
        the program is pid 4000
        a thread has pid 4000 and tid 4003
        a thread has pid 4000 and tid 4004
        the threads share a pid: yes
"""  # noqa: E501 (the flags are printed as strace does)

import os

from sysclone import Context, lowlevel


def ids() -> tuple[int, int]:
    return os.getpid(), lowlevel.gettid()


def show(library: str, context: Context) -> None:
    print(f"{library}: {context}")
    print(f"    the program is pid {os.getpid()}")
    tasks = [context.start(ids) for _ in range(2)]
    pairs = [task.result() for task in tasks]
    for pid, tid in pairs:
        print(f"    a thread has pid {pid} and tid {tid}")
    print(f"    the threads share a pid: {'yes' if len({pid for pid, _ in pairs}) == 1 else 'no'}")


def main() -> None:
    show("LinuxThreads", Context.linuxthreads())
    show("NPTL", Context.thread())


if __name__ == "__main__":
    main()
