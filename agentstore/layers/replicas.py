"""Reads go to replicas, as far as they hold what this process has written."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from typing import TYPE_CHECKING, TypeVar

from agentstore.errors import ClosedError, ConfigurationError, SchemaError, UnavailableError
from agentstore.protocol import LaggingError

from .base import Layer
from .breaker import Breaker
from .fence import Pause

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

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

    from .breaker import Probe
    from .fence import Fence

T = TypeVar("T")

_log = logging.getLogger("agentstore")

_UNFIT = (UnavailableError, ConfigurationError, SchemaError)
"""What a replica may raise that says nothing of what was asked: the primary will answer."""


class Replica:
    """One replica, as all readers know it.

    Args:
        name: It, for messages; without password.
        backend: A driver that follows the primary, perhaps within a layer.
        patience: Seconds after which it is taken for dead.
        clock: Seconds that never step back.

    Attributes:
        breaker: Whether it is known to be of no use.
        lag: Runs while it is known to be behind.
    """

    def __init__(
        self, name: str, backend: Backend, patience: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self.backend = backend
        self.breaker = Breaker(name, 2 * patience, clock, outcome="reads go elsewhere")
        self.lag = Pause(clock)
        self._patience = patience
        self._fault = ""

    async def answer(self, ask: Callable[[Backend], Awaitable[T]]) -> T:
        """What it says.

        Raises:
            AgentstoreError: What it met; silence is an `UnavailableError`.
        """
        try:
            async with asyncio.timeout(self._patience):
                return await ask(self.backend)
        except TimeoutError as error:
            raise UnavailableError(f"{self.name} did not answer within {self._patience} s") from error

    async def look(self) -> None:
        """Open it, unless that was done, and see whether it has come as far as is needed now: it raises as `answer`."""
        await self.answer(_opened)

    def failed(self, error: UnavailableError | ConfigurationError | SchemaError, probe: Probe | None = None) -> None:
        """It has raised this instead of an answer: leave it out."""
        if not isinstance(error, UnavailableError):
            if self._fault != str(error):
                self._fault = str(error)
                _log.error("the replica %s cannot be used as it is: %s", self.name, error)
            cause, error = error, UnavailableError(str(error))
            error.__cause__ = cause
        self.breaker.failed(error, probe)


class Replicated(Layer):
    """Sends reads to replicas in turn, and everything else to the primary.

    A replica answers only if it has reached a position of the primary taken after the last write that passed here.
    Where that is not so, or not known, or the replica fails, the primary answers: no caller sees an error, or less than
    this process has written. What other processes write may come later. A replica that fails is left out, and looked
    at again on the side.

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

    # --- reads ---

    async def read(self, batch: Sequence[Read]) -> list[Outcome[list[Message]]]:
        return await self._routed(lambda store: store.read(batch), exact=any(op.exact for op in batch))

    async def find(self, batch: Sequence[Find]) -> list[Outcome[dict[str, Message]]]:
        return await self._routed(lambda store: store.find(batch), exact=any(op.exact for op in batch))

    async def heads(self, batch: Sequence[Head]) -> list[Outcome[Session | None]]:
        return await self._routed(lambda store: store.heads(batch), exact=any(op.exact for op in batch))

    async def list_sessions(self, listing: Listing) -> Page[Session]:
        return await self._routed(lambda store: store.list_sessions(listing))

    async def get_items(self, batch: Sequence[GetItems]) -> list[Outcome[dict[str, StateItem]]]:
        return await self._routed(lambda store: store.get_items(batch))

    async def scan(self, scan: Scan) -> list[StateItem]:
        return await self._routed(lambda store: store.scan(scan))

    async def _routed(self, ask: Callable[[Backend], Awaitable[T]], *, exact: bool = False) -> T:
        replica = self._next() if self._ready and not exact else None
        if replica is not None and await self._fence.known():
            try:
                answer = await replica.answer(ask)
            except LaggingError:
                replica.lag.begin()
                self._fence.lagging()
            except _UNFIT as error:
                replica.failed(error)
            else:
                single = _failed_within(answer)
                if single is None:
                    replica.lag.end()
                    return answer
                replica.failed(single)
        return await ask(self._inner)

    def _next(self) -> Replica | None:
        """The one whose turn it is, of those that may be of use."""
        first = next(self._turn) % len(self._replicas)
        in_turn = (*self._replicas[first:], *self._replicas[:first])
        return next((replica for replica in in_turn if self._is_fit(replica)), None)

    def _is_fit(self, replica: Replica) -> bool:
        try:
            probe = replica.breaker.enter()
        except UnavailableError:
            return False
        if probe is None:
            return replica.lag.is_over
        # Not by this reader himself: where nobody answers it takes seconds to know.
        task = asyncio.create_task(self._look_again(replica, probe))
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)
        return False

    async def _look_again(self, replica: Replica, probe: Probe) -> None:
        try:
            await replica.look()
        except _UNFIT as error:
            replica.failed(error, probe)
        except ClosedError:
            replica.breaker.abandoned(probe)
        except BaseException:
            replica.breaker.abandoned(probe)
            raise
        else:
            replica.breaker.answered()

    # --- writes: also one that fails, or whose caller is cancelled, may have been stored ---

    async def _written(self, call: Awaitable[T]) -> T:
        try:
            return await call
        finally:
            self._fence.wrote()

    async def append(self, batch: Sequence[Append]) -> list[Outcome[list[Message]]]:
        return await self._written(self._inner.append(batch))

    async def pop(self, session_id: str, count: int, *, user_id: str | None = None) -> list[Message]:
        return await self._written(self._inner.pop(session_id, count, user_id=user_id))

    async def clear(self, session_id: str, *, user_id: str | None = None) -> int:
        return await self._written(self._inner.clear(session_id, user_id=user_id))

    async def update(self, change: Change) -> Session:
        return await self._written(self._inner.update(change))

    async def delete(self, session_id: str, *, user_id: str | None = None) -> bool:
        return await self._written(self._inner.delete(session_id, user_id=user_id))

    async def restore(self, session: Session, messages: Sequence[Message]) -> None:
        await self._written(self._inner.restore(session, messages))

    async def rewrite(self, session: Session, messages: Sequence[Message]) -> bool:
        return await self._written(self._inner.rewrite(session, messages))

    async def purge_sessions(self) -> int:
        return await self._written(self._inner.purge_sessions())

    async def write_items(self, batch: Sequence[StateOp]) -> list[Outcome[int]]:
        return await self._written(self._inner.write_items(batch))

    async def purge_state(self) -> int:
        return await self._written(self._inner.purge_state())


async def _opened(backend: Backend) -> None:
    await backend.aopen()
    await backend.ping()


def _failed_within(answer: object) -> UnavailableError | None:
    """The error of an operation that the replica could not carry out, though others of its batch were."""
    outcomes = answer if isinstance(answer, list) else ()
    return next((outcome for outcome in outcomes if isinstance(outcome, UnavailableError)), None)


if TYPE_CHECKING:
    _layer: Callable[[Backend, Fence, Sequence[Replica]], Backend] = Replicated
