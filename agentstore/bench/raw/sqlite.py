"""SQLite by hand: the standard library's driver in WAL, one function on a thread for whatever is asked."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from agentstore.drivers.sql import rows
from agentstore.errors import ConfigurationError
from agentstore.records import Message, ToolCall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentstore.url import StoreURL

    from . import Raw, Turn

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HEAD = (
    "INSERT INTO agentstore_sessions (session_id, created_at, updated_at, message_count, last_seq)"
    " VALUES (?, ?, ?, ?, ?) ON CONFLICT (session_id) DO UPDATE SET"
    " updated_at = max(excluded.updated_at, updated_at + 1),"
    " message_count = message_count + excluded.message_count, last_seq = last_seq + excluded.last_seq"
    " RETURNING last_seq"
)
_NAMED = "SELECT session_id, id FROM agentstore_messages WHERE id_key IN (SELECT value FROM json_each(?))"
_PUT = (
    f"INSERT INTO agentstore_messages ({rows.NEW_MESSAGE})"  # noqa: S608  constants, as all below
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_LAST = f"SELECT {rows.MESSAGE} FROM agentstore_messages WHERE session_id = ? ORDER BY seq DESC LIMIT ?"  # noqa: S608
_SET = (
    "INSERT INTO agentstore_state (namespace, key, value, version)"
    " VALUES (?, ?, ?, 1 + coalesce((SELECT floor FROM agentstore_state_floors WHERE namespace = ?), 0))"
    " ON CONFLICT (namespace, key) DO UPDATE SET value = excluded.value, version = version + 1, expires_at = NULL"
    " RETURNING version"
)
_GET = "SELECT value FROM agentstore_state WHERE namespace = ? AND key = ? AND (expires_at IS NULL OR expires_at > ?)"
_BARE = "agentstore_bench_bare"
_COLUMNS = "session_id, role, content, id, tool_calls, tool_call_id, name, metadata, run_id, created_at"


def by_hand(url: StoreURL) -> Raw:
    """The raw counterpart of agentstore's driver."""
    path = url.file_path()
    if path is None:
        raise ConfigurationError(f"{url} is in memory, where another connection sees another database")
    return _SQLite(path)


class _SQLite:
    """A connection that writes and one that reads, each on its thread: more of them wait for the interpreter's lock."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._writer, self._reader = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._sessions: set[str] = set()
        self._namespaces: set[str] = set()

    async def aopen(self) -> None:
        loop = asyncio.get_running_loop()
        self._write = await loop.run_in_executor(self._writer, _connected, self._path)
        self._read = await loop.run_in_executor(self._reader, _connected, self._path)
        await loop.run_in_executor(
            self._writer, self._write.execute, f"CREATE TABLE IF NOT EXISTS {_BARE} ({_COLUMNS})"
        )

    async def aclose(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._reader, self._read.close)
        await loop.run_in_executor(self._writer, self._remove)
        for executor in (self._reader, self._writer):
            executor.shutdown()

    def _remove(self) -> None:
        connection = self._write
        connection.execute("BEGIN IMMEDIATE")
        for table in ("agentstore_messages", "agentstore_sessions"):
            connection.executemany(f"DELETE FROM {table} WHERE session_id = ?", [(name,) for name in self._sessions])  # noqa: S608
        connection.executemany("DELETE FROM agentstore_state WHERE namespace = ?", [(n,) for n in self._namespaces])
        connection.execute(f"DROP TABLE {_BARE}")
        connection.execute("COMMIT")
        connection.close()

    async def append(self, session_id: str, messages: Sequence[Message]) -> None:
        await self.append_group([(session_id, messages)])

    async def append_group(self, turns: Sequence[Turn]) -> None:
        self._sessions.update(session_id for session_id, _ in turns)
        await asyncio.get_running_loop().run_in_executor(self._writer, _append, self._write, turns)

    async def last(self, session_id: str, limit: int) -> list[Message]:
        return await asyncio.get_running_loop().run_in_executor(self._reader, _last, self._read, session_id, limit)

    async def set(self, namespace: str, key: str, value: Any) -> int:
        self._namespaces.add(namespace)
        return await asyncio.get_running_loop().run_in_executor(self._writer, _set, self._write, namespace, key, value)

    async def get(self, namespace: str, key: str) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._reader, _get, self._read, namespace, key)

    async def insert(self, session_id: str, messages: Sequence[Message]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._writer, _insert, self._write, session_id, messages)


def _connected(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 30000"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    return connection


def _append(connection: sqlite3.Connection, turns: Sequence[Turn]) -> None:
    now = time.time_ns() // 1000
    named = {(session_id, message.id) for session_id, messages in turns for message in messages}
    keys = [rows.id_key(session_id, message.id) for session_id, messages in turns for message in messages]
    connection.execute("BEGIN IMMEDIATE")
    try:
        _refuse_known(connection, named, keys)
        found: list[tuple[Any, ...]] = []
        left = iter(keys)
        for session_id, messages in turns:
            count = len(messages)
            ((last_seq,),) = connection.execute(_HEAD, (session_id, now, now, count, count)).fetchall()
            found += [_row(session_id, next(left), seq, m) for seq, m in enumerate(messages, last_seq - count + 1)]
        connection.executemany(_PUT, found)
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _refuse_known(connection: sqlite3.Connection, named: set[tuple[str, str]], keys: list[int]) -> None:
    if any(name in named for name in connection.execute(_NAMED, (json.dumps(keys),)).fetchall()):
        raise ValueError("these are stored already")


def _row(session_id: str, key: int, seq: int, message: Message) -> tuple[Any, ...]:
    return (
        session_id,
        key,
        message.role,
        message.content if isinstance(message.content, str) else "\x1a" + json.dumps(message.content),
        message.id,
        seq,
        json.dumps([(c.id, c.name, c.arguments) for c in message.tool_calls]) if message.tool_calls else None,
        message.tool_call_id,
        message.name,
        json.dumps(message.metadata) if message.metadata else None,
        message.run_id,
        (message.created_at - _EPOCH) // timedelta(microseconds=1),
    )


def _last(connection: sqlite3.Connection, session_id: str, limit: int) -> list[Message]:
    found = connection.execute(_LAST, (session_id, limit)).fetchall()
    return [
        Message(
            role,
            json.loads(content[1:]) if content[:1] == "\x1a" else content,
            message_id,
            seq,
            tuple(ToolCall(*call) for call in json.loads(calls)) if calls else (),
            call_id,
            name,
            json.loads(metadata) if metadata else {},
            run_id,
            _EPOCH + timedelta(microseconds=created_at),
        )
        for role, content, message_id, seq, calls, call_id, name, metadata, run_id, created_at in reversed(found)
    ]


def _set(connection: sqlite3.Connection, namespace: str, key: str, value: Any) -> int:
    ((version,),) = connection.execute(_SET, (namespace, key, json.dumps(value), namespace)).fetchall()
    return int(version)


def _get(connection: sqlite3.Connection, namespace: str, key: str) -> Any:
    found = connection.execute(_GET, (namespace, key, time.time_ns() // 1000)).fetchone()
    return None if found is None else json.loads(found[0])


def _insert(connection: sqlite3.Connection, session_id: str, messages: Sequence[Message]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    values = [_row(session_id, 0, 0, message) for message in messages]
    connection.executemany(
        f"INSERT INTO {_BARE} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        [(row[0], *row[2:5], *row[6:]) for row in values],
    )
    connection.execute("COMMIT")
