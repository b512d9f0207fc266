"""Rows that cannot be read or written: who meets them, who does not, and how to get rid of them."""

import pytest
from postgresql_kit import execute, turn, words

from agentstore.drivers.postgresql import sessions
from agentstore.errors import ConflictError, CorruptRecordError
from agentstore.protocol import Append, Change, DeleteKeys, GetItems, Head, Increment, Listing, Read, Scan, SetItems
from agentstore.records import Message, Session

pytestmark = pytest.mark.anyio

HEADS = ("metadata = '{'", "metadata = '[1]'", "created_at = 9223372036854775807", "updated_at = -9223372036854775808")


@pytest.mark.parametrize("damage", HEADS)
async def test_a_session_that_cannot_be_read(backend, url, damage):
    await backend.append([turn("bad"), turn("good")])
    execute(url, f"UPDATE agentstore_sessions SET {damage} WHERE session_id = 'bad'")
    outcomes = await backend.append([turn("good", "1"), turn("bad", "2"), turn("good", "3"), turn("bad", "4")])
    assert [words(outcome) for outcome in outcomes] == [["1"], CorruptRecordError, ["3"], CorruptRecordError]
    heads = await backend.heads([Head("bad"), Head("good")])
    assert [type(head) for head in heads] == [CorruptRecordError, Session]
    assert words((await backend.read([Read("bad")]))[0]) == ["hello"], "its messages can be saved"
    for call in (
        backend.pop("bad", 1),
        backend.clear("bad"),
        backend.update(Change("bad", title="t")),
        backend.list_sessions(Listing()),
    ):
        with pytest.raises(CorruptRecordError, match="'bad'"):
            await call
    assert await backend.delete("bad")
    ((stored,),) = await backend.append([turn("bad")])
    assert stored.seq == 2
    assert len((await backend.list_sessions(Listing())).items) == 2


async def test_a_message_that_cannot_be_read(backend, url):
    await backend.append([turn("bad", id="m"), turn("good")])
    execute(url, "UPDATE agentstore_messages SET metadata = '{' WHERE session_id = 'bad'")
    found = await backend.read([Read("bad"), Read("good")])
    assert [words(outcome) for outcome in found] == [CorruptRecordError, ["hello"]]
    assert words((await backend.read([Read("bad")]))[0]) is CorruptRecordError
    outcomes = await backend.append([turn("bad", "again", id="m"), turn("good", "1"), turn("bad", "2")])
    assert [words(outcome) for outcome in outcomes] == [CorruptRecordError, ["1"], ["2"]]
    with pytest.raises(CorruptRecordError):
        await backend.pop("bad", 2)
    assert words(await backend.pop("bad", 1)) == ["2"]
    assert await backend.clear("bad") == 1


async def test_an_item_that_cannot_be_read(backend, url):
    await backend.write_items([SetItems("n", {"bad": 1, "good": 1})])
    execute(url, "UPDATE agentstore_state SET value = '{' WHERE key = 'bad'")
    found = await backend.get_items([GetItems("n", ("bad",)), GetItems("n", ("good",))])
    assert [type(outcome) for outcome in found] == [CorruptRecordError, dict]
    with pytest.raises(CorruptRecordError):
        await backend.scan(Scan("n"))
    outcomes = await backend.write_items([Increment("n", "bad"), Increment("n", "good")])
    assert [type(outcome) for outcome in outcomes] == [CorruptRecordError, int]
    assert isinstance((await backend.write_items([SetItems("n", {"bad": 2})]))[0], int), "setting mends it"
    execute(url, "UPDATE agentstore_state SET value = '{', expires_at = 9223372036854775807 WHERE key = 'bad'")
    assert await backend.write_items([DeleteKeys("n", ("bad",))]) == [1]


async def test_messages_beyond_the_last_seq(backend, url):
    """Somebody has turned a session back: its next seq is taken."""
    await backend.append([Append("bad", (Message("user", "1"), Message("user", "2"))), turn("good")])
    execute(url, "UPDATE agentstore_sessions SET last_seq = 1 WHERE session_id = 'bad'")
    outcomes = await backend.append([turn(name, "x") for name in ("good", "bad", "new")])
    assert [words(outcome) for outcome in outcomes] == [["x"], CorruptRecordError, ["x"]]


async def test_a_trigger_that_refuses_one(backend, url):
    execute(
        url,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.content = 'bad' THEN RAISE 'no'; END IF; RETURN NEW; END $$",
    )
    execute(url, "CREATE TRIGGER t BEFORE INSERT ON agentstore_messages FOR EACH ROW EXECUTE FUNCTION refuse()")
    outcomes = await backend.append([turn("a", "1"), turn("b", "bad"), turn("a", "2")])
    assert [words(outcome) for outcome in outcomes] == [["1"], CorruptRecordError, ["2"]]


async def test_tables_that_are_gone(backend, url):
    execute(url, "DROP TABLE agentstore_messages")
    with pytest.raises(CorruptRecordError, match="not those that agentstore made"):
        await backend.append([turn("s")])


async def test_a_session_too_long_for_one_statement(backend, monkeypatch):
    monkeypatch.setattr(sessions, "_CHUNK", 100)
    messages = [Message("user", f"{n} " + "x" * 30, seq=n) for n in range(1, 21)]
    await backend.restore(Session("s", last_seq=25), messages)
    assert (await backend.read([Read("s")]))[0] == messages
    ((stored,),) = await backend.append([turn("s")])
    assert stored.seq == 26
    with pytest.raises(ConflictError):
        await backend.restore(Session("t", last_seq=25), [*messages, messages[0]])
    assert await backend.heads([Head("t")]) == [None], "all or none"
