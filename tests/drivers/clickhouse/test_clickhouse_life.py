"""Connections: lost, shared, cancelled, closed; and servers that come back."""

import asyncio
import os

import pytest
from clickhouse_kit import make, opened, turn

from agentstore import Message, db, errors
from agentstore.drivers.clickhouse import place
from agentstore.drivers.clickhouse.link import ServerLink
from agentstore.drivers.clickhouse.target import target
from agentstore.options import PoolOptions
from agentstore.protocol import GetItems, Read, SetItems
from agentstore.testing.processes import together
from agentstore.url import StoreURL

pytestmark = pytest.mark.anyio


async def contents(backend, session_id="s"):
    (found,) = await backend.read([Read(session_id)])
    return [message.content for message in found]


async def test_a_server_killed_and_started_again_between_two_calls(private_server):
    server = private_server("clickhouse")
    async with opened(server.url) as backend:
        await backend.append([turn("s", "before")])
        await backend.write_items([SetItems("n", {"k": 1})])
        server.kill()
        server.start()
        assert await contents(backend) == ["before"]
        server.kill()
        server.start()
        await backend.append([turn("s", "after")])
        assert await contents(backend) == ["before", "after"]
        (items,) = await backend.get_items([GetItems("n", ("k",))])
        assert items["k"].value == 1


async def test_a_server_that_is_gone(private_server):
    server = private_server("clickhouse")
    async with opened(server.url) as backend:
        await backend.append([turn("s")])
        server.kill()
        for call in (backend.append([turn("s")]), backend.read([Read("s")]), backend.ping()):
            with pytest.raises(errors.UnavailableError):
                await call
        server.start()
        assert await contents(backend) == ["hello"]


async def test_a_connection_lost_in_mid_statement(private_server):
    server = private_server("clickhouse")
    async with opened(server.url) as backend:
        await backend.append([turn("s")])
        server.pause()
        writing = asyncio.ensure_future(backend.append([turn("s", "lost?", id="known")]))
        while not backend.pools()[0].in_use:
            await asyncio.sleep(0.01)
        server.kill()
        with pytest.raises(errors.UnavailableError):
            await writing
        server.start()
        await backend.append([turn("s", "again", id="known")])
        assert len(await contents(backend)) == 2


async def test_two_hundred_tasks_on_a_pool_of_five(fresh):
    async with db(fresh("clickhouse"), pool=PoolOptions(size=5)) as database:

        async def talk(number):
            await database.append(f"s{number % 20}", Message("user", str(number)))
            await database.messages(f"s{number % 20}", limit=5)
            await database.state.set(str(number), number)

        await asyncio.gather(*(talk(number) for number in range(200)))
        found = [m.content for number in range(20) for m in await database.messages(f"s{number}")]
        assert sorted(found, key=int) == [str(number) for number in range(200)]
        assert len(await database.state.scan()) == 200
        (stats, *_) = database.stats().pools
        assert stats.in_use == 0
        assert 1 <= stats.size <= 5


async def test_many_readers_share_few_connections(fresh):
    async with opened(fresh("clickhouse"), size=5) as backend:
        await backend.append([turn(f"s{number}") for number in range(200)])
        found = await asyncio.gather(*(contents(backend, f"s{number}") for number in range(200)))
        assert found == [["hello"]] * 200
        assert backend.pools()[0].size <= 5


async def test_a_pool_that_stays_in_use(fresh, monkeypatch):
    url = fresh("clickhouse")
    async with opened(url, size=1, timeout=0.1) as backend:
        release = asyncio.Event()
        select = ServerLink.select

        async def slow(self, statement):
            await asyncio.wait_for(asyncio.wrap_future(asyncio.run_coroutine_threadsafe(release.wait(), here)), 30)
            return await select(self, statement)

        here = asyncio.get_running_loop()
        monkeypatch.setattr(ServerLink, "select", slow)
        first = asyncio.ensure_future(backend.ping())
        while not backend.pools()[0].in_use:
            await asyncio.sleep(0.01)
        with pytest.raises(errors.PoolTimeoutError):
            await backend.ping()
        release.set()
        await first


