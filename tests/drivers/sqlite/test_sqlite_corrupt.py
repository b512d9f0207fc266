"""Rows that cannot be read: who meets them, who does not, and how to get rid of them."""

import pytest
from sqlite_kit import turn

from agentstore import rules
from agentstore.errors import AccessDeniedError, AgentstoreError, CorruptRecordError, UnavailableError
from agentstore.protocol import (
    Append,
    Change,
    DeleteKeys,
    Expire,
    GetItems,
    Head,
    Increment,
    Listing,
    Read,
    Scan,
    SetItems,
)
from agentstore.records import Message

pytestmark = pytest.mark.anyio

NOT_UTF8 = "CAST(x'ff' AS TEXT)"
HEADS = (
    "metadata = '{'",
    "metadata = '[1]'",
    "created_at = 'x'",
    "updated_at = 9e300",
    "last_seq = 'x'",
    "message_count = 'x'",
    f"title = {NOT_UTF8}",
    f"agent = {NOT_UTF8}",
)
MESSAGES = ("metadata = '{'", f"content = {NOT_UTF8}", "created_at = 'x'")


def kinds(outcomes):
    return [type(outcome) if isinstance(outcome, Exception) else "ok" for outcome in outcomes]


@pytest.fixture
async def spoil(backend):
    """Sessions a, b, c and keys a, b, c; gives what changes the rows of the a's."""
    await backend.append([Append(s, (Message("user", "hello", id="m1"),), user_id="u") for s in "abc"])
    await backend.write_items([SetItems("n", {key: 1}) for key in "abc"])

    async def spoil(table, change):
        column = "key" if table == "state" else "session_id"
        sql = f"UPDATE agentstore_{table} SET {change} WHERE {column} = 'a'"
        assert await backend._writer.run(lambda c: c.execute(sql).rowcount) == 1

    return spoil


@pytest.mark.parametrize("change", HEADS)
async def test_a_head_that_cannot_be_read_fails_its_session_alone(backend, spoil, change):
    await spoil("sessions", change)
    one = ["ok", CorruptRecordError, "ok", "ok"]
    assert kinds(await backend.append([turn(s) for s in "xabc"])) == one
    assert kinds(await backend.read([Read(s) for s in "xabc"])) == one
    assert kinds(await backend.heads([Head(s) for s in "xabc"])) == one
    assert [(m.content, m.seq) for m in (await backend.read([Read("b")]))[0]] == [("hello", 1), ("hello", 2)]
    for call in (backend.pop("a", 1), backend.clear("a"), backend.update(Change("a", title="t"))):
        with pytest.raises(CorruptRecordError):
            await call


@pytest.mark.parametrize("change", HEADS)
async def test_a_session_that_cannot_be_read_is_named_and_can_be_deleted(backend, spoil, change):
    await spoil("sessions", change)
    with pytest.raises(CorruptRecordError, match=r"'a'.*delete"):
        await backend.list_sessions(Listing())
    with pytest.raises(AccessDeniedError):
        await backend.delete("a", user_id="v")
    assert await backend.delete("a", user_id="u")
    assert not await backend.delete("a", user_id="u")
    assert [session.id for session in (await backend.list_sessions(Listing())).items] == ["c", "b"]
    assert (await backend.append([turn("a")]))[0][0].seq == 2  # seqs go on
    assert len((await backend.read([Read("a")]))[0]) == 1


@pytest.mark.parametrize("marks", ["'{'", "'[]'", "7", NOT_UTF8])
async def test_marks_that_cannot_be_read_fail_appends_until_the_session_is_deleted(backend, spoil, marks):
    await spoil("sessions", f"marks = {marks}")
    assert kinds(await backend.append([turn(s) for s in "xabc"])) == ["ok", CorruptRecordError, "ok", "ok"]
    assert len(await backend.pop("a", 1)) == 1
    assert await backend.delete("a")
    assert kinds(await backend.append([turn("a")])) == ["ok"]


async def test_an_owner_that_cannot_be_read_is_nobody(backend, spoil):
    await spoil("sessions", f"user_id = {NOT_UTF8}")
    with pytest.raises(CorruptRecordError):
        await backend.delete("a", user_id="u")
    assert await backend.delete("a")


async def test_a_last_seq_behind_the_messages_fails_its_session_alone(backend, spoil):
    await spoil("sessions", "last_seq = 0")
    await spoil("messages", "seq = 2")
    two = (Message("user", "1"), Message("user", "2"))  # of which the first finds its place
    outcomes = await backend.append([Append(s, two) for s in "xabc"])
    assert kinds(outcomes) == ["ok", CorruptRecordError, "ok", "ok"]
    assert outcomes[1].__cause__.sqlite_errorname.startswith("SQLITE_CONSTRAINT")
    assert (await backend.heads([Head("a")]))[0].message_count == 1
    assert [len(found) for found in await backend.read([Read("a"), Read("b")])] == [1, 3]


