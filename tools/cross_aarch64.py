"""Compiles each C file for aarch64 and looks for the child's entry in the objects.

The Python headers are the host's: CPython's pyconfig.h differs between two 64-bit Linux machines only in ways that the
sources do not use (library versions, the name of the platform), so this finds errors in our C and assembly. Nothing is
linked and nothing is run. Without a cross compiler, and without the rights to install one, it says so and passes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src" / "sysclone" / "_core").glob("*.c"))
OUT = ROOT / "build" / "cross-aarch64"
PREFIX = "aarch64-linux-gnu-"
PACKAGES = ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"]
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-g", "-fPIC", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"]
ENTRIES = ("sc_arch_clone3", "sc_arch_clone")
"""Where a child with memory of its creator's begins: assembly, so the machine's own instruction must be in there."""


def compiler_at_hand() -> bool:
    """Whether there is a cross compiler, after trying to install one."""
    if shutil.which(PREFIX + "gcc"):
        return True
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES]
    for command in (["apt-get", "update", "-qq"], install):
        subprocess.run(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return shutil.which(PREFIX + "gcc") is not None


def include_flags() -> list[str]:
    """The host's headers. Debian's pyconfig.h includes one by the machine's name: it gets the host's by that name."""
    include = Path(sysconfig.get_path("include"))
    own = include.parent / str(sysconfig.get_config_var("MULTIARCH")) / include.name / "pyconfig.h"
    if own.exists():
        shim = OUT / "include" / "aarch64-linux-gnu" / include.name / "pyconfig.h"
        shim.parent.mkdir(parents=True, exist_ok=True)
        shim.write_text(f'#include "{own}"\n')
    return [f"-I{include}", f"-I{OUT / 'include'}"]


def compile_all() -> list[Path]:
    """The objects, one for each source; the compiler's complaints end it."""
    includes = include_flags()
    objects = []
    OUT.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        target = OUT / f"{source.stem}.o"
        subprocess.run([PREFIX + "gcc", *FLAGS, *includes, "-c", str(source), "-o", str(target)], check=True)
        objects.append(target)
    return objects


def missing_entries(objects: list[Path]) -> list[str]:
    """The entries that no object defines, or that make no system call."""
    command = [PREFIX + "objdump", "-d", *map(str, objects)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    bodies = dict(re.findall(r"^[0-9a-f]+ <(\w+)>:\n((?:.+\n)*)", listing, re.MULTILINE))
    return [name for name in ENTRIES if "svc" not in bodies.get(name, "")]


def main() -> int:
    """Compile, look, and say how much that proves."""
    if not compiler_at_hand():
        print(f"aarch64: not compiled: no {PREFIX}gcc here (on Debian: apt-get install {' '.join(PACKAGES)})")
        return 0
    try:
        missing = missing_entries(compile_all())
    except subprocess.CalledProcessError as error:
        print(f"aarch64: {error.cmd[0]} left with {error.returncode}", file=sys.stderr)
        return 1
    if missing or not SOURCES:
        print(f"aarch64: no object has: {', '.join(missing or ENTRIES)}", file=sys.stderr)
        return 1
    print(f"aarch64: {len(SOURCES)} files compiled, untested: no aarch64 machine has run this")
    return 0


if __name__ == "__main__":
    sys.exit(main())
