"""A folder with Debian sid in it, and commands that run there: for CPythons that are newer than this machine's.

debootstrap fills build/sid from the archive that this machine's own apt is set up with. A command runs there in a mount
and a pid namespace of its own: the mounts and all processes end with it, whatever ends it, and nothing of the folder is
ever mounted outside. This repository is seen there at its own path, with a build/ of its own.

    python3 tools/sid_folder.py -- python3.15 -VV
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
FOLDER = BUILD / "sid"
ITS_BUILD = BUILD / "sid-build"
PYTHONS = ("3.14", "3.15")
PACKAGES = [
    *(f"python{version}{part}" for version in PYTHONS for part in ("", "-dev", "-venv")),
    *("ca-certificates", "gcc", "gdb", "git", "iproute2", "libc6-dev", "linux-perf", "make"),
    *("procps", "strace", "tmux", "uidmap", "util-linux"),
]
APT = ["apt-get", "-y", "-qq", "-o", "Acquire::Check-Valid-Until=false", "--no-install-recommends"]
QUIET = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
NAMES = ("/etc/resolv.conf", "/etc/hosts")
CLIENTS = ("/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt", "~/.config/pip")
"""What pip is set up with on this machine: seen in the folder too, but not while packages are installed there."""


def fail(text: str) -> SystemExit:
    """An end with one sentence."""
    return SystemExit(f"sid: {text}")


def quietly(command: Sequence[str], what: str) -> None:
    """Run a command that only speaks if it fails."""
    done = subprocess.run(
        command, env=QUIET, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        raise fail(f"{what} left with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}")


# --- the folder


def archive() -> str:
    """The address of Debian's archive, as this machine's apt knows it."""
    form = "$(ORIGIN) $(LABEL) $(REPO_URI)"
    told = subprocess.run(
        ["apt-get", "indextargets", "--format", form, "Created-By: Packages"], capture_output=True, text=True
    )
    for line in told.stdout.splitlines():
        if line.startswith("Debian Debian "):
            return line.split()[2]
    raise fail("this machine's apt knows no archive of Debian (apt-get update, and look at apt-get indextargets)")


def need_debootstrap() -> None:
    """Install debootstrap where it is missing."""
    if shutil.which("debootstrap"):
        return
    quietly([*APT, "update"], "apt-get update")
    quietly([*APT, "install", "debootstrap"], "apt-get install debootstrap")


def make(packages: list[str]) -> None:
    """Make the folder, unless it is there with these packages: elsewhere first, so that half a folder is none."""
    stamp, recipe = BUILD / "sid.recipe", json.dumps(packages)
    if stamp.exists() and FOLDER.is_dir() and stamp.read_text() == recipe:
        return
    if os.geteuid():
        raise fail("debootstrap and chroot need root")
    stamp.unlink(missing_ok=True)
    half = BUILD / "sid.half"
    for old in (half, FOLDER, ITS_BUILD):
        if old.exists():
            quietly(["rm", "-rf", "--one-file-system", str(old)], f"rm -rf {old}")
    BUILD.mkdir(exist_ok=True)
    print(f"sid: making {FOLDER.relative_to(ROOT)}", flush=True)
    need_debootstrap()
    options = subprocess.run(["debootstrap", "--help"], capture_output=True, text=True).stdout
    late = [option for option in ("--no-check-valid-until",) if option in options]
    strap = ["debootstrap", *late, "--variant=minbase", "sid", str(half), archive()]
    quietly(["unshare", "--mount", "--propagation", "private", *strap], "debootstrap")
    quietly(entering(half, [*APT, "update"], "--enter-bare"), "apt-get update in the folder")
    quietly(entering(half, [*APT, "install", *packages], "--enter-bare"), "apt-get install in the folder")
    half.rename(FOLDER)
    stamp.write_text(recipe)


# --- a command in it


def entering(folder: Path, command: Sequence[str], how: str = "--enter") -> list[str]:
    """The command line that runs another one in the folder."""
    apart = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    return [*apart, sys.executable, str(Path(__file__).resolve()), how, str(folder), "--", *command]


def of_clients() -> Iterator[Path]:
    """CLIENTS that are there, and the folders of wheels that pip is told of here."""
    yield from (path for path in (Path(name).expanduser() for name in CLIENTS) if path.exists())
    told = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    for word in told.replace("'", " ").replace("\\n", " ").split():
        local = word.startswith("file://")
        path = Path(word.removeprefix("file://"))
        if path.is_absolute() and path.is_dir():
            yield path.parent if local else path  # an index's pages lead to what lies beside them


def mount(*arguments: str | Path) -> None:
    """mount(8)."""
    subprocess.run(["mount", *map(str, arguments)], check=True)


def bind(source: Path, folder: Path, at: Path | None = None) -> None:
    """Show a file or a folder of this machine's in the folder, at its own path or another."""
    target = folder / (at or source).relative_to("/")
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_symlink():
            target.unlink()
        target.touch()
    mount("--bind", source, target)


def enter(folder: Path, command: list[str], clients: bool) -> None:
    """Mount, change root, and become the command; called in namespaces of its own.

    By pivot_root: the kernel makes no user namespace for a task whose root is not its mount namespace's.
    """
    files = [*map(Path, NAMES), *(of_clients() if clients else ())]
    mount("--bind", folder, folder)
    mount("--rbind", "/dev", folder / "dev")
    mount("--rbind", "/sys", folder / "sys")
    mount("-t", "proc", "proc", folder / "proc")
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", folder / "tmp")
    for path in files:
        bind(path, folder)
    bind(ROOT, folder)
    ITS_BUILD.mkdir(exist_ok=True)
    bind(ITS_BUILD, folder, BUILD)
    os.chdir(folder)
    subprocess.run(["pivot_root", ".", "mnt"], check=True)
    os.chroot(".")
    subprocess.run(["umount", "--lazy", "/mnt"], check=True)
    os.chdir(ROOT)
    os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    os.environ.pop("PYENV_ROOT", None)
    os.execvp(command[0], command)


def run(command: Sequence[str]) -> int:
    """Run a command in the folder; returns what it left with."""
    return subprocess.run(entering(FOLDER, command)).returncode


def main() -> int:
    """Make the folder where it is missing, and run the command there."""
    parser = argparse.ArgumentParser(prog="sid_folder.py", description=__doc__)
    parser.add_argument("--enter", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--enter-bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("command", nargs="+", help="what to run in the folder, after --")
    options = parser.parse_args()
    if options.enter or options.enter_bare:
        enter(options.enter or options.enter_bare, options.command, clients=options.enter is not None)
    make(PACKAGES)
    return run(options.command)


if __name__ == "__main__":
    sys.exit(main())
