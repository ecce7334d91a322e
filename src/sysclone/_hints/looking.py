"""Looking at this machine for a hint: small files, capabilities, and what the lack of one means."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_CAP = {
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "SYS_CHROOT": 18,
    "SYS_ADMIN": 21,
    "SYS_NICE": 23,
    "SYS_RESOURCE": 24,
    "SYS_TIME": 25,
    "CHECKPOINT_RESTORE": 40,
}


def lines(likely: str, attempt: str = "") -> str:
    """The two lines of a hint."""
    return f"likely: {likely}" + (f"\ntry: {attempt}" if attempt else "")


def read(path: str) -> str:
    """A small file's text without the last newline; "" where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def status(key: str) -> str:
    """One line of /proc/self/status."""
    for line in read("/proc/self/status").splitlines():
        if line.startswith(key + ":"):
            return line.partition(":")[2].strip()
    return ""


def has(capability: str) -> bool:
    """Whether this task has a capability in effect."""
    return bool(int(status("CapEff") or "0", 16) >> _CAP[capability] & 1)


def filtered() -> bool:
    """Whether a seccomp filter is over this task."""
    return status("Seccomp") == "2"


def seccomp(what: str) -> str:
    """The hint for a call that a filter may have refused."""
    if not filtered():
        return ""
    return lines(
        f"a seccomp filter forbids {what}, as container runtimes' do", "another seccomp profile for this container"
    )


def needs(capability: str, act: str, attempt: str = "") -> Callable[[str], str]:
    """A hint for the lack of a capability, or else for a filter."""

    def look(_detail: str) -> str:
        lacks = f"{act} needs CAP_{capability}, and this process (uid {os.geteuid()}) has it not"
        return seccomp(act) if has(capability) else lines(lacks, attempt)

    return look
