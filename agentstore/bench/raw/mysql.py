"""aiomysql by hand: a turn, or a group of them, is two packets of several statements.

The first writes the sessions' rows, which locks them, and looks for the ids; the second adds the messages and commits.
"""
# ruff: noqa: S608  statements are made of constants and of placeholders

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aiomysql
from pymysql.constants import CLIENT

from agentstore.drivers.mysql.settings import settings

from .sql import BARE, COLUMNS, MESSAGE, check_unknown, messages, micros, row

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentstore.drivers.mysql.settings import Settings
    from agentstore.records import Message
    from agentstore.url import StoreURL

    from . import Raw, Turn

_POOL = 10
_WIDTH = len(COLUMNS.split(", "))
_HEAD = "INSERT INTO agentstore_sessions (session_id, created_at, updated_at, message_count, last_seq) VALUES "
_COUNTED = (
    " ON DUPLICATE KEY UPDATE updated_at = GREATEST(VALUES(updated_at), updated_at + 1),"
    " message_count = message_count + VALUES(message_count), last_seq = last_seq + VALUES(last_seq)"
)
_SEQS = "SELECT session_id, last_seq FROM agentstore_sessions FORCE INDEX (PRIMARY) WHERE session_id IN "
_KNOWN = "SELECT session_id, id FROM agentstore_messages FORCE INDEX (agentstore_messages_by_id) WHERE id_key IN "
_ADD = f"INSERT INTO agentstore_messages ({COLUMNS}, seq) VALUES "
_LAST = (
    f"SELECT {MESSAGE} FROM agentstore_messages FORCE INDEX (PRIMARY) WHERE session_id = %s ORDER BY seq DESC LIMIT %s"
)
_SET = (
    "INSERT INTO agentstore_state (namespace, `key`, value, version)"
    " VALUES (%s, %s, %s, LAST_INSERT_ID(UUID_SHORT() & 9223372036854775807)) ON DUPLICATE KEY UPDATE"
    " value = VALUES(value), version = VALUES(version), expires_at = NULL"
)
_GET = (
    "SELECT value FROM agentstore_state FORCE INDEX (PRIMARY) WHERE namespace = %s AND `key` = %s AND"
    " (expires_at IS NULL OR expires_at > TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)))"
)


class _MySQL:
    """A pool of ten connections, for MariaDB too.

    Args:
        known: The URL understood.
    """

    def __init__(self, known: Settings) -> None:
        self._settings = known
        self._pool: aiomysql.Pool
        self._stored: set[str] = set()
        self._named: set[str] = set()

    groups = 2  # at once: 1.3 times the rate of one, for one is encoded while the server carries out the other

    async def aopen(self) -> None:
        known = self._settings
        (host, port), *_ = known.hosts or [("localhost", 0)]
        self._pool = await aiomysql.create_pool(
            host=host,
            port=port,
            unix_socket=known.unix_socket,
            user=known.user,
            password=known.password,
            db=known.database,
            ssl=known.context(),  # used if the server offers TLS, as agentstore does it
            charset="utf8mb4",
            client_flag=CLIENT.MULTI_STATEMENTS,
            autocommit=True,
            init_command="SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
            minsize=_POOL,
            maxsize=_POOL,
        )
        await self._run(f"CREATE TABLE IF NOT EXISTS {BARE} AS SELECT {COLUMNS} FROM agentstore_messages LIMIT 0")

    async def aclose(self) -> None:
        for column, table, found in (
            ("session_id", "sessions", self._stored),
            ("session_id", "messages", self._stored),
            ("namespace", "state", self._named),
        ):
            if found:
                await self._run(f"DELETE FROM agentstore_{table} WHERE {column} IN ({_marks(found)})", list(found))
        await self._run(f"DROP TABLE {BARE}")
        self._pool.close()
        await self._pool.wait_closed()

    async def append(self, session_id: str, messages: Sequence[Message]) -> None:
        await self.append_group([(session_id, messages)])

    async def append_group(self, turns: Sequence[Turn]) -> None:
        turns = sorted(turns, key=lambda turn: turn[0].encode())  # none waits for one who waits for it
        ids, now = [session_id for session_id, _ in turns], micros()
        heads = [value for session_id, turn in turns for value in (session_id, now, now, len(turn), len(turn))]
        new = [row(session_id, message) for session_id, turn in turns for message in turn]
        self._stored.update(ids)
        async with self._pool.acquire() as connection, connection.cursor() as cursor:
            try:
                await cursor.execute(
                    f"BEGIN;{_HEAD}{_places(len(turns), 5)}{_COUNTED};{_SEQS}({_marks(ids)});{_KNOWN}({_marks(new)})",
                    [*heads, *ids, *(found[1] for found in new)],
                )
                await cursor.nextset()
                await cursor.nextset()
                last = {_text(session_id): seq for session_id, seq in await cursor.fetchall()}
                await cursor.nextset()
                known = {(_text(session_id), _text(name)) for session_id, name in await cursor.fetchall()}
                check_unknown(known, new)
                values: list[Any] = []
                start = 0
                for session_id, turn in turns:
                    for place, found in enumerate(new[start : start + len(turn)], last[session_id] - len(turn) + 1):
                        values += found
                        values.append(place)
                    start += len(turn)
                await cursor.execute(f"{_ADD}{_places(len(new), _WIDTH + 1)};COMMIT", values)
                await cursor.nextset()
            except BaseException:
                connection.close()  # which undoes it
                raise

    async def last(self, session_id: str, limit: int) -> list[Message]:
        found = await self._run(_LAST, (session_id, limit))
        return messages(
            (message_id.decode(), seq, role.decode(), *texts, run_id and run_id.decode(), at)
            for message_id, seq, role, *texts, run_id, at in found
        )

    async def set(self, namespace: str, key: str, value: Any) -> int:
        self._named.add(namespace)
        async with self._pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute(_SET, (namespace, key, json.dumps(value)))
            version: int = cursor.lastrowid
            return version

    async def get(self, namespace: str, key: str) -> Any:
        found = await self._run(_GET, (namespace, key))
        return json.loads(found[0][0]) if found else None

    async def insert(self, session_id: str, messages: Sequence[Message]) -> None:
        values = [value for message in messages for value in row(session_id, message)]
        await self._run(f"INSERT INTO {BARE} ({COLUMNS}) VALUES {_places(len(messages), _WIDTH)}", values)

    async def _run(self, statement: str, values: Sequence[Any] = ()) -> Sequence[Any]:
        async with self._pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute(statement, values)
            found: Sequence[Any] = await cursor.fetchall()
            return found


def _marks(items: Iterable[Any]) -> str:
    return ",".join("%s" for _ in items)


def _places(count: int, width: int) -> str:
    return ",".join([f"({','.join(['%s'] * width)})"] * count)


def _text(found: bytes) -> str:
    return found.decode()


def by_hand(url: StoreURL) -> Raw:
    """For a store of this URL."""
    return _MySQL(settings(url))
