"""A segment in bytes: a header, then records.

Everything is little-endian. The header (112 bytes): magic, format version, flags (1: sealed), the journal's creation
time in microseconds, a random nonce of the segment, up to which byte the segment before this one holds what was synced,
the journal's id, and a CRC-32 of all that. A record: the first four bytes of the nonce, by which a reader finds it
again behind damage; a CRC-32 over nonce, position, length and payload; position; length; payload. So neither stale
bytes of a reused block nor records of another segment ever pass for records of this one.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from agentstore.errors import CorruptRecordError, InvalidInputError, SchemaError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VERSION = 1
_MAGIC = b"agentjnl"
_SEALED = 1
_HEADER = struct.Struct("<8sHHq16sQ64s")
_CHECK = struct.Struct("<I")
_PLACE = struct.Struct("<QI")
_MARK = 4

HEADER_BYTES = _HEADER.size + _CHECK.size
RECORD_BYTES = _MARK + _CHECK.size + _PLACE.size
"""What a record takes beside its payload."""

_ID = re.compile("[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
OTHERS = ("rejected", "quarantine", "store")
"""Names beside those of journals."""


class Sealer(Protocol):
    """Encrypts payloads, and tells whether they were changed."""

    def seal(self, data: bytes, aad: bytes) -> bytes:
        """`data` so that nobody else reads it, bound to `aad`."""

    def unseal(self, data: bytes, aad: bytes) -> bytes:
        """What `seal` was given with the same `aad`.

        Raises:
            CorruptRecordError: Another key sealed it, for another `aad`, or it was changed.
        """


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of a journal."""

    position: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes of a segment, from `start` to `end`, that hold no record; `last` if no record comes behind them."""

    start: int
    end: int
    last: bool


def is_journal_id(name: str) -> bool:
    """Whether a journal may be called so."""
    return _ID.fullmatch(name) is not None and name not in OTHERS


def check_journal_id(name: str) -> str:
    """`name`, if it is a word of up to 64 ASCII letters, digits, ``-`` and ``_`` that is not used otherwise.

    Raises:
        InvalidInputError: It is not.
    """
    if not is_journal_id(name):
        raise InvalidInputError(f"journal_id is {name!r}: it must be up to 64 ASCII letters, digits, - and _")
    return name


def aad(journal_id: str, position: int) -> bytes:
    """What a sealed payload is bound to: its place."""
    return f"{journal_id}:{position}".encode()


class Header:
    """The head of a segment, and the records that only it makes readable.

    Attributes:
        journal_id: Whose it is.
        created_at: When the journal was begun, in microseconds since 1970.
        sealed: Whether payloads are.
        previous_end: Up to where the segment with the number before holds what was synced.
        nonce: 16 random bytes.
    """

    __slots__ = ("_seed", "created_at", "journal_id", "nonce", "previous_end", "sealed")

    def __init__(
        self, journal_id: str, created_at: int, *, sealed: bool, previous_end: int = 0, nonce: bytes | None = None
    ) -> None:
        self.journal_id = journal_id
        self.created_at = created_at
        self.sealed = sealed
        self.previous_end = previous_end
        self.nonce = os.urandom(16) if nonce is None else nonce
        self._seed = zlib.crc32(self.nonce)

    def pack(self) -> bytes:
        """The header's bytes."""
        flags = _SEALED if self.sealed else 0
        name = self.journal_id.encode()
        head = _HEADER.pack(_MAGIC, VERSION, flags, self.created_at, self.nonce, self.previous_end, name)
        return head + _CHECK.pack(zlib.crc32(head))

    @classmethod
    def unpack(cls, data: bytes, path: Path) -> Header:
        """The header at the beginning of a segment.

        Args:
            data: The segment, or its beginning.
            path: Where it is, for messages.

        Raises:
            CorruptRecordError: There is none, or it is damaged.
            SchemaError: A newer version wrote it.
        """
        head = data[: _HEADER.size]
        check = data[_HEADER.size : HEADER_BYTES]
        if len(check) < _CHECK.size or not head.startswith(_MAGIC) or check != _CHECK.pack(zlib.crc32(head)):
            raise CorruptRecordError("the header of the segment is damaged")
        _, version, flags, created_at, nonce, previous_end, name = _HEADER.unpack(head)
        if version > VERSION:
            raise SchemaError(
                f"{path} holds accepted writes in format {version}; this version of agentstore knows format {VERSION}",
                hint="Install the newer agentstore that wrote it, and open the store once, which stores them",
            )
        name = name.rstrip(b"\0").decode()
        return cls(name, created_at, sealed=bool(flags & _SEALED), previous_end=previous_end, nonce=nonce)

    def pack_record(self, position: int, payload: bytes) -> bytes:
        """A record's bytes; the payload is sealed already, where it is to be."""
        place = _PLACE.pack(position, len(payload))
        check = zlib.crc32(payload, zlib.crc32(place, self._seed))
        return b"".join((self.nonce[:_MARK], _CHECK.pack(check), place, payload))

    def record_at(self, data: bytes, start: int) -> tuple[Record, int] | None:
        """The record that begins at byte `start` and where it ends; None if there is none that is whole."""
        body = start + RECORD_BYTES
        if len(data) < body or not data.startswith(self.nonce[:_MARK], start):
            return None
        (check,) = _CHECK.unpack_from(data, start + _MARK)
        position, length = _PLACE.unpack_from(data, start + _MARK + _CHECK.size)
        if len(data) < body + length:
            return None
        payload = data[body : body + length]
        place = data[body - _PLACE.size : body]
        if check != zlib.crc32(payload, zlib.crc32(place, self._seed)):
            return None
        return Record(position, payload), body + length

    def records(self, data: bytes) -> Iterator[tuple[int, Record] | Gap]:
        """The records of the segment, each with its place, and the gaps between them where it is damaged."""
        place = HEADER_BYTES
        while place < len(data):
            found = self.record_at(data, place)
            if found is not None:
                yield place, found[0]
                place = found[1]
                continue
            after = self._next_record(data, place + 1)
            yield Gap(place, len(data) if after is None else after, after is None)
            if after is None:
                return
            place = after

    def _next_record(self, data: bytes, place: int) -> int | None:
        while (place := data.find(self.nonce[:_MARK], place)) >= 0:
            if self.record_at(data, place) is not None:
                return place
            place += 1
        return None
