"""Builds a free-threaded CPython from Debian's source package, in the folder of Debian sid, and runs tests there.

Which tests: what needs no light process. Debian has no binary package of such a build. The newest of the source packages
that the archive hands out is taken; it and all that is made of it stay in the folder's own build/.

    python3 tools/free_threaded.py -- tests/kernel/test_unsupported.py
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tomllib

import sid_folder
from sid_folder import BUILD, FOLDER, ITS_BUILD, PACKAGES, ROOT, entering, quietly

SOURCES = ("python3.14", "python3.13")
SUITES = ("unstable", "testing", "stable")
LIBRARIES = ["dpkg-dev", "libbz2-dev", "libffi-dev", "liblzma-dev", "libssl-dev", "xz-utils", "zlib1g-dev"]
PREFIX = BUILD / "free-threaded"
VENV = PREFIX / "venv"
TESTS = (
    "tests/unit", "tests/kernel/test_unsupported.py", "tests/kernel/test_copied.py", "tests/kernel/test_copied_more.py",
    "tests/kernel/test_lowlevel.py", "tests/kernel/test_programs_io.py",
)  # fmt: skip
LENDING = (
    "tests/unit/test_exports.py::test_a_light_call_loads_nothing_heavy",
    "tests/kernel/test_copied_more.py::test_a_siblings_status",
    "tests/kernel/test_lowlevel.py::test_setns_enters",
    "tests/kernel/test_programs_io.py::test_a_thief_does_not_hurt_functions",
)
"""Tests in those files whose means is a light process."""
LACKS = ("numpy", "py-spy", "coverage", "pyarrow")
"""Of the tests' requirements, those that those tests do not use, and that may have no wheel for such a build."""


def in_folder(what: str, script: str) -> str:
    """Run a shell script in the folder as bare as it is; returns what it wrote."""
    command = entering(FOLDER, ["sh", "-euc", script], "--enter-bare")
    done = subprocess.run(command, env=sid_folder.QUIET, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise sid_folder.fail(f"{what} left with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout


def apt_can_fetch_sources() -> None:
    """Tell the folder's apt of sources, and install what building needs."""
    lines = "".join(f"deb-src {sid_folder.archive()} {suite} main\n" for suite in SUITES)
    (FOLDER / "etc/apt/sources.list.d/sources.list").write_text(lines)
    apt = " ".join(sid_folder.APT)
    in_folder("apt-get", f"{apt} update; {apt} install {' '.join(LIBRARIES)}")


def versions() -> list[tuple[str, str]]:
    """Source packages with their versions, the newest first."""
    found = []
    for name in SOURCES:
        told = in_folder("apt-cache", f"apt-cache showsrc {name} 2>/dev/null || true")
        numbers = dict.fromkeys(re.findall(r"^Version: (\S+)$", told, re.MULTILINE))
        found += [
            (name, number) for number in sorted(numbers, key=lambda text: [int(n) for n in re.findall(r"\d+", text)])
        ]
    return sorted(found, key=lambda one: [int(n) for n in re.findall(r"\d+", one[1])], reverse=True)


def fetch() -> None:
    """Unpack the newest source that is to be had; an archive may list what it no longer has."""
    for name, version in versions():
        script = f"""
            rm -rf {PREFIX}; mkdir -p {PREFIX}/source; cd {PREFIX}/source
            apt-get -qq source --download-only {name}={version} >/dev/null 2>&1 || {{ echo none; exit 0; }}
            tar --extract --strip-components 1 --file *.orig.tar.*z
        """
        if "none" not in in_folder("apt-get source", script):
            print(f"free-threaded: building {name} {version}", flush=True)
            return
    raise sid_folder.fail(f"the archive hands out no source of {' or '.join(SOURCES)}")


def build() -> None:
    """Make the interpreter, unless it is there."""
    stamp = ITS_BUILD / "free-threaded" / "built"
    if stamp.exists():
        return
    apt_can_fetch_sources()
    fetch()
    make = f"""
        cd {PREFIX}/source
        ./configure -q --disable-gil --prefix={PREFIX} >configure.log 2>&1 || {{ tail configure.log; exit 1; }}
        make -s -j{os.cpu_count() or 1} >make.log 2>&1 || {{ tail -n 40 make.log; exit 1; }}
        make -s install >install.log 2>&1 || {{ tail install.log; exit 1; }}
    """
    in_folder("the build", make)
    stamp.touch()


def install() -> None:
    """A virtual environment with what these tests use, and sysclone as it is now."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    tools = [*project["build-system"]["requires"], *project["project"]["optional-dependencies"]["test"]]
    wanted = [tool for tool in tools if re.split(r"[<>=\[]", tool)[0] not in LACKS]
    pip = [str(VENV / "bin/python"), "-m", "pip", "install", "-q"]
    if not (ITS_BUILD / "free-threaded" / "venv").exists():
        quietly(entering(FOLDER, [str(PREFIX / "bin/python3"), "-m", "venv", str(VENV)]), "venv")
    quietly(entering(FOLDER, [*pip, *wanted]), "pip")
    quietly(entering(FOLDER, [*pip, "--no-deps", "--no-build-isolation", "--force-reinstall", "."]), "pip")


def main() -> int:
    """Build what is missing, and run the tests."""
    parser = argparse.ArgumentParser(prog="free_threaded.py", description=__doc__)
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    options = parser.parse_args()
    sid_folder.make(PACKAGES)
    build()
    install()
    chosen = options.pytest or [*TESTS, *(word for test in LENDING for word in ("--deselect", test))]
    cache = f"cache_dir={BUILD / 'test' / 'cache-free-threaded'}"
    return sid_folder.run([str(VENV / "bin/python"), "-m", "pytest", "-q", "-o", cache, *chosen])


if __name__ == "__main__":
    sys.exit(main())
