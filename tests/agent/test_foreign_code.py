"""What models and tools do to the turn that calls them: turns of their own, and exceptions of every kind."""

import asyncio
import threading

import anyio
import pytest
from agent_kit import Scripted, calls, told

from agentstore import AgentstoreError, ConfigurationError
from agentstore.agent import Agent
from agentstore.llm import Model
from agentstore.tools import Tool

pytestmark = pytest.mark.anyio


class Outcome(BaseException):
    """As `pytest.fail` raises one."""


class UnspeakableError(Exception):
    def __str__(self):
        raise ValueError


async def cancel_a_task_of_its_own():
    task = asyncio.ensure_future(asyncio.Event().wait())
    await asyncio.sleep(0)
    task.cancel()
    await task


async def test_more_agents_as_tools_than_anyio_has_threads(database):
    together = threading.Barrier(50)

    def ask(n: int) -> str:
        together.wait(60)
        return inner.chat("hm", session_id=str(n))

    inner = Agent("inner", model=lambda _: "yes", db=database)
    wanted = [("ask", f'{{"n": {n}}}') for n in range(50)]
    outer = Agent("A", model=Scripted(calls(*wanted), "done"), db=database, session_id="s", tools=[ask])
    with anyio.fail_after(90):
        assert await outer.achat("go") == "done"
    assert {m.content for m in await database.messages("s") if m.role == "tool"} == {"yes"}


@pytest.mark.parametrize("error", [SystemExit(3), Outcome("x"), asyncio.CancelledError(), UnspeakableError()])
@pytest.mark.parametrize("is_async", [True, False])
async def test_whatever_a_tool_raises_is_told_to_the_model(database, error, is_async):
    def broken() -> None:
        raise error

    async def abroken() -> None:
        raise error

    name = "abroken" if is_async else "broken"
    model = Scripted(calls((name, "")), "done")
    agent = Agent("A", model=model, db=database, session_id="s", tools=[broken, abroken])
    assert await agent.achat("go") == "done"
    assert (await database.messages("s"))[2].content.startswith(f"Error: {type(error).__name__}")


async def test_a_tool_that_cancels_what_it_waits_for_is_told_so():
    assert await Tool.of(cancel_a_task_of_its_own).run("") == "Error: CancelledError"


async def test_an_interrupt_in_a_tool_passes():
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await Tool.of(interrupted).run("")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("error", [SystemExit(3), Outcome("x"), asyncio.CancelledError()])
@pytest.mark.parametrize("is_async", [True, False])
async def test_a_model_that_ends_with_no_ordinary_exception_is_an_error_of_ours(database, error, is_async, streaming):
    def model(messages):
        raise error

    async def amodel(messages):
        raise error

    agent = Agent("A", model=amodel if is_async else model, db=database, session_id="s")
    with pytest.raises(AgentstoreError, match=type(error).__name__) as raised:
        await (anext(agent.astream("hello")) if streaming else agent.achat("hello"))
    assert isinstance(raised.value.__cause__, type(error))
    assert told(await database.messages("s")) == [("user", "hello")]
    assert await Agent("A", model=Scripted("hi"), db=database, session_id="s").achat("hello") == "hi"


async def test_a_model_that_cancels_itself_in_mid_stream_was_not_interrupted(database):
    class Failing(Model):
        async def complete(self, messages, tools):
            raise NotImplementedError

        async def stream(self, messages, tools):
            yield "half"
            await cancel_a_task_of_its_own()

    with pytest.raises(AgentstoreError, match="CancelledError"):
        [piece async for piece in Agent("A", model=Failing(), db=database, session_id="s").astream("hello")]
    assert told(await database.messages("s")) == [("user", "hello")]


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_model_that_begins_a_turn_on_its_own_session_is_told_so(database, streaming):
    def model(messages):
        return agent.chat("inner")

    agent = Agent("A", model=model, db=database, session_id="s")
    with anyio.fail_after(60), pytest.raises(RuntimeError, match=r"model began a turn .* would never end"):
        await (anext(agent.astream("hello")) if streaming else agent.achat("hello"))


