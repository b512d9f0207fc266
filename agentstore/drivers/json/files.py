"""Logs as files: groups read back, torn ends found, writes that happen whole or not at all."""

from __future__ import annotations

import os
from concurrent.futures import wait
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from agentstore.durable import write
from agentstore.errors import CorruptRecordError

from . import lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

Stamp: TypeAlias = tuple[str, int]
"""(inode, size): together they tell whether the index has seen all of a log. The inode is text: it may pass 63 bits."""

Span: TypeAlias = tuple[int, int]
"""(start, length) of a line."""

TEMPORARY = ".new"

_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)  # what `open` costs three times as much
_TRUNCATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
_GAP = 4096  # reading over a gap this small costs less than another call
_RUN = 16 * 2**20


def stamp(status: os.stat_result) -> Stamp:
    """What identifies the state of a log."""
    return str(status.st_ino), status.st_size


def stamp_of(path: Path) -> Stamp | None:
    """The stamp of the log at `path`; None where there is none, or an empty one."""
    try:
        found = stamp(os.stat(path))  # noqa: PTH116  pathlib costs more than the call itself
    except FileNotFoundError:
        return None
    return found if found[1] else None


def read_spans(file: IO[bytes], spans: Sequence[Span]) -> list[bytes]:
    """The lines at `spans`, in that order; neighbours are read in one call."""
    order = sorted(range(len(spans)), key=spans.__getitem__)
    found = [b""] * len(spans)
    first = 0
    while first < len(order):
        start, length = spans[order[first]]
        end, last = start + length, first + 1
        while last < len(order):
            place, length = spans[order[last]]
            if place - end > _GAP or place + length - start > _RUN:
                break
            end, last = place + length, last + 1
        file.seek(start)
        data = file.read(end - start)
        for index in order[first:last]:
            place, length = spans[index]
            found[index] = data[place - start : place - start + length]
        first = last
    return found


# --- reading a log from end to end ------------------------------------------------------------------------------


@dataclass(slots=True)
class Committed:
    """A group of a log.

    Attributes:
        lines: Its lines, but for the last, each with its place.
        facts: What the last line says.
        end: Where in the file it ends.
    """

    lines: list[tuple[Span, dict[str, Any]]]
    facts: dict[str, Any]
    end: int


def groups(path: Path, start: int) -> Iterator[Committed]:
    """The groups of a log from `start`, which is a group's first byte. A torn end is passed over.

    A power cut may leave pages of zeros in the last group, which no program was told is stored: such an end is torn
    as well. All other lines that cannot be read were stored once.

    Raises:
        CorruptRecordError: A complete line is none of ours.
    """
    pending: list[tuple[Span, dict[str, Any]]] = []
    zeros: int | None = None
    ended = False
    place = start
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                return
            if ended and zeros is not None:
                raise corrupt(path, zeros, "it holds zeros")
            span = (place, len(line))
            place += len(line)
            try:
                data = lines.decode(line)
            except lines.MALFORMED as error:
                if b"\0" not in line:
                    raise corrupt(path, span[0], f"it is no JSON: {error}") from error
                zeros = span[0] if zeros is None else zeros
                continue
            if not isinstance(data, dict):
                raise corrupt(path, span[0], "it is no JSON object")
            if "commit" not in data:
                pending.append((span, data))
            elif zeros is not None:
                ended = True
            elif data["commit"] != len(pending):
                raise corrupt(path, span[0], f"it ends {data['commit']} lines, but {len(pending)} are there")
            else:
                yield Committed(pending, data, place)
                pending = []


def corrupt(path: Path, place: int, what: str) -> CorruptRecordError:
    """The error for the line at byte `place`, named by its number."""
    with path.open("rb") as file:
        number = 1 + sum(chunk.count(b"\n") for chunk in _chunks(file, place))
    return CorruptRecordError(
        f"line {number} of {path} cannot be read: {what}",
        hint="Mend that line from a backup (or move the file away); until then nothing is added to it",
    )


def _chunks(file: IO[bytes], size: int) -> Iterator[bytes]:
    while size > 0 and (chunk := file.read(min(size, 2**20))):
        size -= len(chunk)
        yield chunk


def follows_line(path: Path, place: int) -> bool:
    """Whether a line ends right before byte `place`."""
    with path.open("rb") as file:
        file.seek(place - 1)
        return file.read(1) == b"\n"


# --- writing ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Edit:
    """Bytes for one log: behind what it holds, or (`replaces`) in a new file that takes its place.

    Attributes:
        path: The log.
        data: What is written.
        size: Of the log now, up to which all is committed.
        replaces: Whether the old file goes.
        stamp: That of the log afterwards; known once it is written.
    """

    path: Path
    data: bytes
    size: int
    replaces: bool
    stamp: Stamp = field(default=("", 0))

    @property
    def target(self) -> Path:
        """The file that is written to."""
        return self.path.with_name(self.path.name + TEMPORARY) if self.replaces else self.path

    def write(self) -> None:
        """Write and sync; whoever calls undoes it if this fails."""
        number = os.open(self.target, _TRUNCATE if self.replaces else _APPEND, 0o666)
        try:
            write(number, self.data)
            os.fsync(number)
            self.stamp = stamp(os.fstat(number))
        finally:
            os.close(number)

    def undo(self) -> None:
        """Take back what was written, as far as it came."""
        if self.replaces or not self.size:
            self.target.unlink(missing_ok=True)
        else:
            os.truncate(self.path, self.size)


def write_all(edits: Sequence[Edit], helpers: Executor) -> None:
    """Write and sync all; the disk syncs many files at once in less time than one by one.

    Raises:
        OSError: The first that failed, when all have ended; what the others wrote is still there.
    """
    rest = [helpers.submit(edit.write) for edit in edits[1:]]
    try:
        edits[0].write()
    finally:
        if rest:
            wait(rest)
    for future in rest:
        future.result()


def undo_all(edits: Sequence[Edit]) -> None:
    """Take all back that can be taken back.

    Raises:
        OSError: The first that failed.
    """
    failed: list[OSError] = []
    for edit in edits:
        try:
            edit.undo()
        except OSError as error:
            failed.append(error)
    if failed:
        raise failed[0]
