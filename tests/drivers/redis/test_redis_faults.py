"""Servers that die, hang, forget their scripts, or whose answers are lost."""

import asyncio
from contextlib import closing

import pytest
from redis_kit import eventually, make, say, texts, turn, with_parts

from agentstore import db, errors
from agentstore.protocol import Increment, SetItems
from servers.redis import client

pytestmark = pytest.mark.anyio


# --- the server ---


async def test_a_server_killed_and_started_again_between_two_calls(private_server):
    server = private_server("redis", "--appendfsync", "always")
    async with db(server.url) as database:
        await asyncio.gather(*(database.append(f"s{n}", say("before")) for n in range(5)), database.state.set("k", 1))
        for _ in range(2):
            server.kill()
            server.start()
            await database.append("s0", say("after"))  # at once: nobody had time to notice
            assert await database.state.increment("k") > 1
        assert [m.content for m in await database.messages("s0")] == ["before", "after", "after"]
        assert [m.content for m in await database.messages("s4")] == ["before"]


async def test_a_server_that_is_away_is_told_and_found_again(private_server):
    server = private_server("redis")
    async with db(server.url) as database:
        await database.append("s", say("one"))
        server.kill()
        for call in (database.append("s", say()), database.messages("s"), database.state.get("k"), database.ping()):
            with pytest.raises(errors.UnavailableError) as caught:
                await call
            assert isinstance(caught.value.__cause__, Exception)
        server.start()
        await eventually(lambda: answers(database))
        await database.append("s", say("two"))
        assert [m.content for m in await database.messages("s")] == ["one", "two"]


async def answers(database):
    try:
        await database.ping()
    except errors.UnavailableError:
        return False
    return True


async def test_a_server_that_hangs_is_not_waited_for_for_ever(private_server):
    server = private_server("redis")
    backend = make(server.url, statement_timeout=0.3)
    await backend.aopen()
    await backend.append([turn("s", "one")])
    server.pause()
    op = turn("s", "two")
    (outcome,) = await backend.append([op])
    assert isinstance(outcome, errors.UnavailableError)
    assert "in time" in str(outcome)
    assert backend.pools()[0].size == 0, "the connection is not used again"
    server.resume()
    (stored,) = await backend.append([op])
    assert stored[0].id == op.messages[0].id
    assert await texts(backend) == ["one", "two"]
    await backend.aclose()


async def test_scripts_that_were_forgotten_are_sent_again(backend, raw):
    await backend.append([turn("s", "one")])
    raw.script_flush()
    outcomes = await backend.append([turn("s", "two"), *(turn(f"t{n}") for n in range(20))])
    assert all(isinstance(outcome, list) for outcome in outcomes)
    raw.script_flush()
    assert await backend.write_items([SetItems("n", {"k": 1})]) == [1]
    assert await texts(backend) == ["one", "two"]


async def test_a_connection_that_was_ended_while_it_rested(private_server):
    server = private_server("redis")  # one of its own: the shared one serves other tests at the same time
    backend = make(server.url)
    await backend.aopen()
    with closing(client(server.url)) as raw:
        await backend.append([turn("s", "one")])
        raw.client_kill_filter(_type="normal", skipme=True)
        assert await texts(backend) == ["one"]
        raw.client_kill_filter(_type="normal", skipme=True)
        (stored,) = await backend.append([turn("s", "two")])
    assert stored[0].seq == 2
    await backend.aclose()


async def test_an_old_connection_is_replaced(url):
    backend = make(url, max_lifetime=0.05)
    await backend.aopen()
    links = (await backend._pools.pool())._native._links
    seen = set()

    async def several():
        await backend.ping()
        seen.update(link.born for link in links._links)
        return len(seen) > 2

    await eventually(several)
    assert links.size() == 1
    await backend.aclose()


# --- answers that do not come ---


async def test_a_lost_answer_doubles_no_message(through, proxy):
    await through.append([turn("s", "one")])
    op = turn("s", "two")
    proxy.cut_answer = 1
    (outcome,) = await through.append([op])
    assert isinstance(outcome, errors.UnavailableError)
    assert isinstance(outcome.__cause__, Exception)
    assert await texts(through) == ["one", "two"], "it was carried out, though nobody could know"
    (stored,) = await through.append([op])
    assert [message.seq for message in stored] == [2]
    assert await texts(through) == ["one", "two"]


async def test_a_lost_answer_is_no_second_pop_clear_or_increment(through, proxy):
    await through.append([turn("s", *"abcdef")])
    await through.write_items([Increment("n", "k")])
    for call, left in ((lambda: through.pop("s", 2), list("abcd")), (lambda: through.clear("s"), [])):
        proxy.cut_answer = 2  # that to the write, which comes after the load
        with pytest.raises(errors.UnavailableError):
            await call()
        assert await texts(through) == left, "once, and the caller knows that it may have been"
    proxy.cut_answer = 2
    (outcome,) = await through.write_items([Increment("n", "k")])
    assert isinstance(outcome, errors.UnavailableError)
    assert await through.write_items([Increment("n", "k")]) == [3]


@pytest.mark.parametrize("answer", [b"-LOADING Redis is loading the dataset in memory\r\n", b"-TRYAGAIN multi\r\n"])
async def test_what_the_server_cannot_do_yet_is_tried_again(through, proxy, answer):
    proxy.instead = [answer, answer]
    await through.ping()
    assert proxy.instead == []


async def test_a_server_that_never_stops_loading(proxy, url):
    backend = make(with_parts(url, hosts=proxy.hosts), connect_timeout=0.5)
    await backend.aopen()
    proxy.instead = [b"-LOADING Redis is loading the dataset in memory\r\n"] * 1000
    with pytest.raises(errors.UnavailableError, match="loading"):
        await backend.ping()
    proxy.instead = []
    await backend.aclose()


async def test_what_is_no_redis_at_all():
    async def answer(reader, writer):
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    backend = make(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    with pytest.raises(errors.ConfigurationError, match="does not speak as Redis"):
        await backend.aopen()
    await backend.aclose()
    server.close()
    await server.wait_closed()
