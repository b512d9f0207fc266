"""A cluster that changes: slots between two servers, servers that leave it."""

from contextlib import closing

import pytest
from redis.crc import key_slot
from redis_kit import eventually, make, turn

from agentstore.drivers.redis.keys import Keys
from agentstore.drivers.redis.place import parse
from agentstore.drivers.redis.topology import Cluster
from agentstore.protocol import Scan, SetItems
from agentstore.url import StoreURL
from servers.redis import node

pytestmark = pytest.mark.anyio

WHOLE = [[0, 16383, [b"two", 2]]]
NAMES = [f"k{number}" for number in range(6)]


def ports(url):
    return [port for _, port in StoreURL.parse(url).hosts]


async def learnt(cluster, answers):
    """Whom a cluster asks, in order."""
    asked = []

    async def ask(address, command):
        del command
        asked.append(address.host)
        return answers[address.host]

    await cluster.learn(ask)
    return asked


async def test_a_server_that_knows_less_is_passed_over():
    cluster = Cluster(parse(StoreURL.parse("redis+cluster://one:1,two:2,three:3")))
    half = [[0, 9999, [b"one", 1]]]
    assert await learnt(cluster, {"one": half, "two": WHOLE}) == ["one", "two"]
    assert str(cluster.address("k")) == "two:2"
    cluster.down("k")
    assert cluster.stale
    assert await learnt(cluster, {"one": [], "two": half, "three": []}) == ["one", "three", "two"], "the fullest"
    assert {str(address) for address in cluster.everyone()} == {"one:1"}


async def test_a_server_that_left_is_not_asked_for_ever(private_server):
    server = private_server("redis-cluster")
    backend = make(server.url)
    await backend.aopen()
    names = [f"s{number}" for number in range(20)]
    await backend.append([turn(name) for name in names])
    nodes = [node(port) for port in ports(server.url)]
    ids = [connection.execute_command("CLUSTER MYID").decode() for connection in nodes]
    for connection in nodes:
        connection.flushall()
    nodes[1].execute_command("CLUSTER DELSLOTSRANGE", 0, 16384 // 3 - 1)
    nodes[1].execute_command("CLUSTER ADDSLOTSRANGE", 0, 16384 // 3 - 1)
    nodes[0].execute_command("CLUSTER RESET SOFT")
    for connection in nodes[1:]:
        connection.execute_command("CLUSTER FORGET", ids[0])

    async def two_have_all():
        told = [connection.cluster("INFO") for connection in nodes[1:]]
        wanted = ("ok", "16384", "2")
        return all((i["cluster_state"], i["cluster_slots_assigned"], i["cluster_known_nodes"]) == wanted for i in told)

    await eventually(two_have_all)
    outcomes = await backend.append([turn(name) for name in names])
    assert all(isinstance(outcome, list) for outcome in outcomes), outcomes
    for connection in nodes:
        connection.close()
    await backend.aclose()


async def test_a_scan_while_its_slot_moves(private_server):
    server = private_server("redis-cluster")
    backend = make(server.url)
    await backend.aopen()
    await backend.write_items([SetItems("n", dict.fromkeys(NAMES, 1))])
    keys = Keys("agentstore").namespace("n")
    slot = key_slot(keys.names.encode())
    source = slot * 3 // 16384
    target = (source + 1) % 3
    hosts = StoreURL.parse(server.url)
    with closing(node(hosts.hosts[source][1])) as here, closing(node(hosts.hosts[target][1])) as there:
        there.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", here.execute_command("CLUSTER MYID"))
        here.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", there.execute_command("CLUSTER MYID"))
        for moved in ((keys.item + "k0", keys.item + "k4"), (keys.names,)):
            login = ("AUTH", hosts.password)
            here.execute_command("MIGRATE", *hosts.hosts[target], "", 0, 5000, *login, "KEYS", *moved)
            for scan, wanted in (
                (Scan("n"), NAMES),
                (Scan("n", reverse=True), NAMES[::-1]),
                (Scan("n", limit=2), NAMES[:2]),
                (Scan("n", limit=2, after="k3"), NAMES[4:]),
            ):
                assert [item.key for item in await backend.scan(scan)] == wanted
    await backend.aclose()
