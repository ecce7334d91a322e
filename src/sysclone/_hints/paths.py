"""What is wrong with a path or a program that the kernel refused, by looking at it. One part of the table of `_hints`."""

from __future__ import annotations

import errno
import os

from .looking import lines, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_MACHINES = {3: "i386", 21: "ppc64", 22: "s390", 40: "arm", 62: "x86-64", 183: "aarch64", 243: "riscv"}
_ARG_STRING_MAX = 131072


# --- paths


def _missing(path: str) -> str:
    """The first component of a path that does not exist, or that is a link to nothing; "" where all do."""
    so_far = "/" if path.startswith("/") else ""
    for part in [part for part in path.split("/") if part]:
        so_far = os.path.join(so_far, part)
        if not os.path.lexists(so_far):
            return so_far
        if not os.path.exists(so_far):
            return f"{so_far} (a link to {os.readlink(so_far)})"
    return ""


def _head(path: str) -> bytes:
    """The first bytes of a file; of nothing else, since opening a FIFO would wait."""
    if not os.path.isfile(path):
        return b""
    with open(path, "rb") as file:
        return file.read(4096)


# Where an ELF header of each class has e_phoff, e_phentsize and e_phnum; then p_offset and p_filesz in a segment's.
_ELF = {1: ("<I", 28, 42, 44, 4, 16), 2: ("<Q", 32, 54, 56, 8, 32)}
_PT_INTERP = 3


def _interpreter(path: str) -> str:
    """What a program needs to run: from its #! line, or the loader that its ELF header names; "" where nothing."""
    import struct

    head = _head(path)
    if head.startswith(b"#!"):
        # The kernel knows blanks and tabs alone: a carriage return is part of the name.
        return os.fsdecode(head[2:].split(b"\n", 1)[0].replace(b"\t", b" ").strip(b" ").split(b" ", 1)[0])
    if not head.startswith(b"\x7fELF") or head[4] not in _ELF:
        return ""
    word, start_at, size_at, count_at, offset_at, length_at = _ELF[head[4]]
    (start,), (size,), (count,) = (
        struct.unpack_from(kind, head, at) for kind, at in ((word, start_at), ("<H", size_at), ("<H", count_at))
    )
    for at in range(start, start + size * count, size):
        if struct.unpack_from("<I", head, at)[0] == _PT_INTERP:
            (offset,) = struct.unpack_from(word, head, at + offset_at)
            (length,) = struct.unpack_from(word, head, at + length_at)
            return os.fsdecode(head[offset : offset + length].rstrip(b"\0"))
    return ""


def _path_enoent(path: str) -> str:
    missing = _missing(path)
    if missing and "/" not in path:
        return lines(f"there is no {path!r} in {os.getcwd()}")
    return lines(f"there is no {missing}") if missing else ""


def _exec_enoent(path: str) -> str:
    if "/" not in path and _missing(path):
        return lines(f"there is no {path!r} in any directory of PATH")
    if _missing(path):
        return _path_enoent(path)
    needed = _interpreter(path)
    if needed.endswith("\r"):
        return lines(
            f"the #! line of {path} ends in a carriage return (Windows line ends)", f"sed -i 's/\\r$//' {path}"
        )
    if needed and _missing(needed):
        return lines(f"{path} is there, but {needed}, which it needs to run, is not")
    return ""


def _path_eacces(path: str) -> str:
    if path.startswith("/proc/") and f"{path}/".split("/")[3] == "ns":
        return lines("the namespaces of a task are seen by who may trace it: the same user, or CAP_SYS_PTRACE there")
    parts = [part for part in os.path.dirname(os.path.abspath(path)).split("/") if part]
    for count in range(len(parts) + 1):
        directory = "/" + "/".join(parts[:count])
        if not os.access(directory, os.X_OK, effective_ids=True):
            return lines(f"uid {os.geteuid()} may not search {directory}", f"chmod +x {directory}")
    if os.path.isdir(path) and not os.access(path, os.X_OK, effective_ids=True):
        return lines(f"uid {os.geteuid()} may not search {path}", f"chmod +x {path}")
    return ""


