"""The process half of CPython's test of multiprocessing, with the start method "zygote"."""

from test import _test_multiprocessing

import sysclone.multiprocessing  # noqa: F401 (it makes the start method known)

# What is preloaded is the test of forkserver: it imports this, and pyenv leaves it out.
_test_multiprocessing.PRELOAD[:] = ["__main__", "test._test_multiprocessing"]
for part in ({"only_type": "processes"}, {"only_type": "manager"}, {"exclude_types": True}):
    _test_multiprocessing.install_tests_in_module_dict(globals(), "zygote", **part)
