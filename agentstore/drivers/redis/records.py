"""Records as the texts that are stored, and back.

A head is ``last_seq updated_at nonce {json}``: what stands before the JSON is the session's version, which a script
compares as the text's beginning; the nonce is drawn for each write, so no version ever comes back. A message is its seq
in 19 digits and ``{json}``; an item is ``version expires_at value``.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any

from agentstore import codec, rules
from agentstore.errors import CorruptRecordError
from agentstore.records import Message, Session, StateItem, ToolCall

from .keys import seq_digits

if TYPE_CHECKING:
    from collections.abc import Iterable

_quoted: Any = encode_basestring  # a JSON string, not escaped to ASCII
_SEQ = 19
_HEAD = re.compile(r"(\d+) (-?\d+) [0-9a-f]+ ", re.ASCII)
_ITEM = re.compile(rb"(\d{1,19}) (-?\d{1,18}|-) ")
_VERSION = re.compile(rb"\d+")
_NONCE = 6  # bytes
HEADER = 47
"""The last byte of an item that may belong to its version and expiry."""

_UNREADABLE = (CorruptRecordError, TypeError, ValueError, LookupError, AttributeError, OverflowError)
_PAST = datetime(1, 1, 1, tzinfo=UTC)


# --- sessions ---------------------------------------------------------------------------------------------------


def new_version(session: Session) -> str:
    """What the head of `session` shall begin with, and has never begun with."""
    return f"{session.last_seq} {codec.to_micros(session.updated_at)} {os.urandom(_NONCE).hex()} "


def version_of(head: bytes) -> bytes:
    """What a head begins with that can be read."""
    return head[: head.index(b"{")]


def head_text(session: Session, version: str) -> str:
    """The head."""
    fields = {
        "user_id": session.user_id,
        "agent": session.agent,
        "title": session.title,
        "metadata": session.metadata or None,
        "created_at": session.created_at.isoformat(timespec="microseconds"),
        "message_count": session.message_count,
        "expires_at": session.expires_at and session.expires_at.isoformat(timespec="microseconds"),
        "parent_id": session.parent_id,
    }
    return version + codec.dumps({name: value for name, value in fields.items() if value is not None})


def session_of(session_id: str, head: bytes) -> Session:
    """The session of a head.

    Raises:
        CorruptRecordError: It holds what no head does.
    """
    try:
        text = head.decode()
        match = _HEAD.match(text)
        if match is None:
            raise ValueError("it does not begin with a version")
        fields = codec.loads(text[match.end() :])
        return Session(
            session_id,
            fields.get("user_id"),
            fields.get("agent"),
            fields.get("title"),
            _mapping(fields.get("metadata", {})),
            datetime.fromisoformat(fields["created_at"]),
            codec.from_micros(int(match[2])),
            _whole(fields["message_count"]),
            int(match[1]),
            datetime.fromisoformat(fields["expires_at"]) if "expires_at" in fields else None,
            fields.get("parent_id"),
        )
    except _UNREADABLE as error:
        raise CorruptRecordError(
            f"the head of session {session_id!r} cannot be read: {error}",
            hint="Mend it from a backup, or delete the session: delete_session() works",
        ) from error


def last_seq_of(session_id: str, text: bytes) -> int:
    """The last seq that is kept beside a session; 0 if none is.

    Raises:
        CorruptRecordError: It is no number.
    """
    try:
        return int(text or 0)
    except ValueError as error:
        raise CorruptRecordError(f"the last seq of session {session_id!r} is no number: {text!r}") from error


def marks_of(whose: str, text: str | bytes) -> rules.Marks:
    """The marks of a session or namespace, which `whose` names for the error; none if none are kept.

    Raises:
        CorruptRecordError: They cannot be read.
    """
    try:
        return rules.marks_from_text(text or None)
    except CorruptRecordError as error:
        raise CorruptRecordError(
            f"{whose}: {error}",
            hint="Remove the key that holds them; what still waits in a journal may then be stored a second time",
        ) from error


def marks_text(marks: rules.Marks | None) -> str:
    """The marks that come; empty if none do."""
    return rules.marks_to_text(marks or {}) or ""


def expiry_millis(expires_at: datetime | None) -> str:
    """When the server may take a key away, in whole milliseconds and no earlier; empty for never."""
    if expires_at is None:
        return ""
    return str(max(1, -(-codec.to_micros(expires_at) // 1000)))


# --- messages ---------------------------------------------------------------------------------------------------


def message_text(message: Message) -> str:
    """The record of a stored message."""
    if isinstance(message.content, str) and not message.tool_calls and not message.metadata:
        return _plain_text(message, message.content)
    fields: dict[str, Any] = {"role": message.role, "content": message.content, "id": message.id}
    if message.tool_calls:
        fields["tool_calls"] = [[call.id, call.name, call.arguments] for call in message.tool_calls]
    for name in ("tool_call_id", "name", "run_id"):
        value = getattr(message, name)
        if value is not None:
            fields[name] = value
    if message.metadata:
        fields["metadata"] = message.metadata
    fields["created_at"] = message.created_at.isoformat(timespec="microseconds")
    return seq_digits(message.seq or 0) + codec.dumps(fields)


def _plain_text(message: Message, content: str) -> str:
    """`message_text` of one that is texts alone, as most are: put together in a third of the time."""
    told = (("tool_call_id", message.tool_call_id), ("name", message.name), ("run_id", message.run_id))
    more = "".join([f',"{name}":{_quoted(value)}' for name, value in told if value is not None])
    return seq_digits(message.seq or 0) + codec.escape(
        f'{{"role":{_quoted(message.role)},"content":{_quoted(content)},"id":{_quoted(message.id)}{more},'
        f'"created_at":"{message.created_at.isoformat(timespec="microseconds")}"}}'
    )


def messages_of(session_id: str, found: Iterable[bytes]) -> list[Message]:
    """The messages of records.

    Raises:
        CorruptRecordError: One holds what no record does.
    """
    loads, moment, messages = codec.loads, datetime.fromisoformat, []
    try:
        for record in found:
            text = record.decode()
            fields = loads(text[_SEQ:])
            get = fields.get
            calls = get("tool_calls")
            messages.append(
                Message(
                    fields["role"],
                    fields["content"],
                    fields["id"],
                    int(text[:_SEQ]),
                    tuple(ToolCall(*call) for call in calls) if calls else (),
                    get("tool_call_id"),
                    get("name"),
                    get("metadata") or {},
                    get("run_id"),
                    moment(fields["created_at"]),
                )
            )
    except _UNREADABLE as error:
        raise CorruptRecordError(
            f"a stored message of session {session_id!r} cannot be read: {error}",
            hint="Mend it from a backup, or clear or delete the session",
        ) from error
    return messages


# --- state ------------------------------------------------------------------------------------------------------


def floor_of(namespace: str, text: bytes) -> int:
    """The floor of a namespace; 0 if none is kept.

    Raises:
        CorruptRecordError: It is no number.
    """
    try:
        return int(text or 0)
    except ValueError as error:
        raise CorruptRecordError(
            f"the floor of namespace {namespace!r} is no number: {text!r}",
            hint="Set it to a number no lower than any version of the namespace",
        ) from error


def item_text(item: StateItem) -> str:
    """The text of an item."""
    expires = "-" if item.expires_at is None else codec.to_micros(item.expires_at)
    return f"{item.version} {expires} {codec.value_to_text(item.value)}"


def item_of(key: str, text: bytes) -> StateItem:
    """The item of a text.

    Raises:
        CorruptRecordError: It holds what no item does.
    """
    try:
        match = _ITEM.match(text)
        if match is None:
            raise ValueError("it does not begin with a version")
        return StateItem(key, codec.value_from_text(text[match.end() :].decode()), int(match[1]), _expiry(match[2]))
    except _UNREADABLE as error:
        raise CorruptRecordError(
            f"the stored value of key {key!r} cannot be read: {error}",
            hint="Mend it from a backup, or set or delete the key",
        ) from error


def outline(key: str, beginning: bytes, number: int) -> StateItem:
    """The item of version `number` without its value, which may be unreadable: enough to replace or remove it."""
    match = _ITEM.match(beginning)
    try:
        return StateItem(key, None, number, _expiry(match[2])) if match else gone(key, number)
    except OverflowError:  # no such time
        return gone(key, number)


def stored_version(text: bytes) -> str:
    """The version that an item's text begins with, as the script finds it; empty if it has none."""
    match = _VERSION.match(text[:21])
    return "" if match is None else match[0].decode()


def gone(key: str, number: int) -> StateItem:
    """What stands for an item that went by itself: its version stays used."""
    return StateItem(key, None, number, _PAST)


def is_gone(item: StateItem) -> bool:
    """Whether it is such a stand-in."""
    return item.expires_at == _PAST


def _expiry(text: bytes) -> datetime | None:
    return None if text == b"-" else codec.from_micros(int(text))


def _whole(number: Any) -> int:
    if not isinstance(number, int):
        raise TypeError(f"{number!r} stands where an int should")
    return number


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"a {type(value).__name__} stands where an object should")
    return value
