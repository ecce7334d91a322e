"""pthread_join, by hand: the futex of CLONE_CHILD_CLEARTID.

A thread is nobody's child, so no wait tells of its end. Instead the kernel clears a word of its creator's memory when
the thread is done, and wakes whoever sleeps on it: that sleep is pthread_join. Only then may the stack be freed.

This is the lowest floor: a raw clone of an entry in C, which exits at once. Python functions need what sysclone.call does.

Output:

    clone(CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD|CLONE_SYSVSEM|CLONE_PARENT_SETTID|CLONE_CHILD_CLEARTID)
    the kernel has written the thread's id for us: True
    waiting for it as for a child: No child processes
    joined: the word is 0
"""

import ctypes
import os

from sysclone import Context, lowlevel
from sysclone.lowlevel import Clone

STACK_BYTES = 64 * 1024


def join(word: ctypes.c_int) -> None:
    # In a loop: the word may be cleared before the sleep begins, and a sleeper may be woken for nothing.
    while tid := word.value:
        lowlevel.futex_wait(ctypes.addressof(word), tid)


def main() -> None:
    flags = Context.thread().flags & ~Clone.SETTLS
    stack = ctypes.create_string_buffer(STACK_BYTES)
    parent_tid = ctypes.c_int()
    child_tid = ctypes.c_int(-1)
    print(f"clone({flags!s})")

    tid = lowlevel.clone(
        flags,
        ctypes.addressof(stack) + STACK_BYTES,
        ctypes.addressof(parent_tid),
        ctypes.addressof(child_tid),
        entry=lowlevel.ENTRY_EXIT,
    )
    print(f"the kernel has written the thread's id for us: {parent_tid.value == tid}")
    try:
        os.waitpid(tid, 0)
    except ChildProcessError as error:
        print(f"waiting for it as for a child: {error.strerror}")
    join(child_tid)
    print(f"joined: the word is {child_tid.value}")


if __name__ == "__main__":
    main()
