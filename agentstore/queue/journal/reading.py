"""What the segments of a journal hold, told from what a crash left of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentstore.errors import CorruptRecordError

from .format import HEADER_BYTES, Gap, Header, Record
from .segments import SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Damage:
    """A place in a segment that cannot be read.

    Attributes:
        path: The segment.
        start: The first byte.
        end: Behind the last one.
        what: Is wrong there.
        torn: Nothing is lost: it was being written when the process died, or the disk failed, and nobody was told that
            it is stored.
        copy: What is there, kept aside; None before that was done.
    """

    path: Path
    start: int
    end: int
    what: str
    torn: bool = False
    copy: Path | None = None

    def __str__(self) -> str:
        kept = f"; they are kept in {self.copy}" if self.copy else ""
        return f"bytes {self.start} to {self.end} of {self.path} cannot be read: {self.what}{kept}"


@dataclass(frozen=True, slots=True)
class Found:
    """A record as it lies in its segment, maybe sealed."""

    header: Header
    record: Record


def segments_of(folder: Path) -> list[tuple[int, Path]]:
    """The segments of a journal with their numbers, in order."""
    found = [path for path in folder.glob("*" + SUFFIX) if path.stem.isascii() and path.stem.isdigit()]
    return sorted((int(path.stem), path) for path in found)


def header_of(path: Path) -> Header | None:
    """The header of a segment; None if it cannot be read.

    Raises:
        SchemaError: A newer version wrote it.
    """
    with path.open("rb") as file:
        try:
            return Header.unpack(file.read(HEADER_BYTES), path)
        except CorruptRecordError:
            return None


def begun(folder: Path) -> int:
    """When a journal was begun, in microseconds since 1970; its folder's time where no segment says it."""
    for _, path in segments_of(folder):
        header = header_of(path)
        if header is not None:
            return header.created_at
    return folder.stat().st_mtime_ns // 1000


def walk(folder: Path, *, live: bool = False) -> Iterator[Found | Damage]:
    """All records of a journal in order, and what is torn or damaged; one segment at a time is in memory.

    Torn is what the last segment has behind its last record, and what another has behind the end that the segment
    after it names.

    Args:
        folder: The journal's.
        live: Its process goes on: a segment that is gone was settled meanwhile.

    Raises:
        SchemaError: A newer version wrote it.
    """
    segments = segments_of(folder)
    for index, (number, path) in enumerate(segments):
        after = segments[index + 1] if index + 1 < len(segments) else None
        try:
            following = header_of(after[1]) if after is not None and after[0] == number + 1 else None
            data = path.read_bytes()
        except FileNotFoundError:
            if live:
                continue
            raise
        end = following.previous_end if following is not None and following.journal_id == folder.name else None
        if end is not None and end < len(data):
            yield Damage(path, end, len(data), "it was never synced", torn=True)
        yield from _in_segment(path, data[:end], folder.name, end, last=after is None)


def _in_segment(path: Path, data: bytes, journal_id: str, end: int | None, *, last: bool) -> Iterator[Found | Damage]:
    if last and (len(data) < HEADER_BYTES or not data.strip(b"\0")):
        yield Damage(path, 0, len(data), "it was being begun", torn=True)
        return
    if data:
        yield from _in_data(path, data, journal_id, last=last)
    if end is not None and len(data) < end:
        yield Damage(path, len(data), end, "the end of the file is missing")


def _in_data(path: Path, data: bytes, journal_id: str, *, last: bool) -> Iterator[Found | Damage]:
    try:
        header = Header.unpack(data, path)
    except CorruptRecordError:
        yield Damage(path, 0, len(data), "its header is damaged")
        return
    if header.journal_id != journal_id:
        yield Damage(path, 0, len(data), f"it belongs to the journal {header.journal_id}")
        return
    for found in header.records(data):
        if not isinstance(found, Gap):
            yield Found(header, found[1])
        elif found.last and last:
            yield Damage(path, found.start, found.end, "it was being written", torn=True)
        else:
            yield Damage(path, found.start, found.end, "it is damaged")
