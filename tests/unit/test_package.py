"""What is installed, and which machines it is built on."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sysclone
from sysclone import _core

ROOT = Path(__file__).parents[2]


def installed_names() -> set[str]:
    """The files in the package's folder."""
    folder = Path(sysclone.__file__).parent
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_types_are_shipped():
    """The marker and the stub of the extension lie beside the modules."""
    assert {"py.typed", "_core.pyi"} <= installed_names()


def test_sources_are_not_shipped():
    """What pip has installed, a wheel or a link to the sources, lists the extension or the link, and no C."""
    listed = [str(path) for path in importlib.metadata.files("sysclone") or []]

    assert listed
    assert [name for name in listed if name.endswith((".c", ".h"))] == []


def test_extension_is_compiled():
    """sysclone._core is the extension, not the folder of its sources."""
    assert _core.__file__ is not None
    assert _core.__file__.endswith(".so")


def test_nothing_is_required():
    """The library needs the standard library alone; all else is an extra."""
    required = importlib.metadata.requires("sysclone") or []

    assert [line for line in required if "extra ==" not in line] == []


@pytest.mark.parametrize("machine", ["linux-riscv64", "linux-i686", "macosx-14.0-arm64"])
def test_other_machines_are_refused_by_name(machine, tmp_path):
    """On a machine that the assembly is not written for the build ends before it compiles, and names the machine."""
    folders = ["--build-temp", str(tmp_path), "--build-lib", str(tmp_path)]
    command = [sys.executable, "setup.py", "-q", "build_ext", *folders]
    env = os.environ | {"_PYTHON_HOST_PLATFORM": machine, "CC": "false"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)

    assert done.returncode != 0
    assert machine in done.stderr
    assert "x86-64 and aarch64" in done.stderr
    assert list(tmp_path.rglob("*.o")) == []
