"""What the face refuses, beyond what the contract suite shows."""

import asyncio
from datetime import UTC, datetime
from types import MappingProxyType

import pytest

from agentstore import InvalidInputError, Message, MessageTooLargeError, db

pytestmark = pytest.mark.anyio

HUGE = 10**5000  # Python refuses to print so many digits


@pytest.fixture
async def database():
    async with db("memory:") as opened:
        yield opened


async def test_several_keys_are_no_single_str(database):
    for call in (database.state.get_many, database.state.delete_many):
        with pytest.raises(InvalidInputError, match="Put it into a list"):
            await call("abc")


async def test_set_many_takes_a_mapping(database):
    with pytest.raises(InvalidInputError, match="takes a mapping"):
        await database.state.set_many([("a", 1)])


async def test_merged_metadata_stays_below_the_limit(database):
    part = "x" * (5 * 2**20)
    await database.append("s", [], metadata={"a": part})
    with pytest.raises(MessageTooLargeError, match="metadata"):
        await database.append("s", {"role": "user", "content": "hi"}, metadata={"b": part})
    session = await database.session("s")
    assert (session.metadata, session.message_count) == ({"a": part}, 0)


async def test_none_empties_a_sessions_metadata(database):
    await database.append("s", [], metadata={"a": 1})
    assert (await database.update_session("s", metadata=None)).metadata == {}


async def test_an_import_beyond_64_bits_is_refused(database):
    await database.append("s", {"role": "user", "content": "hi"})
    data = await database.export_session("s")
    data["session"]["id"] = "other"
    data["session"]["last_seq"] = data["messages"][0]["seq"] = 2**63
    with pytest.raises(InvalidInputError, match="no seq is above"):
        await database.import_session(data)
    assert await database.session("other") is None


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda data: data.update(format="x"), "its format is not"),
        (lambda data: data.update(version=2), "version 2"),
        (lambda data: data.pop("messages"), "lacks"),
        (lambda data: data["session"].update(colour="red"), "no Session"),
        (lambda data: data["session"].update(created_at="2026-01-01T00:00:00"), "time zone"),
        (lambda data: data["session"].update(created_at=None), "Session.created_at must be a datetime"),
        (lambda data: data["session"].update(updated_at=None), "Session.updated_at must be a datetime"),
        (lambda data: data["session"].update(updated_at=5), "Session.updated_at must be a datetime"),
        (lambda data: data["session"].update(created_at="0001-01-01T00:00:00+05:00"), "UTC has no date"),
        (lambda data: data["session"].update(updated_at="9999-12-31T00:00:00+00:00"), "no time beyond 8999"),
        (lambda data: data["session"].update(expires_at="2020-01-01T00:00:00+00:00"), "Session.expires_at"),
        (lambda data: data["session"].update(message_count=HUGE), "message_count"),
        (lambda data: data["session"].update(last_seq=-HUGE), "last_seq"),
        (lambda data: data["messages"][0].update(seq=HUGE), "seq"),
        (lambda data: data.update(version=HUGE), "version an int of"),
        (lambda data: data["session"].update(message_count=7), "7 messages were announced"),
        (lambda data: data["session"].update(last_seq=1), "above the session's last_seq"),
        (lambda data: data["messages"].reverse(), "not in order of seq"),
        (lambda data: data["messages"][1].update(id=data["messages"][0]["id"]), "comes twice"),
        (lambda data: data["messages"][0].update(metadata={"a": float("nan")}), "JSON cannot carry"),
    ],
)
async def test_a_spoilt_export_is_refused_and_nothing_stored(database, spoil, told):
    await database.append("s", [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}])
    data = await database.export_session("s")
    await database.delete_session("s")
    spoil(data)
    with pytest.raises(InvalidInputError, match=told):
        await database.import_session(data)
    assert (await database.sessions()).items == ()


