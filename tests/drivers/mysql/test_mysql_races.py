"""Several processes, threads and tasks at once: nothing is lost, doubled or repeated, and nobody waits in a circle."""

import asyncio
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mysql_kit import execute, make, turn, within, words
from pymysql.err import OperationalError

from agentstore import Message, PoolOptions, db
from agentstore.drivers.mysql import appends, state
from agentstore.drivers.mysql.transaction import Wire
from agentstore.drivers.mysql.wire import converse
from agentstore.errors import CorruptRecordError, UnavailableError
from agentstore.protocol import Append, Change, DeleteKeys, GetItems, Head, Increment, Read, SetItems

pytestmark = pytest.mark.anyio

WORKER = Path(__file__).with_name("mysql_worker.py")
PROCESSES = 4


async def together(url, job, count):
    """What each of four processes gives that do a job of mysql_worker.py at one time."""
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
    await together(url, "many_sessions", 15)
    found = await backend.read([Read(f"s{n}") for n in range(40)])
    assert [len(messages) for messages in found] == [PROCESSES * 15] * 40


async def test_many_keys_in_all_orders(url, backend):
    await together(url, "many_keys", 15)
    found = await backend.get_items([GetItems(f"n{n}", ("n",)) for n in range(4)])
    assert [items["n"].value for items in found] == [PROCESSES * 15] * 4


async def test_a_version_never_comes_twice(url):
    answers = await together(url, "come_and_go", 60)
    versions = [version for answer in answers for version in answer]
    assert len(versions) == len(set(versions)) == PROCESSES * 60


async def test_set_many_is_seen_whole(url):
    assert await together(url, "set_many", 40) == [40] * PROCESSES


def test_twelve_threads_with_a_small_pool(url):
    with db(url, pool=PoolOptions(size=2)) as database, ThreadPoolExecutor(12) as threads:

        async def talk(writer):
            for step in range(20):
                await database.append("s", Message("user", f"{writer}:{step}"))

        for future in [threads.submit(asyncio.run, talk(writer)) for writer in range(12)]:
            future.result(timeout=60)
        said = [message.content for message in database.sync.messages("s")]
        assert len(said) == len(set(said)) == 240
        for writer in range(12):
            assert [t for t in said if t.startswith(f"{writer}:")] == [f"{writer}:{step}" for step in range(20)]


async def test_two_hundred_tasks_on_a_pool_of_five(url):
    backend = make(url, size=5)
    await backend.aopen()
    outcomes = await asyncio.gather(*(backend.append([turn("s", str(n))]) for n in range(200)))
    (messages,) = await backend.read([Read("s")])
    assert sorted(m.content for m in messages) == sorted(str(n) for n in range(200))
    assert sorted(outcome[0].seq for (outcome,) in outcomes) == list(range(1, 201))
    assert max(stats.size for stats in backend.pools()) <= 5
    assert sum(stats.waits for stats in backend.pools()) > 0
    await backend.aclose()


@pytest.fixture
def come_between(monkeypatch, unguessed):
    """``come_between(module, coroutine function)``: it runs behind the first look of an append, or of a state write."""

    def patch(module, action):
        done = []

        async def load(wire, *args):
            found = await look(wire, *args)
            if not done:
                done.append(True)
                await action()
            return found

        look = module._load
        monkeypatch.setattr(module, "_load", load)

    return patch


async def test_an_append_that_another_came_before(url, backend, come_between):
    other = make(url)
    await other.aopen()
    await backend.append([turn("s", "one")])
    come_between(appends, lambda: other.append([turn("s", "two")]))
    (stored,) = await backend.append([turn("s", "three")])
    assert stored[0].seq == 3
    assert words((await backend.read([Read("s")]))[0]) == ["one", "two", "three"]
    await other.aclose()


async def test_a_session_that_another_has_just_created(url, backend, come_between):
    other = make(url)
    await other.aopen()
    come_between(appends, lambda: other.append([turn("s", "one", id="known")]))
    outcomes = await backend.append([turn("a"), turn("s", "again", id="known"), turn("s", "two")])
    assert [words(outcome) for outcome in outcomes] == [["hello"], ["one"], ["two"]]
    assert words((await backend.read([Read("s")]))[0]) == ["one", "two"]
    await other.aclose()


async def test_a_session_deleted_meanwhile(url, backend, come_between):
    other = make(url)
    await other.aopen()
    await backend.append([turn("s", "one")])
    (before,) = await backend.heads([Head("s")])
    come_between(appends, lambda: other.delete("s"))
    await backend.append([turn("s", "two")])
    assert [(m.content, m.seq) for m in (await backend.read([Read("s")]))[0]] == [("two", 2)]
    (after,) = await backend.heads([Head("s")])
    assert (after.message_count, after.last_seq) == (1, 2)
    assert after.created_at > before.created_at
    await other.aclose()


