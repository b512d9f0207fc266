"""What the face refuses, beyond what the contract suite shows."""

import pytest

from agentstore import InvalidInputError, MessageTooLargeError, db

pytestmark = pytest.mark.anyio


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
