"""What a refusal is likely to mean on this machine, and what to try: one table, by the kind of step and its errno.

Each entry looks at /proc and the file system when an error is made, and gives up in silence: a hint never raises, and
without evidence there is none. Texts are two lines, "likely: ..." and "try: ...".
"""

from __future__ import annotations

import errno
import os
import resource

from .looking import has, lines, needs, read, seccomp, status
from .paths import PATH_HINTS
from .steps import STEP_HINTS, oom_eacces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_NAMESPACES = {
    "NEWUSER": "user",
    "NEWNS": "mnt",
    "NEWPID": "pid",
    "NEWNET": "net",
    "NEWUTS": "uts",
    "NEWIPC": "ipc",
    "NEWCGROUP": "cgroup",
    "NEWTIME": "time",
}


def hint_for(step: str, code: int, filename: str | bytes | None = None) -> str:
    """The hint for a refused step, or "" where there is nothing to go by. Never raises.

    Args:
        step: as of CloneError: "clone3(NEWUSER|NEWPID)", "execve(/bin/x)", "setuid".
        code: its errno.
        filename: the file it was about; without one, what the step has in parentheses.
    """
    try:
        name, _, detail = step.partition("(")
        path = os.fsdecode(filename) if filename is not None else detail.removesuffix(")")
        kind = _KINDS.get(name, name)
        look = _HINTS.get((kind, code)) or _HINTS.get(("any", code))
        return look(path) if look else ""
    except Exception:
        # It is looked up on the way to raising the true error, which must not be lost to a file that went away.
        return ""


# --- looking at the machine


def _namespace(name: str) -> str:
    return os.readlink(f"/proc/self/ns/{name}")


# --- clone


def _words(detail: str) -> list[str]:
    """The switches that the step names, without their prefix."""
    return detail.partition(",")[0].replace("CLONE_", "").split("|")


def _namespaces(detail: str) -> list[str]:
    """The kinds of namespace that the step would make, as /proc calls them."""
    return [name for word, name in _NAMESPACES.items() if word in _words(detail)]


def _clone_eperm(detail: str) -> str:
    wanted = _namespaces(detail)
    if "user" in wanted:
        return _user_namespace_eperm()
    if wanted and not has("SYS_ADMIN"):
        kinds = " and ".join(wanted)
        return lines(
            f"a new {kinds} namespace needs CAP_SYS_ADMIN, and this process (uid {os.geteuid()}) has it not",
            "a new user namespace beside it (Namespace.USER), or run as root",
        )
    if "set_tid=" in detail and not (has("SYS_ADMIN") or has("CHECKPOINT_RESTORE")):
        return lines("choosing a pid needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN, and this process has neither")
    if "PIDFD_AUTOKILL" in _words(detail) and "NNP" not in _words(detail) and not has("SYS_ADMIN"):
        return lines(
            "CLONE_PIDFD_AUTOKILL without privilege is for children that cannot gain any", "CLONE_NNP beside it"
        )
    return seccomp("clone3")


def _user_namespace_eperm() -> str:
    if read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        name = "kernel.unprivileged_userns_clone"
        return lines(f"user namespaces are for root alone here: {name} is 0", f"sysctl {name}=1 as root")
    if read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return lines(
            "AppArmor keeps user namespaces from programs without a profile for them",
            "a profile with `userns,`, or sysctl kernel.apparmor_restrict_unprivileged_userns=0 as root",
        )
    if not any(line.split()[4] == "/" for line in read("/proc/self/mountinfo").splitlines()):
        return lines("this process is in a chroot, where no user namespace can be made", "pivot_root instead of chroot")
    owners = [line.split() for line in read("/proc/self/uid_map").splitlines()]
    if not any(int(first) <= os.geteuid() < int(first) + int(count) for first, _outside, count in owners):
        return lines(f"uid {os.geteuid()} is not mapped in this user namespace", "write its uid_map first")
    return seccomp("clone3 with CLONE_NEWUSER")


