"""The ClickHouse backend: each write is one INSERT of one block."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, TypeVar

from agentstore.concurrency import uncancelled
from agentstore.errors import ClosedError
from agentstore.pool import Pools

from . import appends, named, opening, reading, sessions, state
from .connecting import ConnectionPool
from .examining import examine
from .isolation import isolated
from .place import loop, place
from .sending import SentError
from .target import target

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from agentstore.findings import Finding
    from agentstore.options import PoolOptions
    from agentstore.pool import NativePool
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

    from .link import Link
    from .numbers import Writer
    from .place import Place

T = TypeVar("T")
In = TypeVar("In")

_LACK = "ClickHouse has neither transactions nor conditional writes: exact among the callers of one process only"


class ClickHouseBackend:
    """Conversations and state in a database of ClickHouse.

    Everything runs on the private loop of `place`. A write that has begun is waited for, also by a caller who is
    cancelled; a cancelled read costs its connection.
    """

    lacks: ClassVar[Mapping[str, str]] = {
        "expected_seq between processes": _LACK,
        "if_version between processes": _LACK,
        "increment between processes": _LACK,
        "pop between processes": _LACK,
        "once between processes": _LACK,
        "ownership between processes": _LACK,
        "update between processes": _LACK,
    }

    def __init__(self, url: StoreURL, pool: PoolOptions) -> None:
        self._target = target(url)
        self._options = pool
        self._pools: Pools[Link] = Pools(url, pool, self._make_pool)
        self._opened = False
        self._closed = False

    def _make_pool(self) -> NativePool[Link]:
        return ConnectionPool(self._target, self._options)

    async def aopen(self) -> None:
        self._check_open()
        if not self._opened:
            await self._write(_log, lambda link, _: opening.prepare(link))
            self._opened = True

    async def aclose(self) -> None:
        self._closed = True
        await uncancelled(loop.run(self._pools.aclose))

    async def ping(self) -> None:
        await self._read(lambda link: link.select("SELECT 1"))

    def close_at_exit(self) -> None:
        self._closed = True
        self._pools.close_at_exit()

    def pools(self) -> Sequence[PoolStats]:
        return self._pools.stats()

    async def examine(self) -> list[Finding]:
        return await self._read(lambda link: examine(link, self._options))

    # --- conversations ---

    async def append(self, batch: Sequence[Append]) -> list[Outcome[list[Message]]]:
        return await self._write(
            _log, lambda link, here: isolated(batch, lambda part: appends.append(link, here, part))
        )

    async def read(self, batch: Sequence[Read]) -> list[Outcome[list[Message]]]:
        return await self._read(lambda link: reading.read(link, batch))

    async def find(self, batch: Sequence[Find]) -> list[Outcome[dict[str, Message]]]:
        return await self._read(lambda link: named.find(link, batch))

    async def heads(self, batch: Sequence[Head]) -> list[Outcome[Session | None]]:
        return await self._read(lambda link: reading.heads_of(link, batch))

    async def list_sessions(self, listing: Listing) -> Page[Session]:
        return await self._read(lambda link: reading.list_sessions(link, listing))

    async def pop(self, session_id: str, count: int, *, user_id: str | None = None) -> list[Message]:
        return await self._write(_log, lambda link, here: sessions.pop(link, here.writer, session_id, count, user_id))

    async def clear(self, session_id: str, *, user_id: str | None = None) -> int:
        return await self._write(_log, lambda link, here: sessions.clear(link, here.writer, session_id, user_id))

    async def update(self, change: Change) -> Session:
        return await self._write(_log, lambda link, here: sessions.update(link, here.writer, change))

    async def delete(self, session_id: str, *, user_id: str | None = None) -> bool:
        return await self._write(_log, lambda link, here: sessions.delete(link, here.writer, session_id, user_id))

    async def restore(self, session: Session, messages: Sequence[Message]) -> None:
        await self._write(_log, lambda link, here: sessions.restore(link, here.writer, session, messages))

    async def rewrite(self, session: Session, messages: Sequence[Message]) -> bool:
        return await self._write(_log, lambda link, here: sessions.rewrite(link, here.writer, session, messages))

    async def purge_sessions(self) -> int:
        return await self._portions(_log, await self._read(sessions.expired), sessions.purge, sessions.PURGED)

    # --- state ---

    async def get_items(self, batch: Sequence[GetItems]) -> list[Outcome[dict[str, StateItem]]]:
        return await self._read(lambda link: state.get_items(link, batch))

    async def write_items(self, batch: Sequence[StateOp]) -> list[Outcome[int]]:
        return await self._write(
            _state, lambda link, here: isolated(batch, lambda part: state.write_items(link, here.writer, part))
        )

    async def scan(self, scan: Scan) -> list[StateItem]:
        return await self._read(lambda link: state.scan(link, scan))

    async def namespaces(self, after: str | None = None, limit: int = 1000) -> list[str]:
        return await self._read(lambda link: state.namespaces(link, after, limit))

    async def purge_state(self) -> int:
        return await self._portions(_state, await self._read(state.expired), state.purge, state.PURGED)

    # --- connections ---

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError

    async def _read(self, work: Callable[[Link], Awaitable[T]]) -> T:
        async def run() -> T:
            async with self._pools.connection() as link:
                return await work(link)

        self._check_open()
        return await loop.run(run)

    async def _write(self, lock: Callable[[Place], asyncio.Lock], work: Callable[[Link, Place], Awaitable[T]]) -> T:
        async def run() -> T:
            here = place(self._target.store)
            try:
                async with lock(here), self._pools.connection() as link:
                    return await work(link, here)
            except SentError as sent:
                raise sent.error from sent.error.__cause__

        self._check_open()
        return await uncancelled(loop.run(run))

    async def _portions(
        self,
        lock: Callable[[Place], asyncio.Lock],
        items: Sequence[In],
        purge: Callable[[Link, Writer, Sequence[In]], Awaitable[int]],
        size: int,
    ) -> int:
        """Purge in several blocks, so that others' writes come between."""
        count = 0
        for at in range(0, len(items), size):
            part = items[at : at + size]
            count += await self._write(lock, partial(_purge, purge, part))
        return count


async def _purge(
    purge: Callable[[Link, Writer, Sequence[In]], Awaitable[int]], part: Sequence[In], link: Link, here: Place
) -> int:
    return await purge(link, here.writer, part)


def _log(here: Place) -> asyncio.Lock:
    return here.log


def _state(here: Place) -> asyncio.Lock:
    return here.state


if TYPE_CHECKING:
    _driver: Callable[[StoreURL, PoolOptions], Backend] = ClickHouseBackend
