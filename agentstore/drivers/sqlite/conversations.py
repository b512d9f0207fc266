"""The log: functions that run whole on a connection's thread, within a transaction."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agentstore import codec, rules
from agentstore.drivers.sql import rows
from agentstore.errors import ConflictError
from agentstore.records import Session, utcnow

from .isolation import fetched, isolated

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from agentstore.protocol import Append, Change, Find, Head, Listing, Outcome, Read
    from agentstore.records import Message, Page

MAX_INT, MIN_INT = 2**63 - 1, -(2**63)

_TEXTS = rows.TEXTS.split(", ")
_HEAD = f"SELECT {rows.SESSION} FROM agentstore_sessions WHERE session_id = ?"  # noqa: S608  constants, as all below
_HEADS = f"SELECT {rows.HEAD} FROM agentstore_sessions WHERE session_id IN (SELECT value FROM json_each(?))"  # noqa: S608
_PUT_HEAD = (
    f"INSERT INTO agentstore_sessions ({rows.HEAD}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
    " ON CONFLICT (session_id) DO UPDATE SET marks = coalesce(excluded.marks, marks), "
    + ", ".join(f"{name} = excluded.{name}" for name in rows.SESSION.split(", ")[1:])
)
_TOUCH_HEAD = (  # what most appends change: in two thirds of the time that `_PUT_HEAD` takes
    "UPDATE agentstore_sessions SET updated_at = ?, message_count = ?, last_seq = ?, expires_at = ?"
    " WHERE session_id = ?"
)
_NAMED = (
    f"SELECT session_id, {rows.MESSAGE} FROM agentstore_messages"  # noqa: S608
    " WHERE id_key IN (SELECT value FROM json_each(?))"
)
_PUT_MESSAGE = f"INSERT INTO agentstore_messages ({rows.NEW_MESSAGE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
_BETWEEN = f"SELECT {rows.MESSAGE} FROM agentstore_messages WHERE session_id = ? AND seq > ? AND seq < ?"  # noqa: S608
_OLDEST, _NEWEST = f"{_BETWEEN} ORDER BY seq LIMIT ?", f"{_BETWEEN} ORDER BY seq DESC LIMIT ?"
_DROP_FROM = "DELETE FROM agentstore_messages WHERE session_id = ? AND seq >= ?"
_RETIRE = "UPDATE agentstore_sessions SET " + ", ".join(  # noqa: S608
    f"{name} = NULL" for name in rows.SESSION.split(", ") if name not in {"session_id", "last_seq"}
)
_REWRITE_HEAD = "UPDATE agentstore_sessions SET title = ?, metadata = ? WHERE session_id = ? AND updated_at = ?"
_REWRITE = (  # parameters: the texts of `rows.SPOT`, its seq and id, the session
    f"UPDATE agentstore_messages SET {', '.join(f'{name} = ?' for name in _TEXTS)}"  # noqa: S608
    " WHERE seq = ? AND id = ? AND session_id = ?"
)
_MEND_LAST_SEQ = (
    "UPDATE agentstore_sessions SET last_seq ="
    " (SELECT coalesce(max(seq), 0) FROM agentstore_messages AS m WHERE m.session_id = agentstore_sessions.session_id)"
    " WHERE session_id = ? AND typeof(last_seq) <> 'integer'"
)
_OWNER = (  # no more than a deletion needs, so that a session that cannot be read can be deleted
    "SELECT CASE WHEN ? THEN user_id END, session_id, CAST(marks AS BLOB) FROM agentstore_sessions"
    " WHERE session_id = ? AND updated_at IS NOT NULL AND (expires_at IS NULL OR expires_at > ?)"
)


def append(connection: sqlite3.Connection, batch: Sequence[Append]) -> list[Outcome[list[Message]]]:
    """Plan against what is there, then write what the plan says."""
    return isolated(connection, batch, _append)


def _append(connection: sqlite3.Connection, batch: Sequence[Append]) -> list[Outcome[list[Message]]]:
    now = utcnow()
    stored = _stored(connection, {op.session_id for op in batch})
    before = {session_id: here.session for session_id, here in stored.items()}
    keys = {
        (op.session_id, message.id): rows.id_key(op.session_id, message.id) for op in batch for message in op.messages
    }
    named = {name: key for name, key in keys.items() if before[name[0]] is not None}
    for session_id, messages in (_named(connection, named) if named else {}).items():
        stored[session_id].messages = messages
    outcomes, written = rules.plan_appends(batch, stored, now)
    touched: list[rules.Written] = []
    put: list[rules.Written] = []
    for session_id, entry in written.items():
        if entry.wipe:
            _drop(connection, session_id)
        (touched if _is_touched(before[session_id], entry) else put).append(entry)
    connection.executemany(
        _PUT_MESSAGE,
        [
            rows.message_row(session_id, message, keys[session_id, message.id])
            for session_id, entry in written.items()
            for message in entry.messages
        ],
    )
    _touch_heads(connection, touched)
    _put_heads(connection, put)
    return outcomes


def _is_touched(before: Session | None, entry: rules.Written) -> bool:
    """Whether nothing but an activity is new to a session's row."""
    here = before is not None and before.metadata is entry.session.metadata
    return here and entry.marks is None and not entry.wipe


