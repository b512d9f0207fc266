"""What is done to one session: pop, clear, update, delete, restore; and purging."""
# ruff: noqa: S608  statements are made of constants and of what `literals` has written

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pymysql.err import IntegrityError

from agentstore import codec, rules
from agentstore.drivers.sql import rows
from agentstore.errors import ConflictError
from agentstore.records import Session

from . import sql
from .literals import literal, values
from .transaction import RacedError, messages_of, stored_of
from .wire import answered

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from agentstore.protocol import Change
    from agentstore.records import Message

    from .transaction import Wire

_TOGETHER = 500  # sessions purged in one transaction
_RETIRE = "UPDATE agentstore_sessions SET " + ", ".join(
    f"{name} = NULL" for name in sql.SESSION if name not in {"session_id", "last_seq"}
)


async def pop(wire: Wire, session_id: str, count: int, user_id: str | None) -> list[Message]:
    """Read the newest messages, then remove them."""
    newest = (
        f"SELECT {rows.MESSAGE} FROM agentstore_messages FORCE INDEX (PRIMARY) WHERE session_id = {literal(session_id)}"
        f" ORDER BY seq DESC LIMIT {sql.bounded(count)}"
    )
    here, now, (found,) = await _lock(wire, session_id, newest)
    session = rules.visible(here.session if here else None, user_id, now)
    if session is None:
        return []
    removed = messages_of(found)[::-1]
    if removed:
        await wire.send(
            f"DELETE FROM agentstore_messages WHERE session_id = {literal(session_id)} AND seq >= {removed[0].seq}",
            *sql.touch_heads(wire, [rules.Written(rules.shortened(session, len(removed), now))]),
            sql.COMMIT,
        )
    return removed


async def clear(wire: Wire, session_id: str, user_id: str | None) -> int:
    """Remove all messages, unread."""
    here, now, _ = await _lock(wire, session_id)
    session = rules.visible(here.session if here else None, user_id, now)
    if session is None:
        return 0
    removed: int
    (removed,) = await wire.send(sql.drop([session_id]))
    if removed:
        shortened = rules.shortened(session, removed, now)
        await wire.send(*sql.touch_heads(wire, [rules.Written(shortened)]), sql.COMMIT)
    return removed


async def update(wire: Wire, change: Change) -> Session:
    """Write the session anew."""
    here, now, _ = await _lock(wire, change.session_id)
    session = rules.changed(here.session if here else None, change, now)
    await wire.send(*sql.replace_heads(wire, [rules.Written(session)]), sql.COMMIT)
    return session


async def delete(wire: Wire, session_id: str, user_id: str | None) -> bool:
    """Leave a tombstone with the last seq, also of a session that cannot be read."""
    condition = f"session_id = {literal(session_id)}"
    _, found = await wire.send(
        sql.BEGIN,
        "SELECT user_id, marks FROM agentstore_sessions FORCE INDEX (PRIMARY)"
        f" WHERE {condition} AND updated_at IS NOT NULL AND {sql.LIVE} FOR UPDATE",
    )
    if not found:
        return False
    ((owner, marks),) = found
    rules.check_owner(Session(session_id, owner), user_id)
    retire = f"{_RETIRE}, marks = COALESCE({literal(rows.kept_marks(marks))}, marks) WHERE {condition}"
    await wire.send(sql.drop([session_id]), retire, sql.COMMIT)
    return True


async def restore(wire: Wire, session: Session, messages: Sequence[Message]) -> None:
    """Write session and messages as they are."""
    here, now, _ = await _lock(wire, session.id)
    if here is not None and rules.visible(here.session, None, now) is not None:
        raise ConflictError(f"session {session.id!r} exists")
    last_seq = max(here.last_seq if here else 0, session.last_seq)
    restored = [rules.Written(replace(session, last_seq=last_seq, message_count=len(messages)))]
    try:
        await wire.send(
            *(sql.replace_heads(wire, restored) if here else sql.create_heads(wire, restored)),
            sql.drop([session.id]),
            *sql.put_messages(wire, ((session.id, message) for message in messages)),
            sql.COMMIT,
        )
    except IntegrityError as error:
        if here is None and answered(error) == 0:
            raise RacedError from error
        raise


async def rewrite(wire: Wire, session: Session, messages: Sequence[Message]) -> bool:
    """Update the columns of texts, by primary key."""
    condition = f"session_id = {literal(session.id)}"
    head = dict(zip(sql.SESSION, map(literal, rows.session_row(session)), strict=True))
    _, found = await wire.send(
        sql.BEGIN,
        "SELECT 1 FROM agentstore_sessions FORCE INDEX (PRIMARY)"
        f" WHERE {condition} AND updated_at = {head['updated_at']} FOR UPDATE",
    )
    if not found:
        return False
    await wire.send(
        f"UPDATE agentstore_sessions SET title = {head['title']}, metadata = {head['metadata']} WHERE {condition}",
        *(_rewriting(session.id, message) for message in messages),
        sql.COMMIT,
    )
    return True


def _rewriting(session_id: str, message: Message) -> str:
    seq, message_id, *texts = map(literal, rows.spot_row(session_id, message))
    changes = ", ".join(f"{name} = {text}" for name, text in zip(rows.TEXTS.split(", "), texts, strict=True))
    return (
        f"UPDATE agentstore_messages SET {changes}"
        f" WHERE session_id = {literal(session_id)} AND seq = {seq} AND id = {message_id}"
    )


async def expired(wire: Wire) -> list[list[str]]:
    """The ids of expired sessions, in portions for `purge`."""
    (found,) = await wire.send(
        f"SELECT session_id FROM agentstore_sessions WHERE expires_at <= {sql.CLOCK} ORDER BY session_id"
    )
    ids = [row[0] for row in found]
    return [ids[at : at + _TOGETHER] for at in range(0, len(ids), _TOGETHER)]


async def purge(session_ids: Sequence[str], wire: Wire) -> int:
    """Leave a tombstone of each of these that has still expired."""
    _, found = await wire.send(
        sql.BEGIN,
        "SELECT session_id FROM agentstore_sessions FORCE INDEX (PRIMARY)"
        f" WHERE session_id IN {values(session_ids)} AND expires_at <= {sql.CLOCK} FOR UPDATE",
    )
    ids = [row[0] for row in found]
    if ids:
        await wire.send(sql.drop(ids), f"{_RETIRE} WHERE session_id IN {values(ids)}", sql.COMMIT)
    return len(ids)


async def _lock(wire: Wire, session_id: str, *more: str) -> tuple[rules.Stored | None, datetime, list[Any]]:
    """What is there of a session, without marks, locked; the time; and the results of further statements."""
    _, heads, clock, *found = await wire.send(sql.BEGIN, sql.locked([session_id], rows.SESSION), sql.NOW, *more)
    return (stored_of(heads[0]) if heads else None), codec.from_micros(clock[0][0]), found
