"""The write-behind queue before one backend: takes writes, answers for them, and sees them stored."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from agentstore.concurrency import uncancelled
from agentstore.errors import AgentstoreError, ClosedError, UnavailableError
from agentstore.protocol import Append

from .known import KnownSessions
from .pending import Deferrable, Entry, Lanes, weight
from .recovery import put_aside
from .scribe import Scribe, Turn
from .waiters import Waiters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from agentstore.options import QueueOptions
    from agentstore.stats import Events
    from agentstore.telemetry import Caller
    from agentstore.telemetry.watch import Watch

    from .bounds import Bounds
    from .drain import Carried, Hand
    from .journal import Folder

_log = logging.getLogger(__name__)

_TOLD = 100  # refusals that a flush tells of, for nobody may ever call it


class WriteQueue:
    """Accepted writes, their order, and who waits for them. Used from any thread and loop.

    Attributes:
        guard: Held for a few instructions only, never across an await. (One that its thread may take again: a coroutine
            of a loop that was closed may be collected under it, and ends what it was about.)
        log, state: The lanes of sessions and of namespaces.
        known: The sessions that were written.
        down: The backend could not be reached at the last try.
        events: Counts what befell the writes.
        watch: Tells OpenTelemetry of them; None unless the program records.

    Args:
        folder: Where its journal is, and what was refused; None for a store that ends with this process.
        options: How long to wait for room, and how large the journal may get.
        bounds: How much may be pending.
        deadline: Seconds that a caller waits for others' writes at most.
        events: Counts writes accepted because the backend was down, and those that it refused.
        name: The backend, for messages; without password.
        journal: When a write is fsynced in the journal before it is accepted: always, only while the backend is down
            (a fallback), or never.
        blind: Whether writes are taken while the backend has never been reached.
    """

    def __init__(
        self,
        folder: Folder | None,
        options: QueueOptions,
        bounds: Bounds,
        deadline: float,
        events: Events,
        *,
        name: str,
        journal: str | None,
        blind: bool,
    ) -> None:
        self.guard = threading.RLock()
        self.log, self.state = Lanes(self.guard), Lanes(self.guard)
        self.known = KnownSessions(self.guard, blind=blind)
        self.scribe = Scribe(self, self.guard, folder, options)
        self.bounds = bounds
        self.down = False
        self.closed = False
        self.hands: list[Hand] = []
        self.events = events
        self.watch: Watch | None = None
        self._folder = folder
        self._name = name
        self._journals = journal
        self._serial = 0
        self._outstanding: OrderedDict[Entry, None] = OrderedDict()
        self._waiters = Waiters(self.guard, deadline)
        self._refusals: list[AgentstoreError] = []

    # --- taking writes ---

    async def accept(self, lanes: Lanes, key: str, op: Deferrable) -> None:
        """Take a write whose values are nobody else's; it is as durable as was asked when this returns.

        Raises:
            QueueFullError: There was no room within ``QueueOptions.timeout``.
            UnavailableError: The journal cannot be written; nothing was accepted.
            ClosedError: The queue was closed.
        """
        count = weight(op)
        if not self.bounds.enter_at_once(count, op.size):
            self._hurry()
            await self.bounds.enter(count, op.size)
        try:
            caller = None if self.watch is None else self.watch.caller()
            turn = None
            if self._journals == "always" or not self._accept_in_memory(lanes, key, op, caller):
                turn = await self.scribe.hand_in(lanes, key, op, caller)
        except BaseException:
            self.bounds.leave(count, op.size)
            raise
        if turn is not None:
            await uncancelled(turn.future)
        if self.down:
            self.events.count("fallbacks")

    def _accept_in_memory(self, lanes: Lanes, key: str, op: Deferrable, caller: Caller) -> bool:
        """Whether that is where it is to be accepted now."""
        with self.guard:
            if self.closed:
                raise ClosedError
            if self._journals == "down" and (self.down or self.scribe.busy):
                return False
            entry = Entry(op, self.scribe.mark(), caller)
            if self._journals == "down":
                self.scribe.behind[entry] = None
            self._enter(lanes, key, entry)
            return True

    def accepted(self, turns: Sequence[Turn]) -> None:
        """These stand in the journal; the guard is held."""
        for turn in turns:
            self._enter(turn.lanes, turn.key, turn.entry)

    def missed(self, turns: Sequence[Turn]) -> None:
        """These could not be journalled, and are not accepted."""
        for turn in turns:
            self.bounds.leave(turn.entry.weight, turn.entry.op.size)

    def _enter(self, lanes: Lanes, key: str, entry: Entry) -> None:
        self._serial += 1
        entry.serial = self._serial
        self._outstanding[entry] = None
        wake, dead = lanes.add(key, entry)
        self._gone(dead)
        _call(wake)

    def _gone(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._outstanding.pop(entry, None)
            self.bounds.leave(entry.weight, entry.op.size)
        self.scribe.settle(entries)

    # --- waiting for them ---

    async def flush(self) -> None:
        """Wait until every write accepted before has been stored or refused.

        Raises:
            AgentstoreError: What the backend refused since the last flush: the first of it, with notes of the others.
            UnavailableError: It took longer than the deadline.
        """
        await self._until_stored("writes accepted before the flush")
        with self.guard:
            refusals, self._refusals = self._refusals, []
        if refusals:
            for other in refusals[1:]:
                refusals[0].add_note(f"and also: {other}")
            raise refusals[0]

    async def passed(self, lanes: Lanes, *keys: str | None) -> None:
        """Wait until what is pending now for sessions or namespaces has been stored or refused.

        Args:
            lanes: `log` or `state`.
            keys: Whose; None is everybody's.

        Raises:
            UnavailableError: The backend cannot be reached, or it took longer than the deadline.
        """
        for key in keys:
            if key is None:
                with self.guard:
                    everybody = list(lanes.by_key)
                await self.passed(lanes, *everybody)
            elif key in lanes.by_key:
                await self._passed(lanes, key)

    async def _passed(self, lanes: Lanes, key: str) -> None:
        with self.guard:
            last = lanes.last(key)
        if last is None:
            return
        if self.hands:
            self._hurry()
        await self._waiters.until(
            lambda: (first := lanes.first(key)) is None or first.serial > last.serial, f"writes to {key!r}"
        )

    async def settled_for(self, patience: float) -> None:
        """Wait until what is pending now has been stored or refused, for so many seconds at most."""
        with contextlib.suppress(UnavailableError):  # `left` tells
            await self._until_stored("writes", patience)

    async def _until_stored(self, what: str, patience: float | None = None) -> None:
        last = self._serial
        self._hurry()
        await self._waiters.until(lambda: self._oldest() > last, what, patient=True, patience=patience)

    def _oldest(self) -> float:
        return next(iter(self._outstanding)).serial if self._outstanding else math.inf

    def _hurry(self) -> None:
        for hand in self.hands:
            hand.hurry()

    def defers(self, lanes: Lanes, key: str) -> bool:
        """Whether a write must wait behind others, or for a backend that is down."""
        return self.down or key in lanes.by_key

    # --- what hands tell ---

    async def refused(self, entry: Entry, error: AgentstoreError) -> bool:
        """Put a write aside that the backend will never take; whether that was possible."""
        try:
            if self._folder is not None:
                await put_aside(self._folder, entry, error)
            else:
                _log.error("%s refused a write that was accepted: %s", self._name, error)
        except UnavailableError as failure:
            _log.critical("a refused write cannot be put aside, and is tried again: %s", failure)
            return False
        with self.guard:
            if len(self._refusals) < _TOLD:
                self._refusals.append(error)
            if isinstance(entry.op, Append):
                self.known.forget(entry.op.session_id)
        self.events.count("rejected")
        return True

    def settled(self, lanes: Lanes, group: Sequence[Carried], *, reached: bool) -> None:
        """What has become of a group; whether the backend has taken all that it was handed."""
        with self.guard:
            if reached and self.down:
                self.down = False
                left = len(self._outstanding) - sum(len(carried.done) for carried in group)
                _log.info("%s is back: %d accepted writes are still to be stored", self._name, left)
            for carried in group:
                wake = lanes.settle(carried.lane, carried.done)
                self._gone(carried.done)
                if carried.stored and lanes is self.log:
                    self.known.stored(carried.lane.key)
                _call(wake)
            self._waiters.look()

    def unreachable(self, error: AgentstoreError) -> None:
        """A try has failed; what it carried waits for the next."""
        with self.guard:
            if not self.down:
                self.down = True
                kept = "in the journal" if self._journals else "in memory"
                _log.warning("%s cannot be reached: writes are kept %s until it is back (%s)", self._name, kept, error)
            self._waiters.fail(error)

    # --- its end ---

    def close(self) -> None:
        """Take no further writes."""
        with self.guard:
            self.closed = True

    def left(self) -> list[Entry]:
        """What is pending, in order."""
        with self.guard:
            return list(self._outstanding)

    @property
    def pending(self) -> int:
        """How many writes are."""
        return len(self._outstanding)

    @property
    def journal_bytes(self) -> int:
        """Of the journal on the disk."""
        return self.scribe.journal.size if self.scribe.journal is not None else 0

    def spill(self) -> None:
        """See that what is left stands in the journal, and close it; blocking, on `io`.

        Raises:
            UnavailableError: It can neither be stored nor journalled.
        """
        path = self.scribe.spill()
        if path is not None:
            with self.guard:
                self._waiters.fail(UnavailableError(f"they are kept in {path} now"))
            _log.warning(
                "%d accepted writes are not stored yet: they are kept in %s, for whoever opens the store next",
                self.pending,
                path,
            )


def _call(wake: Callable[[], None] | None) -> None:
    if wake is not None:
        with contextlib.suppress(RuntimeError):  # the private loop has ended, at the interpreter's end
            wake()
