"""Connections that die, rest, hang or are many."""

import asyncio
import gc
import threading
from contextlib import closing

import pytest
from mysql_kit import connect, execute, make, turn, until, within, words

import servers
from agentstore import Message, PoolOptions, db
from agentstore.errors import ClosedError, PoolTimeoutError, UnavailableError
from agentstore.protocol import Head, Read, SetItems
from servers.mysql import MySQL

pytestmark = pytest.mark.anyio

OURS = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"


@pytest.fixture(scope="module")
def server():
    with servers.private_server("mysql") as server:
        yield server


@pytest.fixture
def place(server):
    """An empty database on the private server."""
    name = f"db{len(execute(server.url, 'SHOW DATABASES'))}"
    MySQL.create(server.url, name)
    return within(server.url, path="/" + name)


@pytest.mark.parametrize("mode", ["PREFERRED", "DISABLED"])
async def test_a_server_killed_and_restarted_between_two_calls(server, place, mode):
    async with db(within(place, options={"ssl-mode": mode})) as database:
        await asyncio.gather(*(database.append(f"s{n}", Message("user", "before")) for n in range(3)))
        await asyncio.gather(*(database.messages("s1") for _ in range(3)), database.state.set("k", 1))
        server.kill()  # blocks this loop: nobody notices that the connections have ended
        server.start()
        (stored,) = await database.append("s1", Message("user", "after"))
        assert stored.seq == 2
        server.kill()
        server.start()
        assert [m.content for m in await database.messages("s1")] == ["before", "after"]
        assert await database.state.set("k", 2) == 2


async def answers(database):
    try:
        await database.ping()
    except UnavailableError:
        return False
    return True


async def test_a_server_that_is_down(server, place):
    async with db(place) as database:
        await database.append("s", Message("user", "before"))
        server.kill()
        with pytest.raises(UnavailableError):
            await database.append("s", Message("user", "lost"))
        with pytest.raises(UnavailableError):
            await database.state.set("k", 1)
        with pytest.raises(UnavailableError):
            await database.ping()
        server.start()
        async with asyncio.timeout(10):  # until then calls may fail at once, so soon after the last try
            while not await answers(database):
                await asyncio.sleep(0.01)
        (stored,) = await database.append("s", Message("user", "after"))
        assert [m.content for m in await database.messages("s")] == ["before", "after"]
        assert stored.seq == 2


async def test_a_server_that_dies_amid_a_statement(server, place):
    backend = make(place)
    await backend.aopen()
    await backend.append([turn("s")])
    with closing(connect(place)) as other, other.cursor() as cursor:
        other.begin()
        cursor.execute("SELECT * FROM agentstore_sessions FOR UPDATE")
        task = asyncio.create_task(backend.append([turn("s", "amid")]))
        waiting = "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
        await until(lambda: execute(place, waiting) == ((1,),))
        server.kill()
    with pytest.raises(UnavailableError, match="may be stored or not"):
        await task
    server.start()
    assert words((await backend.append([turn("s", "after")]))[0]) == ["after"]
    await backend.aclose()


async def test_a_server_that_hangs_costs_no_more_than_the_timeout(server, place):
    backend = make(place, statement_timeout=0.3, connect_timeout=1.0)
    await backend.aopen()
    await backend.append([turn("s")])
    await backend.write_items([SetItems("n", {"k": 1})])
    server.pause()
    try:
        for call in (
            lambda: backend.append([turn("s")]),
            lambda: backend.read([Read("s")]),
            lambda: backend.write_items([SetItems("n", {"k": 2})]),
        ):
            with pytest.raises(UnavailableError, match=r"in time|no connection"):
                await call()
    finally:
        server.resume()
    assert words((await backend.read([Read("s")]))[0])[0] == "hello"
    await backend.aclose()


async def test_idle_connections_that_the_server_closes(server, place):
    execute(server.url, "SET GLOBAL wait_timeout = 1")
    backend = make(place)
    try:
        await backend.aopen()
        await asyncio.gather(*(backend.append([turn(f"s{n}")]) for n in range(3)))
        await backend.write_items([SetItems("n", {"k": 1})])
        assert len(execute(place, OURS)) >= 4
        await until(lambda: not execute(place, OURS))
        assert words((await backend.append([turn("s0", "after")]))[0]) == ["after"]
        assert await backend.write_items([SetItems("n", {"k": 2})]) == [2]
    finally:
        execute(server.url, "SET GLOBAL wait_timeout = DEFAULT")
        await backend.aclose()


