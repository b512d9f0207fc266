"""What changes a session: each is one block, whatever it removes."""
# ruff: noqa: S608  statements are made of constants and of what `literals` has written

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agentstore import codec, rules
from agentstore.drivers.sql import rows
from agentstore.errors import ConflictError
from agentstore.protocol import Read
from agentstore.records import utcnow

from . import heads, named, sending, windows
from .cleaning import clean, clean_heads
from .literals import listed, literal, portions
from .numbers import Scale
from .records import id_of, message_rows, messages_of, removed_rows
from .schema import HEAD, ID, INDEX_COLUMNS
from .windows import Reader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentstore.protocol import Change
    from agentstore.records import Message, Session
    from agentstore.rules.sessions import Numbering

    from .heads import Known
    from .link import Link, Row
    from .numbers import Writer

PURGED = 500
"""Sessions that go in one block."""


async def _load(link: Link, writer: Writer, session_id: str, *, counted: bool = False) -> Known:
    known = (await heads.load(link, [session_id], counted=counted))[session_id]
    writer.sent.tell([known])
    return known


def _numbering(writer: Writer, known: Known) -> Numbering:
    """The writer's seqs, above those that may yet be stored."""
    return lambda last, count: writer.seqs(max(last, known.top), count)


async def pop(link: Link, writer: Writer, session_id: str, count: int, user_id: str | None) -> list[Message]:
    """Remove the newest messages, together with what the session becomes by it."""
    known, now = await _load(link, writer, session_id), utcnow()
    session = rules.visible(known.session, user_id, now)
    if session is None or not count:
        return []
    reader = Reader.of(known, Read(session_id, limit=count))
    await windows.read(link, [reader])
    removed = reader.messages()
    if removed:
        version = known.next_version(now)
        changed = rules.shortened(session, len(removed), now, _numbering(writer, known))
        block: list[Row] = [known.head(changed, writer.slot, version)]
        for message_id, seq in await _copies(link, known, removed):
            block += removed_rows(session_id, message_id, seq, version)
        await sending.insert(link, writer.sent, block)
    return removed


async def _copies(link: Link, known: Known, messages: Sequence[Message]) -> list[tuple[str, int]]:
    """Ids and seqs of all rows that hold one of the messages: what two have stored at once is there twice."""
    copies = {(message.id, message.seq or 0) for message in messages}
    ids = {message.id for message in messages}
    for part in portions(sorted({rows.id_key(known.session_id, message_id) for message_id in ids})):
        found = await link.select(
            f"SELECT {INDEX_COLUMNS} FROM agentstore_log WHERE kind = {ID}"
            f" AND session_id = {literal(known.session_id)} AND num IN {listed(part)}"
        )
        for _, _, _, entry, seq, _, deleted, _ in heads.newest(found):
            if not deleted and seq > known.floor and id_of(entry) in ids:
                copies.add((id_of(entry), seq))
    return sorted(copies)


async def clear(link: Link, writer: Writer, session_id: str, user_id: str | None) -> int:
    """Raise the floor above all messages, then empty their rows."""
    known, now = await _load(link, writer, session_id, counted=True), utcnow()
    session = rules.visible(known.session, user_id, now)
    if session is None or not known.count:
        return 0
    changed = rules.shortened(session, known.count, now, _numbering(writer, known))
    row = known.head(changed, writer.slot, known.next_version(now), floor=known.top)
    await sending.insert(link, writer.sent, [row])
    await clean(link, [known])
    return known.count


async def update(link: Link, writer: Writer, change: Change) -> Session:
    """Replace the head."""
    known, now = await _load(link, writer, change.session_id, counted=True), utcnow()
    changed = rules.changed(known.session, change, now)
    await sending.insert(link, writer.sent, [known.head(changed, writer.slot, known.next_version(now))])
    return changed


async def delete(link: Link, writer: Writer, session_id: str, user_id: str | None) -> bool:
    """Leave a tombstone, then empty the rows. A session that cannot be read can be deleted by who gives no user."""
    known, now = await _load(link, writer, session_id), utcnow()
    visible = known.is_live(now) if user_id is None else rules.visible(known.session, user_id, now) is not None
    if visible:
        await _retire(link, writer, [known])
    return visible


async def restore(link: Link, writer: Writer, session: Session, messages: Sequence[Message]) -> None:
    """Write a session as it was elsewhere. What was here under its id is emptied first, for seqs may come again."""
    known, now = await _load(link, writer, session.id), utcnow()
    if rules.visible(known.session, None, now) is not None:
        raise ConflictError(f"session {session.id!r} exists")
    if known.row is not None:
        await clean(link, [known])
    version = known.next_version(now)
    last_seq = max(known.top, session.last_seq)
    block = [row for row in known.tombstones(writer.slot, version, floor=0) if row[2] != writer.slot]
    fresh = replace(known, floor=0, scale=Scale(session.last_seq))
    block.append(fresh.head(replace(session, last_seq=last_seq), writer.slot, version + 1))
    for message in messages:
        block += message_rows(session.id, message, version + 1)
    await sending.insert(link, writer.sent, block)


async def rewrite(link: Link, writer: Writer, session: Session, messages: Sequence[Message]) -> bool:
    """Replace the head and the messages, also those that two processes stored at once.

    What another process has read before, and inserts afterwards, puts its head above this one, with title and metadata
    as they were: nothing here could stop it. Who rewrites looks afterwards, and does it again.
    """
    known = await _load(link, writer, session.id)
    there = known.session
    if there is None or there.updated_at != session.updated_at:
        return False
    version = max(known.version, known.sent_version) + 1  # not the time: what another process does meanwhile counts
    head = replace(there, title=session.title, metadata=session.metadata)
    block = [known.head(head, writer.slot, version)]
    copies = await _copies(link, known, messages) if messages else []
    found = messages_of(await named.stored(link, {session.id: {seq for _, seq in copies if seq > known.floor}}))
    agreeing = {(message.id, message.seq) for message in found}
    texts = {message.id: message for message in messages if (message.id, message.seq) in agreeing}
    for message in found:
        if message.id in texts:
            row, _ = message_rows(session.id, rules.rewritten(message, texts[message.id]), version)
            block.append(row)
    await sending.insert(link, writer.sent, block)
    if set(known.slots) - {writer.slot}:
        await clean_heads(link, known, writer.slot)
    return True


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
    writer.sent.tell(known.values())
    over = [here for here in known.values() if not here.is_gone and not here.is_live(now)]
    if over:
        await _retire(link, writer, over)
    return len(over)


async def _retire(link: Link, writer: Writer, sessions: Sequence[Known]) -> None:
    now = utcnow()
    block = [row for known in sessions for row in known.tombstones(writer.slot, known.next_version(now))]
    await sending.insert(link, writer.sent, block)
    await clean(link, sessions)
