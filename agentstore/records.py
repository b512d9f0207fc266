"""What is stored and handed back: frozen records, plain data, aware UTC times with microseconds."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Generic, Self, TypeVar

import uuid_utils

from .errors import InvalidInputError, shown
from .making import maker

T = TypeVar("T")


def new_id() -> str:
    """A fresh UUIDv7 (RFC 9562): unique everywhere, and later ids sort later."""
    return str(uuid_utils.uuid7())


def utcnow() -> datetime:
    """Now, aware, in UTC."""
    return datetime.now(UTC)


def copy_json(value: Any) -> Any:
    """JSON data that shares no list or dict with `value`, which may be as deep as it likes: nothing here recurses."""
    if not isinstance(value, (dict, list)):
        return value
    whole = _shallow(value)
    left = [whole]
    while left:
        copy = left.pop()
        for place, item in copy.items() if isinstance(copy, dict) else enumerate(copy):
            if isinstance(item, (dict, list)):
                copy[place] = inner = _shallow(item)
                left.append(inner)
    return whole


def _shallow(value: dict[Any, Any] | list[Any]) -> Any:
    return dict(value) if isinstance(value, dict) else list(value)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds")
    if isinstance(value, Plain):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return copy_json(value)


class Plain:
    """What becomes a plain dict."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data, shared with nobody; times in ISO 8601 with microseconds."""
        return {item.name: _plain(getattr(self, item.name)) for item in fields(self)}  # type: ignore[arg-type]


class Record(Plain):
    """What is stored or listed: it becomes a plain dict and comes back equal."""

    __slots__ = ()

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """What `to_dict` gave, or any part of it that holds the fields without a default.

        Raises:
            InvalidInputError: A field is missing, unknown or of the wrong type.
        """
        try:
            return cls(**cls._fields(data))
        except (TypeError, AttributeError) as error:
            raise InvalidInputError(f"this is no {cls.__name__}: {error}") from error

    @classmethod
    def _fields(cls, data: dict[str, Any]) -> dict[str, Any]:
        return {name: _parsed(name, value) for name, value in data.items()}


def _parsed(name: str, value: Any) -> Any:
    if name.endswith("_at") and isinstance(value, str):
        try:
            return datetime.fromisoformat(value)
        except ValueError as error:
            raise InvalidInputError(f"{name} is {value!r}, which is no ISO 8601 time") from error
    return value


@dataclass(frozen=True, slots=True)
class ToolCall(Record):
    """A model's wish to run a tool.

    Attributes:
        id: What the tool's answer refers to (``Message.tool_call_id``).
        name: The tool's name.
        arguments: The model's JSON text, verbatim; it may be no valid JSON at all.
    """

    id: str
    name: str
    arguments: str

    def __post_init__(self) -> None:
        for item in (self.id, self.name, self.arguments):
            if not isinstance(item, str):
                raise InvalidInputError(f"a ToolCall's id, name and arguments are text, not {type(item).__name__}")


@dataclass(frozen=True, slots=True)
class Message(Record):
    """One message of a conversation.

    Attributes:
        role: ``user``, ``assistant``, ``tool``, ``system`` or whatever the caller's model uses.
        content: Text, or a list of JSON parts (images, say). Never None.
        id: The idempotency key within its session; a UUIDv7 unless given.
        seq: Its place in the session, given by the backend; None until it is stored there.
        tool_calls: The tools that an assistant asks for.
        tool_call_id: The call that a tool's message answers.
        name: Who speaks, where the role does not say it.
        metadata: Any JSON object.
        run_id: The turn it belongs to.
        created_at: When it was made, by its maker's clock. It orders nothing.
    """

    role: str
    content: str | list[Any]
    id: str = field(default_factory=new_id)
    seq: int | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    run_id: str | None = None
    created_at: datetime = field(default_factory=utcnow)

    def __post_init__(self) -> None:
        if not isinstance(self.content, (str, list)):
            raise InvalidInputError(f"Message.content is text or a list of parts, not {type(self.content).__name__}")
        if type(self.tool_calls) is not tuple or any(type(call) is not ToolCall for call in self.tool_calls):
            object.__setattr__(self, "tool_calls", _tool_calls(self.tool_calls))
        if type(self.created_at) is not datetime or self.created_at.tzinfo is not UTC:
            object.__setattr__(self, "created_at", _utc(self.created_at, "Message.created_at"))


