"""One round trip: several statements go out as one packet, all their results come back.

Results are parsed here, not by aiomysql: it awaits twice and makes an object for each row and each column's
description, which takes longer than all the rest of a read. So this module leans on aiomysql's ``_execute_command``,
``_reader`` and ``_writer``, and speaks the part of the protocol that `connecting` has agreed on: text results that end
with EOF packets
(https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_query_response.html, the same on MariaDB).
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Any, TypeAlias

from pymysql.constants import COMMAND, CR, FIELD_TYPE, SERVER_STATUS
from pymysql.err import MySQLError, OperationalError, raise_mysql_exception

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiomysql import Connection

Row: TypeAlias = tuple[Any, ...]
Result: TypeAlias = "list[Row] | int"
"""What one statement gave: its rows, or how many it changed."""

_PIECE = 2**18  # bytes to ask the stream for
_HEADER = 4
_LONGEST = 2**24 - 1  # bytes; a packet of this length goes on in the next
_OK, _EOF, _ERROR = 0x00, 0xFE, 0xFF
_SHORT_EOF = 9  # an EOF packet is shorter; a row that begins with the same byte is longer
_NULL = 251
_WIDTHS = {252: 2, 253: 3, 254: 8}  # bytes of a length that is not in the first byte
_NUMBERS = {FIELD_TYPE.TINY, FIELD_TYPE.SHORT, FIELD_TYPE.INT24, FIELD_TYPE.LONG, FIELD_TYPE.LONGLONG}
_TYPE_FROM_END = 6  # where a column's description has its type: the fields behind it are of fixed length


class Damaged(tuple[Any, ...]):
    """A row with a text that is no UTF-8; such bytes are written out in hex. A part of it is as damaged."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return Damaged(found) if isinstance(index, slice) else found


async def converse(connection: Connection, statements: bytes, seconds: float, behind: bytes = b"") -> list[Result]:
    """Send statements, joined by ``;``, and wait for their results, for at most so many seconds.

    The first statement that fails ends it: the server does not begin those after it. It does carry out `behind`, in any
    case and at once, for that is on its way as well: whatever becomes of this loop, no transaction stays open that
    `behind` ends.

    Raises:
        pymysql.err.Error: The server's answer, or the connection was lost; then it is closed.
        TimeoutError: No answer came in time. The connection is closed, as it is when the caller is cancelled.
    """
    try:
        async with asyncio.timeout(seconds):
            if behind:
                connection._writer.write(_packet(statements) + _packet(behind))  # noqa: SLF001  in one call of the system
            else:
                await connection._execute_command(COMMAND.COM_QUERY, statements)  # noqa: SLF001  see above
            answer = _Answer(connection)
            try:
                found = await answer.results()
            except MySQLError:
                if behind and not connection.closed:
                    await answer.results()
                raise
            if behind:
                await answer.results()
            return found
    except MySQLError:
        raise
    except BaseException as error:
        connection.close()  # part of the answer may still come
        if isinstance(error, OSError) and not isinstance(error, TimeoutError):
            raise OperationalError(CR.CR_SERVER_LOST, f"Lost connection to MySQL server ({error})") from error
        raise


def _packet(statements: bytes) -> bytes:
    """A command, if it is not too long for one packet."""
    return struct.pack("<iB", len(statements) + 1, COMMAND.COM_QUERY) + statements


def answered(error: MySQLError) -> int:
    """How many statements were carried out before the one that failed."""
    count: int = getattr(error, "answered", 0)
    return count


def note_answered(error: MySQLError, count: int) -> None:
    """Say that so many more were, before."""
    error.answered = answered(error) + count  # it travels with the error