async def test_a_stream_leaves_its_reader_free_to_talk_elsewhere(database):
    agent = Agent("A", model=Scripted("one two", "elsewhere"), db=database, session_id="s")
    async for _ in agent.astream("hello"):
        if len(agent._model.seen) == 1:
            assert await agent.achat("and here?", session_id="other") == "elsewhere"


@pytest.mark.parametrize("length", [2, 3])
def test_turns_that_wait_for_each_other_in_a_ring_end(database, length):
    """Each session's tool talks to the next session, all at once."""
    names = [str(n) for n in range(length)]
    started = threading.Barrier(length)

    def talker(name):
        def talk() -> str:
            started.wait(60)
            return Agent("A", model=lambda _: "hi", db=database, session_id=name).chat("inner")

        return talk

    agents = [
        Agent("A", model=Scripted(calls(("talk", "")), "done"), db=database, session_id=name, tools=[talker(following)])
        for name, following in zip(names, [*names[1:], names[0]], strict=True)
    ]
    threads = [threading.Thread(target=agent.chat, args=("go",), daemon=True) for agent in agents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    results = [m.content for name in names for m in database.sync.messages(name) if m.role == "tool"]
    assert sorted("would never end" in result for result in results) == [*[False] * (length - 1), True]


async def test_a_model_may_give_text_for_a_message(database):
    class Plain(Model):
        async def complete(self, messages, tools):
            return "hi"

    agent = Agent("A", model=Plain(), db=database, session_id="s")
    assert await agent.achat("1") == "hi"
    assert [piece async for piece in agent.astream("2")] == ["hi"]


@pytest.mark.parametrize("arguments", ["", " ", "null", '""', "{}"])
async def test_no_arguments_may_be_written_in_many_ways(arguments):
    def now() -> str:
        return "noon"

    assert await Tool.of(now).run(arguments) == "noon"


@pytest.mark.parametrize("tools", [5, None])
def test_tools_that_are_no_list(tools):
    with pytest.raises(ConfigurationError, match="list"):
        Agent("A", model="offline", tools=tools)


# --- cancelled from without ---


async def test_results_of_tools_outlive_a_cancellation_of_the_turn(database):
    waiting = asyncio.Event()

    async def quick() -> str:
        return "done"

    async def slow() -> None:
        waiting.set()
        await asyncio.Event().wait()

    model = Scripted(calls(("slow", "", "1"), ("quick", "", "2")))
    agent = Agent("A", model=model, db=database, session_id="s", tools=[quick, slow])
    task = asyncio.create_task(agent.achat("go"))
    await waiting.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [(m.role, m.tool_call_id) for m in await database.messages("s")][2:] == [("tool", "2")]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("scope", ["asyncio", "anyio"])
@pytest.mark.parametrize("saving", ["user", "assistant"])
async def test_a_timeout_while_a_message_is_saved_loses_no_answer(database, streaming, scope, saving):
    """The timeout strikes when the model has answered; the answer is saved, and the timeout stays one."""
    append, answered, task = database.append, asyncio.Event(), asyncio.current_task()
    timeout, moved = asyncio.timeout(None), anyio.CancelScope()

    async def slow(session_id, messages, **options):
        if messages[0].role == saving:
            await answered.wait()
            for _ in range(5):  # the turn has the answer by now
                await asyncio.sleep(0)
            if scope == "asyncio":
                timeout.reschedule(0)
            else:
                moved.cancel()
            while not task.cancelling():
                await asyncio.sleep(0)
        return await append(session_id, messages, **options)

    async def model(messages):
        answered.set()
        return "hi"

    async def turn():
        agent = Agent("A", model=model, db=database, session_id="s")
        return [piece async for piece in agent.astream("hello")] if streaming else await agent.achat("hello")

    database.append = slow
    if scope == "asyncio":
        with pytest.raises(TimeoutError):
            async with timeout:
                await turn()
    else:
        with moved:
            await turn()
        assert moved.cancelled_caught
    assert task.cancelling() == 0
    await asyncio.sleep(0)  # a stray cancellation would strike here
    assert told(await database.messages("s")) == [("user", "hello"), ("assistant", "hi")]
