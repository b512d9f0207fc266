"""Appending, in two round trips: look, then write if nothing has changed. If it has: lock and look, then write.

What this process wrote itself a moment ago is not looked at but guessed, see `recent`: then it is one.
"""
# ruff: noqa: S608  statements are made of constants and of what `literals` has written

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pymysql.err import IntegrityError, MySQLError

from agentstore import codec, rules
from agentstore.drivers.sql import rows
from agentstore.errors import CorruptRecordError

from . import sql
from .errors import AGAIN, code
from .literals import values
from .transaction import BAD, RacedError, messages_of, stored_of
from .wire import answered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from agentstore.drivers.recent import Clock, Known, Recent
    from agentstore.protocol import Append, Outcome
    from agentstore.records import Message, Session

    from .transaction import Wire

_CLOCK_ROW = f"SELECT NULL, {', '.join(['NULL'] * (len(sql.MESSAGE) - 1))}, {sql.CLOCK}"
_NAMED = (
    f"{_CLOCK_ROW} UNION ALL SELECT session_id, {rows.MESSAGE} FROM agentstore_messages"
    " FORCE INDEX (agentstore_messages_by_id) WHERE id_key IN "
)
_OFF = 1_000_000  # microseconds that a guessed time may be off
_ID = 1 + sql.MESSAGE.index("id")


@dataclass(slots=True)
class _Found:
    """What is there of a batch's sessions.

    Attributes:
        now: The server's time.
        stored: For `rules.plan_appends`; without the broken ones.
        versions: Of each row that is there; see `sql.unchanged`.
        broken: What is wrong with sessions that cannot be read.
    """

    now: datetime
    stored: dict[str, rules.Stored]
    versions: dict[str, sql.Version] = field(default_factory=dict)
    broken: dict[str, CorruptRecordError] = field(default_factory=dict)

    def add(self, guesses: Mapping[str, Known[sql.Version]]) -> None:
        """Take sessions as they were written last."""
        for session_id, (session, version, marks) in guesses.items():
            read = rules.marks_from_text(marks or None)
            self.stored[session_id] = rules.Stored(session, session.last_seq, marks=read)
            self.versions[session_id] = version

    def plan(self, batch: Sequence[Append]) -> tuple[list[Outcome[list[Message]]], _Changes]:
        """What the batch comes to."""
        before = {session_id: stored.session for session_id, stored in self.stored.items()}
        planned, written = rules.plan_appends([op for op in batch if op.session_id in before], self.stored, self.now)
        outcomes = iter(planned)
        all_outcomes = [next(outcomes) if op.session_id in before else self.broken[op.session_id] for op in batch]
        return all_outcomes, _Changes(written, before, self.versions)


@dataclass(slots=True)
class _Changes:
    """What is to be written, of which sessions, in place of which rows."""

    written: Mapping[str, rules.Written]
    before: Mapping[str, Session | None]
    versions: Mapping[str, sql.Version]

    def created(self, wire: Wire) -> list[bytes]:
        """The statements that come first and fail if another writer has created such a row."""
        return list(sql.create_heads(wire, [entry for key, entry in self.written.items() if self._is_new(key)]))

    def rest(self, wire: Wire) -> Iterator[str | bytes]:
        """The other statements."""
        wiped = [key for key, entry in self.written.items() if entry.wipe]
        if wiped:
            yield sql.drop(wiped)
        yield from sql.put_messages(wire, ((key, one) for key, entry in self.written.items() for one in entry.messages))
        there = [key for key in self.written if not self._is_new(key)]
        yield from sql.touch_heads(wire, [self.written[key] for key in there if self._is_touched(key)])
        yield from sql.replace_heads(wire, [self.written[key] for key in there if not self._is_touched(key)])

    def at_once(self, wire: Wire, fresh: str) -> Iterator[str | bytes]:
        """All statements, which fail if another writer has changed a row since, or the condition does not hold."""
        if len(self.written) == 1:  # a lone caller: one statement less
            ((key, entry),) = self.written.items()
            if not self._is_new(key) and self._is_touched(key):
                yield sql.touch_unchanged(self.versions[key], entry, fresh)
                yield from sql.put_messages(wire, ((key, message) for message in entry.messages))
                return
        if versions := [version for key, version in self.versions.items() if key in self.written]:
            yield sql.unchanged(versions, fresh)
        if merged := [old for key in self.written if (old := self.before[key]) and self._is_merged(key)]:
            yield sql.texts_unchanged(merged)
        yield from self.created(wire)
        yield from self.rest(wire)

    def _is_new(self, key: str) -> bool:
        return key not in self.versions

    def _is_touched(self, key: str) -> bool:
        entry, old = self.written[key], self.before[key]
        return old is not None and not entry.wipe and entry.session.metadata is old.metadata

    def _is_merged(self, key: str) -> bool:
        """Whether title and metadata are written again, as they were found or made from that."""
        return not self.written[key].wipe and not self._is_touched(key)


