"""Namespaces are found among all keys of the servers, whatever else is there, and whatever moves."""

from contextlib import closing

import pytest
from redis.crc import key_slot
from redis_kit import make, with_options

from agentstore.drivers.redis import client, namespaces
from agentstore.drivers.redis.keys import Keys
from agentstore.errors import UnavailableError
from agentstore.protocol import DeleteKeys, SetItems
from agentstore.url import StoreURL
from servers.redis import node

pytestmark = pytest.mark.anyio

NAMES = sorted(["", "%", "%2F", "a", "a}b", "{", "{a}", "}:names", "😀", *(f"n{number}" for number in range(40))])


@pytest.fixture
def many_pages(monkeypatch):
    monkeypatch.setattr(client, "_SEARCHED", 3)
    monkeypatch.setattr(namespaces, "_ROOM", 0)


@pytest.mark.usefixtures("many_pages")
async def test_other_keys_are_no_namespaces(backend, url, raw):
    prefix = StoreURL.parse(url).options["prefix"]
    await backend.write_items([SetItems(name, {"{/x}:names": 1, "k": 1}) for name in NAMES])
    await backend.write_items([SetItems("gone", {"k": 1}), DeleteKeys("gone", ("k",))])
    others = make(with_options(url, prefix=f"{prefix}:n"))
    await others.aopen()
    await others.write_items([SetItems("others", {"k": 1})])
    raw.set(f"x{prefix}:n:{{/foreign}}:names", 1)
    assert await backend.namespaces() == NAMES
    assert await backend.namespaces("a", 3) == NAMES[NAMES.index("a") + 1 :][:3]
    assert await others.namespaces() == ["others"]
    raw.delete(*raw.scan_iter(match=f"{prefix}:n:*", count=1000), f"x{prefix}:n:{{/foreign}}:names")
    await others.aclose()


@pytest.mark.usefixtures("many_pages")
async def test_another_server_at_the_address_is_an_error(backend, raw, monkeypatch):
    """Its cursors are others."""
    await backend.write_items([SetItems(name, {"k": 1}) for name in NAMES])
    page, pages = client._page, []

    async def ended(*args):
        pages.append(args)
        if len(pages) == 2:
            raw.client_kill_filter(_type="normal", skipme=True)
        return await page(*args)

    monkeypatch.setattr(client, "_page", ended)
    with pytest.raises(UnavailableError):
        await backend.namespaces()
    assert len(pages) == 2
    assert await backend.namespaces() == NAMES


async def test_a_key_that_moves_behind_the_search(private_server, monkeypatch):
    server = private_server("redis-cluster")
    backend = make(server.url)
    await backend.aopen()
    await backend.write_items([SetItems(name, {"k": 1}) for name in NAMES])
    hosts, login = StoreURL.parse(server.url).hosts, ("AUTH", StoreURL.parse(server.url).password)
    keys = [Keys("agentstore").namespace(name).names for name in NAMES]
    search, moved = client.Client._search, []

    async def moving(self, address, *args):
        await search(self, address, *args)
        if not moved:  # one has been searched: what the others have of one slot goes there
            target = next(host for host in hosts if host[1] == address.port)
            key = next(key for key in keys if hosts[key_slot(key.encode()) * 3 // 16384] != target)
            slot = key_slot(key.encode())
            with closing(node(hosts[slot * 3 // 16384][1])) as here, closing(node(target[1])) as there:
                there.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", here.execute_command("CLUSTER MYID"))
                here.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", there.execute_command("CLUSTER MYID"))
                moved.extend(here.execute_command("CLUSTER GETKEYSINSLOT", slot, 100))
                here.execute_command("MIGRATE", *target, "", 0, 5000, *login, "KEYS", *moved)
                for one in (there, here):
                    one.execute_command("CLUSTER SETSLOT", slot, "NODE", there.execute_command("CLUSTER MYID"))
            assert key in moved

    monkeypatch.setattr(client.Client, "_search", moving)
    assert await backend.namespaces() == NAMES
    assert moved
    await backend.aclose()