def _clone_enosys(_detail: str) -> str:
    return seccomp("clone3") or lines(f"Linux {os.uname().release} has no clone3, which came with 5.3")


def _clone_einval(detail: str) -> str:
    words = _words(detail)
    if "PARENT" in words and os.getpid() == 1:
        return lines("this process is the init of its pid namespace, which may have no siblings")
    if ("THREAD" in words or "NEWPID" in words) and _namespace("pid") != _namespace("pid_for_children"):
        return lines("this process has unshared its children's pid namespace, and can make no threads or deeper ones")
    if "set_tid=" in detail:
        most = read("/proc/sys/kernel/pid_max")
        return lines(f"a pid is 1 to {most} (kernel.pid_max), and the first in a pid namespace must be 1")
    return lines("switches that exclude each other, or that this kernel does not know", f"sysclone explain '{detail}'")


def _clone_enospc(detail: str) -> str:
    limits = []
    for name in _namespaces(detail) or ["user", "pid"]:
        text = read(f"/proc/sys/user/max_{name}_namespaces")
        if text:
            limits.append((int(text), f"user.max_{name}_namespaces"))
    if not limits:
        return ""
    least, name = min(limits)
    if least == 0:
        return lines(f"a limit, not disk: {name} is 0", f"sysctl {name}=15000")
    return lines(
        f"a limit, not disk: user and pid namespaces nest 32 deep, and {name} allows {least} here and fewer further out",
        f"ending tasks that hold namespaces, or sysctl {name}={2 * least}",
    )


def _clone_eagain(_detail: str) -> str:
    for group in _cgroups("pids"):
        most = read(f"{group}/pids.max")
        if most.isdigit() and int(read(f"{group}/pids.current") or 0) >= int(most):
            return lines(f"{group}/pids.max is {most}, and as many tasks are there", f"raise {group}/pids.max")
    soft = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    uid, exempt = os.getuid(), os.getuid() == 0 or has("SYS_ADMIN") or has("SYS_RESOURCE")
    if soft != resource.RLIM_INFINITY and not exempt and _tasks_of(uid) * 10 >= soft * 9:
        return lines(f"RLIMIT_NPROC is {soft}, and uid {uid} has {_tasks_of(uid)} tasks, threads included", "ulimit -u")
    for name in ("threads-max", "pid_max"):
        most = read(f"/proc/sys/kernel/{name}")
        if most and _tasks() * 20 >= int(most) * 19:
            return lines(
                f"this machine has {_tasks()} tasks, and kernel.{name} is {most}", f"sysctl kernel.{name} higher"
            )
    return lines("a limit on the number of tasks: RLIMIT_NPROC, a cgroup's pids.max further up, kernel.threads-max")


def _tasks() -> int:
    return int(read("/proc/loadavg").split()[3].partition("/")[2])


def _tasks_of(uid: int) -> int:
    count = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            task = os.stat(f"/proc/{pid}/task")
        except OSError:
            continue
        count += task.st_nlink - 2 if task.st_uid == uid else 0
    return count


def _cgroups(controller: str) -> list[str]:
    """The directories of this process's cgroup that have the controller, from its own one up; both versions."""
    found = []
    mounts = [line.split(" - ") for line in read("/proc/self/mountinfo").splitlines() if " - cgroup" in line]
    for line in read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for left, right in mounts:
            kind, _, options = right.split(" ", 2)
            if (kind == "cgroup2" and not controllers) or (controllers and controllers in options.split(",")):
                where = left.split()[4]
                while True:
                    if os.path.exists(f"{where}{path}/{controller}.max"):
                        found.append(f"{where}{path}".rstrip("/"))
                    if path == "/":
                        break
                    path = os.path.dirname(path)
    return found


