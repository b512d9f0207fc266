"""The log: appends, reads, and what is done to one session at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agentstore import rules
from agentstore.errors import AgentstoreError, ConflictError, CorruptRecordError

from . import records, scripts
from .client import Command
from .keys import seq_digits
from .sessions import Write, change, load_commands, loaded, wreck
from .staging import stage
from .wire import TIME, Wire, checked

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from agentstore.protocol import Change, Find, Head, Outcome, Read
    from agentstore.records import Message, Session

_MOST = 2**31 - 1  # of what a command is asked for: a list holds no more
_VERSION = 64  # bytes that hold the version of any head
_REPLIES = 2  # for a read by a caller who may see all


async def read(wire: Wire, batch: Sequence[Read]) -> list[Outcome[list[Message]]]:
    """A range of each log, from the end that `limit` counts from, beside its head."""
    outcomes: list[Any] = [None] * len(batch)
    left: Sequence[int] = range(len(batch))
    while left:
        commands = [Command(wire.keys.session(batch[left[0]].session_id).head, TIME)]
        for index in left:
            commands += _read_commands(wire, batch[index])
        time, *answers = await wire.run(commands)
        now, replies, again = wire.time_of(checked(time)), iter(answers), []
        for index in left:
            op = batch[index]
            answer = [next(replies) for _ in range(_REPLIES if op.user_id is None else _REPLIES + 1)]
            outcomes[index] = _answer(op, answer, now)
            if outcomes[index] is None:
                again.append(index)
        left = again
    return outcomes


def _read_commands(wire: Wire, op: Read) -> list[Command]:
    keys = wire.keys.session(op.session_id)
    head, log = keys.head, keys.log
    low = "-" if op.after is None else f"({seq_digits(op.after + 1)}"
    high = "+" if op.before is None else f"({seq_digits(op.before)}"
    limit = () if op.limit is None else ("LIMIT", 0, min(op.limit, _MOST))
    newest_first = op.limit is not None and not op.oldest_first
    ranged = ("ZREVRANGEBYLEX", log, high, low) if newest_first else ("ZRANGEBYLEX", log, low, high)
    commands = [Command(head, ("GET", head)), Command(log, (*ranged, *limit))]
    if op.user_id is not None:  # the owner might change in between: see `_answer`
        commands.append(Command(head, ("GETRANGE", head, 0, _VERSION - 1)))
    return commands


def _answer(op: Read, answers: Sequence[Any], now: datetime) -> Outcome[list[Message]] | None:
    """The messages; None if the session was changed between its head and its log, for a caller who may not see all."""
    try:
        head, found, *after = [checked(answer) for answer in answers]
        session = None if head is None else records.session_of(op.session_id, head)
        if rules.visible(session, op.user_id, now) is None:
            return []
        if after and head[:_VERSION] != after[0]:
            return None
        messages = records.messages_of(op.session_id, found)
    except AgentstoreError as error:
        return error
    return messages if op.limit is None or op.oldest_first else messages[::-1]


def _find_command(wire: Wire, session_id: str, ids: Sequence[str]) -> Command:
    keys = wire.keys.session(session_id)
    return Command(keys.head, scripts.call(scripts.FIND, [keys.head, keys.log, keys.ids], *ids))


async def find(wire: Wire, batch: Sequence[Find]) -> list[Outcome[dict[str, Message]]]:
    """By a script for each session, which sees its head, ids and log at one moment."""
    if not batch:
        return []
    commands = [_find_command(wire, op.session_id, op.ids) for op in batch]
    time, *answers = await wire.run([Command(commands[0].key, TIME), *commands])
    now = wire.time_of(checked(time))

    def answer(pair: tuple[Find, Any]) -> dict[str, Message]:
        op, (head, *found) = pair[0], checked(pair[1])
        session = None if head is None else records.session_of(op.session_id, head)
        if rules.visible(session, op.user_id, now) is None:
            return {}
        return {message.id: message for message in records.messages_of(op.session_id, found)}

    return rules.each(list(zip(batch, answers, strict=True)), answer)


async def heads(wire: Wire, batch: Sequence[Head]) -> list[Outcome[Session | None]]:
    """The heads of sessions."""
    if not batch:
        return []
    names = [wire.keys.session(op.session_id).head for op in batch]
    time, *answers = await wire.run([Command(names[0], TIME), *(Command(name, ("GET", name)) for name in names)])
    now = wire.time_of(checked(time))

    def answer(pair: tuple[Head, Any]) -> Session | None:
        op, head = pair
        session = None if checked(head) is None else records.session_of(op.session_id, head)
        return rules.visible(session, op.user_id, now)

    return rules.each(list(zip(batch, answers, strict=True)), answer)


async def pop(wire: Wire, session_id: str, count: int, user_id: str | None) -> list[Message]:
    """Read the newest messages, then remove them."""
    removed: list[Message] = []
    log = wire.keys.session(session_id).log
    newest = Command(log, ("ZREVRANGEBYLEX", log, "+", "-", "LIMIT", 0, min(count, _MOST)))

    def plan(answers: list[Any], now: datetime) -> Write | None:
        here, version = loaded(session_id, answers[0])
        session = rules.visible(here.session, user_id, now)
        removed[:] = [] if session is None else records.messages_of(session_id, answers[1])[::-1]
        if session is None or not removed:
            return None
        after = rules.shortened(session, len(removed), now)
        ids = [message.id for message in removed]
        return Write(session_id, version, after, after.last_seq, cut=removed[0], cut_ids=ids)

    await change(wire, f"popping from {session_id!r}", [*load_commands(wire, session_id), newest], plan)
    return removed


async def clear(wire: Wire, session_id: str, user_id: str | None) -> int:
    """Remove all messages, unread."""
    removed = 0
    log = wire.keys.session(session_id).log

    def plan(answers: list[Any], now: datetime) -> Write | None:
        nonlocal removed
        here, version = loaded(session_id, answers[0])
        session = rules.visible(here.session, user_id, now)
        removed = 0 if session is None else answers[1]
        if session is None or not removed:
            return None
        after = rules.shortened(session, removed, now)
        return Write(session_id, version, replace(after, message_count=0), after.last_seq, wipe=True, held=removed)

    await change(
        wire, f"clearing {session_id!r}", [*load_commands(wire, session_id), Command(log, ("ZCARD", log))], plan
    )
    return removed


async def update(wire: Wire, change_: Change) -> Session:
    """Write the head anew."""
    session_id = change_.session_id
    after: Session | None = None

    def plan(answers: list[Any], now: datetime) -> Write | None:
        nonlocal after
        here, version = loaded(session_id, answers[0])
        after = rules.changed(here.session, change_, now)
        return Write(session_id, version, after, after.last_seq)

    await change(wire, f"updating {session_id!r}", load_commands(wire, session_id), plan)
    assert after is not None  # noqa: S101  `plan` raises, or sets it
    return after


async def delete(wire: Wire, session_id: str, user_id: str | None) -> bool:
    """Leave the last seq, also of a session that cannot be read."""

    def plan(answers: list[Any], now: datetime) -> Write | None:
        try:
            here, version = loaded(session_id, answers[0])
            session = rules.visible(here.session, user_id, now)
        except CorruptRecordError:
            if user_id is not None:  # nobody can say whose it is
                raise
            here, version = wreck(answers)
        else:
            if session is None:
                return None
        return Write(session_id, version, None, here.last_seq, wipe=True)

    log = wire.keys.session(session_id).log
    newest = Command(log, ("ZREVRANGEBYLEX", log, "+", "-", "LIMIT", 0, 1))
    return await change(wire, f"deleting {session_id!r}", [*load_commands(wire, session_id), newest], plan)


async def restore(wire: Wire, session: Session, messages: Sequence[Message]) -> None:
    """Put the messages under names of their own, then let them take the log's place together with the head."""
    load = load_commands(wire, session.id)

    def plan(answers: list[Any], now: datetime) -> Write | None:
        here, version = loaded(session.id, answers[0])
        if rules.visible(here.session, None, now) is not None:
            raise ConflictError(f"session {session.id!r} exists")
        last_seq = max(here.last_seq, session.last_seq)
        after = replace(session, last_seq=last_seq, message_count=len(messages))
        return Write(session.id, version, after, last_seq, wipe=True, staged=staged)

    *answers, time = await wire.ask(*load, Command(load[0].key, TIME))
    staged = ""
    plan(answers, wire.time_of(time))  # refuses before anything is sent that is long
    staged = await stage(wire, session.id, messages)
    await change(wire, f"restoring {session.id!r}", load, plan)
    if not wire.one_server:  # a listing that was read meanwhile may have taken it for a leftover
        await wire.add(wire.keys.entries(session))


async def rewrite(wire: Wire, session: Session, messages: Sequence[Message]) -> bool:
    """Put the new records under names of their own, then let them take the places of the old together with the head."""
    find_all = _find_command(wire, session.id, [message.id for message in messages])
    ((head, *found),) = await wire.ask(find_all)
    if head is None or records.session_of(session.id, head).updated_at != session.updated_at:
        return False
    there = {message.id: message for message in records.messages_of(session.id, found)}
    new = [rules.rewritten(old, texts) for texts in messages if (old := there.get(texts.id)) and old.seq == texts.seq]
    staged = await stage(wire, session.id, new)

    def plan(answers: list[Any], _: datetime) -> Write | None:
        here, version = loaded(session.id, answers[0])
        if here.session is None or here.session.updated_at != session.updated_at:
            return None
        after = replace(here.session, title=session.title, metadata=session.metadata)
        return Write(session.id, version, after, here.last_seq, staged=staged)

    return await change(wire, f"rewriting {session.id!r}", load_commands(wire, session.id), plan)
