"""The PostgreSQL backend: a pool of connections for each event loop, and what is done on one of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar, TypeVar

from sqlalchemy import URL

from agentstore.concurrency import uncancelled
from agentstore.drivers.optimistic import Attempts
from agentstore.drivers.sql.engine import EnginePool
from agentstore.errors import ClosedError, ConfigurationError
from agentstore.pool import Pools

from . import examining, following, opening
from .connecting import Connector
from .conversations import Log
from .errors import AGAIN, RAISED, translated
from .state import State
from .target import Target

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    import asyncpg
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

T = TypeVar("T")


class PostgreSQLBackend:
    """Conversations and state in tables of one schema.

    A write that has begun is waited for, also by a caller who is cancelled; a cancelled read costs its connection.
    """

    lacks: ClassVar[Mapping[str, str]] = {}

    def __init__(self, url: StoreURL, pool: PoolOptions) -> None:
        target = Target.of(url)
        schema = opening.quoted(target.schema)
        self._connector = Connector(target, pool)
        self._pools: Pools[PoolProxiedConnection] = Pools(url, pool, self._make_pool)
        self._options = pool
        self._log = Log(schema, pool.statement_timeout, self._connector.place)
        self._state = State(schema, pool.statement_timeout, self._connector.place)
        self._following: following.Following | None = None
        self._ready = False
        self._closed = False

    def _make_pool(self) -> EnginePool:
        return EnginePool(
            URL.create("postgresql+asyncpg"),
            self._options,
            self._connector,
            {"async_creator_fn": self._connector.connect},
            initialize=False,
        )

    async def aopen(self) -> None:
        if self._closed:
            raise ClosedError
        if not self._ready:
            make_ready = opening.prepare if self._following is None else opening.prepared
            await self._read(lambda connection: make_ready(connection, self._connector))
            self._ready = True

    async def aclose(self) -> None:
        self._closed = True
        await self._pools.aclose()

    async def ping(self) -> None:
        await self._read(lambda connection: connection.execute("SELECT"))

    def close_at_exit(self) -> None:
        self._closed = True
        self._pools.close_at_exit()

    def pools(self) -> Sequence[PoolStats]:
        return self._pools.stats()

    async def examine(self) -> list[Finding]:
        return await self._read(lambda connection: examining.findings(connection, self._connector, self._options))

    # --- replicas ---

    async def position(self) -> str | None:
        return await self._read(following.position)

    def follow(self, primary: PostgreSQLBackend, required: Callable[[], str | None]) -> None:
        ours, theirs = self._connector.target, primary._connector.target
        if (ours.url.path, ours.schema) != (theirs.url.path, theirs.schema):
            raise ConfigurationError(f"{ours.url} names another database or schema than its primary, {theirs.url}")
        self._following = following.Following(self._connector, required)

    # --- conversations ---

    async def append(self, batch: Sequence[Append]) -> list[Outcome[list[Message]]]:
        return await self._write(lambda connection: self._log.append(connection, batch))

    async def read(self, batch: Sequence[Read]) -> list[Outcome[list[Message]]]:
        return await self._read(lambda connection: self._log.read(connection, batch))

    async def find(self, batch: Sequence[Find]) -> list[Outcome[dict[str, Message]]]:
        return await self._read(lambda connection: self._log.find(connection, batch))

    async def heads(self, batch: Sequence[Head]) -> list[Outcome[Session | None]]:
        return await self._read(lambda connection: self._log.heads(connection, batch))

    async def list_sessions(self, listing: Listing) -> Page[Session]:
        return await self._read(lambda connection: self._log.list_sessions(connection, listing))

    async def pop(self, session_id: str, count: int, *, user_id: str | None = None) -> list[Message]:
        return await self._write(lambda connection: self._log.pop(connection, session_id, count, user_id))

    async def clear(self, session_id: str, *, user_id: str | None = None) -> int:
        return await self._write(lambda connection: self._log.clear(connection, session_id, user_id))

    async def update(self, change: Change) -> Session:
        return await self._write(lambda connection: self._log.update(connection, change))

    async def delete(self, session_id: str, *, user_id: str | None = None) -> bool:
        return await self._write(lambda connection: self._log.delete(connection, session_id, user_id))

    async def restore(self, session: Session, messages: Sequence[Message]) -> None:
        await self._write(lambda connection: self._log.restore(connection, session, messages))

    async def rewrite(self, session: Session, messages: Sequence[Message]) -> bool:
        return await self._write(lambda connection: self._log.rewrite(connection, session, messages))

    async def purge_sessions(self) -> int:
        return await self._write(self._log.purge)

    # --- state ---

    async def get_items(self, batch: Sequence[GetItems]) -> list[Outcome[dict[str, StateItem]]]:
        return await self._read(lambda connection: self._state.get_items(connection, batch))

    async def write_items(self, batch: Sequence[StateOp]) -> list[Outcome[int]]:
        return await self._write(lambda connection: self._state.write_items(connection, batch))

    async def scan(self, scan: Scan) -> list[StateItem]:
        return await self._read(lambda connection: self._state.scan(connection, scan))

    async def namespaces(self, after: str | None = None, limit: int = 1000) -> list[str]:
        return await self._read(lambda connection: self._state.namespaces(connection, after, limit))

    async def purge_state(self) -> int:
        return await self._write(self._state.purge)

    # --- connections ---

    async def _read(self, function: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        try:
            async with self._pools.connection() as proxy:
                if self._following is not None:
                    return await self._following.read(proxy, function)
                return await function(proxy.driver_connection)
        except RAISED as error:
            raise translated(error, self._connector.place) from error

    async def _write(self, function: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        return await uncancelled(asyncio.ensure_future(self._written(function)))

    async def _written(self, function: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """What `function` gives, however often another transaction makes it begin again."""
        attempts = Attempts(self._connector.place, self._options.statement_timeout)
        while True:
            try:
                async with self._pools.connection() as proxy:
                    return await function(proxy.driver_connection)
            except AGAIN as error:  # never amid a batch: there each pass is repeated, see `optimistic.settled`
                await attempts.again(error)
            except RAISED as error:
                raise translated(error, self._connector.place) from error


if TYPE_CHECKING:
    _driver: Callable[[StoreURL, PoolOptions], Backend] = PostgreSQLBackend
