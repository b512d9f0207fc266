"""Room for so many writes and bytes at once, for callers on any thread and event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING

from agentstore.errors import QueueFullError

if TYPE_CHECKING:
    from agentstore.options import QueueOptions


class Bounds:
    """Lets in what fits, first come first served: who waits for much is not overtaken by who wants little.

    What is larger than the whole gets in alone, for it must get in at some time.

    Attributes:
        messages: Messages and state writes that are in.
        bytes: Their bytes.
    """

    def __init__(self, options: QueueOptions) -> None:
        self._options = options
        # Held for a few instructions only, and again by its thread if a caller of a closed loop is collected under it.
        self._guard = threading.RLock()
        self._line: deque[tuple[int, int, asyncio.Future[None]]] = deque()
        self.messages = 0
        self.bytes = 0

    def enter_at_once(self, messages: int, size: int) -> bool:
        """Enter if there is room and nobody waits; whether it was so."""
        with self._guard:
            if self._line or not self._fits(messages, size):
                return False
            self._add(messages, size)
            return True

    async def enter(self, messages: int, size: int) -> None:
        """Enter when it is our turn and there is room; `leave` gives it back.

        Raises:
            QueueFullError: There was none within ``QueueOptions.timeout``.
        """
        with self._guard:
            if not self._line and self._fits(messages, size):
                self._add(messages, size)
                return
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            place = (messages, size, turn)
            self._line.append(place)
        try:
            async with asyncio.timeout(self._options.timeout):
                await turn
        except BaseException as error:
            with self._guard:
                waits = place in self._line
                if waits:
                    self._line.remove(place)
                    self._admit()  # those behind may fit
            if not waits:  # the room came as we were leaving
                self.leave(messages, size)
            if isinstance(error, TimeoutError):
                raise self.full() from error
            raise

    def leave(self, messages: int, size: int) -> None:
        """Give room back, from any thread."""
        with self._guard:
            self._add(-messages, -size)
            self._admit()

    def _admit(self) -> None:
        while self._line and self._fits(*self._line[0][:2]):
            *wanted, turn = self._line.popleft()
            with contextlib.suppress(RuntimeError):  # its loop was closed while it waited
                turn.get_loop().call_soon_threadsafe(_wake, turn)
                self._add(*wanted)

    def full(self) -> QueueFullError:
        """What a caller is told who has waited for too long."""
        return QueueFullError(
            f"the write queue stayed full for {self._options.timeout} s: {self.messages:,} messages, "
            f"{self.bytes:,} bytes wait for the backend",
            hint="Slow down, or raise QueueOptions.max_messages, max_bytes or timeout; is the backend well?",
        )

    def _fits(self, messages: int, size: int) -> bool:
        return not self.messages or (
            self.messages + messages <= self._options.max_messages and self.bytes + size <= self._options.max_bytes
        )

    def _add(self, messages: int, size: int) -> None:
        self.messages += messages
        self.bytes += size


def _wake(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
