"""Connections: opened as the URL says, made to speak our mode, looked after by the pool."""

from __future__ import annotations

import asyncio
import select
import struct
from typing import TYPE_CHECKING, Any

from aiomysql import Connection
from pymysql.constants import CLIENT, COMMAND
from pymysql.err import MySQLError

from agentstore.errors import ConfigurationError, UnavailableError
from agentstore.pool import shut_down

from .errors import RAISED, translated
from .wire import converse

if TYPE_CHECKING:
    import ssl

    from agentstore.options import PoolOptions

    from .settings import Settings

GRACE = 1.0  # seconds that the server may take to tell that a statement took too long
_ANSWER = 1.0  # seconds for a connection that rested to show that it lives
_LATER = 0.5  # seconds: a wait for a lock is told as such before it is told as a statement that took too long
_QUIT = struct.pack("<iB", 1, COMMAND.COM_QUIT)  # a packet
_CLEAR = {"mysql_clear_password", "mysql_old_password"}
_LONGEST_WAIT = 31_536_000  # what lock_wait_timeout takes at most, a year
_LONGEST_MILLIS = 2**32 - 1
_NO_SERVER = (struct.error, IndexError, ValueError, AssertionError)
"""What aiomysql meets where something else than a server answers."""

_SESSION = (
    "SET NAMES utf8mb4",
    # Strict: nothing is cut off in silence. The rest is what `literals` writes for; whatever else is set is gone.
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_BACKSLASH_ESCAPES,NO_ENGINE_SUBSTITUTION'",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",  # no locks on gaps, so hardly any deadlocks
    "SET SESSION autocommit = 1, default_storage_engine = InnoDB",
)
_FACTS = "SELECT @@max_allowed_packet, @@read_only"


class ServerConnection(Connection):  # type: ignore[misc]  # aiomysql has no types
    """A connection of aiomysql that gives no password away, and knows what the server has told it.

    Args:
        settings: Who and how.
        host: Which of the hosts; empty for a socket.
        port: Its port.
        context: For TLS; None for none.
    """

    _reader: Any
    _writer: Any
    _ssl_context: ssl.SSLContext | None

    def __init__(self, settings: Settings, host: str, port: int, context: ssl.SSLContext | None) -> None:
        self._settings = settings
        self._public_key: bytes | None = None
        super().__init__(
            host=host,
            port=port,
            unix_socket=settings.unix_socket,
            user=settings.user,
            # aiomysql encodes it as latin1; what is sent must be its UTF-8, as MySQL's own clients do.
            password=settings.password.encode().decode("latin1"),
            db=settings.database,
            charset="utf8mb4",
            autocommit=None,
            ssl=context,
            program_name="agentstore",
        )
        self.packet_limit = 0
        self.reached: str | None = None  # of a replica: see `following`
        self.read_only = False

    @property
    def is_mariadb(self) -> bool:
        return "mariadb" in str(self.server_version).lower()

    @property
    def has_tls(self) -> bool:
        return self._ssl_context is not None

    async def open(self, options: PoolOptions) -> None:
        """Connect, log in and set up the session, in one round trip more.

        Raises:
            AgentstoreError, pymysql.err.Error: Whatever went wrong; nothing stays open.
        """
        try:
            await self._connect()
            facts = await converse(self, self._setup(options), options.connect_timeout)
        except BaseException:
            self.close()
            raise
        ((limit, read_only),) = facts[-1]  # type: ignore[misc]  # rows, for it is a SELECT
        self.packet_limit = int(limit)
        self.read_only = str(read_only) not in {"0", "OFF"}

    def _setup(self, options: PoolOptions) -> bytes:
        seconds = options.statement_timeout
        wait = min(max(1, round(seconds)), _LONGEST_WAIT)
        millis = min(round((seconds + _LATER) * 1000), _LONGEST_MILLIS)
        limits = [
            f"SET SESSION innodb_lock_wait_timeout = {wait}, lock_wait_timeout = {wait}",  # rows, tables
            # and of a list of 1,000 ids or more it would make a table to join: 1.4 s for an append that takes 0.03
            f"SET SESSION max_statement_time = {millis / 1000}, in_predicate_conversion_threshold = 0"
            if self.is_mariadb
            else f"SET SESSION max_execution_time = {millis}",
        ]
        return ";".join((*_SESSION, *limits, _FACTS)).encode()

    def close(self) -> None:
        """Close the socket now: a farewell of TLS would take a round trip, and perhaps outlive the loop."""
        writer, self._writer, self._reader = self._writer, None, None
        if writer is not None:
            writer.transport.abort()

    async def ensure_closed(self) -> None:
        """Say goodbye, and close."""
        if self._writer is not None:
            self._writer.write(_QUIT)
            self.close()
            await asyncio.sleep(0)  # the loop lets go of the socket

    async def _request_authentication(self) -> None:
        if self._ssl_context is not None and not self.server_capabilities & CLIENT.SSL:
            if self._settings.tls.insists:
                raise ConfigurationError(
                    f"{self._settings.name}: the server offers no TLS, but ssl-mode={self._settings.tls.value}",
                    hint="Set the server's certificate up, or use ssl-mode=DISABLED on a network that you trust",
                )
            self._ssl_context = None  # PREFERRED, as MySQL's own clients understand it
            self.client_flag &= ~CLIENT.SSL
        self._refuse_clear(self._server_auth_plugin)
        await super()._request_authentication()

    async def _process_auth(self, plugin_name: bytes, auth_packet: Any) -> Any:
        self._refuse_clear(plugin_name.decode(errors="replace"))
        return await super()._process_auth(plugin_name, auth_packet)

    def _refuse_clear(self, plugin: str) -> None:
        """Never send the password as it is, or nearly so, where anybody could listen."""
        if plugin in _CLEAR and self._ssl_context is None and not self._unix_socket:
            raise ConfigurationError(
                f"{self._settings.name}: the server asks for the password in clear, without TLS",
                hint="Use ssl-mode=VERIFY_IDENTITY",
            )

    @property
    def server_public_key(self) -> bytes | None:
        """Read by aiomysql only where the password is about to go out without TLS, encrypted with this key."""
        if not self._settings.asks_for_key:
            raise ConfigurationError(
                f"{self._settings.name}: the account's authentication needs TLS, or else the server's public key, for "
                "which nobody vouches",
                hint="Use TLS (ssl-mode=REQUIRED), or on a network that you trust get-server-public-key=true",
            )
        return self._public_key

    @server_public_key.setter
    def server_public_key(self, key: bytes | None) -> None:
        self._public_key = key


