"""Crashes of light functions by the thousand, of every kind: what they leave in fds, threads, mappings and memory.

Run by test_soak.py and tests/kernel/test_crashes.py, which are the watchdogs:
    python crashes.py COUNT
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import sysclone
from sysclone import Cancelled, Context, TaskExited, TaskFailed, TaskKilled

LEAK_KIB = 6.0 if "ASAN_OPTIONS" not in os.environ else 12.0
"""What a crash may leak, in the mean over all kinds: what twenty frames own, a list, a tuple and a string each. The address
sanitizer puts a red zone around each."""

STACK_KIB = max(resource.getrlimit(resource.RLIMIT_STACK)[0], 8 << 20) >> 10
"""A helper's."""

LIBC = ctypes.CDLL(None)
LIBC_WITH_GIL = ctypes.PyDLL(None)
NO_END = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH, signal.SIGINT}
STOPS = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
IGNORED = int(Path("/proc/self/status").read_text().partition("SigIgn:")[2].split()[0], 16)
ENDING = [n for n in range(1, 65) if n not in NO_END | STOPS and not IGNORED >> (n - 1) & 1]
"""Each signal that ends a light process. Who started this may have had libc's own two ignored, which Python cannot tell."""

bottomless = iter(())
for _ in range(400_000):
    bottomless = itertools.islice(bottomless, None)  # next() of it calls itself in C, once for each


def dies_by(number: int) -> None:
    """With the GIL; one that is caught strikes at the next bytecode."""
    os.kill(os.getpid(), number)
    while True:
        pass


def dies_outside(number: int) -> None:
    """By a call that lets go of the GIL."""
    LIBC.kill(os.getpid(), number)
    while True:
        pass


def faults_inside() -> None:
    LIBC_WITH_GIL.strlen(8)


def faults_outside() -> None:
    LIBC.strlen(8)


def leaves() -> None:
    os._exit(3)


def leaves_raw() -> None:
    """Past Python and libc, without the GIL: exit_group(3)."""
    LIBC.syscall(94 if os.uname().machine == "aarch64" else 231, 3)


def overflows() -> None:
    """The stack ends in C code, which checks nothing."""
    next(bottomless)


def at_the_limit() -> None:
    """As deep as Python lets it, and then the end."""
    try:
        at_the_limit()
    except RecursionError:
        os._exit(3)


def deep(n: int, fn: Callable[..., object], *args: object) -> object:
    """fn twenty frames down, each with values of its own."""
    mine = [n, str(n)]
    return fn(*args) if n == 0 else (deep(n - 1, fn, *args), mine)


KINDS: list[tuple[Callable[..., object], tuple[object, ...], type[TaskFailed], int]] = [
    (leaves, (), TaskExited, 3),
    (leaves_raw, (), TaskExited, 3),
    (faults_inside, (), TaskKilled, signal.SIGSEGV),
    (faults_outside, (), TaskKilled, signal.SIGSEGV),
    (overflows, (), TaskKilled, signal.SIGSEGV),
    (at_the_limit, (), TaskExited, 3),
    *((dies_by, (n,), TaskKilled, n) for n in ENDING),
    *((dies_outside, (n,), TaskKilled, n) for n in ENDING),
]


def crash(verb: Callable[..., object], fn: Callable[..., object], args: tuple[object, ...]) -> TaskFailed:
    try:
        answer = verb(deep, 20, fn, *args)
    except TaskFailed as error:
        return error
    raise SystemExit(f"{fn.__name__}{args} returned {answer!r}")


def check(n: int) -> None:
    """One crash: the right exception and status, the place where it was, and an interpreter that goes on."""
    fn, args, kind, how = KINDS[n % len(KINDS)]
    # A stack that has overflowed once stays in memory: that of one thread is enough.
    error = crash(sysclone.call if n % 3 or fn is overflows else started, fn, args)
    seen = error.status.signal if kind is TaskKilled else error.status.exit_code
    told = "".join(getattr(error, "__notes__", ()))
    # Of a signal that is caught, the function met the exception, and has a traceback.
    where = isinstance(error.__cause__, Cancelled) or (f" in {fn.__name__}\n" in told + "\n" and told.count("\n") >= 20)
    if type(error) is not kind or seen != how or not where:
        raise SystemExit(f"{fn.__name__}{args}: {error!r}, {seen}, {told or 'no place'}")
    if sysclone.call(sum, [n, 1]) != n + 1 or deep(3, str, n) != (((str(n), [1, "1"]), [2, "2"]), [3, "3"]):
        raise SystemExit(f"after {fn.__name__}{args} the interpreter is not what it was")


def started(*given: object) -> object:
    with sysclone.start(*given) as task:
        return task.result()


def held() -> tuple[int, int, int, int]:
    """fds, threads without idle helpers, mappings, and idle helpers."""
    gc.collect()
    while sysclone._core.pool_info()[1]:
        os.sched_yield()
    idle, mappings = sysclone._core.pool_info()[0], Path("/proc/self/maps").read_text().count("\n")
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")) - idle, mappings, idle


def resident_kib() -> int:
    """Anonymous memory, which is what leaks."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def main(count: int) -> int:
    Context.light().call(gc.collect)
    gc.freeze()  # 400,000 objects that every collection would walk
    # Each kind by each verb.
    for n in range(3 * len(KINDS)):
        check(n)
    before, kib = held(), resident_kib()
    for n in range(count):
        check(n)
    after, grown = held(), resident_kib() - kib
    print(f"{count} crashes of {len(KINDS)} kinds, {grown / count:.2f} KiB each;", end=" ")
    print(f"fds, threads, mappings, idle helpers: {before}, then {after}")
    # malloc and pymalloc map what the leaked values need, a MiB or less at a time; a helper has a stack, an arena, guards.
    helpers = max(0, after[3] - before[3])
    few = before[2] + 2 + grown // 1024 + 8 * helpers
    # A helper that came in the midst has had its stack overflowed: that memory is touched once.
    much = count * LEAK_KIB + helpers * (STACK_KIB + 1024)
    bad = after[:2] > before[:2] or after[2] > few or grown > much
    sys.stdout.flush()
    # bottomless would end as next(bottomless) does.
    os._exit(1 if bad else 0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
