"""All journals of one store on this machine: begun, found again, and what became of their records."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from agentstore import codec
from agentstore.durable import make_folder, put_file, sync_folder
from agentstore.errors import ConflictError, UnavailableError
from agentstore.home import home
from agentstore.records import utcnow

from . import rejected
from .format import Record, check_journal_id, is_journal_id
from .leftover import Leftover, discard, unsealed, usable
from .reading import segments_of
from .segments import SUFFIX, Segments
from .writer import Journal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import filelock

    from agentstore.url import StoreURL

    from .format import Sealer
    from .writer import Synced

T = TypeVar("T")

_log = logging.getLogger(__name__)

_PATIENCE = 30.0  # seconds for others to begin their journals or to look for leftovers
_ALIASES = {
    "postgres": "postgresql",
    "mariadb": "mysql",
    "rediss": "redis",
    "file": "json",
    "clickhouses": "clickhouse",
}
_FILES = frozenset({"sqlite", "json"})
_SELECTING = frozenset({"schema", "prefix", "db", "host", "port", "unix_socket"})


def journal_dir(chosen: str | os.PathLike[str] | None = None) -> Path:
    """Where journals live: `chosen`, else ``journal`` in ``$AGENTSTORE_HOME`` or the user's data folder."""
    return (home("journal") if chosen is None else Path(chosen)).absolute()


def store_key(url: StoreURL) -> str:
    """The folder name for a store: equal for all URLs that name it, whatever the password and how it is reached.

    Options count if they select another store on the server (a schema, say). It looks at the disk, for a file may
    have several names.
    """
    scheme = url.scheme.partition("+")[0]
    scheme = _ALIASES.get(scheme, scheme)
    if scheme in _FILES:
        name = url.file_path()
        place: list[object] = [name if name in {None, ":memory:"} else os.path.realpath(name or "")]
    else:
        hosts = sorted((name.lower(), port or 0) for name, port in url.hosts)
        options = sorted(option for option in url.options.items() if option[0] in _SELECTING)
        place = [url.username, hosts, url.path.strip("/"), options]
    digest = hashlib.sha256(json.dumps([scheme, *place]).encode())
    return f"{scheme}-{digest.hexdigest()[:32]}"


