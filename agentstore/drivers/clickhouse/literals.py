"""Values in the text of a statement. ClickHouse's native protocol has no parameters on old servers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

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
