"""Which part of an object cannot be pickled: the object, the attribute, and the path to it."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Final

_PATIENCE: Final = 1.0
"""Seconds for the search: each step pickles a part again."""

_DEPTH: Final = 30


def blame(value: object, path: str, dumps: Callable[[object], object]) -> str:
    """Say in words what of value cannot be pickled.

    Args:
        value: what dumps refused.
        path: what value is called: "argument 1", "the return value".
        dumps: raises for what cannot be pickled.
    """
    deadline = time.monotonic() + _PATIENCE
    seen = set()
    error: BaseException | None = _refusal(value, dumps)
    for _ in range(_DEPTH):
        seen.add(id(value))
        for step, part in _parts(value):
            if id(part) in seen or time.monotonic() > deadline:
                continue
            refused = _refusal(part, dumps)
            if refused is not None:
                path, value, error = path + step, part, refused
                break
        else:
            break
    why = f"{type(error).__name__}: {error}" if error is not None else "but it can be now"
    return f"{path}, of type {type(value).__module__}.{type(value).__qualname__}, cannot be pickled: {why}"


def _refusal(value: object, dumps: Callable[[object], object]) -> BaseException | None:
    try:
        dumps(value)
    except Exception as e:
        return e.with_traceback(None)
    return None


def _parts(value: Any) -> Iterator[tuple[str, object]]:
    """What pickling goes on to, with the step that leads there."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield f"[{_short(key)}]", part
            yield f" (key {_short(key)})", key
        return
    if isinstance(value, (list, tuple, set, frozenset)):
        for index, part in enumerate(value):
            yield f"[{index}]", part
        return
    code = getattr(value, "__code__", None)
    for name, cell in zip(getattr(code, "co_freevars", ()), getattr(value, "__closure__", None) or (), strict=False):
        try:
            yield f" (closure variable {name})", cell.cell_contents
        except ValueError:
            continue
    for name in ("__self__", "__defaults__", "__kwdefaults__", "func", "args", "keywords"):
        part = getattr(value, name, None)
        if part is not None and not isinstance(part, type(blame.__get__)) and type(value).__module__ != "builtins":
            yield f".{name}", part
    if getattr(value, "__self__", None) is not None and not isinstance(value, type):
        yield ".__self__", value.__self__
    yield from _state(value)


def _state(value: Any) -> Iterator[tuple[str, object]]:
    try:
        reduced = value.__reduce_ex__(5)
    except Exception:
        reduced = None
    state = reduced[2] if isinstance(reduced, tuple) and len(reduced) > 2 else getattr(value, "__dict__", None)
    states = state if isinstance(state, tuple) else (state,)
    for one in states:
        if isinstance(one, dict):
            for name, part in one.items():
                yield f".{name}", part
        elif one is not None:
            yield " (its state)", one
    if isinstance(reduced, tuple) and isinstance(reduced[1], tuple):
        for index, part in enumerate(reduced[1]):
            if part is not value:
                yield f" (argument {index} of {getattr(reduced[0], '__name__', 'its maker')})", part


def _short(key: object) -> str:
    text = repr(key)
    return text if len(text) <= 40 else text[:37] + "..."
