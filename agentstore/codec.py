"""Values as clean text, and back, equal.

No backend takes every ``str``: PostgreSQL refuses NUL, and UTF-8 has no lone surrogates. So what is stored is *clean*
text: NUL, surrogates and U+001A itself are written as U+001A and four hex digits. U+001A is a control character, which
JSON never leaves bare, so the same escape serves plain text and JSON, and text without those characters (nearly all)
is stored as it is, readable by anyone.

Escapes make a text up to six times as long, and backends have limits for a record (MongoDB 16 MB, MySQL's packets 16 MB
by default) of which 8 MiB of text stay clear. So a long text that is escapes for the greater part is *packed*: U+001A,
``z``, and base64 of what zlib makes of it.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from datetime import UTC, datetime, timedelta
from typing import Any

from .errors import CorruptRecordError, InvalidInputError

_MARK = "\x1a"
_DIRTY = re.compile("[\x00\x1a\ud800-\udfff]")
_ESCAPED = re.compile("\x1a([0-9a-f]{4})")
_PARTS = _MARK + "["
_BYTES = "b:"  # no JSON text starts with it
_PACKED = _MARK + "z"
_PACKED_PARTS = _MARK + _PACKED
_LONG = 2**20  # characters: nobody reads a longer text of escapes
_LARGE = 8 * 2**20  # bytes: what a value may have before its quotes are escaped

_SHALLOWER = "Call from fewer levels of functions"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_decode = json.JSONDecoder().raw_decode


def escape(text: str) -> str:
    """`text` without NUL, surrogates or bare U+001A."""
    if len(text) <= _LONG and text.isascii() and "\0" not in text and _MARK not in text:  # a tenth of the search
        return text
    clean, count = _DIRTY.subn(lambda match: f"{_MARK}{ord(match[0]):04x}", text)
    if len(clean) > _LONG and 4 * (count + clean.count("\\u")) + clean.count("\\") > len(clean) // 3:
        return _PACKED + base64.b64encode(zlib.compress(clean.encode(), 1)).decode()
    return clean


def unescape(text: str) -> str:
    """What `escape` was given.

    Raises:
        CorruptRecordError: `text` is packed, and damaged.
    """
    if _MARK not in text:
        return text
    if text.startswith(_PACKED):
        text = _unpacked(text[len(_PACKED) :])
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)


def _unpacked(packed: str) -> str:
    try:
        return zlib.decompress(base64.b64decode(packed, validate=True)).decode()
    except (ValueError, zlib.error) as error:
        raise CorruptRecordError(f"a packed text cannot be unpacked: {error}") from error


def dumps(value: Any) -> str:
    """`value` as one line of clean JSON text; it must be plain JSON data (see `checks.check_json`).

    Raises:
        InvalidInputError: The caller's stack is too deep already: Python's encoder recurses.
    """
    return escape(_json(value))


def _json(value: Any) -> str:
    try:
        return _encode(value)
    except RecursionError as error:
        raise InvalidInputError("JSON data is nested too deeply for this stack", hint=_SHALLOWER) from error


def loads(text: str) -> Any:
    """What `dumps` was given.

    Raises:
        CorruptRecordError: `text` is no JSON.
    """
    text = unescape(text)
    try:
        value, end = _decode(text)  # json.loads looks for white space around it, which takes longer than a short text
        return value if end == len(text) else json.loads(text)
    except ValueError as error:
        raise CorruptRecordError(f"stored JSON cannot be read: {error}") from error


def content_to_text(content: str | list[Any]) -> str:
    """A message's content as clean text: a string as it is, a list of parts as marked JSON."""
    return escape(content) if isinstance(content, str) else _MARK + dumps(content)


def content_from_text(text: str) -> str | list[Any]:
    """What `content_to_text` was given."""
    if _MARK not in text:  # nearly all
        return text
    if text.startswith((_PARTS, _PACKED_PARTS)):
        parts: list[Any] = loads(text[1:])
        return parts
    return unescape(text)


def value_to_text(value: Any) -> str:
    """A state value as clean text: JSON, or marked base64 for ``bytes``."""
    return _BYTES + base64.b64encode(value).decode() if isinstance(value, bytes) else dumps(value)


def value_from_text(text: str) -> Any:
    """What `value_to_text` was given.

    Raises:
        CorruptRecordError: `text` is neither JSON nor marked base64.
    """
    if not text.startswith(_BYTES):
        return loads(text)
    try:
        return base64.b64decode(text[len(_BYTES) :], validate=True)
    except ValueError as error:
        raise CorruptRecordError(f"stored bytes cannot be read: {error}") from error


def to_bytes(value: Any) -> bytes:
    """A text, ``bytes`` or plain JSON data, as bytes of which the first says what it is.

    Bytes can hold anything, so nothing is escaped, and nothing packed but the JSON text of a value so full of quotes
    and control characters that it has become longer than any value may be.

    Raises:
        InvalidInputError: As `dumps`.
    """
    if isinstance(value, str):
        return b"t" + value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return b"b" + value
    data = _json(value).encode("utf-8", "surrogatepass")
    if len(data) > _LARGE and len(packed := zlib.compress(data, 1)) < len(data):
        return b"z" + packed
    return b"j" + data


def from_bytes(data: bytes) -> Any:
    """What `to_bytes` was given.

    Raises:
        CorruptRecordError: `data` is something else.
    """
    kind, rest = data[:1], data[1:]
    try:
        if kind == b"b":
            return rest
        text = (zlib.decompress(rest) if kind == b"z" else rest).decode("utf-8", "surrogatepass")
        if kind == b"t":
            return text
        if kind in {b"j", b"z"}:
            return json.loads(text)
    except (ValueError, zlib.error) as error:
        raise CorruptRecordError(f"stored bytes cannot be read: {error}") from error
    raise CorruptRecordError(f"stored bytes begin with {kind!r}, which stands for nothing")


def to_micros(moment: datetime) -> int:
    """Whole microseconds since 1970, exact (floats are not)."""
    return (moment - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """The aware UTC datetime of `to_micros`."""
    return _EPOCH + micros * _MICROSECOND  # half of what `timedelta(microseconds=micros)` takes
