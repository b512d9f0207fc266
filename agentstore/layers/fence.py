"""How far a replica must have come to answer this process: past everything that it has written."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING

from agentstore.errors import AgentstoreError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.5  # seconds; a replica nearby is some milliseconds behind
_OLD = 5.0  # seconds after which a position that nobody reaches is taken anew: a failover may have made it void
_PATIENCE = 1.0  # seconds for the primary to tell its position

_log = logging.getLogger("agentstore")


class Pause:
    """A time for which something that was not as hoped is not looked at again; it doubles each time.

    Args:
        clock: Seconds that never step back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._length = 0.0
        self._until = 0.0

    @property
    def is_over(self) -> bool:
        """Whether it may be looked at."""
        return not self._length or self._clock() >= self._until

    def begin(self) -> None:
        """It was not as hoped."""
        self._length = min(2 * self._length, _LONGEST_PAUSE) or _FIRST_PAUSE
        self._until = self._clock() + self._length

    def end(self) -> None:
        """It is."""
        self._length = 0.0


class Fence:
    """Keeps a position of the primary that lies behind all writes of this process, for any thread and loop.

    The primary is asked only when somebody wants to read, once for all writes since the last time. Nobody waits for
    another's look: until it is over there is no position, and reads go to the primary.

    Args:
        look: Asks the primary for its position.
        name: The primary, for messages; without password.
        clock: Seconds that never step back.
    """

    def __init__(
        self, look: Callable[[], Awaitable[str | None]], name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._look = look
        self._name = name
        self._clock = clock
        self._guard = threading.Lock()  # held for a few instructions only, never across an await
        self._writes = 1  # whatever was there before this process began counts as its own
        self._covered = 0  # so many of the writes are before the position
        self._position: str | None = None
        self._taken = 0.0
        self._looker: object = None
        self._looking_until = 0.0
        self._pause = Pause(clock)
        self._told = False

    def wrote(self) -> None:
        """A write has ended, or nobody knows; a position taken before says nothing of it."""
        with self._guard:
            self._writes += 1

    def required(self) -> str | None:
        """What a replica must have reached, after `known` has said that there is something."""
        return self._position

    def lagging(self) -> None:
        """A replica has not reached it."""
        with self._guard:
            if self._clock() >= self._taken + _OLD:
                self._covered = 0

    async def known(self) -> bool:
        """Whether there is a position behind every write that was noted before; the primary is asked if need be."""
        needed = self._writes
        if self._covered >= needed:
            return True
        looker = self._begin()
        if looker is None:
            return False
        try:
            return await self._find_out(looker)
        except AgentstoreError as error:
            self._tell(error)
            return False

    async def look(self) -> None:
        """Ask the primary now.

        Raises:
            AgentstoreError: It will never tell, as things are. (A primary that is away is no news here.)
        """
        looker = self._begin()
        if looker is not None:
            try:
                await self._find_out(looker)
            except UnavailableError as error:
                self._tell(error)

    def _begin(self) -> object:
        """The right to ask; None while somebody else does, unless his loop seems to have stopped, and for a pause."""
        with self._guard:
            now = self._clock()
            if not self._pause.is_over or (self._looker is not None and now < self._looking_until):
                return None
            self._looker, self._looking_until = object(), now + 2 * _PATIENCE
            return self._looker

    async def _find_out(self, looker: object) -> bool:
        covers, position = self._writes, None
        self._pause.begin()
        try:
            async with asyncio.timeout(_PATIENCE):
                position = await self._look()
        except TimeoutError as error:
            raise UnavailableError(f"{self._name} did not tell its position within {_PATIENCE} s") from error
        finally:
            with self._guard:
                if self._looker is looker:
                    self._looker = None
                if position is not None and covers > self._covered:
                    self._covered, self._position, self._taken = covers, position, self._clock()
        if position is None:
            self._tell("it does not say how far it has come")
            return False
        self._pause.end()
        self._told = False
        return True

    def _tell(self, why: object) -> None:
        if not self._told:
            self._told = True
            _log.warning("%s: the replicas cannot be used, all reads go to the primary (%s)", self._name, why)
