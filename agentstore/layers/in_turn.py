"""What a call meets first: it comes after the writes that this process has accepted for the same session before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Layer

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    from agentstore.queue.write_queue import WriteQueue
    from agentstore.records import Message, Page, Session, StateItem

    from .place import PlaceOf


class InTurn(Layer):
    """Waits for what is pending where it cannot be overlaid.

    Reads wait for the queues of Databases that are set up differently, for their own is laid over what they find; what
    is never deferred waits for all.

    Args:
        inner: The store within all other layers.
        located: Its place, where the queues are.
        queue: The one that `inner` overlays; None if it overlays none.
    """

    def __init__(self, inner: Backend, located: PlaceOf, queue: WriteQueue | None) -> None:
        super().__init__(inner)
        self._located = located
        self._queue = queue

    # --- reads ---

    async def read(self, batch: Sequence[Read]) -> list[Outcome[list[Message]]]:
        await self._others(batch)
        return await self._inner.read(batch)

    async def find(self, batch: Sequence[Find]) -> list[Outcome[dict[str, Message]]]:
        await self._others(batch)
        return await self._inner.find(batch)

    async def heads(self, batch: Sequence[Head]) -> list[Outcome[Session | None]]:
        await self._others(batch)
        return await self._inner.heads(batch)

    async def list_sessions(self, listing: Listing) -> Page[Session]:
        await self._located.place.sessions_passed(None, self._queue)
        return await self._inner.list_sessions(listing)

    async def get_items(self, batch: Sequence[GetItems]) -> list[Outcome[dict[str, StateItem]]]:
        await self._located.place.namespaces_passed([op.namespace for op in batch], self._queue)
        return await self._inner.get_items(batch)

    async def scan(self, scan: Scan) -> list[StateItem]:
        await self._located.place.namespaces_passed([scan.namespace], self._queue)
        return await self._inner.scan(scan)

    async def _others(self, batch: Sequence[Read | Find | Head]) -> None:
        await self._located.place.sessions_passed([op.session_id for op in batch], self._queue)

    # --- writes ---

    async def append(self, batch: Sequence[Append]) -> list[Outcome[list[Message]]]:
        await self._all(*(op.session_id for op in batch))
        return await self._inner.append(batch)

    async def pop(self, session_id: str, count: int, *, user_id: str | None = None) -> list[Message]:
        await self._all(session_id)
        return await self._inner.pop(session_id, count, user_id=user_id)

    async def clear(self, session_id: str, *, user_id: str | None = None) -> int:
        await self._all(session_id)
        return await self._inner.clear(session_id, user_id=user_id)

    async def update(self, change: Change) -> Session:
        await self._all(change.session_id)
        session = await self._inner.update(change)
        self._located.place.changed(change.session_id)
        return session

    async def delete(self, session_id: str, *, user_id: str | None = None) -> bool:
        await self._all(session_id)
        there = await self._inner.delete(session_id, user_id=user_id)
        self._located.place.changed(session_id)
        return there

    async def restore(self, session: Session, messages: Sequence[Message]) -> None:
        await self._all(session.id)
        await self._inner.restore(session, messages)
        self._located.place.changed(session.id)

    async def rewrite(self, session: Session, messages: Sequence[Message]) -> bool:
        await self._all(session.id)
        return await self._inner.rewrite(session, messages)

    async def write_items(self, batch: Sequence[StateOp]) -> list[Outcome[int]]:
        await self._located.place.namespaces_passed([op.namespace for op in batch])
        return await self._inner.write_items(batch)

    async def _all(self, *ids: str) -> None:
        await self._located.place.sessions_passed(ids)
