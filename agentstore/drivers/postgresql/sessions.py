"""Sessions with what belongs to them: loaded in one statement, written in another if nothing has changed between."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias

from agentstore import codec, rules
from agentstore.drivers import optimistic
from agentstore.drivers.recent import Clock, Recent
from agentstore.drivers.sql import rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    import asyncpg

    from agentstore.errors import AgentstoreError
    from agentstore.protocol import Append, Find, Outcome
    from agentstore.records import Message, Session

    from .statements import LogStatements

Version: TypeAlias = str | None
"""Which transaction has written a session's row, as the server tells it; None where there is no row."""

MAX_INT, MIN_INT = 2**63 - 1, -(2**63)

_OFF = 1_000_000  # microseconds that a guessed time may be off
_CHUNK = 64 * 2**20  # characters of messages in one statement; PostgreSQL takes 1 GB
_VERSION, _HEAD, _HEAD_END = 1, 2, 14  # in a row of `LogStatements.load`: the time, a version, a session, a message
_TITLE, _METADATA, _UPDATED_AT = 3, 4, 6  # in a row of `rows.SESSION`
_ID = 2  # in a row of `rows.MESSAGE`
_NO_SPOTS: list[list[Any]] = [[] for _ in rows.SPOT.split(", ")]


class Sessions:
    """The rows of one schema's sessions.

    Args:
        sql: Its statements.
    """

    def __init__(self, sql: LogStatements) -> None:
        self._sql = sql
        self._recent: Recent[Version] = Recent()
        self._clock = Clock()

    async def append(
        self, connection: asyncpg.Connection, batch: Sequence[Append], patience: float, failures: optimistic.Failures
    ) -> list[Outcome[list[Message]]]:
        """Load what the batch touches, or guess it (see `recent`); write each session if it still is as it was."""
        loaded: optimistic.Loaded[Version]
        planned: datetime | None = None

        async def load(part: Sequence[Append]) -> optimistic.Loaded[Version]:
            nonlocal loaded, planned
            planned = self._clock.now()
            guesses = self._recent.guess(part, planned) if planned else {}
            if others := [op for op in part if op.session_id not in guesses] if planned else part:
                loaded = await self.load(connection, others)
            else:
                assert planned is not None  # noqa: S101  else there are others
                loaded = optimistic.Loaded({}, {}, planned)
            planned = loaded.now if guesses else None
            for session_id, (session, version, marks) in guesses.items():
                read = rules.marks_from_text(marks or None)
                loaded.stored[session_id] = rules.Stored(session, session.last_seq, marks=read)
                loaded.versions[session_id] = version
            return loaded

        async def write(
            written: Mapping[str, rules.Written], versions: Mapping[str, Version]
        ) -> dict[str, AgentstoreError | None]:
            heads = [rows.head_row(entry.session, entry.marks) for entry in written.values()]
            added = [rows.message_row(key, message) for key, entry in written.items() for message in entry.messages]
            wiped = [key for key, entry in written.items() if entry.wipe]
            held = await self.write(connection, heads, versions, added=added, cut=wiped, planned=planned)
            for key, version in held.items():
                marks = rules.marks_to_text(loaded.stored[key].marks)
                self._recent.put(written[key].session, version, marks or "")
            missed = written.keys() - held
            for key in missed:
                self._recent.shared(key)
            return dict.fromkeys(missed)

        return await optimistic.append(batch, load, write, patience, failures)

    async def load(self, connection: asyncpg.Connection, batch: Sequence[Append]) -> optimistic.Loaded[Version]:
        """One snapshot of the sessions, the named messages, and the time."""
        stored = {op.session_id: rules.Stored() for op in batch}
        versions: dict[str, Version] = dict.fromkeys(stored)
        named = {(op.session_id, message.id) for op in batch for message in op.messages}
        now, heads, known = await self._snapshot(connection, list(stored), [rows.id_key(*name) for name in named])
        for version, head in heads:
            stored[head[0]] = rows.stored(head)
            versions[head[0]] = version
        for session_id, message in known:
            if (session_id, message[_ID]) in named and stored[session_id].session:
                stored[session_id].messages[message[_ID]] = rows.messages([message])[0]
        return optimistic.Loaded(stored, versions, now)

    async def load_one(self, connection: asyncpg.Connection, session_id: str) -> tuple[rules.Stored, Version, datetime]:
        """What is there of one session, without messages and marks."""
        now, heads, _ = await self._snapshot(connection, [session_id], [])
        if not heads:
            return rules.Stored(), None, now
        ((version, head),) = heads
        return rows.stored(head[:-1]), version, now

    async def find(self, connection: asyncpg.Connection, batch: Sequence[Find]) -> list[Outcome[dict[str, Message]]]:
        """The named messages of the sessions that are there, from one snapshot."""
        ids = list({op.session_id for op in batch})
        named = {(op.session_id, message_id) for op in batch for message_id in op.ids}
        now, heads, known = await self._snapshot(connection, ids, [rows.id_key(*name) for name in named])
        by_id = {head[0]: head[:-1] for _, head in heads}
        found = {(session_id, message[_ID]): message for session_id, message in known}

        def answer(op: Find) -> dict[str, Message]:
            head = by_id.get(op.session_id)
            if head is None or rules.visible(rows.stored(head).session, op.user_id, now) is None:
                return {}
            here = [found[name] for key in op.ids if (name := (op.session_id, key)) in found]
            return {message.id: message for message in rows.messages(here)}

        return rules.each(batch, answer)

    async def _snapshot(
        self, connection: asyncpg.Connection, session_ids: list[str], id_keys: list[int]
    ) -> tuple[datetime, list[tuple[str, Sequence[Any]]], list[tuple[str, Sequence[Any]]]]:
        heads: list[tuple[str, Sequence[Any]]] = []
        known: list[tuple[str, Sequence[Any]]] = []
        for row in await connection.fetch(self._sql.load, session_ids, id_keys):
            if row[0] is not None:
                now = row[0]
            elif row[_HEAD_END] is None:
                heads.append((row[_VERSION], row[_HEAD:_HEAD_END]))
            else:
                known.append((row[_HEAD], row[_HEAD_END:]))
        self._clock.heard(now)
        return now, heads, known

    async def create(
        self, connection: asyncpg.Connection, head: Session, version: Version, messages: Sequence[Message]
    ) -> bool:
        """Write a session with all its messages; whether its version held.

        It is one statement, which waits for no event loop, unless no statement could be that long.
        """
        first, *others = _chunks([rows.message_row(head.id, message) for message in messages]) or [[]]
        heads, versions = [rows.head_row(head)], {head.id: version}
        if not others:
            return bool(await self.write(connection, heads, versions, added=first))
        async with connection.transaction():
            if not await self.write(connection, heads, versions, added=first):
                return False
            for chunk in others:
                await connection.execute(self._sql.add, *_columns(chunk))
        return True

    async def rewrite(self, connection: asyncpg.Connection, session: Session, messages: Sequence[Message]) -> bool:
        """Put other texts in place; whether the session's time still was the same. In one statement, as `create`."""
        row = rows.session_row(session)
        head = session.id, row[_UPDATED_AT], row[_TITLE], row[_METADATA]
        first, *others = _chunks([rows.spot_row(session.id, message) for message in messages]) or [[]]
        if not others:
            return bool(await connection.fetchval(self._sql.rewrite, *head, *(_columns(first) or _NO_SPOTS)))
        async with connection.transaction():
            for chunk in (first, *others):
                if not await connection.fetchval(self._sql.rewrite, *head, *_columns(chunk)):
                    return False
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
        planned: datetime | None = None,
    ) -> dict[str, Version]:
        """Write sessions whose version holds, each whole or not at all; their new versions.

        Args:
            connection: Where to.
            heads: Rows of `rows.HEAD`.
            versions: What was loaded, for each of them.
            added: Rows of `rows.NEW_MESSAGE`.
            cut: Those whose messages go first, ...
            start: ... from this seq on.
            planned: The time, if it was assumed, and with it that none of the messages is there.
        """
        for head in heads:
            self._recent.forget(head[0])
        expected = json.dumps({head[0]: versions[head[0]] for head in heads})
        values: list[Any] = [*_columns(heads), expected]
        if cut:
            values += [list(cut), start]
        if added:
            values += _columns(added)
        if planned is not None:
            values += [codec.to_micros(planned), _OFF]
        sql = self._sql.write(cut=bool(cut), added=bool(added), guessed=planned is not None)
        found = await connection.fetch(sql, *values)
        if found:
            self._clock.heard(codec.from_micros(found[0][0]))
        return {session_id: version for _, session_id, version in found}


def bounded(number: int) -> int:
    """The nearest int that PostgreSQL takes: bounds and limits may be any."""
    return max(MIN_INT, min(number, MAX_INT))


def tombstone(session_id: str, last_seq: int, marks: str | None = None) -> tuple[Any, ...]:
    """The row of a session that is gone; without marks, those that are there are kept."""
    return (session_id, *[None] * 7, last_seq, None, None, marks)


def _columns(found: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    """Rows as arrays; of a column of NULL an empty one, for asyncpg takes half a microsecond for each None in it.

    ``unnest`` fills up what is shorter than the rest.
    """
    columns: list[Sequence[Any]] = [*zip(*found, strict=True)]
    return [() if column.count(None) == len(column) else column for column in columns]


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
