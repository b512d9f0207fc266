"""Values as SQL text, statements of bounded length.

The texts are right in one mode only, which `connecting` sets and `wire` checks before each statement goes out:
NO_BACKSLASH_ESCAPES without ANSI_QUOTES. There, a quote is doubled and nothing else is special, so JSON, which is full
of backslashes, goes out as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentstore.errors import MessageTooLargeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LONG = 2**20  # characters: from here on it is worth a look which quotes need less doubling


def literal(value: str | int | None) -> str:
    """A value of a statement; ids too: an id's column is binary, and takes and compares the bytes."""
    if value is None:
        return "NULL"
    if not isinstance(value, str):
        return str(value)
    if len(value) > _LONG and value.count("'") > value.count('"'):
        return '"' + value.replace('"', '""') + '"'
    return "'" + value.replace("'", "''") + "'"


def values(items: Iterable[str | int | None]) -> str:
    """A list in parentheses: a row to insert, or what stands behind IN."""
    return f"({','.join(map(literal, items))})"


def inserts(head: str, rows: Iterable[str], tail: str, limit: int) -> Iterator[bytes]:
    """Statements that insert rows, as few as do not exceed the limit; each row stands whole in one.

    Args:
        head: What comes before the rows.
        rows: Each in parentheses.
        tail: What comes behind them.
        limit: Bytes; a single longer row goes alone, and `packets` will refuse it.
    """
    first, last = head.encode(), tail.encode()
    room = limit - len(first) - len(last)
    gathered: list[bytes] = []
    size = 0
    for row in rows:
        encoded = row.encode()
        size += len(encoded) + 1
        if gathered and size > room:
            yield first + b",".join(gathered) + last
            gathered, size = [], len(encoded) + 1
        gathered.append(encoded)
    if gathered:
        yield first + b",".join(gathered) + last


def packets(statements: Iterable[str | bytes], limit: int) -> Iterator[bytes]:
    """Statements joined to packets, as few as do not exceed the limit.

    Raises:
        MessageTooLargeError: A single one does.
    """
    gathered: list[bytes] = []
    size = 0
    for statement in statements:
        encoded = statement.encode() if isinstance(statement, str) else statement
        if len(encoded) > limit:
            raise MessageTooLargeError(
                f"a statement of {len(encoded):,} bytes does not fit the server's max_allowed_packet "
                f"(room for {limit:,} bytes); nothing was stored",
                hint="Let the server take 16 MiB or more, 64 MiB at best: SET GLOBAL max_allowed_packet = 67108864, "
                "and the same in its configuration file. New connections find it out",
            )
        size += len(encoded) + 1
        if gathered and size > limit:
            yield b";".join(gathered)
            gathered, size = [], len(encoded) + 1
        gathered.append(encoded)
    if gathered:
        yield b";".join(gathered)