def _clone_enomem(detail: str) -> str:
    if "PID" in detail.partition("joined=")[2].partition(",")[0].strip(")").split("|"):
        return lines("the joined pid namespace has lost its init: its first process has ended", "a new pid namespace")
    if _namespace("pid") != _namespace("pid_for_children"):
        return lines("the pid namespace made for this process's children has lost its init", "a new pid namespace")
    free = next((line.split()[1] for line in read("/proc/meminfo").splitlines() if line.startswith("MemAvailable")), "")
    strict = read("/proc/sys/vm/overcommit_memory") == "2"
    if strict:
        return lines(
            "vm.overcommit_memory is 2: a copy of this process's memory must fit in full", "share memory (Share.VM)"
        )
    return lines(f"no memory for another task or its stack: {int(free) // 1024} MiB are free") if free else ""


def _clone_eexist(detail: str) -> str:
    tid = detail.partition("set_tid=")[2].partition(",")[0].strip("() ")
    name = read(f"/proc/{tid}/comm") if tid.isdigit() else ""
    return lines(f"pid {tid} is taken{f' by {name}' if name else ''}") if tid else ""


def _clone_ebusy(detail: str) -> str:
    where = _cgroup_of(detail)
    enabled = read(f"{where}/cgroup.subtree_control") if where else ""
    if where and not enabled:
        return ""
    what = f"{where} has {enabled} enabled for its children" if where else "it enables controllers for its children"
    return lines(f"{what}, so it may hold no tasks itself", "a cgroup below it")


def _clone_eopnotsupp(detail: str) -> str:
    where = _cgroup_of(detail)
    kind = read(f"{where}/cgroup.type") if where else ""
    if kind == "domain invalid":
        return lines(
            f"{where} lies in a threaded subtree and is not threaded itself", f"echo threaded > {where}/cgroup.type"
        )
    return lines("a thread can be placed only in the cgroups of its own process's threaded subtree")


def _clone_eacces(detail: str) -> str:
    where = _cgroup_of(detail)
    if where and not os.access(f"{where}/cgroup.procs", os.W_OK):
        return lines(f"{where}/cgroup.procs is not writable for uid {os.geteuid()}")
    return lines(
        "entering a cgroup needs write permission for cgroup.procs in the nearest one above both it and this process"
    )


def _clone_ebadf(_detail: str) -> str:
    return lines("what was given as cgroup is no open directory of a version 2 cgroup file system")


def _clone_removed(_detail: str) -> str:
    return lines("the cgroup has been removed since its directory was opened")


def _cgroup_of(detail: str) -> str:
    return detail.partition("cgroup=")[2].partition(",")[0].strip()


# --- the rest


def _setgroups_eperm(detail: str) -> str:
    if read("/proc/self/setgroups") == "deny":
        return lines("this user namespace forbids setgroups (/proc/self/setgroups is deny)")
    return needs("SETGID", "setting groups")(detail)


def _prctl_eperm(detail: str) -> str:
    if detail.startswith(("PR_CAPBSET_DROP", "PR_SET_SECUREBITS")):
        what = "a smaller bounding set" if detail.startswith("PR_CAPBSET") else "changing securebits"
        return needs("SETPCAP", what)(detail)
    return ""


def _capset_eperm(_detail: str) -> str:
    has = int(status("CapPrm") or "0", 16)
    return lines(
        f"a capability that is not among the permitted ones (CapPrm {has:x}), which can only shrink, or an inheritable one "
        "outside of the bounding set"
    )


def _unshare_eperm(detail: str) -> str:
    kinds = " and ".join(_namespaces(detail))
    if not kinds or has("SYS_ADMIN"):
        return seccomp("unshare")
    return lines(
        f"a new {kinds} namespace needs CAP_SYS_ADMIN, and this process (uid {os.geteuid()}) has it not",
        "a light process in a new user namespace (Context(share=Share.VM, new=Namespace.USER | …)), or run as root",
    )


