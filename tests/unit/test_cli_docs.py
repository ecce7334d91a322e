"""docs/cli.md against the parsers: every verb, option, choice and exit status of the command line stands there."""

from __future__ import annotations

import argparse
import importlib
import re

import pytest
from pages import section

import sysclone
from sysclone.cli import VERBS, _tell

PAGE = "docs/cli.md"
CONTEXT = "Options that make a context"
STATUSES = {name: value for name, value in vars(_tell).items() if name.isupper() and isinstance(value, int)}


def options(verb):
    """The options of a verb, each with the value that the help shows: "--tid N[,N…]"."""
    parser = argparse.ArgumentParser(verb)
    importlib.import_module(f"sysclone.cli.{verb}").add_arguments(parser)
    for action in parser._actions:
        choices = f"{{{','.join(map(str, action.choices))}}}" if action.choices else ""
        for option in action.option_strings:
            if option.startswith("--") and option != "--help":
                yield f"{option} {action.metavar or choices}".rstrip()


def told(verb):
    """What the page says of a verb: its own section, and the common one where it makes a context."""
    makes_context = any(option.startswith("--share ") for option in options(verb))
    return section(PAGE, verb) + (section(PAGE, CONTEXT) if makes_context else "")


@pytest.mark.parametrize("verb", VERBS)
def test_options_are_the_parsers(verb):
    """The tables of a verb have its options with their values as the help shows them, and no others."""
    cells = re.findall(r"^\| (`--.*?`) \| ", told(verb).replace("\\|", "|"), re.MULTILINE)
    rows = [option for cell in cells for option in re.findall(r"`(--.*?)`", cell)]

    assert sorted(rows) == sorted(options(verb))


@pytest.mark.parametrize("verb", VERBS)
def test_no_option_is_invented(verb):
    """Each option that is named anywhere in a verb's section is the parser's."""
    known = {option.split()[0] for option in options(verb)}

    assert set(re.findall(r"`(--[a-z][a-z0-9-]*)", told(verb))) <= known


@pytest.mark.parametrize("kind", [sysclone.Share, sysclone.Namespace])
def test_every_name_is_told(kind):
    """What --share and --new take is listed."""
    text = section(PAGE, CONTEXT)

    assert [name for name in kind.__members__ if f"`{name.lower()}`" not in text] == []


def test_every_verb_has_a_usage_and_a_section():
    """The page begins with each verb's usage, and has a section for each."""
    page = section(PAGE, "The command line")

    assert [verb for verb in VERBS if f"\n$ sysclone {verb}" not in page] == []
    assert [verb for verb in VERBS if not section(PAGE, verb).strip()] == []


def test_every_exit_status_is_told():
    """The table has each status that the command line gives by itself, and 128+n."""
    rows = [line.split(" | ")[0].strip("| ") for line in section(PAGE, "Exit status").splitlines()]

    assert {int(row) for row in rows if row.isdecimal()} == {0, *(x for x in STATUSES.values() if x < _tell.BY_SIGNAL)}
    assert f"{_tell.BY_SIGNAL}+n" in rows


# Fields of a Context that no option sets, and why.
WITHOUT_OPTION = {
    "memory_exclude": "buffers of Python's",
    "memory_wipe": "buffers of Python's",
    "setup": "a function of Python's",
    "executable": "the program is the argument, and --argv0 its name; an fd is /proc/self/fd/N",
    "process_group": "a shell makes one; by us it would be in the background of a terminal that is not told",
    "foreground": "a shell does it; by us, nobody could stop and continue the program: --pty can",
}


def test_every_field_has_an_option():
    """Each field of a Context can be set from the command line, or stands in the list of those that cannot, with the reason."""
    from sysclone._context.field_table import FIELDS
    from sysclone.cli import _options

    parser = argparse.ArgumentParser()
    _options.add_context_arguments(parser, "nothing")
    told = {action.dest for action in parser._actions}
    other = {
        "join": "join", "uid_map": "map_users", "gid_map": "map_groups", "landlock": "landlock_ro",
        "seccomp": "seccomp_rules", "signal_mask": "block_signal", "ignored_signals": "ignore_signal",
        "default_signals": "default_signal", "environment": "env",
    }  # fmt: skip
    missing = {name for name in FIELDS if other.get(name, name) not in told}

    assert missing == set(WITHOUT_OPTION)
