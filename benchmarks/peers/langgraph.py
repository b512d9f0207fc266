"""LangGraph's savers. A turn is the least that a graph asks of them: one checkpoint, whose state has all messages.

(A graph puts two or more a turn, and the writes of its nodes besides.) A conversation that goes on has its state in
memory, as here; `last` loads the checkpoint, for a saver cannot load a part of one.
"""

from __future__ import annotations

from typing import Any

import aiosqlite
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool


class _Saver:
    """Messages as plain dicts: they cost less than a framework's objects."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._states: dict[str, tuple[dict[str, Any], list[dict[str, str]]]] = {}

    async def append(self, session: str, user: str, assistant: str) -> None:
        start = {"configurable": {"thread_id": session, "checkpoint_ns": ""}}
        config, messages = self._states.get(session, (start, []))
        messages = [*messages, {"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
        version = f"{len(messages):032d}"
        checkpoint = empty_checkpoint() | {
            "channel_values": {"messages": messages},
            "channel_versions": {"messages": version},
        }
        metadata = {"source": "loop", "step": len(messages) // 2, "parents": {}}
        after = await self._saver.aput(config, checkpoint, metadata, {"messages": version})
        self._states[session] = after, messages

    async def last(self, session: str, limit: int | None) -> list[str]:
        found = await self._saver.aget_tuple({"configurable": {"thread_id": session, "checkpoint_ns": ""}})
        messages = [] if found is None else found.checkpoint["channel_values"]["messages"]
        return [message["content"] for message in (messages if limit is None else messages[-limit:])]


class SQLite(_Saver):
    """One connection, and a lock around it."""

    async def aopen(self) -> dict[str, str]:
        self._connection = await aiosqlite.connect(self._url.removeprefix("sqlite:///"))
        self._saver = AsyncSqliteSaver(self._connection)
        await self._saver.setup()
        async with self._connection.execute("PRAGMA synchronous") as cursor:
            (level,) = await cursor.fetchone()
        return {"journal": "WAL, its own", "synchronous": f"{level}, SQLite's default", "a turn": "one aput"}

    async def aclose(self) -> None:
        await self._connection.close()


class PostgreSQL(_Saver):
    """A pool of ten, with the settings that its pages ask for; a lock of its own lets one in at a time."""

    async def aopen(self) -> dict[str, str]:
        settings = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        self._pool = AsyncConnectionPool(self._url, min_size=10, max_size=10, open=False, kwargs=settings)
        await self._pool.open(wait=True)
        self._saver = AsyncPostgresSaver(self._pool)
        await self._saver.setup()
        return {"pool": "10 connections", "a turn": "one aput"}

    async def aclose(self) -> None:
        await self._pool.close()


STORES = {"sqlite": SQLite, "postgresql": PostgreSQL}
