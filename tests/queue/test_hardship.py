"""Several misfortunes at once: whatever was accepted is stored once and in order, or put aside and told."""

import asyncio
import gc
import logging
import subprocess
import sys
import threading
import weakref

import pytest
from queue_kit import make, said, say, until

from agentstore import (
    AccessDeniedError,
    CorruptRecordError,
    Message,
    QueueFullError,
    QueueOptions,
    UnavailableError,
    db,
)
from agentstore.protocol import Append
from agentstore.queue.bounds import Bounds
from agentstore.queue.drain import outcomes
from agentstore.queue.journal import survey
from agentstore.queue.journal.folder import Folder
from agentstore.queue.journal.segments import Segments
from agentstore.queue.life import _loop

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("puppets")]


@pytest.fixture
def disk(monkeypatch):
    """The journals' disk: it can be full, or slow."""

    class Disk:
        full = False
        free = threading.Event()
        waits = threading.Event()

    plain = Segments.append

    def append(self, group):
        if not Disk.free.is_set():
            Disk.waits.set()
            assert Disk.free.wait(20)
        if Disk.full:
            raise OSError(28, "No space left on device")
        return plain(self, group)

    Disk.free.set()
    Disk.waits.clear()
    monkeypatch.setattr(Segments, "append", append)
    return Disk


async def test_what_is_on_its_way_into_the_journal_is_not_overtaken(tmp_path, disk):
    database, strings = make(tmp_path, fallback="journal")
    async with database:
        await database.append("s", say("0"))
        await database.flush()
        strings.down = True
        await database.append("other", say("pending"))
        await until(lambda: database._stacks.sides[0].queue.down)
        disk.free.clear()
        first = asyncio.create_task(database.append("s", say("1")))
        await until(disk.waits.is_set)
        strings.down = False
        await until(lambda: not database._stacks.sides[0].queue.down)
        second = asyncio.create_task(database.append("s", say("2")))
        await asyncio.sleep(0.1)
        disk.free.set()
        await asyncio.gather(first, second)
        await database.flush()
        assert await said(database) == ["0", "1", "2"]


async def test_a_full_disk_while_the_backend_is_down(tmp_path, disk):
    database, strings = make(tmp_path, fallback="journal", close_timeout=0.05)
    async with database:
        await database.append("s", say("0"))
        await database.flush()
        strings.held = True
        await database.append("s", say("1"))
        await database.append("s", say("2"))
        strings.down, strings.held = True, False
        await until(lambda: database._stacks.sides[0].queue.down)
        disk.full = True
        with pytest.raises(UnavailableError, match="cannot be written"):
            await database.append("s", say("refused"))
        disk.full = False
        await database.append("s", say("3"))
    strings.down = False
    again, _ = make(tmp_path, durability="commit")
    async with again:
        assert await said(again) == ["0", "1", "2", "3"]
    assert survey.survey(tmp_path / "journals") == []


async def test_a_backend_that_goes_while_the_bad_one_is_looked_for():
    seen = []

    async def store(ops):
        seen.append([op.session_id for op in ops])
        if len(ops) > 2:
            raise CorruptRecordError("bad")
        if len(seen) == 2:
            raise UnavailableError("gone for a moment")
        return [[] for _ in ops]

    told = await outcomes(store, [Append(str(number)) for number in range(4)])
    assert [type(outcome) for outcome in told] == [UnavailableError] * 4, "a later one would pass its mark"


async def test_one_that_was_overtaken_is_stored_all_the_same(tmp_path, monkeypatch):
    database, _ = make(tmp_path)
    async with database:
        side = database._stacks.sides[0]
        await database.append("s", say("0"))
        await database.flush()
        plain, lost = type(side.below).append, [say("1").content]

        async def append(self, batch):
            told = await plain(self, [op for op in batch if op.messages[0].content not in lost])
            told = iter(told)
            return [UnavailableError("no") if op.messages[0].content in lost else next(told) for op in batch]

        monkeypatch.setattr(side.queue.hands[0], "_store", lambda batch: append(side.below, batch))
        for text in "12":
            await database.append("s", say(text))
        await until(lambda: side.queue.down)
        lost.clear()
        await database.flush()
        assert sorted(await said(database)) == ["0", "1", "2"]


