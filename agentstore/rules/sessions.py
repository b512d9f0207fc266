"""Sessions: who may see them, what an append comes to, how they age."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from agentstore.checks import check_metadata
from agentstore.errors import AccessDeniedError, ConflictError, SessionNotFoundError
from agentstore.protocol import KEEP, Append, Change, Keep
from agentstore.records import Message, Session, known_session, numbered

from .marks import Marks, advanced, passed
from .outcomes import each

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from agentstore.protocol import Outcome


MICROSECOND = timedelta(microseconds=1)

Numbering: TypeAlias = "Callable[[int, int], Sequence[int]]"
"""Gives the next so many numbers above the last one."""


def counted(last: int, count: int) -> Sequence[int]:
    """One after the other: how a backend numbers whose writers see one another."""
    return range(last + 1, last + 1 + count)


def is_live(expires_at: datetime | None, now: datetime) -> bool:
    """Whether something with this expiry is visible."""
    return expires_at is None or now < expires_at


def check_owner(session: Session, user_id: str | None) -> None:
    """Let the owner pass, and a caller who gives no user; all may pass where there is no owner.

    Raises:
        AccessDeniedError: It is somebody else's.
    """
    if user_id is not None and session.user_id is not None and session.user_id != user_id:
        raise AccessDeniedError(f"session {session.id!r} belongs to another user than {user_id!r}")


def visible(session: Session | None, user_id: str | None, now: datetime) -> Session | None:
    """The session if it is there and has not expired.

    Raises:
        AccessDeniedError: It is somebody else's.
    """
    if session is None or not is_live(session.expires_at, now):
        return None
    check_owner(session, user_id)
    return session


def touched(
    session: Session,
    now: datetime,
    *,
    ttl: timedelta | Keep | None = KEEP,
    title: str | Keep | None = KEEP,
    metadata: Mapping[str, Any] | Keep = KEEP,
    message_count: int | None = None,
    last_seq: int | None = None,
) -> Session:
    """The session after an activity, with what is given in place of what it had: the expiry slides with it.

    `updated_at` always rises, whatever the clock does: so it serves as the version of a session, by which a driver
    without locks notices that another writer came first.
    """
    updated_at = max(now, session.updated_at + MICROSECOND)
    if isinstance(ttl, Keep):
        ttl = ttl_of(session)
    return known_session(
        session.id,
        session.user_id,
        session.agent,
        session.title if title is KEEP else title,
        session.metadata if metadata is KEEP else metadata,
        session.created_at,
        updated_at,
        session.message_count if message_count is None else message_count,
        session.last_seq if last_seq is None else last_seq,
        updated_at + ttl if ttl else None,
        session.parent_id,
    )


def ttl_of(session: Session) -> timedelta | None:
    """The session's time to live, which is the distance between its two times."""
    return session.expires_at - session.updated_at if session.expires_at else None


def changed(session: Session | None, change: Change, now: datetime) -> Session:
    """The session after `change`.

    Raises:
        SessionNotFoundError: There is none.
        AccessDeniedError: It is somebody else's.
    """
    current = visible(session, change.user_id, now)
    if current is None:
        raise SessionNotFoundError(f"there is no session {change.session_id!r}")
    return touched(current, now, ttl=change.ttl, title=change.title, metadata=change.metadata)


def shortened(session: Session, removed: int, now: datetime, numbering: Numbering = counted) -> Session:
    """The session after a pop or clear of `removed` messages, which consumes a seq."""
    (last_seq,) = numbering(session.last_seq, 1)
    return touched(session, now, message_count=session.message_count - removed, last_seq=last_seq)


def rewritten(message: Message, texts: Message) -> Message:
    """The stored message with other texts: see `ConversationStore.rewrite`."""
    return replace(
        message,
        content=texts.content,
        tool_calls=texts.tool_calls,
        tool_call_id=texts.tool_call_id,
        name=texts.name,
        metadata=texts.metadata,
    )


