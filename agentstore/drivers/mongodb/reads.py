"""Reading: heads first, then messages, of which none may be missing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

from agentstore import codec, rules
from agentstore.errors import AgentstoreError, CorruptRecordError
from agentstore.protocol import Read
from agentstore.records import Session

from . import documents
from .documents import LARGEST_INT, bounded
from .heads import Head, load

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from agentstore.protocol import Find, Listing, Outcome
    from agentstore.protocol import Head as HeadOp
    from agentstore.records import Message, Page

    from .client import Document, Tables

_UNSEEN = {"_id": 0, "session": 0, "log": 0, "token": 0}
_LONGEST_BATCH = 2**31 - 1


async def heads(tables: Tables, now: datetime, batch: Sequence[HeadOp]) -> list[Outcome[Session | None]]:
    """The sessions, in one round trip."""
    found = await load(tables, {op.session_id for op in batch})
    return rules.each(batch, lambda op: rules.visible(found[op.session_id].stored().session, op.user_id, now))


async def find(tables: Tables, now: datetime, batch: Sequence[Find]) -> list[Outcome[dict[str, Message]]]:
    """A round trip for the heads, one for all ids. Of a removal between the two a part may be missing already."""
    found = await load(tables, {op.session_id for op in batch})

    def visible(op: Find) -> Session | None:
        return rules.visible(found[op.session_id].stored().session, op.user_id, now)

    sessions = rules.each(batch, visible)
    ids = {
        (one.id, name) for op, one in zip(batch, sessions, strict=True) if isinstance(one, Session) for name in op.ids
    }
    there = await named(tables, found, ids)

    def answer(pair: tuple[Find, Outcome[Session | None]]) -> dict[str, Message]:
        op, session = pair
        if isinstance(session, AgentstoreError):
            raise session
        known = there.get(op.session_id, {}) if session else {}
        mine = [known[name] for name in op.ids if name in known]
        return {message.id: message for message in documents.messages(mine)}

    return rules.each(list(zip(batch, sessions, strict=True)), answer)


async def named(
    tables: Tables, heads: Mapping[str, Head], names: Iterable[tuple[str, str]]
) -> dict[str, dict[str, Document]]:
    """The messages of these (session id, message id) that count, by both, in one round trip."""
    wanted = set(names)
    there: dict[str, dict[str, Document]] = {}
    if wanted:
        for document in await tables.messages.find(_ids_query(heads, wanted)).to_list(None):
            session_id, message_id = key = document["session"], document["id"]
            if key in wanted and document["log"] == heads[session_id].log and heads[session_id].counts(document):
                there.setdefault(session_id, {})[message_id] = document
    return there


def _ids_query(heads: Mapping[str, Head], names: set[tuple[str, str]]) -> Document:
    """Fresh ids are mostly above all of their log: the index is entered about once for each log."""
    logs = sorted({heads[session_id].log or "" for session_id, _ in names})
    return {"log": {"$in": logs}, "id": {"$in": sorted({message_id for _, message_id in names})}}


class _Asked(NamedTuple):
    """A read whose session is visible."""

    op: Read
    head: Head
    total: int


async def read(tables: Tables, now: datetime, batch: Sequence[Read], at_once: int) -> list[Outcome[list[Message]]]:
    """A round trip for the heads, one for each range, side by side; of bounded ranges the heads once more."""
    outcomes: dict[int, Outcome[list[Message]]] = {}
    while left := [index for index in range(len(batch)) if index not in outcomes]:
        asked = await _asked(tables, now, batch, left, outcomes)
        ranges = await _ranges(tables, list(asked.values()), at_once)
        found = dict(zip(asked, ranges, strict=True))
        doubtful = [index for index, entries in found.items() if not _proven(asked[index], entries)]
        again = await load(tables, {batch[index].session_id for index in doubtful})
        for index, entries in found.items():
            if index not in doubtful:
                outcomes[index] = _decoded(entries)
            elif again[batch[index].session_id].cuts == asked[index].head.cuts:  # else it is read anew
                outcomes[index] = _checked(asked[index], entries)
    return [outcomes[index] for index in range(len(batch))]


async def _asked(
    tables: Tables,
    now: datetime,
    batch: Sequence[Read],
    left: Sequence[int],
    outcomes: dict[int, Outcome[list[Message]]],
) -> dict[int, _Asked]:
    """Load the heads; what concerns no visible session is answered here."""
    found = await load(tables, {batch[index].session_id for index in left})
    visible = rules.each(
        [batch[index] for index in left],
        lambda op: rules.visible(found[op.session_id].stored().session, op.user_id, now),
    )
    asked: dict[int, _Asked] = {}
    for index, session in zip(left, visible, strict=True):
        if session is None or isinstance(session, AgentstoreError):
            outcomes[index] = [] if session is None else session
        else:
            asked[index] = _Asked(batch[index], found[session.id], session.message_count)
    return asked


async def _ranges(tables: Tables, asked: Sequence[_Asked], at_once: int) -> list[list[Document]]:
    gate = asyncio.Semaphore(at_once)

    async def gated(one: _Asked) -> list[Document]:
        async with gate:
            return await _range(tables, one)

    return await asyncio.gather(*map(gated, asked))


async def newest(tables: Tables, head: Head, session: Session, count: int) -> list[Document] | None:
    """The newest documents, oldest first; None if another removal makes them vanish at this moment.

    Raises:
        CorruptRecordError: They are missing.
    """
    asked = _Asked(Read(session.id, limit=count), head, session.message_count)
    found = await _range(tables, asked)
    if _proven(asked, found):
        return found
    if (await load(tables, [session.id]))[session.id].cuts != head.cuts:
        return None
    raise _missing(asked, found)


async def _range(tables: Tables, asked: _Asked) -> list[Document]:
    """Documents of the log that count, oldest first."""
    op, head, total = asked
    limit = total if op.limit is None else min(op.limit, total)
    if limit <= 0:
        return []
    bounds: Document = {}
    if op.after is not None:
        bounds["$gt"] = bounded(op.after)
    if op.before is not None:
        bounds["$lt"] = bounded(op.before)
    oldest_first = op.oldest_first or op.limit is None
    gone = head.gone
    last = gone.first - 1 if gone and gone.log == head.log else head.document["last_seq"]
    cursor = tables.messages.find(
        {"log": head.log, "seq": {"$lte": last} | bounds, "token": {"$in": [None, *head.open]}},
        _UNSEEN,
        sort=[("seq", 1 if oldest_first else -1)],
        limit=limit,
        batch_size=min(limit + 1, _LONGEST_BATCH),
    )
    found: list[Document] = await cursor.to_list(None)
    return found if oldest_first else found[::-1]


def _places(entries: Sequence[Document]) -> list[Any]:
    return [entry.get("place") for entry in entries]


def _contiguous(entries: Sequence[Document]) -> bool:
    places = _places(entries)
    return not places or places == list(range(places[0], places[0] + len(places)))


def _proven(asked: _Asked, entries: Sequence[Document]) -> bool:
    """Whether the head alone proves that nothing is missing: it does for the newest so many, and for all."""
    op, _, total = asked
    if op.after is not None or op.before is not None:
        return False
    wanted = total if op.limit is None else min(op.limit, total)
    return _places(entries) == list(range(total - wanted + 1, total + 1))


def _checked(asked: _Asked, entries: Sequence[Document]) -> Outcome[list[Message]]:
    """The answer where there was no removal: what is missing now is missing for good."""
    op = asked.op
    bounded_read = op.after is not None or op.before is not None
    whole = _contiguous(entries) if bounded_read else _proven(asked, entries)
    return _decoded(entries) if whole else _missing(asked, entries)


def _missing(asked: _Asked, entries: Sequence[Document]) -> CorruptRecordError:
    return CorruptRecordError(
        f"messages of session {asked.op.session_id!r} are missing: of its {asked.total} this read found"
        f" {len(entries)}, with gaps",
        hint="Restore a backup, or clear or delete the session",
    )


def _decoded(entries: Sequence[Document]) -> Outcome[list[Message]]:
    (outcome,) = rules.each([entries], documents.messages)
    return outcome


async def list_sessions(tables: Tables, now: datetime, listing: Listing) -> Page[Session]:
    """A page from the index by time, or by user and time.

    A session in it that cannot be read fails the page, by name: leaving it out would hide it.
    """
    query: Document = {"updated_at": {"$gt": -LARGEST_INT}}  # a tombstone has none
    conditions: list[Document] = [{"$or": [{"expires_at": None}, {"expires_at": {"$gt": codec.to_micros(now)}}]}]
    query |= {
        name: value for name, value in (("user_id", listing.user_id), ("agent", listing.agent)) if value is not None
    }
    if listing.cursor is not None:
        updated_at, session_id = rules.read_cursor(listing.cursor)
        query["updated_at"]["$lte"] = updated_at
        conditions.append({"$or": [{"updated_at": {"$lt": updated_at}}, {"session": {"$lt": session_id}}]})
    cursor = tables.sessions.find(
        query | {"$and": conditions},
        sort=[("updated_at", -1), ("session", -1)],
        limit=bounded(listing.limit + 1),
        batch_size=min(listing.limit + 2, _LONGEST_BATCH),
    )
    found = [documents.stored(document).session for document in await cursor.to_list(None)]
    return rules.page([session for session in found if session], listing.limit)