async def append_at_once(
    wire: Wire, batch: Sequence[Append], recent: Recent[sql.Version], clock: Clock
) -> list[Outcome[list[Message]]] | None:
    """Plan against what is there, and write on condition that nobody came between; no lock waits for us meanwhile.

    Gives None where this is not the way: somebody came between, an operation or what is stored is bad, or it is much.
    Nothing is stored then, and `append` will do.
    """
    now = clock.now()
    guesses = {} if now is None else recent.guess(batch, now)
    others = [op for op in batch if op.session_id not in guesses]
    done = False
    try:
        found = _Found(now, {}) if now and not others else await _load(wire, others, sql.heads)
        clock.heard(found.now)
        fresh = ""
        if guesses:
            found.add(guesses)
            names = {(op.session_id, message.id) for op in batch for message in op.messages}
            fresh = sql.fresh(names, codec.to_micros(found.now), _OFF)
        outcomes, changes = found.plan(batch)
        if not changes.written:
            return outcomes
        for session_id in changes.written:
            recent.forget(session_id)
        done = await wire.commit(*changes.at_once(wire, fresh))
    except BAD:
        pass
    except MySQLError as error:
        if code(error) not in AGAIN:
            raise
    if not done:
        for session_id in guesses:
            recent.shared(session_id)
        return None
    for session_id, entry in changes.written.items():
        head = entry.session
        marks = rules.marks_to_text(found.stored[session_id].marks) or ""
        recent.put(head, (session_id, head.last_seq, codec.to_micros(head.updated_at)), marks)
    return outcomes


async def append(wire: Wire, batch: Sequence[Append]) -> list[Outcome[list[Message]]]:
    """Lock, plan against what is there, then write what the plan says."""
    found = await _load(wire, batch, sql.locked, sql.BEGIN)
    outcomes, changes = found.plan(batch)
    if not changes.written:
        return outcomes
    created = changes.created(wire)
    try:
        await wire.send(*created, *changes.rest(wire), sql.COMMIT)
    except IntegrityError as error:
        if answered(error) < len(created):
            raise RacedError from error
        raise
    return outcomes


async def _load(wire: Wire, batch: Sequence[Append], heads: Callable[[Iterable[str]], str], *first: str) -> _Found:
    ids = {op.session_id for op in batch}
    named = {(op.session_id, message.id) for op in batch for message in op.messages}
    look = _NAMED + values(sorted({rows.id_key(*name) for name in named})) if named else _CLOCK_ROW
    *_, there, looked = await wire.send(*first, heads(ids), look)
    found = _Found(codec.from_micros(looked[0][-1]), {key: rules.Stored() for key in ids})
    for row in there:
        session_id = row[0]
        found.versions[session_id] = sql.version(row)
        try:
            found.stored[session_id] = stored_of(row)
        except CorruptRecordError as error:
            found.broken[session_id] = error
            del found.stored[session_id]
    for row in looked[1:]:
        session_id, message_id = row[0], row[_ID]
        here = found.stored.get(session_id)
        if here is None or here.session is None or (session_id, message_id) not in named:
            continue
        try:
            (here.messages[message_id],) = messages_of([row], 1)
        except CorruptRecordError as error:
            found.broken[session_id] = error
            del found.stored[session_id]
    return found
