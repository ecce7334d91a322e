"""The floors: imports go down, every file has its floor, and the reader of imports sees what climbs."""

from __future__ import annotations

from pathlib import Path

import floors
import pytest

ROOT = Path(__file__).parents[2] / "src" / "sysclone"
MODULES = floors.modules(ROOT)


def every_import() -> list[floors.Import]:
    """Each import of one part of the package by another."""
    return [
        found
        for name, path in MODULES.items()
        for found in floors.imports(path.read_text(), name, str(path.relative_to(ROOT.parents[1])), set(MODULES))
    ]


def test_every_file_has_a_floor():
    """A file that the table does not name fails here, by its name."""
    assert [str(path) for name, path in MODULES.items() if floors.floor_of(name) is None] == []


def test_no_import_climbs():
    """Each import leads down or sideways."""
    assert [line for found in every_import() if (line := floors.climbs(found))] == []


def test_no_circles():
    """Imports that run form no circle, on a floor or through __init__."""
    assert floors.circles(every_import()) == []


CLIMBING = {
    "at the top": ("_flags", "import os\nfrom sysclone._task.task import Task\n", 2),
    "relative": ("_flags", "from ._call import call\n", 1),
    "relative, of a module": ("_context", "from . import _task\n", 1),
    "in a function": ("_core", "def f():\n    from sysclone import _flags\n", 2),
    "of the package itself": ("_task", "import sysclone\n", 1),
    "of a name in the package": ("_popen", "from sysclone import Context\n", 1),
    "of a submodule's submodule": ("lowlevel", "import sysclone.cli.run as run\n", 1),
    "for types": ("_inspect.proc", "if TYPE_CHECKING:\n    from sysclone._task.task import Task\n", 2),
    "by name": ("_errors", "import importlib\n\nimportlib.import_module('sysclone._inspect.proc')\n", 3),
    "by name, relative": ("_errors", "import_module('._proc', 'sysclone')\n", 1),
    "of an unlisted one": ("cli.run", "from sysclone._new import thing\n", None),
}


@pytest.mark.parametrize(("importer", "source", "line"), CLIMBING.values(), ids=CLIMBING)
def test_climbing_is_seen(importer, source, line):
    """A source that climbs is reported with its file and line; a name that leads nowhere is the package's own."""
    found = list(floors.imports(source, importer, "made_up.py", set(MODULES)))

    reports = [report for one in found if (report := floors.climbs(one))]

    if line is None:
        assert [one.imported for one in found] == ["__init__"]
    else:
        assert len(reports) == 1
        assert reports[0].startswith(f"made_up.py:{line}: {importer} (floor ")


DESCENDING = {
    "down": ("_call", "from sysclone._flags import Clone\nfrom . import _core, _task\n"),
    "sideways": ("_kernel", "from ._errors import CloneError\n"),
    "inside the command line": ("cli.run", "from . import common\nfrom ._options import add\nfrom .. import _call\n"),
    "the command line, of the public names": ("cli.run", "import sysclone\nfrom sysclone import Context\n"),
    "foreign": ("_core", "import os.path\nfrom collections import abc\nimport sysclone_else\n"),
}


@pytest.mark.parametrize(("importer", "source"), DESCENDING.values(), ids=DESCENDING)
def test_descending_is_let_be(importer, source):
    """Imports that keep the rule are not reported."""
    found = list(floors.imports(source, importer, "made_up.py", set(MODULES)))

    assert [report for one in found if (report := floors.climbs(one))] == []


def test_an_unlisted_file_is_seen(tmp_path):
    """A new file without a floor is found by its name."""
    (tmp_path / "_surprise.py").write_text("")

    assert [name for name in floors.modules(tmp_path) if floors.floor_of(name) is None] == ["_surprise"]


def test_a_circle_is_seen():
    """A circle of imports is reported; one closed for type checkers alone is not."""
    there = floors.Import("a.py", 1, "_flags", "_errors")
    back = floors.Import("b.py", 1, "_errors", "_flags")

    assert floors.circles([there, back]) == [["_errors", "_flags", "_errors"]]
    assert floors.circles([there, floors.Import("b.py", 1, "_errors", "_flags", for_types=True)]) == []
