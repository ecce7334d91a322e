"""The library function and the calls beneath it: clone in C's library, clone in the kernel, and clone3.

    int  clone (int (*fn)(void *), void *stack, int flags, void *arg, …)   the library's
    long clone (unsigned long flags, void *stack, int *parent_tid, int *child_tid, unsigned long tls)   the kernel's
    long clone3(struct clone_args *args, size_t size)   the kernel's newer one

The kernel's calls take no function: the child goes on where its creator does, with 0 for an answer. A stack of 0 is the
creator's own, copied as it is written to. The old call's flags end in a byte that is the exit signal, and its stack is
the *highest* address, since stacks grow downwards; clone3 has a field for the signal, and takes lowest address and size.

Output:

    library: clone(fn, stack, flags, arg): fn gave 42
    kernel:  clone(SIGCHLD) went on twice: the child exited with 7
    kernel:  clone(SIGUSR1) left with SIGUSR1: a plain wait says ECHILD, one with __WCLONE exited with 7
    kernel:  clone(CLONE_VM|SIGCHLD, low + size): exited with 3
    kernel:  clone3({flags=CLONE_VM, exit_signal=SIGCHLD, stack=low, stack_size=size}): exited with 3
    kernel:  clone3({flags=CLONE_VM, exit_signal=SIGCHLD, stack=low + size}): EINVAL
"""

import ctypes
import errno
import os
import signal

from sysclone import Context, Share, lowlevel
from sysclone.lowlevel import CLONE_VM, CloneArgs

SIZE = 64 * 1024


def go_on_twice(flags: int) -> int:
    """As fork: both return from the call, and the child leaves at once."""
    pid = lowlevel.clone(flags)
    if pid == 0:
        os._exit(7)
    return pid


def exit_code(pid: int, options: int = 0) -> str:
    try:
        found = lowlevel.waitid(lowlevel.P_PID, pid, lowlevel.WEXITED | options)
    except OSError as error:
        return f"says {errno.errorcode[error.errno or 0]}"
    return f"exited with {found.status}" if found else "says nothing"


def main() -> None:
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    print(f"library: clone(fn, stack, flags, arg): fn gave {Context(share=Share.VM, stack_bytes=SIZE).call(int, '42')}")

    pid = go_on_twice(signal.SIGCHLD)
    print(f"kernel:  clone(SIGCHLD) went on twice: the child {exit_code(pid)}")

    pid = go_on_twice(signal.SIGUSR1)
    plain, with_wclone = exit_code(pid), exit_code(pid, lowlevel.__WCLONE)
    print(f"kernel:  clone(SIGUSR1) left with SIGUSR1: a plain wait {plain}, one with __WCLONE {with_wclone}")

    stack = ctypes.create_string_buffer(SIZE)
    low = ctypes.addressof(stack)
    pid = lowlevel.clone(CLONE_VM | signal.SIGCHLD, low + SIZE, entry=lowlevel.ENTRY_EXIT, argument=3)
    print(f"kernel:  clone(CLONE_VM|SIGCHLD, low + size): {exit_code(pid)}")

    args = CloneArgs(flags=CLONE_VM, exit_signal=signal.SIGCHLD, stack=low, stack_size=SIZE)
    pid = lowlevel.clone3(args, entry=lowlevel.ENTRY_EXIT, argument=3)
    what = "flags=CLONE_VM, exit_signal=SIGCHLD"
    print(f"kernel:  clone3({{{what}, stack=low, stack_size=size}}): {exit_code(pid)}")

    args = CloneArgs(flags=CLONE_VM, exit_signal=signal.SIGCHLD, stack=low + SIZE)
    try:
        lowlevel.clone3(args, entry=lowlevel.ENTRY_EXIT, argument=3)
    except OSError as error:
        print(f"kernel:  clone3({{{what}, stack=low + size}}): {errno.errorcode[error.errno or 0]}")


if __name__ == "__main__":
    main()
