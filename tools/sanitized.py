"""Runs pytest under the sanitizers that SYSCLONE_ASAN=1 has built the extension with.

The interpreter is not instrumented, so the sanitizers' library comes in by LD_PRELOAD. Leaks are not looked for (the
interpreter keeps memory to its end), nor is use after return: it keeps a stack for each thread, and a light process
borrows its creator's.
"""

from __future__ import annotations

import os
import subprocess
import sys

OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0:use_sigaltstack=0:handle_segv=0:"
    "handle_sigbus=0:handle_sigfpe=0:handle_abort=0:abort_on_error=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "PYTHONMALLOC": "malloc",
}


def library(name: str) -> str:
    """Where gcc keeps a library."""
    done = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return os.path.realpath(done.stdout.strip())


def main() -> int:
    """Replace this process by pytest."""
    python, *rest = sys.argv[1:]
    preload = os.pathsep.join(library(name) for name in ("libasan.so", "libubsan.so"))
    env = os.environ | OPTIONS | {"LD_PRELOAD": preload}
    os.execve(python, [python, "-m", "pytest", *[one for one in rest if one != "--"]], env)


if __name__ == "__main__":
    sys.exit(main())
