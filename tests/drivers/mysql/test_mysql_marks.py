"""Marks, and texts put in place of others: what the contract cannot see."""

import mysql_kit
import pytest
from mysql_kit import execute, turn

from agentstore.drivers.mysql import appends
from agentstore.drivers.mysql.transaction import Wire
from agentstore.protocol import Find
from sql_marks import Marks

pytestmark = pytest.mark.anyio


@pytest.fixture
def come_between(monkeypatch, unguessed):
    """``come_between(coroutine function)``: it runs behind the first look of an append."""

    def patch(action):
        look, actions = appends._load, [action]

        async def load(wire, *args):
            found = await look(wire, *args)
            if actions:
                await actions.pop()()
            return found

        monkeypatch.setattr(appends, "_load", load)

    return patch


class TestMarks(Marks):
    kit = mysql_kit

    async def test_marks_that_are_no_text(self, backend, url, unguessed):
        execute(url, "ALTER TABLE agentstore_sessions MODIFY marks LONGBLOB")
        await self.test_marks_that_cannot_be_read(backend, url, unguessed, damage="X'ff'")

    async def test_an_upgrade_that_was_cut_off(self, url, monkeypatch):
        done = "ALTER TABLE agentstore_sessions ADD COLUMN marks LONGTEXT"
        await self.test_a_database_of_version_0001(url, monkeypatch, then=[done])


async def test_ids_are_found_by_their_index(backend, url, monkeypatch):
    await backend.append([turn(f"s{n}", id="m") for n in range(60)])
    sent = []
    send = Wire.send

    async def note(wire, *statements):
        sent.append(statements)
        return await send(wire, *statements)

    monkeypatch.setattr(Wire, "send", note)
    found = await backend.find([Find(f"s{n}", ids=("m", "other")) for n in range(60)])
    assert [list(messages) for messages in found] == [["m"]] * 60
    (statements,) = sent
    assert len(statements) == 2
    for statement in statements:
        plan = [row for row in execute(url, f"EXPLAIN {statement}") if "agentstore_messages" in row]
        assert plan
        assert all({"agentstore_messages_by_id", "range"} <= set(row) for row in plan), plan
