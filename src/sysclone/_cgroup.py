"""Putting a task in a cgroup: born there (version 2, Linux 5.7), or moved by a write to cgroup.procs."""

from __future__ import annotations

import os
from errno import EINVAL

from ._errors import CloneError
from ._kernel import can_be_born_in_cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class CgroupDirectory:
    """An open cgroup directory; closed on leaving, unless it was the caller's fd.

    Args:
        where: a path, or a borrowed fd of the directory.

    Raises:
        CloneError: it cannot be opened, or is no cgroup.
    """

    def __init__(self, where: str | int) -> None:
        self._name = f"fd {where}" if isinstance(where, int) else where
        self._own = not isinstance(where, int)
        try:
            self.fd = where if isinstance(where, int) else os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as e:
            hint = "likely: a cgroup's directory must exist before a task can be put there"
            raise CloneError(e.errno or 0, step=f"open(cgroup {self._name})", hint=hint) from e
        if not self._has("cgroup.procs"):
            self.close()
            hint = "likely: it has no cgroup.procs, so it is no directory of a cgroup file system"
            raise CloneError(EINVAL, step=f"open(cgroup {self._name})", hint=hint)

    def _has(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self.fd)
        except OSError:
            return False
        return True

    @property
    def can_be_born_in(self) -> bool:
        """Whether it is of version 2 and this kernel has CLONE_INTO_CGROUP; otherwise a task is moved."""
        return self._has("cgroup.controllers") and can_be_born_in_cgroup()

    def enter(self) -> None:
        """Move the calling process here.

        Raises:
            CloneError: the kernel refused.
        """
        try:
            fd = os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.fd)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)
        except OSError as e:
            raise CloneError(e.errno or 0, step=f"write(cgroup.procs of {self._name})") from e

    def close(self) -> None:
        """Close the directory, if it was opened here."""
        if self._own and self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
