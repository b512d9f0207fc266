"""asyncpg by hand: a turn, or a group of them, is one statement, and so one round trip and one transaction.

It looks for the ids and at the sessions' rows in one snapshot, and writes a session only if its row still is the one
that it saw: so no id can have come between.
"""
# ruff: noqa: S608  statements are made of constants and a quoted schema

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import asyncpg

from agentstore.drivers.postgresql.opening import quoted
from agentstore.drivers.postgresql.target import Target

from .sql import BARE, COLUMNS, MESSAGE, KnownError, messages, micros, row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentstore.records import Message
    from agentstore.url import StoreURL

    from . import Raw, Turn

_POOL = 10
_TYPES = ("text", "bigint", *("text",) * 8, "bigint")
_NEW = ", ".join(f"n.{name}" for name in COLUMNS.split(", "))
_ARRAYS = ", ".join(f"${place}::{kind}[]" for place, kind in enumerate(_TYPES, 4))


class _PostgreSQL:
    """A pool of ten connections, which are not reset between two uses: nothing is left behind on them.

    Args:
        target: Where to.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._pool: asyncpg.Pool
        self._stored: set[str] = set()
        self._named: set[str] = set()
        schema = quoted(target.schema)
        self._sessions, self._messages = f"{schema}.agentstore_sessions", f"{schema}.agentstore_messages"
        self._state, self._bare = f"{schema}.agentstore_state", f"{schema}.{BARE}"
        self._versions = f"{schema}.agentstore_raw_versions"
        self._append = (
            "WITH turns AS (SELECT t.*, (SELECT xmin::text FROM"
            f" {self._sessions} WHERE session_id = t.session_id) AS version"
            " FROM unnest($2::text[], $3::bigint[]) AS t(session_id, count)),"
            f" new AS (SELECT * FROM unnest({_ARRAYS}) WITH ORDINALITY AS n({COLUMNS}, place)),"
            " known AS (SELECT count(*) AS number FROM new AS n CROSS JOIN LATERAL"
            f" (SELECT session_id, id FROM {self._messages} WHERE id_key = n.id_key OFFSET 0) AS m"
            " WHERE m.session_id = n.session_id AND m.id = n.id),"
            f" heads AS (INSERT INTO {self._sessions} AS s"
            " (session_id, created_at, updated_at, message_count, last_seq)"
            " SELECT session_id, $1, $1, count, count FROM turns WHERE (SELECT number FROM known) = 0"
            ' ORDER BY session_id COLLATE "C"'
            " ON CONFLICT (session_id) DO UPDATE SET updated_at = greatest(excluded.updated_at, s.updated_at + 1),"
            " message_count = s.message_count + excluded.message_count, last_seq = s.last_seq + excluded.last_seq"
            " WHERE s.xmin::text = (SELECT version FROM turns WHERE turns.session_id = excluded.session_id)"
            " RETURNING session_id, last_seq),"
            f" added AS (INSERT INTO {self._messages} ({COLUMNS}, seq)"
            f" SELECT {_NEW}, h.last_seq + 1 - row_number() OVER (PARTITION BY n.session_id ORDER BY n.place DESC)"
            " FROM heads AS h JOIN new AS n USING (session_id))"
            " SELECT (SELECT count(*) FROM heads), number FROM known"
        )
        self._last = f"SELECT {MESSAGE} FROM {self._messages} WHERE session_id = $1 ORDER BY seq DESC LIMIT $2"
        self._set = (
            f"INSERT INTO {self._state} (namespace, key, value, version)"
            f" VALUES ($1, $2, $3, nextval('{self._versions}')) ON CONFLICT (namespace, key) DO UPDATE"
            " SET value = excluded.value, version = excluded.version, expires_at = NULL RETURNING version"
        )
        self._get = (
            f"SELECT value FROM {self._state} WHERE namespace = $1 AND key = $2 AND (expires_at IS NULL OR"
            " expires_at > extract(epoch FROM clock_timestamp()) * 1000000)"
        )
        self._insert = (
            f"INSERT INTO {self._bare} ({COLUMNS}) VALUES ({', '.join(f'${n + 1}' for n in range(len(_TYPES)))})"
        )

    groups = 2  # at once: 1.2 times the rate of one, for one is encoded while the server carries out the other

    async def aopen(self) -> None:
        (host, port), *_ = self._target.hosts
        self._pool = await asyncpg.create_pool(
            host=host, port=port, min_size=_POOL, max_size=_POOL, reset=_left, **self._target.arguments()
        )
        await self._pool.execute(f"CREATE SEQUENCE IF NOT EXISTS {self._versions}")
        await self._pool.execute(
            f"CREATE TABLE IF NOT EXISTS {self._bare} AS SELECT {COLUMNS} FROM {self._messages} LIMIT 0"
        )

    async def aclose(self) -> None:
        for table in (self._sessions, self._messages):
            await self._pool.execute(f"DELETE FROM {table} WHERE session_id = ANY($1::text[])", list(self._stored))
        await self._pool.execute(f"DELETE FROM {self._state} WHERE namespace = ANY($1::text[])", list(self._named))
        await self._pool.execute(f"DROP TABLE {self._bare}")
        await self._pool.execute(f"DROP SEQUENCE {self._versions}")
        await self._pool.close()

    async def append(self, session_id: str, messages: Sequence[Message]) -> None:
        await self.append_group([(session_id, messages)])

    async def append_group(self, turns: Sequence[Turn]) -> None:
        ids = [session_id for session_id, _ in turns]
        counts = [len(turn) for _, turn in turns]
        new = zip(*[row(session_id, message) for session_id, turn in turns for message in turn], strict=True)
        columns = list(map(list, new))
        self._stored.update(ids)
        written, known = await self._pool.fetchrow(self._append, micros(), ids, counts, *columns)
        if written != len(turns):
            raise KnownError(f"{known} ids are known, or {len(turns) - written} sessions were written by others")

    async def last(self, session_id: str, limit: int) -> list[Message]:
        return messages(await self._pool.fetch(self._last, session_id, limit))

    async def set(self, namespace: str, key: str, value: Any) -> int:
        self._named.add(namespace)
        version: int = await self._pool.fetchval(self._set, namespace, key, json.dumps(value))
        return version

    async def get(self, namespace: str, key: str) -> Any:
        found = await self._pool.fetchval(self._get, namespace, key)
        return None if found is None else json.loads(found)

    async def insert(self, session_id: str, messages: Sequence[Message]) -> None:
        await self._pool.executemany(self._insert, [row(session_id, message) for message in messages])


async def _left(_: object) -> None:
    """Instead of asyncpg's RESET, which costs a round trip."""


def by_hand(url: StoreURL) -> Raw:
    """For a store of this URL."""
    return _PostgreSQL(Target.of(url))
