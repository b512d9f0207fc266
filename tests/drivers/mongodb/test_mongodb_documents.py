"""What lies in the collections: exact values, large ones, damaged ones, the schema; and what `examine` says of it."""

import asyncio
from datetime import timedelta

import bson
import pytest
from mongodb_kit import HELLO, append, backend, is_hello, say, tables, wire

from agentstore import db
from agentstore.checks import MAX_BYTES
from agentstore.drivers.mongodb import schema
from agentstore.errors import CorruptRecordError, SchemaError
from agentstore.protocol import Append, DeleteKeys, Expire, GetItems, Head, Increment, Read, Scan, SetItems

pytestmark = pytest.mark.anyio

LARGEST_DOCUMENT = 16 * 2**20
WORST = {  # each 8 MiB as agentstore counts, and as much longer as it can become
    "text": "x" * MAX_BYTES,
    "4-byte": "\U0001f600" * (MAX_BYTES // 4),
    "escapes": "\x1a" * MAX_BYTES,
    "surrogates": "\ud83d" * (MAX_BYTES // 3),
    "one third escapes": "\x00ab" * (MAX_BYTES // 3),
    "one fourth escapes": "\x00abc" * (MAX_BYTES // 4),
    "one fifth escapes": "\x00abcd" * (MAX_BYTES // 5),
    "one tenth escapes": "\x00abcdefghi" * (MAX_BYTES // 10),
    "quotes": '"' * (MAX_BYTES // 2),
}


@pytest.fixture
async def store(url):
    store = backend(url)
    await store.aopen()
    yield store
    await store.aclose()


async def texts(store, session_id="s", **bounds):
    (found,) = await store.read([Read(session_id, **bounds)])
    if not isinstance(found, list):
        raise found
    return [message.content for message in found]


async def test_names_that_mean_something_to_mongodb(url):
    odd = {"$set": {"a.b": 1}, "a.b": {"$": [{"$gt": 2**70}]}, "": None, "\x00": "\ud83d", "_id": -0.0}
    async with db(url) as database:
        await database.append("$s.x", say("$where", metadata=odd, id="$id.x"), metadata=odd, user_id="$u.x")
        await database.state.scope("$n.x").set("$k.x", odd)
        (message,) = await database.messages("$s.x", user_id="$u.x")
        session = (await database.sessions(user_id="$u.x")).items[0]
        assert message.metadata == session.metadata == odd == await database.state.scope("$n.x").get("$k.x")
        assert str(message.metadata["_id"]) == "-0.0"


async def test_a_ttl_on_a_key_then_get(url):
    async with db(url) as database:
        await database.state.set("k", "v", ttl=3600)
        assert await database.state.get("k") == "v"
        assert 3590 < await database.state.ttl("k") <= 3600
        await database.state.set("far", "v", ttl=timedelta(days=365_000))
        assert await database.state.get("far") == "v"
    with tables(url) as database:
        (document,) = database.agentstore_state.find({"_id": "0::k"})
        assert document["remove_at"].timestamp() * 1e6 >= document["expires_at"], "the TTL index never comes first"


async def test_a_session_far_beyond_16_mb(store):
    for number in range(5):
        await store.append([append(str(number) * (5 * 2**20))])
    await store.append([append("a" * MAX_BYTES, "b" * MAX_BYTES, "c" * MAX_BYTES)])
    found = await texts(store)
    assert [(text[0], len(text)) for text in found] == [(str(n), 5 * 2**20) for n in range(5)] + [
        (letter, MAX_BYTES) for letter in "abc"
    ]
    assert [text[0] for text in await texts(store, limit=2)] == ["b", "c"]
    assert [message.content[0] for message in await store.pop("s", 3)] == ["a", "b", "c"]
    assert await store.delete("s") is True


async def test_an_insertion_beyond_48_mb(store):
    outcomes = await store.append([append(letter * MAX_BYTES, session_id=letter) for letter in "abcdefgh"])
    assert [len(outcome) for outcome in outcomes] == [1] * 8
    assert [text[0] for letter in "ah" for text in await texts(store, letter)] == ["a", "h"]


@pytest.mark.parametrize("name", WORST)
async def test_no_document_nears_16_mb(store, url, name):
    text = WORST[name]
    half = text[: len(text) // 2 - 100]
    message = say(half, metadata={"k": half})
    outcomes = await store.append([Append("s", (message,))])
    assert await store.read([Read("s")]) == outcomes
    await store.write_items([SetItems("n", {"k": text})])
    (items,) = await store.get_items([GetItems("n", ("k",))])
    assert items["k"].value == text
    with tables(url) as database:
        for collection in (database.agentstore_messages, database.agentstore_state):
            for document in collection.find():
                assert len(bson.encode(document)) < 0.9 * LARGEST_DOCUMENT


async def test_how_documents_look(store, url):
    await store.append([append(say("hello", id="i", name="n", metadata={"k": 1}), user_id="u", agent="a")])
    await store.write_items([SetItems("user:1", {"k": [1]})])
    with tables(url) as database:
        session = database.agentstore_sessions.find_one()
        message = database.agentstore_messages.find_one()
        assert set(session) == {
            *("_id", "session", "user_id", "agent", "created_at", "updated_at", "message_count", "last_seq"),
            *("version", "log", "open", "open_from"),
        }
        assert set(message) == {
            *("_id", "session", "log", "seq", "place", "token", "role", "content", "id", "name", "metadata"),
            "created_at",
        }
        assert (message["content"], message["metadata"], message["log"]) == ("hello", '{"k":1}', session["log"])
        assert database.agentstore_state.find_one() == {"_id": "6:user:1:k", "version": 1, "value": "[1]"}
        await store.write_items([DeleteKeys("user:1", ("k",))])
        assert set(database.agentstore_state.find_one()) == {"_id", "version", "remove_at"}
        await store.delete("s")
        assert set(database.agentstore_sessions.find_one()) == {"_id", "version", "last_seq"}
        assert database.agentstore_messages.count_documents({}) == 0


async def test_duplicate_ids(store):
    (first,) = await store.append([append(say("one", id="i"))])
    outcomes = await store.append([append(say("two", id="i"), say("three", id="j")), append(say("four", id="j"))])
    assert [[message.content for message in outcome] for outcome in outcomes] == [["one", "three"], ["three"]]
    assert outcomes[0][0] == first[0]
    await store.append([append(say("fork", id="i"), session_id="t")])
    assert await texts(store) == ["one", "three"]
    assert await texts(store, "t") == ["fork"]


# --- what is damaged ---


async def test_a_damaged_session_concerns_whoever_asks_for_it(store, url):
    for name in ("good", "bad"):
        await store.append([append("one", session_id=name)])
    with tables(url) as database:
        database.agentstore_sessions.update_one({"_id": "bad"}, {"$set": {"created_at": "yesterday"}})
    calls = (
        store.append([append("two", session_id=name) for name in ("bad", "good")]),
        store.read([Read(name) for name in ("bad", "good")]),
        store.heads([Head(name) for name in ("bad", "good")]),
    )
    for call in calls:
        bad, good = await call
        assert isinstance(bad, CorruptRecordError), bad
        assert not isinstance(good, Exception)
    assert await texts(store, "good") == ["one", "two"]
    assert await store.delete("bad") is True
    await store.append([append("new", session_id="bad")])
    assert await texts(store, "bad") == ["new"]


async def test_a_damaged_message_concerns_whoever_asks_for_it(store, url):
    for name in ("good", "bad"):
        await store.append([append(say("one", id="i"), session_id=name)])
    with tables(url) as database:
        database.agentstore_messages.update_one({"session": "bad"}, {"$set": {"content": 7}})
    bad, good = await store.read([Read("bad"), Read("good")])
    assert isinstance(bad, CorruptRecordError)
    assert [message.content for message in good] == ["one"]
    bad, good = await store.append([append(say("x", id="i"), session_id=name) for name in ("bad", "good")])
    assert isinstance(bad, CorruptRecordError)
    assert [message.content for message in good] == ["one"]
    assert await store.clear("bad") == 1


async def test_a_damaged_key_can_be_set_and_deleted(store, url):
    await store.write_items([SetItems("n", {"bad": 1, "worse": 1, "good": 1})])
    with tables(url) as database:
        database.agentstore_state.update_one({"_id": "1:n:bad"}, {"$set": {"value": "{"}})
        database.agentstore_state.update_one({"_id": "1:n:worse"}, {"$set": {"version": "x"}})
    bad, good = await store.get_items([GetItems("n", ("bad",)), GetItems("n", ("good",))])
    assert isinstance(bad, CorruptRecordError)
    assert good["good"].value == 1
    outcomes = await store.write_items([Increment("n", key) for key in ("bad", "worse", "good")])
    assert [type(outcome) for outcome in outcomes] == [CorruptRecordError, CorruptRecordError, int]
    with pytest.raises(CorruptRecordError):
        await store.scan(Scan("n"))
    await store.write_items([SetItems("n", {"bad": 2}), DeleteKeys("n", ("worse",))])
    assert [(item.key, item.value) for item in await store.scan(Scan("n"))] == [("bad", 2), ("good", 2)]


@pytest.mark.parametrize("reader", [Increment("n", "bad"), Expire("n", "bad", timedelta(hours=1))])
async def test_a_damaged_key_is_set_whoever_reads_it_in_the_same_batch(store, url, reader):
    for change, after in ((SetItems("n", {"bad": 2}), 2), (DeleteKeys("n", ("bad",)), None)):
        for place in (0, 1):
            await store.write_items([SetItems("n", {"bad": 1})])
            with tables(url) as database:
                database.agentstore_state.update_one({"_id": "1:n:bad"}, {"$set": {"value": "{"}})
            outcomes = await store.write_items([reader, change] if place else [change, reader])
            assert isinstance(outcomes[place], int), outcomes
            assert isinstance(outcomes[1 - place], CorruptRecordError)
            (found,) = await store.get_items([GetItems("n", ("bad",))])
            assert (found["bad"].value if found else None) == after


@pytest.mark.parametrize("version", [{}, {"version": "x"}])
async def test_a_damaged_husk_concerns_its_key_alone(store, url, version):
    with tables(url) as database:
        database.agentstore_state.insert_one({"_id": "1:n:bad"} | version)
    ops = [op for key in ("bad", "good") for op in (SetItems("n", {key: 1}), Increment("n", key))]
    outcomes = await store.write_items(ops)
    assert [type(outcome) for outcome in outcomes] == [CorruptRecordError, CorruptRecordError, int, int]
    with tables(url) as database:
        assert database.agentstore_state.find_one({"_id": "1:n:bad"}) == {"_id": "1:n:bad"} | version


# --- the schema ---


async def test_a_store_of_a_newer_version_is_refused(url):
    with tables(url) as database:
        database.agentstore_meta.insert_one({"_id": "schema", "version": schema.VERSION + 1})
    store = backend(url)
    with pytest.raises(SchemaError, match="newer"):
        await store.aopen()
    with tables(url) as database:
        database.agentstore_meta.delete_many({})
    await store.aopen()
    await store.aclose()


async def test_opened_by_many_at_once(url):
    stores = [backend(url) for _ in range(8)]
    await asyncio.gather(*(store.aopen() for store in stores))
    await asyncio.gather(*(store.append([append("x")]) for store in stores))
    assert len(await texts(stores[0])) == 8
    for store in stores:
        await store.aclose()


async def test_what_examine_finds(store):
    found = {finding.subject: finding for finding in await store.examine()}
    assert {"server", "topology", "write concern", "journal", "schema", "clock", "connections"} <= set(found)
    assert found["schema"].value.startswith("version 1 in database test_")
    assert found["write concern"].value == "w=majority, journal=True"
    assert found["clock"].level == "ok"
    assert "indexes" not in found


def _mongod(**changes):
    """A server that answers an examination as a healthy member of a replica set would."""
    replies = {
        "hello": HELLO | {"hosts": ["a", "b", "c"]},
        "buildInfo": {"version": "8.0.4", "gitVersion": "abc"},
        "serverStatus": {"storageEngine": {"name": "wiredTiger"}, "connections": {"current": 3, "available": 900}},
    } | changes

    def answer(command):
        name = next(iter(command))
        if name in ("find", "listIndexes", "listCollections"):
            return {"ok": 1, "cursor": {"id": 0, "ns": "x.y", "firstBatch": []}}
        return {"ok": 1} | (replies["hello"] if is_hello(command) else replies.get(name, {}))

    return answer


@pytest.mark.parametrize(
    ("changes", "options", "subject", "level", "says"),
    [
        ({}, "", "server", "ok", "MongoDB 8.0.4"),
        ({"buildInfo": {"version": "4.4.1", "gitVersion": "abc"}}, "", "server", "warning", "4.4.1"),
        ({"buildInfo": {"version": "7.0.0", "process": "other"}}, "", "server", "warning", "no MongoDB, but other"),
        ({}, "", "topology", "warning", "one server alone"),
        ({"hello": HELLO | {"msg": "isdbgrid"}}, "", "topology", "ok", "sharded cluster"),
        ({}, "?journal=false", "write concern", "warning", "journal=False"),
        ({"serverStatus": {"storageEngine": {"name": "inMemory"}}}, "", "journal", "unfit", "inMemory"),
        ({}, "", "journal", "ok", "wiredTiger"),
        ({}, "", "clock", "warning", "off this machine"),
        ({"serverStatus": {"connections": {"current": 9, "available": 2}}}, "", "connections", "warning", "2 more"),
        ({}, "", "indexes", "warning", "lacks by_seq, by_id"),
    ],
)
async def test_what_examine_says_of_other_servers(changes, options, subject, level, says):
    with wire(_mongod(**changes)) as host:
        store = backend(f"mongodb://{host}/x{options}")
        findings = [finding for finding in await store.examine() if finding.subject == subject]
        await store.aclose()
    (finding,) = [finding for finding in findings if says in finding.value]
    assert finding.level == level
    assert (finding.advice is None) == (level == "ok")
