"""Which part of an object cannot be pickled, and the path that leads there: pickle names the type alone."""

from __future__ import annotations

import copyreg

from .transport import pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Final

_DEEPEST: Final = 50
_MOST_TRIED: Final = 10_000
_SHOWN: Final = 80


def blame(root: str, value: object, error: BaseException, fallback: Callable[[], Any] | None = None) -> str:
    """What to say of an object that cannot be pickled.

    Args:
        root: what the object is called: "the return value".
        value: the object.
        error: why the whole of it could not be pickled.
        fallback: as of `_data.transport.pack`.

    Returns:
        A sentence with the innermost part at fault, its type, where it is, and the reason there.
    """
    path, part, reason = _innermost(value, error, fallback)
    kind = f"{type(part).__module__}.{type(part).__qualname__}"
    shown = f"{type(reason).__name__}: {reason}"
    if not path:
        return f"{root}, of type {kind}, cannot be pickled: {shown}"
    outer = f"{type(value).__module__}.{type(value).__qualname__}"
    return (
        f"{root}, of type {outer}, cannot be pickled: at {root.rpartition(' ')[2]}{path} there is {_show(part)} "
        f"of type {kind}: {shown}"
    )


def _show(part: object) -> str:
    try:
        text = repr(part)
    except Exception:
        return "an object"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


class _Trials:
    """Pickles parts, as often as there is patience for."""

    def __init__(self, fallback: Callable[[], Any] | None) -> None:
        self._fallback = fallback
        self._left = _MOST_TRIED

    def fails(self, part: object) -> BaseException | None:
        """Why a part cannot be pickled by itself; None where it can, or where patience is at an end."""
        if self._left <= 0:
            return None
        self._left -= 1
        try:
            pack(part, self._fallback).close()
        except Exception as e:
            return e
        return None


def _innermost(
    value: object, error: BaseException, fallback: Callable[[], Any] | None
) -> tuple[str, object, BaseException]:
    trials, path, seen = _Trials(fallback), "", {id(value)}
    for _ in range(_DEEPEST):
        for step, part in _parts(value):
            if id(part) in seen:
                continue
            reason = trials.fails(part)
            if reason is not None:
                path, value, error = path + step, part, reason
                seen.add(id(part))
                break
        else:
            break
    return path, value, error


def _parts(value: object) -> Iterator[tuple[str, object]]:
    """What pickle would look at next in an object, each with its step of the path."""
    try:
        if isinstance(value, dict):
            for key, part in list(value.items()):
                yield f"[{_show(key)}]", part
            for key in list(value):
                yield f" (the key {_show(key)})", key
        elif isinstance(value, (list, tuple)):
            yield from ((f"[{i}]", part) for i, part in enumerate(list(value)))
        elif isinstance(value, (set, frozenset)):
            yield from ((" (an element)", part) for part in list(value))
        elif hasattr(value, "__code__"):
            yield from _closure(value)
        elif not isinstance(value, type):
            yield from _state(value)
    except Exception:
        return


def _closure(function: Any) -> Iterator[tuple[str, object]]:
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f" (its closure's {name})", cell.cell_contents
        except ValueError:
            continue
    for name in code.co_names:
        if name in getattr(function, "__globals__", {}):
            yield f" (its global {name})", function.__globals__[name]
    for i, part in enumerate(function.__defaults__ or ()):
        yield f" (its default {i})", part


def _state(value: object) -> Iterator[tuple[str, object]]:
    """The attributes, arguments and items that an object's own reduction hands to pickle."""
    reducer = copyreg.dispatch_table.get(type(value))
    try:
        reduced = reducer(value) if reducer is not None else value.__reduce_ex__(5)
    except Exception:
        yield from _attributes(getattr(value, "__dict__", {}))
        return
    if not isinstance(reduced, tuple):
        return
    state = reduced[2] if len(reduced) > 2 else None
    for part in state if isinstance(state, tuple) else (state,):
        if isinstance(part, dict):
            yield from _attributes(part)
        elif part is not None:
            yield " (its state)", part
    yield from ((f" (argument {i} of its __reduce__)", part) for i, part in enumerate(reduced[1]))
    yield from ((f"[{i}]", part) for i, part in enumerate(_listed(reduced, 3)))
    yield from ((f"[{_show(pair[0])}]", pair[1]) for pair in _listed(reduced, 4))


def _attributes(state: dict[str, Any]) -> Iterator[tuple[str, object]]:
    yield from ((f".{name}", part) for name, part in list(state.items()))


def _listed(reduced: tuple[Any, ...], index: int) -> Iterable[Any]:
    return list(reduced[index] or ()) if len(reduced) > index else ()
