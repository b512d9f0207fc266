"""Every read sees what was accepted, though the backend does not come back from its first write."""

import asyncio

import pytest
from queue_kit import make, said, say, until

from agentstore import AccessDeniedError

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("puppets")]


@pytest.fixture(params=["memory", "journal"])
async def pair(request, tmp_path):
    database, strings = make(tmp_path, durability=request.param)
    async with database:
        await database.append("s", [say("one"), say("two")], user_id="ann", agent="a", metadata={"m": 1})
        await database.state.set_many({"a": 1, "b": 2, "d": 4})
        await database.flush()
        strings.held = True
        yield database, strings
        strings.held = False


async def test_pending_messages_come_after_the_stored_ones(pair):
    database, strings = pair
    given = await database.append("s", say("three"))
    await database.append("s", [say("four"), say("five")])
    assert [m.seq for m in given] == [None]
    assert await said(database) == ["one", "two", "three", "four", "five"]
    assert [m.seq for m in await database.messages("s")] == [1, 2, None, None, None]
    assert await said(database, limit=4) == ["two", "three", "four", "five"]
    assert await said(database, limit=2) == ["four", "five"]
    assert await said(database, limit=0) == []
    assert await said(database, after=1) == ["two", "three", "four", "five"]
    assert await said(database, after=1, limit=2) == ["two", "three"]
    assert await said(database, after=2, limit=2) == ["three", "four"]
    assert await said(database, after=99) == ["three", "four", "five"]
    assert await said(database, before=3) == ["one", "two"]
    assert await said(database, before=2, limit=5) == ["one"]
    assert [m.content async for m in database.iter_messages("s", batch_size=2)] == [
        "one", "two", "three", "four", "five",
    ]  # fmt: skip
    strings.held = False
    await database.flush()
    assert [m.seq for m in await database.messages("s")] == [1, 2, 3, 4, 5]
    assert await said(database) == ["one", "two", "three", "four", "five"]


async def test_a_session_is_as_it_will_be(pair):
    database, strings = pair
    stored = await database.session("s")
    await database.append("s", say("three"), metadata={"n": 2}, ttl=1000)
    await database.append("t", [say("x"), say("y")], user_id="bob", agent="b")
    seen = await database.session("s")
    assert (seen.message_count, seen.last_seq, seen.metadata) == (3, stored.last_seq, {"m": 1, "n": 2})
    assert seen.updated_at > stored.updated_at
    assert (seen.expires_at - seen.updated_at).total_seconds() == 1000
    new = await database.session("t")
    assert (new.user_id, new.agent, new.message_count, new.last_seq) == ("bob", "b", 2, 0)
    strings.held = False
    await database.flush()
    assert (await database.session("s")).message_count == 3
    assert (await database.session("t")).last_seq == 2


async def test_listings_have_pending_sessions_first(pair):
    database, _ = pair
    assert [s.id for s in (await database.sessions()).items] == ["s"]
    await database.append("t", say("x"), user_id="bob")
    await database.append("u", say("x"), user_id="ann")
    await database.append("s", say("again"))
    assert [(s.id, s.message_count) for s in (await database.sessions()).items] == [("s", 3), ("u", 1), ("t", 1)]
    assert [s.id for s in (await database.sessions(user_id="ann")).items] == ["s", "u"]
    assert [s.id for s in (await database.sessions(agent="a")).items] == ["s"]
    first = await database.sessions(limit=2)
    assert [s.id for s in first.items] == ["s", "u"]
    rest = await database.sessions(limit=2, cursor=first.next_cursor)
    assert ([s.id for s in rest.items], rest.next_cursor) == (["t"], None)


