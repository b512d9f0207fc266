"""The OpenAI model against a server of our own: requests, streams, tools, and what a server gets wrong."""

import asyncio
import gc
import threading
from contextlib import aclosing

import pytest
from agent_kit import told
from openai_server import answer, chunk, function, serving

from agentstore import Message, ToolCall, UnavailableError, errors
from agentstore.agent import Agent
from agentstore.llm import resolve
from agentstore.llm.openai import _clients, to_wire

KEY = "sk-very-secret"


@pytest.fixture
def server(monkeypatch):
    with serving() as server:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server


@pytest.fixture
def agent(server, database):
    def add(a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: The first.
            b: The second.
        """
        return a + b

    return Agent("A", "be brief", model="openai:m1", db=database, session_id="s", tools=[add])


def test_a_turn(server, agent):
    server.replies = [answer("hi")]
    assert agent.chat("hello") == "hi"
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert body["model"] == "m1"
    assert body["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    assert body["tools"][0]["function"]["name"] == "add"
    assert body["tools"][0]["function"]["parameters"]["properties"]["a"] == {
        "type": "integer",
        "description": "The first.",
    }


def test_a_turn_with_tools(server, agent):
    wanted = function("c1", "add", '{"a": 1, "b": 2}')
    server.replies = [answer(None, [wanted], "tool_calls"), answer("3")]
    assert agent.chat("1 + 2?") == "3"
    assert server.requests[1][2]["messages"][2:] == [
        {"role": "assistant", "content": None, "tool_calls": [wanted]},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
    ]
    assert agent.history()[1].tool_calls == (ToolCall("c1", "add", '{"a": 1, "b": 2}'),)


def test_a_stream_with_tools(server, agent):
    server.replies = [
        [
            chunk(role="assistant", content=""),
            chunk(content="let me "),
            chunk(content="see"),
            chunk(tool_calls=[function("c1", "add", "", index=0)]),
            chunk(tool_calls=[{"index": 0, "function": {"arguments": '{"a": 1,'}}]),
            chunk(tool_calls=[function("c2", "add", '{"a": 5, ', index=1)]),
            chunk(tool_calls=[{"index": 0, "function": {"arguments": ' "b": 2}'}}]),
            chunk(tool_calls=[{"index": 1, "function": {"arguments": '"b": 5}'}}]),
            chunk("tool_calls"),
            {**chunk(), "choices": []},
            "[DONE]",
        ],
        [chunk(content="3 and 10"), chunk("stop"), "[DONE]"],
    ]
    assert list(agent.stream("1 + 2? 5 + 5?")) == ["let me ", "see", "3 and 10"]
    assert [m.content for m in agent.history()] == ["1 + 2? 5 + 5?", "let me see", "3", "10", "3 and 10"]
    assert server.requests[0][2]["stream"] is True


def test_a_server_that_numbers_all_calls_alike(server, agent):
    both = [function("c1", "add", '{"a": 1, "b": 1}', index=0), function("c2", "add", '{"a": 2, "b": 2}', index=0)]
    server.replies = [
        [chunk(tool_calls=[call]) for call in both] + [chunk("tool_calls")],
        [chunk("stop", content="ok")],
    ]
    assert list(agent.stream("go")) == ["ok"]
    assert [m.content for m in agent.history()][2:4] == ["2", "4"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
def test_a_servers_error_is_unavailable_and_tells_no_key(server, agent, status, streaming):
    server.replies = [(status, {"error": {"message": f"bad key {KEY}", "type": "t", "code": None, "param": None}})]
    with pytest.raises(UnavailableError, match="bad key") as caught:
        list(agent.stream("hello")) if streaming else agent.chat("hello")
    assert KEY not in str(caught.value)
    assert type(caught.value.__cause__).__module__.startswith("openai")
    assert told(agent.history()) == [("user", "hello")]


def test_no_server_is_unavailable(server, agent, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    with pytest.raises(UnavailableError, match="openai:m1"):
        agent.chat("hello")


@pytest.mark.parametrize("reply", [{}, {**answer("x"), "choices": []}, {"choices": None}])
def test_an_answer_without_a_choice_is_unavailable(server, agent, reply):
    server.replies = [reply]
    with pytest.raises(UnavailableError):
        agent.chat("hello")


@pytest.mark.parametrize("events", [[], [chunk(content="half")], [chunk(content="half"), "{broken"]])
def test_a_stream_that_is_cut_is_no_short_answer(server, agent, events):
    server.replies = [events]
    with pytest.raises(UnavailableError):
        list(agent.stream("hello"))
    assert told(agent.history()) == [("user", "hello")]


def test_a_refusal_is_an_answer(server, agent):
    refused = answer()
    refused["choices"][0]["message"]["refusal"] = "no"
    server.replies = [refused, [chunk(refusal="no"), chunk("stop")]]
    assert agent.chat("hello") == "no"
    assert list(agent.stream("hello?")) == ["no"]


@pytest.mark.anyio
async def test_a_stream_left_early_lets_go_of_the_server(server, agent):
    go = threading.Event()
    server.replies = [[chunk(content="one"), lambda: go.wait(60), *[chunk(content="x" * 65_536)] * 1000]]
    async with aclosing(agent.astream("hello")) as stream:
        assert await anext(stream) == "one"
    go.set()
    assert await asyncio.to_thread(server.cut.wait, 60)
    assert told(await agent.ahistory()) == [("user", "hello"), ("assistant", "one")]


def test_one_model_over_several_loops_closes_its_clients(server):
    model = resolve("openai:m1")

    async def ask():
        return (await model.complete([Message("user", "x")], [])).content

    async def both():
        return await asyncio.gather(ask(), ask())

    server.replies = [answer("hi") for _ in range(4)]
    assert asyncio.run(both()) == ["hi", "hi"]
    assert not any(key[1] == server.url for key in _clients._held)
    assert asyncio.run(both()) == ["hi", "hi"]
    loop = asyncio.new_event_loop()
    server.replies = [answer("hi")]
    loop.run_until_complete(ask())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    assert not any(key[1] == server.url for key in _clients._held)
    gc.collect()  # an unclosed socket would warn here, and warnings are errors


def test_what_a_server_would_refuse_is_put_right():
    assert to_wire(Message("user", "a\ud800", name="Ann")) == {"role": "user", "content": "a\ufffd", "name": "Ann"}
    assert to_wire(Message("user", [{"type": "text", "text": "\udfff"}]))["content"] == [
        {"type": "text", "text": "\ufffd"}
    ]
    for bad in ("", "{", "[]", "3"):
        asked = Message("assistant", "", tool_calls=[ToolCall("c", "f", bad)])
        assert to_wire(asked)["tool_calls"][0]["function"]["arguments"] == "{}"


def test_a_server_without_a_key(server, monkeypatch, database):
    monkeypatch.delenv("OPENAI_API_KEY")
    server.replies = [answer("hi")]
    assert Agent("A", model="openai:local", db=database).chat("hello") == "hi"


def test_unavailable_is_an_agentstore_error():
    assert issubclass(UnavailableError, errors.AgentstoreError)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_tool_call_without_a_name_is_the_servers_fault(server, agent, streaming):
    wanted = function("c1", None, "{}")
    pieces = [chunk(tool_calls=[{**wanted, "index": 0}]), chunk("tool_calls"), "[DONE]"]
    server.replies = [pieces if streaming else answer(None, [wanted], "tool_calls")]
    with pytest.raises(UnavailableError, match=r"gave no answer: it asks for a tool without a name$"):
        list(agent.stream("go")) if streaming else agent.chat("go")
    assert told(agent.history()) == [("user", "go")]


def test_a_stream_that_is_cut_is_said_once(server, agent):
    server.replies = [[chunk(content="half")]]
    with pytest.raises(UnavailableError, match=r"^the model 'openai:m1' gave no answer: the stream ended in the mid"):
        list(agent.stream("go"))
