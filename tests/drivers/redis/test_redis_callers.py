"""Many callers at once, threads and loops, and what a process believes of its sessions."""

import asyncio
import threading

import pytest
from redis_kit import eventually, make, say, texts, turn, with_options, with_parts

from agentstore import db, errors
from agentstore.options import PoolOptions
from agentstore.protocol import Head, Listing, Read
from agentstore.url import StoreURL
from servers import shared

pytestmark = pytest.mark.anyio


async def test_a_cancelled_read_leaves_no_answer_for_the_next_caller(backend):
    await backend.append([turn("s", *map(str, range(500))), turn("t", "mine")])
    for steps in range(12):
        task = asyncio.create_task(backend.read([Read("s")]))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        assert await texts(backend, "t") == ["mine"]
        await asyncio.wait([task])


async def test_five_connections_for_two_hundred_tasks(url):
    async with db(url, pool=PoolOptions(size=5)) as database:

        async def talk(number):
            await database.append(f"s{number % 20}", [say(str(number))])
            await database.update_session(f"s{number % 20}", title=str(number))
            return await database.session(f"s{number % 20}")

        sessions = await asyncio.gather(*(talk(number) for number in range(200)))
        assert all(session is not None for session in sessions)
        counts = [(await database.session(f"s{n}")).message_count for n in range(20)]
        assert counts == [10] * 20
        (pool,) = database.stats().pools
        assert 1 <= pool.size <= 5
        assert (pool.in_use, pool.waiting) == (0, 0)
        assert pool.waits > 0


async def test_a_place_in_the_pool_is_waited_for_in_vain(private_server):
    server = private_server("redis")
    backend = make(server.url, size=1, timeout=0.1, statement_timeout=20)
    await backend.aopen()
    server.pause()
    first = asyncio.create_task(backend.ping())
    await asyncio.sleep(0)
    with pytest.raises(errors.PoolTimeoutError):
        await backend.ping()
    server.resume()
    await first
    await backend.aclose()


def test_twelve_threads_of_twenty_messages(url):
    with db(url) as database:
        failed = []

        def talk(number):
            try:
                for turn_ in range(20):
                    database.sync.append("s", say(f"{number}:{turn_}"))
            except errors.AgentstoreError as error:
                failed.append(error)

        threads = [threading.Thread(target=talk, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        said = [message.content for message in database.sync.messages("s")]
        assert sorted(said) == sorted(f"{n}:{t}" for n in range(12) for t in range(20))


def test_loops_one_after_another(url):
    database = db(url)

    async def turn_(number):
        await database.append("s", say(str(number)))
        return len(await database.messages("s"))

    assert [asyncio.run(turn_(number)) for number in range(5)] == [1, 2, 3, 4, 5]
    assert asyncio.run(_pools(database)) == 1, "those of loops that ended are gone"
    database.close()
    with pytest.raises(errors.ClosedError):
        asyncio.run(turn_(0))


async def _pools(database):
    await database.ping()
    return len(database.stats().pools)


async def test_what_a_guess_gets_wrong_is_put_right(url, backend):
    """Two processes that both believe they know the session, and its ids."""
    other = make(url)
    await other.aopen()
    one = turn("s", "one")
    for number in range(10):
        for face in (backend, other):
            (stored,) = await face.append([turn("s", f"{number}")])
            assert len(stored) == 1
    await backend.append([one])
    (known,) = await other.append([one])
    (again,) = await backend.append([one])
    assert known == again
    (messages,) = await backend.read([Read("s")])
    assert [message.seq for message in messages] == list(range(1, 22))
    await other.delete("s")
    await backend.append([turn("s", "anew")])
    assert await texts(other) == ["anew"]
    (head,) = await other.heads([Head("s")])
    assert (head.message_count, head.last_seq) == (1, 22)
    assert [session.id for session in (await other.list_sessions(Listing())).items] == ["s"]
    await other.aclose()


async def test_a_guess_is_one_round_trip(through, proxy):
    await through.append([turn("s")])
    before = proxy.requests
    for _ in range(10):
        await through.append([turn("s")])
    assert proxy.requests == before + 10


async def test_a_guess_overlooks_no_id_that_is_there(backend):
    await backend.append([turn("s", "before")])
    for _ in range(3):  # guessed, then not, then guessed again
        op = turn("s", "one", "two")
        (stored,) = await backend.append([op])
        assert await backend.append([op]) == [stored]
        mixed = type(op)("s", (say("three"), op.messages[0]))
        ((fresh, known),) = await backend.append([mixed])
        assert (known, fresh.seq) == (stored[0], stored[1].seq + 1)
        await _until_guessed(backend, "s")


async def _until_guessed(backend, session_id):
    """What others seemed to write to is asked for, for a while."""

    async def kept():
        await backend.append([turn(session_id)])
        return session_id in backend._wire.recent._sessions

    await eventually(kept)


async def test_metadata_that_the_caller_changes_afterwards_is_not_stored(backend):
    metadata = {"a": ["as given"]}
    await backend.append([turn("s", metadata=metadata)])
    metadata["a"][0] = "changed"
    await backend.append([turn("s")])
    (head,) = await backend.heads([Head("s")])
    assert head.metadata == {"a": ["as given"]}


async def test_through_a_unix_socket(url, backend):
    server = shared("redis")
    parts = StoreURL.parse(url)
    path = f"{server.folder}/redis/socket"
    socket_url = with_parts(url, scheme="redis+unix", hosts=(), path=path, options={**parts.options, "db": "0"})
    async with db(socket_url) as database:
        await database.append("s", say("through the socket"))
    assert await texts(backend) == ["through the socket"]
    async with db(with_options(socket_url, db="1")) as database:
        assert await database.messages("s") == [], "another database"
