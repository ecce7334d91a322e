from __future__ import annotations

from typing import assert_type

import sysclone
from sysclone import Context, Share


def total(numbers: list[int]) -> int:
    return sum(numbers)


assert_type(sysclone.call(total, [1, 2]), int)
task = sysclone.start(total, [1, 2])
assert_type(task.result(timeout=1.0), int)

light = Context(share=Share.VM | Share.FILES, timeout=2.0)
assert_type(light.call(total, numbers=[3]), int)
