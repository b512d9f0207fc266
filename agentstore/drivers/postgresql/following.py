"""How far a primary has come, and whether a standby has come as far.

A position is the cluster's identifier, its timeline and a place in the write-ahead log. Without the first a standby of
another cluster would pass, without the second one that has not taken part in a failover: it may be further on the old
timeline than the new primary is on its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

from agentstore.errors import ConfigurationError, UnavailableError
from agentstore.protocol import LaggingError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg
    from sqlalchemy import PoolProxiedConnection

    from .connecting import Connector

T = TypeVar("T")

_REACHED = "agentstore reached"
_HEADER, _LONG_HEADER = 24, 40  # bytes that a page of the log begins with, and its segment's first

_HERE = """\
SELECT (SELECT system_identifier FROM pg_control_system()), ('x' || left(pg_walfile_name(lsn), 8))::bit(32)::int,
    (lsn - '0/0'::pg_lsn)::bigint, current_setting('wal_block_size')::bigint,
    pg_size_bytes(current_setting('wal_segment_size'))
FROM (SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() END AS lsn OFFSET 0) AS here"""
"""Where the next record will go: behind all that has committed, also with ``synchronous_commit = off``, where a commit
is answered before it is flushed."""

_THERE = """\
SELECT pg_is_in_recovery(), (SELECT system_identifier FROM pg_control_system()),
    (SELECT greatest(timeline_id, min_recovery_end_timeline) FROM pg_control_checkpoint(), pg_control_recovery()),
    (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint"""
"""A standby's timeline is that of its control file, which follows with its next restart point: after a failover it
counts as behind until then."""


class Position(NamedTuple):
    """A place in the log of a cluster."""

    system: int
    timeline: int
    lsn: int

    def __str__(self) -> str:
        return f"{self.system}/{self.timeline}/{self.lsn}"

    @classmethod
    def of(cls, text: str) -> Position:
        """What ``str`` has made of it."""
        return cls(*map(int, text.split("/")))


async def position(connection: asyncpg.Connection) -> str | None:
    """Behind all that this primary has committed; None if it is none."""
    system, timeline, lsn, page, segment = await connection.fetchrow(_HERE)
    return None if lsn is None else str(Position(system, timeline, _end(lsn, page, segment)))


def _end(lsn: int, page: int, segment: int) -> int:
    """Where the last record ends. Behind a page's header there is none yet: no standby would get there by replaying."""
    if lsn % segment == _LONG_HEADER:
        return lsn - _LONG_HEADER
    return lsn - _HEADER if lsn % page == _HEADER else lsn


class Following:
    """What a standby does before it answers.

    Args:
        connector: Opens its connections.
        required: Tells which position it must have reached.
    """

    def __init__(self, connector: Connector, required: Callable[[], str | None]) -> None:
        self._connector = connector
        self._required = required

    async def read(self, proxy: PoolProxiedConnection, function: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """What `function` gives, if the server behind the connection is as far.

        Raises:
            LaggingError: It is not.
            UnavailableError: It is no standby.
            ConfigurationError: It is one of another cluster.
        """
        required = self._required()
        connection: asyncpg.Connection = proxy.driver_connection
        if required is None or proxy.info.get(_REACHED) == required:
            return await function(connection)
        if self._connector.pooled:  # the pooler may know several servers: only a transaction stays on one
            async with connection.transaction(isolation="read_committed", readonly=True):
                await self._check(connection, Position.of(required))
                return await function(connection)
        await self._check(connection, Position.of(required))
        proxy.info[_REACHED] = required
        return await function(connection)

    async def _check(self, connection: asyncpg.Connection, required: Position) -> None:
        standby, *there = await connection.fetchrow(_THERE)
        place = self._connector.place
        if there[0] != required.system:
            raise ConfigurationError(
                f"{place} belongs to another cluster than the primary", hint="Correct the URL in replicas"
            )
        if not standby:
            raise UnavailableError(f"{place} is no standby: it takes writes of its own, or has been promoted")
        _, timeline, lsn = there
        if timeline != required.timeline or lsn is None or lsn < required.lsn:
            raise LaggingError(f"{place} is not as far as the primary was")
