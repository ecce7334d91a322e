"""Processes and threads differ only in what they share: each kind of task changes four things, and its creator looks.

The task sets a variable, opens a file, changes the working directory and a signal handler. What the creator sees
afterwards is shared, and the rest was copied. Between fork and thread lies every row that you care to write.

Output:

    kind            memory  files   cwd     handlers  pid
    fork            copied  copied  copied  copied    new
    light process   shared  copied  copied  copied    new
    vfork           shared  copied  copied  copied    new
    Listing 2       shared  shared  copied  copied    new
    files and cwd   copied  shared  shared  copied    new
    LinuxThreads    shared  shared  shared  shared    new
    thread          shared  shared  shared  shared    same
"""

import os
import signal
from pathlib import Path

from sysclone import Context, Share

KINDS = {
    "fork": Context.fork(),
    "light process": Context.light(),
    "vfork": Context.vfork(),
    "Listing 2": Context(share=Share.VM | Share.FILES),
    "files and cwd": Context(share=Share.FILES | Share.FS),
    "LinuxThreads": Context.linuxthreads(),
    "thread": Context.thread(),
}

variable = "as it was"


def change() -> tuple[int, int]:
    """What each task does: gives the number of the file it opened, and its pid."""
    global variable
    variable = "changed"
    os.chdir("/")
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    return os.open(__file__, os.O_RDONLY), os.getpid()


def is_open(fd: int) -> bool:
    return Path(f"/proc/self/fd/{fd}").exists()


def ignores(number: int) -> bool:
    """What the kernel says: Python's own table of handlers lies in memory, and goes with that."""
    masks = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines())
    return bool(int(masks["SigIgn"], 16) >> (number - 1) & 1)


def look(context: Context) -> list[str]:
    """What a task of this context shares with this program, by the traces it leaves here."""
    global variable
    variable = "as it was"
    os.chdir("/proc")
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)

    fd, pid = context.call(change)

    shared = [variable == "changed", is_open(fd), os.getcwd() == "/", ignores(signal.SIGUSR1)]
    if is_open(fd):
        os.close(fd)
    return ["shared" if one else "copied" for one in shared] + ["same" if pid == os.getpid() else "new"]


def main() -> None:
    row = "{:15} {:7} {:7} {:7} {:9} {}"
    print(row.format("kind", "memory", "files", "cwd", "handlers", "pid"))
    for kind, context in KINDS.items():
        print(row.format(kind, *look(context)))


if __name__ == "__main__":
    main()
