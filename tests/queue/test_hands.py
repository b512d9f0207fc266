"""Groups of different sessions may be under way at once, groups of one session never."""

import asyncio

import pytest
from queue_kit import SPEC, make, said, say, until

from agentstore.drivers import registry

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[1, 2, 3])
def commits(request, monkeypatch):
    monkeypatch.setitem(registry._DRIVERS, "puppet", registry.DriverSpec(SPEC, commits=request.param))
    return request.param


async def test_so_many_groups_are_under_way(tmp_path, commits):
    database, strings = make(tmp_path, durability="journal")
    async with database:
        with strings.holding():
            for number, name in enumerate("abc"):
                await database.append(name, say("0"))
                await until(lambda number=number: strings.waiting == min(number + 1, commits))
            for number in range(1, 10):
                for name in "abc":
                    await database.append(name, say(str(number)))
            await asyncio.sleep(0.02)
            assert strings.waiting == commits
        await database.flush()
        for name in "abc":
            assert await said(database, name) == [str(number) for number in range(10)]
            assert [m.seq for m in await database.messages(name)] == list(range(1, 11))


async def test_never_two_of_one_session(tmp_path, commits):
    database, strings = make(tmp_path, durability="journal")
    async with database:
        with strings.holding():
            for number in range(20):
                await database.append("s", say(str(number)))
                await asyncio.sleep(0.001)
            assert strings.waiting == 1
        await database.flush()
        assert await said(database) == [str(number) for number in range(20)]
