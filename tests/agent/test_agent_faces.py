"""The Agent from scripts, threads and loops: the blocking face, and who waits for whom."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from agent_kit import Scripted, calls, told

from agentstore import db
from agentstore.agent import Agent
from agentstore.locks import locks


def test_one_agent_over_scripts_loops_and_threads(database):
    agent = Agent("A", model=lambda m: f"{len(m)}", db=database, session_id="s")
    assert agent.chat("a") == "1"
    assert asyncio.run(agent.achat("b")) == "3"
    assert list(agent.stream("c")) == ["5"]

    async def cell():
        return agent.chat("d")  # as in a notebook: the loop of this thread runs

    assert asyncio.run(cell()) == "7"
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(agent.chat, "efgh"))
    assert sorted(answers, key=int) == ["9", "11", "13", "15"]
    assert [m.role for m in agent.history()] == ["user", "assistant"] * 8


def test_a_blocking_stream_left_early_stores_what_it_gave(database):
    agent = Agent("A", model=Scripted("one two three", "yes", "a b"), db=database, session_id="s")
    for piece in agent.stream("hello"):
        assert piece == "one"
        break
    assert agent.history()[-1].metadata == {"interrupted": True}
    assert agent.chat("more") == "yes"
    stream = agent.stream("again")
    next(stream)
    stream.close()
    assert [m.content for m in agent.history()] == ["hello", "one", "more", "yes", "again", "a"]


def test_an_interrupt_stores_what_a_blocking_stream_gave(database, monkeypatch):
    agent = Agent("A", model=Scripted("one two three"), db=database, session_id="s")
    stream = agent.stream("hello")
    next(stream)
    with pytest.raises(KeyboardInterrupt):
        stream.throw(KeyboardInterrupt)
    assert told(agent.history()) == [("user", "hello"), ("assistant", "one")]


# --- who waits for whom ---


@pytest.mark.anyio
async def test_turns_on_one_session_run_one_after_the_other(database):
    running = []

    async def model(messages):
        running.append(messages[-1].content)
        assert len(running) == 1
        for _ in range(5):
            await asyncio.sleep(0)
        running.clear()
        return "ok"

    agents = [Agent("A", model=model, db=database, session_id="s") for _ in range(3)]
    await asyncio.gather(*(agents[n % 3].achat(f"{n}") for n in range(12)))
    stored = await database.messages("s")
    assert [m.content for m in stored if m.role == "user"] == [f"{n}" for n in range(12)]
    assert [m.role for m in stored] == ["user", "assistant"] * 12


@pytest.mark.anyio
async def test_different_sessions_run_side_by_side(database):
    meet = asyncio.Barrier(5)

    async def model(messages):
        await meet.wait()
        return "ok"

    agent = Agent("A", model=model, db=database)
    await asyncio.gather(*(agent.achat("x", session_id=f"{n}") for n in range(5)))


def test_two_databases_on_one_store_share_the_turns(tmp_path, monkeypatch):
    one, two = (db(f"json:///{tmp_path}/x") for _ in range(2))
    inside, go = threading.Event(), threading.Event()

    def slow(messages):
        inside.set()
        go.wait(60)
        return "first"

    with one, two, ThreadPoolExecutor(2) as pool:
        first = pool.submit(Agent("A", model=slow, db=one, session_id="s").chat, "a")
        inside.wait(60)
        second = pool.submit(Agent("A", model=lambda m: f"{len(m)}", db=two, session_id="s").chat, "b")
        while locks._places[one.identity, "s"].users < 2:
            pass
        go.set()
        assert (first.result(), second.result()) == ("first", "3")


@pytest.mark.anyio
async def test_a_blocking_turn_that_could_never_end_is_refused(database):
    begun, go = asyncio.Event(), asyncio.Event()

    async def model(messages):
        begun.set()
        await go.wait()
        return "ok"

    agent = Agent("A", model=model, db=database, session_id="s")
    turn = asyncio.create_task(agent.achat("a"))
    await begun.wait()
    with pytest.raises(RuntimeError, match="event loop of this thread"):
        agent.chat("b")
    with pytest.raises(RuntimeError, match="event loop of this thread"):
        next(agent.stream("b"))
    other = Agent("A", model=lambda _: "fine", db=database)
    assert other.chat("c") == "fine"
    go.set()
    assert await turn == "ok"
    assert [m.content for m in await database.messages("s")] == ["a", "ok"]


@pytest.mark.anyio
async def test_a_turn_while_its_own_task_reads_a_stream_is_refused(database):
    agent = Agent("A", model=Scripted("one two", "x"), db=database, session_id="s")
    stream = agent.astream("a")
    await anext(stream)
    with pytest.raises(RuntimeError, match="stream is still being read"):
        await agent.achat("b")
    assert [piece async for piece in stream] == ["two"]
    assert await agent.achat("b") == "x"


def test_a_blocking_turn_while_its_own_thread_reads_a_stream_is_refused(database):
    agent = Agent("A", model=Scripted("one two", "x"), db=database, session_id="s")
    stream = agent.stream("a")
    next(stream)
    with pytest.raises(RuntimeError, match="stream is still being read"):
        agent.chat("b")
    assert list(stream) == ["two"]
    assert agent.chat("b") == "x"


@pytest.mark.anyio
async def test_a_tool_that_begins_a_turn_on_its_own_session_is_told_so(database):
    async def aask() -> str:
        return await agent.achat("inner")

    def ask() -> str:
        return agent.chat("inner")

    def ask_elsewhere() -> str:
        return agent.chat("inner", session_id="other")

    model = Scripted(calls(("aask", ""), ("ask", "")), calls(("ask_elsewhere", "")), "inner answer", "done")
    agent = Agent("A", model=model, db=database, session_id="s", tools=[aask, ask, ask_elsewhere])
    assert await agent.achat("outer") == "done"
    results = [m.content for m in await database.messages("s") if m.role == "tool"]
    assert all("would never end" in result for result in results[:2])
    assert results[2] == "inner answer"


def test_a_stream_dropped_as_its_loop_ends_stores_what_it_gave(database):
    agent = Agent("A", model=Scripted("one two"), db=database, session_id="s")

    async def leave():
        async for _ in agent.astream("a"):
            break

    asyncio.run(leave())
    assert [m.content for m in agent.history()] == ["a", "one"]


def test_a_turn_of_a_loop_that_died_does_not_hold_the_session(database):
    agent = Agent("A", model=Scripted("one two", "yes"), db=database, session_id="s")

    async def leave():
        stream = agent.astream("a")
        await anext(stream)
        return stream

    asyncio.run(leave())  # the loop closes its generators when it ends
    assert agent.chat("b") == "yes"
    assert [m.content for m in agent.history()] == ["a", "one", "b", "yes"]
