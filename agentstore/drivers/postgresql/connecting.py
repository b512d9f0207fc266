"""Opens asyncpg's connections, and looks after them."""

from __future__ import annotations

import asyncio
import select
from typing import TYPE_CHECKING, Any

import asyncpg

from agentstore.errors import ConfigurationError, UnavailableError
from agentstore.pool import shut_down

from .errors import RAISED, translated

if TYPE_CHECKING:
    from asyncio import Transport

    from agentstore.errors import AgentstoreError
    from agentstore.options import PoolOptions

    from .target import Target

ISOLATION = "read committed"
"""What the statements are made for: whoever waits for a lock then sees what its holder has written, and goes on."""

_CACHED_STATEMENTS = 100
_GRACE = 1.0  # seconds by which the server is ahead of us in giving a statement up
_ANSWER = 1.0  # seconds for a connection that rested to show that it lives
_GOODBYE = 0.01  # seconds for asyncpg to close a refused TLS connection, which it does in the background
_MAX_MILLIS = 2**31 - 1

_POOLED, _STANDBY, _READ_ONLY = 1, 2, 4

_HELLO = """\
SELECT FROM generate_series(1,
    CASE WHEN pg_backend_pid() = {pid} THEN 0 * length({settings}) ELSE {pooled} END
    + CASE WHEN pg_is_in_recovery() THEN {standby} ELSE 0 END
    + CASE WHEN current_setting('transaction_read_only') = 'on' THEN {read_only} ELSE 0 END)"""
"""The first statement on a connection, which must not be a prepared one: through a pooler those go astray.

Without preparing, asyncpg shows of an answer nothing but the number of its rows. So that carries the findings. Whoever
has another process before it than the one that said hello talks through a pooler (PgBouncer and its like), where
settings would be left behind for others; else they are made here.
"""


class Connector:
    """Opens connections to a target.

    Args:
        target: Where to.
        options: The time allowed.

    Attributes:
        place: The target for messages.
        pooled: Whether a pooler stands before the server; False until the first connection has told.
        limit: `PoolOptions.statement_timeout` in milliseconds, as the server takes it.
    """

    def __init__(self, target: Target, options: PoolOptions) -> None:
        self.target = target
        self.place = str(target.url)
        self.pooled = False
        self._options = options
        self.limit = str(min(max(int(options.statement_timeout * 1000), 1), _MAX_MILLIS))
        self._settings = " || ".join(
            f"set_config('{name}', '{value}', false)"
            for name, value in {
                "statement_timeout": self.limit,
                "default_transaction_isolation": ISOLATION,
                "idle_in_transaction_session_timeout": self.limit,  # should we vanish amid one: it holds locks
                # A plan made while the tables are empty is kept when they have grown: only indexes will do for ever.
                "enable_seqscan": "off",
                "plan_cache_mode": "force_generic_plan",
                "jit": "off",
            }.items()
        )

    async def connect(self, *, limited: bool = True) -> asyncpg.Connection:
        """A new connection to the first host that is as it should be.

        Args:
            limited: Whether a statement that takes too long is given up on this side too.

        Raises:
            ConfigurationError: Credentials, database, TLS or encoding are not right.
            UnavailableError: No host answers, or none is as it should be.
        """
        target = self.target
        wanted = ["standby", "any"] if target.wanted == "prefer-standby" else [target.wanted]
        tries = [(host, port, kind) for kind in wanted for host, port in target.hosts]
        failed: BaseException | None = None
        for host, port, kind in tries:
            try:
                async with asyncio.timeout(self._options.connect_timeout / len(tries)):
                    connection, found = await self._greeted(host, port, limited=limited)
            except OSError as error:
                failed = error
                continue
            except RAISED as error:
                await asyncio.sleep(_GOODBYE)
                ours = translated(error, self.place)
                if isinstance(ours, UnavailableError):  # it is full, say, or starting up: another need not be
                    failed = error
                    continue
                raise ours from error
            if _suits(found, kind):
                return connection
            connection.terminate()
        if failed is None:
            raise UnavailableError(
                f"{self.place}: no host is {target.wanted}", hint="Is one of the hosts missing, or the primary down?"
            )
        raise self._unreachable(failed) from failed

    def _unreachable(self, error: BaseException) -> AgentstoreError:
        if isinstance(error, TimeoutError):
            return UnavailableError(
                f"{self.place}: no server answered within {self._options.connect_timeout} s",
                hint="Are host and port right, and does a firewall let us through? Else raise "
                "PoolOptions.connect_timeout",
            )
        return translated(error, self.place)

    async def _greeted(self, host: str | None, port: int | None, *, limited: bool) -> tuple[asyncpg.Connection, int]:
        while True:
            prepared = self.target.prepared == "yes" or (self.target.prepared == "auto" and not self.pooled)
            connection = await asyncpg.connect(
                host=host,
                port=port,
                timeout=None,  # the caller's
                command_timeout=self._options.statement_timeout + _GRACE if limited else None,
                statement_cache_size=_CACHED_STATEMENTS if prepared else 0,
                max_cached_statement_lifetime=0,
                **self.target.arguments(),
            )
            try:
                self._check_encoding(connection)
                found = await self._hello(connection)
            except BaseException:
                connection.terminate()
                raise
            self.pooled = bool(found & _POOLED)
            if not (self.pooled and prepared and self.target.prepared == "auto"):
                return connection, found
            connection.terminate()

    def _check_encoding(self, connection: asyncpg.Connection) -> None:
        encoding = connection.get_settings().server_encoding
        if encoding != "UTF8":
            raise ConfigurationError(
                f"{self.place}: the database is encoded in {encoding}, which has not every character",
                hint="Make one in UTF8: CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0",
            )

    async def _hello(self, connection: asyncpg.Connection) -> int:
        answer = await connection.execute(
            _HELLO.format(
                pid=connection.get_server_pid(),
                settings=self._settings,
                pooled=_POOLED,
                standby=_STANDBY,
                read_only=_READ_ONLY,
            )
        )
        return int(answer.rpartition(" ")[2])

    # --- what EnginePool asks of a driver ---

    def is_dead(self, connection: asyncpg.Connection) -> bool:
        """Whether it is closed, or has something to say: the server speaks unasked when it goes, and hardly else."""
        return connection.is_closed() or _is_readable(transport(connection))

    async def ask(self, connection: asyncpg.Connection) -> bool:
        """Whether it answers within a second."""
        try:
            await connection.execute("SELECT", timeout=_ANSWER)
        except RAISED:
            return False
        return True

    def drop(self, connection: asyncpg.Connection) -> None:
        """Shut its socket."""
        shut_down(transport(connection))


def transport(connection: asyncpg.Connection) -> Transport:
    """What a connection sends through: asyncpg has no public way to its socket, nor to TLS."""
    found: Transport = connection._transport  # noqa: SLF001
    return found


def _is_readable(found: Transport) -> bool:
    peer: Any = found.get_extra_info("socket")
    if peer is None or peer.fileno() < 0:
        return True
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(peer, select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([peer], [], [], 0)[0])


def _suits(found: int, wanted: str) -> bool:
    """Whether a server is as ``target_session_attrs`` asks."""
    match wanted:
        case "read-write":
            return not found & (_STANDBY | _READ_ONLY)
        case "read-only":
            return bool(found & (_STANDBY | _READ_ONLY))
        case "primary":
            return not found & _STANDBY
        case "standby":
            return bool(found & _STANDBY)
    return True
