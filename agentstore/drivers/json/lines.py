r"""What stands in a log: one strictly valid JSON object a line, of text that any JSON tool reads.

JSON joins an escaped high surrogate with a low one that follows, and UTF-8 has no surrogates at all. So a lone
surrogate is written as the escape ``\u001a`` and four hex digits, and U+001A itself likewise. Text without them
(nearly all) is plain JSON.
"""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from agentstore.records import Message, Session, StateItem, known_message

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentstore import rules

MALFORMED = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What reading a line raises if it is not what this driver wrote. (`InvalidInputError` is a ValueError.)"""

_MARK = "\\u001a"
_TO_ESCAPE = re.compile(r"\\(?:u001a|.)|[\ud800-\udfff]")
_ESCAPED = re.compile(r"\\(?:u001a([0-9a-f]{4})|.)")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_FEWEST = 5  # what every message has
_MOVING = ("updated_at", "expires_at", "message_count", "last_seq")

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")).encode


def encode(value: Any) -> bytes:
    """`value`, which is plain JSON data, as one line."""
    text = _encode(value)
    if _MARK in text or (not text.isascii() and _SURROGATE.search(text)):
        text = _TO_ESCAPE.sub(_escape, text)
    return text.encode() + b"\n"


def decode(line: bytes) -> Any:
    """What `encode` was given; raises one of `MALFORMED`."""
    text = line.decode()
    return json.loads(_ESCAPED.sub(_unescape, text) if _MARK in text else text)


def decode_all(lines: Sequence[bytes]) -> list[Any]:
    """Many lines in one go, which is faster than one by one."""
    values: list[Any] = decode(b"[" + b",".join(lines) + b"]")
    return values


def _escape(match: re.Match[str]) -> str:
    found = match[0]
    if found == _MARK:
        return _MARK + "001a"
    return found if found[0] == "\\" else f"{_MARK}{ord(found):04x}"


def _unescape(match: re.Match[str]) -> str:
    if match[1] is None:
        return match[0]
    return _MARK if match[1] == "001a" else chr(int(match[1], 16))


def from_message(message: Message) -> dict[str, Any]:
    """A message as its line holds it: what is empty is left out."""
    data: dict[str, Any] = {
        "seq": message.seq,
        "role": message.role,
        "content": message.content,
        "id": message.id,
        "created_at": _time(message.created_at),
    }
    if message.tool_calls:
        data["tool_calls"] = [call.to_dict() for call in message.tool_calls]
    if message.metadata:
        data["metadata"] = message.metadata
    for name in ("tool_call_id", "name", "run_id"):
        value = getattr(message, name)
        if value is not None:
            data[name] = value
    return data


def to_message(data: dict[str, Any]) -> Message:
    """What `from_message` was given."""
    made = datetime.fromisoformat(data["created_at"])
    content, count = data["content"], len(data)
    if count == _FEWEST + ("run_id" in data) and type(content) is str and made.tzinfo is UTC:  # nearly all: see `maker`
        role, seq, message_id = data["role"], data["seq"], data["id"]
        return known_message(role, content, message_id, seq, (), None, None, {}, data.get("run_id"), made)
    data["created_at"] = made
    return Message(**data)


def from_session(session: Session) -> dict[str, Any]:
    """What seldom changes of a session. What each group changes stands in the group's last line (`moved`)."""
    data = session.to_dict()
    return {name: value for name, value in data.items() if name not in _MOVING and value is not None and value != {}}


def moved(session: Session) -> dict[str, Any]:
    """The rest of a session."""
    data: dict[str, Any] = {"updated_at": _time(session.updated_at)}
    if session.expires_at is not None:
        data["expires_at"] = _time(session.expires_at)
    return data | {"message_count": session.message_count, "last_seq": session.last_seq}


def to_session(fixed: dict[str, Any], moving: dict[str, Any]) -> Session:
    """What `from_session` and `moved` were given; other names in `moving` are passed over."""
    return Session.from_dict(fixed | {name: moving.get(name) for name in _MOVING})


def from_marks(marks: rules.Marks) -> dict[str, Any]:
    """Marks as the last line of a group holds them; nothing if there are none."""
    return {"marks": marks} if marks else {}


def to_marks(facts: dict[str, Any], before: rules.Marks) -> rules.Marks:
    """The marks after a group; those from before it if it says nothing of them."""
    marks: rules.Marks = facts.get("marks", before)
    if any(type(position) is not int for position in marks.values()):
        raise TypeError("a mark that is no int")
    return marks


def from_item(item: StateItem) -> dict[str, Any]:
    """A key of the state as its line holds it."""
    data: dict[str, Any] = {"set": item.key}
    if isinstance(item.value, bytes):
        data["bytes"] = base64.b64encode(item.value).decode()
    else:
        data["value"] = item.value
    data["version"] = item.version
    if item.expires_at is not None:
        data["expires_at"] = _time(item.expires_at)
    return data


def to_item(data: dict[str, Any]) -> StateItem:
    """What `from_item` was given."""
    value = base64.b64decode(data["bytes"]) if "bytes" in data else data["value"]
    expires_at = datetime.fromisoformat(data["expires_at"]) if "expires_at" in data else None
    return StateItem(data["set"], value, data["version"], expires_at)


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")


class Group:
    """Lines that are valid only together: the last one says how many they are, so a torn write is recognised.

    Args:
        at: Where in the file they will begin.
    """

    def __init__(self, at: int) -> None:
        self._at = at
        self._lines: list[bytes] = []

    def add(self, value: Any) -> tuple[int, int]:
        """Add a line; its place in the file and its length."""
        return self.add_line(encode(value))

    def add_line(self, line: bytes) -> tuple[int, int]:
        """Add what is a line already."""
        place = self._at
        self._lines.append(line)
        self._at += len(line)
        return place, len(line)

    def add_all(self, values: Iterable[Any]) -> list[tuple[int, int]]:
        """Add many lines."""
        return [self.add(value) for value in values]

    def committed(self, **facts: Any) -> bytes:
        """The whole group, with the line that ends it."""
        return b"".join(self._lines) + encode({"commit": len(self._lines), **facts})
