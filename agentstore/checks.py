"""What may be stored, checked once, where a call enters.

Everything below the face may rely on it: ids are exact and short, JSON is plain and shallow enough to read back
anywhere, sizes are bounded.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from .errors import InvalidInputError, MessageTooLargeError, shown
from .records import Message

if TYPE_CHECKING:
    from datetime import datetime

    from .records import Session

MAX_ID = 255
"""Characters of an id, a namespace or a key."""

MAX_BYTES = 8 * 2**20
"""Bytes of a message (see `check_message`), of a session's metadata or of a state value (see `check_json`)."""

MAX_DEPTH = 200
"""Levels of nesting in JSON data. Python's own decoder shares its limit of about 1,000 with the caller's stack."""

_BARRED = re.compile("[\x00\ud800-\udfff]")
_MAX_TTL = timedelta(days=365_000)
_MAX_YEAR = 8999  # and the longest TTL after it: there are no later dates than those of the year 9999
_MAX_COUNT = 2**63 - 1
_MAX_INT = 10**4300  # Python refuses to print longer ints: sys.int_info.default_max_str_digits


def check_id(value: Any, what: str) -> str:
    """`value`, if it is a non-empty str of at most 255 characters without NUL or surrogates.

    Raises:
        InvalidInputError: It is not; `what` names the argument.
    """
    if type(value) is str and value.isascii() and 0 < len(value) <= MAX_ID and "\0" not in value:
        return value  # nearly all, in a third of the time
    if not isinstance(value, str):
        raise InvalidInputError(f"{what} must be a str, not {shown(value)}")
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


def check_json(value: Any, what: str, limit: int = MAX_BYTES) -> int:
    """The size in bytes of plain JSON data: dict with str keys, list, str, int, finite float, bool, None.

    A text, which a key is too, has its UTF-8 bytes (surrogatepass) and 2 more; a list or dict 2 and what is in it; any
    other value 8, or as an int beyond 64 bits its own bytes. What is in two places counts twice, for so it is stored.
    The walk ends where `limit` is passed, and goes level by level: it needs no recursion, and no path for each value.

    Raises:
        InvalidInputError: Anything else, at any depth, or nesting beyond `MAX_DEPTH`; the place is named.
        MessageTooLargeError: It is over `limit`, 8 MiB by default.
    """
    size = depth = 0
    level = [value]
    while level:
        inner: list[Any] = []
        for item in level:
            if isinstance(item, str):
                size += 2 + _utf8(item)
            elif isinstance(item, (dict, list)):
                if depth == MAX_DEPTH:
                    raise InvalidInputError(f"{what} is nested more than {MAX_DEPTH} levels deep")
                size += 2
                check_size(size + 2 * (len(inner) + len(item)), what, limit)  # 2 is the least that each will have
                if isinstance(item, dict):
                    for key in item:
                        size += 2 + _utf8(key) if isinstance(key, str) else _refuse(item, value, what)
                inner.extend(item.values() if isinstance(item, dict) else item)
            elif type(item) is int and -_MAX_COUNT <= item <= _MAX_COUNT:
                size += 8
            else:
                size += _scalar(item, value, what)
            if size > limit:
                check_size(size, what, limit)
        level = inner
        depth += 1
    return size


