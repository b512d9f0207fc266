"""What an answer comes to when pending writes are laid over it: plain functions, for `Overlay`."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from agentstore import rules
from agentstore.errors import AgentstoreError
from agentstore.protocol import Append, SetItems
from agentstore.records import StateItem, copy_json, utcnow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentstore.protocol import GetItems, Listing, Outcome, Read, Scan
    from agentstore.queue.pending import Entry
    from agentstore.records import Message, Session


def messages_of(entry: Entry) -> tuple[Message, ...]:
    """The messages of a write; none of a write of state."""
    return entry.op.messages if isinstance(entry.op, Append) else ()


def belongs(message: Message, op: Read, answer: Sequence[Message], *, full: bool) -> bool:
    """Whether a stored message would stand in the answer, had it been stored when that was given."""
    seq = message.seq or 0
    if op.after is not None and seq <= op.after:
        return False
    if not full or not answer:
        return True
    return seq < (answer[-1].seq or 0) if op.oldest_first else seq > (answer[0].seq or 0)


def as_will_be(
    stored: Session | None, session_id: str, entries: Sequence[Entry], found: dict[str, Message]
) -> Session | None:
    """The session as it will be when what is pending is stored; its last seq is what the backend has given."""
    last_seq = stored.last_seq if stored is not None else 0
    there = {session_id: rules.Stored(stored, last_seq, dict(found))}
    ops = [entry.op for entry in entries if isinstance(entry.op, Append)]
    _, written = rules.plan_appends(ops, there, entries[-1].accepted_at)
    if session_id not in written:
        return stored
    session = written[session_id].session
    return replace(session, last_seq=last_seq, metadata=copy_json(session.metadata))


def is_listed(session: Session, listing: Listing, below: tuple[int, str] | None) -> bool:
    """Whether a session belongs on the page."""
    return (
        listing.user_id in (None, session.user_id)
        and listing.agent in (None, session.agent)
        and (below is None or rules.listing_key(session) < below)
    )


def item_of(key: str, entry: Entry) -> StateItem | None:
    """A key as it will be; None if it has expired meanwhile."""
    op = entry.op
    if not isinstance(op, SetItems):
        raise TypeError(f"{op!r} is no write of state")
    expires_at = entry.accepted_at + op.ttl if isinstance(op.ttl, timedelta) else None
    if not rules.is_live(expires_at, utcnow()):
        return None
    return StateItem(key, copy_json(op.items[key]), 0, expires_at)


def merged(
    op: GetItems, answer: Outcome[dict[str, StateItem]], pending: Mapping[str, StateItem | None]
) -> Outcome[dict[str, StateItem]]:
    """The items asked for: pending ones hide stored ones."""
    if isinstance(answer, AgentstoreError):
        return answer
    found: dict[str, Any] = {**answer, **pending}
    return {key: found[key] for key in op.keys if found.get(key) is not None}


def is_scanned(key: str, scan: Scan) -> bool:
    """Whether the scan would come upon that key."""
    if not key.startswith(scan.prefix):
        return False
    return scan.after is None or (key < scan.after if scan.reverse else key > scan.after)
