"""Several hosts, and servers that take no writes."""

import pytest
from mysql_kit import execute, make, turn, within, words

import servers
from agentstore.errors import UnavailableError
from agentstore.protocol import Read, SetItems

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server():
    with servers.private_server("mysql") as server:
        execute(server.url, "CREATE DATABASE cluster")
        yield server


async def test_several_hosts(server, private_server):
    second = private_server("mysql")
    execute(second.url, "CREATE DATABASE cluster")
    hosts = (("127.0.0.1", 1), *(host for one in (server, second) for host in [_host(one.url)]))
    backend = make(within(server.url, path="/cluster", hosts=hosts))
    await backend.aopen()
    await backend.append([turn("s", "on the first that answers")])
    execute(server.url, "SET GLOBAL read_only = 1")
    try:
        grant = "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, DROP ON *.* TO plain@'%' IDENTIFIED BY 'p'"
        execute(server.url, grant)
        execute(second.url, grant)
        plain = make(within(server.url, path="/cluster", hosts=hosts, username="plain", password="p"))
        await plain.aopen()
        await plain.append([turn("s", "on the one that takes writes")])
        assert words((await plain.read([Read("s")]))[0]) == ["on the one that takes writes"]
        execute(second.url, "SET GLOBAL read_only = 1")
        with pytest.raises(UnavailableError, match="read-only"):
            await plain.append([turn("s")])
        execute(server.url, "SET GLOBAL read_only = 0")
        await plain.append([turn("s", "back")])
        assert words((await plain.read([Read("s")]))[0]) == ["on the first that answers", "back"]
        await plain.aclose()
    finally:
        execute(server.url, "SET GLOBAL read_only = 0")
        await backend.aclose()


def _host(url):
    _, _, host = url.rpartition("@")
    name, _, port = host.partition("/")[0].partition(":")
    return name, int(port)


async def test_a_read_only_server(server):
    execute(
        server.url, "GRANT ALL ON *.* TO owner@'%' IDENTIFIED BY 'p'", "REVOKE READ_ONLY ADMIN ON *.* FROM owner@'%'"
    )
    owner = make(within(server.url, username="owner", password="p"))
    await owner.aopen()
    await owner.append([turn("s")])
    execute(server.url, "SET GLOBAL read_only = 1")
    try:
        with pytest.raises(UnavailableError, match="read-only"):
            await owner.append([turn("s")])
        with pytest.raises(UnavailableError, match="read-only"):
            await owner.write_items([SetItems("n", {"k": 1})])
        assert words((await owner.read([Read("s")]))[0]) == ["hello"]
        assert [f.level for f in await owner.examine() if f.subject == "role"] == ["unfit"]
    finally:
        execute(server.url, "SET GLOBAL read_only = 0")
    assert (await owner.append([turn("s")]))[0][0].seq == 2
    await owner.aclose()