class Connector:
    """Opens connections for a pool: to the first host that answers and takes writes.

    Args:
        settings: Where and how.
        options: The time limits.
    """

    def __init__(self, settings: Settings, options: PoolOptions) -> None:
        self._settings = settings
        self._options = options
        self._context: ssl.SSLContext | None = None
        self._has_context = False

    async def connect(self, *_: Any, **__: Any) -> ServerConnection:
        """A connection that is ready; SQLAlchemy's arguments do not matter.

        Raises:
            ConfigurationError: User, password, database or TLS settings are wrong.
            UnavailableError: No host answers, or none takes writes.
        """
        if not self._has_context:
            self._context, self._has_context = self._settings.context(), True
        hosts = self._settings.hosts or (("", 0),)
        error: UnavailableError | None = None
        for host, port in hosts:
            connection = ServerConnection(self._settings, host, port, self._context)
            try:
                await self._open(connection)
            except UnavailableError as unavailable:
                error = error or unavailable
                continue
            if not connection.read_only or len(hosts) == 1:  # a lone one may be read from
                return connection
            connection.close()
            error = error or UnavailableError(
                f"{self._settings.name}: no host takes writes: those that answer are read-only",
                hint="Name all members of the cluster, the primary among them",
                answered=True,
            )
        assert error is not None  # noqa: S101  there is a host
        raise error

    async def _open(self, connection: ServerConnection) -> None:
        name = self._settings.name
        try:
            async with asyncio.timeout(self._options.connect_timeout / max(1, len(self._settings.hosts))):
                await connection.open(self._options)
        except TimeoutError as error:
            raise UnavailableError(
                f"{name}: {connection.host or 'the socket'} does not answer in time",
                hint="Is the server running, and reachable from here? Else raise PoolOptions.connect_timeout",
            ) from error
        except RAISED as error:
            raise translated(error, name) from error
        except _NO_SERVER as error:
            raise ConfigurationError(
                f"{name}: what answers there is no MySQL or MariaDB ({error})", hint="Correct the host or port"
            ) from error
        except RuntimeError as error:
            if "cryptography" not in str(error):
                raise
            raise ConfigurationError(
                f"{name}: without TLS the account's authentication needs the package cryptography",
                hint="pip install cryptography, or use TLS (ssl-mode=REQUIRED)",
            ) from error


class Care:
    """What `EnginePool` has done to the connections."""

    def is_dead(self, connection: ServerConnection) -> bool:
        """Whether it was closed, here or there. A server says nothing unasked, except that it is going."""
        if connection.closed or connection._reader.at_eof():  # noqa: SLF001  aiomysql's own pool looks there too
            return True
        return _readable(connection._writer.transport)  # noqa: SLF001  likewise

    async def ask(self, connection: ServerConnection) -> bool:
        try:
            await converse(connection, b"DO 0", _ANSWER)
        except (MySQLError, TimeoutError):
            return False
        return True

    def drop(self, connection: ServerConnection) -> None:
        writer = connection._writer  # noqa: SLF001  its close() needs the loop
        connection._writer = connection._reader = None  # noqa: SLF001  likewise
        if writer is not None:
            shut_down(writer.transport)


def _readable(transport: asyncio.BaseTransport) -> bool:
    """Whether the system holds something that the loop has not been told of yet: the end of the stream, that is."""
    peer = transport.get_extra_info("socket")
    if peer is None or peer.fileno() < 0:
        return True
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([peer.fileno()], [], [], 0)[0])
    poll = select.poll()
    poll.register(peer.fileno(), select.POLLIN)
    return bool(poll.poll(0))
