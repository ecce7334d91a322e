"""Listing 2, clone with CLONE_VM and CLONE_FILES: memory and file descriptors are one, so both changes are seen.

The program is Listing 1's, and only the flags differ: "this way, you get to choose the exact level of sharing your
program will use". There is no stack to allocate, and print() is as safe as ever.

Output:

    The variable was 9
    The variable is now 42
    File read error: Bad file descriptor
"""

import os

from sysclone import Context, Share

variable = 9


def do_something(fd: int) -> None:
    global variable
    variable = 42
    os.close(fd)


def main() -> None:
    fd = os.open(__file__, os.O_RDONLY)
    print(f"The variable was {variable}")

    Context(share=Share.VM | Share.FILES).call(do_something, fd)

    print(f"The variable is now {variable}")
    try:
        os.read(fd, 1)
        print("We could read from the file")
    except OSError as error:
        print(f"File read error: {error.strerror}")


if __name__ == "__main__":
    main()
