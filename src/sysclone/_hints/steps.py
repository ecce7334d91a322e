"""What a refused step of a child's set-up is likely to mean. One part of the table of `_hints`."""

from __future__ import annotations

import errno
import os

from .looking import has, lines, needs, read, seccomp, status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def _first(detail: str) -> str:
    return detail.partition(",")[0].strip()


# --- session


def _setsid_eperm(_detail: str) -> str:
    return lines("the task leads a process group already, and cannot leave it for a session of its own")


def _setpgid_eperm(detail: str) -> str:
    group = _first(detail)
    return seccomp("setpgid") or lines(
        f"process group {group} is of another session, is not there, or this task leads a session"
    )


def _tty_eperm(detail: str) -> str:
    if detail.startswith("TIOCSCTTY"):
        return lines(
            "another session has this terminal, or this one has a terminal already", "a terminal of its own (a pty)"
        )
    return lines("the process group is of another session than the terminal's")


def _tty_enotty(detail: str) -> str:
    what = detail.partition(",")[2].strip(") ")
    if detail.startswith("TIOCSPGRP") and not detail.endswith("/dev/null"):
        return lines(f"{what} is no terminal, or not the controlling one of this session")
    return lines(f"{what} is no terminal")


# --- descriptors


def _fd_ebadf(detail: str) -> str:
    fd = next((word.strip() for word in detail.split(",") if word.strip().isdecimal()), "")
    return lines(f"descriptor {fd} is not open in this program") if fd else ""


def _fd_einval(_detail: str) -> str:
    import resource

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return lines(
        f"a number was asked for that is beyond RLIMIT_NOFILE, {most}", "a lower number, or a higher limit here"
    )


# --- priorities and limits


def _prlimit_eperm(detail: str) -> str:
    name = _first(detail)
    if name == "NOFILE":
        most = read("/proc/sys/fs/nr_open")
        wanted = detail.rpartition(":")[2].strip(")")
        if wanted.isdecimal() and int(wanted) > int(most or 0):
            return lines(
                f"no process may have more than fs.nr_open ({most}) descriptors", f"sysctl fs.nr_open={wanted}"
            )
    return needs("SYS_RESOURCE", f"raising the hard limit of {name}")("")


def _prlimit_einval(detail: str) -> str:
    return lines(f"the soft limit of {_first(detail)} would be above the hard one")


def oom_eacces() -> str:
    """For /proc/self/oom_score_adj."""
    lower = "an oom_score_adj below the lowest that this process has had"
    if has("SYS_RESOURCE"):
        return lines("this task's /proc files are root's while it shares its creator's memory and has other ids")
    return lines(f"{lower} needs CAP_SYS_RESOURCE, and this process (uid {os.geteuid()}) has it not", "a higher value")


def _affinity_einval(_detail: str) -> str:
    return lines(f"none of these CPUs is there, or may be used by this task: {status('Cpus_allowed_list')} may")


def _nodes_einval(_detail: str) -> str:
    return lines(f"none of these nodes has memory, or may be used by this task: {status('Mems_allowed_list')} may")


def _sched_eperm(detail: str) -> str:
    policy = _first(detail).rstrip(")")
    if policy in ("fifo", "rr"):
        return needs(
            "SYS_NICE", f"the policy {policy!r}", "RLIMIT_RTPRIO as high as the priority: limits={'RTPRIO': …}"
        )("")
    return needs("SYS_NICE", f"the policy {policy!r}")("")


def _sched_ebusy(_detail: str) -> str:
    return lines(
        "deadline tasks may have so much of the CPUs (kernel.sched_rt_runtime_us), and this is more than is left"
    )


def _sched_einval(_detail: str) -> str:
    return lines("parameters that sched(7) does not allow, or a policy that this kernel is built without")


def _nice_eacces(detail: str) -> str:
    now = os.getpriority(os.PRIO_PROCESS, 0)
    return lines(
        f"{_first(detail)} is more than nice {now} that this process has, which needs CAP_SYS_NICE",
        "RLIMIT_NICE raised by root",
    )


def _not_built(what: str) -> Callable[[str], str]:
    def look(_detail: str) -> str:
        return seccomp(what) or lines(f"this kernel ({os.uname().release}) is built without {what}")

    return look


# --- mounts


def _mount_eperm(detail: str) -> str:
    if not has("SYS_ADMIN"):
        return needs(
            "SYS_ADMIN", "a mount", "a user namespace beside the mount namespace: new=USER | MOUNT, uid_map='root'"
        )("")
    if detail.startswith("proc"):
        return lines(
            "a new /proc needs a pid namespace of the same user namespace, and a /proc there with nothing mounted in it",
            "new=PID too, or a bind of /proc",
        )
    if detail.startswith("sysfs"):
        return lines(
            "a new /sys needs a network namespace of the same user namespace", "new=NET too, or a bind of /sys"
        )
    return seccomp("mount") or lines(
        "in a user namespace: a file system that may not be mounted there, or attributes that its owner has locked"
    )


