"""Appends: look what is there, plan, and insert one block."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from agentstore import rules
from agentstore.errors import CorruptRecordError
from agentstore.records import utcnow

from . import heads, named, sending
from .cleaning import clean
from .literals import listed
from .records import mark_row, message_rows, messages_of
from .schema import HEAD, INDEX_COLUMNS, MARK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentstore.protocol import Append, Outcome
    from agentstore.records import Message

    from .heads import Known
    from .link import Link, Row
    from .place import Place

_Loaded: TypeAlias = "tuple[dict[str, Known], dict[str, dict[str, int]], dict[str, dict[str, int]]]"


async def append(link: Link, here: Place, batch: Sequence[Append]) -> list[Outcome[list[Message]]]:
    """Store the batch; nobody else of this process writes the log meanwhile."""
    known, marks, places = await _load(link, here, batch)
    stored, broken = heads.readable(known, marks)
    if places:
        await _add_messages(link, places, stored, broken)
    now = utcnow()
    planned, written = rules.plan_appends(
        [op for op in batch if op.session_id in stored], stored, now, here.writer.seqs
    )
    if written:
        block: list[Row] = []
        for session_id, entry in written.items():
            session = known[session_id]
            version = session.next_version(now)
            floor = session.top if entry.wipe or session.is_gone else None  # also of what others left behind
            block.append(session.head(entry.session, here.writer.slot, version, floor=floor))
            for message in entry.messages:
                block += message_rows(session_id, message, version)
            block += [mark_row(session_id, *mark) for mark in (entry.marks or {}).items()]
        versions = {session_id: known[session_id].next_version(now) for session_id in written}
        await sending.insert(link, here.writer.sent, block)
        with sending.may_be_stored():
            for session_id, entry in written.items():
                here.recent.keep(known[session_id], entry.session, here.writer.slot, versions[session_id])
            await clean(link, [known[key] for key, entry in written.items() if entry.wipe])
    outcomes = iter(planned)
    return [next(outcomes) if op.session_id in stored else broken[op.session_id] for op in batch]


async def _load(link: Link, here: Place, batch: Sequence[Append]) -> _Loaded:
    """What is known of the sessions, how far the batch's queues have come, and where the named messages seem to be."""
    session_ids = {op.session_id for op in batch}
    names = {(op.session_id, message.id) for op in batch for message in op.messages}
    queues = sorted({op.mark.queue for op in batch if op.mark})
    marked = f" OR kind = {MARK} AND num = 0 AND id IN {listed(queues)}" if queues else ""
    found = await named.look(link, INDEX_COLUMNS, session_ids, names, marked)
    known = heads.together((row for row in found if row[0] == HEAD), session_ids)
    known |= await heads.load(link, [name for name, session in known.items() if not here.recent.recall(session)])
    here.writer.sent.tell(known.values())
    marks: dict[str, dict[str, int]] = {}
    for kind, session_id, _, queue, _, position, *_ in found:
        if kind == MARK:
            marks.setdefault(session_id, {})[queue] = position
    return known, marks, named.seqs(found, names, known)


async def _add_messages(
    link: Link,
    places: dict[str, dict[str, int]],
    stored: dict[str, rules.Stored],
    broken: dict[str, CorruptRecordError],
) -> None:
    for (session_id, message_id), row in (await named.load(link, places)).items():
        if session_id not in stored:
            continue
        try:
            (stored[session_id].messages[message_id],) = messages_of([row])
        except CorruptRecordError as error:
            broken[session_id] = error
            del stored[session_id]