async def test_state_is_as_it_will_be(pair):
    database, strings = pair
    state = database.state
    assert await state.set("b", [20]) == 0
    await state.set_many({"c": 3, "e": b"5"})
    await state.set("x", "short", ttl=0.01)
    assert await state.get_many(list("abcde")) == {"a": 1, "b": [20], "c": 3, "d": 4, "e": b"5"}
    assert [(i.key, i.version) for i in await state.scan()][:3] == [("a", 1), ("b", 0), ("c", 0)]
    assert [i.key for i in await state.scan(limit=2)] == ["a", "b"]
    assert [i.key for i in await state.scan(after="b", limit=2)] == ["c", "d"]
    assert [i.key for i in await state.scan(reverse=True, after="e")] == ["d", "c", "b", "a"]
    assert [i.key for i in await state.scan("c")] == ["c"]
    assert await state.scope("other").scan() == []
    (await state.get("b")).append("changed")
    assert await state.get("b") == [20], "values are copies"
    async with asyncio.timeout(10):
        while await state.get("x") is not None:
            await asyncio.sleep(0.002)
    assert [i.key for i in await state.scan("x")] == []
    strings.held = False
    await database.flush()
    assert await state.get_many(list("abcde")) == {"a": 1, "b": [20], "c": 3, "d": 4, "e": b"5"}


async def test_an_expired_pending_set_hides_the_older_value(pair):
    database, _ = pair
    await database.state.set("a", "short", ttl=0.01)
    async with asyncio.timeout(10):
        while await database.state.get("a") is not None:
            await asyncio.sleep(0.002)
    assert [i.key for i in await database.state.scan(limit=2)] == ["b", "d"]


async def test_a_known_id_is_not_seen_twice(pair):
    database, strings = pair
    first = (await database.messages("s"))[0]
    await database.append("s", say("new"))
    await database.append("s", say("changed", id=first.id))
    await database.append("s", say("changed again", id=first.id))
    assert await said(database) == ["one", "two", "new"]
    assert await said(database, limit=2) == ["two", "new"], "also when the original is out of sight"
    assert (await database.session("s")).message_count == 3
    assert await database.find("s", [first.id, "none"]) == {first.id: first}
    strings.held = False
    await database.flush()
    assert await said(database) == ["one", "two", "new"]


async def test_another_user_is_turned_away_at_once(pair):
    database, _ = pair
    with pytest.raises(AccessDeniedError):
        await database.append("s", say("x"), user_id="bob")
    await database.append("t", say("x"), user_id="bob")
    for call in (database.append("t", say("y"), user_id="ann"), database.messages("t", user_id="ann")):
        with pytest.raises(AccessDeniedError):
            await call
    with pytest.raises(AccessDeniedError):
        await database.session("t", user_id="ann")
    assert await said(database, "t", user_id="bob") == ["x"]


async def test_what_cannot_be_deferred_waits_for_what_was(pair):
    database, strings = pair
    await database.append("s", [say("three"), say("four")])
    await database.state.set("n", 5)
    calls = {
        "pop": asyncio.create_task(database.pop("s", 3)),
        "increment": asyncio.create_task(database.state.increment("n")),
        "delete": asyncio.create_task(database.state.delete("a")),
    }
    await until(lambda: len(strings.batches) == 2)
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in calls.values())
    assert await said(database) == ["one", "two", "three", "four"]
    strings.held = False
    assert [m.content for m in await calls["pop"]] == ["two", "three", "four"]
    assert await calls["increment"] == 6
    assert await calls["delete"] is True
    assert await said(database) == ["one"]


@pytest.mark.parametrize(
    "call",
    [
        lambda d: d.clear("s"),
        lambda d: d.fork("s", "copy"),
        lambda d: d.update_session("s", title="t"),
        lambda d: d.export_session("s"),
        lambda d: d.append("s", say("expects"), expected_seq=3),
        lambda d: d.delete_session("s"),
    ],
)
async def test_each_sees_what_is_pending(pair, call):
    database, strings = pair
    await database.append("s", say("three"))
    task = asyncio.create_task(call(database))
    await asyncio.sleep(0.02)
    strings.held = False
    result = await task
    match result:
        case dict():
            assert [m["seq"] for m in result["messages"]] == [1, 2, 3]
        case bool():
            assert result
            assert await said(database) == []
        case int():
            assert result == 3
        case list():
            assert [m.seq for m in result] == [4]
        case _:
            assert result.message_count == 3
