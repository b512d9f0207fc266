"""Turns with a `message_id`, and what models and callers get wrong."""

import asyncio

import pytest
from agent_kit import Scripted, told

from agentstore import (
    AccessDeniedError,
    InvalidInputError,
    Message,
    MessageTooLargeError,
    UnavailableError,
)
from agentstore.agent import Agent

pytestmark = pytest.mark.anyio


async def test_a_message_id_makes_a_turn_idempotent(database):
    model = Scripted("first", "second")
    agent = Agent("A", model=model, db=database, session_id="s")
    assert await agent.achat("hello", message_id="m1") == "first"
    assert await agent.achat("hello", message_id="m1") == "first"
    assert [piece async for piece in agent.astream("hello", message_id="m1")] == ["first"]
    assert len(model.seen) == 1
    stored = await database.messages("s")
    assert told(stored) == [("user", "hello"), ("assistant", "first")]
    assert stored[0].id == "m1"
    assert await agent.achat("hello", message_id="m2") == "second"


@pytest.mark.parametrize("answered", [True, False])
async def test_a_message_id_from_before_the_history_limit(database, answered):
    first = Scripted("first" if answered else UnavailableError("busy"))
    agent = Agent("A", model=first, db=database, session_id="s")
    if answered:
        await agent.achat("hello", message_id="m1")
    else:
        with pytest.raises(UnavailableError):
            await agent.achat("hello", message_id="m1")
    for n in range(5):
        await Agent("A", model=Scripted(f"{n}!"), db=database, session_id="s").achat(f"{n}")
    model = Scripted("late")
    again = Agent("A", model=model, db=database, session_id="s", history_limit=2)
    for _ in range(2):
        assert await again.achat("hello", message_id="m1") == ("first" if answered else "late")
    assert len(model.seen) == (not answered)
    stored = await database.messages("s")
    assert [m.content for m in stored].count("hello") == 1
    if not answered:
        assert [m.content for m in model.seen[0]] == ["4", "4!", "hello"]
        assert stored[-1].run_id == stored[0].run_id


async def test_the_stored_prompt_of_a_message_id_wins(database):
    model = Scripted(UnavailableError("busy"), "yes")
    agent = Agent("A", model=model, db=database, session_id="s")
    with pytest.raises(UnavailableError):
        await agent.achat("the first", message_id="m")
    assert await agent.achat("another", message_id="m") == "yes"
    assert told(model.seen[1]) == [("user", "the first")]
    assert [m.content for m in await database.messages("s")] == ["the first", "yes"]


@pytest.mark.parametrize("limit", [1, 100])
async def test_a_message_id_of_no_prompt_is_refused(database, limit):
    await database.append("s", [Message("assistant", "x", id="m"), Message("user", "y"), Message("assistant", "z")])
    agent = Agent("A", model=Scripted(), db=database, session_id="s", history_limit=limit)
    with pytest.raises(InvalidInputError, match="assistant"):
        await agent.achat("hello", message_id="m")


async def test_two_answers_of_one_turn_become_one(database):
    """Another process answers the turn while our model thinks."""

    async def slow(messages):
        other = Agent("A", model=lambda _: "theirs", db=database, session_id="s")
        await database.append("s", [])
        stored = (await database.messages("s"))[0]
        turn = other._turn("hello", "s", None, "m")
        turn._messages = [stored]
        await turn._finish(Message("assistant", "theirs"))
        return "ours"

    agent = Agent("A", model=slow, db=database, session_id="s")
    assert await agent.achat("hello", message_id="m") == "theirs"
    assert [m.content for m in await database.messages("s")] == ["hello", "theirs"]


# --- what models and callers get wrong ---


@pytest.mark.parametrize("answer", [None, 3, {"role": "assistant"}, Message("user", "x")])
async def test_a_model_that_gives_something_else_is_an_error(database, answer):
    append = database.append

    async def slow(*args, **options):
        for _ in range(50):
            await asyncio.sleep(0)
        return await append(*args, **options)

    database.append = slow
    agent = Agent("A", model=lambda _: answer, db=database, session_id="s")
    with pytest.raises(InvalidInputError, match="the model gave"):
        await agent.achat("hello")
    assert told(await database.messages("s")) == [("user", "hello")]  # as after any other failure


async def test_a_model_may_give_one_message_object_again_and_again(database):
    same = Message("assistant", "hi")
    agent = Agent("A", model=lambda _: same, db=database, session_id="s")
    await agent.achat("1")
    await agent.achat("2")
    assert [m.content for m in await database.messages("s")] == ["1", "hi", "2", "hi"]


async def test_parts_as_prompt_and_as_answer(database):
    parts = [{"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    answer = Message("assistant", [{"type": "text", "text": "a cat"}])
    agent = Agent("A", model=lambda _: answer, db=database, session_id="s")
    assert await agent.achat(parts) == "a cat"
    assert [m.content for m in await database.messages("s")] == [parts, answer.content]


async def test_another_users_session_is_refused_before_anything_happens(database):
    model = Scripted("1")
    agent = Agent("A", model=model, db=database, session_id="s", user_id="me")
    await agent.achat("mine")
    with pytest.raises(AccessDeniedError):
        await agent.achat("let me in", user_id="you")
    with pytest.raises(AccessDeniedError):
        await agent.ahistory(user_id="you")
    assert len(model.seen) == 1
    assert len(await database.messages("s")) == 2


async def test_a_prompt_too_large_is_refused(database):
    agent = Agent("A", model=Scripted("1"), db=database, session_id="s")
    with pytest.raises(MessageTooLargeError):
        await agent.achat("x" * (8 * 2**20 + 1))
    assert await database.session("s") is None


async def test_a_cancelled_turn_is_continued_later(database):
    begun = asyncio.Event()

    async def model(messages):
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(Agent("A", model=model, db=database, session_id="s").achat("hello"))
    await begun.wait()
    while not await database.messages("s"):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await Agent("A", model=Scripted("hi"), db=database, session_id="s").achat("hello") == "hi"
    assert told(await database.messages("s")) == [("user", "hello"), ("assistant", "hi")]


async def test_an_answer_is_saved_though_the_turn_is_cancelled_meanwhile(database):
    saving, go = asyncio.Event(), asyncio.Event()
    append = database.append

    async def slow(session_id, messages, **options):
        if messages[0].role == "assistant":
            saving.set()
            await go.wait()
        return await append(session_id, messages, **options)

    database.append = slow
    task = asyncio.create_task(Agent("A", model=Scripted("hi"), db=database, session_id="s").achat("hello"))
    await saving.wait()
    task.cancel()
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told(await database.messages("s")) == [("user", "hello"), ("assistant", "hi")]
