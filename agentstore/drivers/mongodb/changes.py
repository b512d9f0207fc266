"""What concerns one session alone: pop, clear, update, delete, restore."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pymongo import UpdateOne

from agentstore import codec, rules
from agentstore.drivers.optimistic import Attempts
from agentstore.errors import ConflictError
from agentstore.records import Session

from . import documents, reads
from .appends import delete_strays, insert, message_documents
from .heads import Gone, Head, commit, finish, load, new_token

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from agentstore.protocol import Change
    from agentstore.records import Message

    from .client import Document, Tables
    from .clock import Clock

T = TypeVar("T")


@dataclass(slots=True)
class _Decision(Generic[T]):
    """What an operation comes to, given a head.

    Attributes:
        result: For the caller, once `head` is committed.
        head: The next head; None where nothing changes.
        new: Messages to be inserted before.
    """

    result: T
    head: Document | None = None
    new: Sequence[Document] = field(default_factory=tuple)


async def _change(
    tables: Tables,
    clock: Clock,
    session_id: str,
    patience: float,
    decide: Callable[[Head, datetime], Awaitable[_Decision[T] | None]],
) -> T:
    """Load the head, decide, and commit the next head if nobody came between; else again, as when `decide` cannot."""
    attempts = Attempts(f"changing session {session_id!r}", patience)
    while True:
        now = await clock.now(tables)
        head = (await load(tables, [session_id]))[session_id]
        decision = await decide(head, now)
        if decision is None:
            await attempts.again()
            continue
        if decision.head is None:
            return decision.result
        await finish(tables, [head])
        await insert(tables, decision.new)
        if not await commit(tables, {session_id: head}, {session_id: decision.head}):
            return decision.result
        await delete_strays(tables, [document["_id"] for document in decision.new])
        await attempts.again()


async def pop(
    tables: Tables, clock: Clock, session_id: str, patience: float, *, count: int, user_id: str | None
) -> list[Message]:
    """Read the newest messages, cut them off the head, delete them."""

    async def decide(head: Head, now: datetime) -> _Decision[list[Message]] | None:
        session = rules.visible(head.stored().session, user_id, now)
        if session is None or not count or not session.message_count:
            return _Decision([])
        newest = await reads.newest(tables, head, session, count)
        if newest is None:
            return None
        removed = documents.messages(newest)
        cut = Gone(str(head.log), newest[0]["seq"], session.last_seq)
        following = head.next(rules.shortened(session, len(removed), now), pops=head.cuts[1] + 1, gone=cut._asdict())
        return _Decision(removed, following)

    return await _change(tables, clock, session_id, patience, decide)


async def clear(tables: Tables, clock: Clock, session_id: str, patience: float, *, user_id: str | None) -> int:
    """Begin another log, unread; delete the old one."""

    async def decide(head: Head, now: datetime) -> _Decision[int]:
        session = rules.visible(head.stored().session, user_id, now)
        if session is None or not session.message_count:
            return _Decision(0)
        count = session.message_count
        return _Decision(count, _fresh(head, rules.shortened(session, count, now)))

    return await _change(tables, clock, session_id, patience, decide)


async def update(tables: Tables, clock: Clock, change: Change, patience: float) -> Session:
    """Write the head anew."""

    async def decide(head: Head, now: datetime) -> _Decision[Session]:
        session = rules.changed(head.stored().session, change, now)
        return _Decision(session, head.next(session))

    return await _change(tables, clock, change.session_id, patience, decide)


async def delete(tables: Tables, clock: Clock, session_id: str, patience: float, *, user_id: str | None) -> bool:
    """Leave a tombstone with the last seq, also of a session that cannot be read."""

    async def decide(head: Head, now: datetime) -> _Decision[bool]:
        expires_at = head.document.get("expires_at")
        expired = isinstance(expires_at, int) and expires_at <= codec.to_micros(now)
        if "updated_at" not in head.document or expired:
            return _Decision(result=False)
        if user_id is not None:
            rules.check_owner(Session(session_id, head.document.get("user_id")), user_id)
        return _Decision(result=True, head=head.tombstone(await last_seq(tables, head)))

    return await _change(tables, clock, session_id, patience, decide)


async def last_seq(tables: Tables, head: Head) -> int:
    """The head's last seq; where it is unreadable, that of the last message stands in for it."""
    number = head.document.get("last_seq")
    if isinstance(number, int):
        return number
    last = await tables.messages.find({"log": head.log}, {"seq": 1}, sort=[("seq", -1)], limit=1).to_list(None)
    return last[0]["seq"] if last else 0


async def restore(tables: Tables, clock: Clock, session: Session, messages: Sequence[Message], patience: float) -> None:
    """Write messages and head as they are, in a log of their own."""

    async def decide(head: Head, now: datetime) -> _Decision[None]:
        here = head.stored()
        if rules.visible(here.session, None, now) is not None:
            raise ConflictError(f"session {session.id!r} exists")
        as_stored = replace(session, last_seq=max(here.last_seq, session.last_seq), message_count=len(messages))
        first = {"open": [new_token()], "open_from": messages[0].seq} if messages else {}
        following = _fresh(head, as_stored, **first)
        return _Decision(None, following, message_documents(session.id, messages, following, 0))

    await _change(tables, clock, session.id, patience, decide)


def _fresh(head: Head, session: Session, **control: Any) -> Document:
    """The next head, on a new log; the old one, if any, is cut off."""
    cut = {"gone": Gone(head.log)._asdict()} if head.log else {}
    return head.bare.next(session, log=new_token(), **cut, **control)


async def rewrite(tables: Tables, clock: Clock, session: Session, messages: Sequence[Message], patience: float) -> bool:
    """Renew the head, on condition of its time, then the messages.

    In between a reader sees some messages as they were and some as they are. Where a writer dies there, the same may be
    done again: the time is still the old one. What has been removed meanwhile is not found, for its log has gone, or it
    has: no seq comes twice.
    """
    renewed: list[Head] = []

    async def decide(head: Head, _: datetime) -> _Decision[bool]:
        here = head.stored().session
        if here is None or here.updated_at != session.updated_at:
            return _Decision(result=False)
        renewed[:] = [head]
        following = head.next(replace(here, title=session.title, metadata=session.metadata))
        return _Decision(result=True, head=following)

    if not await _change(tables, clock, session.id, patience, decide):
        return False
    (head,) = renewed
    counts = {"$in": [None, *head.open]}
    updates = [
        UpdateOne(
            {"log": head.log, "seq": message.seq, "id": message.id, "token": counts},
            documents.texts_update(session.id, message),
        )
        for message in messages
    ]
    if updates:
        await tables.messages.bulk_write(updates, ordered=False)
    return True
