"""Connections on one event loop.

asynch has a pool too, but that one holds its lock while it connects, pings on each release, and forgets a connection
without closing it when whoever acquires it is cancelled.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from typing import TYPE_CHECKING

from asynch.errors import OperationalError
from asynch.proto import connection as asynch

from agentstore.errors import ConfigurationError
from agentstore.pool import shut_down

from .errors import RAISED, translated
from .link import ServerLink

if TYPE_CHECKING:
    from agentstore.options import PoolOptions

    from .link import Connection, Link
    from .target import Target

_PROBE = 2.0  # seconds
_TRUSTED = 5.0  # seconds: a connection that rested longer may have been cut without a sign, and is asked first


class _Member(ServerLink):
    """A connection of the pool."""

    __slots__ = ("connection", "made", "rested")

    def __init__(self, connection: Connection, seconds: float, place: str) -> None:
        super().__init__(connection, seconds, place)
        self.connection = connection
        self.made = self.rested = time.monotonic()

    def is_open(self) -> bool:
        """Whether the socket is open, as far as known; costs no round trip."""
        connection = self.connection
        return bool(
            connection.connected
            and not connection.is_query_executing
            and not connection.reader.reader.at_eof()
            and not connection.writer.writer.transport.is_closing()
        )

    def drop(self) -> None:
        """Let go of the socket without awaiting."""
        if self.connection.connected:
            self.connection.writer.writer.transport.abort()


def _was_cut(error: Exception) -> bool:
    """Whether somebody took the connection, and closed it without a word."""
    return isinstance(error, OperationalError) or isinstance(error.__cause__, (ConnectionResetError, BrokenPipeError))


async def _speaks_tls(host: str, port: int) -> bool:
    """Whether a TLS handshake, which trusts anybody, comes about."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(_PROBE):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    return True


class ConnectionPool:
    """A `NativePool`: idle connections, the last used first."""

    def __init__(self, target: Target, options: PoolOptions) -> None:
        self._target = target
        self._options = options
        self._idle: deque[_Member] = deque()
        self._busy: set[_Member] = set()

    async def acquire(self) -> Link:
        while self._idle:
            member = self._idle.pop()
            if await self._is_fit(member):
                break
            member.drop()
        else:
            member = await self._connect()
        self._busy.add(member)
        return member

    async def _is_fit(self, member: _Member) -> bool:
        now = time.monotonic()
        if not member.is_open() or now - member.made > self._options.max_lifetime:
            return False
        if now - member.rested < _TRUSTED:
            return True
        try:
            return bool(await member.connection.ping())
        except BaseException as error:
            member.drop()
            if isinstance(error, RAISED):
                return False
            raise

    async def _connect(self) -> _Member:
        target = self._target
        target.check_files()
        connection: Connection = asynch.Connection(  # type: ignore[no-untyped-call]
            host=target.host,
            port=target.port,
            user=target.user,
            password=target.password,
            database=target.database,
            client_name="agentstore",
            connect_timeout=self._options.connect_timeout,
            send_receive_timeout=None,  # statements have their own
            sync_request_timeout=self._options.connect_timeout,
            secure=target.tls,
            verify=target.verify,
            ca_certs=target.ca_certs,
        )
        try:
            await connection.connect()
        except RAISED as error:
            if not target.tls and _was_cut(error) and await _speaks_tls(target.host, target.port):
                raise ConfigurationError(
                    f"{target.name}: what answers at this port speaks TLS",
                    hint="Write clickhouses: for it, or give the port of the server's tcp_port",
                ) from error
            raise translated(error, target.name) from error
        return _Member(connection, self._options.statement_timeout, target.name)

    def release(self, connection: Link, error: BaseException | None) -> None:
        member = connection
        if not isinstance(member, _Member):
            raise TypeError(f"{member!r} is not of this pool")
        self._busy.discard(member)
        if not member.is_open():
            member.drop()
            return
        del error  # what it left half done shows in the connection itself
        member.rested = time.monotonic()
        self._idle.append(member)

    async def aclose(self) -> None:
        left = [*self._idle, *self._busy]
        self._idle.clear()
        self._busy.clear()
        for member in left:
            try:
                await member.connection.disconnect()
            except RAISED:
                member.drop()

    def terminate(self) -> None:
        for member in (*self._idle, *self._busy):
            if member.connection.connected:
                shut_down(member.connection.writer.writer.transport)

    def size(self) -> int:
        return len(self._idle) + len(self._busy)
