"""A server that goes and comes back: what its callers see."""

import asyncio

import pytest

from agentstore import PoolOptions, RetryOptions, UnavailableError, db

pytestmark = pytest.mark.anyio


def words(messages):
    return [message.content for message in messages]


def said(text):
    return {"role": "user", "content": text}


async def test_a_server_killed_and_started_again_between_calls_costs_no_caller_an_error(private_server):
    server = private_server("postgresql")
    async with db(server.url, retry=RetryOptions(attempts=20)) as database:
        for turn in range(3):
            await database.append("s", said(f"before {turn}"))
            server.kill()
            starting = asyncio.create_task(asyncio.to_thread(server.start))
            results = await asyncio.gather(
                database.append("s", said(f"after {turn}")),
                database.state.set("k", turn),
                database.messages("s"),
            )
            await starting
            assert results[1] == turn + 1
        expected = [text for turn in range(3) for text in (f"before {turn}", f"after {turn}")]
        assert words(await database.messages("s")) == expected
        assert database.stats().retries > 0
        assert database.stats().errors == {}


async def test_a_server_that_is_gone_fails_fast_and_is_found_when_it_is_back(private_server):
    server = private_server("postgresql")
    async with db(server.url, retry=RetryOptions(attempts=2)) as database:
        await database.append("s", said("before"))
        server.kill()
        with pytest.raises(UnavailableError, match="cannot be reached"):
            await database.append("s", said("lost"))
        with pytest.raises(UnavailableError, match="has been unreachable for"):
            await database.append("s", said("not tried"))
        assert database.stats().fast_failures > 0
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(30):
            while True:
                try:
                    await database.append("s", said("after"))
                    break
                except UnavailableError:
                    await asyncio.sleep(0.05)
        assert words(await database.messages("s")) == ["before", "after"]


async def test_a_server_that_says_nothing_keeps_nobody_beyond_the_deadline(private_server):
    server = private_server("postgresql")
    pool = PoolOptions(statement_timeout=5.0)
    async with db(server.url, pool=pool, retry=RetryOptions(deadline=0.5)) as database:
        await database.append("s", said("before"))
        server.pause()
        try:
            calls = [database.append("s", said(f"call {each}")) for each in range(5)]
            outcomes = await asyncio.gather(*calls, database.messages("s"), return_exceptions=True)
            for outcome in outcomes:
                assert isinstance(outcome, UnavailableError)
                assert "0.5 s" in str(outcome)
        finally:
            server.resume()
        await database.append("s", said("after"))
        stored = words(await database.messages("s"))
        assert (stored[0], stored[-1]) == ("before", "after")
        assert len(stored) == len(set(stored))
