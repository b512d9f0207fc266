"""Records as rows of the shared schema, and back."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from agentstore import codec, rules
from agentstore.errors import CorruptRecordError
from agentstore.records import Session, StateItem, ToolCall, known_message, known_session

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from agentstore.records import Message

SESSION = (
    "session_id, user_id, agent, title, metadata, created_at, updated_at, "
    "message_count, last_seq, expires_at, parent_id"
)
"""The columns of a session, in the order of `Session`'s fields: what `session_row` gives and `stored` takes."""

HEAD = f"{SESSION}, marks"
"""What `head_row` gives, and `stored` takes too."""

NO_MARKS = "{}"
"""What stands for none where NULL would keep those that are there."""

MESSAGE = "role, content, id, seq, tool_calls, tool_call_id, name, metadata, run_id, created_at"
"""The columns of a message, in the order of `Message`'s fields: what `messages` takes."""

NEW_MESSAGE = f"session_id, id_key, {MESSAGE}"
"""What `message_row` gives."""

TEXTS = "content, tool_calls, tool_call_id, name, metadata"
"""What `ConversationStore.rewrite` puts in place of what is there."""

SPOT = f"seq, id, {TEXTS}"
"""What `spot_row` gives: where the texts of a message belong, and the texts."""

_MARKS = 11  # in a row of `HEAD`
_SPOT = [NEW_MESSAGE.split(", ").index(name) for name in SPOT.split(", ")]
_UUID_LENGTH, _UUID_VERSION_AT = 36, 14
_HASH_BITS = 22
_TIME_SHIFT = 6  # 64 ms: what one turn or group brings lies in one or two leaves of the index
_POSITIVE = 2**63 - 1