async def test_what_was_popped_meanwhile(url, backend, come_between):
    other = make(url)
    await other.aopen()
    await backend.append([turn("s", "one")])
    come_between(appends, lambda: other.pop("s", 1))
    await backend.append([turn("s", "two")])
    assert [(m.content, m.seq) for m in (await backend.read([Read("s")]))[0]] == [("two", 3)]
    await other.aclose()


async def test_metadata_changed_meanwhile(url, backend, come_between):
    other = make(url)
    await other.aopen()
    await backend.append([turn("s", "one")])
    come_between(appends, lambda: other.update(Change("s", title="t", metadata={"a": 1})))
    await backend.append([Append("s", (Message("user", "two"),), metadata={"b": 2})])
    (after,) = await backend.heads([Head("s")])
    assert (after.title, after.metadata, after.message_count) == ("t", {"a": 1, "b": 2}, 2)
    await other.aclose()


async def test_a_failed_attempt_leaves_no_lock(url, backend, come_between, monkeypatch):
    other = make(url, statement_timeout=1)
    await other.aopen()
    await backend.append([turn("s", "one")])
    come_between(appends, lambda: other.append([turn("s", "two")]))

    async def locked_append(work):
        return await other.append([turn("s", "three")])  # it would wait for the lock

    async def stand_still(wire):
        """As a loop that is blocked before it can undo anything."""

    monkeypatch.setattr(backend, "_write", locked_append)
    monkeypatch.setattr(Wire, "rollback", stand_still)
    await backend.append([turn("s", "not this way")])
    assert words((await backend.read([Read("s")]))[0]) == ["one", "two", "three"]
    await other.aclose()


async def test_appends_without_pipelining(url):
    backend = make(within(url, options={"pipelining": "false"}))
    await backend.aopen()
    outcomes = await asyncio.gather(*(backend.append([turn("s", str(n)), turn(f"s{n}")]) for n in range(20)))
    assert sorted(one[0].seq for one, _ in outcomes) == list(range(1, 21))
    assert len((await backend.read([Read("s")]))[0]) == 20
    await backend.aclose()


async def test_a_namespace_that_another_has_just_begun(url, backend):
    other = make(url)
    await other.aopen()
    await asyncio.gather(*(b.write_items([SetItems(f"n{n}", {"k": n})]) for n in range(20) for b in (backend, other)))
    found = await backend.get_items([GetItems(f"n{n}", ("k",)) for n in range(20)])
    assert [items["k"].version for items in found] == [2] * 20
    assert await backend.write_items([DeleteKeys("n1", ("k",))]) == [1]
    await other.aclose()


async def test_a_deadlock_is_tried_again(backend, monkeypatch):
    keep, failures = state._keep, [1213, 1020]

    async def fail_first(*args):
        if failures:
            raise OperationalError(failures.pop(), "Deadlock found when trying to get lock")
        await keep(*args)

    monkeypatch.setattr(state, "_keep", fail_first)
    assert await backend.write_items([SetItems("n", {"k": 1})]) == [1]
    assert failures == []


async def test_a_deadlock_behind_a_bad_operation_doubles_nothing(url, backend, monkeypatch):
    await backend.write_items([SetItems("n", {"bad": 1})])
    execute(url, "UPDATE agentstore_state SET value = '{'")
    keep, calls = state._keep, []

    async def fail_second(*args):
        calls.append(args)
        if len(calls) == 2:
            raise OperationalError(1213, "Deadlock found when trying to get lock")
        await keep(*args)

    monkeypatch.setattr(state, "_keep", fail_second)
    outcomes = await backend.write_items([Increment("n", key) for key in ("a", "bad", "c")])
    assert [outcomes[0], type(outcomes[1]), outcomes[2]] == [1, CorruptRecordError, 1]
    (found,) = await backend.get_items([GetItems("n", ("a", "c"))])
    assert {key: item.value for key, item in found.items()} == {"a": 1, "c": 1}
    assert len(calls) == 3


async def test_deadlocks_without_end_are_told(url, monkeypatch):
    async def fail(*_):
        raise OperationalError(1213, "Deadlock found when trying to get lock")

    backend = make(url, statement_timeout=0.2)
    await backend.aopen()
    monkeypatch.setattr(state, "_keep", fail)
    with pytest.raises(UnavailableError, match="faster") as caught:
        await backend.write_items([SetItems("n", {"k": 1})])
    assert isinstance(caught.value.__cause__, OperationalError)
    await backend.aclose()


async def test_an_append_of_many_messages_looks_ids_up_by_their_index(backend):
    """From 1,000 ids on MariaDB would otherwise join a table made of them, and read all messages for that."""
    async with backend._here.connection() as proxy:
        ids = ",".join(map(str, range(1500)))
        look = (
            f"EXPLAIN SELECT 1 FROM agentstore_messages FORCE INDEX (agentstore_messages_by_id) WHERE id_key IN ({ids})"
        )
        (plan,) = await converse(proxy.driver_connection, look.encode(), 10)
    assert [row[2] for row in plan] == ["agentstore_messages"]
