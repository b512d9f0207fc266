"""Marks, and texts put in place of others: what the contract cannot see."""

import postgresql_kit
import pytest
from postgresql_kit import execute, turn, words

from agentstore.drivers.postgresql import sessions
from agentstore.errors import CorruptRecordError
from agentstore.protocol import Find, GetItems, SetItems
from sql_marks import FLOORS, Marks, marked

pytestmark = pytest.mark.anyio


def coming_between(monkeypatch, owner, name):
    """``patch(coroutine function, ...)``: one of them runs behind each look by ``owner.name``."""

    def patch(*actions):
        look, left = getattr(owner, name), list(actions)

        async def load(*given):
            found = await look(*given)
            if left:
                await left.pop(0)()
            return found

        monkeypatch.setattr(owner, name, load)

    return patch


@pytest.fixture
def come_between(backend, monkeypatch, unguessed):
    return coming_between(monkeypatch, backend._log._sessions, "load")


@pytest.fixture
def come_between_state(backend, monkeypatch, unguessed):
    return coming_between(monkeypatch, backend._state, "_load")


class TestMarks(Marks):
    kit = postgresql_kit

    @pytest.mark.parametrize("there", [True, False])
    async def test_a_queue_that_was_overtaken_by_another(self, backend, other, url, come_between_state, there):
        if there:
            await backend.write_items([marked("old", 1)])
        come_between_state(*(lambda n=n: other.write_items([marked("b", n)]) for n in (1, 2)))
        assert await backend.write_items([marked("a", 1)]) == [3 + there]
        assert execute(url, FLOORS).endswith('"b":2,"a":1}')

    async def test_a_queue_and_a_replay_of_its_state_at_once(self, backend, other, come_between_state):
        come_between_state(lambda: other.write_items([marked("q", 1), SetItems("n", {"k": "newer"})]))
        assert await backend.write_items([marked("q", 1)]) == [0]
        assert (await backend.get_items([GetItems("n", ("k",))]))[0]["k"].value == "newer"

    async def test_long_texts_are_rewritten_in_pieces(self, backend, monkeypatch):
        monkeypatch.setattr(sessions, "_CHUNK", 2**20)
        await self.test_long_texts_are_rewritten(backend)

    async def test_a_database_of_version_0001_behind_pgbouncer(self, fresh, monkeypatch):
        await self.test_a_database_of_version_0001(fresh("pgbouncer"), monkeypatch)


async def test_a_session_that_cannot_be_read_is_not_searched(backend, url):
    await backend.append([turn("bad", id="m"), turn("good", id="m")])
    execute(url, "UPDATE agentstore_sessions SET metadata = '{' WHERE session_id = 'bad'")
    bad, good = await backend.find([Find("bad", ids=("m",)), Find("good", ids=("m",))])
    assert isinstance(bad, CorruptRecordError)
    assert words(list(good.values())) == ["hello"]
