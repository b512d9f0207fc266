"""OpenAI Agents: its sessions. Each object is for one session; they share an engine or a client, as its pages say."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any, ClassVar

import redis.asyncio
from agents import SQLiteSession
from agents.extensions.memory import RedisSession, SQLAlchemySession
from sqlalchemy.ext.asyncio import create_async_engine


class _Sessions:
    """One object per session."""

    settings: ClassVar[dict[str, str]] = {}

    def __init__(self) -> None:
        self._sessions: dict[str, Any] = {}

    async def aopen(self) -> dict[str, str]:
        return self.settings

    def prepare(self, session: str) -> None:
        if session not in self._sessions:
            self._sessions[session] = self.make(session)

    async def append(self, session: str, user: str, assistant: str) -> None:
        items = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
        await self._sessions[session].add_items(items)

    async def last(self, session: str, limit: int | None) -> list[str]:
        return [item["content"] for item in await self._sessions[session].get_items(limit)]


class SQLite(_Sessions):
    """Threads of asyncio's own, one lock per file; a connection for each session and thread."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._path = url.removeprefix("sqlite:///")

    async def aopen(self) -> dict[str, str]:
        return {"journal": "WAL, its own", "synchronous": f"{_level(self._path)}, SQLite's default"}

    def make(self, session: str) -> SQLiteSession:
        return SQLiteSession(session, self._path)

    async def aclose(self) -> None:
        for session in self._sessions.values():
            session.close()


class _Engine(_Sessions):
    """Tables are made before, by one session."""

    driver: ClassVar[str]
    pool: ClassVar[dict[str, Any]] = {"pool_size": 10, "max_overflow": 0}
    settings: ClassVar[dict[str, str]] = {"pool": "10 connections", "engine": "one for all"}

    def __init__(self, url: str) -> None:
        super().__init__()
        self._engine = create_async_engine(f"{self.driver}:{url.partition(':')[2]}", **self.pool)

    async def aopen(self) -> dict[str, str]:
        await SQLAlchemySession("first", engine=self._engine, create_tables=True).get_items()
        return self.settings

    def make(self, session: str) -> SQLAlchemySession:
        return SQLAlchemySession(session, engine=self._engine)

    async def aclose(self) -> None:
        await self._engine.dispose()


class SQLAlchemySQLite(_Engine):
    """WAL and a busy timeout are its own."""

    driver = "sqlite+aiosqlite"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._path = url.removeprefix("sqlite:///")

    async def aopen(self) -> dict[str, str]:
        settings = await super().aopen()
        return {"journal": "WAL, its own", "synchronous": f"{_level(self._path)}, SQLite's default"} | settings


class SQLAlchemyPostgreSQL(_Engine):
    """Through asyncpg."""

    driver = "postgresql+asyncpg"


class SQLAlchemyMySQL(_Engine):
    """Through aiomysql."""

    driver = "mysql+aiomysql"


class Redis(_Sessions):
    """One client, whose pool grows as it is used."""

    settings: ClassVar[dict[str, str]] = {"pool": "the client's own, without a limit"}

    def __init__(self, url: str) -> None:
        super().__init__()
        self._client = redis.asyncio.from_url(url)

    def make(self, session: str) -> RedisSession:
        return RedisSession(session, redis_client=self._client, key_prefix="benchmark:openai-agents")

    async def aclose(self) -> None:
        await self._client.aclose()


def _level(path: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        (level,) = connection.execute("PRAGMA synchronous").fetchone()
        return int(level)


STORES = {
    "sqlite-session": SQLite,
    "sqlalchemy-sqlite": SQLAlchemySQLite,
    "sqlalchemy-postgresql": SQLAlchemyPostgreSQL,
    "sqlalchemy-mysql": SQLAlchemyMySQL,
    "redis": Redis,
}
