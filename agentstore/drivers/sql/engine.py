"""SQLAlchemy's pool as a `NativePool`: it opens, keeps and renews connections; statements go to the driver directly."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import event
from sqlalchemy.pool import AsyncAdaptedQueuePool

from agentstore.errors import ConfigurationError

try:
    from sqlalchemy.ext.asyncio import create_async_engine
except ImportError as error:
    raise ConfigurationError(str(error), hint="pip install 'sqlalchemy[asyncio]'") from error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import URL, PoolProxiedConnection
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.pool import ConnectionPoolEntry

    from agentstore.options import PoolOptions

_TRUSTED = 5.0  # seconds: a connection that rested longer may have been cut without a sign, and is asked first

_PARTING = 2.0  # seconds to close all connections in good order


class Driver(Protocol):
    """What a driver's connections need done to them."""

    def is_dead(self, connection: Any) -> bool:
        """Whether the socket is known to be closed; costs no round trip."""

    async def ask(self, connection: Any) -> bool:
        """One round trip: whether there is an answer."""

    def drop(self, connection: Any) -> None:
        """Let go of the socket without awaiting."""


class EnginePool:
    """Connections of one engine; what is acquired is a proxy with the driver's own in ``driver_connection``.

    Args:
        url: For SQLAlchemy.
        options: Size and lifetime.
        driver: How to treat the driver's connections.
        connect_args: For the driver's ``connect``.
        initialize: Whether SQLAlchemy asks a server for its version and settings, and prepares each connection for
            its own types: a dozen statements, which only those who execute through `engine` need.
    """

    def __init__(
        self,
        url: URL,
        options: PoolOptions,
        driver: Driver,
        connect_args: Mapping[str, Any],
        *,
        initialize: bool = True,
    ) -> None:
        self._driver = driver
        self.engine: AsyncEngine = create_async_engine(
            url,
            poolclass=AsyncAdaptedQueuePool,
            pool_size=options.size,
            max_overflow=0,  # the gate in agentstore.pool lets no more than these through
            pool_recycle=options.max_lifetime,
            pool_reset_on_return=None,  # users leave no transaction open, and what failed is thrown away
            connect_args=dict(connect_args),
            _initialize=initialize,  # as sqlalchemy.create_pool_from_url does it
        )
        self._lifetime = options.max_lifetime
        self._open: set[Any] = set()
        self._idle: list[PoolProxiedConnection] = []  # checked out of the pool, which takes a greenlet each time
        pool = self.engine.sync_engine.pool
        event.listen(pool, "connect", self._note)
        for kind in ("close", "close_detached"):
            event.listen(pool, kind, lambda adapted, *_: self._open.discard(adapted.driver_connection))

    def _note(self, adapted: Any, record: ConnectionPoolEntry) -> None:
        self._open.add(adapted.driver_connection)
        record.info["until"] = time.monotonic() + self._lifetime

    async def acquire(self) -> PoolProxiedConnection:
        while True:
            proxy = await self._next()
            try:
                if await self._is_fit(proxy):
                    return proxy
            except BaseException:  # cancelled while it was asked: nobody knows what it will answer
                proxy.invalidate()
                raise
            proxy.invalidate()

    async def _next(self) -> PoolProxiedConnection:
        while self._idle:
            proxy = self._idle.pop()
            if time.monotonic() < proxy.info["until"]:
                return proxy
            proxy.close()  # the pool renews it
        return await self.engine.raw_connection()

    async def _is_fit(self, proxy: PoolProxiedConnection) -> bool:
        if self._driver.is_dead(proxy.driver_connection):
            return False
        if self._is_trusted(proxy) or await self._driver.ask(proxy.driver_connection):
            return True
        rested = [idle for idle in self._idle if not self._is_trusted(idle)]  # whatever befell one befell them all
        self._idle = [idle for idle in self._idle if self._is_trusted(idle)]
        for idle in rested:
            idle.invalidate()
        return False

    @staticmethod
    def _is_trusted(proxy: PoolProxiedConnection) -> bool:
        used = proxy.info.get("used")  # None: it was made just now
        return used is None or time.monotonic() - used < _TRUSTED

    def release(self, connection: PoolProxiedConnection, error: BaseException | None) -> None:
        if error is not None and (_left_amid(error) or self._driver.is_dead(connection.driver_connection)):
            connection.invalidate()
            return
        connection.info["used"] = time.monotonic()
        self._idle.append(connection)

    async def aclose(self) -> None:
        self._let_go()
        with contextlib.suppress(TimeoutError):  # a server that hangs says no goodbye
            async with asyncio.timeout(_PARTING):
                await self.engine.dispose()
        self.terminate()  # also those that somebody has had for too long

    def terminate(self) -> None:
        for connection in tuple(self._open):
            self._driver.drop(connection)
        self._let_go()

    def _let_go(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def size(self) -> int:
        return len(self._open)


def _left_amid(error: BaseException) -> bool:
    """Whether a statement may still be under way: its caller was cancelled, or has given up."""
    return isinstance(error, TimeoutError) or not isinstance(error, Exception)
