"""Executor: concurrent.futures over light, copied and fresh processes, which can be stopped, limited, and asked why.

`_executor` is what users see; `_manager` is the one thread that waits, over `_state`, `_starts` and `_ends`; `_workers`,
`_once` and `_warm` are its processes from outside, `_loop` the same from inside, `_channel` and `_board` what goes between
them; `_limits` and `_groups` confine them, `_reasons` tells why they died; `_map` is map.
"""

from __future__ import annotations

from ._executor import Executor as Executor
from ._future import Future as Future

__all__ = ["Executor", "Future"]
