"""The log: what each operation sends to the server."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from agentstore import rules
from agentstore.drivers import optimistic
from agentstore.drivers.sql import rows
from agentstore.errors import ConflictError
from agentstore.protocol import Read
from agentstore.records import Session

from .isolation import failures
from .sessions import MAX_INT, MIN_INT, Sessions, Version, bounded, tombstone
from .statements import LogStatements

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from datetime import datetime

    import asyncpg

    from agentstore.protocol import Append, Change, Find, Head, Listing, Outcome
    from agentstore.records import Message, Page

T = TypeVar("T")

_PURGED = 500  # sessions in one transaction: none should hold its locks for long


class Log:
    """Conversations in the tables of one schema.

    Args:
        schema: Where they are, quoted.
        patience: Seconds after which a write gives up that others keep overtaking.
        place: Which database, for messages; without password.
    """

    def __init__(self, schema: str, patience: float, place: str) -> None:
        self._sql = LogStatements(schema)
        self._sessions = Sessions(self._sql)
        self._patience = patience
        self._place = place

    async def append(self, connection: asyncpg.Connection, batch: Sequence[Append]) -> list[Outcome[list[Message]]]:
        """Each session in one statement with all others, on the condition that it has not changed."""
        return await self._sessions.append(connection, batch, self._patience, failures(connection, self._place))

    async def read(self, connection: asyncpg.Connection, batch: Sequence[Read]) -> list[Outcome[list[Message]]]:
        """A range of the primary key for each; those that count from the old end take a statement of their own."""
        if len(batch) == 1 and (alone := await self._read_one(connection, batch[0])) is not None:
            return [alone]
        oldest = [_range(place, op) for place, op in enumerate(batch) if op.oldest_first]
        newest = [_range(place, op) for place, op in enumerate(batch) if not op.oldest_first]
        found: dict[int, list[Any]] = {}
        for sql, ranges in ((self._sql.newest, newest), (self._sql.oldest, oldest)):
            if ranges:
                for row in await connection.fetch(sql, *map(list, zip(*ranges, strict=True))):
                    found.setdefault(row[0], []).append(row)

        def answer(place: int) -> list[Message]:
            here = found.get(place)
            if here is None:
                return []
            op = batch[place]
            rules.check_owner(Session(op.session_id, here[0][1]), op.user_id)
            return _in_order([row[2:] for row in here if row[2] is not None])

        return rules.each(range(len(batch)), answer)

    async def _read_one(self, connection: asyncpg.Connection, op: Read) -> Outcome[list[Message]] | None:
        """Faster for the reader who is alone; None if there is nothing to see, for which there may be reasons."""
        sql = self._sql.oldest_of_one if op.oldest_first else self._sql.newest_of_one
        found = await connection.fetch(sql, *_range(0, op)[1:], op.user_id)
        return rules.each([found], _in_order)[0] if found else None

    async def find(self, connection: asyncpg.Connection, batch: Sequence[Find]) -> list[Outcome[dict[str, Message]]]:
        """By the index of ids."""
        return await self._sessions.find(connection, batch)

    async def heads(self, connection: asyncpg.Connection, batch: Sequence[Head]) -> list[Outcome[Session | None]]:
        """The sessions, each by its primary key."""
        found = {row[1]: row for row in await connection.fetch(self._sql.heads, [op.session_id for op in batch])}

        def answer(op: Head) -> Session | None:
            row = found.get(op.session_id)
            return None if row is None else rules.visible(rows.stored(row[1:]).session, op.user_id, row[0])

        return rules.each(batch, answer)

    async def list_sessions(self, connection: asyncpg.Connection, listing: Listing) -> Page[Session]:
        """A page from the index by time, or by user and time."""
        conditions = ""
        values: list[Any] = []
        for name, value in (("user_id", listing.user_id), ("agent", listing.agent)):
            if value is not None:
                values.append(value)
                conditions += f" AND {name} = ${len(values)}"
        if listing.cursor is not None:
            values += rules.read_cursor(listing.cursor)
            conditions += f" AND (updated_at, session_id) < (${len(values) - 1}, ${len(values)})"
        sql = self._sql.listing(conditions, len(values) + 1)
        found = await connection.fetch(sql, *values, bounded(listing.limit + 1))
        return rules.page([session for row in found if (session := rows.stored(row).session)], listing.limit)

    async def pop(
        self, connection: asyncpg.Connection, session_id: str, count: int, user_id: str | None
    ) -> list[Message]:
        """Read the newest messages; remove them on the condition that nothing has changed since."""

        async def attempt(stored: rules.Stored, version: Version, now: datetime) -> list[Message] | None:
            session = rules.visible(stored.session, user_id, now)
            if session is None or not count:
                return []
            (removed,) = await self.read(connection, [Read(session_id, limit=count)])
            if not isinstance(removed, list):
                raise removed
            if removed:
                # read after the version: had the session changed between, the version holds no more
                head = rules.shortened(session, len(removed), now)
                if not await self._sessions.cut(connection, rows.head_row(head), version, removed[0].seq):
                    return None
            return removed

        return await self._until_it_holds(connection, session_id, attempt)

    async def clear(self, connection: asyncpg.Connection, session_id: str, user_id: str | None) -> int:
        """Remove all messages, unread."""

        async def attempt(stored: rules.Stored, version: Version, now: datetime) -> int | None:
            session = rules.visible(stored.session, user_id, now)
            removed = 0 if session is None else await connection.fetchval(self._sql.count, session_id)
            if session is None or not removed:
                return 0
            head = rules.shortened(session, removed, now)
            return removed if await self._sessions.cut(connection, rows.head_row(head), version) else None

        return await self._until_it_holds(connection, session_id, attempt)

    async def update(self, connection: asyncpg.Connection, change: Change) -> Session:
        """Write the session anew."""

        async def attempt(stored: rules.Stored, version: Version, now: datetime) -> Session | None:
            session = rules.changed(stored.session, change, now)
            held = await self._sessions.write(connection, [rows.head_row(session)], {change.session_id: version})
            return session if held else None

        return await self._until_it_holds(connection, change.session_id, attempt)

    async def delete(self, connection: asyncpg.Connection, session_id: str, user_id: str | None) -> bool:
        """Leave a tombstone with the last seq, also of a session that cannot be read."""
        attempts = optimistic.Attempts(f"deleting session {session_id!r}", self._patience)
        while True:
            found = await connection.fetchrow(self._sql.owner, session_id)
            if found is None:
                return False
            owner, last_seq, version, marks = found
            rules.check_owner(Session(session_id, owner), user_id)
            if await self._sessions.cut(connection, tombstone(session_id, last_seq, rows.kept_marks(marks)), version):
                return True
            await attempts.again()

    async def restore(self, connection: asyncpg.Connection, session: Session, messages: Sequence[Message]) -> None:
        """Write session and messages as they are, in one transaction."""

        async def attempt(stored: rules.Stored, version: Version, now: datetime) -> bool | None:
            if rules.visible(stored.session, None, now) is not None:
                raise ConflictError(f"session {session.id!r} exists")
            if stored.session is not None:  # expired; its messages may have the very seqs
                await self._sessions.cut(connection, tombstone(session.id, stored.last_seq), version)
                return None
            head = replace(session, last_seq=max(stored.last_seq, session.last_seq), message_count=len(messages))
            return await self._sessions.create(connection, head, version, messages) or None

        await self._until_it_holds(connection, session.id, attempt)

    async def rewrite(self, connection: asyncpg.Connection, session: Session, messages: Sequence[Message]) -> bool:
        """Update the columns of texts, by primary key."""
        return await self._sessions.rewrite(connection, session, messages)

    async def purge(self, connection: asyncpg.Connection) -> int:
        """Leave a tombstone of each expired session, some at a time."""
        purged, last = 0, ""
        while True:
            found = await connection.fetch(self._sql.expired, last, _PURGED)
            if found:
                heads = [tombstone(row[0], row[1]) for row in found]
                versions = {row[0]: row[2] for row in found}
                purged += len(await self._sessions.write(connection, heads, versions, cut=list(versions)))
            if len(found) < _PURGED:
                return purged
            last = found[-1][0]

    async def _until_it_holds(
        self,
        connection: asyncpg.Connection,
        session_id: str,
        attempt: Callable[[rules.Stored, Version, datetime], Awaitable[T | None]],
    ) -> T:
        """What `attempt` makes of a session; None means that another writer came first."""
        attempts = optimistic.Attempts(f"changing session {session_id!r}", self._patience)
        while True:
            done = await attempt(*await self._sessions.load_one(connection, session_id))
            if done is not None:
                return done
            await attempts.again()


def _range(place: int, op: Read) -> tuple[Any, ...]:
    """The values for one place of `LogStatements.newest` and `oldest`."""
    return (
        place,
        op.session_id,
        MIN_INT if op.after is None else bounded(op.after),
        MAX_INT if op.before is None else bounded(op.before),
        None if op.limit is None else bounded(op.limit),
    )


def _in_order(found: Iterable[Sequence[Any]]) -> list[Message]:
    messages = rows.messages(found)
    messages.sort(key=_seq)
    return messages


def _seq(message: Message) -> int:
    return message.seq or 0
