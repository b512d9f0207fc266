"""What changes a session: each is one block, whatever it removes."""
# ruff: noqa: S608  statements are made of constants and numbers

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agentstore import codec, rules
from agentstore.errors import ConflictError
from agentstore.protocol import Read
from agentstore.records import utcnow

from . import heads, windows
from .cleaning import clean
from .numbers import Scale
from .records import message_rows, removed_rows
from .schema import COLUMNS, HEAD
from .windows import Reader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentstore.protocol import Change
    from agentstore.records import Message, Session

    from .heads import Known
    from .link import Link, Row
    from .numbers import Writer

_LOG = "agentstore_log"
PURGED = 500
"""Sessions that go in one block."""


async def _load(link: Link, session_id: str, *, counted: bool = False) -> Known:
    return (await heads.load(link, [session_id], counted=counted))[session_id]


async def pop(link: Link, writer: Writer, session_id: str, count: int, user_id: str | None) -> list[Message]:
    """Remove the newest messages, together with what the session becomes by it."""
    known, now = await _load(link, session_id), utcnow()
    session = rules.visible(known.session, user_id, now)
    if session is None or not count:
        return []
    reader = Reader.of(known, Read(session_id, limit=count))
    await windows.read(link, [reader])
    removed = reader.messages()
    if removed:
        version = known.next_version(now)
        changed = rules.shortened(session, len(removed), now, writer.seqs)
        block: list[Row] = [known.head(changed, writer.slot, version)]
        for message in removed:
            block += removed_rows(session_id, message.id, message.seq or 0, version)
        await link.insert(_LOG, COLUMNS, block)
    return removed


async def clear(link: Link, writer: Writer, session_id: str, user_id: str | None) -> int:
    """Raise the floor above all messages, then empty their rows."""
    known, now = await _load(link, session_id, counted=True), utcnow()
    session = rules.visible(known.session, user_id, now)
    if session is None or not known.count:
        return 0
    changed = rules.shortened(session, known.count, now, writer.seqs)
    row = known.head(changed, writer.slot, known.next_version(now), floor=known.last_seq)
    await link.insert(_LOG, COLUMNS, [row])
    await clean(link, [known])
    return known.count


async def update(link: Link, writer: Writer, change: Change) -> Session:
    """Replace the head."""
    known, now = await _load(link, change.session_id, counted=True), utcnow()
    changed = rules.changed(known.session, change, now)
    await link.insert(_LOG, COLUMNS, [known.head(changed, writer.slot, known.next_version(now))])
    return changed


async def delete(link: Link, writer: Writer, session_id: str, user_id: str | None) -> bool:
    """Leave a tombstone, then empty the rows. A session that cannot be read can be deleted by who gives no user."""
    known, now = await _load(link, session_id), utcnow()
    visible = known.is_live(now) if user_id is None else rules.visible(known.session, user_id, now) is not None
    if visible:
        await _retire(link, writer, [known])
    return visible


async def restore(link: Link, writer: Writer, session: Session, messages: Sequence[Message]) -> None:
    """Write a session as it was elsewhere. What was here under its id is emptied first, for seqs may come again."""
    known, now = await _load(link, session.id), utcnow()
    if rules.visible(known.session, None, now) is not None:
        raise ConflictError(f"session {session.id!r} exists")
    if known.row is not None:
        await clean(link, [known])
    version = known.next_version(now)
    last_seq = max(known.last_seq, session.last_seq)
    block = [row for row in known.tombstones(writer.slot, version, floor=0) if row[2] != writer.slot]
    fresh = replace(known, floor=0, scale=Scale(session.last_seq))
    block.append(fresh.head(replace(session, last_seq=last_seq), writer.slot, version + 1))
    for message in messages:
        block += message_rows(session.id, message, version + 1)
    await link.insert(_LOG, COLUMNS, block)


async def expired(link: Link) -> list[str]:
    """The sessions that seem to have expired."""
    found = await link.select(
        f"SELECT session_id FROM agentstore_log WHERE kind = {HEAD} GROUP BY session_id"
        " HAVING argMax(deleted, version) = 0"
        f" AND argMax(expires_at, version) <= {codec.to_micros(utcnow())} ORDER BY session_id"
    )
    return [row[0] for row in found]


async def purge(link: Link, writer: Writer, session_ids: Sequence[str]) -> int:
    """Retire those of them that have expired."""
    known, now = await heads.load(link, session_ids), utcnow()
    over = [here for here in known.values() if not here.is_gone and not here.is_live(now)]
    if over:
        await _retire(link, writer, over)
    return len(over)


async def _retire(link: Link, writer: Writer, sessions: Sequence[Known]) -> None:
    now = utcnow()
    block = [row for known in sessions for row in known.tombstones(writer.slot, known.next_version(now))]
    await link.insert(_LOG, COLUMNS, block)
    await clean(link, sessions)
