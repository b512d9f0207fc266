"""The threads of the SQLite driver: loops that close, cancellations, interpreters that end."""

import asyncio
import functools
import gc
import sqlite3
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from sqlite_kit import PATIENT, make, run_script, turn

from agentstore import errors
from agentstore.drivers.sqlite import opening
from agentstore.drivers.sqlite.thread import ConnectionThread
from agentstore.protocol import Head, Read

pytestmark = pytest.mark.anyio


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


@pytest.mark.parametrize("ending", ["backend.close_at_exit()", "atexit.register(backend.close_at_exit)"])
def test_the_interpreter_ends_after_close_at_exit(path, ending):
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
