"""A record that cannot be read concerns whoever asks for it, and nobody else in the batch."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, TypeVar

from agentstore import rules
from agentstore.errors import CorruptRecordError
from agentstore.rules.outcomes import UNEXPECTED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentstore.protocol import Outcome

In = TypeVar("In")
Out = TypeVar("Out")


def fetched(connection: sqlite3.Connection, sql: str, values: Sequence[Any], key: str) -> list[Any]:
    """All rows of a SELECT.

    Args:
        connection: Within a transaction.
        sql: The SELECT.
        values: For its question marks.
        key: Its column by which an error names the row.

    Raises:
        CorruptRecordError: A text is no UTF-8. (What SQLite itself says concerns more than this row: it goes on.)
    """
    try:
        return connection.execute(sql, values).fetchall()
    except sqlite3.OperationalError as error:
        if hasattr(error, "sqlite_errorcode"):
            raise
        name = _first_unreadable(connection, sql, values, key)
        raise CorruptRecordError(
            f"the stored row with {key} {name!r} cannot be read: {error}",
            hint="Mend it from a backup, or delete what it belongs to",
        ) from error


def _first_unreadable(connection: sqlite3.Connection, sql: str, values: Sequence[Any], key: str) -> Any:
    count = 0
    try:
        for _row in connection.execute(sql, values):
            count += 1
    except sqlite3.OperationalError:
        named = f"SELECT CAST({key} AS BLOB) FROM ({sql}) LIMIT 1 OFFSET ?"  # noqa: S608  constants
        ((name,),) = connection.execute(named, (*values, count))
        return name.decode(errors="backslashreplace")
    return None


def isolated(
    connection: sqlite3.Connection,
    batch: Sequence[In],
    run: Callable[[sqlite3.Connection, Sequence[In]], list[Outcome[Out]]],
) -> list[Outcome[Out]]:
    """`run` the batch; if what is stored stops it, run each operation by itself, so that those fail that touch it.

    Must be all that the write transaction does: it is begun anew.
    """
    try:
        return run(connection, batch)
    except (CorruptRecordError, sqlite3.IntegrityError, *UNEXPECTED):
        connection.execute("ROLLBACK")
        connection.execute("BEGIN IMMEDIATE")

    def alone(op: In) -> Outcome[Out]:
        connection.execute("SAVEPOINT alone")
        try:
            (outcome,) = run(connection, [op])
        except BaseException as error:
            if connection.in_transaction:  # some errors have rolled it back already
                connection.execute("ROLLBACK TO alone")
                connection.execute("RELEASE alone")
            if isinstance(error, sqlite3.IntegrityError):
                raise CorruptRecordError(
                    f"the stored rows contradict each other: {error}", hint="Restore a backup, or delete the session"
                ) from error
            raise
        connection.execute("RELEASE alone")
        return outcome

    return rules.each(batch, alone)
