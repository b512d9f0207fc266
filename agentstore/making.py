"""Records made fast, of values that need no check."""

from __future__ import annotations

from dataclasses import fields, make_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

R = TypeVar("R")


def maker(record: type[R]) -> Callable[..., R]:
    """A function that makes records of a frozen dataclass with slots.

    It takes the values of all fields, in their order, and neither checks nor converts them. A frozen dataclass sets
    each field by way of ``object.__setattr__``: a Message takes 1.7 us so. Here a twin that is not frozen is filled,
    and then becomes the record: 0.35 us.
    """
    names = [item.name for item in fields(record)]  # type: ignore[arg-type]
    twin = make_dataclass(record.__name__, names, bases=record.__bases__, slots=True)

    def make(*values: Any) -> R:
        made: Any = twin(*values)
        made.__class__ = record
        return made  # type: ignore[no-any-return]

    return make
