"""Messages on their way into a session, under names of their own: however many, they appear in one step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentstore.records import new_id

from . import records
from .client import Command

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentstore.records import Message

    from .wire import Wire

_CHUNK = 4 * 2**20  # characters in one go
_MANY = 1000  # messages in one command
_FORGOTTEN = 3600  # seconds after which what nobody has put in place goes


async def stage(wire: Wire, session_id: str, messages: Sequence[Message]) -> str:
    """Store messages beside a session's keys; what their names end in, for `sessions.Write`. Empty without messages."""
    if not messages:
        return ""
    suffix = f":new:{new_id()}"
    keys = wire.keys.session(session_id)
    log, ids = keys.log + suffix, keys.ids + suffix
    for chunk in _chunks(messages):
        members: list[str | int] = []
        seqs: list[str | int] = []
        for message, text in chunk:
            members += (0, text)
            seqs += (message.id, message.seq or 0)
        await wire.ask(
            Command(log, ("ZADD", log, *members)),
            Command(ids, ("HSET", ids, *seqs)),
            Command(log, ("EXPIRE", log, _FORGOTTEN)),
            Command(ids, ("EXPIRE", ids, _FORGOTTEN)),
        )
    return suffix


def _chunks(messages: Sequence[Message]) -> Iterator[list[tuple[Message, str]]]:
    chunk, size = [], 0
    for message in messages:
        text = records.message_text(message)
        chunk.append((message, text))
        size += len(text)
        if size > _CHUNK or len(chunk) == _MANY:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
