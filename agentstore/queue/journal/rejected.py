"""Records that the backend refused, each in a file of its own, with the reason."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from agentstore.errors import CorruptRecordError

from .format import HEADER_BYTES, Header, Record, aad
from .reading import Found
from .segments import SUFFIX

if TYPE_CHECKING:
    from pathlib import Path

    from .format import Sealer

_LENGTH = struct.Struct("<I")


def name_of(journal_id: str, position: int) -> str:
    """The file for a record; rejecting it once more, after a crash in between, writes the same again."""
    return f"{journal_id}-{position:012}{SUFFIX}"


def pack(journal_id: str, record: Record, reason: str, created_at: int, sealer: Sealer | None) -> bytes:
    """The bytes of such a file: a segment of one record, the reason before its payload."""
    told = reason.encode("utf-8", "surrogatepass")
    body = _LENGTH.pack(len(told)) + told + record.payload
    if sealer is not None:
        body = sealer.seal(body, aad(journal_id, record.position))
    header = Header(journal_id, created_at, sealed=sealer is not None)
    return header.pack() + header.pack_record(record.position, body)


def read(path: Path) -> Found:
    """The record of such a file, maybe sealed.

    Raises:
        CorruptRecordError: It is damaged.
        SchemaError: A newer version wrote it.
    """
    data = path.read_bytes()
    header = Header.unpack(data, path)
    found = header.record_at(data, HEADER_BYTES)
    if found is None or found[1] != len(data):
        raise CorruptRecordError(f"{path} is damaged")
    return Found(header, found[0])


def unpack(body: bytes) -> tuple[str, bytes]:
    """The reason and the payload of what `read` gave, unsealed."""
    end = _LENGTH.size + _LENGTH.unpack_from(body)[0]
    return body[_LENGTH.size : end].decode("utf-8", "surrogatepass"), body[end:]
