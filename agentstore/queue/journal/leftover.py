"""The journal of a process that died, or that closed before the backend had everything."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from agentstore import codec
from agentstore.durable import make_folder, put_file
from agentstore.errors import ClosedError, CorruptRecordError, UnavailableError

from .format import Record, aad
from .reading import Damage, begun, segments_of, walk
from .writer import remove_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    import filelock

    from .format import Sealer
    from .reading import Found

_log = logging.getLogger(__name__)


class Leftover:
    """A journal to be replayed, locked for us until `remove` or `release`. All calls block.

    Attributes:
        id: Its name.
        path: Its folder.
        created_at: When it was begun.
        damage: What the last reading found damaged, with copies in ``quarantine/``.
    """

    def __init__(self, path: Path, lock: filelock.BaseFileLock, quarantine: Path, sealer: Sealer | None) -> None:
        self.id = path.name
        self.path = path
        self.created_at: datetime = codec.from_micros(begun(path))
        self.damage: list[Damage] = []
        self._lock = lock
        self._quarantine = quarantine
        self._sealer = sealer
        self._read = False

    def __repr__(self) -> str:
        return f"Leftover({str(self.path)!r})"

    def records(self) -> Iterator[Record]:
        """All that can be read, in order, each time from the beginning.

        Raises:
            CorruptRecordError: A record is sealed with another key.
            SchemaError: A newer version wrote it.
            UnavailableError: The files cannot be used.
        """
        self._check_held()
        self.damage, self._read = [], False
        with usable(self.path):
            for found in walk(self.path):
                if not isinstance(found, Damage):
                    yield self._opened(found)
                elif found.torn:
                    _log.debug("journal %s: %s", self.id, found)
                else:
                    self.damage.append(self._set_aside(found))
        self._read = True

    def _opened(self, found: Found) -> Record:
        return Record(found.record.position, unsealed(found, self._sealer, self.path))

    def _set_aside(self, damage: Damage) -> Damage:
        make_folder(self._quarantine)
        copy = self._quarantine / f"{self.id}.{damage.path.stem}.{damage.start}"
        put_file(copy, damage.path.read_bytes()[damage.start : damage.end])
        damage = replace(damage, copy=copy)
        _log.error("journal %s: %s", self.id, damage)
        return damage

    def remove(self) -> None:
        """Remove it: all of it is replayed, and what is damaged is set aside.

        Raises:
            ValueError: `records` was not read to its end.
            UnavailableError: It cannot be removed.
        """
        self._check_held()
        if not self._read:
            raise ValueError(f"{self!r} was not read to its end")
        with usable(self.path):
            discard(self.path, self._lock)

    def release(self) -> None:
        """Leave it for later."""
        self._lock.release()

    def _check_held(self) -> None:
        if not self._lock.is_locked:
            raise ClosedError(f"{self!r} is not ours any more", hint="Look for leftovers again")


def discard(path: Path, lock: filelock.BaseFileLock) -> None:
    """Remove a journal, of which we have the lock."""
    for _, segment in segments_of(path):
        segment.unlink()
    remove_folder(path, lock)


def unsealed(found: Found, sealer: Sealer | None, where: Path) -> bytes:
    """The payload of a record.

    Raises:
        CorruptRecordError: It was sealed with another key than that of `sealer`.
    """
    record = found.record
    if not found.header.sealed:
        return record.payload
    what, hint = f"record {record.position} of {where} is encrypted", "Nothing was removed: open again with its key"
    if sealer is None:
        raise CorruptRecordError(f"{what}, and there is no key", hint=f"{hint} in db(encryption_key=...)")
    try:
        return sealer.unseal(record.payload, aad(found.header.journal_id, record.position))
    except CorruptRecordError as error:
        hint = f"{hint}, behind the current one, in db(encryption_key=[...])"
        raise CorruptRecordError(f"{what} and cannot be decrypted: {error}", hint=hint) from error


@contextmanager
def usable(path: Path) -> Iterator[None]:
    """Tell of what the system refuses there as an error of ours."""
    try:
        yield
    except OSError as error:
        raise UnavailableError(
            f"the journal in {path} cannot be used: {error}", hint="QueueOptions.journal_dir chooses another folder"
        ) from error
