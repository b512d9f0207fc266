"""The statements that several modules share.

The indexes are named: a plan made when a table was small would read, and lock, all of it.
"""
# ruff: noqa: S608  statements are made of constants and of what `literals` has written

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias

from agentstore.drivers.sql import rows

from .literals import literal, values

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from agentstore import rules
    from agentstore.records import Message, Session

    from .transaction import Wire
    from .wire import Row

SLACK = 1024
"""Bytes of a packet that are left free, for its header among other things."""

BEGIN, COMMIT = "START TRANSACTION", "COMMIT"

CLOCK = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))"
"""The server's time as rows hold it: whole microseconds since 1970, whatever time zone it lives in."""

NOW = f"SELECT {CLOCK}"

TABLES = (
    "SELECT table_name, engine, table_collation FROM information_schema.tables"
    " WHERE table_schema = DATABASE() AND LEFT(table_name, 11) = 'agentstore_'"
)

LIVE = f"(expires_at IS NULL OR expires_at > {CLOCK})"

SESSION, MESSAGE = rows.SESSION.split(", "), rows.MESSAGE.split(", ")

_CHANGING = ("session_id", "updated_at", "message_count", "last_seq", "expires_at")  # with every append


def instead(names: Iterable[str]) -> str:
    """For a row that is there already.

    VALUES() is what both products understand: MariaDB knows no alias for the new row, which MySQL would rather see.
    """
    return " ON DUPLICATE KEY UPDATE " + ", ".join(f"{name} = VALUES({name})" for name in names)


KEEPING_MARKS = ", marks = COALESCE(VALUES(marks), marks)"
"""Behind `instead`: NULL keeps those that are there."""


Version: TypeAlias = tuple[str, int, int]
"""Session id, last seq and `updated_at` of a row: one of them changes with whatever is done to the session."""

_NUL = "\0"  # in no id
_NEVER = -1  # for the updated_at of a tombstone: NULL compares with nothing
_TITLE, _METADATA, _UPDATED_AT, _LAST_SEQ = map(SESSION.index, ("title", "metadata", "updated_at", "last_seq"))
_PUT_HEADS = f"INSERT INTO agentstore_sessions ({rows.HEAD}) VALUES "
_REPLACING = instead(SESSION[1:]) + KEEPING_MARKS
_TOUCH = f"INSERT INTO agentstore_sessions ({', '.join(_CHANGING)}, marks) VALUES "
_TOUCHING = instead(_CHANGING[1:]) + KEEPING_MARKS
_HEAD = rows.HEAD.split(", ")
_TOUCHED = [_HEAD.index(name) for name in (*_CHANGING, "marks")]
_PUT_MESSAGES = f"INSERT INTO agentstore_messages ({rows.NEW_MESSAGE}) VALUES "


def heads(session_ids: Iterable[str], columns: str = rows.HEAD) -> str:
    """Selects sessions, and tombstones."""
    return (
        f"SELECT {columns} FROM agentstore_sessions FORCE INDEX (PRIMARY)"
        f" WHERE session_id IN {values(sorted(session_ids))}"
    )


def version(row: Row) -> Version:
    """That of a row of `heads`."""
    return row[0], row[_LAST_SEQ], _NEVER if row[_UPDATED_AT] is None else row[_UPDATED_AT]


def fresh(names: Collection[tuple[str, str]], micros: int, off: int) -> str:
    """The condition, for `unchanged` and `touch_unchanged`, under which a guess is right.

    That is that none of these (session id, message id) is there, and that the time is `micros` or at most `off` more or
    less. It looks at the messages as they were at the beginning of the statement or later, which is after the versions
    that the statement demands were committed: so it overlooks none.

    Session id and id are compared as one text, lest the optimizer combine each id_key with each session id to a range:
    for a group of 64 turns it takes 1 ms, and would take 14.
    """
    there = (
        "SELECT 1 FROM agentstore_messages FORCE INDEX (agentstore_messages_by_id)"
        f" WHERE id_key IN {values(rows.id_key(*name) for name in names)}"
        f" AND CONCAT(session_id, 0x00, id) IN {values(map(_NUL.join, names))}"
    )
    on_time = f" AND ABS({CLOCK} - {micros}) <= {off}"
    return f" AND NOT EXISTS ({there}){on_time}" if names else on_time