class _Answer:
    """Reads packets from the stream into one buffer and takes them apart there."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._read = connection._reader.read  # noqa: SLF001  see above
        self._buffer = bytearray()
        self._at = self._end = 0  # the packet that was taken last
        self._number = 0  # of the next packet

    async def results(self) -> list[Result]:
        """Those of the next command."""
        self._number = 1
        found: list[Result] = []
        try:
            await self._collect(found)
        except MySQLError as error:
            note_answered(error, len(found))
            raise
        return found

    async def _collect(self, found: list[Result]) -> None:
        more = True
        while more:
            await self._next()
            first = self._buffer[self._at]
            if first == _ERROR:
                raise_mysql_exception(bytes(self._buffer[self._at : self._end]))
            if first == _OK:
                self._at += 1
                found.append(self._length())
                self._length()  # the last insert id
                more = self._status(self._at)
            else:
                rows, more = await self._rows(self._length())
                found.append(rows)

    async def _rows(self, columns: int) -> tuple[list[Row], bool]:
        converters: list[Callable[[bytearray], Any]] = []
        for _ in range(columns):
            if not self._take():  # nearly always here
                await self._next()
            is_number = self._buffer[self._end - _TYPE_FROM_END] in _NUMBERS
            converters.append(int if is_number else bytearray.decode)
        await self._next()  # an EOF
        rows: list[Row] = []
        while True:
            if not self._take():
                await self._next()
            first = self._buffer[self._at]
            if first == _EOF and self._end - self._at < _SHORT_EOF:
                return rows, self._status(self._at + 3)
            if first == _ERROR:
                raise_mysql_exception(bytes(self._buffer[self._at : self._end]))
            try:
                rows.append(tuple(self._row(converters)))
            except UnicodeDecodeError:
                rows.append(Damaged(self._row([int if kind is int else _legible for kind in converters])))

    def _row(self, converters: Sequence[Callable[[bytearray], Any]]) -> list[Any]:
        buffer, at = self._buffer, self._at
        row: list[Any] = []
        for convert in converters:
            length = buffer[at]
            at += 1
            if length >= _NULL:
                if length == _NULL:
                    row.append(None)
                    continue
                width = _WIDTHS[length]
                length = int.from_bytes(buffer[at : at + width], "little")
                at += width
            end = at + length
            row.append(convert(buffer[at:end]))
            at = end
        return row

    def _length(self) -> int:
        """Pass over a length-encoded integer."""
        first = self._buffer[self._at]
        self._at += 1
        if first < _NULL:
            return first
        start = self._at
        self._at += _WIDTHS[first]
        return int.from_bytes(self._buffer[start : self._at], "little")

    def _status(self, at: int) -> bool:
        """Note the session's status; whether another result follows."""
        status = int.from_bytes(self._buffer[at : at + 2], "little")
        self._connection.server_status = status
        return bool(status & SERVER_STATUS.SERVER_MORE_RESULTS_EXISTS)

    async def _next(self) -> None:
        """Take the next packet, waiting for it."""
        while not self._take():
            del self._buffer[: self._end]
            self._end = 0
            piece = await self._read(_PIECE)
            if not piece:
                raise self._lost("Lost connection to MySQL server during query")
            self._buffer += piece

    def _take(self) -> bool:
        """Take the next packet if it is here whole."""
        buffer, start = self._buffer, self._end
        if len(buffer) < start + _HEADER:
            return False
        length = int.from_bytes(buffer[start : start + 3], "little")
        end = start + _HEADER + length
        if len(buffer) < end:
            return False
        if buffer[start + 3] != self._number:
            raise self._lost("Packet sequence number wrong: the server is shutting down, or out of step")
        if length == _LONGEST:
            return self._take_long(start, end)
        self._number = (self._number + 1) % 256
        self._at, self._end = start + _HEADER, end
        return True

    def _take_long(self, start: int, end: int) -> bool:
        """Take a packet of the greatest length together with those that go on with it, if all are here."""
        headers = []
        length = _LONGEST
        while length == _LONGEST:
            headers.append(end)
            length = int.from_bytes(self._buffer[end : end + 3], "little")
            end += _HEADER + length
            if len(self._buffer) < end:
                return False
        for header in reversed(headers):
            del self._buffer[header : header + _HEADER]
        self._number = (self._number + 1 + len(headers)) % 256
        self._at, self._end = start + _HEADER, end - _HEADER * len(headers)
        return True

    def _lost(self, why: str) -> OperationalError:
        self._connection.close()
        return OperationalError(CR.CR_SERVER_LOST, why)


def _legible(text: bytearray) -> str:
    return text.decode(errors="backslashreplace")
