"""Connections that die, rest, hang or are many."""

import asyncio
import threading
import time

import pytest
from postgresql_kit import execute, make, turn, until, words

import servers
from agentstore import Message, PoolOptions, db
from agentstore.drivers.postgresql import opening
from agentstore.drivers.sql import engine
from agentstore.errors import PoolTimeoutError, UnavailableError
from agentstore.protocol import Head, Read, SetItems

pytestmark = pytest.mark.anyio

LOCK_ALL = "LOCK agentstore_sessions, agentstore_messages, agentstore_state IN ACCESS EXCLUSIVE MODE"
OURS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'agentstore' AND datname = current_database()"


@pytest.fixture(scope="module")
def server():
    with servers.private_server("postgresql") as server:
        yield server


class Holder:
    """Another session that keeps all tables locked."""

    def __init__(self, backend):
        self._backend = backend

    async def __aenter__(self):
        self._connection = await self._backend._connector.connect()
        await self._connection.execute(f"BEGIN; {LOCK_ALL}")

    async def __aexit__(self, *exc):
        await self._connection.close()


async def test_a_server_killed_and_restarted_between_two_calls(server):
    async with db(server.url) as database:
        await asyncio.gather(*(database.append(f"s{n}", Message("user", "before")) for n in range(3)))
        await asyncio.gather(*(database.messages("s1") for _ in range(3)), database.state.set("k", 1))
        server.kill()  # blocks this loop: nobody notices that the connections have ended
        server.start()
        stored = await database.append("s1", Message("user", "after"))
        assert stored[0].seq == 2
        server.kill()
        server.start()
        assert [m.content for m in await database.messages("s1")] == ["before", "after"]
        assert await database.state.get("k") == 1


async def test_a_server_that_is_down(server):
    async with db(server.url) as database:
        await database.append("s", Message("user", "before"))
        server.kill()
        with pytest.raises(UnavailableError):
            await database.append("s", Message("user", "lost"))
        with pytest.raises(UnavailableError):
            await database.ping()
        server.start()
        await answered(database)
        (stored,) = await database.append("s", Message("user", "after"))
        assert [m.content for m in await database.messages("s")] == ["before", "after"]
        assert stored.seq == 2


async def answered(database):
    async with asyncio.timeout(20):
        while True:
            try:
                return await database.ping()
            except UnavailableError:
                await asyncio.sleep(0.05)


async def test_a_server_that_dies_amid_a_statement(server):
    backend = make(server.url)
    await backend.aopen()
    await backend.append([turn("s")])
    async with Holder(backend):
        waiting = asyncio.create_task(backend.append([turn("s")]))
        busy = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        await until(lambda: execute(server.url, busy) == 1)
        await asyncio.to_thread(server.kill)
        with pytest.raises(UnavailableError):
            await waiting
        await asyncio.to_thread(server.start)
        await backend.ping()
    await backend.aclose()


async def test_a_server_that_hangs(server):
    backend = make(server.url, connect_timeout=1, statement_timeout=0.2)
    await backend.aopen()
    await backend.append([turn("s")])
    server.pause()
    try:
        with pytest.raises(UnavailableError):
            await backend.append([turn("s")])  # given up on this side
        with pytest.raises(UnavailableError, match="within 1 s"):
            await backend.ping()  # over a new connection
    finally:
        server.resume()
    await backend.ping()
    await backend.aclose()


async def test_a_close_while_the_server_hangs(server):
    backend = make(server.url)
    await backend.aopen()
    server.pause()
    try:
        await backend.aclose()
    finally:
        server.resume()


async def test_an_idle_connection_that_the_server_ends(backend, url):
    await backend.append([turn("s", "before")])
    execute(url, OURS.replace("count(*)", "count(pg_terminate_backend(pid))"))
    assert isinstance((await backend.append([turn("s", "after")]))[0], list)
    assert words((await backend.read([Read("s")]))[0]) == ["before", "after"]


async def test_a_connection_that_rested_is_asked_first(backend, monkeypatch):
    asked = []
    ask = backend._connector.ask

    async def asking(connection):
        asked.append(await ask(connection))
        return asked[-1]

    monkeypatch.setattr(backend._connector, "ask", asking)
    await backend.ping()
    assert asked == []
    monkeypatch.setattr(engine, "_TRUSTED", 0.0)
    await backend.ping()
    assert asked == [True]


