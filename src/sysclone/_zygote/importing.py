"""The owner's main module in another process, which has no copy of it."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

importing_main = False
"""Whether that is going on: what starts fresh processes then has to be refused."""

NEEDS_GUARD: Final = (
    "a fresh process was asked for while the main module was being imported in one: it needs the guard "
    "`if __name__ == '__main__':` around what starts the program"
)


class Hint(str):
    """The name of a module to preload if it is there."""

    __slots__ = ()


def import_main(kind: str, name: str) -> None:
    """Import the owner's main module, as multiprocessing's spawn does: as `__mp_main__`, so that its guard keeps it still.

    Args:
        kind: "name" or "path".
        name: the module's name, or its file.
    """
    global importing_main
    import runpy
    import types

    # multiprocessing gives that name to the module of the command line, which is the zygote's, until it has a better one.
    if getattr(sys.modules.get("__mp_main__"), "__name__", "__main__") != "__main__":
        return
    importing_main = True
    try:
        module = types.ModuleType("__mp_main__")
        if kind == "name":
            names = runpy.run_module(name, run_name="__mp_main__", alter_sys=True)
        else:
            names = runpy.run_path(name, run_name="__mp_main__")
        module.__dict__.update(names)
    finally:
        importing_main = False
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
