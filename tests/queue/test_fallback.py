"""A backend that is down: who gets an error, who goes on, and what is there when it is back."""

import asyncio
import logging

import pytest
from queue_kit import Puppet, make, said, say, until

from agentstore import AccessDeniedError, Agent, PoolOptions, UnavailableError
from agentstore.drivers.memory import MemoryBackend
from agentstore.protocol import Append
from agentstore.queue.journal import survey
from agentstore.url import StoreURL

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("puppets")]

KINDS = pytest.mark.parametrize("fallback", ["memory", "journal"])


async def test_without_a_fallback_callers_are_told(tmp_path):
    database, strings = make(tmp_path, durability="commit")
    async with database:
        await database.append("s", say("0"))
        strings.down = True
        for call in (database.append("s", say("1")), database.messages("s"), database.state.set("k", 1)):
            with pytest.raises(UnavailableError):
                await call
        strings.down = False
        await until_back(database)
        assert await said(database) == ["0"]


async def until_back(database):
    async def back():
        try:
            await database.ping()
        except UnavailableError:
            return False
        return True

    async with asyncio.timeout(10):
        while not await back():
            await asyncio.sleep(0.01)


@KINDS
async def test_writes_go_on_and_are_stored_in_order(tmp_path, fallback, caplog):
    database, strings = make(tmp_path, durability="commit", fallback=fallback)
    async with database:
        (first,) = await database.append("s", say("0"))
        assert first.seq == 1, "while it is there, a commit is a commit"
        strings.down = True
        for number in range(1, 20):
            (given,) = await database.append("st"[number % 2], say(str(number)))
            assert given.seq is None
        assert await database.state.set("k", 1) == 0
        assert database.stats().fallbacks == 20
        assert len(survey.survey(tmp_path / "journals")) == (fallback == "journal")
        (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        kept = {"memory": "in memory", "journal": "in the journal"}[fallback]
        assert f"cannot be reached: writes are kept {kept} until it is back" in warning.message
        strings.down = False
        await database.flush()
        assert await said(database) == ["0", *(str(n) for n in range(2, 20, 2))]
        assert await said(database, "t") == [str(n) for n in range(1, 20, 2)]
        assert await database.state.get("k") == 1
        (then,) = await database.append("s", say("then"))
        assert then.seq == 11, "and it is a commit again"
    assert [batch for batch in strings.batches if len(batch) > 1], "they were stored in groups"


@KINDS
async def test_a_read_is_whole_or_refused(tmp_path, fallback):
    database, strings = make(tmp_path, durability="commit", fallback=fallback)
    async with database:
        await database.append("old", say("0"))
        await database.state.set("stored", 1)
        assert await database.session("new") is None
        strings.down = True
        await database.append("old", say("1"))
        await database.state.set("pending", 2)
        for call in (
            database.messages("old"),
            database.messages("old", limit=1),
            database.session("old"),
            database.sessions(),
            database.messages("unknown"),
            database.state.get("stored"),
            database.state.get_many(["pending", "stored"]),
            database.state.scan(),
            database.pop("old"),
            database.state.increment("pending"),
            database.fork("old"),
        ):
            with pytest.raises(UnavailableError):
                await call
        assert await database.state.get("pending") == 2
        strings.down = False
        await database.flush()
        assert await said(database, "old") == ["0", "1"]


async def test_a_session_that_began_in_the_queue_is_whole_there(tmp_path):
    database, strings = make(tmp_path, durability="memory", fallback="journal")
    async with database:
        with strings.holding():
            await database.append("s", [say("0"), say("1")], user_id="ann")
            await until(lambda: database.stats().queue.waiting == 1)
            strings.down = True
        await database.append("s", say("2"), user_id="ann")
        assert await said(database) == ["0", "1", "2"]
        assert await said(database, limit=2) == ["1", "2"]
        assert (await database.session("s")).message_count == 3
        with pytest.raises(AccessDeniedError):
            await database.messages("s", user_id="bob")
        strings.down = False
        await database.flush()
        assert await said(database) == ["0", "1", "2"]


@KINDS
async def test_opening_while_it_is_down(tmp_path, fallback):
    database, strings = make(tmp_path, durability="commit", fallback=fallback)
    strings.down = True
    async with database:
        for number in range(3):
            await database.append("s", say(str(number)))
        with pytest.raises(UnavailableError):
            await database.messages("s")
        strings.down = False
        await database.flush()
        assert await said(database) == ["0", "1", "2"]


async def test_what_a_dead_process_left_goes_first(tmp_path):
    dead, strings = make(tmp_path, durability="journal", close_timeout=0.05)
    async with dead:
        await dead.append("s", say("first"))
        await dead.flush()
        strings.down = True
        await dead.append("s", say("before"))
    database, _ = make(tmp_path, durability="commit", fallback="journal")
    async with database:
        await database.append("s", say("after"))
        strings.down = False
        await database.flush()
        assert await said(database) == ["first", "before", "after"]


async def test_an_owner_that_was_faster_elsewhere_is_judged_by_the_backend(tmp_path):
    database, strings = make(tmp_path)
    async with database:
        with strings.holding():
            await database.append("s", say("bob's"), user_id="bob")
            another = Puppet(StoreURL("puppet", path=f"/{tmp_path.name}/store"), PoolOptions())
            await MemoryBackend.append(another, [Append("s", (say("ann's"),), user_id="ann")])
        with pytest.raises(AccessDeniedError):
            await database.flush()
        assert await said(database, user_id="ann") == ["ann's"]
        assert database.stats().queue.rejected == 1
        with pytest.raises(AccessDeniedError):
            await database.append("s", say("bob's again"), user_id="bob")


@pytest.mark.parametrize("durability", ["memory", "journal"])
async def test_an_agent_s_turns(tmp_path, durability):
    database, strings = make(tmp_path, durability=durability)
    agent = Agent("Assistant", model="offline", db=database, session_id="s")
    async with database:
        await agent.achat("My name is Alice", message_id="m-1")
        await database.flush()
        with strings.holding():
            answer = await agent.achat("What is my name?", message_id="m-2")
            assert "Alice" in answer
            assert await agent.achat("What is my name?", message_id="m-2") == answer, "one turn"
            assert len(await agent.ahistory()) == 4
        await database.flush()
        few = Agent("Assistant", model="offline", db=database, session_id="s", history_limit=1)
        first = (await agent.ahistory())[1].content
        assert await few.achat("My name is Alice", message_id="m-1") == first, "also when it is out of sight"
        await database.flush()
        assert [message.role for message in await database.messages("s")] == ["user", "assistant"] * 2
