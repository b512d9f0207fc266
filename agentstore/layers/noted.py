"""Every write is noted, so that no reader gets less from a replica."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from .base import Layer
from .fence import namespaces_of, sessions_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from agentstore.protocol import Append, Backend, Change, Outcome, StateOp
    from agentstore.records import Message, Session

    from .fence import Key
    from .place import PlaceOf

T = TypeVar("T")


class Noted(Layer):
    """Tells the fences of its store what is written; also a write that fails, or is cancelled, may have been stored.

    Args:
        inner: The store, within the layers beneath.
        located: Its place, where the fences are: also those of other Databases.
    """

    def __init__(self, inner: Backend, located: PlaceOf) -> None:
        super().__init__(inner)
        self._located = located

    async def _written(self, keys: Callable[[], Collection[Key]] | None, call: Awaitable[T]) -> T:
        try:
            return await call
        finally:
            if self._located.place.fences:  # else nobody would look at the keys
                self._located.place.wrote(None if keys is None else keys())

    async def append(self, batch: Sequence[Append]) -> list[Outcome[list[Message]]]:
        return await self._written(lambda: sessions_of(op.session_id for op in batch), self._inner.append(batch))

    async def pop(self, session_id: str, count: int, *, user_id: str | None = None) -> list[Message]:
        return await self._written(
            lambda: sessions_of([session_id]), self._inner.pop(session_id, count, user_id=user_id)
        )

    async def clear(self, session_id: str, *, user_id: str | None = None) -> int:
        return await self._written(lambda: sessions_of([session_id]), self._inner.clear(session_id, user_id=user_id))

    async def update(self, change: Change) -> Session:
        return await self._written(lambda: sessions_of([change.session_id]), self._inner.update(change))

    async def delete(self, session_id: str, *, user_id: str | None = None) -> bool:
        return await self._written(lambda: sessions_of([session_id]), self._inner.delete(session_id, user_id=user_id))

    async def restore(self, session: Session, messages: Sequence[Message]) -> None:
        await self._written(lambda: sessions_of([session.id]), self._inner.restore(session, messages))

    async def rewrite(self, session: Session, messages: Sequence[Message]) -> bool:
        return await self._written(lambda: sessions_of([session.id]), self._inner.rewrite(session, messages))

    async def purge_sessions(self) -> int:
        return await self._written(None, self._inner.purge_sessions())

    async def write_items(self, batch: Sequence[StateOp]) -> list[Outcome[int]]:
        return await self._written(lambda: namespaces_of(batch), self._inner.write_items(batch))

    async def purge_state(self) -> int:
        return await self._written(None, self._inner.purge_state())
