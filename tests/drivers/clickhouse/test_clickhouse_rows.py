"""What is in the tables: merged or not, damaged, stored twice, and how much of it is read."""

import asyncio
import dataclasses
import logging

import pytest
from clickhouse_kit import make, opened, turn

from agentstore import Message, db, errors
from agentstore.drivers.clickhouse import heads, numbers, place, windows
from agentstore.drivers.clickhouse.link import ServerLink
from agentstore.drivers.clickhouse.literals import literal
from agentstore.drivers.clickhouse.records import message_rows
from agentstore.drivers.clickhouse.schema import COLUMNS, VERSION
from agentstore.protocol import Append, GetItems, Head, Listing, Read, SetItems
from agentstore.records import Session

pytestmark = pytest.mark.anyio


async def on_server(backend, statement):
    return await backend._read(lambda link: link.select(statement))


async def everything(database):
    sessions = (await database.sessions(limit=100)).items
    return (
        [await database.export_session(session.id) for session in sessions],
        [await database.messages(session.id, limit=3) for session in sessions],
        await database.state.scan(),
    )


async def test_merged_or_not_all_is_the_same(fresh):
    url = fresh("clickhouse")
    async with db(url) as database, opened(url) as backend:
        for number in range(5):
            for session_id in "abcde":
                await database.append(session_id, [Message("user", f"{number}"), Message("user", "x", id=f"i{number}")])
            await database.state.set("k", number)
            await database.state.set(f"k{number}", number)
        await database.pop("a", 3)
        await database.clear("b")
        await database.append("b", Message("user", "anew", id="i0"))
        await database.delete_session("c")
        await database.delete_session("d")
        await database.append("d", Message("user", "anew"))
        await database.update_session("e", title="t", metadata={"a": 1})
        await database.state.delete("k1")
        before = await everything(database)
        for table in ("agentstore_log", "agentstore_state"):
            await on_server(backend, f"OPTIMIZE TABLE {table} FINAL")
        assert await everything(database) == before
        ((parts,),) = await on_server(
            backend,
            "SELECT count() FROM system.parts WHERE active AND database = currentDatabase()"
            " AND table = 'agentstore_log'",
        )
        assert parts == 1
        rows = await on_server(
            backend, "SELECT session_id, role, content, metadata, more FROM agentstore_log WHERE deleted = 1"
        )
        assert {row[0] for row in rows} == {"a", "b", "c", "d"}
        assert {row[1:] for row in rows} == {("", "", "", "")}, "nothing is left of what was removed"


_MANY = 200_000
_OLD_MESSAGES = (  # one after the other, each with its id
    "INSERT INTO agentstore_log (kind, session_id, num, id, seq, version, role, content, created_at)"
    " SELECT arrayJoin([1, 2]) AS kind, 'long', if(kind = 1, seq, toInt64(number * 1000003)),"
    " if(kind = 1, id, concat(toString(seq), ' ', id)), bitShiftLeft(toInt64(number + 1), 30) + 7 AS seq, 1, 'user',"
    f" 'old', 0 FROM (SELECT number, concat('id ', toString(number)) AS id FROM system.numbers LIMIT {_MANY})"
)


async def lift(backend, session_id, last_seq):
    """Let the session's head say that it went so far."""
    async with backend._pools.connection() as link:
        known = (await heads.load(link, [session_id]))[session_id]
        session = dataclasses.replace(known.session, last_seq=last_seq)
        head = known.head(session, place.place("another process").writer.slot, known.version + 1)
        await link.insert("agentstore_log", COLUMNS, [head])


async def test_the_cost_of_the_newest_does_not_grow(fresh, monkeypatch):
    read = []
    exchange = ServerLink.select

    async def counted(self, statement):
        found = await exchange(self, statement)
        progress = self._connection.last_query.progress
        read.append(progress.rows if progress else 0)
        return found

    async with opened(fresh("clickhouse")) as backend:
        await backend.append([turn("short"), turn("long")])
        await on_server(backend, _OLD_MESSAGES)
        await place.loop.run(lambda: lift(backend, "long", _MANY << numbers.SEQ_BITS))
        for number in range(200):
            await backend.append([turn("short", str(number)), turn("long", str(number))])
        await on_server(backend, "OPTIMIZE TABLE agentstore_log FINAL")
        monkeypatch.setattr(ServerLink, "select", counted)
        costs = {}
        for session_id in ("short", "long"):
            read.clear()
            (found,) = await backend.read([Read(session_id, limit=50)])
            assert [m.content for m in found] == [str(n) for n in range(150, 200)]
            (known,) = await backend.append([Append(session_id, (dataclasses.replace(found[7], content="again"),))])
            assert known == [found[7]]
            await backend.append([turn(session_id)])
            (oldest,) = await backend.read([Read(session_id, limit=50, after=found[0].seq)])
            assert [m.content for m in oldest[:49]] == [m.content for m in found[1:]]
            costs[session_id] = sum(read)
        assert len((await backend.read([Read("long")]))[0]) == 1 + _MANY + 201
        assert costs["long"] < 3 * costs["short"] < 40_000


