"""What a conversation store does, with `agentstore.rules` deciding, on the logs of sessions."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from agentstore import codec, rules
from agentstore.errors import AgentstoreError, ConflictError
from agentstore.records import utcnow

from .sessions import COLUMNS, Draft, SessionLogs, to_session

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from agentstore.protocol import Append, Change, Find, Head, Listing, Outcome, Read
    from agentstore.records import Message, Page, Session

    from .folder import Folder
    from .sessions import KnownSession

_PURGED_AT_ONCE = 500
_MOST = 2**62

_Named: TypeAlias = "tuple[KnownSession, dict[str, Message]]"


class Conversations:
    """The blocking form of `protocol.ConversationStore`, whose methods it has."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._logs = SessionLogs(folder, "sessions")

    # --- reading ---

    def read(self, batch: Sequence[Read]) -> list[Outcome[list[Message]]]:
        connection = self._folder.reading()

        def answer(op: Read) -> list[Message]:
            def ask(connection: sqlite3.Connection, known: KnownSession) -> list[Message]:
                if rules.visible(known.session, op.user_id, utcnow()) is None:
                    return []
                return self._logs.messages(
                    connection, known, limit=op.limit, before=op.before, after=op.after, oldest_first=op.oldest_first
                )

            return self._logs.answer(connection, op.session_id, ask)

        return rules.each(batch, answer)

    def find(self, batch: Sequence[Find]) -> list[Outcome[dict[str, Message]]]:
        connection = self._folder.reading()

        def answer(op: Find) -> dict[str, Message]:
            def ask(connection: sqlite3.Connection, known: KnownSession) -> dict[str, Message]:
                if rules.visible(known.session, op.user_id, utcnow()) is None:
                    return {}
                return self._logs.with_ids(connection, known, op.ids)

            return self._logs.answer(connection, op.session_id, ask)

        return rules.each(batch, answer)

    def heads(self, batch: Sequence[Head]) -> list[Outcome[Session | None]]:
        connection = self._folder.reading()

        def answer(op: Head) -> Session | None:
            session = self._logs.answer(connection, op.session_id, lambda _, known: known.session)
            return rules.visible(session, op.user_id, utcnow())

        return rules.each(batch, answer)

    def list_sessions(self, listing: Listing) -> Page[Session]:
        conditions = ["updated_at IS NOT NULL", "(expires_at IS NULL OR expires_at > ?)"]
        values: list[Any] = [codec.to_micros(utcnow())]
        for column, wanted in (("user_id", listing.user_id), ("agent", listing.agent)):
            if wanted is not None:
                conditions.append(f"{column} = ?")
                values.append(wanted)
        if listing.cursor is not None:
            conditions.append("(updated_at, id) < (?, ?)")
            values += rules.read_cursor(listing.cursor)
        rows = self._folder.reading().execute(
            f"SELECT {COLUMNS} FROM sessions WHERE {' AND '.join(conditions)} "  # noqa: S608  constants and question marks
            "ORDER BY updated_at DESC, id DESC LIMIT ?",
            (*values, min(listing.limit, _MOST) + 1),
        )
        return rules.page([session for row in rows if (session := to_session(row))], listing.limit)

    # --- writing ---

    def append(self, batch: Sequence[Append]) -> list[Outcome[list[Message]]]:
        with self._folder.writing() as connection:
            known, failed = self._named(connection, batch)
            stored = {id_: rules.Stored(k.session, k.last_seq, there, k.marks) for id_, (k, there) in known.items()}
            good = [op for op in batch if op.session_id not in failed]
            outcomes, written = rules.plan_appends(good, stored, utcnow())
            self._logs.store(connection, [_draft(known[id_][0], entry) for id_, entry in written.items()])
        answers = iter(outcomes)
        return [failed[op.session_id] if op.session_id in failed else next(answers) for op in batch]

    def pop(self, session_id: str, count: int, user_id: str | None) -> list[Message]:
        with self._folder.writing() as connection:

            def ask(connection: sqlite3.Connection, known: KnownSession) -> tuple[KnownSession, list[Message]]:
                if rules.visible(known.session, user_id, utcnow()) is None:
                    return known, []
                return known, self._logs.messages(connection, known, limit=count)

            known, removed = self._logs.answer_locked(connection, session_id, ask)
            if removed and known.session is not None:
                session = rules.shortened(known.session, len(removed), utcnow())
                self._logs.store(connection, [Draft(known, session, popped=removed[0].seq or 0)])
            return removed

    def clear(self, session_id: str, user_id: str | None) -> int:
        with self._folder.writing() as connection:
            known, session = self._visible(connection, session_id, user_id)
            if session is None or not session.message_count:
                return 0
            rest = rules.shortened(session, session.message_count, utcnow())
            self._logs.store(connection, [Draft(known, rest, anew=True)])
            return session.message_count

    def update(self, change: Change) -> Session:
        with self._folder.writing() as connection:
            known = self._current(connection, change.session_id)
            session = rules.changed(known.session, change, utcnow())
            self._logs.store(connection, [Draft(known, session, whole=True)])
            return session

    def delete(self, session_id: str, user_id: str | None) -> bool:
        with self._folder.writing() as connection:
            known, session = self._visible(connection, session_id, user_id)
            if session is None:
                return False
            self._logs.store(connection, [Draft(known, None, anew=True)])
            return True

    def restore(self, session: Session, messages: Sequence[Message]) -> None:
        with self._folder.writing() as connection:
            known, there = self._visible(connection, session.id, None)
            if there is not None:
                raise ConflictError(f"session {session.id!r} exists")
            last_seq = max(known.last_seq, session.last_seq)
            head = replace(session, last_seq=last_seq, message_count=len(messages))
            self._logs.store(connection, [Draft(known, head, messages, anew=True)])

    def rewrite(self, session: Session, messages: Sequence[Message]) -> bool:
        with self._folder.writing() as connection:

            def ask(connection: sqlite3.Connection, known: KnownSession) -> tuple[KnownSession, list[Message]]:
                return known, self._logs.messages(connection, known)

            known, log = self._logs.answer_locked(connection, session.id, ask)
            if known.session is None or known.session.updated_at != session.updated_at:
                return False
            head = replace(known.session, title=session.title, metadata=session.metadata)
            texts = {(message.seq, message.id): message for message in messages}
            log = [rules.rewritten(message, texts.get((message.seq, message.id), message)) for message in log]
            self._logs.store(connection, [Draft(known, head, log, anew=True)])  # nothing of the old log stays
            return True

    def purge(self) -> int:
        removed, last = 0, 0
        failed: list[AgentstoreError] = []
        while True:
            with self._folder.writing() as connection:
                now = utcnow()
                rows = connection.execute(
                    "SELECT ref, id FROM sessions WHERE expires_at <= ? AND ref > ? ORDER BY ref LIMIT ?",
                    (codec.to_micros(now), last, _PURGED_AT_ONCE),
                ).fetchall()
                expired: list[Draft] = []
                for _, session_id in rows:
                    try:
                        known = self._current(connection, session_id)
                    except AgentstoreError as error:  # one log that cannot be read must not keep the others
                        failed.append(error)
                        continue
                    if known.session is not None and not rules.is_live(known.session.expires_at, now):
                        expired.append(Draft(known, None, anew=True))
                self._logs.store(connection, expired)
            removed += len(expired)
            if len(rows) < _PURGED_AT_ONCE:
                break
            last = rows[-1][0]
        if failed:
            raise failed[0]
        return removed

    def _current(self, connection: sqlite3.Connection, session_id: str) -> KnownSession:
        return self._logs.answer_locked(connection, session_id, lambda _, known: known)

    def _visible(
        self, connection: sqlite3.Connection, session_id: str, user_id: str | None
    ) -> tuple[KnownSession, Session | None]:
        known = self._current(connection, session_id)
        return known, rules.visible(known.session, user_id, utcnow())

    def _named(
        self, connection: sqlite3.Connection, batch: Sequence[Append]
    ) -> tuple[dict[str, _Named], dict[str, AgentstoreError]]:
        """What is there of each session with the messages that a batch names, or why it cannot be told."""
        ids: dict[str, list[str]] = {}
        for op in batch:
            ids.setdefault(op.session_id, []).extend(message.id for message in op.messages)
        known: dict[str, _Named] = {}
        failed: dict[str, AgentstoreError] = {}
        for session_id, wanted in ids.items():
            try:
                known[session_id] = self._logs.answer_locked(connection, session_id, partial(self._with_ids, wanted))
            except AgentstoreError as error:
                failed[session_id] = error
        return known, failed

    def _with_ids(self, ids: Sequence[str], connection: sqlite3.Connection, known: KnownSession) -> _Named:
        return known, self._logs.with_ids(connection, known, ids)


def _draft(known: KnownSession, entry: rules.Written) -> Draft:
    whole = known.session is None or entry.session.metadata is not known.session.metadata
    return Draft(known, entry.session, entry.messages, whole=whole, anew=entry.wipe, marks=entry.marks)
