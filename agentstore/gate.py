"""A door for so many at once: callers wait in line before it, and it measures how long."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque

from .concurrency import ended


class Gate:
    """Lets `size` callers of one event loop in at once, first come first served.

    `asyncio.Semaphore` neither measures nor says when all have left.

    Attributes:
        free: Places nobody has.
        waiting: Callers in line.
        waits: Callers so far who had to stand in line.
        wait_total: Seconds that they stood there, together.
        wait_max: Seconds that the longest stood there.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self.free = size
        self.waiting = 0
        self.waits = 0
        self.wait_total = 0.0
        self.wait_max = 0.0
        self._line: deque[asyncio.Future[None]] = deque()
        self._empty: asyncio.Future[None] | None = None

    @property
    def in_use(self) -> int:
        """Places taken. A place that is left goes to the first in line, so while there is a line all are."""
        return self._size - self.free

    async def enter(self, patience: float) -> None:
        """Take a place; `leave` gives it back.

        Raises:
            TimeoutError: None came free within `patience` seconds.
        """
        if self.free:
            self.free -= 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(waiter)
        self.waiting += 1
        start = time.perf_counter()
        try:
            async with asyncio.timeout(patience):
                await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():  # the place came, but we are leaving
                self.leave()
            else:
                with contextlib.suppress(ValueError):  # `leave` has passed us over already
                    self._line.remove(waiter)
            raise
        finally:
            waited = time.perf_counter() - start
            self.waiting -= 1
            self.waits += 1
            self.wait_total += waited
            self.wait_max = max(self.wait_max, waited)

    def leave(self) -> None:
        """Give the place to the first in line."""
        while self._line:
            waiter = self._line.popleft()
            if not waiter.done():  # else it was cancelled just now
                waiter.set_result(None)
                return
        self.free += 1
        if self._empty is not None and not self.in_use:
            _settle(self._empty)

    async def emptied(self, patience: float) -> None:
        """Wait until nobody is inside or in line, at most `patience` seconds, however often we are cancelled."""
        if self.in_use:
            loop = asyncio.get_running_loop()
            self._empty = empty = self._empty or loop.create_future()
            deadline = loop.call_later(patience, _settle, empty)
            await ended(empty)
            deadline.cancel()
            self._empty = None


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
