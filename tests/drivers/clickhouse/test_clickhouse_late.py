"""INSERTs that fail and land late, answers out of step, what is stored twice, and what comes between two statements."""

import asyncio

import pytest
from asynch.errors import ServerException
from clickhouse_kit import make, opened, turn

from agentstore import Message, errors
from agentstore.drivers.clickhouse import examining, heads, isolation, sending, windows
from agentstore.drivers.clickhouse.errors import translated
from agentstore.drivers.clickhouse.link import ServerLink
from agentstore.options import PoolOptions
from agentstore.protocol import Append, GetItems, Head, Increment, Read, SetItems

pytestmark = pytest.mark.anyio


class Late:
    """Holds INSERTs back, whose callers are told that the connection was lost."""

    def __init__(self, monkeypatch, backend):
        self.held = []
        self.holds = False
        self._backend = backend
        self._insert = ServerLink.insert

        async def insert(link, *args):
            if self.holds:
                self.held.append(args)
                raise errors.UnavailableError("the connection was lost")
            await self._insert(link, *args)

        monkeypatch.setattr(ServerLink, "insert", insert)

    async def lose(self, call):
        self.holds = True
        with pytest.raises(errors.UnavailableError):
            await call
        self.holds = False

    async def land(self):
        for args in self.held:
            await self._backend._read(lambda link, args=args: self._insert(link, *args))
        self.held = []


@pytest.fixture
async def backend(fresh):
    async with opened(fresh("clickhouse")) as backend:
        yield backend


@pytest.fixture
def late(monkeypatch, backend):
    return Late(monkeypatch, backend)


async def contents(backend, session_id="s"):
    ((*found,),) = await backend.read([Read(session_id)])
    assert len({m.seq for m in found}) == len(found)
    return [m.content for m in found]


async def test_an_answer_after_an_error_is_not_taken_for_anothers(fresh):
    async with opened(fresh("clickhouse"), size=1) as backend:
        with pytest.raises(errors.InvalidInputError):
            await backend._read(lambda link: link.select(f"SELECT 7 IN ({','.join(map(str, range(60_000)))})"))
        for number in range(20):
            assert await backend._read(lambda link, n=number: link.select(f"SELECT {n + 100}")) == [(number + 100,)]


async def test_a_connection_that_had_an_error_is_not_used_again(fresh):
    async def fail(link):
        with pytest.raises(errors.AgentstoreError):
            await link.select("SELECT * FROM nowhere")
        assert link.connection.is_query_executing
        assert await link.select("SELECT 5") == [(5,)], "it connects anew"
        with pytest.raises(errors.AgentstoreError):
            await link.select("SELECT * FROM nowhere")

    async with opened(fresh("clickhouse"), size=1) as backend:
        await backend._read(fail)
        assert backend.pools()[0].size == 0


async def test_an_append_that_lands_late_shares_no_seq(backend, late):
    await backend.append([turn("s", "first")])
    await late.lose(backend.append([turn("s", "late")]))
    ((acknowledged,),) = await backend.append([turn("s", "acknowledged")])
    await late.land()
    assert await contents(backend) == ["first", "late", "acknowledged"]
    (head,) = await backend.heads([Head("s")])
    assert head.last_seq == acknowledged.seq
    assert head.message_count == 3


async def test_what_lands_late_is_not_in_the_next_session_of_that_name(backend, late):
    await backend.append([turn("s", "first")])
    await late.lose(backend.append([turn("s", "late")]))
    await backend.delete("s")
    await backend.append([turn("s", "anew")])
    await late.land()
    assert await contents(backend) == ["anew"]


async def test_a_state_write_that_lands_late_overwrites_nothing(backend, late):
    await backend.write_items([SetItems("n", {"k": 0})])
    await late.lose(backend.write_items([SetItems("n", {"k": "late"})]))
    (version,) = await backend.write_items([SetItems("n", {"k": "acknowledged"})])
    ((_, (planned,)),) = [(columns, rows) for _, columns, rows in late.held]
    assert planned[3] < version
    await late.land()
    (found,) = await backend.get_items([GetItems("n", ("k",))])
    assert (found["k"].value, found["k"].version) == ("acknowledged", version)


async def test_a_retry_popped_is_gone_when_the_late_original_is_there_too(backend, late):
    await backend.append([turn("s", "first")])
    await late.lose(backend.append([turn("s", "again", id="i")]))
    await backend.append([turn("s", "again", id="i")])
    await late.land()
    assert await contents(backend) == ["first", "again"]
    assert [m.content for m in await backend.pop("s", 1)] == ["again"]
    assert await contents(backend) == ["first"]
    ((stored,),) = await backend.append([turn("s", "new", id="i")])
    assert stored.content == "new"