FIRST_MICRO, LAST_MICRO = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The times that there are: the years 1 to 9999."""

_UNREADABLE = (CorruptRecordError, TypeError, ValueError, AttributeError, OverflowError)


def id_key(session_id: str, message_id: str) -> int:
    """64 bits by which a message id is looked up within its session: nearly unique, never exact.

    For a UUIDv7 its time, in steps of 64 ms, stands above 22 bits of a hash; for another id all is hash. The hash
    covers the session too: forks share message ids.
    """
    digest = int.from_bytes(blake2b(f"{session_id}\0{message_id}".encode(), digest_size=8).digest(), "big", signed=True)
    if len(message_id) == _UUID_LENGTH and message_id[_UUID_VERSION_AT] == "7":
        try:
            millis = int(message_id[:8] + message_id[9:13], 16)
        except ValueError:
            return digest
        return (millis >> _TIME_SHIFT << _HASH_BITS | digest & (1 << _HASH_BITS) - 1) & _POSITIVE
    return digest


# --- to rows ----------------------------------------------------------------------------------------------------


def session_row(session: Session) -> tuple[Any, ...]:
    """The values of `SESSION`."""
    return (
        session.id,
        session.user_id,
        session.agent,
        None if session.title is None else codec.escape(session.title),
        codec.dumps(session.metadata) if session.metadata else None,
        codec.to_micros(session.created_at),
        codec.to_micros(session.updated_at),
        session.message_count,
        session.last_seq,
        None if session.expires_at is None else codec.to_micros(session.expires_at),
        session.parent_id,
    )


def head_row(session: Session, marks: rules.Marks | None = None) -> tuple[Any, ...]:
    """The values of `HEAD`; without marks, those that are there are to be kept."""
    return (*session_row(session), rules.marks_to_text(marks or {}))


def message_row(session_id: str, message: Message, key: int | None = None) -> tuple[Any, ...]:
    """The values of `NEW_MESSAGE`; `key` is its `id_key` where that is known."""
    calls = message.tool_calls
    return (
        session_id,
        id_key(session_id, message.id) if key is None else key,
        message.role,
        codec.content_to_text(message.content),
        message.id,
        message.seq,
        codec.dumps([(call.id, call.name, call.arguments) for call in calls]) if calls else None,
        None if message.tool_call_id is None else codec.escape(message.tool_call_id),
        None if message.name is None else codec.escape(message.name),
        codec.dumps(message.metadata) if message.metadata else None,
        message.run_id,
        codec.to_micros(message.created_at),
    )


def spot_row(session_id: str, message: Message) -> tuple[Any, ...]:
    """The values of `SPOT`."""
    row = message_row(session_id, message)
    return tuple(row[place] for place in _SPOT)


def micros(moment: datetime | None) -> int | None:
    """`codec.to_micros` of a time that may be missing."""
    return None if moment is None else codec.to_micros(moment)


# --- from rows --------------------------------------------------------------------------------------------------


def stored(row: Sequence[Any]) -> rules.Stored:
    """What a row of `SESSION` or `HEAD` says, which may be a tombstone.

    Raises:
        CorruptRecordError: It holds what no session has.
    """
    last_seq = row[8]
    try:
        marks = rules.marks_from_text(row[_MARKS]) if len(row) > _MARKS else {}
        if row[6] is None:
            return rules.Stored(last_seq=_whole(last_seq), marks=marks)
        return rules.Stored(
            known_session(
                row[0],
                row[1],
                row[2],
                None if row[3] is None else codec.unescape(row[3]),
                {} if row[4] is None else _mapping(codec.loads(row[4])),
                codec.from_micros(row[5]),
                codec.from_micros(row[6]),
                _whole(row[7]),
                _whole(last_seq),
                None if row[9] is None else codec.from_micros(row[9]),
                row[10],
            ),
            last_seq,
            marks=marks,
        )
    except _UNREADABLE as error:
        raise CorruptRecordError(
            f"the row of session {row[0]!r} cannot be read: {error}",
            hint="Mend it from a backup, or delete the session: delete_session() works",
        ) from error


def messages(found: Iterable[Sequence[Any]]) -> list[Message]:
    """The messages of rows of `MESSAGE`.

    Raises:
        CorruptRecordError: A row holds what no message has.
    """
    content, unescape, loads, moment = codec.content_from_text, codec.unescape, codec.loads, codec.from_micros
    try:
        return [
            known_message(
                role,
                content(text),
                message_id,
                seq,
                tuple(ToolCall(*call) for call in loads(calls)) if calls else (),
                None if call_id is None else unescape(call_id),
                None if name is None else unescape(name),
                {} if metadata is None else loads(metadata),
                run_id,
                moment(created_at),
            )
            for role, text, message_id, seq, calls, call_id, name, metadata, run_id, created_at in found
        ]
    except _UNREADABLE as error:
        raise CorruptRecordError(
            f"a stored message cannot be read: {error}", hint="Mend it from a backup, or clear or delete the session"
        ) from error


def state_item(key: str, value: str, version: int, expires_at: int | None) -> StateItem:
    """The item of a row (key, value, version, expires_at).

    Raises:
        CorruptRecordError: It holds what no item has.
    """
    try:
        return StateItem(
            key,
            codec.value_from_text(value),
            _whole(version),
            None if expires_at is None else codec.from_micros(expires_at),
        )
    except _UNREADABLE as error:
        raise CorruptRecordError(
            f"the stored value of key {key!r} cannot be read: {error}",
            hint="Mend it from a backup, or set or delete the key",
        ) from error


def namespace_marks(namespace: str, text: Any) -> rules.Marks:
    """The marks in the floor's row of a namespace.

    Raises:
        CorruptRecordError: It holds something else.
    """
    try:
        return rules.marks_from_text(text)
    except CorruptRecordError as error:
        raise CorruptRecordError(
            f"the floor of namespace {namespace!r} cannot be read: {error}",
            hint="Mend it from a backup, or set its marks to NULL: a replay may then bring old values back",
        ) from error


def kept_marks(text: Any) -> str | None:
    """What a deletion writes in place of a session's marks: NULL, which keeps them; but none for unreadable ones."""
    try:
        rules.marks_from_text(text)
    except CorruptRecordError:
        return NO_MARKS
    return None


def _whole(number: Any) -> int:
    if not isinstance(number, int):
        raise TypeError(f"{number!r} stands where an int should")
    return number


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"a {type(value).__name__} stands where an object should")
    return value
