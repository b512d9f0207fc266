"""What may be stored, checked once, where a call enters.

Everything below the face may rely on it: ids are exact and short, JSON is plain and shallow enough to read back
anywhere, sizes are bounded.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from . import codec
from .errors import InvalidInputError, MessageTooLargeError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .records import Message

MAX_ID = 255
"""Characters of an id, a namespace or a key."""

MAX_BYTES = 8 * 2**20
"""UTF-8 bytes of a message's content, tool calls and metadata together, or of a state value."""

MAX_DEPTH = 200
"""Levels of nesting in JSON data. Python's own decoder shares its limit of about 1,000 with the caller's stack."""

_BARRED = re.compile("[\x00\ud800-\udfff]")
_MAX_TTL = timedelta(days=365_000)
_MAX_INT = 10**4300  # Python refuses to print longer ints: sys.int_info.default_max_str_digits


def check_id(value: Any, what: str) -> str:
    """`value`, if it is a non-empty str of at most 255 characters without NUL or surrogates.

    Raises:
        InvalidInputError: It is not; `what` names the argument.
    """
    if not isinstance(value, str):
        raise InvalidInputError(f"{what} must be a str, not {type(value).__name__}")
    if not value:
        raise InvalidInputError(f"{what} is empty")
    if len(value) > MAX_ID:
        raise InvalidInputError(f"{what} has {len(value)} characters; at most {MAX_ID} are allowed")
    if _BARRED.search(value):
        raise InvalidInputError(f"{what} {value!r} holds a NUL or a lone surrogate")
    return value


def check_optional_id(value: Any, what: str) -> str | None:
    """`check_id`, but None may pass."""
    return None if value is None else check_id(value, what)


def check_json(value: Any, what: str) -> None:
    """Let plain JSON data pass: dict with str keys, list, str, int, finite float, bool, None.

    Raises:
        InvalidInputError: Anything else, at any depth, or nesting beyond `MAX_DEPTH`; the place is named.
    """
    stack: list[tuple[Any, str, int]] = [(value, what, 0)]
    while stack:
        item, path, depth = stack.pop()
        if item is None or isinstance(item, (str, bool)):
            continue
        if isinstance(item, (dict, list)):
            if depth >= MAX_DEPTH:
                raise InvalidInputError(f"{what} is nested more than {MAX_DEPTH} levels deep")
            stack.extend((child, place, depth + 1) for child, place in _children(item, path))
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise InvalidInputError(f"{path} is {item!r}, which JSON cannot carry")
        elif not isinstance(item, int):
            raise InvalidInputError(f"{path} is a {type(item).__name__}, which JSON cannot carry")
        elif not -_MAX_INT < item < _MAX_INT:
            raise InvalidInputError(f"{path} is an int of more than 4,300 digits")


def _children(item: dict[Any, Any] | list[Any], path: str) -> Iterable[tuple[Any, str]]:
    if isinstance(item, list):
        return [(child, f"{path}[{index}]") for index, child in enumerate(item)]
    for key in item:
        if not isinstance(key, str):
            raise InvalidInputError(f"{path} has the key {key!r}: JSON keys are str, not {type(key).__name__}")
    return [(child, f"{path}[{key!r}]") for key, child in item.items()]


def check_metadata(value: Any, what: str = "metadata") -> dict[str, Any]:
    """`value`, if it is a JSON object of at most 8 MiB."""
    if not isinstance(value, dict):
        raise InvalidInputError(f"{what} must be a dict, not {type(value).__name__}")
    if value:
        check_json(value, what)
        check_size(_utf8(codec.dumps(value)), what)
    return value


def check_message(message: Message) -> int:
    """The message's size in bytes, if it can be stored.

    Raises:
        InvalidInputError: A field is of the wrong kind.
        MessageTooLargeError: It is over 8 MiB.
    """
    check_id(message.id, "Message.id")
    check_id(message.role, "Message.role")
    check_optional_id(message.run_id, "Message.run_id")
    for value, what in ((message.tool_call_id, "Message.tool_call_id"), (message.name, "Message.name")):
        if value is not None and not isinstance(value, str):
            raise InvalidInputError(f"{what} must be a str, not {type(value).__name__}")
    if isinstance(message.content, str):
        size = _utf8(message.content)
    else:
        check_json(message.content, "Message.content")
        size = _utf8(codec.dumps(message.content))
    size += sum(_utf8(c.id) + _utf8(c.name) + _utf8(c.arguments) for c in message.tool_calls)
    if not isinstance(message.metadata, dict):
        raise InvalidInputError(f"Message.metadata must be a dict, not {type(message.metadata).__name__}")
    if message.metadata:
        check_json(message.metadata, "Message.metadata")
        size += _utf8(codec.dumps(message.metadata))
    check_size(size, f"message {message.id!r}")
    return size


def check_value(value: Any) -> int:
    """The size in bytes of a state value, if it can be stored: JSON data or ``bytes``."""
    if isinstance(value, bytes):
        size = len(value)
    else:
        check_json(value, "value")
        size = _utf8(value if isinstance(value, str) else codec.dumps(value))
    check_size(size, "the state value")
    return size


def check_text(value: Any, what: str) -> str:
    """`value`, if it is a str of at most 8 MiB."""
    if not isinstance(value, str):
        raise InvalidInputError(f"{what} must be a str, not {type(value).__name__}")
    check_size(_utf8(value), what)
    return value


def check_size(size: int, what: str) -> None:
    """Let `size` bytes pass up to 8 MiB.

    Raises:
        MessageTooLargeError: It is more.
    """
    if size > MAX_BYTES:
        raise MessageTooLargeError(
            f"{what} has {size:,} bytes; at most {MAX_BYTES:,} are stored",
            hint="Keep large files elsewhere and store a reference",
        )


def check_ttl(value: Any, what: str = "ttl") -> timedelta | None:
    """A time to live as a timedelta; seconds may be given. None passes.

    Raises:
        InvalidInputError: It is not above zero, or not finite.
    """
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not 0 < value <= _MAX_TTL.total_seconds():  # NaN fails too
            raise InvalidInputError(f"{what} is {value!r} seconds: it must be above 0 and below 1,000 years")
        value = timedelta(seconds=value)
    if not isinstance(value, timedelta):
        raise InvalidInputError(f"{what} must be seconds or a timedelta, not {type(value).__name__}")
    if not timedelta(0) < value <= _MAX_TTL:
        raise InvalidInputError(f"{what} is {value!r}: it must be above 0 and below 1,000 years")
    return value


def check_count(value: Any, what: str, *, least: int = 0) -> int:
    """`value`, if it is an int of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InvalidInputError(f"{what} must be an int of at least {least}, not {value!r}")
    return value


def _utf8(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