def _exec_eacces(path: str) -> str:
    needed = path
    for what in (path, _interpreter(path) if os.path.isfile(path) and os.access(path, os.R_OK) else ""):
        if not what:
            continue
        needed = what
        if os.path.isdir(needed):
            return lines(f"{needed} is a directory, not a program")
        if hint := _path_eacces(needed):
            return hint
        if os.statvfs(needed).f_flag & os.ST_NOEXEC:
            return lines(f"{needed} is on a file system mounted noexec", "a copy elsewhere, or mount -o remount,exec")
        if not os.access(needed, os.X_OK, effective_ids=True):
            return lines(f"{needed} is not executable for uid {os.geteuid()}", f"chmod +x {needed}")
    return lines(
        f"{needed} can be executed from here: what the task was given refuses it, its ids, its root, or Landlock, which has "
        "to let it read and execute the program and its loader"
    )


def _path_enotdir(path: str) -> str:
    for count in range(1, path.count("/") + 1):
        above = path.rsplit("/", count)[0]
        if above and os.path.exists(above) and not os.path.isdir(above):
            return lines(f"{above} is a file, not a directory")
    return lines(f"{path} is a file, not a directory") if os.path.exists(path) else ""


def _exec_enoexec(path: str) -> str:
    head = _head(path)
    if not head:
        return lines(f"{path} is empty")
    if head.startswith(b"\x7fELF"):
        machine = int.from_bytes(head[18:20], "little")
        return lines(
            f"{path} is a program for {_MACHINES.get(machine, f'machine {machine}')}, and this is {os.uname().machine}"
        )
    if head.startswith(b"#!"):
        return lines(f"the #! line of {path} names no program")
    return lines(
        f"{path} is no program of this machine, and has no #! line", f"a first line such as #!/bin/sh, or sh {path}"
    )


def _exec_etxtbsy(path: str) -> str:
    for fd in os.listdir("/proc/self/fd"):
        flags = read(f"/proc/self/fdinfo/{fd}").partition("flags:")[2].split()
        if flags and int(flags[0], 8) & os.O_ACCMODE and os.path.samefile(f"/proc/self/fd/{fd}", path):
            return lines(f"this process has {path} open for writing, as fd {fd}", "close it before the start")
    return lines(f"some process has {path} open for writing", f"fuser -v {path}")


def _exec_e2big(_path: str) -> str:
    import resource

    soft = resource.getrlimit(resource.RLIMIT_STACK)[0]
    room = 6 << 20 if soft == resource.RLIM_INFINITY else max(min(soft // 4, 6 << 20), _ARG_STRING_MAX)
    return lines(
        f"arguments and environment may be {room} bytes together (a quarter of the stack's limit), each {_ARG_STRING_MAX}",
        "hand them over by a file or stdin",
    )


def _exec_eagain(_path: str) -> str:
    return lines(f"the uid was changed, and uid {os.getuid()} has more tasks than RLIMIT_NPROC allows")


PATH_HINTS: dict[tuple[str, int], Callable[[str], str]] = {
    ("execve", errno.ENOENT): _exec_enoent,
    ("execve", errno.EACCES): _exec_eacces,
    ("execve", errno.ENOTDIR): _path_enotdir,
    ("execve", errno.ENOEXEC): _exec_enoexec,
    ("execve", errno.ETXTBSY): _exec_etxtbsy,
    ("execve", errno.E2BIG): _exec_e2big,
    ("execve", errno.EAGAIN): _exec_eagain,
    ("open", errno.ENOENT): _path_enoent,
    ("open", errno.EACCES): _path_eacces,
    ("open", errno.ENOTDIR): _path_enotdir,
    ("chdir", errno.ENOENT): _path_enoent,
    ("chdir", errno.EACCES): _path_eacces,
    ("chdir", errno.ENOTDIR): _path_enotdir,
    ("chroot", errno.ENOENT): _path_enoent,
    ("root", errno.ENOENT): _path_enoent,
    ("chroot", errno.EACCES): _path_eacces,
    ("root", errno.EACCES): _path_eacces,
    ("chroot", errno.ENOTDIR): _path_enotdir,
    ("root", errno.ENOTDIR): _path_enotdir,
}
