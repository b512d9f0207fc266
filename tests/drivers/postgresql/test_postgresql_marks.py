"""Marks, and texts put in place of others: what the contract cannot see."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import alembic.command
import pytest
from postgresql_kit import execute, make, turn, words

from agentstore.drivers.postgresql import sessions
from agentstore.drivers.sql.upgrade import VERSION, VERSION_TABLE
from agentstore.errors import CorruptRecordError
from agentstore.protocol import Append, Change, DeleteKeys, Find, GetItems, Head, Increment, Mark, Read, SetItems
from agentstore.records import Message

pytestmark = pytest.mark.anyio

FLOORS = "SELECT string_agg(concat(namespace, floor, marks), ' ' ORDER BY namespace) FROM agentstore_state_floors"


def marked(queue, position, value=None, **options):
    return SetItems("n", {"k": value or f"{queue}{position}"}, mark=Mark(queue, position), **options)


@pytest.fixture
async def other(url, backend):
    other = make(url)
    await other.aopen()
    yield other
    await other.aclose()


@pytest.mark.parametrize("there", [True, False])
async def test_a_queue_that_was_overtaken_by_another(backend, other, url, monkeypatch, there):
    if there:
        await backend.write_items([marked("old", 1)])
    load, come = backend._state._load, [marked("b", 1), marked("b", 2)]

    async def overtaken(*given):
        loaded = await load(*given)
        if come:
            await other.write_items([come.pop(0)])
        return loaded

    monkeypatch.setattr(backend._state, "_load", overtaken)
    assert await backend.write_items([marked("a", 1)]) == [3 + there]
    assert execute(url, FLOORS).endswith('"b":2,"a":1}')


async def test_queues_that_race_on_one_namespace(backend, other):
    async def drain(store, queue):
        for position in range(1, 21):
            (version,) = await store.write_items([marked(queue, position)])
            assert version > 0

    await asyncio.gather(*(drain(store, f"{store is other}{n}") for store in (backend, other) for n in range(3)))
    replays = [marked(f"{own}{n}", 20) for own in (True, False) for n in range(3)]
    assert await backend.write_items(replays) == [0] * 6


async def test_a_queue_and_a_replay_of_it_at_once(backend, other, monkeypatch):
    load, come = backend._state._load, [marked("q", 1)]

    async def overtaken(*given):
        loaded = await load(*given)
        if come:
            await other.write_items([come.pop(), SetItems("n", {"k": "newer"})])
        return loaded

    monkeypatch.setattr(backend._state, "_load", overtaken)
    assert await backend.write_items([marked("q", 1)]) == [0]
    assert (await backend.get_items([GetItems("n", ("k",))]))[0]["k"].value == "newer"


async def test_marks_survive_purges(backend):
    append = replace(turn("s"), mark=Mark("q", 1), ttl=timedelta(milliseconds=1))
    short = marked("q", 1, ttl=timedelta(milliseconds=1))
    await backend.append([append])
    await backend.write_items([short])
    purged = [0, 0]
    async with asyncio.timeout(20):
        while purged != [1, 1]:
            purged[0] += await backend.purge_sessions()
            purged[1] += await backend.purge_state()
    await backend.append([append])
    assert await backend.heads([Head("s")]) == [None]
    assert await backend.write_items([short]) == [0]


async def test_writes_without_marks_keep_those_that_are_there(backend, url):
    await backend.write_items([marked("q", 1)])
    await backend.write_items([DeleteKeys("n", ("k",))])
    await backend.write_items([SetItems("n", {"k": 1, "l": 2})])
    assert execute(url, FLOORS) == 'n1{"q":1}'


async def test_marks_that_cannot_be_read(backend, url):
    await backend.append([turn("bad"), turn("good")])
    execute(url, "UPDATE agentstore_sessions SET marks = '{' WHERE session_id = 'bad'")
    outcomes = await backend.append([turn("bad", "1"), turn("good", "2")])
    assert [words(outcome) for outcome in outcomes] == [CorruptRecordError, ["2"]]
    assert (await backend.update(Change("bad", title="t"))).title == "t"
    assert words(await backend.pop("bad", 1)) == ["hello"]
    assert [len(found) for found in await backend.find([Find("bad", ids=("m",))])] == [0]
    assert await backend.delete("bad"), "which mends it"
    assert words((await backend.append([turn("bad", "3")]))[0]) == ["3"]


async def test_marks_of_a_namespace_that_cannot_be_read(backend, url):
    await backend.write_items([marked("q", 1), Increment("good", "n")])
    execute(url, "UPDATE agentstore_state_floors SET marks = '[]'")
    bad, good, unmarked = await backend.write_items([marked("q", 2), Increment("good", "n"), Increment("n", "other")])
    assert isinstance(bad, CorruptRecordError)
    assert "'n'" in str(bad)
    assert (good, unmarked) == (2, 1)
    assert await backend.purge_state() == 0


async def test_a_session_that_cannot_be_read_is_not_searched(backend, url):
    await backend.append([turn("bad", id="m"), turn("good", id="m")])
    execute(url, "UPDATE agentstore_sessions SET metadata = '{' WHERE session_id = 'bad'")
    bad, good = await backend.find([Find("bad", ids=("m",)), Find("good", ids=("m",))])
    assert isinstance(bad, CorruptRecordError)
    assert words(list(good.values())) == ["hello"]


@pytest.mark.parametrize("chunk", [sessions._CHUNK, 2**20])
async def test_long_texts_are_rewritten(backend, monkeypatch, chunk):
    monkeypatch.setattr(sessions, "_CHUNK", chunk)
    (stored,) = await backend.append([Append("s", tuple(Message("user", str(n)) for n in range(3)))])
    (head,) = await backend.heads([Head("s")])
    texts = [replace(message, content=message.content * 8 * 2**20) for message in stored]
    assert not await backend.rewrite(replace(head, updated_at=head.created_at - timedelta(1)), texts)
    assert (await backend.read([Read("s")]))[0] == stored
    assert await backend.rewrite(replace(head, title="t"), texts)
    assert (await backend.read([Read("s")]))[0] == texts
    assert await backend.rewrite(replace(head, title="only this"), [])
    assert (await backend.heads([Head("s")])) == [replace(head, title="only this")]


async def test_what_is_rewritten_meanwhile_stays_so(backend, other, monkeypatch, unguessed):
    await backend.append([Append("s", (Message("user", "hello"),), metadata={"a": "old"})])
    load = backend._log._sessions.load
    come = [1]

    async def overtaken(*given):
        loaded = await load(*given)
        if come:
            come.pop()
            (head,) = await other.heads([Head("s")])
            assert await other.rewrite(replace(head, title="new", metadata={"a": "new"}), [])
        return loaded

    monkeypatch.setattr(backend._log._sessions, "load", overtaken)
    await backend.append([Append("s", (Message("user", "two"),), metadata={"b": 1})])
    (head,) = await backend.heads([Head("s")])
    assert (head.title, head.metadata, head.message_count) == ("new", {"a": "new", "b": 1}, 2)
    assert head.last_seq == 2


@pytest.mark.parametrize("kind", ["postgresql", "pgbouncer"])
async def test_a_database_of_version_0001(fresh, monkeypatch, kind):
    url = fresh(kind)
    upgrade = alembic.command.upgrade
    with monkeypatch.context() as past:
        past.setattr(alembic.command, "upgrade", lambda config, _: upgrade(config, "0001"))
        old = make(url)
        await old.aopen()
        await old.aclose()
    assert execute(url, f"SELECT version_num FROM {VERSION_TABLE}") == "0001"
    execute(
        url,
        "INSERT INTO agentstore_sessions (session_id, created_at, updated_at, message_count, last_seq)"
        " VALUES ('s', 1, 2, 1, 7)",
    )
    execute(
        url,
        "INSERT INTO agentstore_messages (session_id, id_key, role, content, id, seq, created_at)"
        " VALUES ('s', 1, 'user', 'hello', 'm', 7, 1)",
    )
    execute(url, "INSERT INTO agentstore_state VALUES ('n', 'k', '1', 4, NULL)")
    execute(url, "INSERT INTO agentstore_state_floors VALUES ('n', 9)")
    new = [make(url) for _ in range(3)]
    await asyncio.gather(*(backend.aopen() for backend in new))
    assert execute(url, f"SELECT version_num FROM {VERSION_TABLE}") == VERSION
    (stored,) = await new[0].append([replace(turn("s", "two"), mark=Mark("q", 1))])
    assert stored[0].seq == 8
    assert words((await new[1].read([Read("s")]))[0]) == ["hello", "two"]
    assert await new[2].write_items([marked("q", 1, "v"), SetItems("n", {"new": 1})]) == [5, 10]
    for backend in new:
        await backend.aclose()