def _scalar(item: Any, whole: Any, what: str) -> int:
    if item is None or isinstance(item, bool) or (isinstance(item, float) and math.isfinite(item)):
        return 8
    if not isinstance(item, int) or not -_MAX_INT < item < _MAX_INT:
        _refuse(item, whole, what)
    return max(8, item.bit_length() // 8)


def _refuse(bad: Any, whole: Any, what: str) -> NoReturn:
    """Look for `bad` once more, this time with the way to each value, and name its place."""
    seen: set[int] = set()
    found: deque[tuple[Any, tuple[Any, ...]]] = deque([(whole, ())])
    while (entry := found.popleft())[0] is not bad:
        item = entry[0]
        if isinstance(item, (dict, list)) and id(item) not in seen:
            seen.add(id(item))
            places = item.items() if isinstance(item, dict) else enumerate(item)
            found.extend((child, (entry[1], place)) for place, child in places)
    path, trail = "", entry[1]
    while trail:
        trail, place = trail
        path = f"[{place!r}]{path}"
    path = what + path
    if isinstance(bad, dict):
        key = next(key for key in bad if not isinstance(key, str))
        raise InvalidInputError(f"{path} has {shown(key)} as a key: JSON keys are str")
    if isinstance(bad, int):
        raise InvalidInputError(f"{path} is an int of more than 4,300 digits")
    raise InvalidInputError(f"{path} is {shown(bad)}, which JSON cannot carry")


def check_metadata(value: Any, what: str = "metadata", limit: int = MAX_BYTES) -> dict[str, Any]:
    """`value`, if it is a JSON object of at most `limit` bytes."""
    if not isinstance(value, dict):
        raise InvalidInputError(f"{what} must be a dict, not {shown(value)}")
    if value:
        check_json(value, what, limit)
    return value


def check_messages(given: Any) -> tuple[tuple[Message, ...], int]:
    """What an append was given, one message or several, as records; and their size in bytes.

    Raises:
        InvalidInputError: It is something else, cannot be stored, or has one id twice.
        MessageTooLargeError: A message is over 8 MiB.
    """
    if isinstance(given, (Message, Mapping)):
        given = (given,)
    if not isinstance(given, Iterable):
        raise InvalidInputError(f"messages must be one message or several, not {shown(given)}")
    messages = tuple([item if isinstance(item, Message) else _message(item) for item in given])
    size = sum(map(check_message, messages))
    if len(messages) > 1 and len({message.id for message in messages}) < len(messages):
        raise InvalidInputError("one message id comes twice in this append")
    return messages, size


def _message(item: Any) -> Message:
    if not isinstance(item, Mapping):
        raise InvalidInputError(f"messages: a message is a Message or a dict, not {shown(item)}")
    return Message.from_dict(dict(item))


def check_message(message: Message) -> int:
    """The message's size in bytes, if it can be stored: that of all its text and JSON data, ids and role aside.

    Raises:
        InvalidInputError: A field is of the wrong kind.
        MessageTooLargeError: It is over 8 MiB.
    """
    check_id(message.id, "Message.id")
    check_id(message.role, "Message.role")
    if message.run_id is not None:
        check_id(message.run_id, "Message.run_id")
    content = message.content
    size = _utf8(content) if isinstance(content, str) else check_json(content, "Message.content")
    if message.tool_call_id is not None:
        size += check_text(message.tool_call_id, "Message.tool_call_id")
    if message.name is not None:
        size += check_text(message.name, "Message.name")
    for call in message.tool_calls:
        size += 6 + _utf8(call.id) + _utf8(call.name) + _utf8(call.arguments)  # as three texts of JSON data
    if not isinstance(message.metadata, dict):
        raise InvalidInputError(f"Message.metadata must be a dict, not {shown(message.metadata)}")
    if message.metadata:
        size += check_json(message.metadata, "Message.metadata")
    if size > MAX_BYTES:
        check_size(size, f"message {message.id!r}")
    return size


def check_value(value: Any) -> int:
    """The size in bytes of a state value, if it can be stored: JSON data or ``bytes``; a text alone has no 2 more."""
    if isinstance(value, (bytes, str)):
        size = _utf8(value) if isinstance(value, str) else len(value)
        check_size(size, "the state value")
        return size
    return check_json(value, "value")


def check_text(value: Any, what: str) -> int:
    """The size in bytes of `value`, if it is a str of at most 8 MiB."""
    if not isinstance(value, str):
        raise InvalidInputError(f"{what} must be a str, not {shown(value)}")
    size = _utf8(value)
    check_size(size, what)
    return size


def check_size(size: int, what: str, limit: int = MAX_BYTES) -> None:
    """Let `size` bytes pass up to `limit`, 8 MiB by default.

    Raises:
        MessageTooLargeError: It is more.
    """
    if size > limit:
        raise MessageTooLargeError(
            f"{what} has more than the {limit:,} bytes that can be stored",
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
            raise InvalidInputError(f"{what} is {shown(value)} seconds: it must be above 0 and below 1,000 years")
        value = timedelta(seconds=value)
    if not isinstance(value, timedelta):
        raise InvalidInputError(f"{what} must be seconds or a timedelta, not {shown(value)}")
    if not timedelta(0) < value <= _MAX_TTL:
        raise InvalidInputError(f"{what} is {value!r}: it must be above 0 and below 1,000 years")
    return value


def check_times(session: Session) -> None:
    """Let a session's times pass if the store can go on from them.

    Raises:
        InvalidInputError: One lies beyond the year 8999, or the expiry is no TTL after the last activity.
    """
    for name in ("created_at", "updated_at", "expires_at"):
        moment: datetime | None = getattr(session, name)
        if moment is not None and moment.year > _MAX_YEAR:
            raise InvalidInputError(f"Session.{name} is {moment.isoformat()}: no time beyond {_MAX_YEAR} is stored")
    if session.expires_at is not None:
        check_ttl(session.expires_at - session.updated_at, "Session.expires_at less updated_at")


def check_count(value: Any, what: str, *, least: int = 0) -> int:
    """`value`, if it is an int of at least `least` and 4,300 digits at most; 2**63 - 1 for any above.

    Backends count in 64 bits and never come as far as that, so the greatest of them says the same as any greater int.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < _MAX_INT:
        raise InvalidInputError(f"{what} must be an int of at least {least}, not {shown(value)}")
    return min(value, _MAX_COUNT)


def check_optional_count(value: Any, what: str) -> int | None:
    """`check_count`, but None may pass."""
    return None if value is None else check_count(value, what)


def _utf8(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