async def test_a_cancelled_read_costs_its_connection(private_server):
    server = private_server("clickhouse")
    async with opened(server.url) as backend:
        await backend.append([turn("s")])
        for _ in range(3):
            server.pause()
            reading = asyncio.ensure_future(backend.read([Read("s")]))
            while not backend.pools()[0].in_use:
                await asyncio.sleep(0.01)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            while backend.pools()[0].in_use:
                await asyncio.sleep(0.01)
            assert backend.pools()[0].size == 0
            server.resume()
            assert await contents(backend) == ["hello"]


async def test_a_cancelled_write_is_waited_for(private_server):
    server = private_server("clickhouse")
    async with opened(server.url) as backend:
        await backend.append([turn("s")])
        server.pause()
        writing = asyncio.ensure_future(backend.append([turn("s", "cancelled")]))
        while not backend.pools()[0].in_use:
            await asyncio.sleep(0.01)
        writing.cancel()
        await asyncio.sleep(0)
        assert not writing.done()
        server.resume()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert await contents(backend) == ["hello", "cancelled"]


def test_several_runs_over_one_database(fresh):
    database = db(fresh("clickhouse"))
    for number in range(3):
        asyncio.run(database.append("s", Message("user", str(number))))
    database.sync.append("s", Message("user", "sync"))
    assert [m.content for m in asyncio.run(database.messages("s"))] == ["0", "1", "2", "sync"]
    database.close()


async def test_a_sync_call_on_a_loop_that_writes_meanwhile(fresh):
    async with db(fresh("clickhouse")) as database:
        for number in range(10):
            writing = asyncio.ensure_future(database.append("s", Message("user", f"async {number}")))
            await asyncio.sleep(0)
            database.sync.append("s", Message("user", f"sync {number}"))  # blocks this very loop
            await writing
        assert len(await database.messages("s")) == 20


async def test_closing(fresh):
    url = fresh("clickhouse")
    backend = make(url)
    await backend.aopen()
    await backend.aclose()
    await backend.aclose()
    for call in (backend.aopen, backend.ping):
        with pytest.raises(errors.ClosedError):
            await call()
    assert backend.pools() == []
    async with opened(url) as again:
        await again.ping()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
async def test_a_fork_is_another_writer(fresh):
    url = fresh("clickhouse")
    async with opened(url) as backend:
        await backend.append([turn("s")])
        writer = (await place.loop.run(lambda: _writer(url))).seqs(0, 1)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                other = asyncio.run(_in_child(url))
                os.write(writing, str(other).encode())
            finally:
                os._exit(0)
        os.close(writing)
        told = await asyncio.to_thread(os.read, reading, 100)
        os.close(reading)
        await asyncio.to_thread(os.waitpid, child, 0)
        assert told
        assert int(told) != writer[0]
        assert await contents(backend) == ["hello", "from the child"]


async def _writer(url):
    return place.place(target(StoreURL.parse(url)).store).writer


async def _in_child(url):
    async with opened(url) as backend:
        await backend.append([turn("s", "from the child")])
        return (await place.loop.run(lambda: _writer(url))).seqs(0, 1)[0]


async def test_four_processes_append_two_hundred_each(fresh):
    url = fresh("clickhouse")
    await together(url, "append", 100)
    async with db(url) as database:
        messages = await database.messages("s")
        seqs = [message.seq for message in messages]
        assert seqs == sorted(set(seqs))
        said = [message.content for message in messages]
        assert len(set(said)) == len(said) == 800
        for writer in {text.partition(":")[0] for text in said}:
            own = [text for text in said if text.startswith(f"{writer}:")]
            assert own == [f"{writer}:{number}:{part}" for number in range(25) for part in range(2)]