@dataclass(slots=True)
class Stored:
    """What a store holds of a session id.

    Attributes:
        session: The session, expired or not; None if there is none.
        last_seq: The last seq ever given under this id: it outlives the session.
        messages: Those of its messages that the operations at hand name, by id.
        marks: How far queues have come; they outlive the session too.
    """

    session: Session | None = None
    last_seq: int = 0
    messages: dict[str, Message] = field(default_factory=dict)
    marks: Marks = field(default_factory=dict)


@dataclass(slots=True)
class Written:
    """What a driver has to write for one session after a batch of appends.

    Attributes:
        session: The new head.
        messages: What is to be added, with seqs, in order.
        wipe: An expired session stood here: its messages go first.
        marks: All marks that the session has now; None if they are what they were.
    """

    session: Session
    messages: list[Message] = field(default_factory=list)
    wipe: bool = False
    marks: Marks | None = None


def plan_appends(
    batch: Sequence[Append], stored: Mapping[str, Stored], now: datetime, numbering: Numbering = counted
) -> tuple[list[Outcome[list[Message]]], dict[str, Written]]:
    """What a batch of appends comes to.

    Args:
        batch: The operations, in order.
        stored: For each session id in the batch what is there, with the messages whose ids the batch names.
            It is used up: do not use it afterwards.
        now: The driver's time.
        numbering: Gives the seqs.

    Returns:
        An outcome for each operation, and what to write for each session that changes.
    """
    written: dict[str, Written] = {}
    return each(batch, lambda op: _append(op, stored[op.session_id], written, now, numbering)), written


def _append(
    op: Append, here: Stored, written: dict[str, Written], now: datetime, numbering: Numbering
) -> list[Message]:
    session = visible(here.session, op.user_id, now)
    known = here.messages if session else {}
    if passed(here.marks, op.mark):  # a replay: what has been removed since stays away
        return [known.get(message.id, message) for message in op.messages]
    fresh = [message for message in op.messages if message.id not in known]
    if fresh or not op.messages:  # a retry of what is stored whole succeeds, whatever came since
        _check_expected(op, session)
    if not fresh and op.messages and session:
        if op.mark is not None:  # by the least step in time, for a driver must see that the session has changed
            here.session = touched(session, session.updated_at)
            _write(op, here, here.session, written)
        return [known[message.id] for message in op.messages]

    wipe = session is None and here.session is not None
    ttl = op.ttl or (op.default_ttl if session is None else ttl_of(session))
    if session is None:
        before = now - MICROSECOND  # so that the append itself is what touches it now
        session = Session(
            op.session_id, op.user_id, op.agent, created_at=now, updated_at=before, last_seq=here.last_seq
        )
        here.messages = known = {}
    metadata = session.metadata
    if op.metadata:
        metadata = check_metadata({**metadata, **op.metadata}, limit=op.metadata_room)
    seqs = numbering(here.last_seq, len(fresh))
    added = [numbered(message, seq) for message, seq in zip(fresh, seqs, strict=True)]
    here.last_seq = seqs[-1] if added else here.last_seq
    here.session = session = touched(
        session,
        now,
        metadata=metadata,
        message_count=session.message_count + len(added),
        last_seq=here.last_seq,
        ttl=ttl,
    )
    for message in added:
        known[message.id] = message
    entry = _write(op, here, session, written)
    if wipe:
        entry.wipe, entry.messages = True, []
    entry.messages += added
    return [known[message.id] for message in op.messages]


def _write(op: Append, here: Stored, session: Session, written: dict[str, Written]) -> Written:
    entry = written.setdefault(op.session_id, Written(session))
    entry.session = session
    if op.mark is not None:
        entry.marks = here.marks = advanced(here.marks, op.mark)
    return entry


def _check_expected(op: Append, session: Session | None) -> None:
    last_seq = session.last_seq if session else 0
    if op.expected_seq is not None and op.expected_seq != last_seq:
        raise ConflictError(
            f"session {op.session_id!r} is at seq {last_seq}, not at the expected {op.expected_seq}",
            hint="Read what came since, then append again",
        )
