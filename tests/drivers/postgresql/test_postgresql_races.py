"""Several processes at once: nothing is lost, doubled or repeated, and nobody waits for anybody in a circle."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from postgresql_kit import execute, make, turn

from agentstore.protocol import DeleteKeys, Read, SetItems

pytestmark = pytest.mark.anyio

WORKER = Path(__file__).with_name("postgresql_worker.py")
PROCESSES = 4


async def together(url, job, count):
    """What each of four processes gives that do a job of postgresql_worker.py at one time."""
    path = os.pathsep.join(filter(None, sys.path))
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", str(WORKER), url, job, str(number), str(count)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        for number in range(PROCESSES)
    ]
    answers = await asyncio.gather(*(process.communicate() for process in processes))
    assert [err.decode() for _, err in answers] == [""] * PROCESSES
    return [json.loads(out) for out, _ in answers]


async def test_four_processes_append_200_each_to_one_session(url, backend):
    await together(url, "append", 200)
    (messages,) = await backend.read([Read("s")])
    said = [message.content for message in messages]
    assert len(said) == len(set(said)) == 800
    assert [message.seq for message in messages] == list(range(1, 801))
    for number in range(PROCESSES):
        assert [text for text in said if text.startswith(f"{number}:")] == [f"{number}:{step}" for step in range(200)]


async def test_many_sessions_in_all_orders(url, backend):
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    await together(url, "many_sessions", 60)
    found = await backend.read([Read(f"s{n}") for n in range(40)])
    assert [len(messages) for messages in found] == [PROCESSES * 60] * 40
    assert execute(url, deadlocks) == 0


async def test_many_keys_in_all_orders(url):
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    await together(url, "many_keys", 250)
    assert execute(url, deadlocks) == 0


async def test_a_version_never_comes_twice(url):
    answers = await together(url, "come_and_go", 60)
    versions = [version for answer in answers for version in answer]
    assert len(versions) == PROCESSES * 60
    assert len(set(versions)) == len(versions)


async def test_a_set_is_seen_whole(url):
    answers = await together(url, "set_many", 40)
    assert sum(answers) > 0, "somebody has looked"


async def test_a_key_that_comes_while_its_maker_waits(backend, url):
    """Both find it missing; the second gets the floor, the first's key then is not in its snapshot."""
    other = make(url)
    await other.aopen()
    state = backend._state
    async with backend._pools.connection() as proxy:
        plan, former, now = await state._load(proxy.driver_connection, [("n", "k")], frozenset())
        plan.apply([SetItems("n", {"k": "mine"})], now)
        connection = await other._connector.connect()
        await connection.execute("BEGIN; INSERT INTO agentstore_state_floors VALUES ('n', 0)")
        keeping = asyncio.create_task(state._keep(proxy.driver_connection, plan, former))
        async with asyncio.timeout(20):
            while execute(url, "SELECT count(*) FROM pg_locks WHERE NOT granted") != 1:
                await asyncio.sleep(0.01)
        await connection.execute("INSERT INTO agentstore_state VALUES ('n', 'k', '\"theirs\"', 1, NULL); COMMIT")
        assert await keeping == {"n"}
        await connection.close()
    await other.aclose()
    assert execute(url, "SELECT value FROM agentstore_state") == '"theirs"'


async def test_what_was_deleted_and_made_again_meanwhile(backend):
    state = backend._state
    (first,) = await backend.write_items([SetItems("n", {"k": 1})])
    async with backend._pools.connection() as proxy:
        plan, former, now = await state._load(proxy.driver_connection, [("n", "k")], frozenset())
        plan.apply([SetItems("n", {"k": "late"})], now)
        await backend.write_items([DeleteKeys("n", ("k",))])
        assert await state._keep(proxy.driver_connection, plan, former) == {"n"}, "it has gone"
        (second,) = await backend.write_items([SetItems("n", {"k": 2})])
        assert await state._keep(proxy.driver_connection, plan, former) == {"n"}, "it is another"
    assert second > first


async def test_a_key_that_came_and_went_meanwhile(backend):
    state = backend._state
    async with backend._pools.connection() as proxy:
        plan, former, now = await state._load(proxy.driver_connection, [("n", "k")], frozenset())
        assert plan.apply([SetItems("n", {"k": "late"})], now) == [1]
        assert await backend.write_items([SetItems("n", {"k": 1}), DeleteKeys("n", ("k",))]) == [1, 1]
        assert await state._keep(proxy.driver_connection, plan, former) == {"n"}, "version 1 was used"
    assert await backend.write_items([SetItems("n", {"k": 2})]) == [2]


async def test_a_session_that_changed_meanwhile_is_planned_again(backend, monkeypatch, unguessed):
    await backend.append([turn("s", "first")])
    load = backend._log._sessions.load
    come = [turn("s", "between")]

    async def overtaken(connection, batch):
        loaded = await load(connection, batch)
        if come:
            other = [come.pop()]
            await backend.append(other)
        return loaded

    monkeypatch.setattr(backend._log._sessions, "load", overtaken)
    outcomes = await backend.append([turn("s", "late"), turn("new", "other")])
    assert [outcome[0].seq for outcome in outcomes] == [3, 1]
    (messages,) = await backend.read([Read("s")])
    assert [message.content for message in messages] == ["first", "between", "late"]
