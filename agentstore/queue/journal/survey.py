"""All journals under a folder, live ones too, for people who look. Nothing is changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agentstore import codec
from agentstore.errors import CorruptRecordError, UnavailableError

from . import rejected
from .folder import file_lock
from .format import is_journal_id
from .leftover import usable
from .reading import Damage, Found, begun, segments_of, walk
from .segments import SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

_PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A journal, or what was refused of one.

    Attributes:
        id: The journal's.
        store: Its store's URL, masked.
        state: ``live`` if its process goes on, ``dead`` if it waits to be replayed, or ``rejected``.
        created_at: When it was begun, or the first of it refused.
        files: Its files.
        path: Their folder.
    """

    id: str
    store: str
    state: Literal["live", "dead", "rejected"]
    created_at: datetime
    files: tuple[Path, ...]
    path: Path

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return sum(path.stat().st_size for path in self.files if path.exists())

    def entries(self) -> Iterator[Found | Damage]:
        """All records in order, and what is torn or damaged."""
        with usable(self.path):
            if self.state == "rejected":
                yield from map(_refused, self.files)
            else:
                yield from walk(self.path, live=self.state == "live")


def survey(base: Path) -> list[Seen]:
    """All journals of all stores that have some there, oldest first.

    Raises:
        UnavailableError: The files cannot be read.
        SchemaError: A newer version wrote them.
    """
    found: list[Seen] = []
    with usable(base):
        for folder in base.iterdir() if base.is_dir() else ():
            if (folder / "store").is_file():
                found += _of_store(folder)
    return sorted(found, key=lambda seen: (seen.created_at, seen.id))


def _of_store(folder: Path) -> Iterator[Seen]:
    store = (folder / "store").read_text("utf-8").strip()
    lock = file_lock(folder / ".lock")
    try:
        lock.acquire(_PATIENCE)  # who looks for leftovers now must not take our look for a life
    except TimeoutError as error:
        raise UnavailableError(f"other processes held {lock.lock_file} for {_PATIENCE:g} s") from error
    try:
        for path in folder.iterdir():
            files = tuple(segment for _, segment in segments_of(path)) if is_journal_id(path.name) else ()
            if files:
                state: Literal["live", "dead"] = "live" if _is_held(path / "lock") else "dead"
                yield Seen(path.name, store, state, codec.from_micros(begun(path)), files, path)
    finally:
        lock.release()
    yield from _rejected(folder / "rejected", store)


def _is_held(path: Path) -> bool:
    lock = file_lock(path)
    try:
        lock.acquire(blocking=False)
    except TimeoutError:
        return True
    lock.release()
    return False


def _rejected(folder: Path, store: str) -> Iterator[Seen]:
    by_journal: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*" + SUFFIX)):
        by_journal.setdefault(path.stem.rpartition("-")[0], []).append(path)
    for journal_id, files in by_journal.items():
        first = min(map(_refused_at, files))
        yield Seen(journal_id, store, "rejected", codec.from_micros(first), tuple(files), folder)


def _refused_at(path: Path) -> int:
    found = _refused(path)
    return path.stat().st_mtime_ns // 1000 if isinstance(found, Damage) else found.header.created_at


def _refused(path: Path) -> Found | Damage:
    try:
        return rejected.read(path)
    except CorruptRecordError as error:
        return Damage(path, 0, path.stat().st_size, str(error))
