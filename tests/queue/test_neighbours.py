"""Several Databases on one store in one process: each sees what any of them has accepted."""

import asyncio
import gc
import threading

import pytest
from queue_kit import make, said, say, until

from agentstore import QueueOptions, UnavailableError, db
from agentstore.queue.journal import survey
from agentstore.testing.common import elsewhere

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("puppets")]

KINDS = pytest.mark.parametrize("fallback", ["memory", "journal"])


@KINDS
async def test_set_up_alike_they_go_on_as_one_while_the_backend_is_down(tmp_path, fallback):
    one, strings = make(tmp_path, fallback=fallback)
    other, _ = make(tmp_path, fallback=fallback)
    async with one, other:
        with strings.holding():
            await one.append("s", say("0"))
            await until(lambda: strings.waiting)
            strings.down = True
        await until(lambda: one._stacks.sides[0].queue.down)
        assert await said(other) == ["0"]
        await other.append("s", say("1"))
        await one.append("s", say("2"))
        await other.state.set("k", 1)
        assert await said(one) == await said(other) == ["0", "1", "2"]
        assert await one.state.get("k") == 1
        assert len(survey.survey(tmp_path / "journals")) == (fallback == "journal")
        strings.down = False
        await other.flush()
        assert [message.seq for message in await one.messages("s")] == [1, 2, 3]
        assert await said(one) == ["0", "1", "2"]


async def test_set_up_differently_no_part_passes_for_the_whole(tmp_path):
    late, strings = make(tmp_path, durability="journal")
    plain, _ = make(tmp_path, durability="commit")
    async with late, plain:
        await plain.append("s", say("0"))
        with strings.holding():
            await late.append("s", say("1"))
            await until(lambda: strings.waiting)
            reading = asyncio.create_task(plain.messages("s"))
            writing = asyncio.create_task(plain.append("s", say("2")))
            listing = asyncio.create_task(plain.sessions())
            assert await said(plain, "another") == []
            assert not any(task.done() for task in (reading, writing, listing))
        assert [message.content for message in await reading][:2] == ["0", "1"]
        assert (await listing).items[0].message_count >= 2
        assert [message.seq for message in await writing] == [3]
        assert await said(late) == ["0", "1", "2"]
        strings.down = True
        await late.append("s", say("3"))
        for call in (plain.messages("s"), plain.append("s", say("4")), plain.sessions()):
            with pytest.raises(UnavailableError):
                await call
        strings.down = False
        await late.flush()
        assert await said(plain) == ["0", "1", "2", "3"]


async def test_what_a_session_became_elsewhere_in_the_process_is_known(tmp_path):
    late, _ = make(tmp_path, durability="memory")
    plain, _ = make(tmp_path, durability="commit")
    async with late, plain:
        await late.append("s", say("ann's"), user_id="ann")
        await plain.delete_session("s")
        await plain.append("s", say("bob's"), user_id="bob")
        await late.append("s", say("bob's too"), user_id="bob")
        await late.flush()
        assert await said(late) == ["bob's", "bob's too"]


async def test_one_that_closes_stores_what_was_accepted_and_leaves_the_others_open(tmp_path):
    one, strings = make(tmp_path, durability="journal")
    other, _ = make(tmp_path, durability="journal")
    async with other:
        await other.append("s", say("0"))
        with strings.holding():
            await one.append("s", say("1"))
            closing = asyncio.create_task(one.aclose())
            await until(lambda: strings.waiting)
            assert not closing.done()
        await closing
        assert [op.messages[0].content for batch in strings.batches for op in batch] == ["0", "1"]
        await other.append("s", say("2"))
        assert await said(other) == ["0", "1", "2"]
        await other.flush()
    again, _ = make(tmp_path, durability="journal")
    async with again:
        await again.append("s", say("3"))
        assert await said(again) == ["0", "1", "2", "3"]
    assert survey.survey(tmp_path / "journals") == []


async def test_one_that_is_dropped_leaves_the_others_open(tmp_path):
    one, _ = make(tmp_path)
    other, _ = make(tmp_path)
    await one.append("s", say("0"))
    await other.append("s", say("1"))
    del one
    gc.collect()
    await other.append("s", say("2"))
    await other.flush()
    assert await said(other) == ["0", "1", "2"]
    await other.aclose()


async def test_many_come_and_go(tmp_path):
    """From several threads and loops; whoever is last closes, and whoever comes then begins anew."""

    async def visit(number):
        for turn in range(10):
            database, _ = make(tmp_path, durability="memory")
            async with database:
                await database.append(f"s{number}", say(str(turn)))
                assert await said(database, f"s{number}") == [str(n) for n in range(turn + 1)]

    async def visits(numbers):
        await asyncio.gather(*map(visit, numbers))

    errors = []

    def run(numbers):
        try:
            asyncio.run(visits(numbers))
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=run, args=(range(first, first + 4),)) for first in (0, 4, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert errors == []
    database, _ = make(tmp_path, durability="memory")
    async with database:
        assert [await said(database, f"s{number}") for number in range(12)] == [[str(n) for n in range(10)]] * 12


async def test_a_file_is_one_store_under_all_its_names(tmp_path):
    (tmp_path / "name").symlink_to(tmp_path / "store.db")
    queue = QueueOptions(journal_dir=tmp_path / "journals", flush_interval=0.5)
    async with (
        db(f"sqlite:///{tmp_path}/store.db", durability="memory", queue=queue) as one,
        db(f"sqlite:///{tmp_path}/name") as other,
    ):
        await one.append("s", say("0"))
        assert await said(other) == ["0"]


async def test_databases_of_other_settings_share_nothing_but_what_is_pending(tmp_path):
    one, _ = make(tmp_path, durability="memory")
    other, _ = make(tmp_path, durability="memory", max_messages=7)
    async with one, other:
        assert one._stacks.sides[0] is not other._stacks.sides[0]
        await one.append("s", say("0"))
        await other.append("s", say("1"))
        await one.append("s", say("2"))
        assert await said(one) == await said(other) == ["0", "1", "2"]


async def test_as_in_another_process_nothing_is_known(tmp_path):
    """`elsewhere`, on which other tests lean."""
    one, strings = make(tmp_path, durability="memory")
    other, _ = make(tmp_path, durability="memory")
    async with one, elsewhere(other):
        with strings.holding():
            await one.append("s", say("0"))
            await until(lambda: strings.waiting)
            assert await said(other) == []
