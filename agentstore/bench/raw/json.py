"""JSON lines by hand: a file for each session, an index of ids and places beside them, a lock between processes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from agentstore.errors import ConfigurationError
from agentstore.records import Message, ToolCall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentstore.url import StoreURL

    from . import Raw, Turn

_SCHEMA = """
CREATE TABLE sessions (id TEXT PRIMARY KEY, updated_at INTEGER, message_count INTEGER, last_seq INTEGER, size INTEGER)
    WITHOUT ROWID;
CREATE INDEX listed ON sessions (updated_at, id);
CREATE TABLE messages (session_id TEXT, seq INTEGER, start INTEGER, length INTEGER, id TEXT,
    PRIMARY KEY (session_id, seq)) WITHOUT ROWID;
CREATE UNIQUE INDEX ids ON messages (session_id, id);
CREATE TABLE items (namespace TEXT, key TEXT, start INTEGER, length INTEGER, version INTEGER,
    PRIMARY KEY (namespace, key)) WITHOUT ROWID;
"""
_PUT_HEAD = (
    "INSERT INTO sessions VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET updated_at = excluded.updated_at,"
    " message_count = excluded.message_count, last_seq = excluded.last_seq, size = excluded.size"
)
_PUT_ITEM = (
    "INSERT INTO items VALUES (?, ?, ?, ?, ?) ON CONFLICT (namespace, key) DO UPDATE"
    " SET start = excluded.start, length = excluded.length, version = excluded.version"
)
_SYNCS_AT_ONCE = 32
_LINE = 2048  # bytes of a line, as a first guess

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def by_hand(url: StoreURL) -> Raw:
    """The raw counterpart of agentstore's driver."""
    path = url.file_path()
    if path is None:
        raise ConfigurationError(f"{url} names no folder", hint=f"Write {url.scheme}:///folder, for example")
    return _JSON(Path(path) / "bench-raw")


