"""How a SQLite database is opened and closed, and which files are refused."""

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from sqlite_kit import PATIENT, make, run_script, turn

from agentstore import errors
from agentstore.drivers.sqlite import SQLiteBackend, opening
from agentstore.options import PoolOptions
from agentstore.protocol import Head, Read
from agentstore.url import StoreURL

pytestmark = pytest.mark.anyio


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
