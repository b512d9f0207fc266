"""The segment files of a journal, as its one writer sees them."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentstore.durable import sync, sync_folder, write

from .format import Header, aad

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from .format import Record, Sealer

_log = logging.getLogger(__name__)

SUFFIX = ".log"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_BINARY", 0)


@dataclass(slots=True, eq=False)
class Segment:
    """A file of records.

    Attributes:
        path: It is there as soon as `size` is not 0.
        number: Of the segment in its journal, from 1.
        header: What its file begins with.
        size: Bytes that were synced.
        last: The position of its last record.
        outstanding: Positions of records that nobody has settled.
    """

    path: Path
    number: int
    header: Header
    size: int = 0
    last: int = -1
    outstanding: set[int] = field(default_factory=set)


class Segments:
    """Writes groups of records, each whole and synced or not at all. Used by one thread.

    Args:
        folder: The journal's.
        journal_id: Its name.
        created_at: Its beginning, in microseconds since 1970.
        sealer: Encrypts the payloads.
        segment_bytes: A segment of so many bytes takes no further group.
    """

    def __init__(
        self, folder: Path, journal_id: str, created_at: int, sealer: Sealer | None, segment_bytes: int
    ) -> None:
        self._folder = folder
        self._id = journal_id
        self._created_at = created_at
        self._sealer = sealer
        self._segment_bytes = segment_bytes
        self._number = 0
        self._previous_end = 0
        self._file: int | None = None
        self.current: Segment | None = None

    def append(self, group: Iterable[Record]) -> Segment:
        """Write and sync a group; the segment it went into.

        Raises:
            OSError: Nothing of the group is stored, and the next one may be tried.
        """
        if self.current is not None and self.current.size >= self._segment_bytes:
            self.end()
        segment = self.current or self._next()
        data = b"".join(self._packed(segment.header, record) for record in group)
        if segment.size:
            self._write(segment, data)
        else:
            self._begin(segment, data)
        return segment

    def _packed(self, header: Header, record: Record) -> bytes:
        payload = record.payload
        if self._sealer is not None:
            payload = self._sealer.seal(payload, aad(self._id, record.position))
        return header.pack_record(record.position, payload)

    def _next(self) -> Segment:
        sealed = self._sealer is not None
        header = Header(self._id, self._created_at, sealed=sealed, previous_end=self._previous_end)
        return Segment(self._folder / f"{self._number + 1:08}{SUFFIX}", self._number + 1, header)

    def _begin(self, segment: Segment, data: bytes) -> None:
        """Write the first group of a segment, and its header."""
        self._file = os.open(segment.path, _NEW, 0o600)
        self.current, self._number = segment, segment.number
        self._write(segment, segment.header.pack() + data)
        try:
            sync_folder(self._folder)
        except OSError:
            segment.size = 0
            self._abandon(segment)
            raise

    def _write(self, segment: Segment, data: bytes) -> None:
        file = self._file
        if file is None:
            raise ValueError("there is no open segment")
        try:
            write(file, data)
        except OSError:
            self._cut(segment, file)
            raise
        try:
            sync(file)
        except OSError as error:
            _log.error("%s is written no further, as it could not be synced: %s", segment.path, error)
            self._abandon(segment)
            raise
        segment.size += len(data)

    def _cut(self, segment: Segment, file: int) -> None:
        """Take back what was written of a group."""
        if not segment.size:
            self._abandon(segment)
            return
        try:
            os.ftruncate(file, segment.size)
            sync(file)
        except OSError:
            self._abandon(segment)

    def _abandon(self, segment: Segment) -> None:
        """Go on in a new segment: after a sync that failed nobody knows what the disk has of this one's pages.

        What lies beyond its synced size is none of ours: the header of the next segment says so. Taking it away now
        matters only if there will be no next one, and may fail as the sync did.
        """
        file, self._file = self._file, None
        self.current, self._previous_end = None, segment.size
        with contextlib.suppress(OSError):
            if file is not None and segment.size:
                os.ftruncate(file, segment.size)
        with contextlib.suppress(OSError):
            if file is not None:
                os.close(file)
        with contextlib.suppress(OSError):
            if not segment.size:
                segment.path.unlink()

    def end(self) -> None:
        """Add nothing to the current segment any more, if there is one."""
        file, self._file = self._file, None  # in this order: a child forked now must not close another's descriptor
        if self.current is not None:
            self._previous_end, self.current = self.current.size, None
        if file is not None:
            os.close(file)

    def forget(self) -> None:
        """After a fork: the files are the parent's."""
        file, self._file, self.current = self._file, None, None
        if file is not None:
            os.close(file)
