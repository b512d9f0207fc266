"""The Redis backend: commands of many callers in one pipeline, each session written by one script."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from agentstore.concurrency import uncancelled
from agentstore.errors import ClosedError
from agentstore.pool import Pools

from . import appends, conversations, examination, following, listings, namespaces, opening, state
from .client import Client, Command
from .wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from agentstore.findings import Finding
    from agentstore.options import PoolOptions
    from agentstore.protocol import Append, Backend, Change, Find, GetItems, Head, Listing, Outcome, Read, Scan, StateOp
    from agentstore.records import Message, Page, Session, StateItem
    from agentstore.stats import PoolStats
    from agentstore.url import StoreURL

T = TypeVar("T")


class RedisBackend:
    """Conversations and state on Redis, Valkey or what speaks like them.

    A write that has begun is waited for, also by a caller who is cancelled; a cancelled read is left behind.
    """

    lacks: ClassVar[Mapping[str, str]] = {}

    def __init__(self, url: StoreURL, pool: PoolOptions) -> None:
        self._pool = pool
        self._pools: Pools[Client] = Pools(url, pool, lambda: Client(self._wire.place, pool))
        self._wire = Wire(url, pool, self._pools)
        self._opened = self._closed = False

    async def aopen(self) -> None:
        self._check_open()
        if not self._opened:
            await self._write(opening.prepare(self._wire) if self._wire.following is None else opening.look(self._wire))
            self._opened = True

    async def aclose(self) -> None:
        self._closed = True
        await self._pools.aclose()

    async def ping(self) -> None:
        self._check_open()
        await self._wire.ask(Command(self._wire.keys.schema, ("PING",)))

    def close_at_exit(self) -> None:
        self._closed = True
        self._pools.close_at_exit()

    def pools(self) -> Sequence[PoolStats]:
        return self._pools.stats()

    async def examine(self) -> list[Finding]:
        self._check_open()
        return await examination.examine(self._wire, self._pool)

    # --- replicas ---

    async def position(self) -> str | None:
        self._check_open()
        return await following.position(self._wire)

    def follow(self, primary: RedisBackend, required: Callable[[], str | None]) -> None:
        self._wire.following = following.Following(self._wire, primary._wire, required)

    # --- conversations ---

    async def append(self, batch: Sequence[Append]) -> list[Outcome[list[Message]]]:
        return await self._write(appends.append(self._wire, batch))

    async def read(self, batch: Sequence[Read]) -> list[Outcome[list[Message]]]:
        self._check_open()
        return await conversations.read(self._wire, batch)

    async def find(self, batch: Sequence[Find]) -> list[Outcome[dict[str, Message]]]:
        self._check_open()
        return await conversations.find(self._wire, batch)

    async def heads(self, batch: Sequence[Head]) -> list[Outcome[Session | None]]:
        self._check_open()
        return await conversations.heads(self._wire, batch)

    async def list_sessions(self, listing: Listing) -> Page[Session]:
        self._check_open()
        return await listings.list_sessions(self._wire, listing)

    async def pop(self, session_id: str, count: int, *, user_id: str | None = None) -> list[Message]:
        return await self._write(conversations.pop(self._wire, session_id, count, user_id))

    async def clear(self, session_id: str, *, user_id: str | None = None) -> int:
        return await self._write(conversations.clear(self._wire, session_id, user_id))

    async def update(self, change: Change) -> Session:
        return await self._write(conversations.update(self._wire, change))

    async def delete(self, session_id: str, *, user_id: str | None = None) -> bool:
        return await self._write(conversations.delete(self._wire, session_id, user_id))

    async def restore(self, session: Session, messages: Sequence[Message]) -> None:
        await self._write(conversations.restore(self._wire, session, messages))

    async def rewrite(self, session: Session, messages: Sequence[Message]) -> bool:
        return await self._write(conversations.rewrite(self._wire, session, messages))

    async def purge_sessions(self) -> int:
        return await self._write(listings.purge(self._wire))

    # --- state ---

    async def get_items(self, batch: Sequence[GetItems]) -> list[Outcome[dict[str, StateItem]]]:
        self._check_open()
        return await state.get_items(self._wire, batch)

    async def write_items(self, batch: Sequence[StateOp]) -> list[Outcome[int]]:
        return await self._write(state.write_items(self._wire, batch))

    async def scan(self, scan: Scan) -> list[StateItem]:
        self._check_open()
        return await state.scan(self._wire, scan)

    async def namespaces(self, after: str | None = None, limit: int = 1000) -> list[str]:
        self._check_open()
        return await namespaces.namespaces(self._wire, after, limit)

    async def purge_state(self) -> int:
        return await self._write(state.purge(self._wire))

    # --- in common ---

    async def _write(self, work: Coroutine[Any, Any, T]) -> T:
        """Carry it out to its end, whoever is cancelled."""
        if self._closed:
            work.close()
            raise ClosedError
        return await uncancelled(asyncio.ensure_future(work))

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError


if TYPE_CHECKING:
    _driver: Callable[[StoreURL, PoolOptions], Backend] = RedisBackend
