"""The index over the JSON logs: it can always be made anew, and keeps costs flat."""

import sqlite3
from datetime import UTC, datetime, timedelta

import pytest
from json_kit import add, backend, log_of, remove_index, texts

from agentstore.drivers.json import files
from agentstore.errors import UnavailableError
from agentstore.protocol import Append, DeleteKeys, GetItems, Increment, Listing, Read, SetItems
from agentstore.records import Message, Session

pytestmark = pytest.mark.anyio


async def fill(store):
    await add(store, "s", "one", "two", user_id="ann")
    await store.pop("s", 1)
    await add(store, "s", "three", metadata={"a": 1})
    await add(store, "gone", "x")
    await store.delete("gone")
    await store.write_items([SetItems("n", {"k": 1, "j": "two"}), Increment("n", "k"), DeleteKeys("n", ("j",))])


async def everything(store):
    return (
        await store.read([Read("s"), Read("gone")]),
        await store.list_sessions(Listing()),
        await store.get_items([GetItems("n", ("k", "j"))]),
    )


@pytest.mark.parametrize("how", ["deleted", "garbage", "empty", "file only", "older"])
@pytest.mark.parametrize("live", [False, True])
async def test_the_index_is_made_anew(folder, store, how, live, tmp_path):
    await add(store, "s", "zero", user_id="ann")
    old = tmp_path / "old.db"
    with sqlite3.connect(folder / "index.db") as source:
        source.execute("VACUUM INTO ?", (str(old),))
    source.close()
    await fill(store)
    expected = await everything(store)
    if not live:
        await store.aclose()
    if how == "file only":
        (folder / "index.db").unlink()
    else:
        remove_index(folder)
        content = {"deleted": None, "garbage": b"no database " * 1000, "empty": b"", "older": old.read_bytes()}[how]
        if content is not None:
            (folder / "index.db").write_bytes(content)
    again = store if live else backend(folder)
    assert await everything(again) == expected
    assert [m.seq for m in await add(again, "gone", "y")] == [2]
    [version] = await again.write_items([SetItems("n", {"j": 1})])
    assert version == 2
    await again.aclose()


async def test_an_index_page_that_is_damaged_while_open_is_an_error_once(folder, store):
    await fill(store)
    expected = await everything(store)
    with sqlite3.connect(folder / "index.db") as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    await store.aclose()
    with (folder / "index.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (file.seek(0, 2) - 4096))
    again = backend(folder)
    for _ in range(3):
        try:
            assert await everything(again) == expected
            break
        except UnavailableError as error:
            assert "index.db" in str(error)  # noqa: PT017  it may be found at opening, or later
    else:
        pytest.fail("the index was not made anew")
    await again.aclose()


async def test_logs_that_came_or_went_while_closed_are_noticed(folder, store, tmp_path):
    await add(store, "s", "one")
    await add(store, "t", "two")
    await store.aclose()
    aside = tmp_path / "aside"
    log_of(folder, "t").rename(aside)
    again = backend(folder)
    assert [s.id for s in (await again.list_sessions(Listing())).items] == ["s"]
    await again.aclose()
    aside.rename(log_of(folder, "t"))
    again = backend(folder)
    assert {s.id for s in (await again.list_sessions(Listing())).items} == {"s", "t"}
    assert await texts(again, "t") == ["two"]
    await again.aclose()


async def test_cost_does_not_grow_with_the_session(folder, monkeypatch):
    store = backend(folder, size=1)  # one reader, whose steps are counted
    read = []
    original = files.read_spans

    def counted(file, spans):
        read.append(len(spans))
        assert len(spans) <= 50
        return original(file, spans)

    monkeypatch.setattr("agentstore.drivers.json.logs.read_spans", counted)
    replayed = []
    groups = files.groups
    monkeypatch.setattr("agentstore.drivers.json.logs.groups", lambda *a: replayed.append(a) or groups(*a))

    costs = {}
    for size in (200, 5_000):
        session = f"s{size}"
        await store.append([Append(session, tuple(Message("user", "x", id=str(n)) for n in range(size)))])
        steps = 0

        def step():
            nonlocal steps
            steps += 1

        connection = await store._write(store._folder.reading)
        connection.set_progress_handler(step, 10)
        reader = await store._read(store._folder.reading)
        reader.set_progress_handler(step, 10)
        read.clear()
        assert len(await texts(store, session, limit=50)) == 50
        [outcome] = await store.append([Append(session, (Message("user", "again", id="7"),))])
        assert outcome[0].content == "x"
        await add(store, session, "new")
        turn = (Message("user", "again", id="7"), Message("assistant", "again", id="8"))
        assert [m.content for m in (await store.append([Append(session, turn)]))[0]] == ["x", "x"]
        await store.append([Append(session, (Message("user", "y"), Message("assistant", "z")))])
        costs[size] = (sum(read), steps)
        connection.set_progress_handler(None, 0)
        reader.set_progress_handler(None, 0)
    assert costs[200][0] == costs[5_000][0] == 53
    assert costs[5_000][1] <= costs[200][1] * 1.5 + 5
    assert replayed == []
    await store.aclose()


async def test_restored_and_expired_sessions_survive_a_new_index(folder, store):
    then = datetime(2020, 1, 1, tzinfo=UTC)
    await store.restore(
        Session("s", created_at=then, updated_at=then, last_seq=9, message_count=1), [Message("user", "x", seq=4)]
    )
    await add(store, "e", "y", ttl=timedelta(microseconds=1))
    [first] = await add(store, "e", "again")
    assert first.seq == 2
    remove_index(folder)
    [message] = (await store.read([Read("s")]))[0]
    assert (message.seq, [m.seq for m in await add(store, "s", "y")]) == (4, [10])
    assert await texts(store, "e") == ["again"]


async def test_versions_of_a_key_removed_and_set_in_one_batch_stay_used(folder, store):
    await store.write_items([SetItems("n", {"k": n}) for n in range(5)])
    assert await store.write_items([DeleteKeys("n", ("k",)), SetItems("n", {"k": 1})]) == [1, 6]
    remove_index(folder)
    assert await store.write_items([SetItems("n", {"new": 1})]) == [6]