class Folder:
    """The journals of one store. All calls block, and raise `UnavailableError` where the files cannot be used.

    Args:
        chosen: As `journal_dir` takes it.
        url: The store.
        sealer: Encrypts what is written; None leaves it readable.
    """

    def __init__(self, chosen: str | os.PathLike[str] | None, url: StoreURL, sealer: Sealer | None = None) -> None:
        self._chosen = chosen
        self._url = url
        self._sealer = sealer

    @cached_property
    def path(self) -> Path:
        """The folder; looked up when it is needed, for that looks at the disk."""
        return journal_dir(self._chosen) / store_key(self._url)

    def create(self, journal_id: str, max_bytes: int, on_synced: Synced[T]) -> Journal[T]:
        """Begin a journal, locked for us.

        Args:
            journal_id: A name that no journal of this store had.
            max_bytes: By which `Journal.has_room` answers.
            on_synced: Told of each group on the journal's thread; quick, for the next group waits.

        Raises:
            ConflictError: There is a journal of this name.
            InvalidInputError: A journal cannot have this name.
        """
        path, lock = self._begin(journal_id)
        now = codec.to_micros(utcnow())
        return Journal(path, now, lock, sealer=self._sealer, max_bytes=max_bytes, on_synced=on_synced)

    def keep(self, journal_id: str, records: Sequence[Record]) -> Path:
        """Write a whole journal for the next process that opens the store; its folder.

        It starts no thread: the interpreter may be ending.

        Raises:
            ConflictError: There is a journal of this name.
        """
        path, lock = self._begin(journal_id)
        files = Segments(path, journal_id, codec.to_micros(utcnow()), self._sealer, sys.maxsize)
        try:
            with usable(path):
                files.append(records)
        finally:
            files.end()
            lock.release()
        return path

    def _begin(self, journal_id: str) -> tuple[Path, filelock.BaseFileLock]:
        path = self.path / check_journal_id(journal_id)
        with self._alone():
            try:
                path.mkdir(mode=0o700)
            except FileExistsError as error:
                raise ConflictError(f"there is a journal {path} already", hint="Give each a name of its own") from error
            sync_folder(self.path)
            lock = file_lock(path / "lock")
            lock.acquire(blocking=False)
        return path, lock

    def leftovers(self) -> list[Leftover]:
        """The journals of processes that are gone, locked for us, oldest first.

        Raises:
            SchemaError: A newer version wrote one of them.
        """
        if not self.path.is_dir():
            return []
        found: list[Leftover] = []
        try:
            with self._alone():
                for path in self.path.iterdir():
                    leftover = self._adopt(path) if path.is_dir() and is_journal_id(path.name) else None
                    found += [] if leftover is None else [leftover]
        except BaseException:
            for leftover in found:
                leftover.release()
            raise
        return sorted(found, key=lambda leftover: (leftover.created_at, leftover.id))

    def _adopt(self, path: Path) -> Leftover | None:
        lock = file_lock(path / "lock")
        try:
            lock.acquire(blocking=False)
        except (TimeoutError, FileNotFoundError):  # it is in use, or was removed just now
            return None
        try:
            if segments_of(path):
                return Leftover(path, lock, self.path / "quarantine", self._sealer)
        except BaseException:
            lock.release()
            raise
        discard(path, lock)  # its process died before it stored anything, or after all was settled
        return None

    def reject(self, journal_id: str, position: int, payload: bytes, reason: str) -> Path:
        """Keep what the backend refused, durably; the file it is in.

        Args:
            journal_id: Where it was.
            position: Its place there.
            payload: What it says, not sealed.
            reason: The backend's.
        """
        path = self.path / "rejected" / rejected.name_of(check_journal_id(journal_id), position)
        record = Record(position, payload)
        with usable(self.path):
            make_folder(path.parent)
            self._describe()
            put_file(path, rejected.pack(journal_id, record, reason, codec.to_micros(utcnow()), self._sealer))
        why = reason.encode("utf-8", "backslashreplace").decode()  # it may quote any text, and a log takes clean text
        _log.error(
            "%s refused record %d of journal %s (%s): it is kept in %s", self._url, position, journal_id, why, path
        )
        return path

    def refused(self) -> Iterator[tuple[Path, Record]]:
        """What was refused: each file, and the record in it.

        Raises:
            CorruptRecordError: A file is damaged, or encrypted with another key.
        """
        with usable(self.path):
            for path in sorted((self.path / "rejected").glob("*" + SUFFIX)):
                found = rejected.read(path)
                _, payload = rejected.unpack(unsealed(found, self._sealer, path))
                yield path, Record(found.record.position, payload)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While no other thread or process begins or adopts a journal here; the folder is there."""
        with usable(self.path):
            make_folder(self.path)
            lock = file_lock(self.path / ".lock")
            try:
                lock.acquire(_PATIENCE)
            except TimeoutError as error:
                raise UnavailableError(f"other processes held {lock.lock_file} for {_PATIENCE:g} s") from error
            try:
                self._describe()
                yield
            finally:
                lock.release()

    def _describe(self) -> None:
        path = self.path / "store"
        if not path.exists():
            put_file(path, f"{self._url}\n".encode("utf-8", "backslashreplace"))


def file_lock(path: Path) -> filelock.BaseFileLock:
    """A lock between processes, and between two users of it in this one; it raises `TimeoutError`."""
    from filelock import FileLock  # noqa: PLC0415  who only imports agentstore needs no lock

    return FileLock(path, thread_local=False, mode=0o600)
