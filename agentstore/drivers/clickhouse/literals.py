"""Values in the text of a statement. ClickHouse's native protocol has no parameters on old servers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

T = TypeVar("T")

MOST = 10_000
"""Values in a statement: a server takes 50,000 nodes of syntax, of which a value is one."""

_SPECIAL = re.compile(r"['\\\x00]")
_ESCAPED = {"'": "\\'", "\\": "\\\\", "\0": "\\0"}


def literal(value: str | int) -> str:
    """A text or a number as the server's parser reads it."""
    if isinstance(value, int):
        return str(int(value))
    return "'" + _SPECIAL.sub(lambda match: _ESCAPED[match[0]], value) + "'"


def listed(values: Iterable[str | int]) -> str:
    """What stands behind IN."""
    return "(" + ", ".join(map(literal, values)) + ")"


def portions(values: Sequence[T], size: int = MOST) -> Iterator[Sequence[T]]:
    """So many of them at a time."""
    return (values[at : at + size] for at in range(0, len(values), size))
