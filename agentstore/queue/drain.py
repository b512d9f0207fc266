"""Hands that carry accepted writes to the backend, on the private loop of the queues.

Deferred writes do not depend on a caller's loop, which may end at any moment, so they are drained here. A hand takes
what waits, hands it down as one batch, and comes back: while it is away the next group gathers, without a timer.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from agentstore.errors import AgentstoreError, ClosedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from agentstore.protocol import Outcome
    from agentstore.telemetry.watch import Watch

    from .group import Tally
    from .pending import Deferrable, Entry, Lane, Lanes

_log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0  # seconds between tries while the backend is down


class Owner(Protocol):
    """Who wants to know what became of the writes; called on the private loop."""

    async def refused(self, entry: Entry, error: AgentstoreError) -> bool:
        """Put a write aside that the backend will never take; whether that was possible."""

    def settled(self, lanes: Lanes, lane: Lane, done: set[Entry], *, stored: bool) -> None:
        """Of a lane's group these have left the queue, the others wait again; whether any was stored."""

    def unreachable(self, error: AgentstoreError) -> None:
        """A try has failed; what it carried waits for the next."""


class Hand:
    """Carries groups of one primitive's writes, one at a time.

    Args:
        lanes: Where they wait.
        store: Carries out a batch: ``append`` or ``write_items`` of the store below.
        owner: Who is told.
        tally: Counts what was stored.
        pace: Seconds between two groups, unless somebody waits or the next is full; 0 is none.
        watch: Tells OpenTelemetry of each group.
    """

    def __init__(
        self,
        lanes: Lanes,
        store: Callable[[Sequence[Any]], Awaitable[Sequence[Outcome[Any]]]],
        owner: Owner,
        tally: Tally,
        pace: float = 0.0,
        *,
        watch: Watch | None = None,
    ) -> None:
        self._lanes = lanes
        self._store = store
        self._owner = owner
        self._tally = tally
        self._pace = pace
        self._watch = watch
        self._loop = asyncio.get_running_loop()
        self._something = asyncio.Event()
        self._urgent = asyncio.Event()
        self._failures = 0
        self._start()

    def _start(self) -> None:
        self.task = self._loop.create_task(self._run())
        self.task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("draining the write queue failed unexpectedly, and is begun anew", exc_info=error)
            self._loop.call_later(_LONGEST_PAUSE, self._start)

    def hurry(self) -> None:
        """Somebody waits: go without regard to the pace. From any thread."""
        if self._pace:
            self._loop.call_soon_threadsafe(self._urgent.set)

    def _wake(self) -> None:
        self._loop.call_soon_threadsafe(self._something.set)

    async def _run(self) -> None:
        while True:
            with self._lanes.guard:
                group = self._lanes.take(self._wake)
            if not group:
                await self._something.wait()
                self._something.clear()
                continue
            start = time.monotonic()
            await self._carry(group)
            if self._pace and not self._failures:
                await self._until(start + self._pace)

    async def _until(self, moment: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, moment - time.monotonic())):
                await self._urgent.wait()
        except TimeoutError:
            pass
        self._urgent.clear()

    async def _carry(self, group: list[tuple[Lane, list[Entry]]]) -> None:
        unsettled = [lane for lane, _ in group]
        failed: AgentstoreError | None = None
        try:
            told = iter(await self._told([entry for _, entries in group for entry in entries]))
            for lane, entries in group:
                stored, refused, failure = await self._sorted(zip(entries, told, strict=False))
                failed = failure or failed
                self._tally.operations += len(stored)
                unsettled.remove(lane)
                self._owner.settled(self._lanes, lane, stored | refused, stored=bool(stored))
        finally:  # a loop that ends: whatever has no outcome stays pending
            for lane in unsettled:
                self._owner.settled(self._lanes, lane, set(), stored=False)
        self._tally.groups += 1
        if failed is None:
            self._failures = 0
        else:
            await self._pause(failed)

    async def _told(self, entries: list[Entry]) -> Sequence[Outcome[Any]]:
        run = partial(outcomes, self._store, [entry.marked() for entry in entries])
        if self._watch is None:
            return await run()
        return await self._watch.commit(
            run, [entry.caller for entry in entries], sum(entry.op.size for entry in entries)
        )

    async def _sorted(
        self, answered: Iterable[tuple[Entry, Outcome[Any]]]
    ) -> tuple[set[Entry], set[Entry], AgentstoreError | None]:
        stored, refused = set(), set()
        failure: AgentstoreError | None = None
        for entry, outcome in answered:
            if isinstance(outcome, (UnavailableError, ClosedError)):
                failure = outcome
            elif not isinstance(outcome, AgentstoreError):
                stored.add(entry)
            elif await self._owner.refused(entry, outcome):
                refused.add(entry)
            else:
                failure = outcome
        return stored, refused, failure

    async def _pause(self, error: AgentstoreError) -> None:
        self._owner.unreachable(error)
        self._failures += 1
        longest = min(_FIRST_PAUSE * 2 ** min(self._failures, 10), _LONGEST_PAUSE)
        await asyncio.sleep(longest * (0.5 + random.random() / 2))  # noqa: S311  to draw processes apart


async def outcomes(
    store: Callable[[Sequence[Any]], Awaitable[Sequence[Outcome[Any]]]], ops: Sequence[Deferrable]
) -> list[Outcome[Any]]:
    """An outcome for each, whatever happens: an operation that upsets a whole batch is found by halving it."""
    try:
        return list(await store(ops))
    except (UnavailableError, ClosedError) as error:
        return [error] * len(ops)
    except Exception as error:  # noqa: BLE001  it becomes the outcome of the operation that is to blame
        if len(ops) > 1:
            half = len(ops) // 2
            return [*await outcomes(store, ops[:half]), *await outcomes(store, ops[half:])]
        if isinstance(error, AgentstoreError):
            return [error]
        _log.exception("an accepted write cannot be stored")
        ours = AgentstoreError(f"the write failed unexpectedly ({type(error).__name__}: {error})")
        ours.__cause__ = error
        return [ours]
