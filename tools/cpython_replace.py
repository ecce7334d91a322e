"""Runs a patch as soon as a module has been imported.

tools/test_cpython.py puts a copy in each environment that it makes, and a .pth file that calls it, so that every Python
which a test starts there has the replacement too.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any


class Finder:
    """Finds a module as the others would, and sees to it that the patch follows its execution."""

    def __init__(self, module: str, patch: str) -> None:
        self.module = module
        self.patch = patch

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """As of importlib.abc.MetaPathFinder."""
        if name != self.module or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                exec(self.patch, {"module": module})

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def after(module: str, patch: str) -> None:
    """Run a patch, in which `module` is that module, once it is imported."""
    if module in sys.modules:
        exec(patch, {"module": sys.modules[module]})
    else:
        sys.meta_path.insert(0, Finder(module, patch))  # type: ignore[arg-type]
