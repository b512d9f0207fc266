"""A connection in use: statements go out in as few packets as its server takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymysql.constants import SERVER_STATUS
from pymysql.err import DataError, IntegrityError, MySQLError

from agentstore.drivers.sql import rows
from agentstore.errors import CorruptRecordError, InvalidInputError, UnavailableError
from agentstore.rules.outcomes import UNEXPECTED

from . import sql
from .connecting import GRACE
from .literals import inserts, packets
from .wire import Damaged, converse, note_answered

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from agentstore import rules
    from agentstore.records import Message, StateItem

    from .connecting import ServerConnection
    from .wire import Result, Row

_AT_ONCE = 2**20  # bytes that the system takes in one go, so that they are on their way when we wait
_ROLLBACK = b"ROLLBACK"


BAD = (CorruptRecordError, InvalidInputError, DataError, IntegrityError, *UNEXPECTED)
"""What an operation of a batch, or what is stored, may bring upon the whole batch."""


class RacedError(Exception):
    """Another writer has just created what this transaction found missing: run it again."""


class Wire:
    """One caller's use of a connection.

    Args:
        connection: Of the pool.
        place: Which server, for messages.
        seconds: What a statement may take.
    """

    __slots__ = ("_connection", "_seconds", "place")

    def __init__(self, connection: ServerConnection, place: str, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self.place = place

    @property
    def connection(self) -> ServerConnection:
        """What it uses."""
        return self._connection

    async def send(self, *statements: str | bytes) -> list[Any]:
        """The results of the statements, in one round trip unless they are more than one packet holds.

        Raises:
            MessageTooLargeError: One alone is more than that; the statements before it may have been carried out.
            pymysql.err.Error, TimeoutError: As `converse`.
        """
        self._check()
        found: list[Result] = []
        try:
            for packet in packets(statements, self.limit):
                found += await converse(self._connection, packet, self._seconds + GRACE)
        except MySQLError as error:
            note_answered(error, len(found))
            raise
        return found

    async def commit(self, *statements: str | bytes) -> bool:
        """Carry out a whole transaction, in one round trip and without a lock that waits for this loop.

        Should a statement fail, the transaction is undone at once. Gives False, having done nothing, where the
        statements are too long to be sure of that.

        Raises:
            pymysql.err.Error, TimeoutError: As `converse`.
        """
        self._check()
        transaction = list(packets([sql.BEGIN, *statements, sql.COMMIT], min(self.limit, _AT_ONCE)))
        if len(transaction) != 1:
            return False
        await converse(self._connection, transaction[0], self._seconds + GRACE, _ROLLBACK)
        return True

    def _check(self) -> None:
        if not self._connection.server_status & SERVER_STATUS.SERVER_STATUS_NO_BACKSLASH_ESCAPES:
            self._connection.close()
            raise UnavailableError(
                f"{self.place}: the session's sql_mode was changed under way",
                hint="Let no proxy share sessions among clients: it must pin them, or restore sql_mode",
                answered=True,
            )

    @property
    def limit(self) -> int:
        """Bytes that a statement may have."""
        return self._connection.packet_limit - sql.SLACK

    def inserts(self, head: str, rows: Iterable[str], tail: str = "") -> Iterator[bytes]:
        """Statements that insert rows; see `literals.inserts`."""
        return inserts(head, rows, tail, self.limit)

    async def rollback(self) -> None:
        """Undo the transaction if one is open; a connection on which that fails is closed, which does it too."""
        if self._connection.closed or not self._connection.get_transaction_status():
            return
        try:
            await converse(self._connection, _ROLLBACK, self._seconds + GRACE)
        except (MySQLError, TimeoutError):
            self._connection.close()


# --- from rows, as `agentstore.drivers.sql.rows`, which knows of no damaged ones ---


def stored_of(row: Row) -> rules.Stored:
    """What a row of a session says.

    Raises:
        CorruptRecordError: It holds what no session has.
    """
    _check([row], f"the row of session {row[0]!r}")
    return rows.stored(row)


def messages_of(found: Sequence[Row], start: int = 0) -> list[Message]:
    """The messages of rows, whose columns of interest begin at `start`.

    Raises:
        CorruptRecordError: A row holds what no message has.
    """
    _check(found, "a stored message")
    return rows.messages([row[start:] for row in found] if start else found)


def item_of(row: Row) -> StateItem:
    """The item of a row (key, value, version, expires_at).

    Raises:
        CorruptRecordError: It holds what no item has.
    """
    _check([row], f"the stored value of key {row[0]!r}")
    return rows.state_item(*row)


def _check(found: Sequence[Row], what: str) -> None:
    if Damaged in map(type, found):
        raise CorruptRecordError(
            f"{what} cannot be read: it holds a text that is no UTF-8",
            hint="Mend it from a backup, or delete what it belongs to",
        )
