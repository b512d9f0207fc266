"""The logs of sessions, and what the index keeps of each session."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentstore import codec, rules
from agentstore.records import Session

from . import lines
from .files import Edit
from .logs import Known, LogKind, StaleError, stale_if_malformed

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from agentstore.records import Message

    from .files import Committed, Span

_LEAST, _MOST = -(2**63), 2**63 - 1  # what SQLite counts with

COLUMNS = "id, user_id, agent, title, metadata, created_at, updated_at, message_count, last_seq, expires_at, parent_id"
_LOOK = f"SELECT {COLUMNS}, marks, ref, inode, size FROM sessions WHERE id = ?"  # noqa: S608  a constant
_SAVE = """UPDATE sessions SET user_id = ?, agent = ?, title = ?, metadata = ?, created_at = ?, updated_at = ?,
    message_count = ?, last_seq = ?, expires_at = ?, parent_id = ?, marks = ?, inode = ?, size = ? WHERE ref = ?"""
_ADD_MESSAGE = "INSERT INTO messages (ref, seq, start, length, id) VALUES (?, ?, ?, ?, ?)"
_ANY = "SELECT seq, start, length FROM messages WHERE ref = ?"
_OLDEST = f"{_ANY} AND seq > ? AND seq < ? ORDER BY seq LIMIT ?"
_NEWEST = f"{_ANY} AND seq > ? AND seq < ? ORDER BY seq DESC LIMIT ?"
_NAMED = "SELECT seq, start, length FROM messages INDEXED BY message_ids WHERE ref = ?"  # else it reads the whole log
_IDS_AT_ONCE = 500


@dataclass(slots=True)
class KnownSession(Known):
    """What the index knows of a session id.

    Attributes:
        session: None if there is none (any more).
        last_seq: The last seq ever given.
    """

    session: Session | None = None
    last_seq: int = 0


@dataclass(slots=True)
class Draft:
    """What is to be written for one session.

    Attributes:
        known: What is there.
        session: The new head; None leaves only a tombstone.
        messages: To be added.
        popped: The messages from this seq on go; 0 for none.
        whole: Write the head whole, not only what moved.
        anew: Begin a new log in place of the old one.
        marks: All of them afterwards; None if they are what they were.
    """

    known: KnownSession
    session: Session | None
    messages: Sequence[Message] = ()
    popped: int = 0
    whole: bool = False
    anew: bool = False
    marks: rules.Marks | None = None
    edit: Edit = field(init=False)
    spans: list[Span] = field(init=False)

    def __post_init__(self) -> None:
        size = self.known.size
        group = lines.Group(0 if self.anew else size)
        if self.session is None:
            group.add({"retired": {"id": self.known.id, "last_seq": self.known.last_seq}})
        elif self.whole or self.anew or self.known.session is None:
            group.add({"session": lines.from_session(self.session)})
        if self.popped:
            group.add({"pop": {"from": self.popped}})
        self.spans = group.add_all(map(lines.from_message, self.messages))
        facts = lines.moved(self.session) if self.session else {}
        if self.marks is None:
            self.marks = self.known.marks
        if self.anew or self.marks is not self.known.marks:
            facts |= lines.from_marks(self.marks)
        data = group.committed(**facts)
        self.edit = Edit(self.known.path, data, size, replaces=self.anew)


class SessionLogs(LogKind[KnownSession]):
    """A log for each session id, also for those whose session is gone (its last seq stays)."""

    all_stamps = "SELECT id, inode, size FROM sessions"

    def look(self, connection: sqlite3.Connection, name: str) -> KnownSession:
        row = connection.execute(_LOOK, (name,)).fetchone()
        if row is None:
            return KnownSession(name, self.path(name))
        marks = rules.marks_from_text(row[-4])
        return KnownSession(name, self.path(name), row[-3], (row[-2], row[-1]), marks, to_session(row), row[8])

    def name_of(self, line: dict[str, Any]) -> str:
        name: str = (line.get("session") or line["retired"])["id"]
        return name

    def blank(self, connection: sqlite3.Connection, name: str) -> KnownSession:
        known = KnownSession(name, self.path(name), self.look(connection, name).ref)
        self._number(connection, known)
        connection.execute("DELETE FROM messages WHERE ref = ?", (known.ref,))
        return known

    def replay(self, connection: sqlite3.Connection, known: KnownSession, group: Committed) -> None:
        fixed = lines.from_session(known.session) if known.session else None
        for span, line in group.lines:
            match line:
                case {"role": _, "seq": seq, "id": id_}:
                    connection.execute(_ADD_MESSAGE, (known.ref, seq, *span, id_))
                case {"session": found}:
                    fixed = found
                case {"pop": {"from": first}}:
                    connection.execute("DELETE FROM messages WHERE ref = ? AND seq >= ?", (known.ref, first))
                case {"retired": {"last_seq": last_seq}}:
                    known.last_seq = last_seq
                case _:
                    raise ValueError(f"a line with {', '.join(line)}")
        if fixed is not None:
            known.session = lines.to_session(fixed, group.facts)
            known.last_seq = known.session.last_seq

    def save(self, connection: sqlite3.Connection, known: KnownSession) -> None:
        session, inode_and_size = known.session, known.stamp or ("", 0)
        if session is None:
            values: tuple[Any, ...] = (*(None,) * 7, known.last_seq, None, None)
        else:
            values = (
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
        connection.execute(_SAVE, (*values, rules.marks_to_text(known.marks), *inode_and_size, known.ref))

    def remove(self, connection: sqlite3.Connection, ref: int) -> None:
        connection.execute("DELETE FROM messages WHERE ref = ?", (ref,))
        connection.execute("DELETE FROM sessions WHERE ref = ?", (ref,))

    # --- messages ---

    def messages(
        self,
        connection: sqlite3.Connection,
        known: KnownSession,
        *,
        limit: int | None = None,
        before: int | None = None,
        after: int | None = None,
        oldest_first: bool = False,
    ) -> list[Message]:
        """Messages by seq, as `protocol.Read` says."""
        above = _LEAST if after is None else max(_LEAST, min(after, _MOST))
        below = _MOST if before is None else max(_LEAST, min(before, _MOST))
        found = connection.execute(
            _OLDEST if oldest_first else _NEWEST,
            (known.ref, above, below, -1 if limit is None else min(limit, _MOST)),
        ).fetchall()
        return self._messages(known, found if oldest_first else found[::-1])

    def with_ids(self, connection: sqlite3.Connection, known: KnownSession, ids: Sequence[str]) -> dict[str, Message]:
        """Those of the messages that are there."""
        found: list[Any] = []
        for first in range(0, len(ids), _IDS_AT_ONCE):
            some = ids[first : first + _IDS_AT_ONCE]
            found += connection.execute(
                f"{_NAMED} AND id IN ({', '.join('?' * len(some))})",
                (known.ref, *some),
            )
        return {message.id: message for message in self._messages(known, found)}

    def _messages(self, known: KnownSession, rows: Sequence[tuple[int, int, int]]) -> list[Message]:
        found = self.read(known, [(start, length) for _, start, length in rows])
        with stale_if_malformed():
            messages = [lines.to_message(data) for data in found]
        if [message.seq for message in messages] != [seq for seq, _, _ in rows]:
            raise StaleError
        return messages

    # --- writing ---

    def store(self, connection: sqlite3.Connection, drafts: Sequence[Draft]) -> None:
        """Write drafts of distinct sessions, all or none; the caller holds the lock."""

        def record() -> None:
            for draft in drafts:
                self._record(connection, draft)

        self.folder.store(connection, [draft.edit for draft in drafts], record)

    def _record(self, connection: sqlite3.Connection, draft: Draft) -> None:
        known = draft.known
        known.stamp, known.session = draft.edit.stamp, draft.session
        known.marks = draft.marks or {}
        if draft.session is not None:
            known.last_seq = draft.session.last_seq
        self._number(connection, known)
        if draft.anew or draft.popped:
            connection.execute("DELETE FROM messages WHERE ref = ? AND seq >= ?", (known.ref, draft.popped or _LEAST))
        connection.executemany(
            _ADD_MESSAGE,
            [
                (known.ref, message.seq, *span, message.id)
                for message, span in zip(draft.messages, draft.spans, strict=True)
            ],
        )
        self.save(connection, known)

    def _number(self, connection: sqlite3.Connection, known: KnownSession) -> None:
        if known.ref is None:
            added = connection.execute(
                "INSERT INTO sessions (id, inode, size, last_seq) VALUES (?, '', 0, 0)", (known.id,)
            )
            known.ref = added.lastrowid


def to_session(row: Sequence[Any]) -> Session | None:
    """The session of a row that begins with `COLUMNS`; None if it is only a tombstone."""
    if row[6] is None:
        return None
    return Session(
        id=row[0],
        user_id=row[1],
        agent=row[2],
        title=None if row[3] is None else codec.unescape(row[3]),
        metadata=codec.loads(row[4]) if row[4] else {},
        created_at=codec.from_micros(row[5]),
        updated_at=codec.from_micros(row[6]),
        message_count=row[7],
        last_seq=row[8],
        expires_at=None if row[9] is None else codec.from_micros(row[9]),
        parent_id=row[10],
    )
