"""Appending, in two round trips: look, then write if nothing has changed. If it has: lock and look, then write."""
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

    from agentstore.protocol import Append, Outcome
    from agentstore.records import Message, Session

    from .transaction import Wire

_CLOCK_ROW = f"SELECT NULL, {', '.join(['NULL'] * (len(sql.MESSAGE) - 1))}, {sql.CLOCK}"
_NAMED = (
    f"{_CLOCK_ROW} UNION ALL SELECT session_id, {rows.MESSAGE} FROM agentstore_messages"
    " FORCE INDEX (agentstore_messages_by_id) WHERE id_key IN "
)
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

    def at_once(self, wire: Wire) -> Iterator[str | bytes]:
        """All statements, which fail if another writer has changed a row since."""
        if len(self.written) == 1:  # a lone caller: one statement less
            ((key, entry),) = self.written.items()
            if not self._is_new(key) and self._is_touched(key):
                yield sql.touch_unchanged(self.versions[key], entry)
                yield from sql.put_messages(wire, ((key, message) for message in entry.messages))
                return
        if versions := [version for key, version in self.versions.items() if key in self.written]:
            yield sql.unchanged(versions)
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


async def append_at_once(wire: Wire, batch: Sequence[Append]) -> list[Outcome[list[Message]]] | None:
    """Plan against what is there, and write on condition that nobody came between; no lock waits for us meanwhile.

    Gives None where this is not the way: somebody came between, an operation or what is stored is bad, or it is much.
    Nothing is stored then, and `append` will do.
    """
    try:
        found = await _load(wire, batch, sql.heads)
        outcomes, changes = found.plan(batch)
        if not changes.written:
            return outcomes
        done = await wire.commit(*changes.at_once(wire))
    except BAD:
        return None
    except MySQLError as error:
        if code(error) in AGAIN:
            return None
        raise
    return outcomes if done else None


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
