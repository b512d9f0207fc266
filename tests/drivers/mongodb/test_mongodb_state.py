"""The state: writers that die, versions that never repeat, sums that are exact."""

import asyncio
from datetime import timedelta

import pytest
from mongodb_kit import dying, tables

from agentstore.protocol import DeleteKeys, GetItems, Increment, SetItems

pytestmark = pytest.mark.anyio


async def test_a_writer_of_state_that_dies_leaves_each_key_whole(pair):
    writer, other = pair
    for after in (False, True):
        for number in range(1, 9):
            await other.write_items([SetItems("n", {"a": 1, "b": 2})])
            ops = [Increment("n", "a"), DeleteKeys("n", ("b",)), SetItems("n", {"c": 3}, ttl=timedelta(hours=1))]
            died = await dying(writer, number, lambda ops=ops: writer.backend.write_items(ops), after=after)
            (found,) = await other.get_items([GetItems("n", ("a", "b", "c"))])
            values = {key: item.value for key, item in found.items()}
            assert values in ({"a": 1, "b": 2}, {"a": 2, "c": 3})
            await other.write_items([DeleteKeys("n", ("a", "b", "c"))])
            if not died:
                break
        else:
            raise AssertionError("it never got through")


async def test_versions_never_repeat_whoever_comes_between(pair, url):
    writer, other = pair
    seen = set()

    async def version(op):
        (outcome,) = await other.write_items([op])
        assert outcome not in seen
        seen.add(outcome)

    async def between(_):
        writer.arm()
        for _ in range(3):
            await version(SetItems("n", {"k": "theirs"}))
            await other.write_items([DeleteKeys("n", ("k",))])

    for _ in range(3):
        writer.arm(before=between)
        (mine,) = await writer.backend.write_items([SetItems("n", {"k": "mine"})])
        assert mine not in seen
        assert mine > max(seen)
        seen.add(mine)
        await other.write_items([DeleteKeys("n", ("k",))])
        with tables(url) as database:
            database.agentstore_state.delete_many({})  # as the TTL index does, later
        await version(SetItems("n", {"k": "again"}))


async def test_keys_that_the_ttl_index_takes_leave_their_floor(pair, url):
    _, other = pair
    versions = []
    for _ in range(3):
        for _ in range(120):
            (version,) = await other.write_items([SetItems("n", {"k": 1}, ttl=timedelta(hours=1))])
            versions.append(version)
        with tables(url) as database:
            assert database.agentstore_state.delete_many({}).deleted_count == 1
    assert versions == sorted(set(versions))


async def test_of_many_increments_by_two_drivers_none_is_lost(pair):
    writer, other = pair
    calls = [store.write_items([Increment("n", "k")] * 3) for store in (writer.backend, other) for _ in range(20)]
    sums = [value for outcome in await asyncio.gather(*calls) for value in outcome]
    assert sorted(sums) == list(range(1, 121))
