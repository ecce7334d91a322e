"""CLONE_FILES: a child closes a file descriptor, and it is closed in the parent too, or it is not.

Without the flag the child has a copy of the table of descriptors; with it there is one table. Memory is copied both times.

Output:

    === Without CLONE_FILES ===
    [Child] closing fd 3
    [Parent] fd 3 OPEN — child's close() did NOT affect parent (CLONE_FILES=OFF)

    === With CLONE_FILES ===
    [Child] closing fd 3
    [Parent] fd 3 CLOSED — child's close() affected parent (CLONE_FILES=ON)
"""

import errno
import os

from sysclone import Context, Share


def child_func(fd: int) -> None:
    print(f"[Child] closing fd {fd}")
    os.close(fd)


def is_open(fd: int) -> bool:
    try:
        return os.write(fd, b"x") == 1
    except OSError as error:
        return error.errno != errno.EBADF


def run_test(share: Share) -> None:
    word = "ON" if Share.FILES in share else "OFF"
    fd = os.open("/dev/null", os.O_RDWR)

    Context(share=share).call(child_func, fd)

    if is_open(fd):
        print(f"[Parent] fd {fd} OPEN — child's close() did NOT affect parent (CLONE_FILES={word})")
        os.close(fd)
    else:
        print(f"[Parent] fd {fd} CLOSED — child's close() affected parent (CLONE_FILES={word})")


def main() -> None:
    print("=== Without CLONE_FILES ===")
    run_test(Share(0))
    print("\n=== With CLONE_FILES ===")
    run_test(Share.FILES)


if __name__ == "__main__":
    main()
