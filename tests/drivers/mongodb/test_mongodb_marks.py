"""Marks of racing queues, and of writers that die between a key and its namespace; texts rewritten in two steps."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from mongodb_kit import FIRST, append, backend, begun, dying, head, tables, texts

from agentstore import errors
from agentstore.protocol import Append, Change, DeleteKeys, GetItems, Mark, Read, SetItems

pytestmark = pytest.mark.anyio

QUEUES, WRITES = "abc", 12


@pytest.fixture
async def stores(url):
    """One for each queue, as in processes of their own."""
    stores = {queue: backend(url) for queue in QUEUES}
    for store in stores.values():
        await store.aopen()
    yield stores
    for store in stores.values():
        await store.aclose()


async def race(stores, ops):
    """Each store writes its own queue's, all at once."""

    async def run(queue):
        for op in ops[queue]:
            write = stores[queue].append if isinstance(op, Append) else stores[queue].write_items
            (outcome,) = await write([op])
            assert not isinstance(outcome, errors.AgentstoreError), outcome

    await asyncio.gather(*map(run, stores))


async def values(store, *keys):
    (found,) = await store.get_items([GetItems("n", keys)])
    return {key: item.value for key, item in found.items()}


def taken_away(database):
    """As the TTL index does, later."""
    return database.agentstore_state.delete_many({"remove_at": {"$exists": True}}).deleted_count


async def test_racing_queues_of_a_session(stores):
    ops = {q: [append(f"{q}{n}", mark=Mark(q, n)) for n in range(1, WRITES + 1)] for q in QUEUES}
    await race(stores, ops)
    assert len(await stores["b"].pop("s", 1000)) == len(QUEUES) * WRITES
    await race(stores, ops)
    assert await texts(stores["a"]) == []


async def test_racing_queues_of_a_namespace(stores, url):
    """Each sets a key of its own: all they have in common is the namespace's marks, when the husks have gone."""
    ops = {q: [SetItems("n", {q: n}, mark=Mark(q, n)) for n in range(1, WRITES + 1)] for q in QUEUES}
    await race(stores, ops)
    await stores["b"].write_items([DeleteKeys("n", tuple(QUEUES))])
    with tables(url) as database:
        assert taken_away(database) == len(QUEUES)
    await race(stores, ops)
    assert await values(stores["a"], *QUEUES) == {}


async def test_a_marked_writer_that_dies_anywhere_is_replayed_once(pair):
    writer, other = pair
    for after in (False, True):
        for number in range(1, 6):
            mark = Mark("q", 100 * after + number)
            op = SetItems("n", {"a": mark.position, "b": mark.position}, mark=mark)
            died = await dying(writer, number, lambda op=op: writer.backend.write_items([op]), after=after)
            reached = await values(other, "a", "b") != {}
            await other.write_items([DeleteKeys("n", ("a",))])
            if reached:
                await other.write_items([SetItems("n", {"b": "newer"})])
            (outcome,) = await other.write_items([op])
            assert (outcome == 0) == reached
            expected = {"b": "newer"} if reached else {"a": mark.position, "b": mark.position}
            assert await values(other, "a", "b") == expected
            await other.write_items([DeleteKeys("n", ("a", "b"))])
            if not died:
                break
        else:
            raise AssertionError("it never got through")


async def test_a_replay_writes_the_keys_that_were_not_reached(pair, url):
    writer, other = pair
    op = SetItems("n", {"a": 1, "b": 2}, mark=Mark("q", 1))
    assert await dying(writer, 2, lambda: writer.backend.write_items([op]), after=False)
    with tables(url) as database:
        assert database.agentstore_state.delete_one({"_id": "1:n:b"}).deleted_count == 1
    await other.write_items([SetItems("n", {"a": "newer"})])
    await other.write_items([op])
    assert await values(other, "a", "b") == {"a": "newer", "b": 2}
    await other.write_items([DeleteKeys("n", ("b",))])
    assert await other.write_items([op]) == [0]
    assert await values(other, "a", "b") == {"a": "newer"}


