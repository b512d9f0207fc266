"""Streams: what is durable when, and what an early end leaves behind."""

import asyncio
from contextlib import aclosing

import pytest
from agent_kit import Scripted, calls, told

from agentstore import Message, UnavailableError
from agentstore.agent import Agent
from agentstore.llm import Model

pytestmark = pytest.mark.anyio


class Endless(Model):
    """Streams for ever; says when it was closed."""

    def __init__(self, pieces=("one", " two")):
        self.pieces = pieces
        self.closed = False

    async def complete(self, messages, tools):
        raise NotImplementedError

    async def stream(self, messages, tools):
        try:
            for piece in self.pieces:
                yield piece
            await asyncio.Event().wait()
        finally:
            self.closed = True


async def test_a_stream_gives_the_pieces_and_stores_the_whole(database, log):
    agent = Agent("A", model=Scripted("one two three"), db=database, session_id="s")
    pieces = []
    async for piece in agent.astream("hello"):
        assert log == [("saved", ["user"])]  # the prompt is durable before the first piece
        pieces.append(piece)
    assert pieces == ["one", "two", "three"]
    assert log == [("saved", ["user"]), ("saved", ["assistant"])]
    assert told(await database.messages("s")) == [("user", "hello"), ("assistant", "one two three")]


async def test_the_first_piece_waits_for_the_prompt_to_be_durable(database):
    go = asyncio.Event()
    append = database.append

    async def held(*args, **options):
        await go.wait()
        return await append(*args, **options)

    database.append = held
    stream = Agent("A", model=Endless(), db=database, session_id="s").astream("hello")
    first = asyncio.create_task(anext(stream))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not first.done()
    go.set()
    assert await first == "one"
    assert told(await database.messages("s")) == [("user", "hello")]
    await stream.aclose()


async def test_a_callable_streams_in_one_piece(database):
    agent = Agent("A", model=lambda _: "one two", db=database, session_id="s")
    assert [piece async for piece in agent.astream("hello")] == ["one two"]


async def test_a_stream_with_tools(database, log):
    def add(a: int, b: int) -> int:
        log.append(("tool", a))
        return a + b

    model = Scripted(calls(("add", '{"a": 1, "b": 2}'), content="let me see"), "it is 3", log=log)
    agent = Agent("A", model=model, db=database, session_id="s", tools=[add])
    assert [piece async for piece in agent.astream("1 + 2?")] == ["let", "me", "see", "it", "is", "3"]
    assert [event for event in log if event[0] != "model"] == [
        ("saved", ["user"]),
        ("saved", ["assistant"]),
        ("tool", 1),
        ("saved", ["tool"]),
        ("saved", ["assistant"]),
    ]
    assert [m.content for m in await database.messages("s")] == ["1 + 2?", "let me see", "3", "it is 3"]


async def test_a_closed_stream_stores_what_it_gave(database):
    model = Endless()
    agent = Agent("A", model=model, db=database, session_id="s")
    async with aclosing(agent.astream("hello")) as stream:
        assert [await anext(stream), await anext(stream)] == ["one", " two"]
    stored = await database.messages("s")
    assert told(stored) == [("user", "hello"), ("assistant", "one two")]
    assert stored[1].metadata == {"interrupted": True}
    assert stored[0].run_id == stored[1].run_id
    assert model.closed


async def test_a_stream_closed_before_any_text_stores_no_answer(database):
    stream = Agent("A", model=Endless(pieces=()), db=database, session_id="s").astream("hello")
    first = asyncio.create_task(anext(stream))
    while not await database.messages("s"):
        await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert told(await database.messages("s")) == [("user", "hello")]


async def test_a_stream_never_begun_stores_nothing(database):
    stream = Agent("A", model=Endless(), db=database, session_id="s").astream("hello")
    await stream.aclose()
    assert await database.session("s") is None


async def test_a_dropped_stream_stores_what_it_gave_and_the_next_turn_waits_for_that(database):
    append = database.append

    async def slow(*args, **options):
        for _ in range(50):
            await asyncio.sleep(0)
        return await append(*args, **options)

    database.append = slow
    agent = Agent("A", model=Endless(), db=database, session_id="s")
    async for _ in agent.astream("hello"):
        break
    await Agent("A", model=Scripted("yes"), db=database, session_id="s").achat("and now?")
    assert [m.content for m in await database.messages("s")] == ["hello", "one", "and now?", "yes"]


@pytest.mark.parametrize("slow_save", [False, True])
async def test_a_cancelled_consumer_stores_what_it_got(database, slow_save):
    got, append = asyncio.Event(), database.append

    async def save(session_id, messages, **options):
        if slow_save:
            for _ in range(10):
                await asyncio.sleep(0)
        return await append(session_id, messages, **options)

    database.append = save

    async def consume():
        async with aclosing(Agent("A", model=Endless(), db=database, session_id="s").astream("hello")) as stream:
            async for piece in stream:
                if piece == " two":
                    got.set()

    task = asyncio.create_task(consume())
    await got.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # a second time, while it saves
    with pytest.raises(asyncio.CancelledError):
        await task
    stored = await database.messages("s")
    assert told(stored) == [("user", "hello"), ("assistant", "one two")]
    assert stored[1].metadata == {"interrupted": True}


async def test_a_timeout_around_a_stream_stays_one(database):
    agent = Agent("A", model=Endless(), db=database, session_id="s")

    async def consume():
        async with aclosing(agent.astream("hello")) as stream:
            async for _ in stream:
                pass

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(consume(), 0.05)
    assert told(await database.messages("s")) == [("user", "hello"), ("assistant", "one two")]


async def test_what_cannot_be_saved_at_an_early_end_is_raised(database):
    append = database.append

    async def broken(session_id, messages, **options):
        if messages[0].role == "assistant":
            raise UnavailableError("the disk is gone")
        return await append(session_id, messages, **options)

    database.append = broken
    stream = Agent("A", model=Endless(), db=database, session_id="s").astream("hello")
    await anext(stream)
    with pytest.raises(UnavailableError, match="the disk is gone"):
        await stream.aclose()


async def test_a_model_that_fails_in_mid_stream_leaves_no_answer(database):
    class Failing(Endless):
        async def stream(self, messages, tools):
            yield "half"
            raise UnavailableError("cut")

    agent = Agent("A", model=Failing(), db=database, session_id="s")
    with pytest.raises(UnavailableError, match="cut"):
        [piece async for piece in agent.astream("hello")]
    assert told(await database.messages("s")) == [("user", "hello")]
    assert await Agent("A", model=Scripted("hi"), db=database, session_id="s").achat("hello") == "hi"
    assert told(await database.messages("s")) == [("user", "hello"), ("assistant", "hi")]


async def test_any_async_iterator_will_do_as_a_models_stream(database):
    class Plain(Model):
        async def complete(self, messages, tools):
            return Message("assistant", "whole")

        def stream(self, messages, tools):
            return self

        def __aiter__(self):
            self.left = ["a", "b"]
            return self

        async def __anext__(self):
            if not self.left:
                raise StopAsyncIteration
            return self.left.pop(0)

    agent = Agent("A", model=Plain(), db=database, session_id="s")
    assert [piece async for piece in agent.astream("hello")] == ["a", "b"]
    assert told(await database.messages("s")) == [("user", "hello"), ("assistant", "ab")]
