"""What `examine` finds, and what is warned of when a store is opened."""

import logging
from contextlib import closing

import pytest
from redis_kit import make, turn, with_parts

from agentstore import errors
from agentstore.drivers.redis.examination import _server
from agentstore.protocol import Read
from agentstore.url import StoreURL
from servers.base import PASSWORD
from servers.redis import client

pytestmark = pytest.mark.anyio


@pytest.fixture
def server(private_server):
    return private_server("redis", "--appendfsync", "always")


@pytest.fixture
def admin(server):
    with closing(client(server.url)) as connection:
        yield connection


async def examine(url, **options):
    backend = make(url, **options)
    await backend.aopen()
    try:
        found = {finding.subject: finding for finding in await backend.examine()}
    finally:
        await backend.aclose()
    assert PASSWORD not in repr(found)
    assert all(finding.advice for finding in found.values() if finding.level != "ok")
    return found


async def test_a_server_as_it_should_be(server):
    found = await examine(server.url)
    assert found["server"].value.startswith("Redis ")
    assert "master" in found["server"].value
    assert found["durability"].value == "append-only file, appendfsync always"
    assert found["memory"].value == "maxmemory unlimited, noeviction"
    assert found["replicas"].value == "none"
    assert {finding.level for finding in found.values()} == {"ok"}


@pytest.mark.parametrize(("fsync", "loses"), [("everysec", "about a second"), ("no", "30 seconds")])
async def test_what_weakens_commit(server, admin, fsync, loses):
    admin.config_set("appendfsync", fsync)
    finding = (await examine(server.url))["durability"]
    assert (finding.level, fsync in finding.value, loses in finding.advice) == ("warning", True, True)


async def test_no_append_only_file(server, admin):
    admin.config_set("appendonly", "no")
    finding = (await examine(server.url))["durability"]
    assert finding.level == "warning"
    assert "appendonly" in finding.advice


@pytest.mark.parametrize(
    ("policy", "level"), [("allkeys-lru", "unfit"), ("allkeys-random", "unfit"), ("volatile-ttl", "warning")]
)
async def test_eviction_is_found_and_warned_of(server, admin, caplog, policy, level):
    admin.config_set("maxmemory-policy", policy)
    with caplog.at_level(logging.WARNING, "agentstore"):
        found = await examine(server.url)
    assert found["memory"].level == level
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("agentstore", "WARNING")
    assert policy in record.getMessage()
    assert "noeviction" in record.getMessage()


async def test_no_eviction_is_not_warned_of(server, caplog):
    with caplog.at_level(logging.INFO, "agentstore"):
        await examine(server.url)
    assert caplog.records == []


async def test_fewer_connections_than_the_pool_may_open(server, admin):
    admin.config_set("maxclients", 40)
    assert (await examine(server.url, size=10))["connections"].level == "ok"
    assert (await examine(server.url, size=40))["connections"].level == "warning"
    assert (await examine(server.url, size=41))["connections"].level == "unfit"


async def test_no_more_connections(server, admin):
    admin.config_set("maxclients", 1)
    backend = make(server.url)
    with pytest.raises(errors.UnavailableError, match="no more connections"):
        await backend.aopen()
    await backend.aclose()


async def test_a_user_with_no_rights_but_those_that_are_needed(server, admin):
    """The grant that docs/backends/redis.md names is enough, and examine says what it cannot know."""
    grant = ("reset", "on", ">pw", "~agentstore:*", "+@all", "-@dangerous", "-@admin")
    admin.execute_command("ACL", "SETUSER", "app", *grant)
    url = with_parts(server.url, username="app", password="pw")
    found = await examine(url)
    assert "unknown" in found["server"].value
    backend = make(url)
    await backend.aopen()
    await backend.append([turn("s", "a", "b")])
    await backend.pop("s", 1)
    await backend.purge_sessions()
    (messages,) = await backend.read([Read("s")])
    assert [message.content for message in messages] == ["a"]
    await backend.aclose()
    admin.execute_command("ACL", "SETUSER", "app", "+info", "+config|get")
    assert {finding.level for finding in (await examine(url)).values()} == {"ok"}


async def test_a_user_of_other_keys(server, admin):
    admin.execute_command("ACL", "SETUSER", "other", "on", ">pw", "~other:*", "+@all")
    backend = make(with_parts(server.url, username="other", password="pw"))
    with pytest.raises(errors.ConfigurationError, match="may not"):
        await backend.aopen()
    await backend.aclose()


async def test_each_server_of_a_cluster(fresh):
    url = fresh("redis-cluster")
    found = await examine(url)
    assert found["server"].value == "a cluster of 3 masters"
    for host, port in StoreURL.parse(url).hosts:
        assert "cluster" in found[f"server of {host}:{port}"].value


async def test_an_unverified_connection_is_told(server):
    found = await examine(f"{server.tls_url}?tls_verify=false")
    assert found["encryption"].level == "warning"
    found = await examine(f"{server.tls_url}?tls_ca={server.ca}")
    assert found["encryption"].level == "ok"


@pytest.mark.parametrize(
    ("info", "value", "level"),
    [
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "8.0.1"}, "Valkey 8.0.1", "ok"),
        ({"redis_version": "6.3.4", "executable": "/usr/bin/keydb-server"}, "KeyDB 6.3.4", "ok"),
        ({"redis_version": "8.2.1"}, "Redis 8.2.1", "ok"),
        ({"redis_version": "5.0.7"}, "Redis 5.0.7", "unfit"),
    ],
)
def test_products_and_versions(info, value, level):
    (finding,) = _server(info, "")
    assert finding.value.startswith(value)
    assert finding.level == level