def read(connection: sqlite3.Connection, batch: Sequence[Read]) -> list[Outcome[list[Message]]]:
    """A range scan of the primary key for each, from the end that `limit` counts from."""
    now = utcnow()

    def answer(op: Read) -> list[Message]:
        if rules.visible(_session(connection, op.session_id), op.user_id, now) is None:
            return []
        oldest_first = op.limit is None or op.oldest_first
        above = MIN_INT if op.after is None else bounded(op.after)
        below = MAX_INT if op.before is None else bounded(op.before)
        limit = -1 if op.limit is None else bounded(op.limit)
        values = (op.session_id, above, below, limit)
        found = rows.messages(fetched(connection, _OLDEST if oldest_first else _NEWEST, values, "seq"))
        return found if oldest_first else found[::-1]

    return rules.each(batch, answer)


def find(connection: sqlite3.Connection, batch: Sequence[Find]) -> list[Outcome[dict[str, Message]]]:
    """By the index of ids."""
    now = utcnow()

    def answer(op: Find) -> dict[str, Message]:
        if rules.visible(_session(connection, op.session_id), op.user_id, now) is None:
            return {}
        named = {(op.session_id, message_id): rows.id_key(op.session_id, message_id) for message_id in op.ids}
        return _named(connection, named).get(op.session_id, {})

    return rules.each(batch, answer)


def heads(connection: sqlite3.Connection, batch: Sequence[Head]) -> list[Outcome[Session | None]]:
    """The sessions, each by its primary key."""
    now = utcnow()
    return rules.each(batch, lambda op: rules.visible(_session(connection, op.session_id), op.user_id, now))


def list_sessions(connection: sqlite3.Connection, listing: Listing) -> Page[Session]:
    """A page from the index by time, or by user and time.

    A session in it that cannot be read fails the page, by name: leaving it out would hide it.
    """
    conditions = ["updated_at IS NOT NULL", "(expires_at IS NULL OR expires_at > ?)"]
    values: list[Any] = [codec.to_micros(utcnow())]
    for name, value in (("user_id", listing.user_id), ("agent", listing.agent)):
        if value is not None:
            conditions.append(f"{name} = ?")
            values.append(value)
    if listing.cursor is not None:
        updated_at, session_id = rules.read_cursor(listing.cursor)
        conditions.append("(updated_at, session_id) < (?, ?)")
        values += (bounded(updated_at), session_id)
    sql = (
        f"SELECT {rows.SESSION} FROM agentstore_sessions WHERE {' AND '.join(conditions)}"  # noqa: S608
        " ORDER BY updated_at DESC, session_id DESC LIMIT ?"
    )
    found = fetched(connection, sql, (*values, bounded(listing.limit + 1)), "session_id")
    return rules.page([session for row in found if (session := rows.stored(row).session)], listing.limit)


def pop(connection: sqlite3.Connection, session_id: str, count: int, user_id: str | None) -> list[Message]:
    """Read the newest messages, then remove them."""
    now = utcnow()
    session = rules.visible(_session(connection, session_id), user_id, now)
    if session is None or not count:
        return []
    newest = fetched(connection, _NEWEST, (session_id, MIN_INT, MAX_INT, bounded(count)), "seq")
    removed = rows.messages(newest)[::-1]
    if removed:
        connection.execute(_DROP_FROM, (session_id, removed[0].seq))
        _put_heads(connection, [rules.Written(rules.shortened(session, len(removed), now))])
    return removed


def clear(connection: sqlite3.Connection, session_id: str, user_id: str | None) -> int:
    """Remove all messages, unread."""
    now = utcnow()
    session = rules.visible(_session(connection, session_id), user_id, now)
    removed = 0 if session is None else _drop(connection, session_id)
    if session is not None and removed:
        _put_heads(connection, [rules.Written(rules.shortened(session, removed, now))])
    return removed


def update(connection: sqlite3.Connection, change: Change) -> Session:
    """Write the session anew."""
    session = rules.changed(_session(connection, change.session_id), change, utcnow())
    _put_heads(connection, [rules.Written(session)])
    return session


