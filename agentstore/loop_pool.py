"""A driver's own pool on one event loop: bounded, measured, and closed before its loop is."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast

from .concurrency import uncancelled
from .errors import PoolTimeoutError, UnavailableError
from .gate import Gate
from .stats import PoolStats

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from types import AsyncGeneratorType

    from .options import PoolOptions
    from .url import StoreURL

C = TypeVar("C")

_log = logging.getLogger(__name__)
_numbers = itertools.count(1)


class NativePool(Protocol[C]):
    """A pool of a driver's library, used on one event loop only.

    At most ``PoolOptions.size`` connections are acquired at once. A library whose client is a pool by itself, or sends
    many callers' commands over one socket, gives that client to everyone.
    """

    async def acquire(self) -> C:
        """A connection that is alive: a dead one is replaced here, before its caller meets it.

        An `UnavailableError` is `unsent` here, so a driver translates its library's errors before they leave.
        """

    def release(self, connection: C, error: BaseException | None) -> None:
        """Take it back; `error` is what its user met, after which it may be unfit for others."""

    async def aclose(self) -> None:
        """Close all connections; none is in use, unless one was for longer than ``PoolOptions.statement_timeout``."""

    def terminate(self) -> None:
        """Let go of the sockets without awaiting, from any thread: the loop was closed, or rests. See `shut_down`.

        If the loop goes on, `aclose` is called nevertheless.
        """

    def size(self) -> int:
        """Connections open now."""


class LoopPool(Generic[C]):
    """A native pool on its loop, with a gate before it.

    Attributes:
        loop: Its own.
        users: Whose it is.
        over: It is closed, or about to be. Generators of the user, which a loop that ends closes at the same time, may
            still store something; they get a native pool again, and close it behind them.
    """

    def __init__(
        self,
        url: StoreURL,
        options: PoolOptions,
        make: Callable[[], NativePool[C]],
        ended: Callable[[LoopPool[C]], None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.users: set[object] = set()
        self.over = getattr(self.loop, "_asyncgens_shutdown_called", False)  # then it takes no further generator
        self._url = url
        self._options = options
        self._make = make
        self._ended = ended
        self._native: NativePool[C] | None = None
        self._gate = Gate(options.size)
        self._end: AsyncGeneratorType[None, None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._cut = False
        self._pid = os.getpid()
        self._number = next(_numbers)

    async def begin(self) -> None:
        """See to it that the pool ends before its loop does."""
        if self._end is None and not self.over:
            self._end = cast("AsyncGeneratorType[None, None]", self._until_the_loop_ends())
            await anext(self._end)

    async def _until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self.finish()

    async def acquire(self) -> tuple[NativePool[C], C]:
        """A connection, when it is the caller's turn, and where to release it; then `leave`."""
        try:
            await self._gate.enter(self._options.timeout)
        except TimeoutError as error:
            raise PoolTimeoutError(
                f"{self._url}: all {self._options.size} connections stayed in use for {self._options.timeout} s",
                hint="Raise PoolOptions.size or PoolOptions.timeout",
            ) from error
        try:
            native = self._native = self._native or self._make()
            async with asyncio.timeout(self._options.connect_timeout):
                return native, await native.acquire()
        except TimeoutError as error:
            await self.leave()
            raise UnavailableError(
                f"{self._url}: no connection could be made within {self._options.connect_timeout} s",
                hint="Is the server running, and reachable from here? Else raise PoolOptions.connect_timeout",
                unsent=True,
            ) from error
        except UnavailableError as error:
            error.unsent = True
            await self.leave()
            raise
        except BaseException:
            await self.leave()
            raise

    async def leave(self) -> None:
        """Let the next in; the last of those who came after the end closes what was opened for them."""
        self._gate.leave()
        if self.over and not self._gate.in_use and (self._closing is None or self._closing.done()):
            await self.finish()

    async def aclose(self) -> None:
        """Close for good, from its own loop."""
        await self.finish()
        if self._end is not None and not self._end.ag_running:  # else the loop is ending, and sees to it
            await self._end.aclose()

    async def finish(self) -> None:
        """Close the native pool when nobody uses or awaits its connections any more; returns when that is done."""
        self.over = True
        if self._closing is None or self._closing.done():
            if self._native is None and not self._gate.in_use:
                return
            self._closing = self.loop.create_task(self._finish())
        await uncancelled(self._closing)

    async def _finish(self) -> None:
        await self._gate.emptied(self._options.statement_timeout)
        native, self._native = self._native, None
        self._ended(self)
        if native is None or self._pid != os.getpid():
            return
        try:
            await native.aclose()
        except BaseException as error:
            self._cut_off(native)
            if not isinstance(error, Exception):  # the loop ends, and waits no longer
                raise
            if not self._cut:
                _log.warning("%s: its connections could not be closed in good order", self._url, exc_info=True)

    def close_soon(self) -> None:
        """Close from another thread or loop, without waiting."""
        try:
            self.loop.call_soon_threadsafe(self._start_closing)
        except RuntimeError:  # the loop was closed
            self.terminate()
            return
        if not self.loop.is_running() and not self._gate.in_use:  # who knows whether it ever goes on
            self.terminate()

    def _start_closing(self) -> None:
        self._soon = self.loop.create_task(self.aclose())

    def terminate(self) -> None:
        """Cut the connections, unless they were closed."""
        native = self._native
        if native is not None and self._pid == os.getpid():
            self._cut = True
            self._cut_off(native)

    def _cut_off(self, native: NativePool[C]) -> None:
        try:
            native.terminate()
        except Exception:  # noqa: BLE001  others' code, on the way of somebody whom it does not concern
            _log.exception("%s: its connections could not be cut", self._url)

    def stats(self) -> PoolStats:
        """Figures, from any thread."""
        native, gate = self._native, self._gate
        return PoolStats(
            url=str(self._url),
            size=0 if native is None else native.size(),
            in_use=gate.in_use,
            waiting=gate.waiting,
            waits=gate.waits,
            wait_mean=gate.wait_total / gate.waits if gate.waits else 0.0,
            wait_max=gate.wait_max,
            number=self._number,
        )
