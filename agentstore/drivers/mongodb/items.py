"""Items as documents: their names, their order, and how they are read.

A key's ``_id`` is the length of its namespace, the namespace and the key: unique, and within a namespace in the order
of the keys' bytes, which is that of their codepoints. A document without a value is a *husk*; see `state`.
"""

from __future__ import annotations

from heapq import heapify, heappop, heapreplace
from typing import TYPE_CHECKING

from agentstore import codec, rules
from agentstore.drivers.sql import rows

from .documents import bounded

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from agentstore.protocol import GetItems, Outcome, Scan
    from agentstore.records import StateItem

    from .client import Document, Tables

_UNSEEN = {"remove_at": 0}  # a date that Python may have no datetime for
_LONGEST_BATCH = 2**31 - 1


def key_id(namespace: str, key: str) -> str:
    """The ``_id`` of a key."""
    return f"{len(namespace)}:{namespace}:{key}"


def named(document_id: str) -> tuple[str, str]:
    """The namespace and the key of `key_id`."""
    length, _, rest = document_id.partition(":")
    return rest[: int(length)], rest[int(length) + 1 :]


def item(document: Document) -> StateItem:
    """The item of a document that is no husk, expired or not."""
    _, key = named(document["_id"])
    return rows.state_item(key, document["value"], document["version"], document.get("expires_at"))


async def get_items(tables: Tables, now: datetime, batch: Sequence[GetItems]) -> list[Outcome[dict[str, StateItem]]]:
    """The live items, in the order asked for."""
    there = await load(tables, [key_id(op.namespace, key) for op in batch for key in op.keys])

    def answer(op: GetItems) -> dict[str, StateItem]:
        entries = {key: there.get(key_id(op.namespace, key), {}) for key in op.keys}
        items = {key: item(entry) for key, entry in entries.items() if "value" in entry}
        return {key: found for key, found in items.items() if rules.is_live(found.expires_at, now)}

    return rules.each(batch, answer)


async def scan(tables: Tables, now: datetime, op: Scan) -> list[StateItem]:
    """A range scan of the index of ``_id``."""
    end = rules.prefix_end(op.prefix)
    low = key_id(op.namespace, op.prefix)
    high = f"{len(op.namespace)}:{op.namespace};" if end is None else key_id(op.namespace, end)  # ; comes after :
    bounds = {"$gte": low, "$lt": high}
    if op.after is not None:
        after = key_id(op.namespace, op.after)
        if op.reverse:
            bounds["$lt"] = min(high, after)
        elif after >= low:
            bounds["$gt"] = after
    if op.limit == 0:
        return []
    live = {"$or": [{"expires_at": None}, {"expires_at": {"$gt": codec.to_micros(now)}}]}
    cursor = tables.state.find(
        {"_id": bounds, "value": {"$exists": True}} | live,
        _UNSEEN,
        sort=[("_id", -1 if op.reverse else 1)],
        limit=bounded(op.limit or 0),
        batch_size=min(op.limit + 1, _LONGEST_BATCH) if op.limit else 0,
    )
    return [item(document) for document in await cursor.to_list(None)]


async def namespaces(tables: Tables, after: str | None, limit: int) -> list[str]:
    """The next name again and again, each found by the index of ``_id``: their keys are not walked through.

    Within one length they have the order of their documents; so the next of each length is known, and the least taken.
    """
    following = [name for length in await _lengths(tables) if (name := await _next(tables, length, after)) is not None]
    heapify(following)
    found: list[str] = []
    while following and len(found) < limit:
        found.append(following[0])
        name = await _next(tables, len(found[-1]), found[-1])
        if name is None:
            heappop(following)
        else:
            heapreplace(following, name)
    return found


async def _lengths(tables: Tables) -> list[int]:
    """How long the namespaces are of which there are documents."""
    lengths: list[int] = []
    low = ""
    while name := await _first(tables, {"_id": {"$gte": low}}):
        lengths.append(len(name[0]))
        low = f"{lengths[-1]};"
    return lengths


async def _next(tables: Tables, length: int, after: str | None) -> str | None:
    """The first namespace of this length that has keys and comes after another one of any length."""
    low = f"{length}:{after or ''}"
    if after is not None and len(after) >= length:
        low = f"{length}:{after[:length]};"  # of this length, what it begins with does not come after it
    found = await _first(tables, {"_id": {"$gte": low, "$lt": f"{length};"}, "value": {"$exists": True}})
    return None if found is None else found[0]


async def _first(tables: Tables, query: Document) -> tuple[str, str] | None:
    found = await tables.state.find(query, {"_id": 1}, sort=[("_id", 1)], limit=1).to_list(None)
    return named(found[0]["_id"]) if found else None


async def load(tables: Tables, names: Sequence[str]) -> dict[str, Document]:
    """What there is of these ``_id``, husks included, in one round trip."""
    if not names:
        return {}
    query = {"_id": {"$in": sorted(set(names))}}
    found = await tables.state.find(query, _UNSEEN, batch_size=len(names) + 1).to_list(None)
    return {document["_id"]: document for document in found}
