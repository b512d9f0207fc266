"""One connection to one server."""

from __future__ import annotations

import asyncio
import os
import select
import time
from typing import TYPE_CHECKING, Any

import hiredis
from redis.asyncio.connection import Connection, RedisSSLContext, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError, InvalidResponse  # noqa: A004  the built-in one is another

from agentstore.pool import shut_down

if TYPE_CHECKING:
    from .place import TLS, Address, Login

_PIECE = 2**18  # bytes to ask the stream for
_NOT_YET: Any = object()
_TRUSTED = 2.0  # seconds that an idle connection is believed alive without a ping
_PING_PATIENCE = 1.0  # seconds for its answer; a new connection comes cheaper than waiting longer


class Link:
    """A connection of redis-py, of which commands go out packed, many at a time.

    redis-py never tries a command again here (its connections do not, unless told to, and the client that would is not
    used): whether a command may be sent twice is for its sender to know.

    Args:
        address: Where to.
        login: As whom.
        database: Its number.
        tls: From `tls_context`; None is plain text.
    """

    def __init__(self, address: Address, login: Login, database: int, tls: RedisSSLContext | None) -> None:
        options: dict[str, Any] = {
            "username": login.username,
            "password": login.password,
            "db": database,
            "socket_timeout": None,  # one for each group of commands is set in `Client`
            "socket_connect_timeout": None,  # the same
            "protocol": 2,  # answers of one shape on every server, and none that was not asked for
        }
        self.address = address
        self._connection: Any
        if not address.port:
            self._connection = UnixDomainSocketConnection(path=address.host, **options)
        elif tls is None:
            self._connection = Connection(host=address.host, port=address.port, **options)
        else:
            self._connection = SSLConnection(host=address.host, port=address.port, **options)
            self._connection.ssl_context = tls
        self._replies: Any = None
        self.born = self._used = time.monotonic()

    async def open(self) -> None:
        """Connect, log in, choose the database."""
        await self._connection.connect()
        as_error = self._connection._parser.parse_error  # noqa: SLF001  the map from what a server says to exceptions
        self._replies = hiredis.Reader(protocolError=InvalidResponse, replyError=as_error, notEnoughData=_NOT_YET)
        self.born = self._used = time.monotonic()

    async def exchange(self, packed: bytes, count: int) -> list[Any]:
        """Send commands and read their answers; a server's error is an answer, what is raised ends the connection."""
        # In pieces as they come, and not by redis-py's calls for each command: half the time of a group of many.
        stream, writer = self._connection._reader, self._connection._writer  # noqa: SLF001  it has no other way to them
        if writer is None:
            raise ConnectionError("the connection was closed")
        writer.write(packed)
        await writer.drain()
        take = self._replies.gets
        answers: list[Any] = []
        while len(answers) < count:
            answer = take()
            if answer is _NOT_YET:
                piece = await stream.read(_PIECE)
                if not piece:
                    raise ConnectionError("the server has closed the connection")
                self._replies.feed(piece)
                continue
            if isinstance(answer, ConnectionError):  # it loads its data, say: what it says then is no answer
                raise answer
            answers.append(answer)
        self._used = time.monotonic()
        return answers

    async def alive(self) -> bool:
        """Whether the server is still there: that a socket was closed shows at once; after a while it is asked."""
        transport = self._transport()
        if transport is None or transport.is_closing() or _readable(transport):
            return False
        if time.monotonic() - self._used < _TRUSTED:
            return True
        try:
            async with asyncio.timeout(_PING_PATIENCE):
                return await self.exchange(b"PING\r\n", 1) == [b"PONG"]
        except TimeoutError:
            return False

    async def close(self) -> None:
        """Say goodbye."""
        await self._connection.disconnect()

    def drop(self) -> None:
        """Let go at once."""
        transport = self._transport()
        if transport is not None:
            transport.abort()
        self._forget()

    def terminate(self) -> None:
        """Let go of the socket, from any thread: the loop was closed, or rests."""
        shut_down(self._transport())

    def _forget(self) -> None:
        self._connection._reader = self._connection._writer = None  # noqa: SLF001  else it warns that it is unclosed

    def _transport(self) -> Any:
        writer = self._connection._writer  # noqa: SLF001  it has no other way to its socket
        return None if writer is None else writer.transport


def tls_context(tls: TLS) -> RedisSSLContext:
    """What many connections share: each by itself would read the system's authorities anew."""
    return RedisSSLContext(
        certfile=tls.cert,
        keyfile=tls.key,
        ca_certs=tls.ca,
        cert_reqs="required" if tls.verify else "none",
        check_hostname=tls.verify,
    )


def _readable(transport: asyncio.BaseTransport) -> bool:
    """Whether something has come that nobody asked for: the end, as a rule, which the loop may not have seen yet."""
    descriptor: int = transport.get_extra_info("socket").fileno()
    if descriptor < 0:
        return True
    if os.name != "posix":
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
