"""What is peculiar to SQLite; what all backends share is in the contract suite."""

from __future__ import annotations

import asyncio
import base64
import functools
import gc
import json
import sqlite3
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from agentstore import errors
from agentstore.drivers.sql import rows, schema, upgrade
from agentstore.drivers.sqlite import SQLiteBackend, conversations, opening
from agentstore.drivers.sqlite.errors import BY_CODE, BY_TYPE, translated
from agentstore.drivers.sqlite.thread import ConnectionThread
from agentstore.options import PoolOptions
from agentstore.protocol import Append, Head, Listing, Read, SetItems
from agentstore.records import Message
from agentstore.url import StoreURL

pytestmark = pytest.mark.anyio

PATIENT = 30  # seconds for what ends at once unless it is broken


def make(place, **options):
    return SQLiteBackend(StoreURL.parse(f"sqlite:///{place}"), PoolOptions(**options))


def turn(session_id, text="hello"):
    return Append(session_id, (Message("user", text),))


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "a.db")


@pytest.fixture
async def backend(path):
    backend = make(path)
    await backend.aopen()
    yield backend
    await backend.aclose()


def run_script(source, *args):
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", source, *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENT, check=False)


# --- opening ----------------------------------------------------------------------------------------------------


async def test_the_connections_are_set_up_for_durable_writes_and_free_reads(backend):
    def pragmas(connection):
        return {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "busy_timeout", "query_only")
        }

    writer, reader = await backend._writer.run(pragmas), await backend._reader.run(pragmas)
    assert writer == {"journal_mode": "wal", "synchronous": 2, "busy_timeout": 30_000, "query_only": 0}
    assert reader["journal_mode"] == "wal"
    assert reader["query_only"] == 1


