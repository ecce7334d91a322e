"""Who shares what: four tasks of one program, as the kernel sees them, and the flags by which each could be made.

A thread shares all that pthread_create shares, until it unshares something; a light process shares memory and what else
was asked for; a copied process shares nothing. Nothing of this is kept by the program: it is asked of the kernel.

Output:

    a thread                        CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD|CLONE_SYSVSEM
    a thread with a cwd of its own  CLONE_VM|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD|CLONE_SYSVSEM
    a light process                 CLONE_VM|CLONE_FILES|SIGCHLD
    a copied process                SIGCHLD
    memory is shared by all but the copied process: True
"""

import os
import threading

import sysclone
from sysclone import Context, Share, lowlevel


def thread(started: threading.Barrier, end: threading.Event, unshared: int) -> None:
    if unshared:
        lowlevel.unshare(unshared)
    started.wait()
    end.wait()


def main() -> None:
    go_on, tell = os.pipe()
    copied = Context().start(os.read, go_on, 1)
    light = Context(share=Share.VM | Share.FILES).start(os.read, go_on, 1)
    started, end = threading.Barrier(3), threading.Event()
    threads = [threading.Thread(target=thread, args=(started, end, word)) for word in (0, lowlevel.CLONE_FS)]
    for one in threads:
        one.start()
    started.wait()

    tasks = {
        "a thread": threads[0].native_id,
        "a thread with a cwd of its own": threads[1].native_id,
        "a light process": light.pid,
        "a copied process": copied.pid,
    }
    for name, tid in tasks.items():
        pair = sysclone.relation(os.getpid(), tid)
        print(f"{name:30}  {pair.made_with}")
    seen = sysclone.inspect(os.getpid())
    sharers = set(seen[os.getpid()].shared_with(Share.VM))
    print("memory is shared by all but the copied process:", set(tasks.values()) - sharers == {copied.pid})

    end.set()
    for one in threads:
        one.join()
    os.write(tell, b"xx")
    light.result()
    copied.result()


if __name__ == "__main__":
    main()
