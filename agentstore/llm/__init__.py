"""What answers: the `Model` protocol, and how an Agent's ``model=`` becomes one."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from agentstore.calling import result_of
from agentstore.errors import ConfigurationError, InvalidInputError
from agentstore.records import Message
from agentstore.view import is_interrupted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

    from agentstore.tools import Tool

__all__ = ["Model", "as_message", "resolve"]

_ACCEPTED = 'Give a callable, a Model, "openai:NAME" or "offline"'


@runtime_checkable
class Model(Protocol):
    """What an Agent asks for the next message of a conversation.

    An implementation may serve several event loops at once; it keeps nothing of a conversation. One that inherits from
    this class need not write `stream`.
    """

    async def complete(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Message | str:
        """Give the assistant's next message, or just its text.

        Args:
            messages: What the model sees, in order. The last one is a user's or a tool's.
            tools: What it may call (by ``tool_calls`` of the message it gives); empty when it must answer.
        """
        ...

    def stream(self, messages: Sequence[Message], tools: Sequence[Tool]) -> AsyncIterator[str | Message]:
        """Give the same message in pieces: text as it comes, and at the end the whole `Message`.

        The whole may be left out where there are no tool calls: it is then the text of the pieces. An iterator that
        has ``aclose`` is closed when nobody reads on.
        """
        return _at_once(self, messages, tools)


async def _at_once(
    model: Model, messages: Sequence[Message], tools: Sequence[Tool]
) -> AsyncGenerator[str | Message, None]:
    yield await model.complete(messages, tools)


class _Callable(Model):
    """A function of the messages as a `Model`; a sync one runs in a worker thread."""

    def __init__(self, function: Callable[[list[Message]], Any]) -> None:
        self._function = function

    async def complete(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Any:  # noqa: ARG002
        """What the function gives; when the turn is cancelled, a sync one's thread is left to itself."""
        return await result_of(self._function, list(messages), abandon=True)


def resolve(model: Model | Callable[[list[Message]], Any] | str | None) -> Model:
    """The `Model` that an Agent's ``model=`` means; None is ``$AGENTSTORE_MODEL``, else OpenAI's if there is a key.

    Raises:
        ConfigurationError: It means none, or its package is missing.
    """
    if model is None:
        return _from_environment()
    if isinstance(model, str):
        return _named(model)
    if isinstance(model, type):
        raise ConfigurationError(f"model is the class {model.__name__}, not an object of it", hint=_ACCEPTED)
    if isinstance(model, Model):
        return model
    if callable(model):
        return _Callable(model)
    raise ConfigurationError(f"model is a {type(model).__name__}, which is no model", hint=_ACCEPTED)


def _from_environment() -> Model:
    name = os.environ.get("AGENTSTORE_MODEL")
    if name:
        return _named(name)
    if os.environ.get("OPENAI_API_KEY"):
        from .openai import DEFAULT_MODEL  # noqa: PLC0415  only who uses OpenAI pays for it

        return _named(f"openai:{DEFAULT_MODEL}")
    raise ConfigurationError(
        "the Agent has no model: model= is not given, and neither AGENTSTORE_MODEL nor OPENAI_API_KEY is set",
        hint='Pass model=..., set OPENAI_API_KEY, or set AGENTSTORE_MODEL ("openai:NAME", or "offline" to try without)',
    )


def _named(name: str) -> Model:
    kind, _, model = name.partition(":")
    if name == "offline":
        from .offline import OfflineModel  # noqa: PLC0415

        return OfflineModel()
    if kind == "openai" and model:
        from .openai import OpenAIModel  # noqa: PLC0415

        return OpenAIModel(model)
    raise ConfigurationError(f"no model is called {name!r}", hint=_ACCEPTED)


def as_message(given: Any, *, interrupted: bool) -> Message:
    """What the model gave as a message, which is marked if it was interrupted, and only then.

    Raises:
        InvalidInputError: It is neither text nor a message of an assistant.
    """
    message = Message("assistant", given) if isinstance(given, str) else given
    if not isinstance(message, Message):
        raise InvalidInputError(f"the model gave a {type(message).__name__}: it must give a str or a Message")
    if message.role != "assistant":
        raise InvalidInputError(f"the model gave a message of the role {message.role!r}: it must be 'assistant'")
    if interrupted or is_interrupted(message):
        return replace(message, metadata={**message.metadata, "interrupted": interrupted})
    return message