async def test_what_is_refused_and_cannot_be_put_aside_is_kept(tmp_path, monkeypatch, caplog):
    database, strings = make(tmp_path)
    strings.poison.add("bad")
    plain = Folder.reject

    def reject(*_):
        raise UnavailableError("the disk is full")

    monkeypatch.setattr(Folder, "reject", reject)
    async with database:
        with strings.holding():
            await database.append("s", say("0"))
            await database.append("s", say("bad"))
            await database.append("s", say("1"))
        await until(lambda: len(strings.batches) > 1)
        await until(lambda: "cannot be put aside" in caplog.text)
        assert "cannot be reached" not in caplog.text, "it is the disk that fails"
        assert database.stats().queue.rejected == 0
        monkeypatch.setattr(Folder, "reject", plain)
        with pytest.raises(CorruptRecordError, match="poison"):
            await database.flush()
        assert await said(database) == ["0", "1"]
        assert database.stats().queue.rejected == 1
        assert database.stats().queue.writes == 2


async def test_one_line_when_it_goes_and_one_when_it_is_back(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "agentstore")
    database, _ = make(tmp_path)
    async with database:
        side = database._stacks.sides[0]
        await database.append("s", say("0"))
        await database.flush()
        lost, plain, calls = {"lost"}, side.below.append, []

        async def append(batch):
            calls.append(batch)
            told = await plain([op for op in batch if op.session_id not in lost])
            told = iter(told)
            return [UnavailableError("its shard is down") if op.session_id in lost else next(told) for op in batch]

        monkeypatch.setattr(side.queue.hands[0], "_store", append)
        await database.append("lost", say("0"))
        await until(lambda: side.queue.down)
        for number in range(1, 4):
            await database.append("s", say(str(number)))
            await until(lambda number=number: len(strings_of(side)) == number + 1)
        lost.clear()
        await database.flush()
    lines = [r.message for r in caplog.records if r.name == "agentstore.queue.write_queue"]
    assert [("cannot be reached" in line, "is back:" in line) for line in lines] == [(True, False), (False, True)]


def strings_of(side):
    return side.below._inner._inner._logs.get("s", ())


# --- ends ---

FORKED = """
import asyncio, os, sys, warnings
from agentstore import QueueOptions, db
warnings.simplefilter("ignore")
folder, durability = sys.argv[1:]
queue = QueueOptions(journal_dir=f"{folder}/journal")
database = db(f"sqlite:///{folder}/store.db", durability=durability, queue=queue)
children = []  # of the process that has made it
for name in "ab":
    if not (child := os.fork()):
        for number in range(20):
            database.sync.append("s", {"role": "user", "content": f"{name}{number}"})
        sys.exit()  # without a close
    children.append(child)
    if name == "a":
        os.waitpid(child, 0)
os.waitpid(children[-1], 0)
"""


@pytest.mark.parametrize("durability", ["memory", "journal"])
async def test_a_database_made_before_a_fork_serves_each_child(tmp_path, durability):
    command = [sys.executable, "-c", FORKED, str(tmp_path), durability]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: ASYNC221
    assert (done.returncode, done.stderr) == (0, "")
    async with db(f"sqlite:///{tmp_path}/store.db", queue=QueueOptions(journal_dir=tmp_path / "journal")) as database:
        assert await said(database) == [f"{name}{number}" for name in "ab" for number in range(20)]


DROPPED = """
import asyncio, sys
from agentstore import QueueOptions, db
from agentstore.drivers.sqlite.backend import SQLiteBackend
plain = SQLiteBackend.append
async def append(self, batch):
    await asyncio.sleep(0.3)
    return await plain(self, batch)
SQLiteBackend.append = append

async def work():
    database = db(f"sqlite:///{sys.argv[1]}/store.db", durability="memory",
                  queue=QueueOptions(journal_dir=sys.argv[1]))
    for number in range(20):
        await database.append("s", {"role": "user", "content": str(number)})
asyncio.run(work())  # nobody holds it any more, and the interpreter ends
"""


