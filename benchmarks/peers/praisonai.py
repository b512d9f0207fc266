"""PraisonAI: its async conversation stores, and its agents' JSON file sessions.

Their ``get_messages(limit=n)`` gives the oldest n, so the newest are had by reading all, as its agents do at a resume.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import ClassVar
from urllib.parse import unquote, urlsplit

from praisonai.persistence.conversation.async_mysql import AsyncMySQLConversationStore
from praisonai.persistence.conversation.async_postgres import AsyncPostgresConversationStore
from praisonai.persistence.conversation.async_sqlite import AsyncSQLiteConversationStore
from praisonai.persistence.conversation.base import ConversationMessage, ConversationSession
from praisonaiagents.session.store import DefaultSessionStore


class _Conversations:
    """A session row before the first message, then a call for each message: none takes two."""

    settings: ClassVar[dict[str, str]] = {"a turn": "two calls, each with a commit", "newest": "all are read, and cut"}
    pool: ClassVar[dict[str, str]] = {}

    def __init__(self) -> None:
        self._known: set[str] = set()

    async def aopen(self) -> dict[str, str]:
        await self.store.init()
        return self.settings | self.pool

    async def append(self, session: str, user: str, assistant: str) -> None:
        if session not in self._known:
            await self.create(ConversationSession(session_id=session))
            self._known.add(session)
        for role, text in (("user", user), ("assistant", assistant)):
            await self.add(session, ConversationMessage(session_id=session, role=role, content=text))

    async def last(self, session: str, limit: int | None) -> list[str]:
        texts = [message.content for message in await self.get(session)]
        return texts if limit is None else texts[-limit:]


class SQLite(_Conversations):
    """One connection for all, whose commits take along what other callers have inserted."""

    mode = "DELETE"

    def __init__(self, url: str) -> None:
        super().__init__()
        path = url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA journal_mode={self.mode}")
            (self._level,) = connection.execute("PRAGMA synchronous").fetchone()
        self.store = AsyncSQLiteConversationStore(path=path)
        self.create, self.add, self.get = self.store.create_session, self.store.add_message, self.store.get_messages

    async def aopen(self) -> dict[str, str]:
        level = f"{self._level}, SQLite's default"
        return {"journal": self.mode, "synchronous": level} | await super().aopen()

    async def aclose(self) -> None:
        await self.store.close()


class SQLiteInWAL(SQLite):
    """The file is put into WAL mode before, which the store leaves as it is."""

    mode = "WAL"


class PostgreSQL(_Conversations):
    """A pool of ten."""

    pool: ClassVar[dict[str, str]] = {"pool": "10 connections"}

    def __init__(self, url: str) -> None:
        super().__init__()
        self.store = AsyncPostgresConversationStore(url=url)
        self.create, self.add, self.get = self.store.create_session, self.store.add_message, self.store.get_messages

    async def aclose(self) -> None:
        await self.store.close()


class MySQL(_Conversations):
    """A pool of ten. The password is decoded here: the store would hand it over as it stands in a URL."""

    pool: ClassVar[dict[str, str]] = {"pool": "10 connections"}

    def __init__(self, url: str) -> None:
        super().__init__()
        parts = urlsplit(url)
        self.store = AsyncMySQLConversationStore(
            host=parts.hostname or "127.0.0.1",
            port=parts.port or 3306,
            user=unquote(parts.username or "root"),
            password=unquote(parts.password or ""),
            database=parts.path.strip("/"),
        )
        self.create, self.add = self.store.async_create_session, self.store.async_add_message
        self.get = self.store.async_get_messages

    async def aclose(self) -> None:
        await self.store.async_close()


class JSONFiles:
    """It blocks, so each call goes to a thread; `keep_all`, for by default it makes summaries of old messages."""

    def __init__(self, url: str) -> None:
        self._store = DefaultSessionStore(session_dir=url.removeprefix("json:///"), retention="keep_all")

    async def aopen(self) -> dict[str, str]:
        return {"durability": "no fsync", "retention": "keep_all", "calls": "asyncio.to_thread"}

    async def append(self, session: str, user: str, assistant: str) -> None:
        await asyncio.to_thread(self._append, session, user, assistant)

    def _append(self, session: str, user: str, assistant: str) -> None:
        if not (self._store.add_user_message(session, user) and self._store.add_assistant_message(session, assistant)):
            raise OSError("the message was not stored")

    async def last(self, session: str, limit: int | None) -> list[str]:
        if limit is None:
            return [message.content for message in self._store.get_session(session).messages]
        history = await asyncio.to_thread(self._store.get_chat_history, session, limit)
        return [message["content"] for message in history]

    async def aclose(self) -> None:
        pass


STORES = {"sqlite": SQLite, "sqlite-wal": SQLiteInWAL, "postgresql": PostgreSQL, "mysql": MySQL, "json": JSONFiles}
