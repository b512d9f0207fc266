"""The connection-pool manager: it owns every pool of the process, one for each (URL, settings, event loop).

A driver hands in its library's own pool as a `NativePool` and asks for connections; this module and `loop_pool` bound
them, let callers wait in order, measure, share a pool between Databases, and close it with its last user or its loop.

A loop that ends (`asyncio.run` and its like) first closes the asynchronous generators begun on it, so each pool begins
one that closes the pool: its connections say goodbye while their loop still runs. Of a loop that was closed without
that, the sockets are shut down when the next pool is made or let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .errors import ClosedError
from .loop_pool import LoopPool, NativePool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .options import PoolOptions
    from .stats import PoolStats
    from .url import StoreURL

__all__ = ["NativePool", "Pools", "shut_down"]

C = TypeVar("C")


class Pools(Generic[C]):
    """A backend's way to its connections: on each event loop to that loop's pool.

    Args:
        url: Where the connections lead.
        options: The bounds. Users of an equal URL with equal options share pools.
        make: Makes the native pool on the running loop, without I/O; equal URLs must make equal ones.
    """

    def __init__(self, url: StoreURL, options: PoolOptions, make: Callable[[], NativePool[C]]) -> None:
        self._url = url
        self._options = options
        self._make = make
        self._key = (url.secret, options)
        self._closed = False

    def connection(self) -> _Use[C]:
        """``async with`` it for a connection of the running loop's pool; callers are served in order.

        Raises:
            PoolTimeoutError: None came free within ``PoolOptions.timeout``.
            UnavailableError: None could be made within ``PoolOptions.connect_timeout``.
            ClosedError: `aclose` was called.
        """
        return _Use(self)

    async def pool(self) -> LoopPool[C]:
        """The running loop's pool."""
        if self._closed:
            raise ClosedError
        key = (self._key, asyncio.get_running_loop())
        pool: LoopPool[C] | None = _registry.pools.get(key)
        if pool is None or self not in pool.users:
            _registry.sweep()
            made: LoopPool[C] = LoopPool(self._url, self._options, self._make, _registry.forget)
            with _registry.guarded():
                if self._closed:  # by another thread, just now
                    raise ClosedError
                pool = _registry.pools.setdefault(key, made)
                pool.users.add(self)
            await pool.begin()
        return pool

    async def aclose(self) -> None:
        """Let go of the pools; those without another user end, when nobody uses or awaits their connections any more.

        That of the running loop is waited for; other loops that run close theirs in their own time. Nobody can say
        when a loop that rests goes on, so the idle connections of such a one end here.
        """
        here = asyncio.get_running_loop()
        self._closed = True
        with _registry.guarded():
            left = _registry.leave(self)
        for pool in left:
            if pool.loop is not here:
                pool.close_soon()
        for pool in left:
            if pool.loop is here:
                await pool.aclose()
        _registry.sweep()

    def close_at_exit(self) -> None:
        """`aclose` for those who cannot await."""
        self._closed = True
        _registry.leave_soon(self)

    def stats(self) -> list[PoolStats]:
        """Figures of the pools in use."""
        with _registry.guarded():
            mine = [pool for pool in _registry.pools.values() if self in pool.users]
        return [pool.stats() for pool in mine if not pool.loop.is_closed()]


class _Use(Generic[C]):
    """One caller's time with a connection."""

    __slots__ = ("_connection", "_native", "_pool", "_pools")

    def __init__(self, pools: Pools[C]) -> None:
        self._pools = pools

    async def __aenter__(self) -> C:
        self._pool = await self._pools.pool()
        self._native, self._connection = await self._pool.acquire()
        return self._connection

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self._native.release(self._connection, error)
        finally:
            await self._pool.leave()


class _Registry:
    """All pools of the process.

    Attributes:
        pools: By URL and options, and by loop.
    """

    def __init__(self) -> None:
        self.pools: dict[Any, LoopPool[Any]] = {}
        self._guard = threading.Lock()  # held for a few instructions: neither across an await, nor for others' code
        self._ending: set[LoopPool[Any]] = set()  # those without users, until their loop has closed them
        self._leaving: deque[Pools[Any]] = deque()

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """While nobody else changes anything."""
        try:
            with self._guard:
                yield
        finally:
            self._let_leave()

    def leave(self, user: Pools[Any]) -> list[LoopPool[Any]]:
        """The pools that have no user left; the guard is held."""
        left = [(key, pool) for key, pool in self.pools.items() if pool.users == {user}]
        for key, _ in left:
            del self.pools[key]
        for pool in self.pools.values():
            pool.users.discard(user)
        self._ending.update(pool for _, pool in left)
        return [pool for _, pool in left]

    def leave_soon(self, user: Pools[Any]) -> None:
        """`leave` and close, for the garbage collector: it may be at work where this very thread holds the guard."""
        self._leaving.append(user)
        self._let_leave()

    def _let_leave(self) -> None:
        while self._leaving and self._guard.acquire(blocking=False):  # whoever holds it comes here next
            try:
                left = [pool for _ in range(len(self._leaving)) for pool in self.leave(self._leaving.popleft())]
            finally:
                self._guard.release()
            for pool in left:
                pool.close_soon()

    def forget(self, pool: LoopPool[Any]) -> None:
        """It has closed its connections."""
        with self.guarded():
            self._ending.discard(pool)

    def sweep(self) -> None:
        """Cut the connections whose loop was closed before it could close them."""
        with self.guarded():
            closed = {pool for pool in (*self.pools.values(), *self._ending) if pool.loop.is_closed()}
            self.pools = {key: pool for key, pool in self.pools.items() if pool not in closed}
            self._ending -= closed
        for pool in closed:
            pool.terminate()

    def after_fork(self) -> None:
        """The connections are the parent's, and must not even be dropped, which would close them."""
        _parents.extend((*self.pools.values(), *self._ending))
        self.__init__()  # type: ignore[misc]


_registry = _Registry()
_parents: list[LoopPool[Any]] = []

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_registry.after_fork)


def shut_down(transport: asyncio.BaseTransport | None) -> None:
    """End the connection of a transport whose loop was closed, which can no longer close it."""
    peer = None if transport is None else transport.get_extra_info("socket")
    if peer is not None:
        with contextlib.suppress(OSError):  # it has ended already
            peer.shutdown(socket.SHUT_RDWR)
