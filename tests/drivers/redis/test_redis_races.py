"""What was read before somebody else wrote, or in the wrong order, is never written upon."""

from dataclasses import replace
from datetime import timedelta

import pytest
from redis_kit import make, texts, turn

from agentstore import errors
from agentstore.drivers.memory import MemoryBackend
from agentstore.drivers.redis.keys import Keys
from agentstore.options import PoolOptions
from agentstore.protocol import DeleteKeys, GetItems, Head, Increment, Listing, Read, SetItems
from agentstore.url import StoreURL

pytestmark = pytest.mark.anyio

OF_THEN = b"*2\r\n$1\r\n1\r\n$1\r\n1\r\n"  # an answer to TIME


def once(monkeypatch, wire, name, change):
    """Let `change` have the answers of the first call of a wire's method."""
    real = getattr(wire, name)

    async def first(*commands):
        monkeypatch.setattr(wire, name, real)
        answers = list(await real(*commands))
        change(answers)
        return answers

    monkeypatch.setattr(wire, name, first)


async def test_what_is_read_after_a_head_is_read_again_with_it(through, proxy):
    await through.append([turn("s", *"abc")])
    proxy.instead = [b"-TRYAGAIN the head\r\n*0\r\n" + OF_THEN]
    assert [message.content for message in await through.pop("s", 1)] == ["c"]
    proxy.instead = [b"-TRYAGAIN the head\r\n:7\r\n" + OF_THEN]
    assert await through.clear("s") == 2
    assert proxy.instead == []


async def test_a_log_that_is_out_of_date_is_not_cut(backend, monkeypatch):
    await backend.append([turn("s", *"abc")])

    def without_the_newest(answers):
        (second,) = [record for record in all_ if b'"b"' in record]
        answers[1] = [second]

    all_ = []
    once(monkeypatch, backend._wire, "run", lambda answers: all_.extend(answers[-1]))
    await backend.read([Read("s")])
    once(monkeypatch, backend._wire, "ask", without_the_newest)
    assert [message.content for message in await backend.pop("s", 1)] == ["c"]
    assert await texts(backend) == ["a", "b"]


async def test_a_count_that_is_out_of_date_clears_nothing(backend, monkeypatch):
    await backend.append([turn("s", *"abc")])
    once(monkeypatch, backend._wire, "ask", lambda answers: answers.__setitem__(1, 2))
    assert await backend.clear("s") == 3


async def test_ids_that_are_out_of_date_double_no_message(url, backend, monkeypatch):
    op = turn("s", "once")
    await backend.append([op])
    other = make(url)
    await other.aopen()
    once(monkeypatch, other._wire, "run", lambda answers: answers.__setitem__(-1, [None]))
    ((stored,),) = await other.append([op])
    assert stored.seq == 1
    assert await texts(other) == ["once"]
    await other.aclose()


async def test_an_id_without_its_message_is_in_nobodys_way(url, backend, raw):
    op = turn("s", "lost")
    await backend.append([op])
    raw.delete(Keys(StoreURL.parse(url).options["prefix"]).session("s").log)
    ((stored,),) = await backend.append([op])
    assert stored.seq == 2
    assert await texts(backend) == ["lost"]


async def test_an_import_is_not_taken_for_what_it_replaced(url, backend):
    await backend.append([turn("s", "one", metadata={"k": "old"})])
    await backend.append([turn("s", "two")])
    other = make(url)
    await other.aopen()
    (head,), (messages,) = await other.heads([Head("s")]), await other.read([Read("s")])
    await other.delete("s")
    await other.restore(replace(head, user_id="ann", metadata={"k": "new"}), messages[1:])
    await other.aclose()
    await backend.append([turn("s", "three")])
    (now,) = await backend.heads([Head("s")])
    assert (now.user_id, now.metadata, now.message_count) == ("ann", {"k": "new"}, 2)
    assert await texts(backend) == ["two", "three"]


async def test_a_writer_that_stopped_for_long_is_listed(fresh, monkeypatch):
    url = fresh("redis-cluster")
    slow, other = make(url), make(url)
    await slow.aopen()
    await other.aopen()
    wire = slow._wire
    time_of, before = wire.time_of, wire.before

    def a_minute_ago(answer):
        monkeypatch.setattr(wire, "time_of", time_of)
        return time_of(answer) - timedelta(seconds=61)

    async def then_others_look(changes):
        monkeypatch.setattr(wire, "before", before)
        await before(changes)
        assert (await other.list_sessions(Listing())).items == ()

    monkeypatch.setattr(wire, "time_of", a_minute_ago)
    monkeypatch.setattr(wire, "before", then_others_look)
    await slow.append([turn("s")])
    assert [session.id for session in (await other.list_sessions(Listing())).items] == ["s"]
    await slow.aclose()
    await other.aclose()


# --- nothing to do, and what cannot be read ---


async def test_empty_operations_are_as_in_memory(backend):
    memory = MemoryBackend(StoreURL.parse("memory://"), PoolOptions())
    await memory.aopen()
    for one in (memory, backend):
        assert (await one.append([]), await one.read([]), await one.heads([])) == ([], [], [])
        assert (await one.get_items([]), await one.write_items([])) == ([], [])
    empty = [SetItems("n", {}), DeleteKeys("n", ()), SetItems("n", {}, if_version=3)]
    for batch in (*([op] for op in empty), [SetItems("m", {"k": 1}), *empty, Increment("n", "k")]):
        assert await backend.write_items(batch) == await memory.write_items(batch)
    for reads in ([GetItems("n", ())], [GetItems("n", ()), GetItems("m", ("k",)), GetItems("m", ())]):
        assert await backend.get_items(reads) == await memory.get_items(reads)
    await memory.aclose()


async def test_a_damaged_floor_concerns_its_namespace_alone(url, backend, raw):
    raw.set(Keys(StoreURL.parse(url).options["prefix"]).namespace("bad").floor, "rubbish")
    bad, good = await backend.write_items([SetItems("bad", {"k": 1}), SetItems("good", {"k": 1})])
    assert isinstance(bad, errors.CorruptRecordError)
    assert good == 1
