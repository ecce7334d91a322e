"""A program that tells what its terminal does."""

from __future__ import annotations


def telling(first: str) -> str:
    """The program's text: it says what `first` says, then each SIGWINCH with the new size, each SIGINT, and each line.

    The line "end" ends it with 7, the end of its input with 0.
    """
    return _BEGIN + first + _REST


_BEGIN = """
import os, select, signal
def say(*words): os.write(1, (" ".join(map(str, words)) + "\\n").encode())
# By a pipe: a handler that runs between two reads would be asked only after the second.
pipe, told = os.pipe()
os.set_blocking(told, False)
signal.set_wakeup_fd(told)
for number in (signal.SIGWINCH, signal.SIGINT):
    signal.signal(number, lambda *_: None)
"""
_REST = """
while True:
    ready = select.select([0, pipe], [], [])[0]
    for number in os.read(pipe, 100) if pipe in ready else b"":
        say("interrupted") if number == signal.SIGINT else say("size", *os.get_terminal_size())
    if 0 in ready:
        line = os.read(0, 1000).decode().strip("\\n")
        if line in ("", "end"):
            raise SystemExit(7 if line else 0)
        say("line", line)
"""
