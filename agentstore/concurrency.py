"""What asyncio lacks: a mutex across event loops, and waiting that a cancellation cannot cut short."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import Self, TypeVar

T = TypeVar("T")


class CrossLoopLock:
    """Like `asyncio.Lock`, first come first served, but its users may run on different event loops.

    ``asyncio.Lock`` binds itself to one loop, and ``threading.Lock`` would block the loop that waits for it.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()  # held for a few instructions only, never across an await
        self._owner: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()

    def needs(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether a newcomer could only get the lock after `loop` has run on."""
        with self._guard:
            return self._owner is loop or any(waiter.get_loop() is loop for waiter in self._waiting)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        with self._guard:
            if self._owner is None or self._owner.is_closed():
                self._owner = loop
                return self
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            with self._guard:
                handed_over = waiter not in self._waiting
                if not handed_over:
                    self._waiting.remove(waiter)
            if handed_over:
                self._hand_over()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._hand_over()

    def _hand_over(self) -> None:
        with self._guard:
            self._owner = None
            while self._waiting:
                waiter = self._waiting.popleft()
                loop = waiter.get_loop()
                try:
                    loop.call_soon_threadsafe(_wake, waiter)
                except RuntimeError:  # its loop was closed while it waited
                    continue
                self._owner = loop
                return


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def ended(future: asyncio.Future[T]) -> None:
    """Wait for `future`, however often we are cancelled meanwhile; its result is not our concern."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue


async def uncancelled(future: asyncio.Future[T]) -> T:
    """The future's result, even if we are cancelled meanwhile: the cancellation comes at the next await instead.

    For the one await in which a driver has handed its work over and can no longer take it back.
    """
    cancelled = False
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            cancelled = True
    task = asyncio.current_task()
    if cancelled and task is not None:
        task.uncancel()  # asyncio.timeout() counts: one cancellation must stay one
        task.cancel()
    return future.result()