def _mount_enoent(detail: str) -> str:
    source, _, target = detail.rstrip(")").rpartition(", ")
    source = source.removeprefix("bind ").removeprefix("move ")
    if source.startswith("/") and not os.path.lexists(source):
        return lines(f"there is no {source}")
    return lines(f"there is no {target} to mount at, or the source is not there", "create=True for the target")


def _fsconfig_enoent(detail: str) -> str:
    option, _, value = detail.partition(", ")[2].rstrip(")").partition("=")
    gone = [path for path in value.split(":") if path.startswith("/") and not os.path.lexists(path)]
    return lines(f"{option}: there is no {', '.join(gone)}") if gone else ""


def _mount_enodev(detail: str) -> str:
    return lines(f"this kernel ({os.uname().release}) has no file system {_first(detail)!r}: see /proc/filesystems")


def _mount_einval(detail: str) -> str:
    if "chroot" in detail or detail.startswith(("/, ", "private", "slave")):
        return ""
    return lines(
        "one of source and target is a directory and the other is not, the source is no mount (move), the target lies in "
        "it, it is not to be bound (unbindable), or mounts below it came from another user namespace and need recursive=True"
    )


def _mount_enotdir(_detail: str) -> str:
    return lines("one of source and target is a directory, and the other is not")


def _pivot_einval(_detail: str) -> str:
    return lines(
        "the root that is there is the kernel's first one (an initramfs), or no mount: a chroot",
        "root= without new=MOUNT",
    )


def _private_einval(_detail: str) -> str:
    return lines("/ is no mount here: this process is in a chroot", "propagation='unchanged'")


# --- clocks


def _clocks_erange(_detail: str) -> str:
    return lines("a clock would be below zero, or beyond what the kernel can count")


# --- the rest


def _keys_edquot(_detail: str) -> str:
    uid = os.getuid()
    kind = "root_maxkeys" if uid == 0 else "maxkeys"
    return lines(f"uid {uid} has as many keys as kernel.keys.{kind} allows ({read(f'/proc/sys/kernel/keys/{kind}')})")


def _seccomp_eacces(_detail: str) -> str:
    return lines("a filter without no_new_privs needs CAP_SYS_ADMIN, and this task has it not", "no_new_privs=True")


def _seccomp_einval(_detail: str) -> str:
    return lines(
        "the kernel's check of the program failed: it jumps out of itself, or has an instruction that seccomp has not"
    )


def _landlock_e2big(_detail: str) -> str:
    return lines("the task has 16 Landlock rulesets over it already")


STEP_HINTS: dict[tuple[str, int], Callable[[str], str]] = {
    ("setsid", errno.EPERM): _setsid_eperm,
    ("setpgid", errno.EPERM): _setpgid_eperm,
    ("fcntl", errno.EBADF): _fd_ebadf,
    ("fcntl", errno.EINVAL): _fd_einval,
    ("dup2", errno.EBADF): _fd_ebadf,
    ("ioctl", errno.EPERM): _tty_eperm,
    ("ioctl", errno.ENOTTY): _tty_enotty,
    ("prlimit", errno.EPERM): _prlimit_eperm,
    ("prlimit", errno.EINVAL): _prlimit_einval,
    ("sched_setaffinity", errno.EINVAL): _affinity_einval,
    ("set_mempolicy", errno.EINVAL): _nodes_einval,
    ("set_mempolicy", errno.ENOSYS): _not_built("set_mempolicy (CONFIG_NUMA)"),
    ("sched_setattr", errno.EPERM): _sched_eperm,
    ("sched_setattr", errno.EBUSY): _sched_ebusy,
    ("sched_setattr", errno.EINVAL): _sched_einval,
    ("setpriority", errno.EACCES): _nice_eacces,
    ("setpriority", errno.EPERM): needs("SYS_NICE", "another's priority"),
    ("ioprio_set", errno.EPERM): needs("SYS_NICE", "the I/O class 'realtime'"),
    ("sethostname", errno.EPERM): needs("SYS_ADMIN", "a host name"),
    ("setdomainname", errno.EPERM): needs("SYS_ADMIN", "a domain name"),
    ("mount", errno.EPERM): _mount_eperm,
    ("mount", errno.EACCES): _mount_eperm,
    ("mount", errno.ENOENT): _mount_enoent,
    ("mount", errno.ENODEV): _mount_enodev,
    ("mount", errno.EINVAL): _mount_einval,
    ("mount", errno.ENOTDIR): _mount_enotdir,
    ("fsconfig", errno.EPERM): _mount_eperm,
    ("fsconfig", errno.ENOENT): _fsconfig_enoent,
    ("pivot_root", errno.EINVAL): _pivot_einval,
    ("mount-propagation", errno.EINVAL): _private_einval,
    ("write", errno.ERANGE): _clocks_erange,
    ("unshare", errno.ERANGE): _clocks_erange,
    ("seccomp", errno.EACCES): _seccomp_eacces,
    ("seccomp", errno.EINVAL): _seccomp_einval,
    ("landlock_restrict_self", errno.EPERM): _seccomp_eacces,
    ("landlock_restrict_self", errno.E2BIG): _landlock_e2big,
    ("keyctl", errno.EDQUOT): _keys_edquot,
    ("keyctl", errno.ENOSYS): _not_built("keyrings (CONFIG_KEYS)"),
}
