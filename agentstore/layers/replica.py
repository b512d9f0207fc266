"""One replica: whether it is there, and how far it has come."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, TypeVar

from agentstore.errors import ConfigurationError, SchemaError, UnavailableError
from agentstore.stats import ReplicaStats

from .breaker import Breaker
from .fence import Pause

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentstore.protocol import Backend

    from .breaker import Probe
    from .fence import Position

T = TypeVar("T")

UNFIT = (UnavailableError, ConfigurationError, SchemaError)
"""What a replica may raise that says nothing of what was asked: the primary will answer."""

_log = logging.getLogger("agentstore")


class Replica:
    """A replica, as all its readers know it.

    Args:
        name: It, for messages; without password.
        backend: A driver that follows the primary, perhaps within a layer.
        patience: Seconds after which it is taken for dead.
        clock: Seconds that never step back.

    Attributes:
        breaker: Whether it is known to be of no use.
    """

    def __init__(
        self, name: str, backend: Backend, patience: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self.backend = backend
        self.breaker = Breaker(name, 2 * patience, clock, outcome="reads go elsewhere")
        self._patience = patience
        self._fault = ""
        self._reached: Position | None = None  # the last that it was found to have reached
        self._missed = 0  # the writes before the last that it was found not to have reached
        self._pause = Pause(clock)

    # --- what it is asked ---

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
        """Open it, unless that was done, and see whether it has come as far as is required: it raises as `answer`."""

        async def opened(backend: Backend) -> None:
            await backend.aopen()
            await backend.ping()

        await self.answer(opened)

    def failed(self, error: UnavailableError | ConfigurationError | SchemaError, probe: Probe | None = None) -> None:
        """It has raised this instead of an answer: leave it out."""
        if not isinstance(error, UnavailableError):
            if self._fault != str(error):
                self._fault = str(error)
                _log.error("the replica %s cannot be used as it is: %s", self.name, error)
            cause, error = error, UnavailableError(str(error))
            error.__cause__ = cause
        self.breaker.failed(error, probe)

    def stats(self) -> ReplicaStats:
        """Whether reads go to it."""
        error = self.breaker.error
        return ReplicaStats(self.name, in_use=error is None, reason=None if error is None else str(error))

    # --- how far it has come: not to be relied upon, for its server may be another the next time; the driver checks ---

    def reached_for(self, needed: int) -> Position | None:
        """The last position that it has reached, if so many writes lie before it."""
        reached = self._reached
        return reached if reached is not None and reached.covers >= needed else None

    def may_have(self, writes: int) -> bool:
        """Whether it is worth asking for so many writes: not for a while, if it lacked as many just before."""
        return writes < self._missed or self._pause.is_over

    def has(self, position: Position) -> None:
        """It has reached this."""
        if self._reached is None or self._reached.covers < position.covers:
            self._reached = position
        if position.covers >= self._missed:
            self._pause.end()

    def lacks(self, position: Position) -> None:
        """It has not reached this."""
        if self.reached_for(position.covers) is not None:
            self._reached = None
        self._missed = position.covers
        self._pause.begin()
