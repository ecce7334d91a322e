"""The process half of CPython's test of multiprocessing, with the start method "clone"."""

from test import _test_multiprocessing

import sysclone.multiprocessing  # noqa: F401 (it makes the start method known)

for part in ({"only_type": "processes"}, {"only_type": "manager"}, {"exclude_types": True}):
    _test_multiprocessing.install_tests_in_module_dict(globals(), "clone", **part)
