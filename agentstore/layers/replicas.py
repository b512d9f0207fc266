"""Reads go to replicas, as far as they hold what this process has written."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, TypeVar

from agentstore.errors import ClosedError, UnavailableError
from agentstore.protocol import LaggingError

from .base import Layer
from .replica import UNFIT, Replica

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

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
    from agentstore.stats import PoolStats, ReplicaStats

    from .breaker import Probe
    from .fence import Fence, Key, Position

T = TypeVar("T")


class Replicated(Layer):
    """Sends reads to replicas in turn, and everything else to the primary.

    A replica answers only if it has reached a position of the primary taken after the last write that passed here to
    what is asked for. Where that is not so, or not known, or the replica fails, the primary answers: no caller sees an
    error, or less than this process has written. What other processes write may come later. A replica that fails is
    left out, and looked at again on the side.

    Args:
        inner: The primary, within its layers.
        fence: Knows how far a replica must have come; theirs ask it.
        replicas: Its replicas.
    """

    def __init__(self, inner: Backend, fence: Fence, replicas: Sequence[Replica]) -> None:
        super().__init__(inner)
        self._fence = fence
        self._replicas = tuple(replicas)
        self._turn = itertools.count()
        self._ready = False
        self._looks: set[asyncio.Task[None]] = set()

    # --- life ---

    async def aopen(self) -> None:
        """Open the primary, then the replicas; those that are away are looked at again later.

        Raises:
            ConfigurationError, SchemaError: One can never be used as things are.
        """
        await self._inner.aopen()
        if self._ready:
            return
        await self._fence.look()
        with self._fence.requiring(None):
            opened = await asyncio.gather(*(replica.look() for replica in self._replicas), return_exceptions=True)
        for replica, error in zip(self._replicas, opened, strict=True):
            if isinstance(error, UnavailableError):
                replica.failed(error)
            elif error is not None:
                raise error
        self._ready = True

    async def aclose(self) -> None:
        here = asyncio.get_running_loop()
        looks = [task for task in self._looks if task.get_loop() is here]
        for task in looks:
            task.cancel()
        if looks:
            await asyncio.wait(looks)
        try:
            await self._inner.aclose()
        finally:
            for replica in self._replicas:
                await replica.backend.aclose()

    def close_at_exit(self) -> None:
        self._inner.close_at_exit()
        for replica in self._replicas:
            replica.backend.close_at_exit()

    def pools(self) -> Sequence[PoolStats]:
        return [*self._inner.pools(), *(pool for replica in self._replicas for pool in replica.backend.pools())]

    def replicas(self) -> Sequence[ReplicaStats]:
        """Which of them are in use now."""
        return [replica.stats() for replica in self._replicas]

    # --- reads ---

    async def read(self, batch: Sequence[Read]) -> list[Outcome[list[Message]]]:
        return await self._exactly(batch, lambda store: store.read(batch))

    async def find(self, batch: Sequence[Find]) -> list[Outcome[dict[str, Message]]]:
        return await self._exactly(batch, lambda store: store.find(batch))

    async def heads(self, batch: Sequence[Head]) -> list[Outcome[Session | None]]:
        return await self._exactly(batch, lambda store: store.heads(batch))

    async def list_sessions(self, listing: Listing) -> Page[Session]:
        return await self._routed(None, lambda store: store.list_sessions(listing))

    async def get_items(self, batch: Sequence[GetItems]) -> list[Outcome[dict[str, StateItem]]]:
        return await self._routed(_namespaces(batch), lambda store: store.get_items(batch))

    async def scan(self, scan: Scan) -> list[StateItem]:
        return await self._routed(_namespaces([scan]), lambda store: store.scan(scan))

    async def _exactly(self, batch: Sequence[Read | Find | Head], ask: Callable[[Backend], Awaitable[T]]) -> T:
        if any(op.exact for op in batch):
            return await ask(self._inner)
        return await self._routed(_sessions(op.session_id for op in batch), ask)

    async def _routed(self, keys: Collection[Key] | None, ask: Callable[[Backend], Awaitable[T]]) -> T:
        """The answer of a replica that has what was written to these keys (None: to any), else the primary's."""
        replica, position = self._next(self._fence.needed(keys)) if self._ready else (None, None)
        if replica is not None:
            position = position or await self._fence.find_out()
            answer = None if position is None else await self._answer(replica, position, ask)
            if answer is not None:
                return answer
        return await ask(self._inner)

    async def _answer(self, replica: Replica, position: Position, ask: Callable[[Backend], Awaitable[T]]) -> T | None:
        """What a replica says; None where the primary has to be asked."""
        try:
            with self._fence.requiring(position):
                answer = await replica.answer(ask)
        except LaggingError:
            replica.lacks(position)
            self._fence.missed(position)
        except UNFIT as error:
            replica.failed(error)
        else:
            single = _failed_within(answer)
            if single is None:
                replica.has(position)
                return answer
            replica.failed(single)
        return None

    def _next(self, needed: int) -> tuple[Replica | None, Position | None]:
        """Whose turn it is, of those that may have so many writes, and a position behind these, if one is known."""
        first = next(self._turn) % len(self._replicas)
        for replica in (*self._replicas[first:], *self._replicas[:first]):
            if self._is_fit(replica):
                position = replica.reached_for(needed) or self._fence.position(needed)
                if replica.may_have(needed if position is None else position.covers):
                    return replica, position
        return None, None

    def _is_fit(self, replica: Replica) -> bool:
        try:
            probe = replica.breaker.enter()
        except UnavailableError:
            return False
        if probe is None:
            return True
        # Not by this reader himself: where nobody answers it takes seconds to know.
        task = asyncio.create_task(self._look_again(replica, probe))
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)
        return False

    async def _look_again(self, replica: Replica, probe: Probe) -> None:
        try:
            with self._fence.requiring(None):
                await replica.look()
        except UNFIT as error:
            replica.failed(error, probe)
        except ClosedError:
            replica.breaker.abandoned(probe)
        except BaseException:
            replica.breaker.abandoned(probe)
            raise
        else:
            replica.breaker.answered()

    # --- writes: also one that fails, or whose caller is cancelled, may have been stored ---

    async def _written(self, keys: Collection[Key] | None, call: Awaitable[T]) -> T:
        try:
            return await call
        finally:
            self._fence.wrote(keys)

    async def append(self, batch: Sequence[Append]) -> list[Outcome[list[Message]]]:
        return await self._written(_sessions(op.session_id for op in batch), self._inner.append(batch))

    async def pop(self, session_id: str, count: int, *, user_id: str | None = None) -> list[Message]:
        return await self._written(_sessions([session_id]), self._inner.pop(session_id, count, user_id=user_id))

    async def clear(self, session_id: str, *, user_id: str | None = None) -> int:
        return await self._written(_sessions([session_id]), self._inner.clear(session_id, user_id=user_id))

    async def update(self, change: Change) -> Session:
        return await self._written(_sessions([change.session_id]), self._inner.update(change))

    async def delete(self, session_id: str, *, user_id: str | None = None) -> bool:
        return await self._written(_sessions([session_id]), self._inner.delete(session_id, user_id=user_id))

    async def restore(self, session: Session, messages: Sequence[Message]) -> None:
        await self._written(_sessions([session.id]), self._inner.restore(session, messages))

    async def rewrite(self, session: Session, messages: Sequence[Message]) -> bool:
        return await self._written(_sessions([session.id]), self._inner.rewrite(session, messages))

    async def purge_sessions(self) -> int:
        return await self._written(None, self._inner.purge_sessions())

    async def write_items(self, batch: Sequence[StateOp]) -> list[Outcome[int]]:
        return await self._written(_namespaces(batch), self._inner.write_items(batch))

    async def purge_state(self) -> int:
        return await self._written(None, self._inner.purge_state())


def _sessions(ids: Iterable[str]) -> set[Key]:
    return {("session", session_id) for session_id in ids}


def _namespaces(ops: Iterable[GetItems | Scan | StateOp]) -> set[Key]:
    return {("state", op.namespace) for op in ops}


def _failed_within(answer: object) -> UnavailableError | None:
    """The error of an operation that the replica could not carry out, though others of its batch were."""
    outcomes = answer if isinstance(answer, list) else ()
    return next((outcome for outcome in outcomes if isinstance(outcome, UnavailableError)), None)


if TYPE_CHECKING:
    _layer: Callable[[Backend, Fence, Sequence[Replica]], Backend] = Replicated
