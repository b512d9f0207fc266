"""Servers that come and go, pools, loops, threads, processes."""

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from mongodb_kit import append, backend, say, tables
from pymongo import monitoring

from agentstore import Message, PoolOptions, db
from agentstore.drivers.mongodb import client as client_module
from agentstore.errors import ClosedError, UnavailableError
from agentstore.protocol import Increment, Read, SetItems
from agentstore.testing.processes import together

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_a_server_killed_and_started_between_two_calls(private_server, how):
    server = private_server("mongodb")
    async with db(server.url) as database:
        for number in range(3):
            await database.append("s", say(str(number)))
            await database.state.set("k", number)
            getattr(server, how)()
            server.start()
            assert [message.content for message in await database.messages("s")] == [str(n) for n in range(number + 1)]
            getattr(server, how)()
            server.start()
            assert await database.state.increment("k") == number + 1
            getattr(server, how)()
            server.start()
        await database.append("s", say("last"))
        assert len(await database.messages("s")) == 4


async def test_a_server_that_is_down_and_comes_back(private_server):
    server = private_server("mongodb")
    async with db(server.url, pool=PoolOptions(connect_timeout=1.0, statement_timeout=2.0)) as database:
        await database.append("s", say("before"))
        server.kill()
        for _ in range(2):
            with pytest.raises(UnavailableError):
                await database.append("s", say("lost"))
        server.start()
        await database.append("s", say("after"))
        assert [message.content for message in await database.messages("s")] == ["before", "after"]


async def test_two_hundred_tasks_on_a_pool_of_five(url):
    store = backend(url, PoolOptions(size=5))
    await store.aopen()

    async def one(number):
        ((stored,),) = await store.append([append(str(number), session_id=f"s{number % 10}")])
        ((*_, last),) = await store.read([Read(f"s{number % 10}", limit=1)])
        assert last.seq >= stored.seq
        (stats,) = store.pools()
        assert stats.in_use <= 5
        assert stats.size <= 5
        return (stats.waiting, stats.size)

    seen = await asyncio.gather(*(one(number) for number in range(200)))
    assert max(waiting for waiting, _ in seen) > 100
    assert max(size for _, size in seen) > 1
    found = [len(outcome) for outcome in await store.read([Read(f"s{number}") for number in range(10)])]
    assert found == [20] * 10
    (stats,) = store.pools()
    assert (stats.in_use, stats.waiting) == (0, 0)
    assert stats.waits >= 195
    await store.aclose()
    assert store.pools() == []


def test_twelve_threads_of_twenty_messages(url):
    database = db(url)

    def talk(thread):
        for number in range(20):
            database.sync.append("s", Message("user", f"{thread}:{number}"))

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(talk, range(12)))
    found = [message.content for message in database.sync.messages("s")]
    assert sorted(found) == sorted(f"{thread}:{number}" for thread in range(12) for number in range(20))
    for thread in range(12):
        assert [text for text in found if text.startswith(f"{thread}:")] == [f"{thread}:{n}" for n in range(20)]
    database.close()


def test_several_runs_over_one_database_leave_no_connection(url):
    database = db(url)

    async def work(number):
        await database.append("s", say(str(number)))
        return len(await database.messages("s"))

    threads = threading.active_count()
    assert [asyncio.run(work(number)) for number in range(4)] == [1, 2, 3, 4]
    assert database.stats().pools == ()
    gc.collect()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("pymongo") and not t.daemon]
    assert threading.active_count() <= threads + 12, "the driver's executor, nothing of the clients"
    database.close()


def test_a_loop_that_was_closed_without_a_word(url):
    """Its client is closed when the next pool is made: nothing is left open, or the test fails by a ResourceWarning."""
    store = backend(url)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(store.aopen())
    loop.close()
    asyncio.run(store.ping())
    gc.collect()
    asyncio.run(store.aclose())


async def test_a_closed_store(url):
    store = backend(url)
    await store.aopen()
    await store.aclose()
    await store.aclose()
    for call in (store.aopen(), store.ping(), store.append([append("x")]), store.read([Read("s")])):
        with pytest.raises(ClosedError):
            await call


async def test_a_cancelled_write_is_waited_for_and_a_cancelled_read_harms_nobody(url):
    store = backend(url, PoolOptions(size=1))
    await store.aopen()
    for number in range(20):
        write = asyncio.ensure_future(store.append([append(str(number))]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        write.cancel()
        await asyncio.wait([write])
        assert write.cancelled()
        ((*_, last),) = await store.read([Read("s", limit=1)])
        assert last.content == str(number), "it was handed over"
        read = asyncio.ensure_future(store.read([Read("s")]))
        await asyncio.sleep(0.001)
        read.cancel()
        await asyncio.wait([read])
    (stats,) = store.pools()
    assert (stats.in_use, stats.waiting) == (0, 0)
    await store.aclose()


async def test_four_processes_of_two_hundred_appends(url):
    await together(url, "append", 200)  # by four tasks of each process, of two messages
    async with db(url) as database:
        messages = await database.messages("s")
        said = [message.content for message in messages]
        assert len(said) == len(set(said)) == 4 * 2 * 200
        assert [message.seq for message in messages] == sorted({message.seq for message in messages})
        for writer in {text.partition(":")[0] for text in said}:
            own = [text for text in said if text.startswith(f"{writer}:")]
            assert own == [f"{writer}:{number}:{part}" for number in range(50) for part in range(2)]


async def test_a_clock_that_all_share(url):
    one, two = backend(url), backend(url)
    for store in (one, two):
        await store.aopen()
    moments = [await one._read(one._clock.now), await two._read(two._clock.now), await one._read(one._clock.now)]
    assert max(moments) - min(moments) < type(max(moments) - min(moments))(seconds=1)
    assert moments[0] < moments[2]
    for store in (one, two):
        await store.aclose()


async def test_a_group_needs_no_more_round_trips_than_one(url):
    """Commands are counted, not timed."""
    commands = []

    class Counter(monitoring.CommandListener):
        def started(self, event):
            commands.append(event.command_name)

        def succeeded(self, event): ...
        def failed(self, event): ...

    plain = client_module.AsyncIOMotorClient
    client_module.AsyncIOMotorClient = lambda *args, event_listeners, **options: plain(
        *args, event_listeners=[*event_listeners, Counter()], **options
    )
    try:
        store = backend(url)
        await store.aopen()
        await store.append([append("warm")])
        for count in (1, 100):
            for _ in range(2):
                commands.clear()
                await store.append([append("a", "b", session_id=f"s{n}") for n in range(count)])
            assert commands == ["find", "find", "insert", "update"]
            commands.clear()
            await store.write_items([SetItems("n", {f"k{n}": n}) for n in range(count)])
            await store.write_items([Increment("n", f"k{n}") for n in range(count)])
            assert commands == ["find", "find", "update"] * 2
            commands.clear()
            await store.read([Read(f"s{n}", limit=2) for n in range(count)])
            assert commands == ["find"] * (1 + count)
        await store.aclose()
    finally:
        client_module.AsyncIOMotorClient = plain
    with tables(url) as database:
        assert database.agentstore_messages.count_documents({"session": "s0"}) == 8
