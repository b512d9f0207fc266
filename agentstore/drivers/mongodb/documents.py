"""Records as documents, and back: under the names of the SQL schema, in the values of `codec`.

Metadata, tool calls and state values are JSON text. As documents they would not come back equal: BSON ends at 64 bits
and at 100 levels, and MongoDB gives ``$`` and ``.`` in names a meaning. Times are whole microseconds, since BSON's
dates are milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentstore.drivers.sql import rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentstore import rules
    from agentstore.records import Message, Session

    from .client import Document

_SESSION = ("_id", *rows.SESSION.split(", ")[1:])
_MESSAGE = tuple(rows.MESSAGE.split(", "))
_NEW_MESSAGE = ("session", None, *_MESSAGE)

_TEXTS = {"content", "tool_calls", "tool_call_id", "name", "metadata"}

LARGEST_INT = 2**63 - 1


def session_document(session: Session) -> Document:
    """A session's own fields; those without a value are left out.

    Its id stands there twice, since listings are sorted by time and id, and not every server that speaks MongoDB's
    protocol can index ``_id`` together with other fields.
    """
    named = zip(_SESSION, rows.session_row(session), strict=True)
    return {name: value for name, value in named if value is not None} | {"session": session.id}


def stored(document: Document) -> rules.Stored:
    """What a document says of its session; it may be a tombstone.

    Raises:
        CorruptRecordError: It holds what no session has.
    """
    return rows.stored([document.get(name) for name in _SESSION])


def message_document(session_id: str, message: Message) -> Document:
    """A message's own fields, and its session's id for those who look."""
    row = rows.message_row(session_id, message)
    return {name: value for name, value in zip(_NEW_MESSAGE, row, strict=True) if name and value is not None}


def texts_update(session_id: str, message: Message) -> Document:
    """What puts a message's texts in the place of a stored one's: see `ConversationStore.rewrite`."""
    document = message_document(session_id, message)
    put = {name: document[name] for name in _TEXTS if name in document}
    emptied = dict.fromkeys(_TEXTS - put.keys(), "")
    return {"$set": put} | ({"$unset": emptied} if emptied else {})


def messages(documents: Iterable[Document]) -> list[Message]:
    """The messages of documents.

    Raises:
        CorruptRecordError: One holds what no message has.
    """
    return rows.messages([[document.get(name) for name in _MESSAGE] for document in documents])


def bounded(number: int) -> int:
    """The nearest int that BSON holds: bounds and limits may be any."""
    return max(-LARGEST_INT - 1, min(number, LARGEST_INT))


def without(document: Document, *names: str) -> dict[str, Any]:
    """`document` without these fields."""
    return {name: value for name, value in document.items() if name not in names}
