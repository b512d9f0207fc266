"""asynch by hand: one look for the ids and last seqs, then one INSERT of one block, a turn or a group of them.

Into tables like agentstore's, and in its rows: head, messages and ids in one block, which is stored whole or not at
all. Writers wait for one another, as nothing else keeps two from giving the same seq.
"""
# ruff: noqa: S608  statements are made of constants and of what `literals` has written

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from asynch.pool import Pool

from agentstore import codec
from agentstore.drivers.clickhouse import records
from agentstore.drivers.clickhouse.literals import listed, literal
from agentstore.drivers.clickhouse.schema import COLUMNS, HEAD, ID, MESSAGE, MESSAGE_COLUMNS, NEVER, STATE_COLUMNS
from agentstore.drivers.clickhouse.target import target
from agentstore.drivers.sql import rows
from agentstore.records import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentstore.drivers.clickhouse.target import Target
    from agentstore.records import Message
    from agentstore.url import StoreURL

    from . import Raw, Turn

_POOL = 10
_LOG, _STATE, _BARE = "agentstore_raw_log", "agentstore_raw_state", "agentstore_raw_bare"
_BARE_COLUMNS = "session_id, seq, id, role, content, created_at"


class _ClickHouse:
    """A pool of ten connections."""

    def __init__(self, known: Target) -> None:
        self._target = known
        self._slots = asyncio.Semaphore(_POOL)  # asynch's pool raises instead of waiting
        self._writing = asyncio.Lock()

    async def aopen(self) -> None:
        known = self._target
        self._pool = Pool(
            minsize=1,
            maxsize=_POOL,
            host=known.host,
            port=known.port,
            user=known.user,
            password=known.password,
            database=known.database,
            secure=known.tls,
            verify=known.verify,
            ca_certs=known.ca_certs,
        )
        await self._pool.__aenter__()
        await self._drop()
        for table, like in ((_LOG, "agentstore_log"), (_STATE, "agentstore_state")):
            await self._run(f"CREATE TABLE {table} AS {like}")
        await self._run(
            f"CREATE TABLE {_BARE} (session_id String, seq Int64, id String, role String, content String,"
            " created_at Int64) ENGINE = MergeTree ORDER BY tuple()"
        )

    async def aclose(self) -> None:
        await self._drop()
        await self._pool.__aexit__(None, None, None)

    async def _drop(self) -> None:
        for table in (_LOG, _STATE, _BARE):
            await self._run(f"DROP TABLE IF EXISTS {table}")

    async def append(self, session_id: str, messages: Sequence[Message]) -> None:
        await self.append_group([(session_id, messages)])

    async def append_group(self, turns: Sequence[Turn]) -> None:
        names = listed([name for name, _ in turns])
        keys = listed([rows.id_key(name, message.id) for name, messages in turns for message in messages])
        async with self._writing:
            found = await self._run(
                f"SELECT kind, session_id, id, seq, created_at, version FROM {_LOG}"
                f" WHERE (kind = {HEAD} OR (kind = {ID} AND num IN {keys})) AND session_id IN {names}"
            )
            heads: dict[str, tuple[int, int]] = {}
            for kind, name, _, seq, created_at, _ in found:
                if kind == ID:
                    raise RuntimeError(f"an id of {name} is there already")
                heads[name] = max(heads.get(name, (0, 0)), (seq, created_at))
            version, now = time.time_ns() // 1000, datetime.now(UTC)
            block: list[Any] = []
            for name, messages in turns:
                seq, created_at = heads.get(name, (0, version))
                head = Session(
                    name,
                    created_at=codec.from_micros(created_at),
                    updated_at=now,
                    last_seq=seq + len(messages),
                )
                block.append(records.head_row(head, 1, version, 0, 0))
                for place, message in enumerate(messages, seq + 1):
                    block += records.message_rows(name, replace(message, seq=place), version)
            await self._put(f"INSERT INTO {_LOG} ({COLUMNS}) VALUES", block)

    async def last(self, session_id: str, limit: int) -> list[Message]:
        found = await self._run(
            f"SELECT {MESSAGE_COLUMNS} FROM {_LOG} WHERE kind = {MESSAGE} AND session_id = {literal(session_id)}"
            f" ORDER BY num DESC LIMIT {limit}"
        )
        return records.messages_of(reversed(found))

    async def set(self, namespace: str, key: str, value: Any) -> int:
        version = time.time_ns()
        await self._put(
            f"INSERT INTO {_STATE} ({STATE_COLUMNS}) VALUES",
            [(namespace, key, codec.value_to_text(value), version, NEVER, 0)],
        )
        return version

    async def get(self, namespace: str, key: str) -> Any:
        found = await self._run(
            f"SELECT value FROM {_STATE} WHERE namespace = {literal(namespace)} AND key = {literal(key)}"
            " ORDER BY version DESC LIMIT 1"
        )
        return codec.value_from_text(found[0][0]) if found else None

    async def insert(self, session_id: str, messages: Sequence[Message]) -> None:
        await self._put(
            f"INSERT INTO {_BARE} ({_BARE_COLUMNS}) VALUES",
            [
                (
                    session_id,
                    place,
                    one.id,
                    one.role,
                    codec.content_to_text(one.content),
                    codec.to_micros(one.created_at),
                )
                for place, one in enumerate(messages)
            ],
        )

    async def _run(self, statement: str) -> list[Any]:
        async with self._slots, self._pool.connection() as connection, connection.cursor() as cursor:
            await cursor.execute(statement)
            found: list[Any] = await cursor.fetchall()
            return found

    async def _put(self, statement: str, block: Sequence[Any]) -> None:
        async with self._slots, self._pool.connection() as connection, connection.cursor() as cursor:
            await cursor.execute(statement, block)


def by_hand(url: StoreURL) -> Raw:
    """For a store of this URL."""
    return _ClickHouse(target(url))
