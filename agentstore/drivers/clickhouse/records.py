"""Records as rows of the log, and back. None is an empty string where no empty string can be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentstore import codec
from agentstore.drivers.sql import rows
from agentstore.errors import CorruptRecordError

from .schema import HEAD, ID, MARK, MESSAGE, NEVER

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from agentstore.records import Message, Session, StateItem

    from .link import Row

_NO_MESSAGE = ("", "", "", "", "", 0)
_NO_HEAD = ("", "", 0, NEVER, 0)


# --- to rows, in the columns of `COLUMNS` -------------------------------------------------------------------------


def head_row(session: Session, slot: int, version: int, floor: int, dense: int) -> Row:
    """A head."""
    _, user, agent, title, metadata, created_at, updated_at, _, last_seq, expires_at, parent = rows.session_row(session)
    return (
        *(HEAD, session.id, slot, "", last_seq, version, 0),
        *("", "", "", metadata or "", "", created_at),
        *(user or "", agent or "", updated_at, NEVER if expires_at is None else expires_at, floor),
        _more(title=title, parent_id=parent, dense_seq=dense or None),
    )


def tombstone_row(session_id: str, slot: int, version: int, last_seq: int, floor: int) -> Row:
    """A head that says only how far a session went."""
    return (HEAD, session_id, slot, "", last_seq, version, 1, *_NO_MESSAGE, "", "", 0, NEVER, floor, "")


def message_rows(session_id: str, message: Message, version: int) -> tuple[Row, Row]:
    """A message and its id."""
    _, key, role, content, message_id, seq, calls, call_id, name, metadata, run_id, created_at = rows.message_row(
        session_id, message
    )
    told = (role, content, calls or "", metadata or "", run_id or "", created_at)
    more = _more(tool_call_id=call_id, name=name)
    return (
        (MESSAGE, session_id, seq, message_id, seq, version, 0, *told, *_NO_HEAD, more),
        (ID, session_id, key, _entry(message_id, seq), seq, version, 0, *_NO_MESSAGE, *_NO_HEAD, ""),
    )


def removed_rows(session_id: str, message_id: str, seq: int, version: int) -> tuple[Row, Row]:
    """What takes the place of a message and its id."""
    key = rows.id_key(session_id, message_id)
    return (
        (MESSAGE, session_id, seq, message_id, seq, version, 1, *_NO_MESSAGE, *_NO_HEAD, ""),
        (ID, session_id, key, _entry(message_id, seq), seq, version, 1, *_NO_MESSAGE, *_NO_HEAD, ""),
    )


def mark_row(session_id: str, queue: str, position: int) -> Row:
    """How far a queue has come in a session: of its rows the one that came farthest stays."""
    return (MARK, session_id, 0, queue, 0, position, 0, *_NO_MESSAGE, *_NO_HEAD, "")


def _entry(message_id: str, seq: int) -> str:
    """What an id's row has for an id: should two processes store one, neither row replaces the other."""
    return f"{seq} {message_id}"


def id_of(entry: str) -> str:
    """The message's id."""
    return entry.partition(" ")[2]


def _more(**given: Any) -> str:
    there = {name: value for name, value in given.items() if value is not None}
    return codec.dumps(there) if there else ""


# --- from rows --------------------------------------------------------------------------------------------------


def session_of(row: Sequence[Any], last_seq: int, count: int = 0) -> Session:
    """The session of a row of `HEAD_COLUMNS` that is no tombstone.

    Raises:
        CorruptRecordError: It holds what no session has.
    """
    _, session_id, *_, metadata, created_at, user, agent, updated_at, expires_at, text = row
    _check([row], f"the row of session {session_id!r}")
    more = _read(text)
    found = rows.stored(
        (
            *(session_id, user or None, agent or None, more.get("title"), metadata or None, created_at, updated_at),
            *(count, last_seq, expiry(expires_at), more.get("parent_id")),
        )
    ).session
    if found is None:
        raise TypeError("a head without updated_at")
    return found


def dense_of(row: Sequence[Any]) -> int:
    """The ``dense_seq`` of a row of `HEAD_COLUMNS`; 0 of one that cannot be read, for it only makes reading fast."""
    if not row[-1]:
        return 0
    try:
        dense = _read(row[-1]).get("dense_seq", 0)
    except CorruptRecordError:
        return 0
    return dense if isinstance(dense, int) else 0


def _read(text: Any) -> dict[str, Any]:
    more = codec.loads(text) if text else {}
    if not isinstance(more, dict):
        raise CorruptRecordError("what stands in the column more is no object")
    return more


def messages_of(found: Iterable[Sequence[Any]]) -> list[Message]:
    """The messages of rows of `MESSAGE_COLUMNS`.

    Raises:
        CorruptRecordError: A row holds what no message has.
    """
    found = list(found)
    _check(found, "a stored message")
    return rows.messages(map(_message, found))


def _message(row: Sequence[Any]) -> tuple[Any, ...]:
    _, _, message_id, seq, role, content, calls, metadata, run_id, created_at, text = row
    call_id = name = None
    if text:
        more = _read(text)
        call_id, name = more.get("tool_call_id"), more.get("name")
    return role, content, message_id, seq, calls, call_id, name, metadata or None, run_id or None, created_at


def item_of(key: str, value: str, version: int, expires_at: int) -> StateItem:
    """The item of a row of the state.

    Raises:
        CorruptRecordError: It holds what no item has.
    """
    _check([(value,)], f"the stored value of key {key!r}")
    return rows.state_item(key, value, version, expiry(expires_at))


def expiry(micros: int) -> int | None:
    """Microseconds, or None for `NEVER`."""
    return None if micros == NEVER else micros


def micros(moment: datetime | None) -> int:
    """The inverse of `expiry`."""
    return NEVER if moment is None else codec.to_micros(moment)


def _check(found: Iterable[Sequence[Any]], what: str) -> None:
    if any(bytes in map(type, row) for row in found):
        raise CorruptRecordError(
            f"{what} cannot be read: it holds a text that is no UTF-8",
            hint="Mend it from a backup, or delete what it belongs to",
        )