def test_what_was_sent_is_remembered_of_any_number_of_sessions():
    sent = sending.Sent()
    sent.note([(0, "first", 1, "", 70, 5)])
    sent.note((0, f"s{number}", 1, "", number, 6) for number in range(sending._MOST))
    first, last, other = (heads.Known(name) for name in ("first", f"s{sending._MOST - 1}", "other"))
    sent.tell([first, last, other])
    assert (first.top, last.top, other.top) == (70, sending._MOST - 1, 70)
    assert first.sent_version == 6


async def test_a_reader_sees_nothing_of_the_session_that_came_after(backend, monkeypatch):
    await backend.append([Append("s", (Message("user", "ann's"),), user_id="ann")])
    read = windows.read

    async def replace():
        await backend.delete("s")
        await backend.append([Append("s", (Message("user", "bob's"),), user_id="bob")])

    async def overtaken(link, readers):
        readers = list(readers)
        monkeypatch.setattr(windows, "read", read)
        await asyncio.to_thread(asyncio.run, replace())  # this here is the driver's own loop
        await read(link, readers)

    monkeypatch.setattr(windows, "read", overtaken)
    (found,) = await backend.read([Read("s", user_id="ann")])
    assert "bob's" not in [m.content for m in found]
    known = heads.Known("s", last_seq=1)
    assert " AND num < " in heads.alive(known)


async def test_a_store_is_the_same_however_its_url_is_spelt(fresh):
    url = fresh("clickhouse")
    assert "127.0.0.1" in url
    async with opened(url) as one, opened(url.replace("127.0.0.1", "localhost") + "?") as two:
        assert one._target.store == two._target.store
        calls = [backend.write_items([Increment("n", "k", 1)]) for backend in (one, two) for _ in range(20)]
        await asyncio.gather(*calls)
        (found,) = await one.get_items([GetItems("n", ("k",))])
        assert found["k"].value == 40
    assert make("clickhouse://a@[::1]/d")._target.store == make("clickhouse://b:c@LOCALHOST:9000/d")._target.store
    assert make("clickhouse://h/d")._target.store != make("clickhouse://h/e")._target.store


async def test_metadata_changed_by_its_owner_later_is_not_stored(backend):
    tags = ["a"]
    await backend.append([Append("s", (Message("user", "x"),), metadata={"tags": tags})])
    tags.append("leak")
    await backend.append([turn("s")])
    (head,) = await backend.heads([Head("s")])
    assert head.metadata == {"tags": ["a"]}


async def test_sixty_thousand_keys_and_ids(backend):
    keys = tuple(f"k{number}" for number in range(60_000))
    await backend.write_items([SetItems("n", dict.fromkeys(keys, 1))])
    (found,) = await backend.get_items([GetItems("n", keys)])
    assert len(found) == len(keys)
    many = [GetItems(f"n{number}", ("a",)) for number in range(6000)]
    assert await backend.get_items(many) == [{}] * len(many)
    said = Append("s", tuple(Message("user", "x", id=key) for key in keys))
    (stored,) = await backend.append([said])
    assert (await backend.append([said]))[0] == stored
    assert len(await backend.pop("s", 50_000)) == 50_000
    assert len(await contents(backend)) == 10_000


@pytest.mark.parametrize("raised", [ValueError("no packet"), errors.CorruptRecordError("the server says so")])
async def test_nothing_is_run_again_once_an_insert_was_sent(backend, monkeypatch, raised):
    insert = ServerLink.insert
    sent = []

    async def stored_but(link, *args):
        sent.append(args)
        await insert(link, *args)
        raise raised

    monkeypatch.setattr(ServerLink, "insert", stored_but)
    with pytest.raises((errors.UnavailableError, errors.CorruptRecordError)):
        await backend.write_items([Increment("n", "k", 1), Increment("n", "k", 1)])
    assert len(sent) == 1
    with pytest.raises((errors.UnavailableError, errors.CorruptRecordError)):
        await backend.append([turn("s"), turn("t")])
    assert len(sent) == 2
    with pytest.raises((errors.UnavailableError, errors.CorruptRecordError)):
        await backend.delete("s")
    assert len(sent) == 3
    monkeypatch.undo()
    (found,) = await backend.get_items([GetItems("n", ("k",))])
    assert found["k"].value == 2


async def test_before_an_insert_each_is_run_by_itself():
    async def run(batch):
        if 2 in batch:
            raise ValueError("two")
        return list(batch)

    one, two, three = await isolation.isolated([1, 2, 3], run)
    assert (one, three) == (1, 3)
    assert isinstance(two, errors.AgentstoreError)


async def test_a_lost_connection_is_no_missing_finding():
    class Failing:
        def __init__(self, cause):
            self._cause = cause

        async def select(self, statement):
            raise translated(self._cause, "clickhouse://a") from self._cause

    assert await examining._connections(Failing(ServerException("no such table", 60)), PoolOptions()) == []
    with pytest.raises(errors.UnavailableError):
        await examining._connections(Failing(OSError("lost")), PoolOptions())
