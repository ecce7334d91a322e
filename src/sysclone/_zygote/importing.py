"""The owner's main module in another process, which has no copy of it."""

from __future__ import annotations

import sys

# What a task of an importing main module may not do.
importing_main = False


def import_main(kind: str, name: str) -> None:
    """Import the owner's main module, as multiprocessing's spawn does: as `__mp_main__`, so that its guard keeps it still.

    Args:
        kind: "name" or "path".
        name: the module's name, or its file.
    """
    global importing_main
    import runpy
    import types

    if "__mp_main__" in sys.modules:
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
