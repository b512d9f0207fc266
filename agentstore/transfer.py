"""A session whole: read, and as JSON data for export and import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .checks import check_count, check_id, check_message, check_metadata, check_optional_id, check_text, check_times
from .errors import CorruptRecordError, InvalidInputError, SessionNotFoundError, shown
from .protocol import Head, Read, answered
from .records import Message, Session
from .rules import check_owner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .layers.stack import Stack
    from .protocol import Outcome

FORMAT = "agentstore.session"
VERSION = 1
MAX_SEQ = 2**62
"""What a session may begin at: backends count in 64 bits, and it must be able to go on."""


def existing(session_id: str, session: Outcome[Session | None]) -> Session:
    """The session that was asked for, if there is one.

    Raises:
        SessionNotFoundError: There is none.
    """
    found = answered(session)
    if found is None:
        raise SessionNotFoundError(f"there is no session {session_id!r}")
    return found


async def whole(stack: Stack, session_id: str, user_id: str | None) -> tuple[Session, list[Message]]:
    """A session and its messages, all with their seqs, as they were at one moment, though others may be writing."""
    await stack.passed(session_id)
    before = None
    while (
        session := existing(session_id, *await stack.committed.heads([Head(session_id, user_id, exact=True)]))
    ) != before:
        messages = await stack.read(Read(session_id, user_id, before=session.last_seq + 1, exact=True))
        if len(messages) == session.message_count:
            return session, messages
        before = session  # somebody popped or cleared between the two reads
    raise CorruptRecordError(
        f"session {session_id!r} says it has {session.message_count} messages, and {len(messages)} are there"
    )


def pack(session: Session, messages: Sequence[Message]) -> dict[str, Any]:
    """A session with its messages as JSON data."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "session": session.to_dict(),
        "messages": [message.to_dict() for message in messages],
    }


def unpack(data: Any, user_id: str | None) -> tuple[Session, list[Message]]:
    """What `pack` was given, checked as if a stranger had written it.

    Raises:
        InvalidInputError: It is no export, or of a newer version.
        AccessDeniedError: It belongs to another user.
    """
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise InvalidInputError(f"this is no exported session: its format is not {FORMAT!r}")
    if data.get("version") != VERSION:
        version = shown(data.get("version"))
        raise InvalidInputError(f"this export has version {version}; this agentstore reads {VERSION}")
    head, items = data.get("session"), data.get("messages")
    if not isinstance(head, dict) or not isinstance(items, list):
        raise InvalidInputError("this export lacks its session or its messages")
    session = Session.from_dict(head)
    messages = [Message.from_dict(item) for item in items]
    _check_session(session)
    check_owner(session, user_id)
    _check_messages(messages, session)
    return session, messages


def same(data: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two exports have equal content; ``last_seq`` may have gone on since a delete.

    Raises:
        InvalidInputError: The caller's stack is too deep already.
    """
    try:
        return _content(data) == _content(other)
    except RecursionError as error:  # Python's == needs the caller's stack for each level
        raise InvalidInputError("the export is nested too deeply to be compared from this stack") from error


def _content(data: dict[str, Any]) -> tuple[Any, Any]:
    session, messages = unpack(data, None)
    head = session.to_dict()
    del head["last_seq"]
    return head, messages


def _check_session(session: Session) -> None:
    check_id(session.id, "session id")
    for value, what in ((session.user_id, "user_id"), (session.agent, "agent"), (session.parent_id, "parent_id")):
        check_optional_id(value, what)
    if session.title is not None:
        check_text(session.title, "title")
    check_metadata(session.metadata)
    check_times(session)
    if check_count(session.last_seq, "last_seq") > MAX_SEQ:
        raise InvalidInputError(f"last_seq is {session.last_seq}; no seq is above {MAX_SEQ}")


def _check_messages(messages: Sequence[Message], session: Session) -> None:
    last = 0
    for message in messages:
        check_message(message)
        if check_count(message.seq, "seq", least=1) <= last:
            raise InvalidInputError(f"the messages are not in order of seq: {message.seq} after {last}")
        last = message.seq or 0
    if last > session.last_seq:
        raise InvalidInputError(f"a message has seq {last}, above the session's last_seq {session.last_seq}")
    if len({message.id for message in messages}) < len(messages):
        raise InvalidInputError("one message id comes twice in this export")
    if check_count(session.message_count, "message_count") != len(messages):
        raise InvalidInputError(f"{session.message_count} messages were announced, {len(messages)} are there")
