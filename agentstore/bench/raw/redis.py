"""redis-py by hand: a turn is one call of a script, a group of them one pipeline.

The script looks for the ids, counts, and writes messages, ids, head and listing in one atomic step.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from hashlib import sha1
from typing import TYPE_CHECKING, Any

from redis.asyncio import BlockingConnectionPool, Redis

from agentstore import codec
from agentstore.drivers.redis.place import parse
from agentstore.errors import ConfigurationError
from agentstore.records import Message, ToolCall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentstore.drivers.redis.place import Place
    from agentstore.url import StoreURL

    from . import Raw, Turn

_POOL = 10
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

_APPEND = """
for i = 3, #ARGV, 2 do
  if redis.call('HEXISTS', KEYS[2], ARGV[i]) == 1 then return 0 end
end
local count = (#ARGV - 2) / 2
local seq = redis.call('HINCRBY', KEYS[1], 'last_seq', count) - count
for i = 3, #ARGV, 2 do
  seq = seq + 1
  redis.call('HSET', KEYS[2], ARGV[i], seq)
  redis.call('ZADD', KEYS[3], seq, string.format('%019d', seq) .. ARGV[i + 1])
end
redis.call('HSET', KEYS[1], 'updated_at', ARGV[2])
redis.call('ZADD', KEYS[4], ARGV[2], ARGV[1])
return 1
"""
_SET = """
local version = redis.call('INCR', KEYS[1])
redis.call('SET', KEYS[2], version .. ' ' .. ARGV[2])
redis.call('ZADD', KEYS[3], 0, ARGV[1])
return version
"""
_SEQ = 19  # digits


class _Redis:
    """A pool of ten connections to one server.

    Args:
        place: Where it is.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._prefix = f"{place.prefix}-raw"
        self._append = sha1(_APPEND.encode(), usedforsecurity=False).hexdigest()
        self._set = sha1(_SET.encode(), usedforsecurity=False).hexdigest()
        self._redis: Redis

    groups = 2  # at once: 1.4 times the rate of one, for one is encoded while the server carries out the other

    async def aopen(self) -> None:
        place, (address, *_) = self._place, self._place.addresses
        pool = BlockingConnectionPool(
            host=address.host,
            port=address.port,
            username=place.login.username,
            password=place.login.password,
            db=place.database,
            max_connections=_POOL,
            timeout=None,
        )
        self._redis = Redis.from_pool(pool)
        for script in (_APPEND, _SET):
            await self._redis.script_load(script)

    async def aclose(self) -> None:
        found = [key async for key in self._redis.scan_iter(f"{self._prefix}:*", count=1000)]
        for start in range(0, len(found), 1000):
            await self._redis.unlink(*found[start : start + 1000])
        await self._redis.aclose()

    def _turn(self, session_id: str, messages: Sequence[Message]) -> tuple[Any, ...]:
        prefix = f"{self._prefix}:{{{session_id}}}"
        keys = (f"{prefix}:head", f"{prefix}:ids", f"{prefix}:log", f"{self._prefix}:by-time")
        new = [part for message in messages for part in (message.id, _record(message))]
        return (self._append, len(keys), *keys, session_id, time.time_ns() // 1000, *new)

    async def append(self, session_id: str, messages: Sequence[Message]) -> None:
        if await self._redis.evalsha(*self._turn(session_id, messages)) != 1:
            raise RuntimeError("known ids")

    async def append_group(self, turns: Sequence[Turn]) -> None:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for session_id, messages in turns:
                pipeline.evalsha(*self._turn(session_id, messages))
            if set(await pipeline.execute()) != {1}:
                raise RuntimeError("known ids")

    async def last(self, session_id: str, limit: int) -> list[Message]:
        found: Any = await self._redis.zrange(f"{self._prefix}:{{{session_id}}}:log", 0, limit - 1, desc=True)
        return [_message(record) for record in reversed(found)]

    async def set(self, namespace: str, key: str, value: Any) -> int:
        tag = f"{self._prefix}:n:{{{namespace}}}"
        keys = (f"{tag}:version", f"{tag}:item:{key}", f"{tag}:names")
        version: int = await self._redis.evalsha(self._set, len(keys), *keys, key, codec.escape(_dumps(value)))
        return version

    async def get(self, namespace: str, key: str) -> Any:
        found: Any = await self._redis.get(f"{self._prefix}:n:{{{namespace}}}:item:{key}")
        return None if found is None else json.loads(codec.unescape(found.partition(b" ")[2].decode()))

    async def insert(self, session_id: str, messages: Sequence[Message]) -> None:
        await self._redis.rpush(f"{self._prefix}:{{{session_id}}}:bare", *map(_record, messages))


def _record(message: Message) -> str:
    fields: dict[str, Any] = {"role": message.role, "content": message.content, "id": message.id}
    if message.tool_calls:
        fields["tool_calls"] = [(call.id, call.name, call.arguments) for call in message.tool_calls]
    for name in ("tool_call_id", "name", "run_id", "metadata"):
        if value := getattr(message, name):
            fields[name] = value
    fields["at"] = (message.created_at - _EPOCH) // _MICROSECOND
    return codec.escape(_dumps(fields))


def _message(record: bytes) -> Message:
    text = record.decode()
    fields = json.loads(codec.unescape(text[_SEQ:]))
    get = fields.get
    return Message(
        fields["role"],
        fields["content"],
        fields["id"],
        int(text[:_SEQ]),
        tuple(ToolCall(*call) for call in get("tool_calls", ())),
        get("tool_call_id"),
        get("name"),
        get("metadata", {}),
        get("run_id"),
        _EPOCH + timedelta(microseconds=fields["at"]),
    )


def by_hand(url: StoreURL) -> Raw:
    """For a store of this URL.

    Raises:
        ConfigurationError: It is no single server.
    """
    place = parse(url)
    if place.mode != "single" or place.tls is not None or not place.addresses[0].port:
        raise ConfigurationError(f"{url} has no raw counterpart: that is for one server over plain TCP")
    return _Redis(place)