async def test_the_constructor_touches_nothing(tmp_path):
    make(tmp_path / "none" / "a.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
async def test_each_memory_database_is_its_own(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, two = (SQLiteBackend(StoreURL.parse(url), PoolOptions()) for _ in range(2))
    await one.aopen()
    await two.aopen()
    await one.append([turn("s")])
    assert (await one.heads([Head("s")]))[0].message_count == 1
    assert await two.heads([Head("s")]) == [None]
    await one.aclose()
    await two.aclose()
    assert list(tmp_path.iterdir()) == []


async def test_a_database_is_opened_again_without_alembic(path, backend):
    await backend.append([turn("s")])
    source = """
import asyncio, sys
from agentstore.drivers.sqlite import SQLiteBackend
from agentstore.options import PoolOptions
from agentstore.protocol import Head
from agentstore.url import StoreURL

async def main():
    backend = SQLiteBackend(StoreURL.parse("sqlite:///" + sys.argv[1]), PoolOptions())
    await backend.aopen()
    print((await backend.heads([Head("s")]))[0].message_count)
    await backend.aclose()

asyncio.run(main())
print([name for name in ("sqlalchemy", "alembic") if name in sys.modules])
"""
    done = run_script(source, path)
    assert (done.stdout, done.stderr) == ("1\n[]\n", "")


def test_four_processes_may_open_one_empty_file_at_once(tmp_path):
    source = """
import asyncio, sys
from agentstore.drivers.sqlite import SQLiteBackend
from agentstore.options import PoolOptions
from agentstore.protocol import Append
from agentstore.records import Message
from agentstore.url import StoreURL

async def main():
    for path in sys.argv[1:]:
        print("ready", flush=True)
        sys.stdin.readline()
        backend = SQLiteBackend(StoreURL.parse("sqlite:///" + path), PoolOptions())
        await backend.aopen()
        (outcome,) = await backend.append([Append("s", (Message("user", "hello"),))])
        print(outcome[0].seq, flush=True)
        await backend.aclose()

asyncio.run(main())
"""
    paths = [str(tmp_path / f"{number}.db") for number in range(5)]
    (tmp_path / "0.db").touch()
    command = [sys.executable, "-W", "error", "-c", source, *paths]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(4)]
    try:
        for _ in paths:
            assert [p.stdout.readline() for p in processes] == ["ready\n"] * 4
            for process in processes:
                process.stdin.write("go\n")
                process.stdin.flush()
            assert sorted(p.stdout.readline() for p in processes) == ["1\n", "2\n", "3\n", "4\n"]
    finally:
        problems = [p.communicate(timeout=PATIENT)[1] for p in processes]
    assert problems == [""] * 4


@pytest.fixture
def reader_in_old_mode(path):
    """Another program in a read transaction, in a file that is not in WAL yet."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("CREATE TABLE other (a)")
        other.execute("BEGIN")
        other.execute("SELECT * FROM other").fetchall()
        yield other


async def test_the_switch_to_wal_is_tried_again(path, reader_in_old_mode, monkeypatch):
    monkeypatch.setattr(opening.time, "sleep", lambda _seconds: reader_in_old_mode.execute("COMMIT"))
    backend = make(path)
    await backend.aopen()
    assert (await backend.append([turn("s")]))[0][0].seq == 1
    await backend.aclose()


async def test_the_switch_to_wal_is_given_up_in_time(path, reader_in_old_mode):
    with pytest.raises(errors.UnavailableError, match="locked"):
        await make(path, connect_timeout=0.05).aopen()


async def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(errors.UnavailableError, match=f"the folder {tmp_path}/none does not exist"):
        await make(tmp_path / "none" / "a.db").aopen()


async def test_a_folder_is_no_database(tmp_path):
    with pytest.raises(errors.UnavailableError, match="cannot be opened") as caught:
        await make(tmp_path).aopen()
    assert caught.value.__cause__.sqlite_errorname == "SQLITE_CANTOPEN"


async def test_any_file_is_no_database(path):
    with open(path, "w") as file:  # noqa: ASYNC230, PTH123  a few bytes
        file.write("Dear diary, " * 1000)
    backend = make(path)
    with pytest.raises(errors.CorruptRecordError, match="no SQLite database") as caught:
        await backend.aopen()
    assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)
    with pytest.raises(errors.CorruptRecordError):  # it may be tried again
        await backend.aopen()


async def test_a_damaged_file_is_no_missing_history(path):
    backend = make(path)
    await backend.aopen()
    for number in range(50):
        await backend.append([turn("s", str(number) * 3000)])
    await backend.aclose()
    with open(path, "r+b") as file:  # noqa: ASYNC230, PTH123  a few bytes
        file.seek(3 * 4096)
        file.write(b"\xff" * 4096 * 30)
    damaged = make(path)
    await damaged.aopen()
    with pytest.raises(errors.CorruptRecordError, match="damaged"):
        await damaged.read([Read("s")])
    await damaged.aclose()


async def test_a_newer_schema_is_refused_and_left_alone(path, backend):
    await backend._writer.run(lambda c: c.execute("UPDATE agentstore_version SET version_num = '9999'"))
    with pytest.raises(errors.SchemaError, match=r"9999.*newer version.*[Uu]pgrade agentstore"):
        await make(path).aopen()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT version_num FROM agentstore_version").fetchall() == [("9999",)]


# --- the schema -------------------------------------------------------------------------------------------------


async def test_the_migrations_lead_to_the_schema(path, backend):
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": upgrade.VERSION_TABLE})
        assert compare_metadata(context, schema.metadata) == []
        assert context.get_current_heads() == (upgrade.VERSION,)
    engine.dispose()
    config = Config()
    config.set_main_option("script_location", "agentstore.drivers.sql:migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [upgrade.VERSION]


def test_rows_name_the_columns_of_the_schema():
    assert set(rows.SESSION.split(", ")) == set(schema.sessions.columns.keys())
    assert set(rows.NEW_MESSAGE.split(", ")) == set(schema.messages.columns.keys())


@pytest.mark.parametrize(
    ("sql", "values", "index"),
    [
        (conversations._NEWEST, ("s", 0, 9, 5), "PRIMARY KEY"),
        (conversations._NAMED, ("[1]",), "agentstore_messages_by_id"),
    ],
)
async def test_hot_statements_use_their_index(backend, sql, values, index):
    plan = await backend._reader.run(lambda c: c.execute("EXPLAIN QUERY PLAN " + sql, values).fetchall())
    search = next(row[3] for row in plan if row[3].startswith("SEARCH agentstore_messages"))
    assert index.replace("PRIMARY KEY", "sqlite_autoindex_agentstore_messages_1") in search
    assert not [row for row in plan if "TEMP B-TREE FOR ORDER BY" in row[3] or row[3].startswith("SCAN agentstore")]


@pytest.mark.parametrize(("user_id", "index"), [(None, "by_time"), ("u", "by_user")])
@pytest.mark.parametrize("further", [False, True])
async def test_listings_walk_an_index(backend, user_id, index, further):
    for number in range(3):
        await backend.append([Append(f"s{number}", user_id="u")])
    cursor = (await backend.list_sessions(Listing(limit=1))).next_cursor if further else None
    said = []

    def plan(connection):
        connection.set_trace_callback(said.append)
        conversations.list_sessions(connection, Listing(user_id=user_id, cursor=cursor))
        connection.set_trace_callback(None)
        return [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + said[-1])]

    steps = await backend._reader.run(plan)
    assert f"USING INDEX agentstore_sessions_{index}" in steps[0]
    assert "USE TEMP B-TREE FOR ORDER BY" not in steps


def test_id_keys_of_uuid7_grow_and_tell_sessions_apart():
    early, late = "01890000-0000-7000-8000-000000000000", "01890000-0040-7000-8000-000000000000"
    assert 0 < rows.id_key("s", early) < rows.id_key("s", late) < 2**63
    assert rows.id_key("s", early) != rows.id_key("t", early)
    assert rows.id_key("s", early) != rows.id_key("s", early[:-1] + "1")
    for odd in (
        "x",
        "é",
        "ffffffff-ffff-7fff-bfff-ffffffffffff",
        "zzzzzzzz-zzzz-7zzz-bzzz-zzzzzzzzzzzz",
        "-" * 14 + "7" * 22,
    ):
        assert -(2**63) <= rows.id_key("s", odd) < 2**63


async def test_equal_id_keys_do_not_make_messages_equal(backend, monkeypatch):
    monkeypatch.setattr(rows, "id_key", lambda _session_id, _message_id: 7)
    one, two = Message("user", "1", id="a"), Message("user", "2", id="b")
    assert (await backend.append([Append("s", (one,))]))[0][0].seq == 1
    assert (await backend.append([Append("s", (two,))]))[0][0].seq == 2
    assert (await backend.append([Append("t", (one,))]))[0][0].seq == 1
    (again,) = await backend.append([Append("s", (one, two))])
    assert [(m.content, m.seq) for m in again] == [("1", 1), ("2", 2)]


# --- errors -----------------------------------------------------------------------------------------------------


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


async def test_use_after_close(path):
    backend = make(path)
    await backend.aopen()
    await backend.aclose()
    await backend.aclose()
    for call in (backend.aopen(), backend.ping(), backend.append([turn("s")]), backend.read([Read("s")])):
        with pytest.raises(errors.ClosedError):
            await call
    backend.close_at_exit()


async def test_a_clean_close_leaves_one_file(path, tmp_path):
    backend = make(path)
    await backend.aopen()
    await backend.append([turn("s")])
    await backend.read([Read("s")])
    await asyncio.gather(backend.aclose(), backend.aclose())
    assert [file.name for file in tmp_path.iterdir()] == ["a.db"]


# --- threads and loops ------------------------------------------------------------------------------------------


def test_many_threads_and_loops_share_one_object(path):
    backend = make(path)
    asyncio.run(backend.aopen())

    async def talk(name):
        await asyncio.gather(*(backend.append([turn(name)]) for _ in range(10)))
        return len((await backend.read([Read(name)]))[0])

    with ThreadPoolExecutor(8) as threads:
        counts = list(threads.map(lambda number: asyncio.run(talk(f"s{number % 4}")), range(16)))
    assert max(counts) == 40
    heads = asyncio.run(backend.heads([Head(f"s{number}") for number in range(4)]))
    assert [(head.message_count, head.last_seq) for head in heads] == [(40, 40)] * 4
    asyncio.run(backend.aclose())


@pytest.fixture
def held(path):
    """An open backend whose writer waits until it is let go."""
    backend = make(path)
    asyncio.run(backend.aopen())
    began, go = threading.Event(), threading.Event()

    def wait(_connection):
        began.set()
        assert go.wait(PATIENT)

    yield backend, wait, began, go
    go.set()
    asyncio.run(backend.aclose())


def test_a_loop_closed_in_mid_write_leaves_the_thread_alive(held):
    backend, wait, began, go = held
    loop = asyncio.new_event_loop()

    async def write():
        await backend._writer.run(wait)

    pending = loop.create_task(write())
    waiting = loop.run_in_executor(None, began.wait, PATIENT)
    assert loop.run_until_complete(waiting)
    pending._log_destroy_pending = False  # it is left in mid-air on purpose
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    go.set()
    assert asyncio.run(backend.append([turn("s")]))[0][0].seq == 1


def test_a_loop_closed_in_mid_close_leaves_no_thread(held):
    backend, wait, began, go = held
    loop = asyncio.new_event_loop()

    async def leave():
        blocking = backend._writer.run(wait)
        closing_writer = backend._writer.close()
        await loop.run_in_executor(None, began.wait, PATIENT)
        return blocking, closing_writer

    unanswered = loop.run_until_complete(leave())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    go.set()
    backend._writer.join(PATIENT)
    assert not backend._writer._thread.is_alive()
    assert not any(future.done() for future in unanswered)


def test_a_write_in_flight_is_waited_for_and_one_cancellation_stays_one(held):
    backend, wait, began, go = held

    async def main():
        blocking = backend._writer.run(wait)
        writing = asyncio.create_task(backend.append([turn("s")]))
        await asyncio.to_thread(began.wait, PATIENT)
        writing.cancel()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await follow(writing)
        await blocking
        return (await backend.heads([Head("s")]))[0].message_count

    async def follow(task):
        await task

    assert asyncio.run(main()) == 1


def test_a_cancelled_read_is_left_behind(held):
    backend, wait, began, go = held

    async def main():
        blocking = backend._reader.run(wait)
        reading = asyncio.create_task(backend.read([Read("s")]))
        await asyncio.to_thread(began.wait, PATIENT)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert not blocking.done()
        go.set()
        await blocking
        assert await backend.read([Read("s")]) == [[]]

    asyncio.run(main())


def test_a_forgotten_backend_ends_its_threads(path):
    backend = make(path)
    asyncio.run(backend.aopen())
    asyncio.run(backend.append([turn("s")]))
    threads = [thread._thread for thread in backend._threads()]
    del backend
    gc.collect()
    for thread in threads:
        thread.join(PATIENT)
        assert not thread.is_alive()


async def test_a_thread_keeps_nothing_of_what_it_ran(backend):
    class Batch:
        pass

    batch = Batch()
    seen = weakref.ref(batch)
    work = functools.partial(lambda _batch, _connection: None, batch)
    del batch
    await backend._writer.run(work)
    del work
    async with asyncio.timeout(PATIENT):
        while seen() is not None:  # the thread answers a moment before it lets go
            await asyncio.sleep(0)


def test_close_at_exit_closes_without_a_loop(path, tmp_path):
    backend = make(path)
    asyncio.run(backend.aopen())
    asyncio.run(backend.append([turn("s")]))
    asyncio.run(backend.read([Read("s")]))
    backend.close_at_exit()
    assert [file.name for file in tmp_path.iterdir()] == ["a.db"]
    with pytest.raises(errors.ClosedError):
        asyncio.run(backend.ping())


@pytest.mark.parametrize("ending", ["", "backend.close_at_exit()", "atexit.register(backend.close_at_exit)"])
def test_the_interpreter_ends_without_a_close(path, ending):
    source = f"""
import asyncio, atexit, sys
from agentstore.drivers.sqlite import SQLiteBackend
from agentstore.options import PoolOptions
from agentstore.protocol import Append
from agentstore.records import Message
from agentstore.url import StoreURL

backend = SQLiteBackend(StoreURL.parse("sqlite:///" + sys.argv[1]), PoolOptions())

async def main():
    await backend.aopen()
    await backend.append([Append("s", (Message("user", "hello"),))])

asyncio.run(main())
{ending}
"""
    done = run_script(source, path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT content FROM agentstore_messages").fetchall() == [("hello",)]


async def test_no_thread_is_an_error_of_ours(monkeypatch):
    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(errors.UnavailableError, match="can't start new thread"):
        ConnectionThread(lambda: sqlite3.connect(opening.MEMORY))
