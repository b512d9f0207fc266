"""Marks, and texts put in place of others: what the contract cannot see of SQL servers.

A driver's tests subclass `Marks`, and give a fixture ``come_between``: with it a coroutine function runs behind the
first look of an append.
"""

import asyncio
from dataclasses import replace
from datetime import timedelta

import alembic.command
import pytest

from agentstore.drivers.sql.upgrade import VERSION, VERSION_TABLE
from agentstore.errors import CorruptRecordError
from agentstore.protocol import Append, Change, DeleteKeys, Find, Head, Increment, Mark, Read, SetItems
from agentstore.records import Message

FLOORS = "SELECT concat(namespace, floor, marks) FROM agentstore_state_floors"


def marked(queue, position, value=None, **options):
    return SetItems("n", {"k": value or f"{queue}{position}"}, mark=Mark(queue, position), **options)


class Marks:
    """What holds for every SQL server.

    Attributes:
        kit: The module that the driver's tests share: ``make``, ``turn``, ``words``, ``execute``; and ``value``, which
            answers a SELECT of one text.
    """

    kit = None

    @pytest.fixture
    async def other(self, url, backend):
        other = self.kit.make(url)
        await other.aopen()
        yield other
        await other.aclose()

    async def test_queues_that_race_on_one_namespace(self, backend, other):
        async def drain(store, queue):
            for position in range(1, 21):
                (version,) = await store.write_items([marked(queue, position)])
                assert version > 0

        await asyncio.gather(*(drain(store, f"{store is other}{n}") for store in (backend, other) for n in range(3)))
        replays = [marked(f"{own}{n}", 20) for own in (True, False) for n in range(3)]
        assert await backend.write_items(replays) == [0] * 6

    async def test_queues_that_race_on_one_session(self, backend, other):
        def op(queue, position):
            return replace(self.kit.turn("s", f"{queue}:{position}"), mark=Mark(queue, position))

        async def drain(store, queue):
            for position in range(1, 21):
                await store.append([op(queue, position)])

        await asyncio.gather(*(drain(store, f"{store is other}{n}") for store in (backend, other) for n in range(3)))
        for own in (True, False):
            await backend.append([op(f"{own}{n}", position) for n in range(3) for position in (1, 20)])
        said = self.kit.words((await backend.read([Read("s")]))[0])
        assert len(said) == len(set(said)) == 120

    async def test_a_queue_and_a_replay_of_it_at_once(self, backend, other, come_between):
        op = replace(self.kit.turn("s"), mark=Mark("q", 1))

        async def replayed():
            await other.append([op])
            await other.pop("s", 1)

        come_between(replayed)
        await backend.append([op])
        assert await backend.read([Read("s")]) == [[]]

    async def test_marks_survive_purges(self, backend):
        append = replace(self.kit.turn("s"), mark=Mark("q", 1), ttl=timedelta(milliseconds=1))
        short = marked("q", 1, ttl=timedelta(milliseconds=1))
        await backend.append([append])
        await backend.write_items([short])
        purged = [0, 0]
        async with asyncio.timeout(20):
            while purged != [1, 1]:
                purged[0] += await backend.purge_sessions()
                purged[1] += await backend.purge_state()
        await backend.append([append])
        assert await backend.heads([Head("s")]) == [None]
        assert await backend.write_items([short]) == [0]

    async def test_writes_without_marks_keep_those_that_are_there(self, backend, url):
        await backend.write_items([marked("q", 1)])
        await backend.write_items([DeleteKeys("n", ("k",))])
        await backend.write_items([SetItems("n", {"k": 1, "l": 2})])
        assert self.kit.value(url, FLOORS) == 'n1{"q":1}'

    async def test_marks_that_cannot_be_read(self, backend, url, unguessed, damage="'{'"):
        turn, words = self.kit.turn, self.kit.words
        await backend.append([turn("bad"), turn("good")])
        self.kit.execute(url, f"UPDATE agentstore_sessions SET marks = {damage} WHERE session_id = 'bad'")
        outcomes = await backend.append([turn("bad", "1"), turn("good", "2")])
        assert [words(outcome) for outcome in outcomes] == [CorruptRecordError, ["2"]]
        assert (await backend.update(Change("bad", title="t"))).title == "t"
        assert words(await backend.pop("bad", 1)) == ["hello"]
        assert await backend.find([Find("bad", ids=("m",))]) == [{}]
        assert await backend.delete("bad"), "which mends it"
        assert words((await backend.append([turn("bad", "3")]))[0]) == ["3"]

    async def test_marks_of_a_namespace_that_cannot_be_read(self, backend, url):
        await backend.write_items([marked("q", 1), Increment("good", "n")])
        self.kit.execute(url, "UPDATE agentstore_state_floors SET marks = '[]'")
        ops = [marked("q", 2), Increment("good", "n"), Increment("n", "other")]
        bad, good, unmarked = await backend.write_items(ops)
        assert isinstance(bad, CorruptRecordError)
        assert "'n'" in str(bad)
        assert (good, unmarked) == (2, 1)
        assert await backend.purge_state() == 0

    async def test_long_texts_are_rewritten(self, backend):
        (stored,) = await backend.append([Append("s", tuple(Message("user", str(n)) for n in range(3)))])
        (head,) = await backend.heads([Head("s")])
        texts = [replace(message, content=message.content * 8 * 2**20) for message in stored]
        assert not await backend.rewrite(replace(head, updated_at=head.created_at - timedelta(1)), texts)
        assert (await backend.read([Read("s")]))[0] == stored
        assert await backend.rewrite(replace(head, title="t"), texts)
        assert (await backend.read([Read("s")]))[0] == texts
        assert await backend.rewrite(replace(head, title="only this"), [])
        assert await backend.rewrite(replace(head, title="only this"), []), "the same once more"
        assert await backend.heads([Head("s")]) == [replace(head, title="only this")]

    @pytest.mark.parametrize("metadata", [None, {"b": 1}])
    async def test_what_is_rewritten_meanwhile_stays_so(self, backend, other, come_between, metadata):
        await backend.append([Append("s", (Message("user", "hello"),), metadata={"a": "old"})])

        async def rewritten():
            (head,) = await other.heads([Head("s")])
            assert await other.rewrite(replace(head, title="new", metadata={"a": "new"}), [])

        come_between(rewritten)
        await backend.append([Append("s", (Message("user", "two"),), metadata=metadata)])
        (head,) = await backend.heads([Head("s")])
        assert (head.title, head.metadata) == ("new", {"a": "new", **(metadata or {})})
        assert (head.message_count, head.last_seq) == (2, 2)

    async def test_a_database_of_version_0001(self, url, monkeypatch, then=()):
        upgrade = alembic.command.upgrade
        with monkeypatch.context() as past:
            past.setattr(alembic.command, "upgrade", lambda config, _: upgrade(config, "0001"))
            old = self.kit.make(url)
            await old.aopen()
            await old.aclose()
        version = f"SELECT version_num FROM {VERSION_TABLE}"
        assert self.kit.value(url, version) == "0001"
        for statement in (
            (
                "INSERT INTO agentstore_sessions (session_id, created_at, updated_at, message_count, last_seq)"
                " VALUES ('s', 1, 2, 1, 7)"
            ),
            (
                "INSERT INTO agentstore_messages (session_id, id_key, role, content, id, seq, created_at)"
                " VALUES ('s', 1, 'user', 'hello', 'm', 7, 1)"
            ),
            "INSERT INTO agentstore_state VALUES ('n', 'k', '1', 4, NULL)",
            "INSERT INTO agentstore_state_floors VALUES ('n', 9)",
            *then,
        ):
            self.kit.execute(url, statement)
        new = [self.kit.make(url) for _ in range(3)]
        await asyncio.gather(*(backend.aopen() for backend in new))
        assert self.kit.value(url, version) == VERSION
        (stored,) = await new[0].append([replace(self.kit.turn("s", "two"), mark=Mark("q", 1))])
        assert stored[0].seq == 8
        assert self.kit.words((await new[1].read([Read("s")]))[0]) == ["hello", "two"]
        assert await new[2].write_items([marked("q", 1, "v"), SetItems("n", {"new": 1})]) == [5, 10]
        for backend in new:
            await backend.aclose()
