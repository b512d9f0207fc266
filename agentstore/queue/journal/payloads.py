"""Writes as bytes, and back, equal: what records hold. Each begins with a letter that says what it is."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

from agentstore import codec
from agentstore.errors import CorruptRecordError, InvalidInputError
from agentstore.protocol import Append, SetItems
from agentstore.records import Message, ToolCall

_APPEND = b"A"
_SET = b"S"
_MICROSECOND = timedelta(microseconds=1)


def encode(op: Append | SetItems) -> bytes:
    """`op` as a payload, but for its conditions (``expected_seq``, ``if_version``): such writes are never deferred.

    Raises:
        InvalidInputError: The caller's stack is too deep for its JSON data.
    """
    if isinstance(op, Append):
        messages = [_message_row(message) for message in op.messages]
        times = (_to_micros(op.ttl), _to_micros(op.default_ttl))
        metadata = op.metadata if op.metadata is None or type(op.metadata) is dict else dict(op.metadata)
        return _APPEND + codec.to_bytes([op.session_id, op.user_id, op.agent, metadata, *times, op.size, messages])
    ttl = op.ttl if isinstance(op.ttl, timedelta) else None  # a ttl to be kept goes with a condition
    items = [_item_row(key, value) for key, value in op.items.items()]
    return _SET + codec.to_bytes([op.namespace, _to_micros(ttl), op.size, items])


def decode(payload: bytes) -> Append | SetItems:
    """What `encode` was given.

    Raises:
        CorruptRecordError: `payload` is nothing that it gives.
    """
    kind = payload[:1]
    if kind not in {_APPEND, _SET}:
        raise CorruptRecordError(
            f"a journal's record is of the unknown kind {kind!r}", hint="Did a newer agentstore write it?"
        )
    row = codec.from_bytes(payload[1:])
    try:
        return _append(row) if kind == _APPEND else _set(row)
    except (TypeError, ValueError, InvalidInputError, OverflowError) as error:
        raise CorruptRecordError(f"a journal's record is none that was written so: {error}") from error


def _append(row: list[Any]) -> Append:
    session_id, user_id, agent, metadata, ttl, default_ttl, size, messages = row
    times = (_from_micros(ttl), _from_micros(default_ttl))
    return Append(session_id, tuple(map(_message, messages)), user_id, agent, metadata, *times, size=size)


def _set(row: list[Any]) -> SetItems:
    namespace, ttl, size, items = row
    return SetItems(namespace, dict(map(_item, items)), _from_micros(ttl), size=size)


def _message_row(message: Message) -> list[Any]:
    return [
        message.role,
        message.content,
        message.id,
        message.seq,
        [(call.id, call.name, call.arguments) for call in message.tool_calls],
        message.tool_call_id,
        message.name,
        message.metadata,
        message.run_id,
        codec.to_micros(message.created_at),
    ]


def _message(row: list[Any]) -> Message:
    role, content, message_id, seq, calls, tool_call_id, name, metadata, run_id, created_at = row
    tool_calls = tuple([ToolCall(*call) for call in calls])
    made = codec.from_micros(created_at)
    return Message(role, content, message_id, seq, tool_calls, tool_call_id, name, metadata, run_id, made)


def _item_row(key: str, value: Any) -> list[Any]:
    """JSON data as it is; of ``bytes`` their base64, told by a third column."""
    return [key, base64.b64encode(value).decode(), True] if isinstance(value, bytes) else [key, value]


def _item(row: list[Any]) -> tuple[str, Any]:
    key, value, *is_bytes = row
    return key, base64.b64decode(value, validate=True) if is_bytes else value


def _to_micros(ttl: timedelta | None) -> int | None:
    return None if ttl is None else ttl // _MICROSECOND


def _from_micros(micros: int | None) -> timedelta | None:
    return None if micros is None else timedelta(microseconds=micros)
