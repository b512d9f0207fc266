"""Messages by their ids: an id's row tells the seq, under which the message stands."""
# ruff: noqa: S608  statements are made of constants and of what `literals` has written

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, TypeAlias

from agentstore import rules
from agentstore.drivers.sql import rows
from agentstore.records import utcnow

from . import heads
from .literals import MOST, listed, literal, portions
from .records import id_of, messages_of
from .schema import HEAD, HEAD_COLUMNS, ID, MESSAGE, MESSAGE_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from agentstore.protocol import Find, Outcome
    from agentstore.records import Message

    from .heads import Known
    from .link import Link, Row

_TOGETHER = 50  # conditions in one statement
_SEQS = MOST // _TOGETHER  # in a condition

Named: TypeAlias = "Collection[tuple[str, str]]"
"""Distinct (session id, message id)."""


async def look(link: Link, columns: str, session_ids: Iterable[str], named: Named, also: str = "") -> list[Row]:
    """What counts of the heads of sessions, the ids that are named, and what `also` adds to the condition."""
    keys = sorted({rows.id_key(*name) for name in named})
    conditions = [f" OR kind = {ID} AND num IN {listed(part)}" for part in portions(keys)] or [""]
    conditions[0] += also
    among = listed(sorted(session_ids))
    found: list[Row] = []
    for condition in conditions:
        found += await link.select(
            f"SELECT {columns} FROM agentstore_log WHERE (kind = {HEAD}{condition}) AND session_id IN {among}"
        )
    return heads.newest(found)


def seqs(found: Iterable[Row], named: Named, known: Mapping[str, Known]) -> dict[str, dict[str, int]]:
    """Where the messages are, by session and id, according to rows that `look` gave."""
    places: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for kind, session_id, _, entry, seq, _, deleted, *_ in found:
        if kind != ID:
            continue
        message_id = id_of(entry)
        if not deleted and (session_id, message_id) in named and seq > known[session_id].floor:
            there = places[session_id]
            there[message_id] = min(seq, there.get(message_id, seq))  # of an id stored twice the first one counts
    return places


async def stored(link: Link, places: Mapping[str, Iterable[int]]) -> list[Row]:
    """The rows, of `MESSAGE_COLUMNS`, that stand at some seqs of sessions; those of removed messages are left out."""
    conditions = [_at(name, part) for name in sorted(places) for part in portions(sorted(places[name]), _SEQS)]
    found: list[Row] = []
    for together in portions(conditions, _TOGETHER):
        condition = " OR ".join(together)
        found += await link.select(
            f"SELECT {MESSAGE_COLUMNS} FROM agentstore_log WHERE {condition}"
            " ORDER BY session_id, num, id, version DESC LIMIT 1 BY session_id, num, id"
        )
    return [row for row in found if not row[1]]


async def load(link: Link, places: Mapping[str, Mapping[str, int]]) -> dict[tuple[str, str], Row]:
    """The rows of the messages that `seqs` has found, by session and id."""
    found = await stored(link, {name: set(there.values()) for name, there in places.items()})
    return {(row[0], row[2]): row for row in found if places[row[0]].get(row[2]) == row[3]}


async def find(link: Link, batch: Sequence[Find]) -> list[Outcome[dict[str, Message]]]:
    """First the heads and the ids, then the messages."""
    named = {(op.session_id, message_id) for op in batch for message_id in op.ids}
    session_ids = {op.session_id for op in batch}
    found = await look(link, HEAD_COLUMNS, session_ids, named)
    known = heads.together((row for row in found if row[0] == HEAD), session_ids)
    there = await load(link, seqs(found, named, known))
    now = utcnow()

    def answer(op: Find) -> dict[str, Message]:
        if rules.visible(known[op.session_id].session, op.user_id, now) is None:
            return {}
        wanted = [there[op.session_id, key] for key in op.ids if (op.session_id, key) in there]
        return {message.id: message for message in messages_of(wanted)}

    return rules.each(batch, answer)


def _at(session_id: str, seqs: Iterable[int]) -> str:
    return f"(kind = {MESSAGE} AND session_id = {literal(session_id)} AND num IN {listed(seqs)})"
