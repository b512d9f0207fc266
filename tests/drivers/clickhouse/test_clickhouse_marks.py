"""Marks and rewritten texts, between processes: what the contract cannot see."""

import dataclasses

import pytest
from clickhouse_kit import opened, turn

from agentstore.drivers.clickhouse import appends, place, sessions, state
from agentstore.drivers.clickhouse.link import ServerLink
from agentstore.drivers.clickhouse.schema import COLUMNS
from agentstore.protocol import Append, DeleteKeys, GetItems, Head, Mark, Read, Scan, SetItems
from agentstore.records import Message

pytestmark = pytest.mark.anyio


@pytest.fixture
async def backend(fresh):
    async with opened(fresh("clickhouse")) as backend:
        yield backend


async def other_process(backend, work):
    """What `work` gives, called with a connection and the place of another writer."""

    async def run():
        here = place.Place()
        mine = place.place(backend._target.store).writer.slot
        while here.writer.slot == mine:
            here = place.Place()
        async with backend._pools.connection() as link:
            return await work(link, here)

    return await place.loop.run(run)


async def contents(backend):
    (found,) = await backend.read([Read("s")])
    return [message.content for message in found]


async def merge(backend):
    for table in ("agentstore_log", "agentstore_state"):
        await backend._read(lambda link, table=table: link.select(f"OPTIMIZE TABLE {table} FINAL"))


async def test_queues_of_several_processes_keep_their_marks(backend):
    mine = [Append("s", (Message("user", str(n)),), mark=Mark("mine", n)) for n in (1, 2)]
    others = [Append("s", (Message("user", f"other {n}"),), mark=Mark("other", n)) for n in (1, 2)]
    sets = {queue: SetItems("n", {queue: 1}, mark=Mark(queue, 5)) for queue in ("mine", "other")}

    async def append(link, here):
        await appends.append(link, here, others)
        await state.write_items(link, here.writer, [sets["other"]])

    await backend.append(mine[:1])
    await other_process(backend, append)
    await backend.append(mine[1:])
    await backend.write_items([sets["mine"]])
    await backend.clear("s")
    await backend.write_items([DeleteKeys("n", ("mine", "other"))])
    live = "SELECT key FROM agentstore_state FINAL WHERE deleted = 0"
    for _ in range(2):
        await backend.append([*mine, *others])
        await other_process(backend, append)
        assert await backend.write_items([*sets.values()]) == [0, 0]
        assert await contents(backend) == []
        assert await backend.get_items([GetItems("n", ("mine", "other"))]) == [{}]
        assert await backend.scan(Scan("n")) == await backend.scan(Scan("n", reverse=True)) == []
        assert await backend._read(lambda link: link.select(live)) == [], "an older release sees no mark either"
        await merge(backend)


async def test_marks_cost_no_statement(backend, monkeypatch):
    statements, blocks = [], []
    select, insert = ServerLink.select, ServerLink.insert

    async def selected(link, statement):
        statements.append(statement)
        return await select(link, statement)

    async def inserted(link, table, columns, rows):
        blocks.append(len(rows))
        await insert(link, table, columns, rows)

    await backend.append([turn("s")])
    monkeypatch.setattr(ServerLink, "select", selected)
    monkeypatch.setattr(ServerLink, "insert", inserted)
    for mark in (None, Mark("q", 1)):
        await backend.append([dataclasses.replace(turn("s"), mark=mark)])
        await backend.write_items([SetItems("n", {"k": 1}, mark=mark)])
    assert len(statements) == 4
    assert blocks == [3, 1, 4, 2]
    assert "kind = 3" not in statements[0]


async def test_nothing_of_the_old_texts_stays(backend):
    """Neither in the heads of other processes, nor in messages that two have stored at once."""

    def said(number):
        return Append("s", (Message("user", f"old {number}", id="twice"),), metadata={"secret": f"old {number}"})

    class Held:
        """Reads at once, and keeps what is to be inserted."""

        def __init__(self, link):
            self.select = link.select

        async def insert(self, *args):
            self.args = args

    async def append(link, here):
        held = Held(link)
        await appends.append(held, here, [said(2)])
        return held.args

    await backend.append([turn("s", "old 0")])
    held = await other_process(backend, append)
    await backend.append([said(1)])
    await backend._read(lambda link: link.insert(*held))
    assert len(await contents(backend)) == 2
    ((head,), (log,)) = await backend.heads([Head("s")]), await backend.read([Read("s")])
    new = dataclasses.replace(head, title="new", metadata={"secret": "new"})
    texts = [dataclasses.replace(message, content="new") for message in log]
    assert await backend.rewrite(new, texts)
    for _ in range(2):
        assert await backend.heads([Head("s")]) == [new]
        assert await contents(backend) == ["new", "new"]
        await merge(backend)
    found = await backend._read(lambda link: link.select(f"SELECT {COLUMNS} FROM agentstore_log"))
    assert len(found) == 2 + 3 + 3, "two heads, and one message stands there twice"
    assert "old" not in str(found)


async def test_what_others_do_during_a_rewrite_counts(backend, monkeypatch):
    await backend.append([turn("s", "one"), turn("s", "two")])
    ((head,), (log,)) = await backend.heads([Head("s")]), await backend.read([Read("s")])
    insert = ServerLink.insert

    async def overtaken(link, *args):
        monkeypatch.setattr(ServerLink, "insert", insert)
        here = place.Place()  # another process's
        await sessions.pop(link, here.writer, "s", 1, None)
        await appends.append(link, here, [Append("s", (Message("user", "three"),), metadata={"a": 1})])
        await insert(link, *args)

    monkeypatch.setattr(ServerLink, "insert", overtaken)
    await backend.rewrite(head, [dataclasses.replace(message, content="new") for message in log])
    for _ in range(2):
        assert await contents(backend) == ["new", "three"]
        assert (await backend.heads([Head("s")]))[0].metadata == {"a": 1}
        await merge(backend)
