"""Mounts, a new root and clocks of namespaces, by what the kernel says of them from within; by the new calls and mount(2)."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import seccomp
from features import NOBODY, requires
from steps_seen import KINDS, refusal, spawn

from sysclone import CloneError, Context, ContextError, Mount, Namespace, Share, run

pytestmark = requires("mount_namespaces", "user_namespaces")
every_kind = pytest.mark.parametrize("kind", KINDS)
MOUNTINFO = Path("/proc/self/mountinfo")
OWN = {"new": Namespace.MOUNT} if os.geteuid() == 0 else {"new": Namespace.MOUNT | Namespace.USER, "uid_map": "root"}
ODD = errno.EOWNERDEAD


@pytest.fixture(autouse=True)
def mounts_stay_as_they_are() -> Iterator[None]:
    """Nothing is mounted in this process's namespace, whatever a task does."""

    def look() -> list[str]:
        # ip-netns, in another run of these tests, mounts there.
        return [line for line in MOUNTINFO.read_text().splitlines() if "/run/netns" not in line.split()[4]]

    before = look()
    yield
    assert look() == before


def mounted(text: str) -> dict[str, dict[str, Any]]:
    """Each mount point with what mountinfo says of it; of several the one on top."""
    found = {}
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        words, kind = left.split(), right.split()
        found[words[4]] = {
            "options": words[5].split(","), "shared": words[6:], "type": kind[0], "super": kind[2].split(","), "root": words[3],
        }  # fmt: skip
    return found


