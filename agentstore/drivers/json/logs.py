"""What sessions and namespaces share: a log each, and an index that is brought up to date where it lags."""

from __future__ import annotations

import logging
import os
import sqlite3
from abc import ABC, abstractmethod
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from agentstore.errors import CorruptRecordError

from . import lines
from .failures import translated
from .files import Committed, Stamp, corrupt, follows_line, groups, read_spans, stamp, stamp_of
from .index import transaction
from .names import SUFFIX, file_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from agentstore import rules

    from .files import Span
    from .folder import Folder

_PATHS = 1000  # that are kept: making one takes 10 us

_log = logging.getLogger(__name__)


class StaleError(Exception):
    """The index does not agree with a log: bring it up to date under the lock, then ask again."""


@dataclass(slots=True)
class Known:
    """What the index knows of a log.

    Attributes:
        id: Whose log it is.
        path: Of the log, there or not.
        ref: Its number in the index; None if it has none yet.
        stamp: The log's when the index had seen all of it; None if there was none.
        marks: How far queues have come in it.
    """

    id: str
    path: Path
    ref: int | None = None
    stamp: Stamp | None = None
    marks: rules.Marks = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of the log."""
        return self.stamp[1] if self.stamp else 0


K = TypeVar("K", bound=Known)
T = TypeVar("T")


class LogKind(ABC, Generic[K]):
    """The logs of one kind.

    Args:
        folder: They are in.
        name: Of the folder below it.
    """

    all_stamps: str
    """The statement that gives the id, inode and size of all logs."""

    def __init__(self, folder: Folder, name: str) -> None:
        self.folder = folder
        self.place = folder.path / name
        self.path = lru_cache(_PATHS)(self._path)
        folder.kinds.append(self)

    def _path(self, name: str) -> Path:
        """The log of a session or namespace."""
        return self.place / file_name(name)

    # --- what a kind adds ---

    @abstractmethod
    def look(self, connection: sqlite3.Connection, name: str) -> K:
        """What the index knows."""

    @abstractmethod
    def name_of(self, line: dict[str, Any]) -> str:
        """Whose log it is, by its first line."""

    @abstractmethod
    def blank(self, connection: sqlite3.Connection, name: str) -> K:
        """A log about to be read from its start: in the index, but without content."""

    @abstractmethod
    def replay(self, connection: sqlite3.Connection, known: K, group: Committed) -> None:
        """Put what a group says into the index and into `known`."""

    @abstractmethod
    def save(self, connection: sqlite3.Connection, known: K) -> None:
        """Put `known` into the index."""

    @abstractmethod
    def remove(self, connection: sqlite3.Connection, ref: int) -> None:
        """Take a log that is gone out of the index."""

    # --- asking ---

    def answer(self, connection: sqlite3.Connection, name: str, ask: Callable[[sqlite3.Connection, K], T]) -> T:
        """What `ask` says: from the index as it is, or, where that lags, under the lock."""
        known = self.look(connection, name)
        with translated(known.path, OSError):
            if known.stamp == stamp_of(known.path):
                with suppress(StaleError):
                    return ask(connection, known)
            with self.folder.writing() as locked:
                return self.answer_locked(locked, name, ask)

    def answer_locked(self, connection: sqlite3.Connection, name: str, ask: Callable[[sqlite3.Connection, K], T]) -> T:
        """What `ask` says of a log that nobody else changes.

        Raises:
            CorruptRecordError: The log cannot be read.
        """
        known = self.look(connection, name)
        with translated(known.path, OSError):
            if known.stamp == stamp_of(known.path):
                with suppress(StaleError):  # same size, other content: somebody edited it
                    return ask(connection, known)
            with transaction(connection, durable=True):
                self._refresh(connection, known.path, known)
            try:
                return ask(connection, self.look(connection, name))
            except StaleError as error:
                raise CorruptRecordError(f"{known.path} cannot be read: it changes all the time") from error

    def read(self, known: K, spans: Sequence[Span]) -> list[Any]:
        """The lines at `spans`.

        Raises:
            StaleError: The log is not the one the index knows.
        """
        if not spans:
            return []
        try:
            with known.path.open("rb") as file:
                if stamp(os.fstat(file.fileno())) != known.stamp:
                    raise StaleError
                found = read_spans(file, spans)
        except FileNotFoundError as error:
            raise StaleError from error
        with stale_if_malformed():
            return lines.decode_all(found)

    # --- keeping up ---

    def refresh_all(self, connection: sqlite3.Connection) -> list[str]:
        """Make the index agree with all logs, in the caller's transaction. What cannot be read is logged and left.

        Returns:
            The files left out.
        """
        with os.scandir(self.place) as entries:
            found = {e.name: stamp(os.stat(e.path)) for e in entries if e.name.endswith(SUFFIX)}  # noqa: PTH116  fast
        differ: list[tuple[Path, str | None]] = []
        for name, inode, size in connection.execute(self.all_stamps):
            if found.pop(file_name(name), None) != (inode, size):
                differ.append((self.path(name), name))
        differ += [(self.place / unknown, None) for unknown in found]
        left_out: list[str] = []
        for path, id_ in differ:
            connection.execute("SAVEPOINT log")
            try:
                self._refresh(connection, path, None if id_ is None else self.look(connection, id_))
            except (CorruptRecordError, OSError) as error:
                connection.execute("ROLLBACK TO log")
                _log.error("%s is left out: %s", path, error)
                left_out.append(path.name)
            connection.execute("RELEASE log")
        return left_out

    def _refresh(self, connection: sqlite3.Connection, path: Path, before: K | None) -> None:
        """Read what the index has not seen of a log, all of it if need be, and cut off a torn end."""
        there = stamp_of(path)
        known = before if before and before.stamp and there and _grown(path, before.stamp, there) else None
        end = known.size if known else 0
        if there is not None:
            for group in groups(path, end):
                with _corrupt_if_malformed(path, end):
                    known = known or self._started(connection, path, group)
                    self.replay(connection, known, group)
                    known.marks = lines.to_marks(group.facts, known.marks)
                end = group.end
            if end < there[1]:
                _log.warning(
                    "%s ends in %d bytes of a write that was cut short: they are removed", path, there[1] - end
                )
                os.truncate(path, end)
        if known is not None and there is not None and end:
            known.stamp = (there[0], end)
            self.save(connection, known)
        elif before is not None and before.ref is not None:
            self.remove(connection, before.ref)

    def _started(self, connection: sqlite3.Connection, path: Path, group: Committed) -> K:
        name = self.name_of(group.lines[0][1])
        if self.path(name) != path:
            raise ValueError(f"it belongs to {name!r}, whose file is {self.path(name).name}")
        return self.blank(connection, name)


def _grown(path: Path, before: Stamp, there: Stamp) -> bool:
    return before[0] == there[0] and before[1] < there[1] and follows_line(path, before[1])


@contextmanager
def stale_if_malformed() -> Iterator[None]:
    """What is read is not what the index says is there."""
    try:
        yield
    except lines.MALFORMED as error:
        raise StaleError from error


@contextmanager
def _corrupt_if_malformed(path: Path, place: int) -> Iterator[None]:
    try:
        yield
    except (*lines.MALFORMED, IndexError, sqlite3.IntegrityError, sqlite3.InterfaceError) as error:
        raise corrupt(
            path, place, f"it and the lines of its group say nothing that agentstore wrote: {error}"
        ) from error