def _enter_eperm(_detail: str) -> str:
    return lines(
        f"entering a namespace needs CAP_SYS_ADMIN in the user namespace that owns it, and uid {os.geteuid()} has it not",
        "joining that user namespace too (Namespaces.of(pid) has all eight), or run as root",
    )


def _map_eperm(_detail: str) -> str:
    return lines(
        f"more than one's own id (uid {os.geteuid()}, gid {os.getegid()}) needs CAP_SETUID and CAP_SETGID",
        "uid_map='root', or newuidmap(1) and a range in /etc/subuid",
    )


def _map_eacces(detail: str) -> str:
    if detail.startswith("oom_score_adj"):
        return oom_eacces()
    return lines(
        "the memory is not dumpable, so these files are root's: a task in another user namespace shares it, or ids were changed",
        "wait for that task, or prctl(PR_SET_DUMPABLE, 1) where nobody else may look in",
    )


def _map_einval(_detail: str) -> str:
    return lines("ranges that overlap, or more than fit: see user_namespaces(7)")


def _helper_refused(_detail: str) -> str:
    return lines(
        f"/etc/subuid or /etc/subgid does not grant uid {os.geteuid()} all of these ranges",
        "usermod --add-subuids FIRST-LAST --add-subgids FIRST-LAST NAME as root",
    )


def _any_emfile(_detail: str) -> str:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return lines(
        f"all {soft} descriptors of this process are open (RLIMIT_NOFILE)", f"close some, or ulimit -n up to {hard}"
    )


def _any_enfile(_detail: str) -> str:
    return lines("the machine has all of its open files in use (fs.file-max)")


_KINDS = {
    "clone3": "clone",
    "execveat": "execve",
    "fork": "clone",
    "newgidmap": "newuidmap",
    "pthread_create": "clone",
    "vfork": "clone",
}
_HINTS: dict[tuple[str, int], Callable[[str], str]] = {
    ("clone", errno.EPERM): _clone_eperm,
    ("clone", errno.ENOSYS): _clone_enosys,
    ("clone", errno.EINVAL): _clone_einval,
    ("clone", errno.ENOSPC): _clone_enospc,
    ("clone", errno.EUSERS): _clone_enospc,
    ("clone", errno.EAGAIN): _clone_eagain,
    ("clone", errno.ENOMEM): _clone_enomem,
    ("clone", errno.EEXIST): _clone_eexist,
    ("clone", errno.EBUSY): _clone_ebusy,
    ("clone", errno.EOPNOTSUPP): _clone_eopnotsupp,
    ("clone", errno.EACCES): _clone_eacces,
    ("clone", errno.EBADF): _clone_ebadf,
    ("clone", errno.ENODEV): _clone_removed,
    ("clone", errno.ENOENT): _clone_removed,
    **PATH_HINTS,
    **STEP_HINTS,
    ("chroot", errno.EPERM): needs("SYS_CHROOT", "chroot"),
    ("setgroups", errno.EPERM): _setgroups_eperm,
    ("setregid", errno.EPERM): needs("SETGID", "taking another gid"),
    ("setreuid", errno.EPERM): needs("SETUID", "taking another uid"),
    ("setresgid", errno.EPERM): needs("SETGID", "taking another gid"),
    ("setresuid", errno.EPERM): needs("SETUID", "taking another uid"),
    ("prctl", errno.EPERM): _prctl_eperm,
    ("capset", errno.EPERM): _capset_eperm,
    ("unshare", errno.EPERM): _unshare_eperm,
    ("unshare", errno.ENOSPC): _clone_enospc,
    ("setns", errno.EPERM): _enter_eperm,
    ("write", errno.EPERM): _map_eperm,
    ("write", errno.EACCES): _map_eacces,
    ("write", errno.EINVAL): _map_einval,
    ("newuidmap", errno.EPERM): _helper_refused,
    ("any", errno.EMFILE): _any_emfile,
    ("any", errno.ENFILE): _any_enfile,
}