@pytest.mark.parametrize("last", [0, 1, 57, 2**40])
async def test_windows_meet_every_message_once(fresh, last):
    """Sessions from other stores, whose seqs are dense; and holes."""
    async with opened(fresh("clickhouse")) as backend:
        messages = [Message("user", f"old {n}", seq=last * n // 100 + n + 1) for n in range(100)]
        await backend.restore(Session("s", last_seq=messages[-1].seq), messages)
        for number in range(60):
            await backend.append([turn("s", f"new {number}")])
            if number % 20 == 5:
                await backend.pop("s", 4)
        (everything,) = await backend.read([Read("s")])
        assert len(everything) == 100 + 60 - 12
        for step in (1, 7, 50):
            back, forth = [], []
            while page := (await backend.read([Read("s", limit=step, before=back[0].seq if back else None)]))[0]:
                back = page + back
            while page := (await backend.read([Read("s", limit=step, after=forth[-1].seq if forth else 0)]))[0]:
                forth += page
            assert back == forth == everything


async def test_an_id_that_two_processes_stored_at_once(fresh):
    url = fresh("clickhouse")
    async with opened(url) as backend:
        await backend.append([turn("s", "before")])

        async def other_process():
            """Loaded before the others wrote, it inserts after them."""
            here = place.place("another process")
            async with backend._pools.connection() as link:
                known = (await heads.load(link, ["s"]))["s"]
                return here.writer, known

        writer, known = await place.loop.run(other_process)
        (first,) = (await backend.append([turn("s", "first", id="i")]))[0]
        (seq,) = writer.seqs(max(known.last_seq, first.seq), 1)

        async def insert():
            async with backend._pools.connection() as link:
                session = dataclasses.replace(known.session, last_seq=seq)
                block = [known.head(session, writer.slot, known.version + 1)]
                block += message_rows("s", Message("user", "second", id="i", seq=seq), known.version + 1)
                await link.insert("agentstore_log", COLUMNS, block)

        await place.loop.run(insert)
        for _ in range(2):
            (found,) = await backend.read([Read("s")])
            assert [m.content for m in found] == ["before", "first"]
            assert (await backend.append([turn("s", "again", id="i")]))[0] == [first]
            (head,) = await backend.heads([Head("s")])
            assert (head.message_count, head.last_seq) == (2, seq)
            await on_server(backend, "OPTIMIZE TABLE agentstore_log FINAL")


async def damage(backend, condition, column, value):
    """Replace what one row of the log holds."""
    names = COLUMNS.split(", ")
    changed = ", ".join({column: value, "version": "version + 1"}.get(name, name) + f" AS new_{name}" for name in names)
    await on_server(
        backend,
        f"INSERT INTO agentstore_log ({COLUMNS}) SELECT {', '.join('new_' + name for name in names)}"
        f" FROM (SELECT {changed} FROM agentstore_log WHERE {condition} ORDER BY version DESC LIMIT 1)",
    )


@pytest.mark.parametrize(
    ("condition", "column", "value"),
    [
        ("kind = 1 AND session_id = 'bad'", "content", "'\\xff\\xfe'"),
        ("kind = 1 AND session_id = 'bad'", "metadata", "'{'"),
        ("kind = 1 AND session_id = 'bad'", "more", "'[]'"),
        ("kind = 0 AND session_id = 'bad'", "metadata", "'no json'"),
        ("kind = 0 AND session_id = 'bad'", "user_id", "'\\xff'"),
        ("kind = 0 AND session_id = 'bad'", "more", "'{'"),
        ("kind = 0 AND session_id = 'bad'", "updated_at", "toInt64(9000000000000000000)"),
    ],
)
async def test_what_is_damaged_concerns_nobody_else(fresh, condition, column, value):
    async with opened(fresh("clickhouse")) as backend:
        await backend.append([turn("bad", id="i"), turn("good", id="i")])
        await damage(backend, condition, column, value)
        bad, good = await backend.read([Read("bad"), Read("good")])
        assert isinstance(bad, errors.CorruptRecordError)
        assert [m.content for m in good] == ["hello"]
        bad, good = await backend.append([turn("bad", "again", id="i"), turn("good", "again", id="i")])
        assert isinstance(bad, errors.CorruptRecordError)
        assert [m.content for m in good] == ["hello"]
        assert await backend.delete("bad")
        assert await backend.read([Read("bad")]) == [[]]
        (stored,) = await backend.append([turn("bad", "anew", id="i")])
        assert [m.content for m in stored] == ["anew"]


async def test_a_damaged_item_concerns_nobody_else(fresh):
    async with opened(fresh("clickhouse")) as backend:
        await backend.write_items([SetItems("n", {"bad": 1}), SetItems("n", {"good": 2})])
        await on_server(
            backend,
            "INSERT INTO agentstore_state (namespace, key, value, version, expires_at, deleted)"
            " SELECT namespace, key, '{', version + 1, expires_at, 0 FROM agentstore_state WHERE key = 'bad'",
        )
        bad, good = await backend.get_items([GetItems("n", ("bad",)), GetItems("n", ("good",))])
        assert isinstance(bad, errors.CorruptRecordError)
        assert good["good"].value == 2
        await backend.write_items([SetItems("n", {"bad": 3})])
        (found,) = await backend.get_items([GetItems("n", ("bad",))])
        assert found["bad"].value == 3


@pytest.mark.parametrize(
    "text", ["'", "\\", "\\'", "') OR 1 = 1 --", "\\\\'", "%s {} \n\t\b", "\u2018\u2019\u02bc", "\0"]
)
async def test_quotes(fresh, text):
    async with opened(fresh("clickhouse")) as backend:
        assert await on_server(backend, f"SELECT {literal(text)}") == [(text,)]


async def test_a_newer_schema_is_refused(fresh):
    url = fresh("clickhouse")
    async with opened(url) as backend:
        await on_server(backend, f"INSERT INTO agentstore_version SELECT {VERSION + 1}")
    later = make(url)
    with pytest.raises(errors.SchemaError):
        await later.aopen()
    await later.aclose()


async def test_a_thousand_appends_in_one_batch(fresh):
    async with opened(fresh("clickhouse")) as backend:
        batch = [Append("s" * 200 + str(n), (Message("user", str(n), id="é" * 100 + str(n)),)) for n in range(1000)]
        stored = await backend.append(batch)
        assert await backend.append(batch) == stored
        assert await backend.read([Read(op.session_id, limit=1) for op in batch]) == stored


async def test_an_append_of_more_messages_than_a_counter_has_places(fresh):
    async with opened(fresh("clickhouse")) as backend:
        said = tuple(Message("user", str(n)) for n in range(2500))
        (stored,) = await backend.append([Append("s", said)])
        seqs = [message.seq for message in stored]
        assert seqs == sorted(set(seqs))
        assert (await backend.read([Read("s")]))[0] == stored


async def test_purging_removes_contents(fresh):
    url = fresh("clickhouse")
    async with db(url) as database, opened(url) as backend:
        await database.append("s", Message("user", "secret"), ttl=0.05, metadata={"a": "secret"})
        while await database.session("s") is not None:
            await asyncio.sleep(0.01)
        assert await database.purge_expired() == 1
        await on_server(backend, "OPTIMIZE TABLE agentstore_log FINAL")
        rows = await on_server(backend, f"SELECT {COLUMNS} FROM agentstore_log")
        assert rows
        assert "secret" not in str(rows)


async def test_examine(fresh):
    async with opened(fresh("clickhouse")) as backend:
        found = {finding.subject: finding for finding in await backend.examine()}
    assert found["server"].value.startswith("ClickHouse ")
    assert found["schema"].level == "ok"
    assert found["schema"].value == f"version {VERSION}, agentstore_log is ReplacingMergeTree"
    assert found["durability"].level == "warning"
    assert found["clock"].level == "ok"
    assert found["parts"].level == "ok"
    assert all(finding.advice for finding in found.values() if finding.level != "ok")


async def test_old_servers_are_told_nothing_that_they_do_not_know(fresh, caplog):
    with caplog.at_level(logging.WARNING, "asynch"):
        async with opened(fresh("clickhouse")) as backend:
            await backend.append([turn("s")])
            await backend.list_sessions(Listing())
    assert not caplog.records


def test_seqs_of_two_writers_are_apart_and_those_of_one_append_together():
    one, two = numbers.Writer(), numbers.Writer()
    while two.seqs(0, 1) == one.seqs(0, 1):
        two = numbers.Writer()
    first, second = one.seqs(5 << 30, 1500), two.seqs(5 << 30, 10)
    assert not set(first) & set(second)
    assert list(first) == sorted(first)
    assert first[0] > 5 << 30
    low, high = sorted([first[:1024], second])
    assert max(low) < min(high)


def test_places_and_seqs_agree():
    for dense in (0, 1, 300, (7 << 30) + 5):
        scale = numbers.Scale(dense)
        places = [scale.place(seq) for seq in (1, 2, 299, 300, 301, 1 << 30, (1 << 30) + 9, 2 << 30, 8 << 30, 9 << 30)]
        assert places == sorted(places)
        for at in range(0, 400, 7):
            assert scale.place(scale.seq(at)) == at
    assert windows.Reader.of(heads.Known("s"), Read("s", limit=5)).is_done is False
