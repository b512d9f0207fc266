"""What is the same by hand on every SQL server: rows of agentstore's tables."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from agentstore import codec
from agentstore.drivers.sql import rows
from agentstore.records import Message, ToolCall

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BARE = "agentstore_raw_rows"
"""A table of `BARE_COLUMNS`, without any key."""

COLUMNS = "session_id, id_key, id, role, content, tool_calls, tool_call_id, name, metadata, run_id, created_at"
"""What `row` gives: the columns of agentstore's messages, but the seq."""

MESSAGE = "id, seq, role, content, tool_calls, tool_call_id, name, metadata, run_id, created_at"
"""What `messages` takes."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DIRTY = "\x1a"  # what begins an escape, and nothing else
_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class KnownError(RuntimeError):
    """A message id is there already: a program would read what was stored, a benchmark never comes here."""


def micros() -> int:
    """Now, as rows hold it."""
    return time.time_ns() // 1000


def row(session_id: str, message: Message) -> tuple[Any, ...]:
    """The values of `COLUMNS`; texts made clean, as every text must come back."""
    calls, clean = message.tool_calls, codec.escape
    content = message.content
    return (
        session_id,
        rows.id_key(session_id, message.id),
        message.id,
        message.role,
        clean(content) if isinstance(content, str) else codec.content_to_text(content),
        clean(_dumps([(call.id, call.name, call.arguments) for call in calls])) if calls else None,
        clean(message.tool_call_id) if message.tool_call_id else None,
        clean(message.name) if message.name else None,
        clean(_dumps(message.metadata)) if message.metadata else None,
        message.run_id,
        (message.created_at - _EPOCH) // _MICROSECOND,
    )


def check_unknown(known: set[tuple[str, str]], new: Iterable[Sequence[Any]]) -> None:
    """Let rows pass of which no (session id, id) is among those that are there.

    Raises:
        KnownError: One is.
    """
    if known and (there := known.intersection((found[0], found[2]) for found in new)):
        raise KnownError(f"{len(there)} ids are there already")


def messages(found: Iterable[Sequence[Any]]) -> list[Message]:
    """The messages of rows of `MESSAGE` that came newest first, oldest first."""
    decoded = [
        Message(
            role,
            codec.content_from_text(text) if _DIRTY in text else text,
            message_id,
            seq,
            tuple(ToolCall(*call) for call in json.loads(codec.unescape(calls))) if calls else (),
            call_id and codec.unescape(call_id),
            name and codec.unescape(name),
            json.loads(codec.unescape(metadata)) if metadata else {},
            run_id,
            _EPOCH + timedelta(microseconds=at),
        )
        for message_id, seq, role, text, calls, call_id, name, metadata, run_id, at in found
    ]
    decoded.reverse()
    return decoded