async def test_a_database_dropped_just_before_the_exit(tmp_path):
    command = [sys.executable, "-c", DROPPED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: ASYNC221
    assert (done.returncode, done.stderr) == (0, "")
    async with db(f"sqlite:///{tmp_path}/store.db", queue=QueueOptions(journal_dir=tmp_path / "other")) as database:
        assert await said(database) == [str(number) for number in range(20)]


async def test_who_closes_too_waits_as_long(tmp_path):
    database, strings = make(tmp_path)
    await database.append("s", say("0"))
    await database.flush()
    with strings.holding():
        await database.append("s", say("1"))
        first = asyncio.create_task(database.aclose())
        await asyncio.sleep(0.02)
        second = asyncio.create_task(database.aclose())
        await asyncio.sleep(0.05)
        assert not first.done()
        assert not second.done()
    await asyncio.gather(first, second)
    assert len(strings.batches) == 2
    assert survey.survey(tmp_path / "journals") == []


async def test_a_database_collected_on_the_private_loop(tmp_path):
    database, strings = make(tmp_path)
    await database.append("s", say("0"))
    gone = weakref.ref(database)
    cell = [database]
    cell.append(cell)  # only the collector finds it
    gc.disable()
    try:
        del database, cell
        await asyncio.wrap_future(_loop.start(_collect))
    finally:
        gc.enable()
    assert gone() is None
    await until(lambda: [len(batch) for batch in strings.batches] == [1])


async def _collect():
    gc.collect()


# --- room ---


async def test_who_gives_up_makes_way():
    bounds = Bounds(QueueOptions(max_messages=3, timeout=0.2))
    await bounds.enter(2, 0)
    large = asyncio.create_task(bounds.enter(2, 0))
    await asyncio.sleep(0.1)
    small = asyncio.create_task(bounds.enter(1, 0))
    with pytest.raises(QueueFullError):
        await large
    await small
    assert bounds.messages == 3


async def test_metadata_takes_room_too(tmp_path):
    database, strings = make(tmp_path, max_bytes=1000, timeout=0.01)
    async with database:
        with strings.holding():
            await database.append("s", [], metadata={"m": "x" * 900})
            with pytest.raises(QueueFullError):
                await database.append("t", [], metadata={"m": "x" * 900})


# --- reads ---


async def test_of_two_pending_ones_with_one_id_the_first_counts(tmp_path):
    database, strings = make(tmp_path)
    async with database:
        with strings.holding():
            await database.append("s", Message("user", "first", id="x"))
            await database.append("s", Message("user", "second", id="x"))
            assert await said(database) == ["first"]
            assert (await database.find("s", ["x"]))["x"].content == "first"
        await database.flush()
        assert await said(database) == ["first"]


async def test_others_find_nothing_that_is_pending(tmp_path):
    database, strings = make(tmp_path)
    async with database:
        with strings.holding():
            await database.append("s", Message("user", "bob's", id="x"), user_id="bob")
            with pytest.raises(AccessDeniedError):
                await database.find("s", ["x"], user_id="ann")


async def test_a_key_that_expired_while_it_was_pending_stays_so(tmp_path):
    database, strings = make(tmp_path)
    async with database:
        with strings.holding():
            await database.state.set("other", 1)
            await until(lambda: database.stats().queue.waiting == 1)
            await asyncio.sleep(0.02)
            await database.state.set("k", 1, ttl=0.3)
            await database.state.set("l", 1, ttl=1000)
            await until_gone(database, "k")
        await database.flush()
        await until_gone(database, "k", patience=0.1)
        assert 990 < await database.state.ttl("l") <= 1000


async def until_gone(database, key, patience=10):
    async with asyncio.timeout(patience):
        while await database.state.get(key) is not None:
            await asyncio.sleep(0.002)


# --- what is known of sessions ---


async def test_a_session_that_another_process_has_begun_anew(tmp_path):
    database, _ = make(tmp_path)
    other, _ = make(tmp_path, durability="commit")
    async with other, database:
        await database.append("s", say("ann's"), user_id="ann")
        await database.flush()
        with pytest.raises(AccessDeniedError):
            await database.append("s", say("x"), user_id="bob")
        await other.delete_session("s")
        await database.append("s", say("bob's"), user_id="bob")
        await database.flush()
        assert await said(database, user_id="bob") == ["bob's"]


async def test_what_was_not_accepted_makes_nobody_the_owner(tmp_path):
    database, strings = make(tmp_path, max_messages=1, timeout=0.01)
    async with database:
        with strings.holding():
            await database.append("other", say("0"))
            with pytest.raises(QueueFullError):
                await database.append("s", say("ann's"), user_id="ann")
        await database.flush()
        await database.append("s", say("bob's"), user_id="bob")
        await database.flush()
        assert await said(database, user_id="bob") == ["bob's"]


async def test_little_is_remembered_of_what_could_not_be_taken(tmp_path):
    database, strings = make(tmp_path, durability="commit", fallback="memory", max_messages=2, timeout=0.001)
    async with database:
        strings.down = True
        for number in range(50):
            try:
                await database.append(f"s{number}", say("x"))
            except QueueFullError:
                continue
        assert len(database._stacks.sides[0].queue.known._sessions) == 2
        strings.down = False


async def test_a_guessed_owner_is_forgotten_once_the_backend_has_spoken(tmp_path):
    database, strings = make(tmp_path, fallback="memory")
    other, _ = make(tmp_path, durability="commit")
    async with other, database:
        await other.append("s", say("bob's"), user_id="bob")
        strings.down = True
        await database.append("t", say("x"))
        await until(lambda: database._stacks.sides[0].queue.down)
        await database.append("s", say("anybody's"))
        strings.down = False
        await database.flush()
        with pytest.raises(AccessDeniedError):
            await database.append("s", say("ann's"), user_id="ann")