@pytest.mark.parametrize("change", MESSAGES)
async def test_a_message_that_cannot_be_read_fails_its_session_alone(backend, spoil, change):
    await spoil("messages", change)
    again = [Append(s, (Message("user", "?", id="m1"),)) for s in "xabc"]
    assert kinds(await backend.append(again)) == ["ok", CorruptRecordError, "ok", "ok"]
    assert kinds(await backend.read([Read(s) for s in "xabc"])) == ["ok", CorruptRecordError, "ok", "ok"]
    assert (await backend.append([turn("a")]))[0][0].seq == 2  # nothing that is asked for is unreadable
    assert (await backend.pop("a", 1))[0].seq == 2
    with pytest.raises(CorruptRecordError):
        await backend.pop("a", 1)
    assert await backend.clear("a") == 1


@pytest.mark.parametrize("change", ["value = '{'", f"value = {NOT_UTF8}", "expires_at = 'x'", "version = 'x'"])
async def test_a_key_that_cannot_be_read_fails_alone_and_can_be_replaced_or_deleted(backend, spoil, change):
    await spoil("state", change)
    batch = [Increment("n", "b"), Increment("n", "a"), Expire("n", "a", None), SetItems("n", {"z": 1})]
    assert kinds(await backend.write_items(batch)) == ["ok", CorruptRecordError, CorruptRecordError, "ok"]
    assert kinds(await backend.get_items([GetItems("n", (key,)) for key in "abz"])) == [CorruptRecordError, "ok", "ok"]
    with pytest.raises(CorruptRecordError, match="'a'"):
        await backend.scan(Scan("n"))
    mixed = [SetItems("n", {"a": 5}), Increment("n", "a"), DeleteKeys("n", ("a",)), Increment("n", "a")]
    assert (await backend.write_items(mixed))[1:] == [6, 1, 1]
    await spoil("state", change)
    assert (await backend.write_items([SetItems("n", {"a": 7})]))[0] > 1
    assert (await backend.get_items([GetItems("n", ("a",))]))[0]["a"].value == 7
    await spoil("state", change)
    assert await backend.write_items([DeleteKeys("n", ("a",))]) == [1]
    assert [item.key for item in await backend.scan(Scan("n"))] == ["b", "c", "z"]


@pytest.mark.parametrize("floor", ["'x'", NOT_UTF8])
async def test_a_floor_that_cannot_be_read_fails_its_namespace_alone(backend, floor):
    await backend.write_items([SetItems("bad", {"k": 1}), DeleteKeys("bad", ("k",))])
    await backend._writer.run(lambda c: c.execute(f"UPDATE agentstore_state_floors SET floor = {floor}"))
    outcomes = await backend.write_items([SetItems("good", {"k": 1}), SetItems("bad", {"k": 1})])
    assert kinds(outcomes) == ["ok", CorruptRecordError]


async def test_a_group_that_is_begun_anew_leaves_order_and_conflicts_as_they_are(backend, spoil):
    await spoil("sessions", "metadata = '{'")
    twice = Message("user", "1", id="i")
    outcomes = await backend.append(
        [turn("a"), Append("b", (twice,)), Append("b", (twice,)), Append("b", expected_seq=1), turn("b", "2")]
    )
    assert [outcome[0].seq for outcome in (outcomes[1], outcomes[2], outcomes[4])] == [2, 2, 3]
    assert "expected 1" in str(outcomes[3])
    assert [message.seq for message in (await backend.read([Read("b")]))[0]] == [1, 2, 3]


async def test_a_bug_met_by_one_operation_is_its_own(backend, monkeypatch):
    check = rules.sessions.check_metadata

    def wrong(value, **limit):
        if "bug" in value:
            raise OverflowError("a date too far")
        return check(value, **limit)

    monkeypatch.setattr(rules.sessions, "check_metadata", wrong)
    ops = [turn("x"), Append("s", metadata={"bug": 1}), Append("t", metadata={"k": 1})]
    outcomes = await backend.append(ops)
    assert kinds(outcomes) == ["ok", AgentstoreError, "ok"]
    assert "please report it" in str(outcomes[1])
    assert isinstance(outcomes[1].__cause__, OverflowError)
    assert await backend.heads([Head("s")]) == [None]


async def test_a_passing_failure_of_sqlite_is_not_taken_for_a_corrupt_row(backend):
    due = []

    def interrupt_first(connection):
        due.append(1)
        connection.set_trace_callback(lambda sql: due.append(2) if sql.startswith("SELECT") else None)
        connection.set_progress_handler(lambda: len(due) == 2 and not due.append(3), 1)

    await backend.append([turn("s")])
    await backend._reader.run(interrupt_first)
    with pytest.raises(UnavailableError, match="interrupted"):
        await backend.read([Read("s")])
    assert len((await backend.read([Read("s")]))[0]) == 1


async def test_what_sqlite_says_is_no_bug_of_an_operation(backend):
    await backend._writer.run(lambda c: c.execute("DROP TABLE agentstore_sessions"))
    with pytest.raises(CorruptRecordError, match="no such table"):
        await backend.read([Read("s"), Read("t")])
