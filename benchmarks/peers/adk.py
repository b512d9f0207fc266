"""Google's ADK: `DatabaseSessionService`. A turn is two events, each with a call of its own, as its runner does."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any, ClassVar

from google.adk.events import Event
from google.adk.sessions import DatabaseSessionService
from google.adk.sessions.base_session_service import GetSessionConfig
from google.genai.types import Content, Part

_WHOSE = {"app_name": "benchmark", "user_id": "somebody"}


class Service:
    """One service; session objects are held, as a runner does within a conversation."""

    driver: ClassVar[str]
    pool: ClassVar[dict[str, Any]] = {"pool_size": 10, "max_overflow": 0}

    def __init__(self, url: str) -> None:
        self.url = url
        self._service = DatabaseSessionService(f"{self.driver}:{url.partition(':')[2]}", **self.pool)
        self._sessions: dict[str, Any] = {}

    async def aopen(self) -> dict[str, str]:
        await self._service.prepare_tables()
        return {"pool": "10 connections", "a turn": "two events, each with a commit"}

    async def append(self, session: str, user: str, assistant: str) -> None:
        if session not in self._sessions:
            self._sessions[session] = await self._service.create_session(session_id=session, **_WHOSE)
        for author, role, text in (("user", "user", user), ("agent", "model", assistant)):
            content = Content(role=role, parts=[Part(text=text)])
            await self._service.append_event(self._sessions[session], Event(author=author, content=content))

    async def last(self, session: str, limit: int | None) -> list[str]:
        found = await self._service.get_session(
            session_id=session, config=GetSessionConfig(num_recent_events=limit), **_WHOSE
        )
        return [] if found is None else [event.content.parts[0].text for event in found.events]

    async def aclose(self) -> None:
        await self._service.close()


class SQLite(Service):
    """Through aiosqlite, with the journal mode of new files."""

    driver = "sqlite+aiosqlite"

    def __init__(self, url: str) -> None:
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            (self._level,) = connection.execute("PRAGMA synchronous").fetchone()
        super().__init__(url)

    async def aopen(self) -> dict[str, str]:
        return {"journal": "DELETE", "synchronous": f"{self._level}, SQLite's default"} | await super().aopen()


class PostgreSQL(Service):
    """Through asyncpg."""

    driver = "postgresql+asyncpg"


class MySQL(Service):
    """Through aiomysql."""

    driver = "mysql+aiomysql"


STORES = {"sqlite": SQLite, "postgresql": PostgreSQL, "mysql": MySQL}
