"""Who and what the doctor asks: this process and this machine, and the numbers that limit them."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .._flags import Namespace
from .._hints.looking import read as read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

# The names in /proc/PID/ns and in /proc/sys/user that are not the member's own.
FILES: Final = {"MOUNT": "mnt"}


@dataclass(frozen=True)
class Limit:
    """A number that bounds what can be made; note says what reaching it looks like."""

    name: str
    value: str
    note: str


def limits() -> list[Limit]:
    """The limits of this process and machine."""
    import resource

    def of(kind: int) -> str:
        soft, hard = resource.getrlimit(kind)
        return f"{_number(soft)} (hard {_number(hard)})"

    found = [
        Limit("RLIMIT_NPROC", of(resource.RLIMIT_NPROC), "tasks of this user; EAGAIN; not for root"),
        Limit("RLIMIT_NOFILE", of(resource.RLIMIT_NOFILE), "fds; EMFILE; each task has a pidfd"),
        Limit("kernel.pid_max", read("/proc/sys/kernel/pid_max"), "ids; EAGAIN"),
        Limit("kernel.threads-max", read("/proc/sys/kernel/threads-max"), "tasks on this machine; EAGAIN"),
    ]
    for kind in Namespace:
        name = f"max_{FILES.get(str(kind.name), str(kind.name).lower())}_namespaces"
        value = read(f"/proc/sys/user/{name}")
        note = "none can be made; ENOSPC" if value == "0" else "for each user; ENOSPC"
        found.append(Limit(f"user.{name}", value or "unknown", note))
    return found


def system() -> dict[str, str]:
    """Who and what is asked."""
    import platform

    uname = os.uname()
    return {
        "kernel": f"Linux {uname.release}",
        "machine": uname.machine,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "libc": os.confstr("CS_GNU_LIBC_VERSION") or "unknown",
        "uid": str(os.geteuid()),
        "capabilities": _capabilities(),
        "no_new_privs": status("NoNewPrivs") or "unknown",
    }


def _capabilities() -> str:
    effective = int(status("CapEff") or "0", 16)
    every = (1 << (int(read("/proc/sys/kernel/cap_last_cap") or "40") + 1)) - 1
    missing = every & ~effective
    if not effective:
        return "none"
    return "all" if not missing else f"{effective.bit_count()} of {every.bit_count()}, without {_bits(missing)}"


def _bits(mask: int) -> str:
    names = {21: "CAP_SYS_ADMIN", 24: "CAP_SYS_RESOURCE", 19: "CAP_SYS_PTRACE", 40: "CAP_CHECKPOINT_RESTORE"}
    found = [names.get(bit, f"capability {bit}") for bit in range(64) if mask >> bit & 1]
    return ", ".join(found) if len(found) < 4 else f"{len(found)} others"


def _number(limit: int) -> str:
    return "unlimited" if limit < 0 else str(limit)


def status(key: str) -> str:
    """One line of /proc/self/status; "" where there is none."""
    for line in read("/proc/self/status").splitlines():
        if line.startswith(f"{key}:"):
            return line.partition(":")[2].strip()
    return ""
