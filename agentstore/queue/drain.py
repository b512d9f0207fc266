"""Hands that carry accepted writes to the backend, on the private loop of the queues.

Deferred writes do not depend on a caller's loop, which may end at any moment, so they are drained here. A hand takes
what waits, hands it down as one batch, and comes back: while it is away the next group gathers, without a timer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from agentstore.errors import AgentstoreError

from . import halving
from .halving import UNREACHED
from .pending import MAX_GROUP

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from agentstore.protocol import Outcome
    from agentstore.telemetry.watch import Watch

    from .group import Tally
    from .pending import Deferrable, Entry, Lane, Lanes

_log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0  # seconds between tries while the backend is down


@dataclass(slots=True)
class Carried:
    """What has become of a lane's part of a group.

    Attributes:
        lane: Whose.
        entries: All of it.
        done: Those that have left the queue; the others wait again.
        stored: How many of these were stored.
    """

    lane: Lane
    entries: list[Entry]
    done: set[Entry] = field(default_factory=set)
    stored: int = 0


class Owner(Protocol):
    """Who wants to know what became of the writes; called on the private loop."""

    async def refused(self, entry: Entry, error: AgentstoreError) -> bool:
        """Put a write aside that the backend will never take; whether that was possible."""

    def settled(self, lanes: Lanes, group: Sequence[Carried], *, reached: bool) -> None:
        """What has become of a group; whether the backend has taken all that it was handed."""

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
            with contextlib.suppress(RuntimeError):  # the private loop has ended, at the interpreter's end
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
            await self._carry([Carried(lane, entries) for lane, entries in group])
            is_full = sum(len(entries) for _, entries in group) >= MAX_GROUP
            if self._pace and not self._failures and not is_full:
                await self._until(start + self._pace)

    async def _until(self, moment: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, moment - time.monotonic())):
                await self._urgent.wait()
        except TimeoutError:
            pass
        self._urgent.clear()

    async def _carry(self, group: list[Carried]) -> None:
        failed: AgentstoreError | None = None
        is_answered = False
        entries = [entry for part in group for entry in part.entries if entry.refusal is None]
        try:
            told = dict(zip(entries, await self._told(entries), strict=True))
            for part in group:
                failed = await self._sort(part, told) or failed
            is_answered = True
        finally:  # on a loop that ends, whatever has no outcome stays pending
            self._owner.settled(self._lanes, group, reached=is_answered and failed is None and bool(entries))
        self._tally.operations += sum(part.stored for part in group)
        self._tally.groups += 1
        if failed is not None:
            self._owner.unreachable(failed)
        if failed is not None or any(
            entry.refusal for part in group for entry in part.entries if entry not in part.done
        ):
            await self._pause()
        else:
            self._failures = 0

    async def _told(self, entries: list[Entry]) -> Sequence[Outcome[Any]]:
        run = partial(outcomes, self._store, [entry.marked() for entry in entries])
        if self._watch is None:
            return await run()
        return await self._watch.commit(
            run, [entry.caller for entry in entries], sum(entry.op.size for entry in entries)
        )

    async def _sort(self, part: Carried, told: dict[Entry, Outcome[Any]]) -> AgentstoreError | None:
        failure: AgentstoreError | None = None
        left: list[Entry] = []
        for entry in part.entries:
            outcome = entry.refusal or told[entry]
            if isinstance(outcome, UNREACHED):
                failure = outcome
                left.append(entry)
            elif not isinstance(outcome, AgentstoreError):
                part.done.add(entry)
                part.stored += 1
                for earlier in left:  # its mark is passed now, though it was not stored
                    earlier.overtaken = True
            elif await self._owner.refused(entry, outcome):
                part.done.add(entry)
            else:
                entry.refusal = outcome
        return failure

    async def _pause(self) -> None:
        self._failures += 1
        longest = min(_FIRST_PAUSE * 2 ** min(self._failures, 10), _LONGEST_PAUSE)
        await asyncio.sleep(longest * (0.5 + random.random() / 2))  # noqa: S311  to draw processes apart


async def outcomes(
    store: Callable[[Sequence[Any]], Awaitable[Sequence[Outcome[Any]]]], ops: Sequence[Deferrable]
) -> list[Outcome[Any]]:
    """An outcome for each, whatever happens."""
    told = await halving.outcomes(store, ops)
    return [_blame(outcome) if isinstance(outcome, Exception) else outcome for outcome in told]


def _blame(error: Exception) -> AgentstoreError:
    if isinstance(error, AgentstoreError):
        return error
    _log.error("an accepted write cannot be stored", exc_info=error)
    ours = AgentstoreError(f"the write failed unexpectedly ({type(error).__name__}: {error})")
    ours.__cause__ = error
    return ours
