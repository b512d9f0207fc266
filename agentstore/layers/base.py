"""A store around a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agentstore.findings import Finding
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


class Layer:
    """Hands every call on to the backend within; a layer overrides what it changes.

    Args:
        inner: The backend, or another layer.
    """

    def __init__(self, inner: Backend) -> None:
        self._inner = inner

    # --- life ---

    @property
    def lacks(self) -> Mapping[str, str]:
        return self._inner.lacks

    async def aopen(self) -> None:
        await self._inner.aopen()

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def ping(self) -> None:
        await self._inner.ping()

    def close_at_exit(self) -> None:
        self._inner.close_at_exit()

    def pools(self) -> Sequence[PoolStats]:
        return self._inner.pools()

    async def examine(self) -> list[Finding]:
        return await self._inner.examine()

    # --- conversations ---

    async def append(self, batch: Sequence[Append]) -> list[Outcome[list[Message]]]:
        return await self._inner.append(batch)

    async def read(self, batch: Sequence[Read]) -> list[Outcome[list[Message]]]:
        return await self._inner.read(batch)

    async def find(self, batch: Sequence[Find]) -> list[Outcome[dict[str, Message]]]:
        return await self._inner.find(batch)

    async def heads(self, batch: Sequence[Head]) -> list[Outcome[Session | None]]:
        return await self._inner.heads(batch)

    async def list_sessions(self, listing: Listing) -> Page[Session]:
        return await self._inner.list_sessions(listing)

    async def pop(self, session_id: str, count: int, *, user_id: str | None = None) -> list[Message]:
        return await self._inner.pop(session_id, count, user_id=user_id)

    async def clear(self, session_id: str, *, user_id: str | None = None) -> int:
        return await self._inner.clear(session_id, user_id=user_id)

    async def update(self, change: Change) -> Session:
        return await self._inner.update(change)

    async def delete(self, session_id: str, *, user_id: str | None = None) -> bool:
        return await self._inner.delete(session_id, user_id=user_id)

    async def restore(self, session: Session, messages: Sequence[Message]) -> None:
        await self._inner.restore(session, messages)

    async def rewrite(self, session: Session, messages: Sequence[Message]) -> bool:
        return await self._inner.rewrite(session, messages)

    async def purge_sessions(self) -> int:
        return await self._inner.purge_sessions()

    # --- state ---

    async def get_items(self, batch: Sequence[GetItems]) -> list[Outcome[dict[str, StateItem]]]:
        return await self._inner.get_items(batch)

    async def write_items(self, batch: Sequence[StateOp]) -> list[Outcome[int]]:
        return await self._inner.write_items(batch)

    async def scan(self, scan: Scan) -> list[StateItem]:
        return await self._inner.scan(scan)

    async def namespaces(self, after: str | None = None, limit: int = 1000) -> list[str]:
        return await self._inner.namespaces(after, limit)

    async def purge_state(self) -> int:
        return await self._inner.purge_state()


if TYPE_CHECKING:
    _layer: Callable[[Backend], Backend] = Layer
