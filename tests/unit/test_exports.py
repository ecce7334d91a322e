"""What the package shows: exactly the intended names, each with its docstring, for a light import."""

from __future__ import annotations

import ast
import enum
import importlib.metadata
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import sysclone

TESTS = Path(__file__).parents[1]

PUBLIC = {
    "Terminal",
    "getstatusoutput",
    "getoutput",
    "check_output",
    "check_call",
    "call_program",
    "Usage",
    "Cause",
    "__version__",
    "call",
    "start",
    "run",
    "Popen",
    "Context",
    "Share",
    "Landlock",
    "Mount",
    "Scheduling",
    "SeccompFilter",
    "Namespace",
    "Namespaces",
    "Task",
    "Status",
    "inspect",
    "Inspection",
    "TaskInfo",
    "ShareGroup",
    "Answer",
    "relation",
    "Relation",
    "why",
    "explain",
    "Explanation",
    "wait_any",
    "unshare_thread",
    "wait_all",
    "progress",
    "Progress",
    "result_buffer",
    "Zygote",
    "ZygoteError",
    "shared",
    "Shared",
    "Descriptor",
    "lowlevel",
    "SyscloneError",
    "ContextError",
    "CloneError",
    "Thread",
    "Unsupported",
    "TaskFailed",
    "TaskExited",
    "TaskKilled",
    "TaskLost",
    "TaskOverLimit",
    "Executor",
    "Future",
    "TaskTimeout",
    "ResultError",
    "Cancelled",
    "Capabilities",
    "SyscloneWarning",
    "Trace",
    "trace",
    "AttachEvent",
    "CloneEvent",
    "ExecEvent",
    "ExitEvent",
    "SetnsEvent",
    "UnshareEvent",
}

LOWLEVEL = {
    "CSIGNAL",
    "Clone",
    "CloneArgs",
    "ENTRY_EXIT",
    "PidfdInfo",
    "WaitResult",
    "clone",
    "clone3",
    "futex_wait",
    "futex_wake",
    "gettid",
    "kcmp",
    "pidfd_getfd",
    "pidfd_info",
    "pidfd_open",
    "pidfd_send_signal",
    "setns",
    "unshare",
    "waitid",
}
"""Of lowlevel, beside the module constants that begin with a kernel prefix."""

CONSTANTS = ("CLONE_", "KCMP_", "PIDFD_", "P_", "W", "__W", "ENTRY_")

HEAVY = {
    "argparse", "ast", "asyncio", "concurrent", "ctypes", "dataclasses", "importlib.metadata", "inspect", "json",
    "logging", "multiprocessing", "pathlib", "pickle", "platform", "random", "re", "rich", "selectors", "shutil",
    "socket", "subprocess", "tempfile", "traceback", "typing", "uuid",
}  # fmt: skip
"""What `import sysclone` does not load, as dataclasses (by way of inspect) alone takes twice the 15 ms that it has."""


def public_names() -> set[str]:
    """What a user may import from sysclone."""
    return set(sysclone.__all__)


def test_public_names_are_the_intended_ones():
    """sysclone.__all__ is the table above, no more and no less."""
    assert public_names() == PUBLIC


def test_public_names_are_there():
    """Each public name can be had, those that are loaded late too, and dir() lists them."""
    assert [name for name in PUBLIC if not hasattr(sysclone, name)] == []
    assert set(dir(sysclone)) >= PUBLIC


def test_no_name_is_public_by_accident():
    """What can be had without an underscore is in the table, or is a public module."""
    modules = {name.partition(".")[2] for name in sys.modules if name.startswith("sysclone.")}
    strays = {name for name in vars(sysclone) if not name.startswith("_")} - PUBLIC - modules

    assert strays <= {"TYPE_CHECKING", "annotations"}


def test_lowlevel_names_are_the_intended_ones():
    """lowlevel.__all__ is the table above and the kernel's own constants."""
    names = set(sysclone.lowlevel.__all__)

    assert {name for name in names if name in LOWLEVEL or not name.startswith(CONSTANTS)} == LOWLEVEL


def documented():
    """Each public thing that has a docstring of its own, with its name."""
    for owner, names in ((sysclone, PUBLIC), (sysclone.lowlevel, LOWLEVEL)):
        for name in sorted(names):
            thing = getattr(owner, name)
            if callable(thing) or inspect.ismodule(thing):
                yield f"{owner.__name__}.{name}", thing
            if inspect.isclass(thing):
                yield from methods(f"{owner.__name__}.{name}", thing)


def methods(name, cls):
    """The public methods and properties that a class of ours adds."""
    for attribute, value in vars(cls).items():
        plain = isinstance(value, (classmethod, staticmethod, property)) or inspect.isfunction(value)
        if plain and not attribute.startswith("_") and not issubclass(cls, enum.Enum):
            yield f"{name}.{attribute}", value


def test_public_things_are_documented():
    """Each public function, class, method and property has a docstring of its own."""
    bare = [name for name, thing in documented() if not (thing.__doc__ or "").strip()]

    assert bare == []


def test_lowlevel_names_the_manual():
    """Each function of lowlevel says which page of the manual it follows."""
    functions = {name: getattr(sysclone.lowlevel, name) for name in LOWLEVEL if name.islower()}

    assert [name for name, function in functions.items() if "(2)" not in function.__doc__] == []


@pytest.mark.parametrize("path", sorted(TESTS.rglob("test_*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_tests_are_documented(path):
    """Each test has a docstring: one sentence on the behaviour."""
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]

    assert [one.name for one in functions if one.name.startswith("test_") and not ast.get_docstring(one)] == []


def loaded_by(statement: str) -> set[str]:
    """The modules that a statement adds to those of a bare interpreter."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_loads_nothing_heavy():
    """`import sysclone` loads none of the slow modules of the standard library, and no rich."""
    assert loaded_by("import sysclone") & HEAVY == set()


def test_a_light_call_loads_nothing_heavy():
    """Calling a function in a light process loads none of them either."""
    assert loaded_by("import sysclone; sysclone.call(int)") & (HEAVY | {"rich"}) == set()


def test_version_is_known_in_one_place():
    """The module's version is the installed package's."""
    assert sysclone.__version__ == importlib.metadata.version("sysclone")
