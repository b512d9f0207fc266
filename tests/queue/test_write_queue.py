"""What is accepted reaches the backend: in order, in groups, whatever befalls single writes."""

import asyncio
import gc
import logging
import weakref

import pytest
from queue_kit import make, said, say, until

from agentstore import ClosedError, CorruptRecordError, QueueFullError, RetryOptions, SchemaError, UnavailableError
from agentstore.queue.journal import format as journal_format
from agentstore.queue.journal import survey

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("puppets")]

BOTH = pytest.mark.parametrize("durability", ["memory", "journal"])


def contents(strings):
    return [[m.content for op in batch for m in op.messages] for batch in strings.batches]


@BOTH
async def test_a_lone_write_goes_at_once_and_the_rest_gathers(tmp_path, durability):
    database, strings = make(tmp_path, durability=durability, flush_interval=0.001)
    async with database:
        with strings.holding():
            await database.append("a", say("1"))
            await until(lambda: database.stats().queue.waiting == 1)
            await asyncio.sleep(0.02)
            for number in range(2, 9):
                await database.append("abc"[number % 3], say(str(number)))
            assert database.stats().queue.waiting == 8
        await database.flush()
        assert contents(strings)[0] == ["1"]
        assert sorted(contents(strings)[1]) == list("2345678")
        assert len(strings.batches) == 2
        assert database.stats().queue.groups == 2
        assert database.stats().queue.writes == 8
        assert (database.stats().queue.waiting, database.stats().queue.bytes) == (0, 0)


async def test_memory_keeps_its_pace_and_flush_hurries_it(tmp_path):
    database, strings = make(tmp_path, flush_interval=1000.0)
    async with database:
        await database.append("s", say("1"))
        await until(lambda: contents(strings) == [["1"]])
        for number in range(2, 5):
            await database.append("s", say(str(number)))
        await database.flush()
        assert contents(strings) == [["1"], ["2", "3", "4"]]
        await database.append("s", say("5"))
        assert [m.content for m in await database.pop("s")] == ["5"], "who waits hurries it too"


@BOTH
async def test_what_upsets_a_batch_is_found_and_put_aside(tmp_path, durability, caplog):
    database, strings = make(tmp_path, durability=durability)
    strings.poison.add("bad")
    async with database:
        with strings.holding():
            await database.append("s", say("0"))
            for number in range(1, 8):
                await database.append("s" if number % 2 else "t", say("bad" if number == 5 else str(number)))
            await database.state.set("k", "bad")
            await database.state.set("l", "good")
        with pytest.raises(CorruptRecordError, match="poison") as told:
            await database.flush()
        assert len(told.value.__notes__) == 1, "the other one"
        await database.flush()
        assert await said(database) == ["0", "1", "3", "7"]
        assert await said(database, "t") == ["2", "4", "6"]
        assert await database.state.get("l") == "good"
        assert database.stats().queue.rejected == 2
        await database.append("s", say("8"))
        await database.flush()
        assert await said(database) == ["0", "1", "3", "7", "8"], "later writes go on"
    (refused,) = survey.survey(tmp_path / "journals")
    assert (refused.state, len(refused.files)) == ("rejected", 2)
    assert [record for record in caplog.records if record.levelno == logging.ERROR and "refused" in record.message]


async def test_the_queue_is_bounded(tmp_path):
    database, strings = make(tmp_path, max_messages=3, timeout=0.05)
    async with database:
        with strings.holding():
            for number in range(3):
                await database.append("s", say(str(number)))
            with pytest.raises(QueueFullError, match=r"stayed full for 0.05 s: 3 messages"):
                await database.append("s", say("x"))
            with pytest.raises(QueueFullError):
                await database.state.set("k", 1)
        await database.flush()
        await database.append("s", [say(str(number)) for number in range(3, 9)])  # more than fits at all: alone
        assert await said(database) == list("012345678")


async def test_callers_wait_for_room_in_order(tmp_path):
    database, strings = make(tmp_path, max_messages=2)
    async with database:
        with strings.holding():
            await database.append("s", [say("0"), say("1")])
            tasks = [
                asyncio.create_task(database.append("s", [say(str(n)) for n in ns])) for ns in ((2, 3), (4,), (5,))
            ]
            await asyncio.sleep(0.02)
            assert not any(task.done() for task in tasks)
        await asyncio.gather(*tasks)
        assert await said(database) == list("012345")


