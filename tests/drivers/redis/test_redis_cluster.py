"""A cluster of three masters: where keys are, what spans servers, what moves, what is left by a crash."""

from contextlib import closing

import pytest
from redis.crc import key_slot
from redis_kit import eventually, make, say, turn

from agentstore import errors
from agentstore.drivers.redis import listings
from agentstore.drivers.redis.keys import Keys
from agentstore.protocol import GetItems, Head, Listing, Read, Scan, SetItems
from agentstore.url import StoreURL
from servers.redis import node

pytestmark = pytest.mark.anyio

TRICKY = ["{", "}", "{}", "a{b}c", "}{", "%7B", "{same}1", "{same}2"]


@pytest.fixture
def cluster_url(fresh):
    return fresh("redis-cluster")


@pytest.fixture
async def cluster(cluster_url):
    backend = make(cluster_url)
    await backend.aopen()
    yield backend
    await backend.aclose()


def ports(url):
    return [port for _, port in StoreURL.parse(url).hosts]


def home_of(key):
    """Which of the three servers has a key."""
    return key_slot(key.encode()) * 3 // 16384


def heads_on(url):
    """How many sessions each server has."""
    prefix = StoreURL.parse(url).options["prefix"]
    counts = []
    for port in ports(url):
        with closing(node(port)) as connection:
            found = connection.scan_iter(match=f"{prefix}:s:*:head", count=1000)
            counts.append(sum(1 for _ in found))
    return counts


async def test_two_hundred_sessions_over_three_masters(cluster, cluster_url):
    names = [*TRICKY, *(f"s{number}" for number in range(200 - len(TRICKY)))]
    outcomes = await cluster.append([turn(name, f"in {name}", user_id="u") for name in names])
    assert all(isinstance(outcome, list) for outcome in outcomes), "one group, which spans the servers"
    counts = heads_on(cluster_url)
    assert sum(counts) == 200
    assert min(counts) > 30
    found = await cluster.read([Read(name) for name in names])
    assert [messages[0].content for messages in found] == [f"in {name}" for name in names]
    for listing in (Listing(limit=500), Listing(limit=500, user_id="u")):
        page = await cluster.list_sessions(listing)
        assert {session.id for session in page.items} == set(names)


async def test_what_a_session_does_stays_in_its_slot(cluster):
    for name in TRICKY:
        await cluster.append([turn(name, *"abc")])
        assert len(await cluster.pop(name, 2)) == 2
        assert await cluster.clear(name) == 1
        (head,) = await cluster.heads([Head(name)])
        await cluster.restore(type(head)(f"copy of {name}", last_seq=1, message_count=1), [say("x", seq=1)])
        assert await cluster.delete(name)
        await cluster.write_items([SetItems(name, dict.fromkeys(TRICKY, 1))])
        assert sorted(item.key for item in await cluster.scan(Scan(name))) == sorted(TRICKY)
        (items,) = await cluster.get_items([GetItems(name, tuple(TRICKY))])
        assert list(items) == TRICKY


async def test_a_server_that_is_away_concerns_its_sessions_alone(private_server):
    server = private_server("redis-cluster", "--cluster-require-full-coverage", "no")
    backend = make(server.url, connect_timeout=1)
    await backend.aopen()
    names = [f"s{number}" for number in range(60)]
    await backend.append([turn(name, "one") for name in names])
    keys = Keys("agentstore")
    home = {name: home_of(keys.session(name).head) for name in names}
    away = (home_of(keys.sessions) + 1) % 3  # without the listing nothing could be written
    lost = server.server.processes[away]
    server.kill(lost)
    ops = [turn(name, "two") for name in names]
    outcomes = await backend.append(ops)
    for name, outcome in zip(names, outcomes, strict=True):
        assert isinstance(outcome, errors.UnavailableError if home[name] == away else list), name
    assert {home[name] for name in names} == {0, 1, 2}
    server.start(lost)

    async def whole():
        with closing(node(ports(server.url)[0])) as connection:
            return connection.cluster("INFO")["cluster_slots_fail"] == "0"

    await eventually(whole)
    assert all(isinstance(outcome, list) for outcome in await backend.append(ops))
    found = await backend.read([Read(name) for name in names])
    assert all([message.content for message in messages] == ["one", "two"] for messages in found)
    await backend.aclose()


