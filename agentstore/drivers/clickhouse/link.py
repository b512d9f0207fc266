"""A connection in use: statements go to the server, rows come back."""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from asynch.errors import ServerException
from asynch.proto.result import QueryInfo

from .errors import RAISED, translated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

Row: TypeAlias = "tuple[Any, ...]"
Connection: TypeAlias = Any
"""An ``asynch.proto.connection.Connection``, of which its stubs tell little."""

_STRINGS = 54429  # from this revision on settings go as text, and the server skips those that it does not know
_LONGEST_STATEMENT = 2**30  # bytes; a thousand appends name many ids
_GRACE = 2.0  # seconds that the server has to tell that its time is over


class Link(Protocol):
    """What the driver needs of a server. Tests have one on an engine in this process."""

    async def select(self, statement: str) -> list[Row]:
        """The rows of a query, or none for any other statement that carries no data."""

    async def insert(self, table: str, columns: str, rows: Sequence[Row]) -> None:
        """Insert rows as one block, which a server stores whole or not at all."""


class Held:
    """Stands for a `asyncio.StreamWriter`, and keeps what is written."""

    def __init__(self) -> None:
        self.text = bytearray()

    def write(self, data: bytearray) -> None:
        """Keep it."""
        self.text += data

    async def drain(self) -> None:
        """Nobody has to wait."""


class ServerLink:
    """A connection of asynch, used on the level of its protocol.

    Its cursors ping the server before each statement, and after an INSERT they read one packet only, which on current
    servers is not the one that says that the rows are stored.

    Args:
        connection: Open, and nobody else's. What is written goes out at once, unless it is to go out with more.
        seconds: What a statement may take.
        place: Which server, for messages.
    """

    __slots__ = ("_connection", "_place", "_samples", "_seconds")

    def __init__(self, connection: Connection, seconds: float, place: str) -> None:
        self._connection = connection
        self._seconds = seconds
        self._place = place
        self._samples: dict[str, Any] = {}  # empty blocks, which tell the types of columns

    async def select(self, statement: str) -> list[Row]:
        try:
            async with self._exchange():
                async with self._held():
                    await self._begin(statement, {})
                rows: list[Row] = await self._connection.receive_result()
        except UnicodeDecodeError:
            return await self._select_bytes(statement)
        return rows

    async def _select_bytes(self, statement: str) -> list[Row]:
        async with self._exchange():
            await self._begin(statement, {"strings_as_bytes": True})
            return [_decoded(row) for row in await self._connection.receive_result()]

    async def insert(self, table: str, columns: str, rows: Sequence[Row]) -> None:
        statement = f"INSERT INTO {table} ({columns}) VALUES"
        async with self._exchange():
            await self._insert(statement, rows)

    async def _insert(self, statement: str, rows: Sequence[Row]) -> None:
        """The types are asked for once; from then on statement and rows go out together."""
        connection, settings = self._connection, {"insert_block_size": len(rows)}
        sample = self._samples.get(statement)
        if sample is None:
            await self._begin(statement, settings)
            sample = self._samples[statement] = await connection.receive_sample_block()
            await connection.send_data(sample, rows)
        else:
            async with self._held():
                await self._begin(statement, settings)
                await connection.send_data(sample, rows)
        while await connection.receive_packet():
            pass

    @asynccontextmanager
    async def _held(self) -> AsyncIterator[None]:
        """Let all that is written meanwhile go out together."""
        writer = self._connection.writer
        stream, writer.writer = writer.writer, Held()
        try:
            yield
        finally:
            held, writer.writer = writer.writer, stream
        stream.write(held.text)
        await stream.drain()

    @asynccontextmanager
    async def _exchange(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._seconds + _GRACE):
                if self._connection.is_query_executing:
                    await self._connection.connect()  # anew: the rest of the former answer may be under way
                yield
        except RAISED as error:
            if isinstance(error, ServerException):  # asynch takes it for the end, but more may follow: nobody knows
                self._connection.is_query_executing = True
            raise translated(error, self._place, ended=self._has_ended()) from error

    def _has_ended(self) -> bool:
        """Whether the server will say no more on this connection."""
        reader = self._connection.reader  # asynch's own, around that of asyncio; None when there is no connection
        return reader is not None and reader.reader is not None and reader.reader.at_eof()

    async def _begin(self, statement: str, client: dict[str, Any]) -> None:
        connection = self._connection
        settings: dict[str, Any] = {
            "max_execution_time": math.ceil(self._seconds),
            "max_query_size": _LONGEST_STATEMENT,
            "max_threads": 1,  # for a few rows of a few sessions more of them only cost time
            **client,
        }
        if connection.server_info.revision >= _STRINGS:
            settings["async_insert"] = 0  # groups are made here, and a block has to stay one
        connection.make_query_settings(settings)
        connection.last_query = QueryInfo(connection.reader)  # type: ignore[no-untyped-call]
        connection.is_query_executing = True  # until the end of the answer was read: else nobody can use it again
        await connection.send_query(statement)
        await connection.send_external_tables(None)


def _decoded(row: Row) -> Row:
    """`row` as text; what is no UTF-8 stays bytes, which `records` refuses."""
    return tuple(map(_text, row))


def _text(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
