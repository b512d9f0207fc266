"""Sessions with what belongs to them: loaded in one statement, written in another if nothing has changed between."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias

from agentstore import rules
from agentstore.drivers import optimistic
from agentstore.drivers.sql import rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    import asyncpg

    from agentstore.protocol import Append
    from agentstore.records import Message, Session

    from .statements import LogStatements

Version: TypeAlias = str | None
"""Last seq and time of a session's row, as the server writes them; None where there is no row."""

MAX_INT, MIN_INT = 2**63 - 1, -(2**63)

_CHUNK = 64 * 2**20  # characters of messages in one statement; PostgreSQL takes 1 GB
_SESSION_END = 12  # in a row of `LogStatements.load`: the time, a session, a message
_ID = 2  # in a row of `rows.MESSAGE`


class Sessions:
    """The rows of one schema's sessions.

    Args:
        sql: Its statements.
    """

    def __init__(self, sql: LogStatements) -> None:
        self._sql = sql

    async def load(self, connection: asyncpg.Connection, batch: Sequence[Append]) -> optimistic.Loaded[Version]:
        """One snapshot of the sessions, the named messages, and the time."""
        stored = {op.session_id: rules.Stored() for op in batch}
        versions: dict[str, Version] = dict.fromkeys(stored)
        named = {(op.session_id, message.id) for op in batch for message in op.messages}
        now, heads, known = await self._snapshot(connection, list(stored), [rows.id_key(*name) for name in named])
        for head in heads:
            stored[head[0]] = rows.stored(head)
            versions[head[0]] = _version(head)
        for session_id, message in known:
            if (session_id, message[_ID]) in named and stored[session_id].session:
                stored[session_id].messages[message[_ID]] = rows.messages([message])[0]
        return optimistic.Loaded(stored, versions, now)

    async def load_one(self, connection: asyncpg.Connection, session_id: str) -> tuple[rules.Stored, Version, datetime]:
        """What is there of one session, without messages."""
        now, heads, _ = await self._snapshot(connection, [session_id], [])
        return (rows.stored(heads[0]), _version(heads[0]), now) if heads else (rules.Stored(), None, now)

    async def _snapshot(
        self, connection: asyncpg.Connection, session_ids: list[str], id_keys: list[int]
    ) -> tuple[datetime, list[Sequence[Any]], list[tuple[str, Sequence[Any]]]]:
        heads: list[Sequence[Any]] = []
        known: list[tuple[str, Sequence[Any]]] = []
        for row in await connection.fetch(self._sql.load, session_ids, id_keys):
            if row[0] is not None:
                now = row[0]
            elif row[_SESSION_END] is None:
                heads.append(row[1:_SESSION_END])
            else:
                known.append((row[1], row[_SESSION_END:]))
        return now, heads, known

    async def create(
        self, connection: asyncpg.Connection, head: Session, version: Version, messages: Sequence[Message]
    ) -> bool:
        """Write a session with all its messages; whether its version held.

        It is one statement, which waits for no event loop, unless no statement could be that long.
        """
        first, *others = _chunks([rows.message_row(head.id, message) for message in messages]) or [[]]
        heads, versions = [rows.session_row(head)], {head.id: version}
        if not others:
            return bool(await self.write(connection, heads, versions, added=first))
        async with connection.transaction():
            if not await self.write(connection, heads, versions, added=first):
                return False
            for chunk in others:
                await connection.execute(self._sql.add, *_columns(chunk))
        return True

    async def cut(
        self, connection: asyncpg.Connection, head: Sequence[Any], version: Version, first: int | None = None
    ) -> bool:
        """Write one session and remove its messages, all or from seq `first`; whether its version held."""
        start = MIN_INT if first is None else first
        return bool(await self.write(connection, [head], {head[0]: version}, cut=[head[0]], start=start))

    async def write(
        self,
        connection: asyncpg.Connection,
        heads: Sequence[Sequence[Any]],
        versions: Mapping[str, Version],
        *,
        added: Sequence[Sequence[Any]] = (),
        cut: Sequence[str] = (),
        start: int = MIN_INT,
    ) -> set[str]:
        """Write sessions whose version holds, each whole or not at all; their ids.

        Args:
            connection: Where to.
            heads: Rows of `rows.SESSION`.
            versions: What was loaded, for each of them.
            added: Rows of `rows.NEW_MESSAGE`.
            cut: Those whose messages go first, ...
            start: ... from this seq on.
        """
        expected = json.dumps({head[0]: versions[head[0]] for head in heads})
        values: list[Any] = [*_columns(heads), expected]
        if cut:
            values += [list(cut), start]
        if added:
            values += _columns(added)
        sql = self._sql.write(cut=bool(cut), added=bool(added))
        return {row[0] for row in await connection.fetch(sql, *values)}


def bounded(number: int) -> int:
    """The nearest int that PostgreSQL takes: bounds and limits may be any."""
    return max(MIN_INT, min(number, MAX_INT))


def tombstone(session_id: str, last_seq: int) -> tuple[Any, ...]:
    """The row of a session that is gone."""
    return (session_id, *[None] * 7, last_seq, None, None)


def _version(head: Sequence[Any]) -> str:
    """The version of a row of `rows.SESSION`, as the statements write it."""
    last_seq, updated_at = head[8], head[6]
    return f"{last_seq}:{'' if updated_at is None else updated_at}"


def _columns(found: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*found, strict=True)]


def _chunks(added: Iterable[Sequence[Any]]) -> list[list[Sequence[Any]]]:
    chunks: list[list[Sequence[Any]]] = []
    size = _CHUNK
    for row in added:
        if size >= _CHUNK:
            chunks.append([])
            size = 0
        chunks[-1].append(row)
        size += sum(len(value) for value in row if isinstance(value, str))
    return chunks
