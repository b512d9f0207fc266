"""The log in dicts."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import replace
from typing import TYPE_CHECKING

from agentstore import rules
from agentstore.errors import ConflictError
from agentstore.records import Message, Page, Session, copied, copy_json, utcnow

from .shared import Shared

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentstore.protocol import Append, Change, Find, Head, Listing, Outcome, Read


class Conversations(Shared):
    """Sessions, and their messages in the order of their seqs."""

    def __init__(self) -> None:
        super().__init__()
        self._sessions: dict[str, rules.Stored] = {}
        self._logs: dict[str, list[Message]] = {}

    async def append(self, batch: Sequence[Append]) -> list[Outcome[list[Message]]]:
        with self._lock:
            self._check_open()
            stored = {op.session_id: self._stored(op.session_id) for op in batch}
            outcomes, written = rules.plan_appends([_own(op) for op in batch], stored, utcnow())
            for session_id, entry in written.items():
                if entry.wipe:
                    self._logs.pop(session_id, None)
                self._logs.setdefault(session_id, []).extend(entry.messages)
                self._sessions[session_id] = stored[session_id]
        return [_copies(item) if isinstance(item, list) else item for item in outcomes]

    async def read(self, batch: Sequence[Read]) -> list[Outcome[list[Message]]]:
        with self._lock:
            self._check_open()
            return rules.each(batch, self._read)

    async def find(self, batch: Sequence[Find]) -> list[Outcome[dict[str, Message]]]:
        with self._lock:
            self._check_open()
            return rules.each(batch, self._find)

    async def heads(self, batch: Sequence[Head]) -> list[Outcome[Session | None]]:
        with self._lock:
            self._check_open()
            return rules.each(batch, self._answer)

    async def list_sessions(self, listing: Listing) -> Page[Session]:
        with self._lock:
            self._check_open()
            now = utcnow()
            found = [
                entry.session
                for entry in self._sessions.values()
                if entry.session is not None
                and rules.is_live(entry.session.expires_at, now)
                and listing.user_id in (None, entry.session.user_id)
                and listing.agent in (None, entry.session.agent)
            ]
        found.sort(key=rules.listing_key, reverse=True)
        if listing.cursor is not None:
            last = rules.read_cursor(listing.cursor)
            found = [session for session in found if rules.listing_key(session) < last]
        return rules.page([_head(s) for s in found[: listing.limit + 1]], listing.limit)

    async def pop(self, session_id: str, count: int, *, user_id: str | None = None) -> list[Message]:
        with self._lock:
            self._check_open()
            return self._cut(session_id, count, user_id)

    async def clear(self, session_id: str, *, user_id: str | None = None) -> int:
        with self._lock:
            self._check_open()
            return len(self._cut(session_id, len(self._logs.get(session_id, ())), user_id))

    async def update(self, change: Change) -> Session:
        with self._lock:
            self._check_open()
            entry = self._sessions.get(change.session_id, rules.Stored())
            entry.session = _head(rules.changed(entry.session, change, utcnow()))
            return _head(entry.session)

    async def delete(self, session_id: str, *, user_id: str | None = None) -> bool:
        with self._lock:
            self._check_open()
            if self._visible(session_id, user_id) is None:
                return False
            self._retire(session_id)
            return True

    async def restore(self, session: Session, messages: Sequence[Message]) -> None:
        with self._lock:
            self._check_open()
            if self._visible(session.id, None) is not None:
                raise ConflictError(f"session {session.id!r} exists")
            here = self._stored(session.id)
            last_seq = max(here.last_seq, session.last_seq)
            head = replace(_head(session), last_seq=last_seq, message_count=len(messages))
            self._logs[session.id] = log = _copies(messages)
            by_id = {message.id: message for message in log}
            self._sessions[session.id] = rules.Stored(head, last_seq, by_id, here.marks)

    async def rewrite(self, session: Session, messages: Sequence[Message]) -> bool:
        with self._lock:
            self._check_open()
            entry = self._stored(session.id)
            if entry.session is None or entry.session.updated_at != session.updated_at:
                return False
            entry.session = replace(entry.session, title=session.title, metadata=copy_json(session.metadata))
            texts = {message.id: message for message in _copies(messages)}
            log = self._logs[session.id]
            for place, message in enumerate(log):
                new = texts.get(message.id)
                if new is not None and new.seq == message.seq:
                    log[place] = entry.messages[message.id] = rules.rewritten(message, new)
            return True

    async def purge_sessions(self) -> int:
        with self._lock:
            self._check_open()
            now = utcnow()
            expired = [
                key
                for key, entry in self._sessions.items()
                if entry.session is not None and not rules.is_live(entry.session.expires_at, now)
            ]
            for session_id in expired:
                self._retire(session_id)
            return len(expired)

    def _stored(self, session_id: str) -> rules.Stored:
        return self._sessions.get(session_id) or rules.Stored()

    def _visible(self, session_id: str, user_id: str | None) -> Session | None:
        return rules.visible(self._stored(session_id).session, user_id, utcnow())

    def _answer(self, op: Head) -> Session | None:
        session = self._visible(op.session_id, op.user_id)
        return None if session is None else _head(session)

    def _read(self, op: Read) -> list[Message]:
        if self._visible(op.session_id, op.user_id) is None:
            return []
        log = self._logs[op.session_id]
        start = 0 if op.after is None else bisect_right(log, op.after, key=_seq)
        end = len(log) if op.before is None else bisect_left(log, op.before, key=_seq)
        if op.limit is not None and op.oldest_first:
            end = min(end, start + op.limit)
        elif op.limit is not None:
            start = max(start, end - op.limit)
        return _copies(log[start:end])

    def _find(self, op: Find) -> dict[str, Message]:
        if self._visible(op.session_id, op.user_id) is None:
            return {}
        known = self._sessions[op.session_id].messages
        return {key: _copies([known[key]])[0] for key in op.ids if key in known}

    def _cut(self, session_id: str, count: int, user_id: str | None) -> list[Message]:
        session = self._visible(session_id, user_id)
        if session is None or not count:
            return []
        log = self._logs[session_id]
        removed = log[max(0, len(log) - count) :]
        if removed:
            entry = self._sessions[session_id]
            del log[len(log) - len(removed) :]
            for message in removed:
                del entry.messages[message.id]
            entry.session = rules.shortened(session, len(removed), utcnow())
            entry.last_seq = entry.session.last_seq
        return removed

    def _retire(self, session_id: str) -> None:
        self._logs.pop(session_id, None)
        here = self._sessions[session_id]
        self._sessions[session_id] = rules.Stored(last_seq=here.last_seq, marks=here.marks)


def _seq(message: Message) -> int:
    return message.seq or 0


# Records and operations whose dicts and lists nobody else holds:


def _copies(messages: Iterable[Message]) -> list[Message]:
    return [copied(message) for message in messages]


def _head(session: Session) -> Session:
    return replace(session, metadata=copy_json(session.metadata))


def _own(op: Append) -> Append:
    return replace(op, messages=tuple(_copies(op.messages)), metadata=copy_json(op.metadata))