def unchanged(versions: Sequence[Version], fresh: str = "") -> str:
    """Locks rows that were found in these versions; fails if one has another by now.

    Nothing but an error stops what follows in a packet: here a NULL where none may be, in strict mode.
    """
    return (
        "UPDATE agentstore_sessions FORCE INDEX (PRIMARY) SET last_seq ="
        f" IF((session_id, last_seq, COALESCE(updated_at, {_NEVER})) IN ({','.join(map(values, versions))}){fresh},"
        f" last_seq, NULL) WHERE session_id IN {values(version[0] for version in versions)}"
    )


def texts_unchanged(sessions: Iterable[Session]) -> str:
    """`unchanged` for title and metadata, which a rewrite replaces and moves neither seq nor time."""
    texts = {row[0]: (row[0], row[_TITLE] or "", row[_METADATA] or "") for row in map(rows.session_row, sessions)}
    return (
        "UPDATE agentstore_sessions FORCE INDEX (PRIMARY) SET last_seq ="
        " IF((session_id, COALESCE(title, ''), COALESCE(metadata, ''))"
        f" IN ({','.join(map(values, texts.values()))}), last_seq, NULL) WHERE session_id IN {values(texts)}"
    )


def locked(session_ids: Iterable[str], columns: str = rows.HEAD) -> str:
    """`heads`, locked until the transaction ends, in the order of the ids."""
    return heads(session_ids, columns) + " FOR UPDATE"


def create_heads(wire: Wire, written: Iterable[rules.Written]) -> Iterator[bytes]:
    """For ids of which no row is there. If there is one by now, the statement fails."""
    return wire.inserts(_PUT_HEADS, (values(row) for row in sorted(map(_row, written), key=itemgetter(0))))


def replace_heads(wire: Wire, written: Iterable[rules.Written]) -> Iterator[bytes]:
    """For rows that are locked."""
    return wire.inserts(_PUT_HEADS, (values(_row(entry)) for entry in written), _REPLACING)


def touch_heads(wire: Wire, written: Iterable[rules.Written]) -> Iterator[bytes]:
    """`replace_heads` for sessions of which only times, count, last seq and marks have changed."""
    changed = map(_row, written)
    return wire.inserts(_TOUCH, (values([row[at] for at in _TOUCHED]) for row in changed), _TOUCHING)


def touch_unchanged(version: Version, written: rules.Written, fresh: str = "") -> str:
    """`unchanged` and `touch_heads` in one, for a single session."""
    _, last_seq, updated_at = version
    new = dict(zip(_HEAD, map(literal, _row(written)), strict=True))
    names = [name for name in _CHANGING if name not in {"session_id", "last_seq"}]
    if written.marks:
        names.append("marks")
    return (
        "UPDATE agentstore_sessions SET"
        f" last_seq = IF(last_seq = {last_seq} AND updated_at = {updated_at}{fresh}, {new['last_seq']}, NULL),"
        f" {', '.join(f'{name} = {new[name]}' for name in names)}"
        f" WHERE session_id = {new['session_id']}"
    )


def _row(written: rules.Written) -> tuple[Any, ...]:
    return rows.head_row(written.session, written.marks)


def put_messages(wire: Wire, added: Iterable[tuple[str, Message]]) -> Iterator[bytes]:
    """Adds messages to sessions whose rows are locked."""
    return wire.inserts(_PUT_MESSAGES, (values(rows.message_row(*item)) for item in added))


def between(session_id: str, above: int | None, below: int | None) -> str:
    """The condition for messages of a session with seqs between bounds, both exclusive."""
    condition = f"session_id = {literal(session_id)}"
    if above is not None:
        condition += f" AND seq > {bounded(above)}"
    if below is not None:
        condition += f" AND seq < {bounded(below)}"
    return condition


def drop(session_ids: Sequence[str]) -> str:
    """Removes all messages of sessions."""
    return f"DELETE FROM agentstore_messages WHERE session_id IN {values(session_ids)}"


def bounded(number: int) -> int:
    """The nearest int that a BIGINT takes: bounds and limits may be any."""
    return max(-(2**63), min(number, 2**63 - 1))
