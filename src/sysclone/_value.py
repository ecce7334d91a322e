"""Immutable values with named parts: compared by value, hashable, picklable."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar


class Value:
    """The base of what a Context's fields are made of; its parts are its slots."""

    __slots__: ClassVar[tuple[str, ...]] = ()

    def _have(self, **parts: Any) -> None:
        for name, value in parts.items():
            object.__setattr__(self, name, value)

    def _parts(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a {type(self).__name__} cannot be changed")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a {type(self).__name__} cannot be changed")

    def __eq__(self, other: object) -> bool:
        return self._parts() == other._parts() if isinstance(other, type(self)) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._parts())

    def __repr__(self) -> str:
        told = (f"{name}={value!r}" for name, value in zip(self.__slots__, self._parts(), strict=True) if value)
        return f"{type(self).__name__}({', '.join(told)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self._parts())


def _rebuild(kind: type[Value], parts: tuple[Any, ...]) -> Value:
    value = object.__new__(kind)
    value._have(**dict(zip(kind.__slots__, parts, strict=True)))
    return value
