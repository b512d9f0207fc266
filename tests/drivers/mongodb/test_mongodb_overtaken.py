"""Others come between: writers are overtaken, readers see what is whole, purges find what is left."""

from datetime import timedelta

import pytest
from mongodb_kit import FIRST, append, begun, dying, head, say, tables, texts

from agentstore.drivers.mongodb import heads, purge, reads
from agentstore.drivers.mongodb.heads import MOST_OPEN
from agentstore.errors import ConflictError, CorruptRecordError
from agentstore.protocol import Read
from agentstore.records import Session

pytestmark = pytest.mark.anyio


async def test_an_overtaken_append_is_stored_once_and_leaves_nothing(pair, url):
    writer, other = pair
    await begun(other)

    async def overtake(number):
        if writer.count == number and len(overtakers) > 0:
            await other.append([append(overtakers.pop())])

    overtakers = ["o1", "o2", "o3"]
    writer.arm(before=overtake)
    ((stored,),) = await writer.backend.append([append("mine")])
    assert overtakers == []
    assert sorted((await texts(other))[5:]) == ["mine", "o1", "o2", "o3"]
    assert stored.seq == (await head(other)).last_seq
    with tables(url) as database:
        assert database.agentstore_messages.count_documents({}) == 9


async def test_an_overtaken_pop_takes_the_newest(pair):
    writer, other = pair
    await begun(other)
    late = ["late"]

    async def overtake(_):
        if late:
            await other.append([append(late.pop())])

    writer.arm(before=overtake)
    assert [message.content for message in await writer.backend.pop("s", 2)] == ["m5", "late"]
    assert await texts(other) == FIRST[:4]


async def test_a_group_in_which_one_session_is_overtaken(pair):
    writer, other = pair
    late = ["late"]

    async def overtake(_):
        if late:
            await other.append([append(late.pop(), session_id="2")])

    await other.append([append("old", session_id=str(number)) for number in range(5)])
    writer.arm(before=overtake)
    outcomes = await writer.backend.append([append("new", session_id=str(number)) for number in range(10)])
    assert [[message.seq for message in outcome] for outcome in outcomes] == [[2], [2], [3], [2], [2]] + [[1]] * 5
    assert await texts(other, "2") == ["old", "late", "new"]
    assert [await texts(other, str(number)) for number in (0, 9)] == [["old", "new"], ["new"]]


async def test_a_read_while_others_remove_is_whole(pair, monkeypatch):
    """Between the head and the messages a pop commits, and has deleted but one of what it took."""
    _, other = pair
    await begun(other)
    plain = reads._range

    async def late(tables, asked):
        monkeypatch.setattr(reads, "_range", plain)
        fourth = await tables.messages.find_one({"log": asked.head.log, "place": 4})
        await other.pop("s", 3)
        await tables.messages.insert_one(fourth)
        found = await plain(tables, asked)
        assert [entry["place"] for entry in found][-1:] == [4], "out of place"
        await tables.messages.delete_one({"_id": fourth["_id"]})
        return found

    for bounds in ({}, {"limit": 4}, {"after": 1}, {"before": 5, "limit": 3}):
        await other.delete("s")
        await begun(other)
        first = (await other.read([Read("s")]))[0][0].seq
        shifted = {name: value + (first - 1 if name != "limit" else 0) for name, value in bounds.items()}
        monkeypatch.setattr(reads, "_range", late)
        found = await texts(other, **shifted)
        assert found in (["m1", "m2"], ["m2"]), bounds


async def test_lost_messages_are_an_error_and_no_answer(pair, url):
    _, other = pair
    await begun(other)
    with tables(url) as database:
        database.agentstore_messages.delete_one({"seq": 3})
    for bounds in ({}, {"limit": 4}, {"after": 1}, {"before": 5}):
        with pytest.raises(CorruptRecordError, match="missing"):
            await texts(other, **bounds)
    with pytest.raises(CorruptRecordError, match="missing"):
        await other.pop("s", 4)
    assert await texts(other, limit=2) == ["m4", "m5"]
    assert [message.content for message in await other.pop("s", 1)] == ["m5"]
    assert await other.clear("s") == 4


async def test_strays_of_dead_writers_are_purged(pair, url, monkeypatch):
    writer, other = pair
    await begun(other)
    assert await dying(writer, 1, lambda: writer.backend.append([append("a", "b")]), after=True)
    assert await dying(writer, 1, lambda: writer.backend.append([append("c", session_id="never")]), after=True)
    with tables(url) as database:
        messages = database.agentstore_messages
        assert messages.count_documents({}) == 8
        await other.purge_sessions()
        assert messages.count_documents({}) == 8, "it may still be at work"
        monkeypatch.setattr(purge, "_IN_FLIGHT", timedelta(seconds=-2))
        await other.purge_sessions()
        assert sorted(document["content"] for document in messages.find()) == FIRST
    assert await texts(other) == FIRST


@pytest.mark.parametrize("before", [FIRST, []], ids=["there", "new"])
async def test_a_writer_that_sleeps_until_it_is_purged_commits_nothing_empty(pair, monkeypatch, before):
    writer, other = pair
    if before:
        await begun(other)
    monkeypatch.setattr(purge, "_IN_FLIGHT", timedelta(seconds=-2))

    async def purged(number):
        if number == 2:  # its messages are there, its head is not
            await other.purge_sessions()

    writer.arm(before=purged)
    ((stored,),) = await writer.backend.append([append("late")])
    assert await texts(other) == [*before, "late"]
    assert (await head(other)).last_seq == stored.seq


async def test_a_purge_keeps_the_head_that_has_lost_its_version(pair, url, monkeypatch):
    writer, other = pair
    await begun(other)
    assert await dying(writer, 1, lambda: writer.backend.append([append("a")]), after=True)
    with tables(url) as database:
        database.agentstore_sessions.update_one({}, {"$unset": {"version": ""}})
    monkeypatch.setattr(purge, "_IN_FLIGHT", timedelta(seconds=-2))
    await other.purge_sessions()
    assert await texts(other) == FIRST


@pytest.mark.parametrize("others", [[], ["o1"], [f"o{number}" for number in range(12)]], ids=len)
@pytest.mark.parametrize("restores", [False, True])
async def test_a_commit_that_a_server_refuses_when_it_is_sent_again(pair, url, monkeypatch, others, restores):
    """As where a lost answer makes the driver send it twice, and the server does not know it again."""
    writer, other = pair
    plain = heads.replace

    async def twice(collection, documents):
        monkeypatch.setattr(heads, "replace", plain)
        assert await plain(collection, documents) == set()
        for text in others:
            await other.append([append(text)])
        return await plain(collection, documents)

    monkeypatch.setattr(heads, "replace", twice)
    if not restores:
        ((stored,),) = await writer.backend.append([append("mine")])
        assert stored.seq == 1
    elif len(others) < MOST_OPEN:
        await writer.backend.restore(Session("s", last_seq=1), [say("mine", seq=1)])
    else:
        with pytest.raises(ConflictError):  # by then it cannot tell; but it destroys nothing
            await writer.backend.restore(Session("s", last_seq=1), [say("mine", seq=1)])
    assert await texts(other) == ["mine", *others]
    with tables(url) as database:
        assert database.agentstore_messages.count_documents({}) == 1 + len(others)
