"""Queues of several processes on one session or namespace: none loses the mark of another."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from redis_kit import make, say, texts, turn

from agentstore import errors
from agentstore.drivers.redis.keys import Keys
from agentstore.protocol import DeleteKeys, GetItems, Head, Mark, Read, SetItems
from agentstore.url import StoreURL

pytestmark = pytest.mark.anyio

DAY = timedelta(days=1)
QUEUES, WRITES = "abcd", 20


@pytest.fixture(params=["redis", "redis-cluster"])
async def stores(request, fresh):
    """One for each queue, as in processes of their own."""
    url = fresh(request.param)
    stores = {queue: make(url) for queue in QUEUES}
    await asyncio.gather(*(store.aopen() for store in stores.values()))
    yield stores
    await asyncio.gather(*(store.aclose() for store in stores.values()))


async def race(stores, write, *, ops):
    """Each store writes its own queue's, all at once."""

    async def run(queue):
        for op in ops[queue]:
            (outcome,) = await write(stores[queue], [op])
            assert not isinstance(outcome, errors.AgentstoreError), outcome

    await asyncio.gather(*map(run, stores))


async def append(store, batch):
    return await store.append(batch)


async def set_items(store, batch):
    return await store.write_items(batch)


@pytest.mark.parametrize("ttl", [None, DAY])
async def test_racing_queues_of_a_session(stores, ttl):
    ops = {q: [turn("s", f"{q}{n}", mark=Mark(q, n), ttl=ttl) for n in range(1, WRITES + 1)] for q in QUEUES}
    await race(stores, append, ops=ops)
    assert len(await texts(stores["a"])) == len(QUEUES) * WRITES
    assert len(await stores["b"].pop("s", 1000)) == len(QUEUES) * WRITES
    await race(stores, append, ops=ops)
    assert await texts(stores["a"]) == []


async def test_racing_queues_of_a_namespace(stores):
    """Each sets a key of its own: all they have in common is the namespace's marks."""
    ops = {q: [SetItems("n", {q: n}, mark=Mark(q, n)) for n in range(1, WRITES + 1)] for q in QUEUES}
    await race(stores, set_items, ops=ops)
    await stores["b"].write_items([DeleteKeys("n", tuple(QUEUES))])
    await race(stores, set_items, ops=ops)
    assert await stores["a"].get_items([GetItems("n", tuple(QUEUES))]) == [{}]


async def test_the_marks_of_a_session_that_was_not_there_and_is_not_there_again(stores, monkeypatch):
    """Neither a head nor a last seq tells that others have been here meanwhile, for they stored no message."""
    slow, other = stores["a"], stores["b"]
    await other.append([turn("s")])
    await other.delete("s")
    theirs = replace(turn("s", mark=Mark("b", 1)), messages=())
    before = slow._wire.before

    async def others_come(changes):
        monkeypatch.setattr(slow._wire, "before", before)
        await other.append([theirs])
        assert await other.delete("s")
        await before(changes)

    monkeypatch.setattr(slow._wire, "before", others_come)
    await slow.append([turn("s", "mine", mark=Mark("a", 1))])
    await slow.delete("s")
    await other.append([theirs])
    assert await other.heads([Head("s")]) == [None]


async def test_damaged_marks_concern_those_who_need_them(url, backend, raw):
    keys = Keys(StoreURL.parse(url).options["prefix"])
    await backend.append([turn("s", "one", "two"), turn("t")])
    raw.set(keys.session("s").marks, "rubbish")
    raw.set(keys.namespace("n").marks, "[]")
    assert [message.content for message in await backend.pop("s", 1)] == ["two"]
    for _ in range(2):  # the second time as remembered
        bad, good = await backend.append([turn("s", mark=Mark("q", 1)), turn("t")])
        assert isinstance(bad, errors.CorruptRecordError)
        assert isinstance(good, list)
    bad, good = await backend.write_items([SetItems("n", {"k": 1}, mark=Mark("q", 1)), SetItems("m", {"k": 1})])
    assert isinstance(bad, errors.CorruptRecordError)
    assert good == 1
    assert await texts(backend) == ["one"]


async def test_a_long_rewrite_comes_in_pieces_and_appears_at_once(backend, raw, url):
    keys = Keys(StoreURL.parse(url).options["prefix"])
    await backend.append([turn("s", *map(str, range(5)), ttl=DAY)])
    (old,), (head,) = await backend.read([Read("s")]), await backend.heads([Head("s")])
    long = [replace(message, content=f"{message.content}{'x' * 8 * 2**20}") for message in old]
    short = [say("", seq=99), *long[1:4]]
    assert await backend.rewrite(head, short)
    (found,) = await backend.read([Read("s")])
    assert found == [old[0], *long[1:4], old[4]]
    assert 86_000_000 < raw.pttl(keys.session("s").log) <= 86_400_001
    assert not list(raw.scan_iter(match=f"{keys.prefix}*:new:*", count=1000))
    ((added,),) = await backend.append([turn("s", "more")])
    assert added.seq == 6


async def test_what_was_staged_and_is_gone_rewrites_nothing(backend, raw, url, monkeypatch):
    keys = Keys(StoreURL.parse(url).options["prefix"])
    await backend.append([turn("s", "one")])
    (old,), (head,) = await backend.read([Read("s")]), await backend.heads([Head("s")])
    commit_before = backend._wire.before

    async def an_hour_later(changes):
        raw.delete(*raw.scan_iter(match=f"{keys.prefix}*:new:*", count=1000))
        await commit_before(changes)

    monkeypatch.setattr(backend._wire, "before", an_hour_later)
    with pytest.raises(errors.AgentstoreError, match="gone"):
        await backend.rewrite(replace(head, title="new"), [replace(old[0], content="ONE")])
    assert await backend.heads([Head("s")]) == [head]
    assert await texts(backend) == ["one"]


@pytest.mark.parametrize("guessed", [True, False])
async def test_what_is_rewritten_meanwhile_stays_so(backend, url, monkeypatch, guessed):
    """Between what an append has read, or remembers, and its writing."""
    await backend.append([turn("s", metadata={"a": "old"})])
    other = make(url)
    await other.aopen()
    before, come = backend._wire.before, [1]

    async def others_come(changes):
        if come:
            come.pop()
            (head,) = await other.heads([Head("s")])
            assert await other.rewrite(replace(head, title="new", metadata={"a": "new"}), [])
        await before(changes)

    monkeypatch.setattr(backend._wire, "before", others_come)
    await backend.append([turn("s", "two", metadata=None if guessed else {"b": 1})])
    (head,) = await other.heads([Head("s")])
    assert (head.title, head.metadata) == ("new", {"a": "new"} | ({} if guessed else {"b": 1}))
    assert await texts(other) == ["hello", "two"]
    await other.aclose()
