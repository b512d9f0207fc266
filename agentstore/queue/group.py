"""Natural batching: while one round trip is in flight, the next group gathers.

A lone caller goes at once, with no timer; under load each round trip serves everyone who came during the last one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from itertools import chain, islice
from math import ceil
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from agentstore.concurrency import ended, outcome_despite

from .callers import Lone, Waiting, late

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from agentstore.protocol import Outcome

Op = TypeVar("Op")
Out = TypeVar("Out")

_WORTHY = 16  # operations that are better off in one batch than in two at once: measured on PostgreSQL and MariaDB
_PRECISION = 1e-3  # seconds by which a loop's timer may ring too early


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
        deadline: Seconds after which a caller is told that there is no answer, though the batch may still be in
            flight; None: never. The next batch waits for it all the same.
        weigh: Bytes of an operation.
        max_bytes: The most bytes in one batch; a single heavier operation goes alone.
        in_place: Whether a caller without company makes the call itself, which saves a task and three turns of the
            loop (20 us of a SQLite read's 70, in both threads). Not where the call heeds a cancellation by spoiling
            something: a connection, say.
        width: Batches in flight at once, for a backend that gains by it; many who wait are shared out among them.
        key: Of operations with one key all are in one batch, or the later ones wait: their order is kept.
        wait_in_flight: Whether a cancelled caller waits for a batch in flight to end (writes: it must know that
            nothing of it happens after it has gone) or leaves at once (reads).
    """

    def __init__(
        self,
        run: Callable[[Sequence[Op]], Awaitable[Sequence[Outcome[Out] | Exception]]],
        tally: Tally,
        deadline: float | None = None,
        *,
        weigh: Callable[[Op], int] = lambda _op: 0,
        max_items: int = 1000,
        max_bytes: int = 16 * 2**20,
        wait_in_flight: bool = True,
        in_place: bool = False,
        width: int = 1,
        key: Callable[[Op], object] = lambda _op: None,
    ) -> None:
        self._run = run
        self._width = width
        self._key = key
        self._weigh = weigh
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._wait_in_flight = wait_in_flight
        self._in_place = in_place
        self._lonely = True  # whether the latest group was of one
        self._waiting: deque[Waiting[Op, Out]] = deque()
        self._in_flight: list[Sequence[Waiting[Op, Out] | Lone]] = []
        self._drains = 0  # under way; an eager one has begun before its task is here
        self._tasks: set[asyncio.Task[None]] = set()
        self._news: asyncio.Future[None] | None = None  # of entries that were settled, for those who flush
        self._tally = tally
        self._deadline = deadline
        self._watch: asyncio.TimerHandle | None = None  # one for all: it finds out by itself for whom it rings

    @property
    def waiting(self) -> int:
        """Operations that wait for their group's turn."""
        return len(self._waiting)

    async def submit(self, op: Op) -> Out:
        """Carry out `op` in the next group.

        A cancelled caller whose operation still waits withdraws it. One in flight is waited for (at most until the
        deadline), then the cancellation goes on.

        Raises:
            UnavailableError: There was no answer within the deadline. What was in flight may be stored or not.
        """
        if self._in_place and self._lonely and not self._in_flight and not self._waiting:
            task = asyncio.current_task()
            if task is not None:
                return await self._alone(op, task)
        loop = asyncio.get_running_loop()
        entry: Waiting[Op, Out] = Waiting(op, loop.create_future())
        self._waiting.append(entry)
        if self._watch is None:
            self._ring(entry.since)
        self._see_to_it()
        try:
            return await entry.future
        except asyncio.CancelledError:
            if entry.settled:
                raise
            if entry in self._waiting:
                self._waiting.remove(entry)
                entry.settled = True
                self._tell_news()
            elif self._wait_in_flight:
                entry.future = loop.create_future()
                await ended(entry.future)
            raise

    def _see_to_it(self) -> None:
        """Begin to drain, unless somebody is about to take a group, or as many are in flight as may be."""
        if self._drains == len(self._in_flight) < self._width:  # a lone caller sees to it when it has done
            self._drains += 1
            task = asyncio.get_running_loop().create_task(self._drain())
            self._tasks.add(task)  # the loop itself would let it be collected
            task.add_done_callback(self._tasks.discard)

    async def _alone(self, op: Op, task: asyncio.Task[Any]) -> Out:
        """Carry out `op` here and now."""
        entry = Lone(task)
        group = (entry,)
        self._in_flight.append(group)
        if self._watch is None:
            self._ring(entry.since)
        try:
            (outcome,) = await self._run((op,))
        except asyncio.CancelledError:
            if entry.late is None or task.uncancel():  # somebody else has cancelled it too
                raise
            raise entry.late from None
        finally:
            self._tally.groups += 1
            self._tally.operations += 1
            entry.settled = True
            self._in_flight.remove(group)
            self._tell_news()
            if self._waiting:
                self._see_to_it()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def flush(self) -> None:
        """Wait until all that was submitted before has ended; what comes meanwhile is not waited for."""
        pending = [*chain(*self._in_flight), *self._waiting]
        while not all(entry.settled for entry in pending):
            if self._news is None:
                self._news = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._news)

    def _tell_news(self) -> None:
        news, self._news = self._news, None
        if news is not None:
            news.set_result(None)

    async def _drain(self) -> None:
        try:
            while group := self._next_group():
                self._in_flight.append(group)
                if self._waiting:
                    self._see_to_it()
                try:
                    await self._carry_out(group)
                finally:
                    self._in_flight.remove(group)
        except BaseException:  # only a dying loop cancels this task; nobody may be left waiting
            for entry in self._waiting:
                entry.cancel()
            self._waiting.clear()
            self._tell_news()
            raise
        finally:
            self._drains -= 1

    def _ring(self, since: float) -> None:
        """See to it that somebody looks when a caller who came then has waited for the deadline."""
        if self._deadline is not None:
            seconds = since + self._deadline - monotonic()
            self._watch = asyncio.get_running_loop().call_later(seconds, self._tell_the_late, self._deadline)

    def _tell_the_late(self, deadline: float) -> None:
        """Fail all who have waited for the deadline, and ring again for the next who would."""
        last = monotonic() - deadline + _PRECISION
        for entry in chain(*self._in_flight):
            if entry.since <= last:
                entry.settle(late(deadline, sent=True))
        while self._waiting and self._waiting[0].since <= last:
            self._waiting.popleft().settle(late(deadline, sent=False))
        left = [entry.since for entry in (*chain(*self._in_flight), *islice(self._waiting, 1)) if not entry.settled]
        self._watch = None
        self._tell_news()
        if left:
            self._ring(min(left))

    def _next_group(self) -> Sequence[Waiting[Op, Out]]:
        """The first who wait, in order, but none whose key is in flight."""
        if len(self._in_flight) >= self._width:  # a lone caller came first, and will see to it
            return ()
        busy = {self._key(entry.op) for group in self._in_flight for entry in group if isinstance(entry, Waiting)}
        share = ceil(len(self._waiting) / (self._width - len(self._in_flight)))
        most = min(self._max_items, share if self._width == 1 else max(share, _WORTHY))
        group: list[Waiting[Op, Out]] = []
        passed_over: list[Waiting[Op, Out]] = []
        size = 0
        while self._waiting and len(group) < most:
            entry = self._waiting.popleft()
            if busy and self._key(entry.op) in busy:
                passed_over.append(entry)
                continue
            size += self._weigh(entry.op)
            if group and size > self._max_bytes:
                self._waiting.appendleft(entry)
                break
            group.append(entry)
        self._waiting.extendleft(reversed(passed_over))
        if group:
            self._lonely = len(group) == 1
        return group

    async def _carry_out(self, group: Sequence[Waiting[Op, Out]]) -> None:
        try:
            outcomes = await self._run([entry.op for entry in group])
        except asyncio.CancelledError as cancellation:
            done = outcome_despite(cancellation)
            if done is None or done.cancelled():
                for entry in group:
                    entry.cancel()
            elif (error := done.exception()) is not None:
                self._settle(group, [error] * len(group))
            else:
                self._settle(group, done.result())
            raise
        except Exception as error:  # noqa: BLE001  every caller is told, none is left waiting
            self._settle(group, [error] * len(group))
        else:
            self._settle(group, outcomes)

    def _settle(self, group: Sequence[Waiting[Op, Out]], outcomes: Sequence[Outcome[Out] | BaseException]) -> None:
        self._tally.groups += 1
        self._tally.operations += len(group)
        for entry, outcome in zip(group, outcomes, strict=True):
            entry.settle(outcome)
        self._tell_news()
