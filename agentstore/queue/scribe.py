"""Writes accepted writes down in the journal of the queue: each before it counts, or all while the backend is down."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import TYPE_CHECKING, Protocol

from agentstore.errors import ClosedError, QueueFullError, UnavailableError
from agentstore.protocol import Mark

from .journal import Record, encode
from .pending import Entry, io

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from agentstore.options import QueueOptions
    from agentstore.telemetry import Caller

    from .journal import Folder, Journal
    from .pending import Deferrable, Lanes

_ROOM_EVERY = 0.02  # seconds; a journal gives room back on its own thread, and tells nobody


class Turn:
    """A caller who waits for the journal."""

    __slots__ = ("entry", "future", "key", "lanes")

    def __init__(self, lanes: Lanes, key: str, future: asyncio.Future[None]) -> None:
        self.lanes = lanes
        self.key = key
        self.future = future
        self.entry: Entry


class Owner(Protocol):
    """Who wants to know what became of the turns; called on the journal's thread."""

    @property
    def closed(self) -> bool:
        """Whether no further write is taken."""

    def accepted(self, turns: Sequence[Turn]) -> None:
        """They are synced; the guard is held."""

    def missed(self, turns: Sequence[Turn]) -> None:
        """They are not, and will not be; the guard is held."""

    def left(self) -> list[Entry]:
        """What is pending, in order."""


class Scribe:
    """The journal of one queue, and the marks of its writes.

    Positions rise in the order in which writes get into their lanes, and in the journal. So whoever accepts a write in
    memory must look at `busy` first: a write that is on its way into the journal must not be overtaken, or its mark
    would be passed before it is stored.

    Attributes:
        id: The queue's, in its marks and its journal.
        journal: None until it is needed.
        busy: Turns that are on their way into it.
        behind: What was accepted in memory, in order, and is to be written before any further turn.

    Args:
        owner: Whose it is.
        guard: The owner's, held while anything here changes.
        folder: Where the journal is to be; None for a store that ends with this process.
        options: How large it may get, and how long to wait for room in it.
    """

    def __init__(self, owner: Owner, guard: threading.RLock, folder: Folder | None, options: QueueOptions) -> None:
        self._owner = owner
        self._guard = guard
        self._folder = folder
        self._options = options
        self.journal: Journal[Turn | Entry] | None = None
        self.busy = 0
        self.behind: dict[Entry, None] = {}
        self.renew()

    def renew(self) -> None:
        """Begin to count. In the process that will write: forks of one that made it must not share their marks."""
        self.id = secrets.token_hex(8)
        self._position = 0

    def mark(self) -> Mark:
        """The next write's place; the guard is held."""
        self._position += 1
        return Mark(self.id, self._position)

    async def hand_in(self, lanes: Lanes, key: str, op: Deferrable, caller: Caller) -> Turn:
        """Hand a write to the journal; its turn ends when that is synced, or could not be.

        Raises:
            QueueFullError: The journal had no room within ``QueueOptions.timeout``.
            UnavailableError: It cannot be begun.
            ClosedError: The queue was closed.
        """
        payload = encode(op)
        journal = self.journal
        if journal is None:
            journal = await asyncio.wrap_future(io.submit(self._begin))
        if not journal.has_room(len(payload)):
            await self._room(journal, len(payload))
        turn = Turn(lanes, key, asyncio.get_running_loop().create_future())
        while True:
            with self._guard:
                if self._owner.closed:
                    raise ClosedError
                if not self.behind:
                    mark = self.mark()
                    turn.entry = Entry(op, mark, caller, journalled=True)
                    journal.write(payload, turn, mark.position)
                    self.busy += 1
                    return turn
            await asyncio.wrap_future(io.submit(self._catch_up, journal))

    def _begin(self) -> Journal[Turn | Entry]:
        if self.journal is None:
            if self._folder is None:
                raise TypeError("a store that ends with this process has no journal")
            if self._owner.closed:
                raise ClosedError
            self.journal = self._folder.create(self.id, self._options.journal_max_bytes, self._synced)
        return self.journal

    def _catch_up(self, journal: Journal[Turn | Entry]) -> None:
        """Write down what was accepted before in memory, for the journal is read in order; blocking, on `io`."""
        while True:
            with self._guard:
                entry = next(iter(self.behind), None)
            if entry is None:
                return
            payload = entry.payload()  # without the guard, for it may take long
            with self._guard:
                if entry in self.behind:
                    journal.write(payload, entry, entry.mark.position)
                    del self.behind[entry]
                    entry.journalled = True

    async def _room(self, journal: Journal[Turn | Entry], size: int) -> None:
        try:
            async with asyncio.timeout(self._options.timeout):
                while not journal.has_room(size):  # noqa: ASYNC110  it has no event: see _ROOM_EVERY
                    await asyncio.sleep(_ROOM_EVERY)
        except TimeoutError as error:
            raise QueueFullError(
                f"the journal {journal.path} stayed full for {self._options.timeout} s: {journal.size:,} bytes",
                hint="Is the backend well? Else raise QueueOptions.journal_max_bytes",
            ) from error

    def _synced(self, tokens: Sequence[Turn | Entry], error: OSError | None) -> None:
        """What the journal's thread tells of a group."""
        turns = [token for token in tokens if isinstance(token, Turn)]
        with self._guard:
            self.busy -= len(turns)
            if error is None:
                self._owner.accepted(turns)
            else:
                for token in tokens:
                    if isinstance(token, Entry):
                        token.journalled = False  # it stays accepted in memory, as it was
                self._owner.missed(turns)
        where = self.journal.path if self.journal else ""
        by_loop: dict[asyncio.AbstractEventLoop, list[Turn]] = {}
        for turn in turns:
            by_loop.setdefault(turn.future.get_loop(), []).append(turn)
        for loop, theirs in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the caller's loop was closed: nobody waits any more
                loop.call_soon_threadsafe(_tell, theirs, error, where)

    def settle(self, entries: Iterable[Entry]) -> None:
        """These need not be kept any more; the guard is held."""
        positions = []
        for entry in entries:
            self.behind.pop(entry, None)
            if entry.journalled:
                positions.append(entry.mark.position)
        if positions and self.journal is not None:
            self.journal.settle(positions)

    def spill(self) -> Path | None:
        """See that what is pending stands in a journal, and let go of it; where it is. Blocking, on `io`.

        Raises:
            UnavailableError: It cannot be written: some of it is lost.
        """
        if self.journal is None:
            left = self._owner.left()
            return self._keep(self.id, left) if left and self._folder is not None else None
        try:
            self._catch_up(self.journal)
            self.journal.wait()
            left = self._owner.left()
            if all(entry.journalled for entry in left):
                return self.journal.path if left else None
            # The disk failed meanwhile. All goes into another journal, for a journal is read in order.
            path = self._keep(secrets.token_hex(8), left)
            self.journal.settle([entry.mark.position for entry in left if entry.journalled])
            return path
        finally:
            self.journal.close()

    def _keep(self, journal_id: str, left: Sequence[Entry]) -> Path:
        if self._folder is None:
            raise TypeError("a store that ends with this process has no journal")
        records = [Record(entry.mark.position, entry.payload()) for entry in left]
        try:
            return self._folder.keep(journal_id, records)
        except UnavailableError as error:
            lost = sum(not entry.journalled for entry in left)
            raise UnavailableError(f"{lost} accepted writes are lost: the journal cannot be written") from error


def _tell(turns: list[Turn], error: OSError | None, where: object) -> None:
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
