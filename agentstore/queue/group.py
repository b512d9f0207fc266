"""Natural batching: while one round trip is in flight, the next group gathers.

A lone caller goes at once, with no timer; under load each round trip serves everyone who came during the last one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from agentstore.concurrency import ended, outcome_despite

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from agentstore.protocol import Outcome

Op = TypeVar("Op")
Out = TypeVar("Out")


@dataclass(slots=True)
class Tally:
    """How many operations went down, in how many groups."""

    groups: int = 0
    operations: int = 0


class Grouping(Generic[Op, Out]):
    """Gathers the operations of one event loop into batches and hands each caller its own outcome.

    Args:
        run: Carries out a batch: an outcome for each operation, or an exception for all.
        max_items: The most operations in one batch.
        tally: Counts what was carried out.
        weigh: Bytes of an operation.
        max_bytes: The most bytes in one batch; a single heavier operation goes alone.
        wait_in_flight: Whether a cancelled caller waits for a batch in flight to end (writes: it must know that
            nothing of it happens after it has gone) or leaves at once (reads).
    """

    def __init__(
        self,
        run: Callable[[Sequence[Op]], Awaitable[Sequence[Outcome[Out]]]],
        tally: Tally,
        *,
        weigh: Callable[[Op], int] = lambda _op: 0,
        max_items: int = 1000,
        max_bytes: int = 16 * 2**20,
        wait_in_flight: bool = True,
    ) -> None:
        self._run = run
        self._weigh = weigh
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._wait_in_flight = wait_in_flight
        self._waiting: deque[tuple[Op, asyncio.Future[Out]]] = deque()
        self._in_flight: list[tuple[Op, asyncio.Future[Out]]] = []
        self._drainer: asyncio.Task[None] | None = None
        self._tally = tally

    @property
    def waiting(self) -> int:
        """Operations that wait for their group's turn."""
        return len(self._waiting)

    async def submit(self, op: Op) -> Out:
        """Carry out `op` in the next group.

        A cancelled caller whose operation still waits withdraws it. One in flight is waited for, then the cancellation
        goes on.
        """
        entry = (op, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        if self._drainer is None or self._drainer.done():
            self._drainer = asyncio.create_task(self._drain())
        try:
            return await asyncio.shield(entry[1])
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
            elif self._wait_in_flight:
                await ended(entry[1])
            raise

    async def flush(self) -> None:
        """Wait until all that was submitted before has ended; what comes meanwhile is not waited for."""
        if pending := [future for _, future in (*self._in_flight, *self._waiting)]:
            await asyncio.wait(pending)

    async def _drain(self) -> None:
        try:
            while self._waiting:
                self._in_flight = self._next_group()
                await self._carry_out(self._in_flight)
        finally:  # only a dying loop cancels this task; nobody may be left waiting
            for _, future in self._waiting:
                future.cancel()
            self._waiting.clear()
            self._in_flight = []

    def _next_group(self) -> list[tuple[Op, asyncio.Future[Out]]]:
        group = [self._waiting.popleft()]
        size = self._weigh(group[0][0])
        while self._waiting and len(group) < self._max_items:
            size += self._weigh(self._waiting[0][0])
            if size > self._max_bytes:
                break
            group.append(self._waiting.popleft())
        return group

    async def _carry_out(self, group: list[tuple[Op, asyncio.Future[Out]]]) -> None:
        try:
            outcomes = await self._run([op for op, _ in group])
        except asyncio.CancelledError as cancellation:
            done = outcome_despite(cancellation)
            if done is None or done.cancelled():
                for _, future in group:
                    future.cancel()
            elif (error := done.exception()) is not None:
                self._settle(group, [error] * len(group))
            else:
                self._settle(group, done.result())
            raise
        except Exception as error:  # noqa: BLE001  every caller is told, none is left waiting
            self._settle(group, [error] * len(group))
        else:
            self._settle(group, outcomes)

    def _settle(
        self, group: list[tuple[Op, asyncio.Future[Out]]], outcomes: Sequence[Outcome[Out] | BaseException]
    ) -> None:
        self._tally.groups += 1
        self._tally.operations += len(group)
        for (_, future), outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
                future.exception()  # a caller that has gone needs no "never retrieved"
            else:
                future.set_result(outcome)
