"""The folder: its layout, its locks, and the one way in which anything in it is written."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import filelock

from agentstore.concurrency import DaemonExecutor
from agentstore.durable import make_folder, put_file, sync_folder
from agentstore.errors import CorruptRecordError, SchemaError, UnavailableError

from .failures import DAMAGED, code_of
from .files import TEMPORARY, Edit, undo_all, write_all
from .index import Index, transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_log = logging.getLogger(__name__)

FORMAT = 1
_POLL = 0.002  # seconds between looks at a lock that another process holds
_SYNCS_AT_ONCE = 32  # threads: 16 to 64 measure alike


class Logs(Protocol):
    """The logs of one kind, as the folder sees them."""

    place: Path

    def refresh_all(self, connection: sqlite3.Connection) -> list[str]:
        """Make the index agree with all logs of this kind; the files that cannot be read."""


class Folder:
    """A folder of logs with its index.

    Args:
        path: Created at the first use.
        timeout: Seconds to wait for other writers.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self.path = path
        self._name = str(path)
        self.kinds: list[Logs] = []
        self._timeout = timeout
        self._thread_lock = threading.Lock()
        self._process_lock = filelock.FileLock(path / ".lock", thread_local=False)
        self._index = Index(path / "index.db", timeout)
        self._helpers = DaemonExecutor(_SYNCS_AT_ONCE, "agentstore-json-sync")

    def close(self) -> None:
        """Let go of everything; no call is under way."""
        self._helpers.shutdown()
        self._index.close()

    # --- who may look, who may write ---

    def ping(self) -> None:
        """See whether the folder and the index are there."""
        self.reading().execute("SELECT 1").fetchone()

    def reading(self) -> sqlite3.Connection:
        """The index, for looking things up. It may lag behind the logs: compare stamps."""
        connection = self._index.connection()
        if connection is None:
            with self.writing() as connection:
                return connection
        return connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The index, while no other thread or process writes.

        Raises:
            UnavailableError: Others held the lock for too long.
        """
        if not self._thread_lock.acquire(timeout=self._timeout):
            raise UnavailableError(
                f"other writes to {self.path} took longer than {self._timeout:g} s",
                hint="Try again, or raise PoolOptions.statement_timeout",
                passing=False,
            )
        try:
            if not os.path.isdir(self._name):  # noqa: PTH112  pathlib takes four times as long
                make_folder(self.path)
            with self._process_lock.acquire(self._timeout, _POLL):
                yield self._index.connection() or self._prepared()
        finally:
            self._thread_lock.release()

    def renew(self) -> None:
        """Have the index made anew at the next use, as it is damaged."""
        with self._thread_lock, self._process_lock.acquire(self._timeout, _POLL):
            self._index.discard()

    def _prepared(self) -> sqlite3.Connection:
        self._check_format()
        for logs in self.kinds:
            make_folder(logs.place)
            for left in logs.place.glob("*" + TEMPORARY):  # by a process that died
                left.unlink()
        try:
            connection = self._index.prepared()
            self.compare(connection)
        except sqlite3.DatabaseError as error:
            if code_of(error) not in DAMAGED:
                raise
            self._index.discard()
            connection = self._index.prepared()
            self.compare(connection)
        self._index.accept()
        return connection

    def compare(self, connection: sqlite3.Connection) -> list[str]:
        """Make the index agree with all logs; the files that cannot be read. The caller is `writing`."""
        with transaction(connection, durable=True):
            return [name for logs in self.kinds for name in logs.refresh_all(connection)]

    def _check_format(self) -> None:
        path = self.path / "agentstore.json"
        if not path.exists():
            put_file(path, json.dumps({"format": FORMAT}).encode() + b"\n")
            return
        try:
            found = json.loads(path.read_bytes())["format"]
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptRecordError(
                f"{path} cannot be read: {error}", hint=f'It should hold {{"format": {FORMAT}}}'
            ) from error
        if found != FORMAT:
            raise SchemaError(
                f"{self.path} has format {found!r}; this version of agentstore knows format {FORMAT}",
                hint="Install a newer agentstore",
            )

    # --- writing ---

    def store(self, connection: sqlite3.Connection, edits: Sequence[Edit], record: Callable[[], None]) -> None:
        """Write to logs, durably, and record it in the index: all of it or nothing.

        Args:
            connection: What `writing` gave.
            edits: At most one for each log.
            record: Puts the outcome into the index; the edits know their stamps by then.

        Raises:
            OSError, sqlite3.Error: Nothing was stored. (If the very last step failed, a replaced log may stay so.)
        """
        if not edits:
            return
        replaced = [edit for edit in edits if edit.replaces]
        try:
            write_all(edits, self._helpers)
            for place in {edit.path.parent for edit in edits if not edit.size and not edit.replaces}:
                sync_folder(place)
            with transaction(connection, durable=bool(replaced)):
                record()
                for edit in replaced:
                    edit.target.replace(edit.path)
                for place in {edit.path.parent for edit in replaced}:
                    sync_folder(place)
        except BaseException:
            try:
                undo_all(edits)
            except OSError:
                _log.exception("what could not be stored in %s could not be taken back either", self.path)
            raise
