"""docs/reference.md against the package: every public name stands there, with its arguments and members, and no other."""

from __future__ import annotations

import enum
import inspect
import re

import pytest
from pages import prose, section

import sysclone
from sysclone import lowlevel

PAGE = "docs/reference.md"
CONSTANTS = {name for name in lowlevel.__all__ if not callable(getattr(lowlevel, name))}
ERRORS = {
    name
    for name in sysclone.__all__
    if isinstance(thing := getattr(sysclone, name), type) and issubclass(thing, BaseException)
}
TITLES = [line.lstrip("# ") for line in prose(PAGE) if line.startswith("#")]


def titled():
    """Each public name that has a section of its own: the section's title, and the thing."""
    for name in sorted({*sysclone.__all__} - ERRORS - {"lowlevel", "__version__"}):
        yield name, getattr(sysclone, name)
    for name in sorted({*lowlevel.__all__} - CONSTANTS):
        yield f"lowlevel.{name}", getattr(lowlevel, name)


def cells(title):
    """What stands in code in the first cells of a section's tables: `wait(timeout=None)` counts as wait."""
    rows = re.findall(r"^\| (`.*?`) \| ", section(PAGE, title), re.MULTILINE)
    return {re.match(r"\w+", code)[0] for row in rows for code in re.findall(r"`(\w.*?)`", row)}


def members(thing):
    """The public attributes that a class of ours adds to those of its bases."""
    if issubclass(thing, enum.Enum):
        return set(thing.__members__)
    own = [cls for cls in thing.__mro__ if cls.__module__.partition(".")[0] == "sysclone"]
    names = {name for cls in own for name in (*vars(cls), *vars(cls).get("__annotations__", ()))}
    return {name for name in names if not name.startswith("_")} - inherited(thing)


def inherited(thing):
    """What subprocess.Popen has by the same name, and documents."""
    return {"returncode"} if issubclass(thing, sysclone.Popen) else set()


@pytest.mark.parametrize("title", [title for title, _ in titled()])
def test_every_name_has_a_section(title):
    """Each public function and class has a section under its name."""
    assert title in TITLES


def test_no_section_is_invented():
    """Each section that bears the name of something is that of something public."""
    names = {title for title in TITLES if re.fullmatch(r"[a-z_]+|[A-Z]\w*[a-z]+[A-Z]\w*|lowlevel\.\w+", title)}

    assert names - {"lowlevel"} <= {title for title, _ in titled()} | {"__version__"}


@pytest.mark.parametrize(("title", "thing"), [pair for pair in titled() if inspect.isroutine(pair[1])])
def test_arguments_are_told(title, thing):
    """Each argument of a function stands in its section, with the signature."""
    text = section(PAGE, title)
    names = [name for name in inspect.signature(thing).parameters if name not in ("args", "kwargs")]

    assert f"{thing.__name__}(" in text
    assert [name for name in names if not re.search(rf"`[*]*{name}\b|\b{name}=", text)] == []


@pytest.mark.parametrize(("title", "thing"), [pair for pair in titled() if isinstance(pair[1], type)])
def test_members_are_told(title, thing):
    """Each public member of a class has a place in the table of its section."""
    assert members(thing) - cells(title) == set()


def test_errors_are_told():
    """Each error has a row, and so has each of its fields."""
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*)$", section(PAGE, "Errors"), re.MULTILINE))
    fields = {(name, field) for name in ERRORS for field in vars(getattr(sysclone, name)).get("_fields", ())}

    assert set(rows) == ERRORS
    assert {(name, field) for name, field in fields if f"`{field}`" not in rows[name]} == set()


def test_constants_are_told():
    """Each constant of lowlevel has a place in the table, and nothing else has."""
    assert cells("Constants of lowlevel") == CONSTANTS


def test_fields_of_a_context_are_told_with_their_defaults():
    """The table of a Context's fields has each in the order of its signature."""
    rows = re.findall(r"^\| `(\w+)` \| .*? \| .*? \| ", section(PAGE, "Context"), re.MULTILINE)

    assert rows == list(inspect.signature(sysclone.Context).parameters)
