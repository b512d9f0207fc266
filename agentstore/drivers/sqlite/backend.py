"""The SQLite backend: a connection that writes, one that reads, each on its thread."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, ClassVar, TypeVar

from agentstore.concurrency import uncancelled
from agentstore.drivers.sql.upgrade import VERSION_TABLE
from agentstore.errors import ClosedError

from . import conversations, opening, state
from .errors import RAISED, translated
from .examine import examine
from .place import MEMORY, Place
from .thread import ConnectionThread

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping, Sequence

    from agentstore.findings import Finding
    from agentstore.options import PoolOptions
    from agentstore.protocol import (
        Append,
        Backend,
        Change,
        Find,
        GetItems,
        Head,
        Listing,
        Outcome,
        Read,
        Scan,
        StateOp,
    )
    from agentstore.records import Message, Page, Session, StateItem
    from agentstore.stats import PoolStats
    from agentstore.url import StoreURL

T = TypeVar("T")

_READ, _WRITE = "BEGIN", "BEGIN IMMEDIATE"
_EXIT_PATIENCE = 5.0  # seconds that the interpreter's end may wait for a statement


class SQLiteBackend:
    """Conversations and state in a SQLite file, or in memory for the life of this object.

    Every call is one function on a connection's thread, in one transaction. A write that has begun is waited for, also
    by a caller who is cancelled; a cancelled read is left behind.
    """

    lacks: ClassVar[Mapping[str, str]] = {}

    def __init__(self, url: StoreURL, pool: PoolOptions) -> None:
        path = url.file_path()
        self._place = Place(MEMORY if path is None or url.path == "/" + MEMORY else path)
        self._pool = pool
        self._guard = threading.Lock()  # held while the threads are started, never across an await
        self._writer: ConnectionThread | None = None
        self._reader: ConnectionThread | None = None
        self._closed = False

    async def aopen(self) -> None:
        for thread in self._started():  # the writer first: it makes the tables that the reader finds
            await uncancelled(thread.open())

    async def aclose(self) -> None:
        self._closed = True  # from here on `_started` closes what it starts
        for thread in self._threads():
            closing = thread.close()
            if closing is not None:  # otherwise another caller closes it
                await uncancelled(closing)

    async def ping(self) -> None:
        def look(connection: sqlite3.Connection) -> None:
            self._place.check()
            connection.execute(f"SELECT 1 FROM {VERSION_TABLE}").fetchone()  # noqa: S608  a constant

        await self._read(look)

    def close_at_exit(self) -> None:
        self._closed = True
        threads = self._threads()
        for thread in threads:
            thread.close_soon()
        for thread in threads:
            thread.join(_EXIT_PATIENCE)

    def pools(self) -> Sequence[PoolStats]:
        return ()

    async def examine(self) -> list[Finding]:
        def look(connection: sqlite3.Connection) -> list[Finding]:
            return examine(connection, self._place)

        return await self._open(self._writer).run(partial(_transaction, _READ, look, self._place))

    # --- conversations ---

    async def append(self, batch: Sequence[Append]) -> list[Outcome[list[Message]]]:
        return await self._write(lambda connection: conversations.append(connection, batch))

    async def read(self, batch: Sequence[Read]) -> list[Outcome[list[Message]]]:
        return await self._read(lambda connection: conversations.read(connection, batch))

    async def find(self, batch: Sequence[Find]) -> list[Outcome[dict[str, Message]]]:
        return await self._read(lambda connection: conversations.find(connection, batch))

    async def heads(self, batch: Sequence[Head]) -> list[Outcome[Session | None]]:
        return await self._read(lambda connection: conversations.heads(connection, batch))

    async def list_sessions(self, listing: Listing) -> Page[Session]:
        return await self._read(lambda connection: conversations.list_sessions(connection, listing))

    async def pop(self, session_id: str, count: int, *, user_id: str | None = None) -> list[Message]:
        return await self._write(lambda connection: conversations.pop(connection, session_id, count, user_id))

    async def clear(self, session_id: str, *, user_id: str | None = None) -> int:
        return await self._write(lambda connection: conversations.clear(connection, session_id, user_id))

    async def update(self, change: Change) -> Session:
        return await self._write(lambda connection: conversations.update(connection, change))

    async def delete(self, session_id: str, *, user_id: str | None = None) -> bool:
        return await self._write(lambda connection: conversations.delete(connection, session_id, user_id))

    async def restore(self, session: Session, messages: Sequence[Message]) -> None:
        await self._write(lambda connection: conversations.restore(connection, session, messages))

    async def rewrite(self, session: Session, messages: Sequence[Message]) -> bool:
        return await self._write(lambda connection: conversations.rewrite(connection, session, messages))

    async def purge_sessions(self) -> int:
        return await self._write(conversations.purge)

    # --- state ---

    async def get_items(self, batch: Sequence[GetItems]) -> list[Outcome[dict[str, StateItem]]]:
        return await self._read(lambda connection: state.get_items(connection, batch))

    async def write_items(self, batch: Sequence[StateOp]) -> list[Outcome[int]]:
        return await self._write(lambda connection: state.write_items(connection, batch))

    async def scan(self, scan: Scan) -> list[StateItem]:
        return await self._read(lambda connection: state.scan(connection, scan))

    async def namespaces(self, after: str | None = None, limit: int = 1000) -> list[str]:
        return await self._read(lambda connection: state.namespaces(connection, after, limit))

    async def purge_state(self) -> int:
        return await self._write(state.purge)

    # --- the threads ---

    async def _write(self, function: Callable[[sqlite3.Connection], T]) -> T:
        run = partial(_transaction, _WRITE, function, self._place)
        return await uncancelled(self._open(self._writer).run(run, lasting=True))

    async def _read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        return await self._open(self._reader).run(partial(_transaction, _READ, function, self._place))

    def _started(self) -> list[ConnectionThread]:
        """The threads, connected or not."""
        if self._writer is None and not self._closed:
            with self._guard:
                if self._writer is None:
                    writer = self._thread(opening.connect_writer)
                    self._reader = writer if self._place.in_memory else self._thread(opening.connect_reader)
                    self._writer = writer
        threads = self._threads()
        if self._closed:
            for thread in threads:
                thread.close_soon()
            raise ClosedError
        return threads[::-1]

    def _thread(self, connect: Callable[[Place, PoolOptions], sqlite3.Connection]) -> ConnectionThread:
        return ConnectionThread(partial(_connected, connect, self._place, self._pool), parts=not self._place.in_memory)

    def _open(self, thread: ConnectionThread | None) -> ConnectionThread:
        if self._closed or thread is None:
            raise ClosedError
        return thread

    def _threads(self) -> list[ConnectionThread]:
        """The reader first: the last to close folds the log into the file."""
        return [thread for thread in (self._reader, self._writer) if thread is not None]


def _transaction(
    begin: str, function: Callable[[sqlite3.Connection], T], place: Place, connection: sqlite3.Connection
) -> T:
    """All that `function` does, or nothing of it; the connection is fit for the next in any case."""
    try:
        connection.execute(begin)
        try:
            if begin == _WRITE:
                place.check()
            result = function(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # some errors have rolled it back already
                connection.execute("ROLLBACK")
            raise
    except RAISED as error:
        raise (place.lost() or translated(error, place.path)) from error
    return result


def _connected(
    connect: Callable[[Place, PoolOptions], sqlite3.Connection], place: Place, pool: PoolOptions
) -> sqlite3.Connection:
    try:
        return connect(place, pool)
    except RAISED as error:
        raise translated(error, place.path) from error


if TYPE_CHECKING:
    _driver: Callable[[StoreURL, PoolOptions], Backend] = SQLiteBackend
