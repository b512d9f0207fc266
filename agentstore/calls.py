"""The way of every public call down to the stores: how long it took is taken on the way, and how it ended."""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING

from .stats import Meter

if TYPE_CHECKING:
    from .layers.stack import Stack, Stacks
    from .telemetry.watch import Watch


class Calls:
    """What a Database and its scopes share: the way down, and a record of who took it.

    It closes the backends when nobody holds it any more, or the interpreter ends, unless that was done before.
    """

    def __init__(self, stacks: Stacks) -> None:
        self.stacks = stacks
        self.meter = Meter()
        self._watches: tuple[Watch | None, ...] | None = None
        weakref.finalize(self, stacks.abandon)

    def use(self, call: str, size: int = 1, side: int = -1) -> Use:
        """The running loop's way down, for one call.

        Args:
            call: Its name.
            size: How many messages, values or keys it carries.
            side: Of which store: 0 is that of conversations, -1 that of the state.
        """
        if self._watches is None:
            self._watches = self.stacks.watches()
        watch = self._watches[side]
        return Use(self, call) if watch is None else _WatchedUse(self, call, size, watch)


class Use:
    """One call on its way: gives the running loop's `Stack`, and takes the time.

    A class, for a generator first run while its loop shuts down would be reported as never closed.
    """

    __slots__ = ("_call", "_calls", "_start")

    def __init__(self, calls: Calls, call: str) -> None:
        self._calls = calls
        self._call = call

    async def __aenter__(self) -> Stack:
        self._start = time.perf_counter()
        try:
            return await self._calls.stacks.stack()
        except BaseException as error:
            self._record(type(error))
            raise

    async def __aexit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self._record(kind)

    def _record(self, error: type[BaseException] | None) -> float:
        seconds = time.perf_counter() - self._start
        self._calls.meter.record(self._call, seconds, error)
        return seconds


class _WatchedUse(Use):
    """The same, and OpenTelemetry is told."""

    __slots__ = ("_size", "_told", "_watch")

    def __init__(self, calls: Calls, call: str, size: int, watch: Watch) -> None:
        super().__init__(calls, call)
        self._size = size
        self._watch = watch

    async def __aenter__(self) -> Stack:
        self._told = self._watch.begin(self._call, self._size)
        return await super().__aenter__()

    def _record(self, error: type[BaseException] | None) -> float:
        seconds = super()._record(error)
        self._told.end(seconds, error)
        return seconds
