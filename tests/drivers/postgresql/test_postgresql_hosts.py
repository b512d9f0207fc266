"""Ways to a server: sockets, TLS, several hosts."""

import asyncio

import pytest
from postgresql_kit import execute, make, turn, until, within

import servers
from agentstore import Message, db
from agentstore.errors import ConfigurationError, UnavailableError
from agentstore.url import StoreURL
from servers.postgresql import PostgreSQL

pytestmark = pytest.mark.anyio


@pytest.fixture
def server(private_server):
    return private_server("postgresql")


async def test_a_unix_socket(url):
    folder = servers.shared("postgresql").folder
    port = StoreURL.parse(url).hosts[0][1]
    socket = {"host": f"{folder}/postgresql-server", "port": str(port)}
    async with db(within(url, hosts=(), options=socket)) as database:
        await database.append("s", Message("user", "hello"))
        assert [m.content for m in await database.messages("s")] == ["hello"]


async def test_tls_that_is_verified(url):
    ca = servers.shared("postgresql").ca
    backend = make(within(url, options={"sslmode": "verify-full", "sslrootcert": ca}))
    await backend.aopen()
    (finding,) = [finding for finding in await backend.examine() if finding.subject == "TLS"]
    assert finding.value.endswith("certificate checked")
    await backend.aclose()


async def test_no_tls(url):
    backend = make(within(url, options={"sslmode": "disable"}))
    await backend.aopen()
    (finding,) = [finding for finding in await backend.examine() if finding.subject == "TLS"]
    assert (finding.level, finding.value) == ("ok", "none, on this machine")
    await backend.aclose()


async def test_several_hosts_of_which_the_first_is_down(url):
    ((host, port),) = StoreURL.parse(url).hosts
    nobody = servers.base.free_port()
    backend = make(within(url, hosts=((host, nobody), (host, port))))
    await backend.aopen()
    assert isinstance((await backend.append([turn("s")]))[0], list)
    await backend.aclose()


@pytest.mark.parametrize("state", ["53300", "57P03", "57P01", "08004", "28P01"])
async def test_several_hosts_of_which_the_first_refuses(url, state):
    said = f"SFATAL\0C{state}\0Mno\0\0".encode()

    async def refuse(reader, writer):
        await reader.read(1)
        writer.write(b"E" + (len(said) + 4).to_bytes(4, "big") + said)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as first:
        hosts = (first.sockets[0].getsockname(), *StoreURL.parse(url).hosts)
        backend = make(within(url, hosts=hosts, options={"sslmode": "disable"}))
        if state == "28P01":
            with pytest.raises(ConfigurationError, match="does not let this user in"):
                await backend.aopen()
        else:
            await backend.aopen()
        await backend.aclose()


async def test_several_hosts_of_which_one_takes_writes(url, server):
    ((host, port),) = StoreURL.parse(server.url).hosts
    name = StoreURL.parse(url).path
    PostgreSQL.create(server.url, name[1:])
    execute(server.url, "ALTER SYSTEM SET default_transaction_read_only = on")
    execute(server.url, "SELECT pg_reload_conf()")
    await until(lambda: execute(server.url, "SHOW default_transaction_read_only") == "on")
    both = ((host, port), *StoreURL.parse(url).hosts)
    backend = make(within(url, hosts=both, path=name))
    await backend.aopen()
    assert isinstance((await backend.append([turn("s")]))[0], list), "the second"
    await backend.aclose()
    standby = make(within(server.url, options={"target_session_attrs": "read-write"}))
    with pytest.raises(UnavailableError, match="no host is read-write"):
        await standby.aopen()
    await standby.aclose()
