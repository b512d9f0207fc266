"""Through PgBouncer in transaction mode: no statement may lean on what another left on its connection."""

import asyncio

import pytest
from postgresql_kit import execute, make, turn, within, words

import servers
from agentstore.errors import UnavailableError
from agentstore.protocol import Read

pytestmark = pytest.mark.anyio


@pytest.fixture
def url(fresh):
    return fresh("pgbouncer")


async def findings(backend):
    return {finding.subject: finding for finding in await backend.examine()}


async def test_it_is_noticed(backend):
    assert backend._connector.pooled
    assert (await findings(backend))["pooler"].value.startswith("there is one: statements are not prepared")


async def test_nobody_is_taken_for_it(fresh):
    direct = make(fresh("postgresql"))
    await direct.aopen()
    assert not direct._connector.pooled
    assert (await findings(direct))["pooler"].value == "none"
    await direct.aclose()


async def test_no_setting_is_left_behind(backend, url):
    await asyncio.gather(*(backend.append([turn(f"s{n}")]) for n in range(20)))
    for name, value in {"statement_timeout": "0", "enable_seqscan": "on", "search_path": '"$user", public'}.items():
        assert {execute(url, f"SHOW {name}") for _ in range(10)} == {value}
    assert execute(url, "SELECT count(*) FROM pg_prepared_statements") == 0


async def test_a_statement_that_takes_too_long(url):
    backend = make(url, statement_timeout=0.2)
    await backend.aopen()
    holder = await backend._connector.connect()
    await holder.execute("BEGIN; LOCK agentstore_sessions IN ACCESS EXCLUSIVE MODE")
    with pytest.raises(UnavailableError, match="took too long"):
        await backend.append([turn("s")])
    await holder.close()
    assert words((await backend.append([turn("s")]))[0]) == ["hello"]
    await backend.aclose()


async def test_statements_prepared_because_the_url_says_so(url):
    """As PgBouncer from 1.21 on allows; this one need not, and then says what to do."""
    backend = make(within(url, options={"prepared": "yes"}))
    await backend.aopen()
    assert (await findings(backend))["pooler"].value.endswith("as the URL says")
    await backend.aclose()


async def test_statements_that_are_never_prepared(fresh):
    backend = make(within(fresh("postgresql"), options={"prepared": "no"}))
    await backend.aopen()
    await asyncio.gather(*(backend.append([turn("s", str(n))]) for n in range(20)))
    assert len((await backend.read([Read("s")]))[0]) == 20
    async with backend._pools.connection() as proxy:
        assert await proxy.driver_connection.fetchval("SELECT count(*) FROM pg_prepared_statements") == 0
    await backend.aclose()


async def test_it_is_restarted_between_two_calls():
    with servers.private_server("pgbouncer") as server:
        backend = make(server.url)
        await backend.aopen()
        await backend.append([turn("s", "before")])
        server.kill()
        server.start()
        await backend.append([turn("s", "after")])
        assert words((await backend.read([Read("s")]))[0]) == ["before", "after"]
        await backend.aclose()
