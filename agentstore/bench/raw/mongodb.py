"""Motor by hand: the session's document counts, a unique index keeps ids and seqs apart.

Collections of its own, since agentstore's hold more than an append by hand would write. A turn is two round trips: the
session's new last seq, then the messages. A group is three, for a bulk of updates does not tell what they came to.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import IndexModel, ReturnDocument, UpdateOne

from agentstore import codec
from agentstore.drivers.mongodb import address
from agentstore.options import PoolOptions
from agentstore.records import Message, ToolCall

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentstore.url import StoreURL

    from . import Raw, Turn

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_UNIQUE = [
    IndexModel([("session", 1), ("seq", 1)], unique=True),
    IndexModel([("session", 1), ("id", 1)], unique=True),
]
_BY_TIME = [IndexModel([("updated_at", -1), ("session", -1)])]


class _MongoDB:
    """A client, which is a pool of ten."""

    def __init__(self, url: StoreURL) -> None:
        self._url = url

    async def aopen(self) -> None:
        self._client: Any = AsyncIOMotorClient(self._url.secret, **address.settings(self._url, PoolOptions(size=10)))
        self._database = self._client[address.database_name(self._url)]
        self._sessions, self._messages = self._database["raw_sessions"], self._database["raw_messages"]
        self._state, self._bare = self._database["raw_state"], self._database["raw_bare"]
        await self._messages.create_indexes(_UNIQUE)
        await self._sessions.create_indexes(_BY_TIME)

    async def aclose(self) -> None:
        for collection in (self._sessions, self._messages, self._state, self._bare):
            await collection.drop()
        self._client.close()

    async def append(self, session_id: str, messages: Sequence[Message]) -> None:
        head = await self._sessions.find_one_and_update(
            {"_id": session_id},
            _counted(session_id, messages),
            projection={"last_seq": 1},
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        first = head["last_seq"] - len(messages) + 1
        await self._messages.insert_many(_documents(session_id, messages, first), ordered=False)

    async def append_group(self, turns: Sequence[Turn]) -> None:
        await self._sessions.bulk_write(
            [UpdateOne({"_id": name}, _counted(name, messages), upsert=True) for name, messages in turns],
            ordered=False,
        )
        found = self._sessions.find({"_id": {"$in": [name for name, _ in turns]}}, {"last_seq": 1})
        last = {head["_id"]: head["last_seq"] for head in await found.to_list(None)}
        new = [one for name, messages in turns for one in _documents(name, messages, last[name] - len(messages) + 1)]
        await self._messages.insert_many(new, ordered=False)

    async def last(self, session_id: str, limit: int) -> list[Message]:
        found = self._messages.find({"session": session_id}, {"_id": 0}, sort=[("seq", -1)], limit=limit)
        return [_message(document) for document in reversed(await found.to_list(None))]

    async def set(self, namespace: str, key: str, value: Any) -> int:
        item = await self._state.find_one_and_update(
            {"_id": f"{namespace}\0{key}"},
            {"$set": {"value": codec.dumps(value)}, "$inc": {"version": 1}, "$unset": {"expires_at": ""}},
            projection={"version": 1},
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        version: int = item["version"]
        return version

    async def get(self, namespace: str, key: str) -> Any:
        found = await self._state.find_one({"_id": f"{namespace}\0{key}"}, {"value": 1})
        return None if found is None else codec.loads(found["value"])

    async def insert(self, session_id: str, messages: Sequence[Message]) -> None:
        await self._bare.insert_many(_documents(session_id, messages, 1), ordered=False)


def _counted(session_id: str, messages: Sequence[Message]) -> dict[str, Any]:
    now = time.time_ns() // 1000
    return {
        "$inc": {"last_seq": len(messages), "message_count": len(messages)},
        "$set": {"updated_at": now},
        "$setOnInsert": {"created_at": now, "session": session_id},
    }


def _documents(session_id: str, messages: Sequence[Message], first: int) -> list[dict[str, Any]]:
    return [_document(session_id, message, seq) for seq, message in enumerate(messages, first)]


def _document(session_id: str, message: Message, seq: int) -> dict[str, Any]:
    document: dict[str, Any] = {
        "session": session_id,
        "seq": seq,
        "id": message.id,
        "role": message.role,
        "content": codec.content_to_text(message.content),
        "created_at": (message.created_at - _EPOCH) // _MICROSECOND,
    }
    if message.tool_calls:
        document["tool_calls"] = [(call.id, call.name, call.arguments) for call in message.tool_calls]
    for name in ("tool_call_id", "name", "run_id"):
        if value := getattr(message, name):
            document[name] = value
    if message.metadata:
        document["metadata"] = json.dumps(message.metadata)
    return document


def _message(document: Mapping[str, Any]) -> Message:
    get = document.get
    metadata = get("metadata")
    return Message(
        document["role"],
        codec.content_from_text(document["content"]),
        document["id"],
        document["seq"],
        tuple(ToolCall(*call) for call in get("tool_calls", ())),
        get("tool_call_id"),
        get("name"),
        json.loads(metadata) if metadata else {},
        get("run_id"),
        _EPOCH + timedelta(microseconds=document["created_at"]),
    )


def by_hand(url: StoreURL) -> Raw:
    """For a store of this URL."""
    return _MongoDB(url)