def delete(connection: sqlite3.Connection, session_id: str, user_id: str | None) -> bool:
    """Leave a tombstone with the last seq, also of a session that cannot be read.

    Where the last seq is unreadable, that of the last message stands in for it.
    """
    values = (user_id is not None, session_id, codec.to_micros(utcnow()))
    found = fetched(connection, _OWNER, values, "session_id")
    if not found:
        return False
    rules.check_owner(Session(session_id, found[0][0]), user_id)
    connection.execute(_MEND_LAST_SEQ, (session_id,))
    _drop(connection, session_id)
    kept = rows.kept_marks(found[0][2])
    connection.execute(f"{_RETIRE}, marks = coalesce(?, marks) WHERE session_id = ?", (kept, session_id))
    return True


def restore(connection: sqlite3.Connection, session: Session, messages: Sequence[Message]) -> None:
    """Write session and messages as they are."""
    here = _stored(connection, [session.id]).get(session.id, rules.Stored())
    if rules.visible(here.session, None, utcnow()) is not None:
        raise ConflictError(f"session {session.id!r} exists")
    _drop(connection, session.id)
    _put_messages(connection, ((session.id, message) for message in messages))
    last_seq = max(here.last_seq, session.last_seq)
    _put_heads(connection, [rules.Written(replace(session, last_seq=last_seq, message_count=len(messages)))])


def rewrite(connection: sqlite3.Connection, session: Session, messages: Sequence[Message]) -> bool:
    """Update the columns of texts, by primary key."""
    row = rows.session_row(session)
    if not connection.execute(_REWRITE_HEAD, (row[3], row[4], session.id, row[6])).rowcount:
        return False
    spots = (rows.spot_row(session.id, message) for message in messages)
    connection.executemany(_REWRITE, ((*texts, seq, message_id, session.id) for seq, message_id, *texts in spots))
    return True


def purge(connection: sqlite3.Connection) -> int:
    """Leave a tombstone of each expired session."""
    now = (codec.to_micros(utcnow()),)
    connection.execute(
        "DELETE FROM agentstore_messages"
        " WHERE session_id IN (SELECT session_id FROM agentstore_sessions WHERE expires_at <= ?)",
        now,
    )
    return connection.execute(f"{_RETIRE} WHERE expires_at <= ?", now).rowcount


def bounded(number: int) -> int:
    """The nearest int that SQLite takes: bounds and limits may be any."""
    return max(MIN_INT, min(number, MAX_INT))


def _session(connection: sqlite3.Connection, session_id: str) -> Session | None:
    found = fetched(connection, _HEAD, (session_id,), "session_id")
    return rows.stored(found[0]).session if found else None


def _stored(connection: sqlite3.Connection, session_ids: Iterable[str]) -> dict[str, rules.Stored]:
    """What is there of each id, without messages."""
    ids = list(session_ids)
    found = {row[0]: rows.stored(row) for row in fetched(connection, _HEADS, (codec.dumps(ids),), "session_id")}
    for session_id in ids:
        if session_id not in found:
            found[session_id] = rules.Stored()
    return found


def _named(connection: sqlite3.Connection, named: Mapping[tuple[str, str], int]) -> dict[str, dict[str, Message]]:
    """The messages of these (session id, message id), whose keys are given, by both."""
    found: dict[str, dict[str, Message]] = {}
    keys = codec.dumps(list(named.values()))
    for session_id, *row in fetched(connection, _NAMED, (keys,), "session_id"):
        if (session_id, row[2]) in named:
            found.setdefault(session_id, {})[row[2]] = rows.messages([row])[0]
    return found


def _put_messages(connection: sqlite3.Connection, added: Iterable[tuple[str, Message]]) -> None:
    connection.executemany(_PUT_MESSAGE, (rows.message_row(session_id, message) for session_id, message in added))


def _touch_heads(connection: sqlite3.Connection, written: Iterable[rules.Written]) -> None:
    connection.executemany(
        _TOUCH_HEAD,
        [
            (
                codec.to_micros(session.updated_at),
                session.message_count,
                session.last_seq,
                rows.micros(session.expires_at),
                session.id,
            )
            for session in (entry.session for entry in written)
        ],
    )


def _put_heads(connection: sqlite3.Connection, written: Iterable[rules.Written]) -> None:
    connection.executemany(_PUT_HEAD, (rows.head_row(entry.session, entry.marks) for entry in written))


def _drop(connection: sqlite3.Connection, session_id: str) -> int:
    """Remove all messages of a session; how many there were."""
    return connection.execute(_DROP_FROM, (session_id, MIN_INT)).rowcount