@pytest.mark.parametrize("ttl", [None, timedelta(hours=1)])
async def test_a_husk_stays_until_its_namespace_has_its_marks(pair, url, ttl):
    writer, other = pair
    op = SetItems("n", {"k": 1}, ttl=ttl, mark=Mark("q", 1))
    commands = 3 if ttl else 2  # the floor rises first
    assert await dying(writer, commands, lambda: writer.backend.write_items([op]), after=False)
    assert await values(other, "k") == {"k": 1}
    await other.write_items([DeleteKeys("n", ("k",))])
    with tables(url) as database:
        state = database.agentstore_state

        def long_after():
            assert state.update_many({"husk": True}, {"$set": {"expires_at": 1}}).modified_count == 1

        long_after()
        assert await other.purge_state() == 0, "no key has expired"
        assert taken_away(database) == 0
        assert await other.write_items([op]) == [0]
        assert await values(other, "k") == {}
        long_after()
        assert await other.purge_state() == 0
        assert taken_away(database) == 1
        assert await other.write_items([op]) == [0]
        assert await values(other, "k") == {}
        assert state.count_documents({}) == 0


async def test_marks_that_a_namespace_has_forgotten_keep_no_husk(pair, url):
    _, other = pair
    await other.write_items([SetItems("n", {"k": 1}, mark=Mark("old", 1))])
    for number in range(20):
        await other.write_items([SetItems("n", {"other": 1}, mark=Mark(f"q{number}", 1))])
    await other.write_items([DeleteKeys("n", ("k",))])
    with tables(url) as database:
        database.agentstore_state.update_many({"husk": True}, {"$set": {"expires_at": 1}})
        await other.purge_state()
        assert taken_away(database) == 1


async def test_damaged_marks_concern_those_who_meet_them(pair, url):
    _, other = pair
    await other.write_items([SetItems(name, {"k": 1}) for name in "nm"])
    await other.append([append("one"), append("one", session_id="t")])
    with tables(url) as database:
        database.agentstore_state_floors.insert_one({"_id": "n", "floor": 0, "marks": "rubbish"})
        database.agentstore_sessions.update_one({"_id": "s"}, {"$set": {"marks": "[]"}})
    bad, good = await other.write_items([SetItems(name, {"k": 2}, mark=Mark("q", 1)) for name in "nm"])
    assert isinstance(bad, errors.CorruptRecordError)
    assert isinstance(good, int)
    bad, good = await other.append([append("two", mark=Mark("q", 1)), append("two", session_id="t")])
    assert isinstance(bad, errors.CorruptRecordError)
    assert isinstance(good, list)
    assert await texts(other) == ["one"]


async def test_a_rewrite_that_died_half_way_is_done_again(pair):
    writer, other = pair
    await begun(other)
    (old,), before = await other.read([Read("s")]), await head(other)
    new = [replace(message, content=message.content.upper()) for message in old]
    renamed = replace(before, title="new")
    assert await dying(writer, 2, lambda: writer.backend.rewrite(renamed, new), after=False)
    assert (await head(other), await texts(other)) == (renamed, FIRST)
    assert await writer.backend.rewrite(renamed, new)
    assert (await head(other), await texts(other)) == (renamed, [text.upper() for text in FIRST])


async def test_an_overtaken_rewrite_changes_nothing(pair):
    writer, other = pair
    await begun(other)
    (old,), before = await other.read([Read("s")]), await head(other)

    async def overtake(_):
        writer.arm()
        await other.update(Change("s", title="theirs"))

    writer.arm(before=overtake)
    assert not await writer.backend.rewrite(replace(before, title="mine"), [replace(old[0], content="x")])
    assert (await head(other)).title == "theirs"
    assert await texts(other) == FIRST


async def test_what_is_rewritten_meanwhile_stays_so(pair):
    writer, other = pair
    await begun(other)
    await other.append([append(metadata={"a": "old"})])
    before = await head(other)

    async def overtake(_):
        writer.arm()
        assert await other.rewrite(replace(before, title="new", metadata={"a": "new"}), [])

    writer.arm(before=overtake)
    await writer.backend.append([append("late", metadata={"b": 1})])
    after = await head(other)
    assert (after.title, after.metadata) == ("new", {"a": "new", "b": 1})
    assert await texts(other) == [*FIRST, "late"]