async def test_a_slot_that_moves_is_followed(private_server):
    server = private_server("redis-cluster")
    backend = make(server.url)
    await backend.aopen()
    await backend.append([turn("s", "one"), turn("t", "one")])
    keys = Keys("agentstore").session("s")
    slot = key_slot(keys.head.encode())
    nodes = [node(port) for port in ports(server.url)]
    ids = [connection.execute_command("CLUSTER MYID").decode() for connection in nodes]
    source = home_of(keys.head)
    target = (source + 1) % 3
    nodes[target].execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[source])
    nodes[source].execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[target])
    moved = nodes[source].execute_command("CLUSTER GETKEYSINSLOT", slot, 100)
    assert set(moved) >= {keys.head, keys.log, keys.ids}
    login = ("AUTH", StoreURL.parse(server.url).password)
    host, port = StoreURL.parse(server.url).hosts[target]
    nodes[source].execute_command("MIGRATE", host, port, "", 0, 5000, *login, "KEYS", *moved)

    (found,) = await backend.read([Read("s")])  # all its keys are over there: ASK leads to them
    assert [message.content for message in found] == ["one"]
    for number in (target, source):
        nodes[number].execute_command("CLUSTER SETSLOT", slot, "NODE", ids[target])
    (s, t) = await backend.append([turn("s", "two"), turn("t", "two")])  # MOVED
    assert (s[0].seq, t[0].seq) == (2, 2)
    (found,) = await backend.read([Read("s")])
    assert [message.content for message in found] == ["one", "two"]
    for connection in nodes:
        connection.close()
    await backend.aclose()


# --- listings beside sessions: in two steps here ---


@pytest.fixture
def listing(cluster_url):
    """The server with the listing of all sessions, and that listing's key."""
    key = Keys(StoreURL.parse(cluster_url).options["prefix"]).sessions
    with closing(node(ports(cluster_url)[home_of(key)])) as connection:
        yield connection, key


async def listed(backend):
    found, cursor = [], None
    while True:
        page = await backend.list_sessions(Listing(limit=2, cursor=cursor))
        found += [session.id for session in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return found


async def test_a_crash_after_the_listing_leaves_no_session_too_many(cluster, listing, monkeypatch):
    connection, key = listing
    for name in "abcde":
        await cluster.append([turn(name)])

    async def crash(commands):
        del commands
        raise errors.UnavailableError("the process died here")

    with monkeypatch.context() as patch:
        patch.setattr(cluster._wire, "run", _unless_scripts(cluster._wire.run, crash))
        for name in ("new", "a", "b", "c"):
            with pytest.raises(errors.UnavailableError):
                await cluster.append([turn(name)])
    monkeypatch.setattr(listings, "_SLACK", 0)  # so that no page sees them all
    assert connection.zcard(key) == 9, "entries of writes that never came"
    assert await listed(cluster) == list("edcba")
    await cluster.append([turn("a")])
    assert await listed(cluster) == list("aedcb")


def _unless_scripts(run, instead):
    async def chosen(commands):
        return await (instead if any(command.args[0] == "EVALSHA" for command in commands) else run)(commands)

    return chosen


async def test_a_crash_before_the_listing_is_cleared_leaves_none_too_few(cluster, listing, monkeypatch):
    connection, key = listing
    await cluster.append([turn("a"), turn("b"), turn("c")])

    async def crash(changes):
        list(changes)

    with monkeypatch.context() as patch:
        patch.setattr(cluster._wire, "after", crash)
        await cluster.append([turn("a")])
        await cluster.delete("b")
    assert connection.zcard(key) == 4
    assert await listed(cluster) == ["a", "c"], "each once, in its place"


async def test_old_leftovers_are_cleared_by_who_reads_them(cluster, listing):
    connection, key = listing
    await cluster.append([turn("a")])
    (true,) = connection.zrange(key, 0, -1)
    entry = f"{int(true[:18]) - 61_000_000:018d}"
    connection.zadd(key, {f"{entry}a": 0, f"{entry}gone": 0})
    assert await listed(cluster) == ["a"]
    assert connection.zrange(key, 0, -1) == [true]
