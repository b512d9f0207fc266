"""What a turn stores, when, and what becomes of a prompt that is asked again."""

import asyncio

import pytest
from agent_kit import Scripted, calls, told

from agentstore import (
    Message,
    UnavailableError,
)
from agentstore.agent import Agent

pytestmark = pytest.mark.anyio


async def test_both_messages_of_a_turn_are_stored_under_one_run(database):
    model = Scripted("hi", "fine")
    agent = Agent("Ann", "be kind", model=model, db=database, session_id="s", user_id="u", metadata={"k": 1})
    assert await agent.achat("hello") == "hi"
    assert await agent.achat("how are you?") == "fine"

    stored = await database.messages("s")
    assert told(stored) == [("user", "hello"), ("assistant", "hi"), ("user", "how are you?"), ("assistant", "fine")]
    assert stored[0].run_id == stored[1].run_id != stored[2].run_id == stored[3].run_id
    assert await agent.ahistory() == stored
    assert await agent.ahistory(limit=1) == stored[-1:]
    session = await database.session("s")
    assert (session.agent, session.user_id, session.metadata) == ("Ann", "u", {"k": 1})
    assert told(model.seen[1]) == [("system", "be kind"), *told(stored[:3])]


async def test_another_agent_resumes_the_session(database):
    await Agent("A", model=Scripted("hi"), db=database, session_id="s").achat("my name is Alice")
    model = Scripted("Alice")
    await Agent("B", model=model, db=database, session_id="s").achat("what's my name?")
    assert told(model.seen[0]) == [("user", "my name is Alice"), ("assistant", "hi"), ("user", "what's my name?")]


async def test_a_session_and_a_user_per_call(database):
    agent = Agent("A", model=Scripted("1", "2"), db=database, session_id="mine")
    await agent.achat("a", session_id="s1", user_id="u1")
    await agent.achat("b", session_id="s2", user_id="u2")
    assert told(await agent.ahistory(session_id="s1", user_id="u1")) == [("user", "a"), ("assistant", "1")]
    assert (await database.session("s2")).user_id == "u2"
    assert await agent.ahistory() == []


async def test_the_model_waits_for_the_history_and_not_for_the_save(database):
    saved, called = asyncio.Event(), asyncio.Event()
    append = database.append

    async def held(session_id, messages, **options):
        if messages[0].role == "user":
            await called.wait()  # would never end if the model waited for this save
            saved.set()
        return await append(session_id, messages, **options)

    async def model(messages):
        called.set()
        await saved.wait()
        return "hi"

    database.append = held
    assert await Agent("A", model=model, db=database, session_id="s").achat("hello") == "hi"
    assert [m.role for m in await database.messages("s")] == ["user", "assistant"]


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_failed_save_cancels_the_model_and_is_raised(database, streaming):
    cancelled = []

    async def model(messages):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def broken(*args, **options):
        await asyncio.sleep(0)
        raise UnavailableError("the disk is gone")

    database.append = broken
    agent = Agent("A", model=model, db=database, session_id="s")
    with pytest.raises(UnavailableError, match="the disk is gone"):
        await (anext(agent.astream("hello")) if streaming else agent.achat("hello"))
    assert cancelled == [True]
    del database.append
    assert await database.messages("s") == []


@pytest.mark.parametrize("streaming", [False, True])
async def test_an_answer_that_cannot_be_saved_is_an_error(database, streaming):
    append = database.append

    async def broken(session_id, messages, **options):
        if messages[0].role == "assistant":
            raise UnavailableError("the disk is gone")
        return await append(session_id, messages, **options)

    database.append = broken
    agent = Agent("A", model=lambda _: "hi", db=database, session_id="s")

    async def turn():
        return [piece async for piece in agent.astream("hello")] if streaming else await agent.achat("hello")

    with pytest.raises(UnavailableError):
        await turn()
    assert [m.role for m in await database.messages("s")] == ["user"]


async def test_a_model_that_fails_leaves_the_prompt_and_a_retry_does_not_double_it(database):
    model = Scripted(UnavailableError("busy"), "hi")
    agent = Agent("A", model=model, db=database, session_id="s")
    with pytest.raises(UnavailableError):
        await agent.achat("hello")
    assert told(await database.messages("s")) == [("user", "hello")]
    assert await agent.achat("hello") == "hi"
    stored = await database.messages("s")
    assert told(stored) == [("user", "hello"), ("assistant", "hi")]
    assert stored[0].run_id == stored[1].run_id
    assert told(model.seen[1]) == [("user", "hello")]


async def test_another_prompt_after_an_unanswered_one_is_a_new_turn(database):
    agent = Agent("A", model=Scripted(UnavailableError("busy"), "hi"), db=database, session_id="s")
    with pytest.raises(UnavailableError):
        await agent.achat("hello")
    await agent.achat("are you there?")
    assert [m.content for m in await database.messages("s")] == ["hello", "are you there?", "hi"]


async def test_the_same_prompt_after_an_answer_is_a_new_turn(database):
    agent = Agent("A", model=Scripted("1", "2"), db=database, session_id="s")
    assert [await agent.achat("again"), await agent.achat("again")] == ["1", "2"]
    assert len(await database.messages("s")) == 4


async def test_a_prompt_that_another_program_stored_is_answered(database):
    await database.append("s", [Message("user", "old"), Message("assistant", "yes"), Message("user", "hello")])
    await Agent("A", model=Scripted("hi"), db=database, session_id="s").achat("hello")
    assert [m.content for m in await database.messages("s")] == ["old", "yes", "hello", "hi"]


@pytest.mark.parametrize("limit", [0, 1, 2, 100])
async def test_a_turn_is_continued_with_what_its_tools_gave(database, limit):
    turn = [
        Message("user", "add", run_id="r"),
        calls(("f", "{}", "done"), ("f", "{}", "lost")),
        Message("tool", "3", tool_call_id="done"),
    ]
    await database.append("s", [Message("user", "hi", run_id="q"), Message("assistant", "yes", run_id="q")])
    await database.append("s", [Message.from_dict({**m.to_dict(), "run_id": "r"}) for m in turn])
    model = Scripted("it is 3")
    assert await Agent("A", model=model, db=database, session_id="s", history_limit=limit).achat("add") == "it is 3"
    stored = await database.messages("s")
    assert [m.content for m in stored] == ["hi", "yes", "add", "", "3", "it is 3"]
    assert {m.run_id for m in stored[2:]} == {"r"}
    assert [m.content for m in model.seen[0]][-3:] == ["add", "", "3"]
    assert [call.id for call in model.seen[0][-2].tool_calls] == ["done"]


async def test_looking_for_the_prompt_of_a_tail_without_one_ends(database):
    await database.append("s", [Message("user", str(n), run_id=str(n)) for n in range(50)])
    await database.append("s", Message("tool", "?", tool_call_id="x", run_id="headless"))
    reads = []
    read = database.messages

    async def counted(session_id, **options):
        reads.append(options["limit"])
        return await read(session_id, **options)

    database.messages = counted
    await Agent("A", model=Scripted("ok"), db=database, session_id="s", history_limit=4).achat("49")
    assert reads == [4]


async def test_history_limit(database):
    agent = Agent("A", model=Scripted("1", "2", "3"), db=database, session_id="s", history_limit=3)
    for prompt in "abc":
        await agent.achat(prompt)
    assert told(agent._model.seen[2]) == [("user", "b"), ("assistant", "2"), ("user", "c")]
    none = Agent("A", model=Scripted("4"), db=database, session_id="s", history_limit=0)
    await none.achat("d")
    assert told(none._model.seen[0]) == [("user", "d")]