class _JSON:
    """A thread that writes and one that reads: more that read wait for the interpreter's lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer, self._reader = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._helpers = ThreadPoolExecutor(_SYNCS_AT_ONCE)
        self._lock = FileLock(folder / ".lock", thread_local=False)

    async def aopen(self) -> None:
        self._folder.mkdir(parents=True)
        loop = asyncio.get_running_loop()
        self._write = await loop.run_in_executor(self._writer, _connected, self._folder)
        self._write.executescript(_SCHEMA)
        self._read = await loop.run_in_executor(self._reader, _connected, self._folder)

    async def aclose(self) -> None:
        for executor in (self._reader, self._writer, self._helpers):
            await asyncio.get_running_loop().run_in_executor(None, executor.shutdown)
        self._read.close()
        self._write.close()
        shutil.rmtree(self._folder)

    async def append(self, session_id: str, messages: Sequence[Message]) -> None:
        await self.append_group([(session_id, messages)])

    async def append_group(self, turns: Sequence[Turn]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._writer, self._append, turns)

    async def last(self, session_id: str, limit: int) -> list[Message]:
        return await asyncio.get_running_loop().run_in_executor(self._reader, _last, self._path(session_id), limit)

    async def set(self, namespace: str, key: str, value: Any) -> int:
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._set, namespace, key, value)

    async def get(self, namespace: str, key: str) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._reader, self._get, namespace, key)

    async def insert(self, session_id: str, messages: Sequence[Message]) -> None:
        path, data = self._path(f"bare:{session_id}"), b"".join(_line(message, 0) for message in messages)
        await asyncio.get_running_loop().run_in_executor(self._writer, _add, path, data)

    def _path(self, name: str) -> Path:
        return self._folder / f"{blake2b(name.encode(), digest_size=16).hexdigest()}.jsonl"

    def _append(self, turns: Sequence[Turn]) -> None:
        with self._lock:
            self._write.execute("BEGIN IMMEDIATE")
            added = [self._prepared(session_id, messages) for session_id, messages in turns]
            try:
                rest = [self._helpers.submit(_add, path, data) for path, data, *_ in added[1:]]
                _add(*added[0][:2])
                for future in rest:
                    future.result()
                if any(not size for *_, size in added):
                    _sync_folder(self._folder)
                self._write.execute("COMMIT")
            except BaseException:
                self._write.execute("ROLLBACK")
                for path, _, size in added:
                    os.truncate(path, size)
                raise

    def _prepared(self, session_id: str, messages: Sequence[Message]) -> tuple[Path, bytes, int]:
        """A turn as bytes for its file, recorded in the index; and the size of the file before."""
        path, now = self._path(session_id), time.time_ns() // 1000
        head = self._write.execute(
            "SELECT message_count, last_seq, size FROM sessions WHERE id = ?", (session_id,)
        ).fetchone()
        count, last_seq, size = head or (0, 0, 0)
        if (os.stat(path).st_size if head else 0) != size:  # noqa: PTH116  faster
            raise RuntimeError(f"{path} was changed by others")
        lines, spans, place = [], [], size
        for seq, message in enumerate(messages, last_seq + 1):
            line = _line(message, seq)
            spans.append((session_id, seq, place, len(line), message.id))
            lines.append(line)
            place += len(line)
        last_seq, count = last_seq + len(messages), count + len(messages)
        facts = {"commit": len(messages), "updated_at": now, "message_count": count, "last_seq": last_seq}
        lines.append(_encode(facts).encode() + b"\n")
        data = b"".join(lines)
        self._write.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?)", spans)  # which finds ids that are known
        self._write.execute(_PUT_HEAD, (session_id, now, count, last_seq, size + len(data)))
        return path, data, size

    def _set(self, namespace: str, key: str, value: Any) -> int:
        path = self._path(f"state:{namespace}")
        with self._lock:
            found = self._write.execute(
                "SELECT version FROM items WHERE namespace = ? AND key = ?", (namespace, key)
            ).fetchone()
            version = 1 + (found[0] if found else 0)
            data = _encode({"set": key, "value": value, "version": version}).encode() + b"\n"
            end = _add(path, data)
            self._write.execute(_PUT_ITEM, (namespace, key, end - len(data), len(data), version))
            return version

    def _get(self, namespace: str, key: str) -> Any:
        found = self._read.execute(
            "SELECT start, length FROM items WHERE namespace = ? AND key = ?", (namespace, key)
        ).fetchone()
        if found is None:
            return None
        with self._path(f"state:{namespace}").open("rb", buffering=0) as file:
            return json.loads(os.pread(file.fileno(), found[1], found[0]))["value"]


def _connected(folder: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(folder / "index.db", isolation_level=None, check_same_thread=False)
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "wal_autocheckpoint = 4000"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    return connection


def _add(path: Path, data: bytes) -> int:
    """Write behind the file's end, and sync; where it ends now."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
        return os.lseek(descriptor, 0, os.SEEK_CUR)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _line(message: Message, seq: int) -> bytes:
    data: dict[str, Any] = {
        "seq": seq,
        "role": message.role,
        "content": message.content,
        "id": message.id,
        "created_at": message.created_at.isoformat(timespec="microseconds"),
    }
    if message.tool_calls:
        data["tool_calls"] = [(call.id, call.name, call.arguments) for call in message.tool_calls]
    for name in ("metadata", "tool_call_id", "name", "run_id"):
        if value := getattr(message, name):
            data[name] = value
    return _encode(data).encode() + b"\n"


def _last(path: Path, limit: int) -> list[Message]:
    """What the end of the file holds, read in larger pieces until there is enough of it."""
    found: list[Any] = []
    with path.open("rb", buffering=0) as file:
        end = os.fstat(file.fileno()).st_size
        size = 0
        while size < end and len(found) < limit:
            size = min(end, 2 * size or limit * _LINE)
            lines = os.pread(file.fileno(), size, end - size).split(b"\n")
            lines = lines[size < end : -1]  # the first may begin before, the last is empty or still being written
            while lines and not lines[-1].startswith(b'{"commit"'):
                lines.pop()
            found = [line for line in lines if not line.startswith(b'{"commit"')]
    return [_message(data) for data in json.loads(b"[" + b",".join(found[-limit:]) + b"]")]


def _message(data: dict[str, Any]) -> Message:
    data["created_at"] = datetime.fromisoformat(data["created_at"])
    if "tool_calls" in data:
        data["tool_calls"] = tuple(ToolCall(*call) for call in data["tool_calls"])
    return Message(**data)
