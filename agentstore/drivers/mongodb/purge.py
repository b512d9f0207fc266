"""Taking away what nobody sees any more."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from bson import ObjectId

from agentstore import codec

from .changes import last_seq
from .conditional import replace
from .heads import Head, commit, finish, load, new_token, sweep

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from .client import Document, Tables

_AT_ONCE = 1000
_IN_FLIGHT = timedelta(hours=1)  # an append that is older has long failed
_WATERMARK = "purge"


async def purge_sessions(tables: Tables, now: datetime) -> int:
    """Leave a tombstone of each expired session; delete what writers left behind that died."""
    count = 0
    while heads := await _heads(tables, {"expires_at": {"$lte": codec.to_micros(now)}}):
        await finish(tables, heads)
        following = {head.id: head.tombstone(await last_seq(tables, head)) for head in heads}
        count += len(heads) - len(await commit(tables, {head.id: head for head in heads}, following))
    while heads := await _heads(tables, {"gone.log": {"$exists": True}}):
        await sweep(tables, heads)
    await _delete_strays(tables, now)
    return count


async def _heads(tables: Tables, query: Document) -> list[Head]:
    found = await tables.sessions.find(query, limit=_AT_ONCE).to_list(None)
    return [Head(document["_id"], document) for document in found]


async def _delete_strays(tables: Tables, now: datetime) -> None:
    """Delete messages of appends that came to nothing, from where the last purge ended up to an hour ago.

    ``_id`` holds the time at which a message was made, so each is looked at once in its life.
    """
    mark = await tables.meta.find_one({"_id": _WATERMARK})
    position = ObjectId(mark["position"]) if mark else None
    end = ObjectId.from_datetime(now - _IN_FLIGHT)
    while True:
        window: Document = {"$lt": end} if position is None else {"$gt": position, "$lt": end}
        found = await tables.messages.find(
            {"_id": window, "token": {"$exists": True}},
            {"session": 1, "log": 1, "seq": 1, "token": 1},
            sort=[("_id", 1)],
            limit=_AT_ONCE,
        ).to_list(None)
        if not found:
            break
        await _delete_dead(tables, found)
        position = found[-1]["_id"]
    await tables.meta.update_one({"_id": _WATERMARK}, {"$set": {"position": str(end)}}, upsert=True)


async def _delete_dead(tables: Tables, found: Sequence[Document]) -> None:
    """Delete those that do not count, after renewing the versions that a stopped writer could still commit on.

    Of a session that is not there yet that version is that there is none: a tombstone takes its place.
    """
    heads = await load(tables, {document["session"] for document in found})
    dead = [document for document in found if not _counts(heads[document["session"]], document)]
    fenced = {document["session"] for document in dead}
    moved = await replace(tables.sessions, {key: (heads[key].version, _renewed(heads[key])) for key in fenced})
    gone = [document["_id"] for document in dead if document["session"] not in moved]
    if gone:  # of a session in use just now, the next purge of its log deletes them
        await tables.messages.delete_many({"_id": {"$in": gone}})


def _renewed(head: Head) -> Document:
    return head.document | {"version": new_token()} if head.document else head.tombstone(0)


def _counts(head: Head, document: Document) -> bool:
    return document["log"] == head.log and head.counts(document)