def _tool_calls(given: Any) -> tuple[ToolCall, ...]:
    if given is None:
        return ()
    if not isinstance(given, Iterable):
        raise InvalidInputError(f"Message.tool_calls is a sequence of ToolCall, not {shown(given)}")
    return tuple(call if isinstance(call, ToolCall) else ToolCall.from_dict(call) for call in given)


known_message = maker(Message)
"""A Message of ten values that were checked before."""


def numbered(message: Message, seq: int | None) -> Message:
    """The message with that seq: `replace` takes seven times as long."""
    return _remade(message, seq, message.content, message.metadata)


def own(message: Message) -> Message:
    """The message for somebody who may do to its lists and dicts as they like."""
    metadata = copy_json(message.metadata) if message.metadata else {}
    return _remade(message, message.seq, copy_json(message.content), metadata)


def _remade(message: Message, seq: int | None, content: Any, metadata: dict[str, Any]) -> Message:
    calls, call_id, run_id, made = message.tool_calls, message.tool_call_id, message.run_id, message.created_at
    return known_message(message.role, content, message.id, seq, calls, call_id, message.name, metadata, run_id, made)


def copied(message: Message) -> Message:
    """The message with lists and dicts that nobody else holds; most have none, and can be shared."""
    if isinstance(message.content, str) and not message.metadata:
        return message
    return own(message)


@dataclass(frozen=True, slots=True)
class Session(Record):
    """A conversation, without its messages.

    Attributes:
        id: Its name, given by the caller.
        user_id: Its owner; None if it has none.
        agent: The agent that began it.
        title: For people.
        metadata: Any JSON object.
        created_at: When its first append came.
        updated_at: Its last activity: an append, pop, clear or update.
        message_count: Messages it holds now.
        last_seq: The last seq that was given, also to a pop or clear.
        expires_at: When it becomes invisible; None is never. Always ``updated_at`` plus its TTL.
        parent_id: The session it was forked from.
    """

    id: str
    user_id: str | None = None
    agent: str | None = None
    title: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    created_at: datetime = field(default_factory=utcnow)
    updated_at: datetime = field(default_factory=utcnow)
    message_count: int = 0
    last_seq: int = 0
    expires_at: datetime | None = None
    parent_id: str | None = None

    def __post_init__(self) -> None:
        for name in ("created_at", "updated_at", "expires_at"):
            moment = getattr(self, name)
            if (type(moment) is datetime and moment.tzinfo is UTC) or (moment is None and name == "expires_at"):
                continue
            object.__setattr__(self, name, _utc(moment, f"Session.{name}"))


known_session = maker(Session)
"""A Session of eleven values that were checked before."""


@dataclass(frozen=True, slots=True)
class Page(Record, Generic[T]):
    """Part of a listing of sessions; only such a page comes back from its dict.

    Attributes:
        items: What this page holds.
        next_cursor: What to pass as ``cursor`` for the next page; None at the end.
    """

    items: tuple[T, ...]
    next_cursor: str | None = None

    @classmethod
    def _fields(cls, data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "items": tuple(Session.from_dict(item) for item in data["items"])} if "items" in data else data


@dataclass(frozen=True, slots=True)
class StateItem(Record):
    """A key of the state with what it holds. Its dict has ``bytes`` in base64 under that name, instead of a value.

    Attributes:
        key: Its name within the scope.
        value: JSON data or ``bytes``.
        version: Rises with each change and is never used again for this key.
        expires_at: When it becomes invisible; None is never.
    """

    key: str
    value: Any
    version: int
    expires_at: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; a value that is ``bytes`` stands under ``bytes``, in base64."""
        data = Plain.to_dict(self)
        if isinstance(self.value, bytes):
            data["bytes"] = base64.b64encode(data.pop("value")).decode()
        return data

    @classmethod
    def _fields(cls, data: dict[str, Any]) -> dict[str, Any]:
        named = {name: _parsed(name, value) for name, value in data.items()}
        if "bytes" in named and "value" not in named:
            try:
                named["value"] = base64.b64decode(named.pop("bytes"), validate=True)
            except ValueError as error:
                raise InvalidInputError("the bytes of this StateItem are no base64") from error
        return named


def _utc(moment: Any, what: str) -> datetime:
    if not isinstance(moment, datetime):
        raise InvalidInputError(f"{what} must be a datetime, not {shown(moment)}")
    if moment.utcoffset() is None:
        raise InvalidInputError(f"{what} is {moment.isoformat()}: it needs a time zone")
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise InvalidInputError(f"{what} is {moment.isoformat()}, which UTC has no date for") from error
