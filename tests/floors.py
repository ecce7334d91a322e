"""Who may import whom: the floors of the package, and a reader of imports.

An import goes down, or sideways on its floor without a circle. It counts wherever it stands: in a function too. What is
imported for type checkers alone may close a circle, but may not climb either.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "sysclone"
TOP = 7
FLOORS = {
    0: ("_core", "_version"),
    1: ("_flags", "_errors", "_hints", "_kernel", "errors", "lowlevel"),
    2: (
        "_context",
        "_explain",
        "_inspect.proc",
        "_inspect.sharing",
        "_popen.cause",
        "_popen.preexec",
        "_popen.program",
        "_task.status",
        "_trace",
        "_under",
        "_value",
    ),
    3: (
        "_cgroup",
        "_data",
        "_idmap",
        "_namespaces",
        "_popen.merge",
        "_popen.terminal",
        "_popen.tree",
        "_popen.usage",
        "_steps",
        "_task",
        "_threads",
        "_trace.tracefs",
        "_zygote.fresh",
    ),
    4: (
        "_api",
        "_call",
        "_inspect",
        "_popen",
        "_trace.begin",
        "_trace.session",
        "_trace.system",
        "_trace.trace",
        "_zygote",
    ),
    5: ("executor", "multiprocessing", "asyncio", "_to_process", "dask", "joblib"),
    6: ("cli", "__main__"),
    TOP: ("__init__",),
}
"""Names under sysclone. What is in a folder lives on the folder's floor, unless it is named itself: some rooms have stairs.

cli imports what __init__ offers. A room's own __init__ is empty, so that an import of one file leads to that file alone.
"""

BY_NAME = ("import_module", "importlib.import_module", "__import__")

FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names}


@dataclass(frozen=True)
class Import:
    """One import of a part of sysclone by another."""

    file: str
    line: int
    importer: str
    imported: str
    for_types: bool = False


def floor_of(module: str) -> int | None:
    """The floor of a module such as ``cli.run`` or ``__init__``, or None if the table has no place for it."""
    while module and module not in FLOOR_OF:
        module = module.rpartition(".")[0]
    return FLOOR_OF.get(module)


def climbs(found: Import) -> str | None:
    """The line of the report for an import that goes up, or None."""
    here, there = floor_of(found.importer), floor_of(found.imported)
    where = f"{found.file}:{found.line}"
    if here is None or there is None:
        return f"{where}: {found.importer if here is None else found.imported} has no floor"
    if found.imported == "__init__" and found.importer.partition(".")[0] in FLOORS[6]:
        return None
    if there > here:
        return f"{where}: {found.importer} (floor {here}) imports {found.imported} (floor {there})"
    return None


def modules(root: Path) -> dict[str, Path]:
    """Each module under the package's folder, by its name without ``sysclone.``; a stub stands for an extension."""
    files = [*root.rglob("*.py"), *root.rglob("*.pyi")]
    return {".".join(path.relative_to(root).with_suffix("").parts): path for path in files}


def imports(source: str, importer: str, file: str, known: set[str]) -> Iterator[Import]:
    """Each import of a part of sysclone in a source text."""
    tree = ast.parse(source, file)
    guarded = [child for node in ast.walk(tree) if guards_types(node) for child in node.body]
    typed = {id(inner) for child in guarded for inner in ast.walk(child)}
    for node in ast.walk(tree):
        for name in named(node, importer):
            imported = resolve(name, known)
            if imported is not None and imported != importer:
                yield Import(file, node.lineno, importer, imported, id(node) in typed)


def guards_types(node: ast.AST) -> bool:
    """Whether a node is ``if TYPE_CHECKING:``."""
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def named(node: ast.AST, importer: str) -> list[str]:
    """The dotted names that a node imports, made absolute; of ``from a import b`` both ``a.b`` and, failing that, a."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = absolute(node, importer)
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func) in BY_NAME:
        first = node.args[0] if node.args else None
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            return [PACKAGE + first.value if first.value.startswith(".") else first.value]
    return []


def absolute(node: ast.ImportFrom, importer: str) -> str:
    """The package that ``from ...x import y`` starts from."""
    if not node.level:
        return node.module or ""
    parts = [PACKAGE, *importer.split(".")]
    return ".".join([*parts[: -node.level], *([node.module] if node.module else [])])


def resolve(name: str, known: set[str]) -> str | None:
    """The module of sysclone that a dotted name leads to, or None for one that is not sysclone's."""
    package, _, rest = name.partition(".")
    if package != PACKAGE:
        return None
    while rest:
        if f"{rest}.__init__" in known:
            return f"{rest}.__init__"
        if rest in known or rest in FLOOR_OF:
            return rest
        rest = rest.rpartition(".")[0]
    return "__init__"


def circles(found: list[Import]) -> list[list[str]]:
    """The circles among the imports that run, each once, as the names on the way round."""
    edges: dict[str, set[str]] = {}
    for one in found:
        if not one.for_types:
            edges.setdefault(one.importer, set()).add(one.imported)
    done: set[str] = set()
    rounds: list[list[str]] = []

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            rounds.append([*path[path.index(name) :], name])
        elif name not in done:
            for following in sorted(edges.get(name, ())):
                walk(following, [*path, name])
            done.add(name)

    for name in sorted(edges):
        walk(name, [])
    return rounds