async def test_an_import_from_another_time_zone_is_in_utc_and_equal_the_next_time(database):
    await database.append("s", {"role": "user", "content": "hi"})
    data = await database.export_session("s")
    data["session"].update(id="east", created_at="2026-01-01T05:00:00+05:00")
    assert await database.import_session(data) == "east"
    assert await database.import_session(data) == "east"
    session = await database.session("east")
    assert session.created_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert session.created_at.tzinfo is UTC


async def test_an_append_takes_any_mapping(database):
    message = MappingProxyType({"role": "user", "content": "hi", "metadata": {"a": 1}})
    stored = [*await database.append("s", message), *await database.append("s", [message])]
    assert [(m.content, m.metadata) for m in stored] == [("hi", {"a": 1})] * 2


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda d: d.append("s", None), "messages"),
        (lambda d: d.append("s", 5), "messages"),
        (lambda d: d.append("s", ["text"]), "messages"),
        (lambda d: d.append("s", [], ttl=HUGE), "ttl"),
        (lambda d: d.append("s", [], expected_seq=HUGE), "expected_seq"),
        (lambda d: d.append("s", Message("user", "hi", metadata=5)), "Message.metadata"),
        (lambda d: d.append("s", Message("user", "hi", metadata={"a": HUGE})), "Message.metadata"),
        (lambda d: d.append("s", Message("user", "hi", name=5)), "Message.name"),
        (lambda d: d.append("s", {"role": "user", "content": "hi", "created_at": 5}), "Message.created_at"),
        (lambda d: d.append("s", {"role": "user", "content": "hi", "tool_calls": 5}), "Message.tool_calls"),
        (lambda d: d.messages("s", limit=HUGE), "limit"),
        (lambda d: d.messages("s", before=-HUGE), "before"),
        (lambda d: d.messages("s", after=HUGE), "after"),
        (lambda d: d.pop("s", HUGE), "count"),
        (lambda d: d.fork("s", upto=HUGE), "upto"),
        (lambda d: d.sessions(limit=HUGE), "limit"),
        (lambda d: d.sessions(cursor=HUGE), "cursor"),
        (lambda d: d.update_session("s", ttl=HUGE), "ttl"),
        (lambda d: d.update_session("s", title=5), "title"),
        (lambda d: d.state.get_many(5), "keys"),
        (lambda d: d.state.get_many(None), "keys"),
        (lambda d: d.state.delete_many(None), "keys"),
        (lambda d: d.state.set([], 1), "key"),
        (lambda d: d.state.set("k", 1, ttl=HUGE), "ttl"),
        (lambda d: d.state.set("k", 1, if_version=HUGE), "if_version"),
        (lambda d: d.state.set("k", HUGE), "value"),
        (lambda d: d.state.delete("k", if_version=-HUGE), "if_version"),
        (lambda d: d.state.scan(None), "prefix"),
        (lambda d: d.state.scan(limit=HUGE), "limit"),
        (lambda d: d.state.scan(reverse=None), "reverse"),
        (lambda d: d.state.increment("k", HUGE), "by"),
        (lambda d: d.state.increment("k", [HUGE]), "by"),
        (lambda d: d.state.expire("k", -HUGE), "ttl"),
    ],
)
async def test_a_wrong_argument_is_named(database, call, named):
    with pytest.raises(InvalidInputError, match=f"^{named}\\b"):
        await call(database)
    assert (await database.sessions()).items == ()
    assert await database.state.scan() == []


def _from_below(levels, call):
    return call() if not levels else _from_below(levels - 1, call)


def test_memory_copies_without_the_callers_stack():
    value = 1
    for _ in range(198):
        value = [value]

    async def use():
        async with db("memory:") as database:
            await database.append(
                "s", {"role": "user", "content": [value], "metadata": {"a": value}}, metadata={"a": value}
            )
            assert (await database.messages("s"))[0].content[0] is not value
            assert (await database.session("s")).metadata["a"] is not value
            assert (await database.export_session("s"))["session"]["metadata"]["a"] is not value
            await database.update_session("s", metadata={"b": value})
            await database.state.set("k", value)
            assert await database.state.get("k") is not value
            assert (await database.state.scan())[0].value is not value

    _from_below(650, lambda: asyncio.run(use()))
