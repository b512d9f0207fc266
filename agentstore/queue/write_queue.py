"""The write-behind queue before one backend: takes writes, answers for them, and sees them stored."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from agentstore.concurrency import uncancelled
from agentstore.errors import AgentstoreError, ClosedError, QueueFullError, UnavailableError
from agentstore.protocol import Append, Mark

from .journal import Record, encode
from .known import KnownSessions
from .pending import Deferrable, Entry, Lane, Lanes, io, weight
from .recovery import put_aside
from .waiters import Waiters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from agentstore.options import QueueOptions
    from agentstore.stats import Events
    from agentstore.telemetry import Caller
    from agentstore.telemetry.watch import Watch

    from .bounds import Bounds
    from .drain import Hand
    from .journal import Folder, Journal

_log = logging.getLogger(__name__)

_ROOM_EVERY = 0.02  # seconds; a journal gives room back on its own thread, and tells nobody


class WriteQueue:
    """Accepted writes, their order, and who waits for them. Used from any thread and loop.

    Attributes:
        id: The queue's, in its marks and its journal.
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
        self.id = secrets.token_hex(8)
        self.guard = threading.Lock()  # held for a few instructions only, never across an await
        self.log, self.state = Lanes(self.guard), Lanes(self.guard)
        self.known = KnownSessions(self.guard, blind=blind)
        self.bounds = bounds
        self.down = False
        self.closed = False
        self.hands: list[Hand] = []
        self.watch: Watch | None = None
        self.journal: Journal[_Turn | Entry] | None = None
        self.events = events
        self._folder = folder
        self._options = options
        self._name = name
        self._journals = journal
        self._position = self._serial = 0
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
        caller = None if self.watch is None else self.watch.caller()
        if self._journals == "always" or (self._journals == "down" and self.down):
            await self._accept_in_journal(lanes, key, op, caller)
            return
        with self.guard:
            if not self.closed:
                self._position += 1
                wake = self._enter(lanes, key, Entry(op, Mark(self.id, self._position), caller))
        if self.closed:
            self.bounds.leave(count, op.size)
            raise ClosedError
        _call(wake)
        if self.down:
            self.events.count("fallbacks")

    async def _accept_in_journal(self, lanes: Lanes, key: str, op: Deferrable, caller: Caller) -> None:
        try:
            payload = encode(op)
            journal = self.journal
            if journal is None:
                journal = await asyncio.wrap_future(io.submit(self.begin_journal))
            if not journal.has_room(len(payload)):
                await self._room(journal, len(payload))
            turn = _Turn(lanes, key, asyncio.get_running_loop().create_future())
            with self.guard:
                self._journal_the_others(journal)
                self._position += 1
                turn.entry = Entry(op, Mark(self.id, self._position), caller, journalled=True)
                journal.write(payload, turn, self._position)  # once closed it refuses
        except BaseException:
            self.bounds.leave(weight(op), op.size)
            raise
        await uncancelled(turn.future)

    def begin_journal(self) -> Journal[_Turn | Entry]:
        """The journal, begun if there is none; blocking, on `io`."""
        if self.journal is None:
            if self._folder is None:
                raise TypeError("a store that ends with this process has no journal")
            self.journal = self._folder.create(self.id, self._options.journal_max_bytes, self._synced)
        return self.journal

    def _journal_the_others(self, journal: Journal[_Turn | Entry]) -> None:
        """Write down what was accepted before in memory, for the journal is to be read in order."""
        for entry in self._outstanding:
            if not entry.journalled:
                entry.journalled = True
                journal.write(entry.payload(), entry, entry.mark.position)

    async def _room(self, journal: Journal[_Turn | Entry], size: int) -> None:
        try:
            async with asyncio.timeout(self._options.timeout):
                while not journal.has_room(size):  # noqa: ASYNC110  it has no event: see _ROOM_EVERY
                    await asyncio.sleep(_ROOM_EVERY)
        except TimeoutError as error:
            raise QueueFullError(
                f"the journal {journal.path} stayed full for {self._options.timeout} s: {journal.size:,} bytes",
                hint="Is the backend well? Else raise QueueOptions.journal_max_bytes",
            ) from error

    def _synced(self, turns: Sequence[_Turn | Entry], error: OSError | None) -> None:
        """What the journal's thread tells of a group."""
        mine = [turn for turn in turns if isinstance(turn, _Turn)]
        wakes: list[Callable[[], None] | None] = []
        if error is None:
            with self.guard:
                wakes = [self._enter(turn.lanes, turn.key, turn.entry) for turn in mine]
        else:
            for turn in turns:
                if isinstance(turn, Entry):
                    turn.journalled = False
                else:
                    self.bounds.leave(turn.entry.weight, turn.entry.op.size)
        for wake in wakes:
            _call(wake)
        if self.down:
            self.events.count("fallbacks", len(wakes))
        where = self.journal.path if self.journal else ""
        by_loop: dict[asyncio.AbstractEventLoop, list[_Turn]] = {}
        for turn in mine:
            by_loop.setdefault(turn.future.get_loop(), []).append(turn)
        for loop, theirs in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the caller's loop was closed: nobody waits any more
                loop.call_soon_threadsafe(_tell, theirs, error, where)

    def _enter(self, lanes: Lanes, key: str, entry: Entry) -> Callable[[], None] | None:
        self._serial += 1
        entry.serial = self._serial
        self._outstanding[entry] = None
        wake, dead = lanes.add(key, entry)
        if dead:
            self._gone(dead)
        return wake

    def _gone(self, entries: Iterable[Entry]) -> None:
        positions = []
        for entry in entries:
            self._outstanding.pop(entry, None)
            self.bounds.leave(entry.weight, entry.op.size)
            if entry.journalled:
                positions.append(entry.mark.position)
        if positions and self.journal is not None:
            self.journal.settle(positions)

    # --- waiting for them ---

    async def flush(self) -> None:
        """Wait until every write accepted before has been stored or refused.

        Raises:
            AgentstoreError: What the backend refused since the last flush: the first of it, with notes of the others.
            UnavailableError: It took longer than the deadline.
        """
        last = self._serial
        self._hurry()
        await self._waiters.until(lambda: self._oldest() > last, "writes accepted before the flush", patient=True)
        with self.guard:
            refusals, self._refusals = self._refusals, []
        if refusals:
            for other in refusals[1:]:
                refusals[0].add_note(f"and also: {other}")
            raise refusals[0]

    async def passed(self, lanes: Lanes, key: str) -> None:
        """Wait until what is pending now for a session or namespace has been stored or refused.

        Raises:
            UnavailableError: The backend cannot be reached, or it took longer than the deadline.
        """
        with self.guard:
            last = lanes.last(key)
        if last is None:
            return
        if self.hands:
            self._hurry()
        await self._waiters.until(
            lambda: (first := lanes.first(key)) is None or first.serial > last.serial, f"writes to {key!r}"
        )

    async def emptied(self, patience: float) -> None:
        """Wait until nothing is pending, for so many seconds at most."""
        self._hurry()
        with contextlib.suppress(UnavailableError):  # `left` tells
            await self._waiters.until(lambda: not self._outstanding, "writes", patient=True, patience=patience)

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
            self._refusals.append(error)
            if isinstance(entry.op, Append):
                self.known.forget(entry.op.session_id)
        self.events.count("rejected")
        return True

    def settled(self, lanes: Lanes, lane: Lane, done: set[Entry], *, stored: bool) -> None:
        """Of a lane's group these have left the queue, the others wait again."""
        with self.guard:
            wake = lanes.settle(lane, done)
            self._gone(done)
            if stored:
                if lanes is self.log:
                    self.known.stored(lane.key)
                if self.down:
                    self.down = False
                    _log.info("%s is back: %d accepted writes are being stored", self._name, len(self._outstanding))
            self._waiters.look()
        _call(wake)

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

    @property
    def pending(self) -> int:
        """How many writes are accepted and not stored."""
        return len(self._outstanding)

    def left(self) -> list[Entry]:
        """What is pending, in order."""
        with self.guard:
            return list(self._outstanding)

    def spill(self) -> None:
        """See that what is left stands in the journal, and close it; blocking, on `io`.

        Raises:
            UnavailableError: It can neither be stored nor journalled.
        """
        left = self.left()
        path: Path | None = None
        if self.journal is not None:
            with self.guard:
                self._journal_the_others(self.journal)
            self.journal.wait()
            path = self.journal.close()
            if not all(entry.journalled for entry in left):
                raise UnavailableError(f"{len(left)} accepted writes are lost: the journal {path} cannot be written")
        elif left and self._folder is not None:
            path = self._folder.keep(self.id, [Record(entry.mark.position, entry.payload()) for entry in left])
        if path is not None:
            _log.warning(
                "%d accepted writes are not stored yet: they are kept in %s, for whoever opens the store next",
                len(left),
                path,
            )


class _Turn:
    """A caller who waits for the journal."""

    __slots__ = ("entry", "future", "key", "lanes")

    def __init__(self, lanes: Lanes, key: str, future: asyncio.Future[None]) -> None:
        self.lanes = lanes
        self.key = key
        self.future = future
        self.entry: Entry


def _tell(turns: list[_Turn], error: OSError | None, where: object) -> None:
    for turn in turns:
        if turn.future.done():
            continue
        if error is None:
            turn.future.set_result(None)
            continue
        ours = UnavailableError(
            f"the journal {where} cannot be written: {error}",
            hint="The write was not accepted. Make room, or choose another folder with QueueOptions.journal_dir",
        )
        ours.__cause__ = error
        turn.future.set_exception(ours)


def _call(wake: Callable[[], None] | None) -> None:
    if wake is not None:
        with contextlib.suppress(RuntimeError):  # the private loop has ended, at the interpreter's end
            wake()
