"""The index beside the logs: where each line stands. Derived from them alone, so it may be deleted at any time."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agentstore.forking import SQLITE

from .failures import DAMAGED, code_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_VERSION = 2
_CHECKPOINT = 4000  # pages of the write-ahead log: each checkpoint syncs twice
_SCHEMA = """
CREATE TABLE sessions (
    ref INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, inode TEXT NOT NULL, size INTEGER NOT NULL,
    last_seq INTEGER NOT NULL, user_id TEXT, agent TEXT, title TEXT, metadata TEXT, created_at INTEGER,
    updated_at INTEGER, message_count INTEGER, expires_at INTEGER, parent_id TEXT, marks TEXT
);
CREATE INDEX sessions_listed ON sessions (updated_at, id) WHERE updated_at IS NOT NULL;
CREATE INDEX sessions_by_user ON sessions (user_id, updated_at, id) WHERE user_id IS NOT NULL;
CREATE INDEX sessions_by_agent ON sessions (agent, updated_at, id) WHERE agent IS NOT NULL;
CREATE INDEX sessions_expiring ON sessions (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE messages (
    ref INTEGER NOT NULL, seq INTEGER NOT NULL, start INTEGER NOT NULL, length INTEGER NOT NULL, id TEXT NOT NULL,
    PRIMARY KEY (ref, seq)
) WITHOUT ROWID;
CREATE UNIQUE INDEX message_ids ON messages (ref, id);
CREATE TABLE namespaces (
    ref INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, inode TEXT NOT NULL, size INTEGER NOT NULL,
    floor INTEGER NOT NULL, live INTEGER NOT NULL, marks TEXT
);
CREATE TABLE items (
    ref INTEGER NOT NULL, key TEXT NOT NULL, start INTEGER NOT NULL, length INTEGER NOT NULL,
    version INTEGER NOT NULL, expires_at INTEGER, PRIMARY KEY (ref, key)
) WITHOUT ROWID;
CREATE INDEX items_expiring ON items (expires_at) WHERE expires_at IS NOT NULL;
"""


class Index:
    """A connection to ``index.db`` for each thread, which must be inside `SQLITE` when it asks for it and uses it.

    A connection is good only as long as the path leads to the file that this process has compared with the logs:
    another process, or a person, may have put another one there.

    Args:
        path: Of the file.
        timeout: Seconds to wait for another program that holds it.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        self._here = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._inode: int | None = None
        self._end = weakref.finalize(self, _close_all, self._opened)

    def connection(self) -> sqlite3.Connection | None:
        """This thread's connection; None as long as the index must be `accept`-ed (again)."""
        inode = self._present()
        if inode is None or inode != self._inode:
            return None
        if getattr(self._here, "inode", None) != inode:
            self.forget()
            connection = self._connect()
            self._here.connection, self._here.inode = connection, inode
            if _version(connection) != _VERSION:
                self.forget()
                return None
        found: sqlite3.Connection = self._here.connection
        return found

    def prepared(self) -> sqlite3.Connection:
        """A connection to an index with its tables; what cannot be read is replaced by an empty one.

        The caller holds the folder's lock, compares the index with the logs and then calls `accept`.
        """
        self.forget()
        try:
            connection = self._connect()
            if _version(connection) == _VERSION:
                self._here.connection = connection
                return connection
        except sqlite3.DatabaseError as error:
            if code_of(error) not in DAMAGED:
                raise
        self.discard()
        connection = self._connect()
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT")
        self._here.connection = connection
        return connection

    def accept(self) -> None:
        """From now on this process relies on the file that is there."""
        self._inode = self._here.inode = self._present()

    def discard(self) -> None:
        """Delete the index; the caller holds the folder's lock."""
        self._inode = None
        self.forget()
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def forget(self) -> None:
        """Close this thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._here, "connection", None)
        self._here.connection = self._here.inode = None
        if connection is not None:
            self._opened.remove(connection)
            connection.close()

    def part(self) -> None:
        """Close all connections for a fork; the file stays accepted."""
        _close_all(self._opened)
        self._here = threading.local()

    def close(self) -> None:
        """Close all connections; no thread uses one any more."""
        self._end()

    def _present(self) -> int | None:
        try:
            return os.stat(self._path).st_ino  # noqa: PTH116  pathlib costs more than the call itself
        except FileNotFoundError:
            return None

    def _connect(self) -> sqlite3.Connection:
        SQLITE.connecting(self)
        # Whoever closes the store, or forks, closes the connections of all threads.
        connection = sqlite3.connect(
            self._path, timeout=self._timeout, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        self._opened.append(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")
        return connection


@contextmanager
def transaction(connection: sqlite3.Connection, *, durable: bool = False) -> Iterator[None]:
    """All or nothing.

    Args:
        connection: Of a thread that holds the folder's lock.
        durable: Sync before it counts as done. Needed where a log was replaced: after a power cut, an index that had
            missed two replacements could take the second for what it knows (inodes are used again). What was only
            appended is found by its size.
    """
    if durable:
        connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    finally:
        if durable:
            connection.execute("PRAGMA synchronous = NORMAL")


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def _close_all(connections: list[sqlite3.Connection]) -> None:
    for connection in connections:
        connection.close()
    connections.clear()