async def test_commits_are_bounded_too(tmp_path):
    database, strings = make(tmp_path, durability="commit", max_messages=2, timeout=0.05)
    async with database:
        with strings.holding():
            tasks = [asyncio.create_task(database.append("s", say(str(number)))) for number in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(QueueFullError):
                await database.append("s", say("x"))
        await asyncio.gather(*tasks)
        assert await said(database) == ["0", "1"]


@BOTH
async def test_sets_of_one_key_coalesce(tmp_path, durability):
    database, strings = make(tmp_path, durability=durability)
    async with database:
        with strings.holding():
            await database.state.set("first", 0)
            await until(lambda: database.stats().queue.waiting == 1)
            await asyncio.sleep(0.02)
            for number in range(1000):
                await database.state.set("k", number)
                await database.state.set_many({"a": number, "b": number})
            await database.state.set("a", "last")
            assert database.stats().queue.waiting == 4
            assert await database.state.get_many(["k", "a", "b"]) == {"k": 999, "a": "last", "b": 999}
        await database.flush()
        assert [len(batch) for batch in strings.batches] == [1, 3]
        assert await database.state.get_many(["k", "a", "b"]) == {"k": 999, "a": "last", "b": 999}


@BOTH
async def test_a_cancelled_append_is_accepted_or_not(tmp_path, durability):
    database, _ = make(tmp_path, durability=durability)
    async with database:
        kept = []
        for number in range(100):
            task = asyncio.create_task(database.append("s", say(str(number))))
            for _ in range(number % 5):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            seen = await said(database)
            kept += [str(number)] if str(number) in seen else []
            assert seen == kept
            assert str(number) in kept or task.cancelled()
        await database.flush()
        assert await said(database) == kept


async def test_a_closed_database_takes_nothing(tmp_path):
    database, _ = make(tmp_path)
    async with database:
        await database.append("s", say("1"))
    with pytest.raises(ClosedError):
        await database.append("s", say("2"))


@BOTH
async def test_a_close_stores_what_is_pending(tmp_path, durability):
    database, strings = make(tmp_path, durability=durability)
    async with database:
        with strings.holding():
            for number in range(5):
                await database.append("s", say(str(number)))
            closing = asyncio.create_task(database.aclose())
            await asyncio.sleep(0.05)
            assert not closing.done()
        await closing
    assert [content for batch in contents(strings) for content in batch] == list("01234")
    assert survey.survey(tmp_path / "journals") == [], "and leaves no journal"


@BOTH
async def test_what_a_close_cannot_store_the_next_opening_does(tmp_path, durability, caplog):
    database, strings = make(tmp_path, durability=durability, close_timeout=0.05)
    async with database:
        await database.append("s", say("0"))
        await database.flush()
        strings.down = True
        for number in range(1, 5):
            await database.append("s", say(str(number)))
        await database.state.set("k", 1)
    assert "5 accepted writes are not stored yet: they are kept in" in caplog.text
    (left,) = survey.survey(tmp_path / "journals")
    assert (left.state, str(left.path) in caplog.text) == ("dead", True)
    strings.down = False
    again, _ = make(tmp_path, durability="commit")
    async with again:
        assert await said(again) == list("01234")
        assert await again.state.get("k") == 1
        assert again.stats().queue.replayed == 5 + (durability == "journal"), "what was stored before comes again"
    assert survey.survey(tmp_path / "journals") == []


@pytest.mark.parametrize("options", [{"durability": "commit"}, {}, {"durability": "commit", "fallback": "journal"}])
async def test_a_journal_of_a_newer_version_keeps_the_store_from_opening(tmp_path, monkeypatch, options):
    with monkeypatch.context() as newer:
        newer.setattr(journal_format, "VERSION", journal_format.VERSION + 1)
        database, strings = make(tmp_path, durability="journal", close_timeout=0.05)
        async with database:
            await database.append("s", say("0"))
            await database.flush()
            strings.down = True
            await database.append("s", say("1"))
        strings.down = False
    (segment,) = (tmp_path / "journals").glob("*/*/*.log")
    older, _ = make(tmp_path, **options)
    for call in (lambda: said(older), lambda: older.append("s", say("2")), older.aopen):
        with pytest.raises(SchemaError, match="Install the newer agentstore") as told:
            await call()
        assert str(segment) in str(told.value)
    await older.aclose()
    with monkeypatch.context() as newer:
        newer.setattr(journal_format, "VERSION", journal_format.VERSION + 1)
        database, _ = make(tmp_path, **options)
        async with database:
            assert await said(database) == ["0", "1"]


async def test_a_replay_brings_nothing_back(tmp_path):
    database, strings = make(tmp_path, durability="journal", close_timeout=0.05)
    other, _ = make(tmp_path, durability="commit")
    async with other, database:
        for number in range(3):
            await database.append("s", say(str(number)))
        await database.flush()
        assert len(await other.pop("s", 2)) == 2  # another process, say
        assert await other.pop("s") != []
        strings.down = True
        await database.append("s", say("3"))
        await database.aclose()
        strings.down = False
    again, _ = make(tmp_path, durability="commit")
    async with again:
        assert await said(again) == ["3"], "the journal still held what had been popped since"


async def test_a_dropped_database_still_stores_what_it_accepted(tmp_path):
    database, strings = make(tmp_path)
    await database.append("s", say("0"))
    await database.flush()
    with strings.holding():
        await database.append("s", say("1"))
        gone = weakref.ref(database)
        del database
        gc.collect()
        await until(lambda: gone() is None)
    await until(lambda: contents(strings) == [["0"], ["1"]])


async def test_flush_gives_up_after_the_deadline(tmp_path):
    database, strings = make(tmp_path, retry=RetryOptions(attempts=1, deadline=0.1), close_timeout=0.05)
    async with database:
        await database.append("s", say("0"))
        await database.flush()
        strings.down = True
        await database.append("s", say("1"))
        with pytest.raises(UnavailableError, match=r"were not stored within 0.1 s"):
            await database.flush()
        with pytest.raises(UnavailableError):
            await database.pop("s")
        strings.down = False
        await until(lambda: database.stats().queue.waiting == 0)
        assert await said(database) == ["0", "1"]