async def test_connections_that_an_operator_kills(url, backend):
    await backend.append([turn("s")])
    for (number,) in execute(url, OURS):
        execute(url, f"KILL {number}")
    assert words((await backend.append([turn("s", "after")]))[0]) == ["after"]


@pytest.mark.parametrize("sql", ["FOR UPDATE", "LOCK IN SHARE MODE"])
async def test_a_lock_held_for_too_long_is_no_lost_write(url, sql):
    backend = make(url, statement_timeout=1)
    await backend.aopen()
    await backend.append([turn("s")])
    with closing(connect(url)) as other, other.cursor() as cursor:
        other.begin()
        cursor.execute(f"SELECT * FROM agentstore_sessions WHERE session_id = 's' {sql}")
        with pytest.raises(UnavailableError, match="locked") as caught:
            await backend.append([turn("s", "late")])
        assert caught.value.__cause__.args[0] == 1205
        assert words((await backend.read([Read("s")]))[0]) == ["hello"]  # readers do not wait for writers
        assert words((await backend.append([turn("t")]))[0]) == ["hello"]  # nor writers of other sessions
        other.rollback()
    assert (await backend.append([turn("s", "after")]))[0][0].seq == 2
    await backend.aclose()


async def test_a_statement_that_takes_too_long(url):
    backend = make(url, statement_timeout=0.3)
    await backend.aopen()

    async def dawdle(wire):
        return await wire.send("SELECT SLEEP(20)")

    with pytest.raises(UnavailableError):
        await backend._at_once(dawdle)
    assert await backend.heads([Head("s")]) == [None]
    await backend.aclose()


async def test_no_connection_comes_free(url):
    backend = make(url, size=1, timeout=0.05)
    await backend.aopen()
    async with backend._here.connection():
        with pytest.raises(PoolTimeoutError):
            await backend.read([Read("s")])
    assert await backend.read([Read("s")]) == [[]]
    await backend.aclose()


async def test_a_cancelled_read_leaves_no_broken_connection(url):
    backend = make(url, size=1)
    await backend.aopen()
    await backend.append([turn(f"s{n}", str(n)) for n in range(20)])
    for pause in range(30):
        task = asyncio.create_task(backend.read([Read("s1")]))
        for _ in range(pause % 6):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert words((await backend.read([Read("s2")]))[0]) == ["2"]
    await backend.aclose()


async def test_a_cancelled_write_is_waited_for(backend):
    for number in range(20):
        task = asyncio.create_task(backend.append([turn("s", str(number))]))
        for _ in range(number % 5 + 1):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        (seen,) = await backend.read([Read("s")])
        assert words(seen) == [str(n) for n in range(number + 1)]


def test_one_database_over_several_loops(url):
    database = db(url, pool=PoolOptions(size=2))

    async def talk(number):
        await asyncio.gather(*(database.append("s", Message("user", f"{number}:{n}")) for n in range(5)))
        await database.state.increment("n")
        return len(await database.messages("s"))

    assert [asyncio.run(talk(number)) for number in range(4)] == [5, 10, 15, 20]
    thread = threading.Thread(target=lambda: asyncio.run(talk(4)))
    thread.start()
    thread.join()
    assert database.sync.state.get("n") == 5
    database.close()
    assert execute(url, OURS) == ()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # by those who close a loop so, Python says
async def test_a_loop_that_was_closed_leaves_no_connection(url):
    database = db(url)

    def leave():
        loop = asyncio.new_event_loop()
        loop.run_until_complete(database.append("s", Message("user", "here")))
        loop.close()

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
    assert [m.content for m in await database.messages("s")] == ["here"]
    await database.aclose()
    await until(lambda: not execute(url, OURS))
    gc.collect()


async def test_a_closed_backend(url):
    backend = make(url)
    await backend.aopen()
    await backend.append([turn("s")])
    await backend.write_items([SetItems("n", {"k": 1})])
    await backend.aclose()
    await backend.aclose()
    await until(lambda: not execute(url, OURS))
    for call in (
        backend.aopen,
        backend.ping,
        backend.purge_state,
        backend.examine,
        lambda: backend.append([turn("s")]),
        lambda: backend.read([Read("s")]),
        lambda: backend.write_items([SetItems("n", {"k": 1})]),
    ):
        with pytest.raises(ClosedError):
            await call()
    assert list(backend.pools()) == []
