"""Models behind the OpenAI chat completions interface, OpenAI's own or any compatible server's.

The `openai` package reads ``OPENAI_API_KEY`` and ``OPENAI_BASE_URL``; it is imported at the first call.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio.to_thread

from agentstore.errors import AgentstoreError, ConfigurationError, UnavailableError
from agentstore.records import Message, ToolCall

from . import Model

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    import openai

    from agentstore.tools import Tool

DEFAULT_MODEL = "gpt-4o-mini"

_Key: TypeAlias = "tuple[asyncio.AbstractEventLoop, str | None, str | None]"

_SURROGATE = re.compile("[\ud800-\udfff]")


class OpenAIModel(Model):
    """One model of a server.

    Args:
        name: The server's name for it.

    Raises:
        ConfigurationError: The `openai` package is missing, or there is neither a key nor a server that may need none.
    """

    def __init__(self, name: str) -> None:
        if importlib.util.find_spec("openai") is None:
            raise ConfigurationError("OpenAI models need the package openai", hint="pip install 'agentstore[openai]'")
        if not (os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL")):
            raise ConfigurationError(
                f"the model 'openai:{name}' needs OPENAI_API_KEY",
                hint="Set it; for a compatible server that asks for no key set OPENAI_BASE_URL",
            )
        self.name = name

    def __repr__(self) -> str:
        return f"OpenAIModel({self.name!r})"

    async def complete(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Message:
        """One request, one message."""
        client = await _clients.get()
        try:
            completion = await client.chat.completions.create(**self._request(messages, tools))
            choice = completion.choices[0].message
            calls = [
                _call(call.id or "", call.function.name, call.function.arguments or "")
                for call in choice.tool_calls or ()
                if call.type == "function"
            ]
            return Message("assistant", choice.content or choice.refusal or "", tool_calls=tuple(calls))
        except Exception as error:
            raise self._unavailable(error, client) from error

    async def stream(self, messages: Sequence[Message], tools: Sequence[Tool]) -> AsyncGenerator[str | Message, None]:
        """One request whose answer is read as the server sends it."""
        client = await _clients.get()
        whole = _Gathered()
        try:
            stream = await client.chat.completions.create(**self._request(messages, tools), stream=True)
            async with stream:
                async for chunk in stream:
                    if text := whole.add(chunk):
                        yield text
            message = whole.message()
        except Exception as error:
            raise self._unavailable(error, client) from error
        yield message

    def _request(self, messages: Sequence[Message], tools: Sequence[Tool]) -> dict[str, Any]:
        request: dict[str, Any] = {"model": self.name, "messages": [to_wire(message) for message in messages]}
        if tools:  # some servers refuse an empty list
            request["tools"] = [
                {
                    "type": "function",
                    "function": {"name": t.name, "description": t.description, "parameters": t.parameters},
                }
                for t in tools
            ]
        return request

    def _unavailable(self, error: Exception, client: openai.AsyncOpenAI) -> AgentstoreError:
        """Whatever went wrong between us and the server; it may quote the key, we do not."""
        said = str(error) if isinstance(error, AgentstoreError) else f"{type(error).__name__}: {error}"
        if client.api_key:
            said = said.replace(client.api_key, "***")
        return UnavailableError(f"the model 'openai:{self.name}' gave no answer: {said}")


class _Clients:
    """HTTP clients, shared by all models of the process: one for each event loop, because its connections belong to it.

    They are kept here and not in the models, so that none is ever collected with its connections open.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held: dict[_Key, tuple[openai.AsyncOpenAI, AsyncIterator[None]]] = {}

    async def get(self) -> openai.AsyncOpenAI:
        """The running loop's client for the server and key that the environment names."""
        server, secret = os.environ.get("OPENAI_BASE_URL"), os.environ.get("OPENAI_API_KEY")
        key = (asyncio.get_running_loop(), server, secret)
        if key not in self._held:
            client = await anyio.to_thread.run_sync(_new_client)  # the package takes a second to import
            if key not in self._held:
                keeper = self._keep(key, client)
                with self._guard:
                    for closed in [other for other in self._held if other[0].is_closed()]:
                        del self._held[closed]
                    self._held[key] = client, keeper
                await anext(keeper)
        return self._held[key][0]

    async def _keep(self, key: _Key, client: openai.AsyncOpenAI) -> AsyncGenerator[None, None]:
        """Close the client with its loop: a loop that ends in good order closes the generators it has begun."""
        try:
            yield
        finally:
            with self._guard:
                self._held.pop(key, None)
            await client.close()


_clients = _Clients()


def _new_client() -> openai.AsyncOpenAI:
    from openai import AsyncOpenAI  # noqa: PLC0415

    return AsyncOpenAI(api_key=os.environ.get("OPENAI_API_KEY") or "none")


@dataclass(slots=True)
class _Gathered:
    """The whole of a streamed message."""

    text: list[str] = field(default_factory=list)
    calls: list[dict[str, str]] = field(default_factory=list)
    _by_index: dict[int, dict[str, str]] = field(default_factory=dict)
    _finished: bool = False

    def add(self, chunk: Any) -> str:
        """Take in a chunk and give its text."""
        if not chunk.choices:  # usage figures, say
            return ""
        choice = chunk.choices[0]
        self._finished = self._finished or choice.finish_reason is not None
        if choice.delta is None:
            return ""
        for delta in choice.delta.tool_calls or ():
            self._add_call(delta)
        text: str = choice.delta.content or choice.delta.refusal or ""
        self.text.append(text)
        return text

    def _add_call(self, delta: Any) -> None:
        call = self._by_index.get(delta.index)
        # some servers number all calls 0 and tell them apart by id
        if call is None or (delta.id and call["id"] and delta.id != call["id"]):
            self._by_index[delta.index] = call = {"id": "", "name": "", "arguments": ""}
            self.calls.append(call)
        call["id"] = call["id"] or delta.id or ""
        if delta.function is not None:
            call["name"] += delta.function.name or ""
            call["arguments"] += delta.function.arguments or ""

    def message(self) -> Message:
        """The message, if it came to its end: a connection that is cut must not pass for a short answer."""
        if not self._finished:
            raise UnavailableError("the stream ended in the middle of the answer")
        return Message("assistant", "".join(self.text), tool_calls=tuple(_call(**call) for call in self.calls))


def _call(id: str, name: str | None, arguments: str) -> ToolCall:  # noqa: A002  as the interface calls it
    """A call as the server gave it; without a name no server would take it back."""
    if not name:
        raise UnavailableError("it asks for a tool without a name")
    return ToolCall(id, name, arguments)


def to_wire(message: Message) -> dict[str, Any]:
    """A message as the interface wants it.

    What a server would refuse is put right here, because one such message would end the session for good: lone
    surrogates, which are no Unicode text, and tool arguments that are no JSON object.
    """
    wire: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None and message.role != "tool":
        wire["name"] = message.name
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        wire["content"] = message.content or None
        wire["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": _json_object(c.arguments)}}
            for c in message.tool_calls
        ]
    return {key: _clean(value) for key, value in wire.items()}


def _json_object(text: str) -> str:
    try:
        return text if isinstance(json.loads(text), dict) else "{}"
    except (ValueError, RecursionError):
        return "{}"


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value