def table(kind: str, fields: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The mounts of a task with these fields, from within."""
    return mounted(spawn(kind, {**OWN, **fields}, MOUNTINFO.read_text, ["cat", str(MOUNTINFO)]))


def tree(folder: Path) -> Path:
    """A folder with a file, and places to mount things at."""
    for name in ("low", "less", "up", "work", "at", "to"):
        (folder / name).mkdir()
    (folder / "low" / "file").write_text("low")
    (folder / "file").write_text("outside")
    return folder


def kinds_of_mounts(folder: Path) -> list[Mount]:
    """Each kind of mount that there is, in a tree."""
    return [
        Mount.tmpfs(folder / "at", size_bytes=1 << 20, mode=0o750, nosuid=True),
        Mount.bind(folder / "low", folder / "at" / "low", create=True),
        Mount.bind(folder, folder / "to", read_only=True, nodev=True),
        Mount.bind(folder / "file", folder / "at" / "deep" / "file", create=True, recursive=False),
        Mount.overlay(folder / "up", [folder / "low", folder / "less"]),
        Mount.tmpfs(folder / "work"),
        Mount.move(folder / "work", folder / "at" / "moved", create=True),
        Mount.set(folder / "at" / "low", noexec=True, recursive=False),
    ]


def check_kinds(found: dict[str, dict[str, Any]], folder: Path) -> None:
    """What mountinfo has to say of `kinds_of_mounts`."""
    at = found[f"{folder}/at"]
    assert (at["type"], "nosuid" in at["options"]) == ("tmpfs", True)
    assert {"size=1024k", "mode=750"} <= set(at["super"])
    assert found[f"{folder}/at/low"]["root"].endswith("/low")
    assert "noexec" in found[f"{folder}/at/low"]["options"]
    # A recursive bind takes what is mounted below with it, and its attributes are set there too.
    for place in ("to", "to/at", "to/at/low"):
        assert {"ro", "nodev"} <= set(found[f"{folder}/{place}"]["options"]), place
    assert "rw" in at["options"]
    assert found[f"{folder}/at/deep/file"]["root"].endswith("/file")
    assert found[f"{folder}/up"]["type"] == "overlay"
    assert found[f"{folder}/at/moved"]["type"] == "tmpfs"
    assert f"{folder}/work" not in found


@every_kind
def test_every_kind_of_mount(kind, tmp_path):
    """Binds with what is below them, file systems with their options, overlays, moves and attributes are made in order."""
    folder = tree(tmp_path)
    check_kinds(table(kind, {"mounts": kinds_of_mounts(folder)}), folder)


@requires("seccomp")
@every_kind
def test_mounts_without_the_new_calls(kind, tmp_path):
    """Where the kernel does not have the calls of 5.2 and 5.12, mount(2) makes the same mounts."""
    folder = tree(tmp_path)

    def old_kernel() -> dict[str, dict[str, Any]]:
        calls = ("open_tree", "move_mount", "fsopen", "mount_setattr")
        seccomp.deny(*(seccomp.Denial(call, errno.ENOSYS) for call in calls))
        return table(kind, {"mounts": kinds_of_mounts(folder)})

    check_kinds(Context().call(old_kernel), folder)


def test_read_only_means_read_only(tmp_path):
    """Nothing below a read-only bind can be written to, and the file system itself still can."""
    context = Context(
        **OWN, mounts=[Mount.tmpfs(tmp_path), Mount.bind("/etc", tmp_path / "etc", create=True, read_only=True)]
    )
    told = run(
        ["sh", "-c", f"echo > {tmp_path}/etc/x; echo > {tmp_path}/y && echo done"], context=context, capture_output=True
    )
    assert told.stdout == b"done\n"
    assert b"Read-only file system" in told.stderr


ROOT = [
    Mount.tmpfs("/", mode=0o755),
    *(
        Mount.bind(path, create=True, read_only=True)
        for path in ("/usr", "/bin", "/lib", "/lib64")
        if os.path.exists(path)
    ),
    Mount.proc(create=True),
]


@requires("pid_namespaces")
@pytest.mark.parametrize("old", [False, True], ids=["new calls", "mount(2)"])
@every_kind
def test_a_root_of_ones_own(kind, old, tmp_path):
    """In a new mount namespace the root is pivoted: nothing of the old one is left, and /proc is the task's own."""
    fields = {**OWN, "root": tmp_path, "mounts": ROOT, "cwd": "/usr"}
    fields["new"] = OWN["new"] | Namespace.PID

    def shown() -> str:
        script = "echo $$; pwd; ls /; cat /proc/self/mountinfo"
        look = lambda: "\n".join([str(os.getpid()), os.getcwd(), *os.listdir("/"), MOUNTINFO.read_text()])  # noqa: E731
        return str(spawn(kind, fields, look, ["/bin/sh", "-c", script]))

    def filtered() -> str:
        seccomp.deny(
            *(seccomp.Denial(call, errno.ENOSYS) for call in ("open_tree", "move_mount", "fsopen", "mount_setattr"))
        )
        return shown()

    pid, cwd, *rest = (Context().call(filtered) if old else shown()).splitlines()
    names = [line for line in rest if " " not in line and line]
    found = mounted("\n".join(line for line in rest if " - " in line))
    assert (pid, cwd) == ("1", "/usr")
    assert sorted(names) == sorted({"proc", *(mount.target[1:] for mount in ROOT[1:])})
    assert set(found) == {"/", *(mount.target for mount in ROOT[1:])}
    assert found["/"]["type"] == "tmpfs"
    assert os.listdir(tmp_path) == []


@requires("root")
def test_a_link_in_a_foreign_root_leads_nowhere_else(tmp_path):
    """A target that is a link out of the root is looked for in the root."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "link").symlink_to("/etc")
    mount = Mount.tmpfs("/link")
    found: list[Any] = []
    context = Context(
        share=Share.VM, new=Namespace.MOUNT, root=tmp_path, mounts=[mount, Mount.proc("/proc", create=True)]
    )
    found = context.call(lambda: mounted(MOUNTINFO.read_text()))
    assert found["/etc"]["type"] == "tmpfs"


@requires("root")
@every_kind
def test_propagation(kind):
    """A new mount namespace is private unless something else is asked for; "unchanged" leaves what was there."""

    def shared() -> list[list[str]]:
        return [
            table(kind, {"propagation": how})["/"]["shared"]
            for how in (None, "private", "slave", "unchanged", "shared")
        ]

    # Whatever the machine has, the creator of these tasks has a shared root.
    private, told, slave, unchanged, shared_ = Context(new=Namespace.MOUNT, propagation="shared").call(shared)
    assert private == told == []
    assert slave[0].startswith("master:")
    assert unchanged[0].startswith("shared:")
    assert shared_[0].startswith("shared:")


@requires("time_namespaces")
@pytest.mark.parametrize("kind", ["copied", "program"])
def test_clocks(kind):
    """The clocks of a new time namespace are as far ahead, or behind, as was asked for."""
    new = Namespace.TIME if os.geteuid() == 0 else Namespace.TIME | Namespace.USER
    fields = {"new": new, "time_offsets": {"monotonic": 1000.5, "boottime": 86400}}
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    text = spawn(kind, fields, Path("/proc/uptime").read_text, ["cat", "/proc/uptime"])
    assert 86399 < float(text.split()[0]) - before < 86400 + 60
    if kind == "copied":
        before = time.monotonic()
        ahead = Context(**fields).call(time.monotonic) - before
        assert 1000.4 < ahead < 1060
        behind = Context(new=new, time_offsets={"boottime": -1}).call(time.clock_gettime, time.CLOCK_BOOTTIME)
        assert behind < time.clock_gettime(time.CLOCK_BOOTTIME)


def bad(folder: Path) -> list[tuple[dict[str, Any], str, int]]:
    """Fields, and the step and errno that they are refused with."""
    place = folder / "at"
    return [
        ({"mounts": [Mount.bind("/nowhere", place)]}, f"mount(bind /nowhere, {place})", errno.ENOENT),
        ({"mounts": [Mount.tmpfs("/nowhere")]}, "mount(tmpfs, /nowhere)", errno.ENOENT),
        ({"mounts": [Mount.filesystem("nosuchfs", place)]}, f"mount(nosuchfs, {place})", errno.ENODEV),
        (
            {"mounts": [Mount.filesystem("tmpfs", place, options={"nosuch": "1"})]},
            "fsconfig(tmpfs, nosuch=1)",
            errno.EINVAL,
        ),
        ({"mounts": [Mount.overlay(place, ["/nowhere", "/usr"])]}, "fsconfig(overlay, ", errno.ENOENT),
        ({"mounts": [Mount.bind("/etc/passwd", place)]}, f"mount(bind /etc/passwd, {place})", errno.EINVAL),
        ({"mounts": [Mount.move(folder / "to", place)]}, f"mount(move {folder}/to, {place})", errno.EINVAL),
        ({"root": "/nowhere"}, "root(/nowhere)", errno.ENOENT),
        ({"root": folder, "cwd": "/nowhere"}, "chdir(/nowhere)", errno.ENOENT),
    ]


@every_kind
def test_bad_mounts(kind, tmp_path):
    """Each mount that cannot be made is an error that names it, with the errno; and nothing is left of the others."""
    folder = tree(tmp_path)
    for fields, step, code in bad(folder):
        mounts = [Mount.tmpfs(folder / "low"), *fields.get("mounts", ())] if "root" not in fields else []
        error = refusal(kind, {**OWN, **fields, "mounts": mounts})
        assert error.step.startswith(step), (error.step, step)
        assert error.errno == code, error.step


def test_the_kernel_says_what_is_wrong(tmp_path):
    """The words that the kernel has for a refused option are the hint."""
    error = refusal("light", {**OWN, "mounts": Mount.filesystem("tmpfs", tmp_path, options={"nosuch": "1"})})
    assert "Unknown parameter 'nosuch'" in error.hint


@requires("nobody")
@every_kind
def test_mounts_without_privilege(kind, tmp_path):
    """Nobody cannot mount in a namespace that is another's: joined without its user namespace, or shared with it."""

    def as_nobody() -> tuple[str, int, str]:
        try:
            spawn(kind, {"new": Namespace.MOUNT, "mounts": Mount.tmpfs("/tmp")}, os.getpid, ["true"])
        except CloneError as error:
            return error.step.partition("(")[0], error.errno, error.hint
        raise AssertionError("not refused")

    step, code, hint = Context(uid=NOBODY, gid=NOBODY, groups=()).call(as_nobody)
    assert (step, code) == ("clone3", errno.EPERM)
    assert "CAP_SYS_ADMIN" in hint


@requires("seccomp")
@every_kind
def test_a_filter_refuses_a_mount(kind, tmp_path):
    """What a filter refuses is the step's error: the new calls' EPERM is no reason to try the old one."""

    def filtered() -> list[tuple[str, int]]:
        seccomp.deny(*(seccomp.Denial(call, ODD) for call in ("fsopen", "open_tree", "mount", "pivot_root")))
        plain = {**OWN, "propagation": "unchanged"}
        more = [
            {"mounts": Mount.tmpfs("/tmp")},
            {"mounts": Mount.bind("/usr")},
            {"propagation": None},
            {"root": "/tmp"},
        ]
        cases = [{**plain, **one} for one in more]
        errors = [refusal(kind, fields) for fields in cases]
        return [(error.step, error.errno) for error in errors]

    steps = Context().call(filtered)
    names = ["mount(tmpfs, /tmp)", "mount(bind /usr, /usr)", "mount-propagation(private)", "root(/tmp)"]
    assert steps == [(name, ODD) for name in names]


def test_what_does_not_go_together():
    """Mounts without a namespace for them, and values that no kernel takes, are refused at their field."""
    for fields, field in (
        ({"mounts": Mount.proc()}, "mounts"),
        ({"propagation": "private"}, "propagation"),
        ({"time_offsets": {"monotonic": 1}}, "time_offsets"),
        ({"new": Namespace.TIME, "time_offsets": {"realtime": 1}}, "time_offsets"),
        ({"new": Namespace.MOUNT, "cwd": 3}, "cwd"),
        ({"new": Namespace.MOUNT, "propagation": "sideways"}, "propagation"),
        ({"new": Namespace.MOUNT, "mounts": ["/proc"]}, "mounts"),
    ):
        with pytest.raises(ContextError) as caught:
            Context(**fields)
        assert caught.value.field == field
    for make in (
        lambda: Mount.overlay("/x", []),
        lambda: Mount.overlay("/x", ["/a"], upper="/b"),
        lambda: Mount.overlay("/x", ["/a"]),
        lambda: Mount.overlay("/x", ["/a:b", "/c"]),
        lambda: Mount.tmpfs("/x", sticky=True),
        lambda: Mount.bind(3),
        lambda: Mount.set("/x"),
        lambda: Mount.bind("/a\0b"),
        lambda: Mount("umount", "/x"),
    ):
        with pytest.raises(ContextError) as caught:
            make()
        assert caught.value.field == "mounts"