async def test_a_connection_is_replaced_in_its_time(url):
    backend = make(url, max_lifetime=0.001)
    await backend.aopen()
    seen = set()
    for _ in range(3):
        async with backend._pools.connection() as proxy:
            seen.add(proxy.driver_connection.get_server_pid())
        await asyncio.sleep(0.002)
        assert [pool.size for pool in backend.pools()] == [1]
    assert len(seen) == 3
    await backend.aclose()


async def test_a_cancelled_read_leaves_no_broken_connection(backend, url):
    await backend.append([turn("s")])
    for _ in range(3):
        async with Holder(backend):
            reading = asyncio.create_task(backend.read([Read("s")]))
            await until(lambda: execute(url, "SELECT count(*) FROM pg_locks WHERE NOT granted") == 1)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
        assert words((await backend.read([Read("s")]))[0]) == ["hello"]
    assert [pool.in_use for pool in backend.pools()] == [0]


async def test_a_cancelled_write_is_waited_for(backend, url):
    await backend.append([turn("s", "before")])
    async with Holder(backend):
        writing = asyncio.create_task(backend.append([turn("s", "during")]))
        await until(lambda: execute(url, "SELECT count(*) FROM pg_locks WHERE NOT granted") == 1)
        writing.cancel()
        await asyncio.sleep(0)
        assert not writing.done()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert words((await backend.read([Read("s")]))[0]) == ["before", "during"]


async def test_a_statement_that_takes_too_long(url):
    backend = make(url, statement_timeout=0.2)
    await backend.aopen()
    async with Holder(make(url)):
        for call in (
            backend.append([turn("s")]),
            backend.heads([Head("s")]),
            backend.write_items([SetItems("n", {"k": 1})]),
        ):
            with pytest.raises(UnavailableError, match="took too long"):
                await call
    assert (await backend.heads([Head("s")])) == [None]
    await backend.aclose()


async def test_200_tasks_on_a_pool_of_5(url):
    backend = make(url, size=5)
    await backend.aopen()
    await asyncio.gather(*(backend.append([turn(f"s{n % 50}", str(n))]) for n in range(200)))
    (pool,) = backend.pools()
    assert pool.size == 5
    assert pool.waits > 100
    found = await backend.read([Read(f"s{n}") for n in range(50)])
    assert sorted(int(text) for outcome in found for text in words(outcome)) == list(range(200))
    assert execute(url, OURS) == 5
    await backend.aclose()
    await until(lambda: execute(url, OURS) == 0)


async def test_a_pool_that_stays_taken(url):
    backend = make(url, size=1, timeout=0.05)
    await backend.aopen()
    async with backend._pools.connection():
        with pytest.raises(PoolTimeoutError):
            await backend.ping()
    await backend.ping()
    await backend.aclose()


def test_several_loops_and_threads(url):
    with db(url, pool=PoolOptions(size=2)) as database:

        async def talk(number):
            for step in range(20):
                await database.append("s", Message("user", f"{number}:{step}"))

        threads = [threading.Thread(target=asyncio.run, args=(talk(number),)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        said = [message.content for message in database.sync.messages("s")]
        assert sorted(said) == sorted(f"{n}:{step}" for n in range(12) for step in range(20))
        for number in range(12):
            assert [t for t in said if t.startswith(f"{number}:")] == [f"{number}:{step}" for step in range(20)]


def test_one_database_over_several_runs(url):
    database = db(url)
    for number in range(3):
        asyncio.run(database.append("s", Message("user", str(number))))
    assert [m.content for m in asyncio.run(database.messages("s"))] == ["0", "1", "2"]
    database.close()
    deadline = time.monotonic() + 20
    while execute(url, OURS) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert execute(url, OURS) == 0, "each loop's connections ended with it"


async def test_a_loop_that_is_blocked_amid_the_first_opening(url, monkeypatch):
    """Whoever makes the tables holds a lock, for which the blocking call waits."""
    ready, locked = opening._ready, threading.Event()

    async def slowly(connection, connector):
        await ready(connection, connector)
        locked.set()
        await asyncio.sleep(0.2)

    monkeypatch.setattr(opening, "_ready", slowly)
    database = db(url, pool=PoolOptions(statement_timeout=3))
    first = asyncio.create_task(database.append("s", Message("user", "async")))
    await until(locked.is_set)
    database.sync.append("s", Message("user", "blocking"))
    await first
    assert sorted(m.content for m in await database.messages("s")) == ["async", "blocking"]
    await database.aclose()
