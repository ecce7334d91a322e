"""How the C extension is built; all else is in pyproject.toml.

The environment may say SYSCLONE_WERROR=1 (a warning is an error) or SYSCLONE_ASAN=1 (address and undefined-behaviour
sanitizers).
"""

import os
import platform
import sys
import sysconfig
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PLATFORMS = ("linux-x86_64", "linux-aarch64")
HERE = os.path.dirname(os.path.abspath(__file__))
SOURCES = sorted(glob("src/sysclone/_core/*.c", root_dir=HERE))
HEADERS = sorted(glob("src/sysclone/_core/*.h", root_dir=HERE))
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-g", "-Wall", "-Wextra", "-fvisibility=hidden"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"]


def switched_on(name: str) -> bool:
    """Whether the environment says ``name=1``."""
    return os.environ.get(name, "") not in ("", "0")


def flags() -> tuple[list[str], list[str]]:
    """The compiler's and the linker's."""
    compile_args, link_args = list(FLAGS), []
    if switched_on("SYSCLONE_WERROR"):
        compile_args.append("-Werror")
    if switched_on("SYSCLONE_ASAN"):
        compile_args += ["-O1", "-UNDEBUG", *SANITIZE]
        link_args += SANITIZE
    return compile_args, link_args


def why_not() -> str | None:
    """What keeps this machine from building the extension, in a sentence, or None."""
    target = sysconfig.get_platform()
    if target not in PLATFORMS or sys.maxsize < 2**32:
        machine = f"{target} ({platform.machine()}, {sys.maxsize.bit_length() + 1}-bit Python)"
        return f"sysclone is for Linux on x86-64 and aarch64; this is {machine}"
    if sys.implementation.name != "cpython":
        return f"sysclone is for CPython; this is {sys.implementation.name}"
    headers = sysconfig.get_path("include")
    if not os.path.exists(os.path.join(headers, "Python.h")):
        return f"{headers}/Python.h is missing; on Debian: apt-get install python3-dev"
    return None


class BuildCore(build_ext):
    """build_ext that names what is missing before it compiles anything."""

    def run(self) -> None:
        """Build, or end with one sentence."""
        reason = why_not()
        if reason:
            raise SystemExit(f"error: {reason}")
        super().run()


compile_args, link_args = flags()
setup(
    ext_modules=[
        Extension(
            "sysclone._core",
            sources=SOURCES,
            depends=HEADERS,
            extra_compile_args=compile_args,
            extra_link_args=link_args,
        )
    ],
    cmdclass={"build_ext": BuildCore},
)
