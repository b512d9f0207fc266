"""Appends: look what is there, plan, and insert one block."""
# ruff: noqa: S608  statements are made of constants and of what `literals` has written

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from agentstore import rules
from agentstore.drivers.sql import rows
from agentstore.errors import CorruptRecordError
from agentstore.records import utcnow

from . import heads, sending
from .cleaning import clean
from .literals import MOST, listed, literal, portions
from .records import id_of, message_rows, messages_of
from .schema import HEAD, ID, INDEX_COLUMNS, MESSAGE, MESSAGE_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentstore.protocol import Append, Outcome
    from agentstore.records import Message

    from .heads import Known
    from .link import Link, Row
    from .place import Place

_TOGETHER = 50  # conditions in one statement
_SEQS = MOST // _TOGETHER  # in a condition


async def append(link: Link, here: Place, batch: Sequence[Append]) -> list[Outcome[list[Message]]]:
    """Store the batch; nobody else of this process writes the log meanwhile."""
    known, ids = await _load(link, here, batch)
    stored, broken = heads.readable(known)
    if ids:
        await _add_messages(link, ids, stored, broken)
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
        versions = {session_id: known[session_id].next_version(now) for session_id in written}
        await sending.insert(link, here.writer.sent, block)
        with sending.may_be_stored():
            for session_id, entry in written.items():
                here.recent.keep(known[session_id], entry.session, here.writer.slot, versions[session_id])
            await clean(link, [known[key] for key, entry in written.items() if entry.wipe])
    outcomes = iter(planned)
    return [next(outcomes) if op.session_id in stored else broken[op.session_id] for op in batch]


async def _load(link: Link, here: Place, batch: Sequence[Append]) -> tuple[dict[str, Known], dict[str, dict[str, int]]]:
    """What is known of the sessions, and the seqs of those ids that seem to be there."""
    session_ids = {op.session_id for op in batch}
    named = {(op.session_id, message.id) for op in batch for message in op.messages}
    keys = {rows.id_key(*name) for name in named}
    looked = [f" OR kind = {ID} AND num IN {listed(part)}" for part in portions(sorted(keys))] or [""]
    among = listed(sorted(session_ids))
    rows_found: list[Row] = []
    for condition in looked:
        rows_found += await link.select(
            f"SELECT {INDEX_COLUMNS} FROM agentstore_log WHERE (kind = {HEAD}{condition}) AND session_id IN {among}"
        )
    found = heads.newest(rows_found)
    known = heads.together((row for row in found if row[0] == HEAD), session_ids)
    known |= await heads.load(link, [name for name, session in known.items() if not here.recent.recall(session)])
    here.writer.sent.tell(known.values())
    ids: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for kind, session_id, _, entry, seq, _, deleted, _ in found:
        if kind != ID:
            continue
        message_id = id_of(entry)
        if not deleted and (session_id, message_id) in named and seq > known[session_id].floor:
            there = ids[session_id]
            there[message_id] = min(seq, there.get(message_id, seq))  # of an id stored twice the first one counts
    return known, ids


async def _add_messages(
    link: Link,
    ids: dict[str, dict[str, int]],
    stored: dict[str, rules.Stored],
    broken: dict[str, CorruptRecordError],
) -> None:
    conditions = [_named(name, part) for name in sorted(ids) for part in portions(sorted(ids[name].values()), _SEQS)]
    found: list[Row] = []
    for together in portions(conditions, _TOGETHER):
        condition = " OR ".join(together)
        found += await link.select(
            f"SELECT {MESSAGE_COLUMNS} FROM agentstore_log WHERE {condition}"
            " ORDER BY session_id, num, id, version DESC LIMIT 1 BY session_id, num, id"
        )
    for row in found:
        session_id, deleted, message_id, seq = row[:4]
        here = stored.get(session_id)
        if here is None or deleted or ids[session_id].get(message_id) != seq:
            continue
        try:
            (here.messages[message_id],) = messages_of([row])
        except CorruptRecordError as error:
            broken[session_id] = error
            del stored[session_id]


def _named(session_id: str, seqs: Iterable[int]) -> str:
    return f"(kind = {MESSAGE} AND session_id = {literal(session_id)} AND num IN {listed(seqs)})"
