"""The MySQL backend, for MariaDB too: each call one transaction, in one or two round trips."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, ClassVar, NoReturn, TypeVar

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError

from agentstore import rules
from agentstore.concurrency import uncancelled
from agentstore.drivers.optimistic import Attempts
from agentstore.drivers.recent import Clock, Recent, RecentItems
from agentstore.drivers.sql.engine import EnginePool
from agentstore.drivers.sql.upgrade import VERSION
from agentstore.errors import AgentstoreError, ClosedError, ConfigurationError, UnavailableError
from agentstore.pool import Pools
from agentstore.private_loop import lasting
from agentstore.protocol import LaggingError

from . import appends, examine, following, opening, reading, sessions, sql, state
from .connecting import Care, Connector
from .errors import AGAIN, RAISED, READ_ONLY, code, translated
from .settings import settings
from .transaction import BAD, RacedError, Wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from sqlalchemy import PoolProxiedConnection

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

    from .connecting import ServerConnection

In = TypeVar("In")
T = TypeVar("T")

_loop = lasting("agentstore-mysql")
"""Where locks are held between two round trips. A caller's loop may stand still there: blocked, it may be, by a
synchronous call that waits for these very locks. Reads, and appends that nobody interferes with, hold none."""


class MySQLBackend:
    """Conversations and state in a database of MySQL or MariaDB.

    A write that has begun is waited for, also by a caller who is cancelled; a cancelled read costs its connection.
    """

    lacks: ClassVar[Mapping[str, str]] = {}

    def __init__(self, url: StoreURL, pool: PoolOptions) -> None:
        self._settings = settings(url)
        self._options = pool
        self._connector = Connector(self._settings, pool)
        self._here: Pools[PoolProxiedConnection] = Pools(url, pool, self._make_pool)
        self._apart: Pools[PoolProxiedConnection] = Pools(url, pool, self._make_pool)
        self._recent: Recent[sql.Version] = Recent()
        self._items = RecentItems()
        self._clock = Clock()
        self._following: following.Following | None = None
        self._opened = False
        self._closed = False

    def _make_pool(self) -> EnginePool:
        care = Care()
        creator = {"async_creator_fn": self._connector.connect}  # hosts, TLS and session are our own affair
        return EnginePool(URL.create("mysql+aiomysql"), self._options, care, creator, initialize=False)

    async def aopen(self) -> None:
        if self._closed:
            raise ClosedError
        if self._opened:
            return
        if await self._at_once(opening.version) != VERSION:
            if self._following is not None:
                raise LaggingError(f"{self._settings.name} has not the primary's tables yet")
            await uncancelled(asyncio.ensure_future(self._migrate()))
        self._opened = True

    async def _migrate(self) -> None:
        try:
            await opening.migrate(self._connector, self._options.statement_timeout)
        except DBAPIError as error:
            if not isinstance(error.orig, RAISED):
                raise
            raise translated(error.orig, self._settings.name) from error.orig

    async def aclose(self) -> None:
        self._closed = True
        if self._apart.stats():
            await uncancelled(_loop.run(self._apart.aclose))
        self._apart.close_at_exit()  # if none was there, none comes any more
        await self._here.aclose()

    async def ping(self) -> None:
        await self._at_once(opening.version)

    def close_at_exit(self) -> None:
        self._closed = True
        for pools in (self._apart, self._here):
            pools.close_at_exit()

    def pools(self) -> Sequence[PoolStats]:
        return [*self._here.stats(), *self._apart.stats()]

    async def examine(self) -> list[Finding]:
        return await self._at_once(lambda wire: examine.examine(wire, self._settings, self._options))

    # --- replicas ---

    async def position(self) -> str | None:
        return await self._at_once(following.position)

    def follow(self, primary: MySQLBackend, required: Callable[[], str | None]) -> None:
        ours, theirs = self._settings, primary._settings
        if ours.database != theirs.database:
            raise ConfigurationError(f"{ours.name} names another database than its primary, {theirs.name}")
        self._following = following.Following(required)

    # --- conversations ---

    async def append(self, batch: Sequence[Append]) -> list[Outcome[list[Message]]]:
        if not batch:  # SQL knows no empty list, here and in `heads`
            return []
        return await uncancelled(asyncio.ensure_future(self._append(batch)))

    async def _append(self, batch: Sequence[Append]) -> list[Outcome[list[Message]]]:
        outcomes = None
        if self._settings.pipelines:
            outcomes = await self._at_once(lambda wire: appends.append_at_once(wire, batch, self._recent, self._clock))
        return await self._write_group(appends.append, batch) if outcomes is None else outcomes

    async def read(self, batch: Sequence[Read]) -> list[Outcome[list[Message]]]:
        return await self._at_once(lambda wire: reading.read(wire, batch))

    async def find(self, batch: Sequence[Find]) -> list[Outcome[dict[str, Message]]]:
        return await self._at_once(lambda wire: reading.find(wire, batch))

    async def heads(self, batch: Sequence[Head]) -> list[Outcome[Session | None]]:
        if not batch:
            return []
        return await self._at_once(lambda wire: reading.heads(wire, batch))

    async def list_sessions(self, listing: Listing) -> Page[Session]:
        return await self._at_once(lambda wire: reading.list_sessions(wire, listing))

    async def pop(self, session_id: str, count: int, *, user_id: str | None = None) -> list[Message]:
        return await self._write(lambda wire: sessions.pop(wire, session_id, count, user_id))

    async def clear(self, session_id: str, *, user_id: str | None = None) -> int:
        return await self._write(lambda wire: sessions.clear(wire, session_id, user_id))

    async def update(self, change: Change) -> Session:
        return await self._write(lambda wire: sessions.update(wire, change))

    async def delete(self, session_id: str, *, user_id: str | None = None) -> bool:
        return await self._write(lambda wire: sessions.delete(wire, session_id, user_id))

    async def restore(self, session: Session, messages: Sequence[Message]) -> None:
        await self._write(lambda wire: sessions.restore(wire, session, messages))

    async def rewrite(self, session: Session, messages: Sequence[Message]) -> bool:
        return await self._write(lambda wire: sessions.rewrite(wire, session, messages))

    async def purge_sessions(self) -> int:
        return await self._portions(sessions.expired, sessions.purge)

    # --- state ---

    async def get_items(self, batch: Sequence[GetItems]) -> list[Outcome[dict[str, StateItem]]]:
        return await self._at_once(lambda wire: state.get_items(wire, batch))

    async def write_items(self, batch: Sequence[StateOp]) -> list[Outcome[int]]:
        return await uncancelled(asyncio.ensure_future(self._write_items(batch)))

    async def _write_items(self, batch: Sequence[StateOp]) -> list[Outcome[int]]:
        outcomes = None
        if self._settings.pipelines and self._items.guess(batch):
            outcomes = await self._at_once(lambda wire: state.write_at_once(wire, batch, self._items))
        if outcomes is None:
            return await self._write_group(partial(state.write_items, recent=self._items), batch)
        return outcomes

    async def scan(self, scan: Scan) -> list[StateItem]:
        return await self._at_once(lambda wire: state.scan(wire, scan))

    async def namespaces(self, after: str | None = None, limit: int = 1000) -> list[str]:
        return await self._at_once(lambda wire: state.namespaces(wire, after, limit))

    async def purge_state(self) -> int:
        return await self._portions(state.expired, state.purge)

    # --- connections ---

    async def _at_once(self, work: Callable[[Wire], Awaitable[T]]) -> T:
        try:
            return await self._on_connection(self._here, work)
        except RAISED as error:
            raise translated(error, self._settings.name) from error

    async def _write(self, work: Callable[[Wire], Awaitable[T]]) -> T:
        return await uncancelled(_loop.run(lambda: self._transaction(work)))

    async def _write_group(
        self, run: Callable[[Wire, Sequence[In]], Awaitable[list[Outcome[T]]]], batch: Sequence[In]
    ) -> list[Outcome[T]]:
        """`run` the batch in a transaction; if an operation or what is stored stops it, each in one by itself.

        So those fail that are bad, and nobody else in the batch.
        """
        try:
            return await self._write(lambda wire: run(wire, batch))
        except BAD as error:
            if len(batch) == 1:
                return rules.each([error], _fail)
        outcomes: list[Outcome[T]] = []
        for op in batch:
            try:
                outcomes += await self._write_group(run, [op])
            except AgentstoreError as error:  # of this one alone: those before it are stored
                outcomes.append(error)
        return outcomes

    async def _portions(
        self, find: Callable[[Wire], Awaitable[Sequence[T]]], purge: Callable[[T, Wire], Awaitable[int]]
    ) -> int:
        """Purge in several transactions, none of them long."""
        portions = await self._at_once(find)
        return sum([await self._write(partial(purge, portion)) for portion in portions])

    async def _transaction(self, work: Callable[[Wire], Awaitable[T]]) -> T:
        """Run `work`; and again when another transaction came between, which all writes allow."""
        attempts = Attempts(f"{self._settings.name}: a write", self._options.statement_timeout)
        while True:
            try:
                return await self._on_connection(self._apart, work)
            except RacedError as error:
                raced: Exception = error
            except RAISED as error:
                if code(error) not in AGAIN:
                    raise translated(error, self._settings.name) from error
                raced = error
            try:
                await attempts.again()
            except UnavailableError as late:
                raise late from raced

    async def _on_connection(self, pools: Pools[PoolProxiedConnection], work: Callable[[Wire], Awaitable[T]]) -> T:
        async with pools.connection() as proxy:
            connection: ServerConnection = proxy.driver_connection  # type: ignore[assignment]  # ours made it
            wire = Wire(connection, self._settings.name, self._options.statement_timeout)
            try:
                if self._following is not None:
                    return await self._following.read(wire, work)
                return await work(wire)
            except RAISED as error:
                if code(error) in READ_ONLY and len(self._settings.hosts) > 1:
                    connection.close()  # the next connection looks for the host that takes writes
                raise
            finally:
                await wire.rollback()


def _fail(error: Exception) -> NoReturn:
    raise error


if TYPE_CHECKING:
    _driver: Callable[[StoreURL, PoolOptions], Backend] = MySQLBackend
