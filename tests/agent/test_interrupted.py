"""Turns whose stream was closed early, asked again."""

from contextlib import aclosing

import pytest
from agent_kit import Scripted, told

from agentstore import Message
from agentstore.agent import Agent
from agentstore.llm import Model

pytestmark = pytest.mark.anyio


class Slow(Model):
    """Streams one word more each time."""

    def __init__(self):
        self.asked = 0

    async def complete(self, messages, tools):
        raise NotImplementedError

    async def stream(self, messages, tools):
        self.asked += 1
        for _ in range(self.asked):
            yield f"part{self.asked} "
        raise AssertionError("it was to be interrupted")


async def interrupt(agent, prompt, **options):
    async with aclosing(agent.astream(prompt, **options)) as stream:
        await anext(stream)


@pytest.mark.parametrize("limit", [0, 1, 100])
@pytest.mark.parametrize("streaming", [False, True])
async def test_with_its_message_id_a_turn_is_answered_in_full(database, limit, streaming):
    slow = Agent("A", model=Slow(), db=database, session_id="s")
    await interrupt(slow, "hello", message_id="m")
    await interrupt(slow, "hello", message_id="m")
    model = Scripted("the whole")
    again = Agent("A", model=model, db=database, session_id="s", history_limit=limit)
    for _ in range(2):
        if streaming:
            assert "".join([piece async for piece in again.astream("hello", message_id="m")]) in (
                "thewhole",
                "the whole",
            )
        else:
            assert await again.achat("hello", message_id="m") == "the whole"
    assert told(model.seen[0]) == [("user", "hello")]
    assert len(model.seen) == 1
    stored = await database.messages("s")
    assert [m.content for m in stored] == ["hello", "part1 ", "part2 ", "the whole"]
    assert len({m.run_id for m in stored}) == 1

    later = Scripted("bye")
    await Agent("A", model=later, db=database, session_id="s").achat("next")
    assert [m.content for m in later.seen[0]] == ["hello", "the whole", "next"]


@pytest.mark.parametrize("limit", [1, 100])
async def test_without_a_message_id_the_same_prompt_begins_a_turn(database, limit):
    await interrupt(Agent("A", model=Slow(), db=database, session_id="s"), "hello")
    model = Scripted("new")
    assert await Agent("A", model=model, db=database, session_id="s", history_limit=limit).achat("hello") == "new"
    stored = await database.messages("s")
    assert [m.content for m in stored] == ["hello", "part1 ", "hello", "new"]
    assert stored[0].run_id != stored[2].run_id
    if limit == 100:
        assert [m.content for m in model.seen[0]] == ["hello", "part1 ", "hello"]


async def test_a_model_that_hands_back_an_interrupted_message_has_answered(database):
    await interrupt(Agent("A", model=Slow(), db=database, session_id="s"), "hello")
    parrot = Agent("A", model=lambda messages: messages[1], db=database, session_id="s")
    assert await parrot.achat("again") == "part1 "
    assert (await database.messages("s"))[-1].metadata == {"interrupted": False}
    assert isinstance((await database.messages("s"))[-1], Message)


@pytest.mark.parametrize(("limit", "shown"), [(4, "A? A! B? B!"), (3, "B? B!"), (2, "")])
async def test_a_run_whose_prompt_is_beyond_the_limit_is_not_shown(database, limit, shown):
    texts = [("user", "A?"), ("user", "B?"), ("assistant", "A!"), ("assistant", "B!")]
    await database.append("s", [Message(role, text, run_id=text[0]) for role, text in texts])
    model = Scripted("ok")
    await Agent("A", model=model, db=database, session_id="s", history_limit=limit).achat("next")
    assert [m.content for m in model.seen[0]] == [*shown.split(), "next"]


async def test_what_a_program_said_unasked_is_shown_while_nothing_is_cut_off(database):
    await database.append("s", [Message("user", "hi", run_id="a"), Message("assistant", "It has arrived", run_id="b")])
    model = Scripted("ok")
    await Agent("A", model=model, db=database, session_id="s").achat("thanks")
    assert [m.content for m in model.seen[0]] == ["hi", "It has arrived", "thanks"]
