"""Listing 1, fork: the child has a copy of everything, so what it changes is its own.

The parent sets a variable, opens a file, and forks a child that changes the one and closes the other. Memory is copied
page by page as it is written to, the table of file descriptors at once; the parent sees neither change.

Output:

    The variable was 9
    The variable is now 9
    We could read from the file
"""

import os

from sysclone import Context

variable = 9


def do_something(fd: int) -> None:
    global variable
    variable = 42
    os.close(fd)


def main() -> None:
    fd = os.open(__file__, os.O_RDONLY)
    print(f"The variable was {variable}")

    Context.fork().call(do_something, fd)

    print(f"The variable is now {variable}")
    try:
        os.read(fd, 1)
        print("We could read from the file")
    except OSError as error:
        print(f"File read error: {error.strerror}")


if __name__ == "__main__":
    main()
