"""How a write-behind queue begins and ends: replay, hands, and a close that loses nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from functools import partial
from typing import TYPE_CHECKING

from agentstore.errors import AgentstoreError, UnavailableError
from agentstore.private_loop import before_loops_end, lasting

from .drain import Hand
from .pending import io
from .recovery import replay

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from agentstore.protocol import Backend
    from agentstore.stats import Events

    from .group import Tally
    from .journal import Folder
    from .write_queue import WriteQueue

_log = logging.getLogger(__name__)
_loop = lasting("agentstore-queues")
_AGAIN = 0.5  # seconds between two tries to open a backend that is down


class Life:
    """Opens and closes a queue with the store below it.

    Args:
        store: Where writes go: the backend within its layers.
        queue: Where they wait.
        folder: The journals of the store; None for a store that ends with this process.
        tally: Counts what is stored.
        events: Counts what was replayed.
        close_timeout: Seconds that a close waits for what is pending.
        pace: Seconds between two groups, see `Hand`.
        commits: Groups of a kind under way at once.
        patient: Open even if the backend cannot be reached.
    """

    def __init__(
        self,
        store: Backend,
        queue: WriteQueue,
        folder: Folder | None,
        tally: Tally,
        events: Events,
        *,
        close_timeout: float,
        pace: float,
        commits: int,
        patient: bool,
    ) -> None:
        self._store = store
        self._queue = queue
        self._folder = folder
        self._tally = tally
        self._events = events
        self._close_timeout = close_timeout
        self._pace = pace
        self._commits = commits
        self._patient = patient
        self._opening: Future[None] | None = None
        self._later: asyncio.Task[None] | None = None
        self._ending: Future[None] | None = None
        self._begun = False
        self._pid = 0

    # --- begin ---

    async def aopen(self) -> None:
        """Open the store, replay what dead processes left, and begin to drain; nothing if that was done.

        Raises:
            AgentstoreError: The store cannot be opened. (Not if the queue is patient and the backend is only down:
                then it is tried again, and everything is done in this order when it is back.)
        """
        with self._queue.guard:
            if self._opening is None or (self._opening.done() and not self._begun and not self._patient):
                if self._opening is None:
                    self._pid = os.getpid()
                    self._queue.scribe.renew()
                before_loops_end(_close_all)
                _living.add(self)
                self._opening = _loop.start(self._open)
        await asyncio.shield(asyncio.wrap_future(self._opening))

    async def _open(self) -> None:
        try:
            await self._prepare()
        except UnavailableError as error:
            if not self._patient:
                raise
            self._queue.unreachable(error)
            self._later = asyncio.create_task(self._open_later())
        else:
            self._begin()

    async def _open_later(self) -> None:
        while not self._begun and not self._queue.closed:
            await asyncio.sleep(_AGAIN)
            try:
                await self._prepare()
            except UnavailableError as error:
                self._queue.unreachable(error)
                continue
            except AgentstoreError:
                _log.exception("the store cannot be opened; %d accepted writes wait", self._queue.pending)
                continue
            self._begin()

    async def _prepare(self) -> None:
        await self._store.aopen()
        if self._folder is not None:
            self._events.count("replayed", await replay(self._store, self._folder))

    def _begin(self) -> None:
        queue = self._queue
        if queue.closed:
            return
        hand = partial(Hand, owner=queue, tally=self._tally, pace=self._pace, watch=queue.watch)
        kinds = ((queue.log, self._store.append), (queue.state, self._store.write_items))
        queue.hands = [hand(lanes, store) for lanes, store in kinds for _ in range(self._commits)]
        self._begun = True

    # --- end ---

    async def settled(self) -> None:
        """Wait until nothing is pending, for up to ``close_timeout``; the queue goes on."""
        if self._is_ours():
            await self._queue.settled_for(self._close_timeout)

    async def aclose(self) -> None:
        """Take no more writes, store what is pending for up to ``close_timeout``, and journal the rest.

        Raises:
            UnavailableError: Something could be neither stored nor journalled.
        """
        if self._is_ours():
            await asyncio.shield(asyncio.wrap_future(self.end()))
        else:
            self._queue.close()

    def _is_ours(self) -> bool:
        """Whether there is anything to end: it was opened, and in this process."""
        return self._opening is not None and self._pid == os.getpid()

    def end(self) -> Future[None]:
        """Begin to close, once for all who ask, on the private loop; waits for nothing."""
        self._queue.close()
        with self._queue.guard:
            if self._ending is None:
                self._ending = _loop.start(self._end)
            return self._ending

    async def _end(self) -> None:
        queue = self._queue
        await queue.settled_for(self._close_timeout)
        for task in (self._later, *(hand.task for hand in queue.hands)):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        _living.discard(self)
        await asyncio.wrap_future(io.submit(queue.spill))

    def abandon(self, then: Callable[[], None]) -> None:
        """The Database was dropped: store what is pending, then call `then`; waits for nothing."""
        if not self._is_ours():
            then()
            return

        def ended(ending: Future[None]) -> None:
            _tell(ending)
            then()

        self.end().add_done_callback(ended)


_living: weakref.WeakSet[Life] = weakref.WeakSet()


def _close_all() -> None:
    """Close whatever nobody has closed, or is still being closed, at the interpreter's end."""
    for ending in [life.end() for life in list(_living) if life._is_ours()]:  # noqa: SLF001  its own module
        _tell(ending)


def _tell(ending: Future[None]) -> None:
    """Wait for an end that nobody else asks about; say so if it failed."""
    if (error := ending.exception()) is not None:
        _log.critical("accepted writes may be lost", exc_info=error)
