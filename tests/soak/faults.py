"""A program that starts others with many steps, for strace to inject faults into: says what came of each, and what is left."""

from __future__ import annotations

import collections
import gc
import json
import os
import sys

from sysclone import CloneError, Context, ContextError, Mount, Namespace, Namespaces, Share, run


def mounted() -> str:
    """This program's mounts; a fault may strike the look itself."""
    for _ in range(20):
        try:
            with open("/proc/self/mountinfo") as file:
                return file.read()
        except OSError:
            continue
    return "not to be seen"


def main() -> None:
    """Start so many programs and light functions, and print as JSON what came of them."""
    count = int(sys.argv[1])
    null = os.open("/dev/null", os.O_RDWR)
    held = Namespaces.new(Namespace.UTS | Namespace.NET)
    contexts = [
        Context(),
        Context(cwd="/", umask=0o22, nice=1, limits={"NOFILE": 256}, fds={9: null}, no_new_privs=True),
        Context(new=Namespace.USER | Namespace.MOUNT, uid_map="root", gid_map="root",
                mounts=[Mount.tmpfs("/mnt"), Mount.bind("/usr", "/mnt/u", create=True)]),
        Context(join=held, hostname="inside", loopback=True, umask=0o27),
    ]  # fmt: skip
    # What an import, or the first of its kind, would open is open before the faults begin.
    for context in contexts:
        run(["/bin/true"], context=context, stdin=null)
        context.replace(share=Share.VM).call(os.getpid)
    try:
        run(["/nowhere"])
    except CloneError:
        pass
    start, mounts = set(os.listdir("/proc/self/fd")), mounted()
    print("ready", flush=True)
    sys.stdin.readline()
    ends: collections.Counter[str] = collections.Counter()
    for number in range(count):
        context = contexts[number % len(contexts)]
        try:
            if number % 7 == 6:
                context.replace(share=Share.VM).call(os.getpid)
                ends["function"] += 1
            else:
                status = run(["/bin/true"], context=context, stdin=null).returncode
                # 127 and 1 are the program's own, whose calls are refused too: by its loader.
                ends["program" if status in (0, 1, 127) else f"unnamed status {status}"] += 1
        except CloneError as error:
            ends[error.step.partition("(")[0] if error.step and error.errno else f"unnamed {error!r}"] += 1
        except (OSError, ContextError) as error:
            ends[f"unnamed {type(error).__name__} {error}"] += 1
    # Popen objects in a cycle with their error's traceback own their pidfd; nothing else may be left.
    gc.collect()
    try:
        os.waitpid(-1, os.WNOHANG)
        left = "a child"
    except ChildProcessError:
        left = ""
    for _ in range(20):
        # A fault may strike this look itself.
        try:
            now = {fd: f"/proc/self/fd/{fd}" for fd in set(os.listdir("/proc/self/fd")) - start}
            break
        except OSError:
            continue
    if mounted() != mounts:
        left += "a mount"
    opened = [os.readlink(path) for path in now.values() if os.path.lexists(path)]
    print(json.dumps({"ends": ends, "left": [left, *opened]}))


if __name__ == "__main__":
    main()
