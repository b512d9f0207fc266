"""The loop around tools: order, durability, and its limit."""

import asyncio
import threading

import pytest
from agent_kit import Scripted, calls, told

from agentstore import Message
from agentstore.agent import Agent

pytestmark = pytest.mark.anyio


def weather(city: str) -> str:
    return f"{city} 1 C"


async def test_each_step_is_durable_before_the_next(database, log):
    async def double(n: int) -> int:
        log.append(("tool", n))
        return 2 * n

    model = Scripted(calls(("double", '{"n": 1}'), ("double", '{"n": 2}')), calls(("double", '{"n": 3}')), "6", log=log)
    agent = Agent("A", model=model, db=database, session_id="s", tools=[double])
    assert await agent.achat("go") == "6"
    assert log.index(("saved", ["user"])) < log.index(("saved", ["assistant"]))
    assert [event for event in log if event != ("saved", ["user"])] == [
        ("model", 1),
        ("saved", ["assistant"]),
        ("tool", 1),
        ("tool", 2),
        ("saved", ["tool", "tool"]),
        ("model", 2),
        ("saved", ["assistant"]),
        ("tool", 3),
        ("saved", ["tool"]),
        ("model", 3),
        ("saved", ["assistant"]),
    ]
    stored = await database.messages("s")
    assert [m.content for m in stored] == ["go", "", "2", "4", "", "6", "6"]
    assert len({m.run_id for m in stored}) == 1
    assert [(m.tool_call_id, m.name) for m in stored[2:4]] == [("c0", "double"), ("c1", "double")]
    assert stored[1].tool_calls[0].arguments == '{"n": 1}'
    assert told(model.seen[2]) == told(stored[:-1])
    assert model.offered == [["double"]] * 3


async def test_the_tools_of_a_round_run_side_by_side_and_keep_their_order(database):
    other, meet = asyncio.Event(), threading.Barrier(2)

    async def first() -> str:
        await other.wait()
        return "1"

    async def second() -> str:
        other.set()
        return "2"

    def third() -> str:  # sync tools too, and off the loop
        meet.wait(60)
        return f"{threading.current_thread() is threading.main_thread()}"

    model = Scripted(calls(("first", ""), ("second", ""), ("third", ""), ("third", "")), "done")
    agent = Agent("A", model=model, db=database, session_id="s", tools=[first, second, third])
    await agent.achat("go")
    results = [m for m in await database.messages("s") if m.role == "tool"]
    assert [m.content for m in results] == ["1", "2", "False", "False"]


async def test_an_unknown_tool_is_told_to_the_model(database):
    model = Scripted(calls(("nothing", "{}")), "sorry")
    assert await Agent("A", model=model, db=database, session_id="s", tools=[weather]).achat("go") == "sorry"
    assert (await database.messages("s"))[2].content == "Error: there is no tool 'nothing'; there are: weather"


async def test_calls_without_ids_or_with_one_id_twice_get_their_own(database):
    model = Scripted(calls(("f", "", ""), ("f", "", "x"), ("f", "", "x")), "done")
    await Agent("A", model=model, db=database, session_id="s").achat("go")
    stored = await database.messages("s")
    ids = [call.id for call in stored[1].tool_calls]
    assert ids[1] == "x"
    assert len(set(ids)) == 3
    assert all(ids)
    assert [m.tool_call_id for m in stored[2:5]] == ids


async def test_a_model_may_ask_with_one_message_object_again_and_again(database):
    same = calls(("weather", '{"city": "Rome"}'))
    model = Scripted(same, same, "done")
    assert await Agent("A", model=model, db=database, session_id="s", tools=[weather]).achat("go") == "done"
    assert [m.role for m in await database.messages("s")] == ["user", *["assistant", "tool"] * 2, "assistant"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("last", "answer"), [("enough", "enough"), (calls(("f", ""), content="more"), "more\n\n(Stop")]
)
async def test_after_ten_rounds_the_model_must_answer(database, streaming, last, answer):
    model = Scripted(*[calls(("f", "")) for _ in range(10)], last)
    agent = Agent("A", model=model, db=database, session_id="s", tools=[weather])
    if streaming:
        pieces = [piece async for piece in agent.astream("go")]
        assert "".join(pieces).strip().startswith(answer[:4])
    else:
        assert (await agent.achat("go")).startswith(answer)
    assert model.offered == [["weather"]] * 10 + [[]]
    stored = await database.messages("s")
    assert len(stored) == 22
    assert stored[-1].content.startswith(answer)
    assert stored[-1].tool_calls == ()


async def test_a_cancelled_tool_cancels_the_turn(database):
    begun = asyncio.Event()

    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    agent = Agent("A", model=Scripted(calls(("wait", ""))), db=database, session_id="s", tools=[wait])
    task = asyncio.create_task(agent.achat("go"))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [m.role for m in await database.messages("s")] == ["user", "assistant"]
    again = Scripted("done")
    assert await Agent("A", model=again, db=database, session_id="s").achat("go") == "done"
    assert told(again.seen[0]) == [("user", "go")]


async def test_a_callable_may_ask_for_tools_too(database):
    def model(messages):
        return "done" if messages[-1].role == "tool" else calls(("weather", '{"city": "Rome"}'))

    assert await Agent("A", model=model, db=database, session_id="s", tools=[weather]).achat("go") == "done"
    assert isinstance((await database.messages("s"))[2], Message)
    assert (await database.messages("s"))[2].content == "Rome 1 C"
