"""What SQLite's errors become, and what they leave stored."""

import base64
import json
import sqlite3
from contextlib import closing

import pytest
from sqlite_kit import make, turn

from agentstore import errors
from agentstore.drivers.sqlite.errors import BY_CODE, BY_TYPE, translated
from agentstore.protocol import Head, Listing, Read, SetItems

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_every_code_becomes_an_error_of_ours(code):
    error = sqlite3.OperationalError("what SQLite says")
    error.sqlite_errorcode = code | 7 << 8  # an extended code
    ours = translated(error, "/a.db")
    assert type(ours) is BY_CODE[code].error
    assert "/a.db" in str(ours)
    assert "what SQLite says" in str(ours)


@pytest.mark.parametrize("kind", BY_TYPE)
def test_every_type_becomes_an_error_of_ours(kind):
    error = UnicodeEncodeError("utf-8", "x", 0, 1, "why") if kind is UnicodeEncodeError else kind("why")
    assert type(translated(error, "/a.db")) is BY_TYPE[kind].error


def test_no_primary_code_is_forgotten():
    assert set(BY_CODE) == set(range(sqlite3.SQLITE_ERROR, sqlite3.SQLITE_NOTADB + 1))


async def test_a_lock_held_for_too_long_is_no_lost_write(path):
    backend = make(path, statement_timeout=0.05)
    await backend.aopen()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(errors.UnavailableError, match="locked") as caught:
            await backend.append([turn("s")])
        assert await backend.read([Read("s")]) == [[]]  # readers do not wait for writers
        other.execute("ROLLBACK")
    assert caught.value.__cause__.sqlite_errorname == "SQLITE_BUSY"
    assert (await backend.append([turn("s")]))[0][0].seq == 1
    await backend.aclose()


async def test_a_full_disk_is_told_and_undone(backend):
    await backend.append([turn("s")])
    pages = await backend._writer.run(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
    await backend._writer.run(lambda c: c.execute(f"PRAGMA max_page_count = {pages}").fetchall())
    with pytest.raises(errors.UnavailableError, match="full"):
        await backend.append([turn("s", "x" * 100_000), turn("t")])
    await backend._writer.run(lambda c: c.execute("PRAGMA max_page_count = 1000000").fetchall())
    assert await backend.heads([Head("t")]) == [None]
    assert (await backend.append([turn("s")]))[0][0].seq == 2


async def test_a_failed_commit_is_undone_and_the_next_write_succeeds(backend):
    def refuse(action, argument, *_):
        barred = action == sqlite3.SQLITE_TRANSACTION and argument == "COMMIT"
        return sqlite3.SQLITE_DENY if barred else sqlite3.SQLITE_OK

    await backend._writer.run(lambda c: c.set_authorizer(refuse))
    with pytest.raises(errors.AgentstoreError) as caught:
        await backend.append([turn("s")])
    assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)
    await backend._writer.run(lambda c: c.set_authorizer(None))
    assert await backend.heads([Head("s")]) == [None]
    assert (await backend.append([turn("s")]))[0][0].seq == 1


async def test_a_read_only_file_is_told(backend):
    await backend._writer.run(lambda c: c.execute("PRAGMA query_only = ON"))
    with pytest.raises(errors.UnavailableError, match="writable") as caught:
        await backend.append([turn("s")])
    assert caught.value.__cause__.sqlite_errorname == "SQLITE_READONLY"


async def test_missing_tables_are_told(backend):
    await backend._writer.run(lambda c: c.execute("DROP TABLE agentstore_state"))
    with pytest.raises(errors.CorruptRecordError, match="no such table"):
        await backend.write_items([SetItems("n", {"k": 1})])


async def test_a_cursor_that_nobody_gave_is_refused(backend):
    surrogate = base64.urlsafe_b64encode(json.dumps([1, "\ud800"]).encode()).decode()
    with pytest.raises(errors.InvalidInputError):
        await backend.list_sessions(Listing(cursor=surrogate))


async def test_unreadable_rows_fail_alone(backend):
    await backend.append([turn("good"), turn("bad")])
    await backend._writer.run(
        lambda c: c.execute("UPDATE agentstore_messages SET tool_calls = '[[1]]' WHERE session_id = 'bad'")
    )
    good, bad = await backend.read([Read("good"), Read("bad")])
    assert good[0].content == "hello"
    assert isinstance(bad, errors.CorruptRecordError)
