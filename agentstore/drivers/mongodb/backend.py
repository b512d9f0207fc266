"""The MongoDB backend: documents whose one atomic step is a conditional replacement."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar, TypeVar

from agentstore.concurrency import uncancelled
from agentstore.errors import AgentstoreError, ClosedError, CorruptRecordError
from agentstore.pool import Pools
from agentstore.rules.outcomes import UNEXPECTED

from . import address, appends, changes, errors, items, purge, reads, schema, state
from .client import ClientPool, Tables
from .clock import Clock
from .examine import examine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

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
In = TypeVar("In")
Out = TypeVar("Out")


class MongoDBBackend:
    """Conversations and state in MongoDB: one server, a replica set or a sharded cluster, without transactions.

    A write that has begun is waited for, also by a caller who is cancelled; a cancelled read is left behind.
    """

    lacks: ClassVar[Mapping[str, str]] = {
        "set_many": "each key is a document of its own, and one server alone has no transactions: it is atomic per key"
    }

    def __init__(self, url: StoreURL, pool: PoolOptions) -> None:
        address.database_name(url)  # refuses what cannot be right
        self._url = url
        self._pool = pool
        self._patience = pool.statement_timeout
        self._pools: Pools[Tables] = Pools(url, pool, lambda: ClientPool(url, pool))
        self._clock = Clock()
        self._opened = False
        self._closed = False

    async def aopen(self) -> None:
        if self._closed:
            raise ClosedError
        if not self._opened:
            await self._write(schema.prepare)
            self._opened = True

    async def aclose(self) -> None:
        self._closed = True
        await self._pools.aclose()

    async def ping(self) -> None:
        async def look(tables: Tables) -> None:
            await tables.client.admin.command("ping")

        await self._read(look)

    def close_at_exit(self) -> None:
        self._closed = True
        self._pools.close_at_exit()

    def pools(self) -> Sequence[PoolStats]:
        return self._pools.stats()

    async def examine(self) -> list[Finding]:
        return await self._read(lambda tables: examine(tables, self._pool))

    # --- conversations ---

    async def append(self, batch: Sequence[Append]) -> list[Outcome[list[Message]]]:
        async def run(tables: Tables, part: Sequence[Append]) -> list[Outcome[list[Message]]]:
            return await appends.append(tables, self._clock, part, self._patience)

        return await self._write(lambda tables: _isolated(tables, batch, run))

    async def read(self, batch: Sequence[Read]) -> list[Outcome[list[Message]]]:
        async def run(tables: Tables, part: Sequence[Read]) -> list[Outcome[list[Message]]]:
            return await reads.read(tables, await self._clock.now(tables), part, self._pool.size)

        return await self._read(lambda tables: _isolated(tables, batch, run))

    async def find(self, batch: Sequence[Find]) -> list[Outcome[dict[str, Message]]]:
        async def run(tables: Tables, part: Sequence[Find]) -> list[Outcome[dict[str, Message]]]:
            return await reads.find(tables, await self._clock.now(tables), part)

        return await self._read(lambda tables: _isolated(tables, batch, run))

    async def heads(self, batch: Sequence[Head]) -> list[Outcome[Session | None]]:
        async def run(tables: Tables, part: Sequence[Head]) -> list[Outcome[Session | None]]:
            return await reads.heads(tables, await self._clock.now(tables), part)

        return await self._read(lambda tables: _isolated(tables, batch, run))

    async def list_sessions(self, listing: Listing) -> Page[Session]:
        async def run(tables: Tables) -> Page[Session]:
            return await reads.list_sessions(tables, await self._clock.now(tables), listing)

        return await self._read(run)

    async def pop(self, session_id: str, count: int, *, user_id: str | None = None) -> list[Message]:
        return await self._write(
            lambda tables: changes.pop(tables, self._clock, session_id, self._patience, count=count, user_id=user_id)
        )

    async def clear(self, session_id: str, *, user_id: str | None = None) -> int:
        return await self._write(
            lambda tables: changes.clear(tables, self._clock, session_id, self._patience, user_id=user_id)
        )

    async def update(self, change: Change) -> Session:
        return await self._write(lambda tables: changes.update(tables, self._clock, change, self._patience))

    async def delete(self, session_id: str, *, user_id: str | None = None) -> bool:
        return await self._write(
            lambda tables: changes.delete(tables, self._clock, session_id, self._patience, user_id=user_id)
        )

    async def restore(self, session: Session, messages: Sequence[Message]) -> None:
        await self._write(lambda tables: changes.restore(tables, self._clock, session, messages, self._patience))

    async def rewrite(self, session: Session, messages: Sequence[Message]) -> bool:
        return await self._write(lambda tables: changes.rewrite(tables, self._clock, session, messages, self._patience))

    async def purge_sessions(self) -> int:
        async def run(tables: Tables) -> int:
            return await purge.purge_sessions(tables, await self._clock.now(tables))

        return await self._write(run)

    # --- state ---

    async def get_items(self, batch: Sequence[GetItems]) -> list[Outcome[dict[str, StateItem]]]:
        async def run(tables: Tables, part: Sequence[GetItems]) -> list[Outcome[dict[str, StateItem]]]:
            return await items.get_items(tables, await self._clock.now(tables), part)

        return await self._read(lambda tables: _isolated(tables, batch, run))

    async def write_items(self, batch: Sequence[StateOp]) -> list[Outcome[int]]:
        return await self._write(lambda tables: state.write_items(tables, self._clock, batch, self._patience))

    async def scan(self, scan: Scan) -> list[StateItem]:
        async def run(tables: Tables) -> list[StateItem]:
            return await items.scan(tables, await self._clock.now(tables), scan)

        return await self._read(run)

    async def namespaces(self, after: str | None = None, limit: int = 1000) -> list[str]:
        return await self._read(lambda tables: items.namespaces(tables, after, limit))

    async def purge_state(self) -> int:
        async def run(tables: Tables) -> int:
            return await state.purge(tables, await self._clock.now(tables))

        return await self._write(run)

    # --- the client ---

    async def _write(self, run: Callable[[Tables], Awaitable[T]]) -> T:
        return await uncancelled(asyncio.ensure_future(self._read(run)))

    async def _read(self, run: Callable[[Tables], Awaitable[T]]) -> T:
        if self._closed:
            raise ClosedError
        try:
            async with self._pools.connection() as tables:
                return await run(tables)
        except AgentstoreError:
            raise
        except errors.RAISED as error:
            raise errors.translated(error, str(self._url)) from error


async def _isolated(
    tables: Tables,
    batch: Sequence[In],
    run: Callable[[Tables, Sequence[In]], Awaitable[list[Outcome[Out]]]],
) -> list[Outcome[Out]]:
    """`run` the batch; if what is stored stops it, run each operation by itself, so that those fail that touch it.

    What was committed before is recognised by its ids.
    """
    try:
        return await run(tables, batch)
    except (CorruptRecordError, *errors.UNREADABLE, *UNEXPECTED) as error:
        if len(batch) == 1:
            return [errors.unreadable(error)]
    outcomes: list[Outcome[Out]] = []
    for op in batch:
        outcomes += await _isolated(tables, [op], run)
    return outcomes


if TYPE_CHECKING:
    _driver: Callable[[StoreURL, PoolOptions], Backend] = MongoDBBackend
