"""Several event loops, threads and processes that open and close one backend."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlite_kit import PATIENT, make, run_script, turn

from agentstore import errors
from agentstore.drivers.sqlite import opening
from agentstore.protocol import Head

pytestmark = pytest.mark.anyio


def blocking(coroutine):
    """Run on another thread's loop, while this thread's loop stands still."""
    box = []
    thread = threading.Thread(target=lambda: box.append(asyncio.run(coroutine)), daemon=True)
    thread.start()
    thread.join(PATIENT)
    assert not thread.is_alive(), "it waits for the loop that waits for it"
    return box[0]


async def test_a_loop_that_stands_still_while_it_opens_holds_up_nobody(path):
    backend = make(path)
    opening_here = asyncio.create_task(backend.aopen())
    await asyncio.sleep(0)

    async def use():
        await backend.aopen()
        return await backend.append([turn("s")])

    assert blocking(use())[0][0].seq == 1
    await opening_here
    await backend.aclose()


async def test_a_loop_that_stands_still_while_it_closes_holds_up_nobody(path, tmp_path):
    backend = make(path)
    await backend.aopen()
    closing_here = asyncio.create_task(backend.aclose())
    await asyncio.sleep(0)
    blocking(backend.aclose())
    await closing_here
    assert [file.name for file in tmp_path.iterdir()] == ["a.db"]


def test_many_loops_open_one_connection_each_way(path, monkeypatch):
    made = []
    for name in ("connect_writer", "connect_reader"):
        connect = getattr(opening, name)
        monkeypatch.setattr(opening, name, lambda *args, c=connect, n=name: made.append(n) or c(*args))
    backend = make(path)
    together = threading.Barrier(8)

    async def use(number):
        together.wait(PATIENT)
        await backend.aopen()
        return (await backend.append([turn(f"s{number}")]))[0][0].seq

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda number: asyncio.run(use(number)), range(8))) == [1] * 8
    assert made == ["connect_writer", "connect_reader"]
    asyncio.run(backend.aclose())


async def test_each_caller_is_told_of_a_failed_opening_which_may_be_tried_again(tmp_path):
    backend = make(tmp_path / "later" / "a.db")
    failed = await asyncio.gather(*(backend.aopen() for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in failed] == [errors.UnavailableError] * 3
    (tmp_path / "later").mkdir()
    await backend.aopen()
    assert (await backend.append([turn("s")]))[0][0].seq == 1
    await backend.aclose()


async def test_closed_while_it_opens_it_stays_closed(path):
    backend = make(path)
    opened, _ = await asyncio.gather(backend.aopen(), backend.aclose(), return_exceptions=True)
    assert opened is None or isinstance(opened, errors.ClosedError)
    with pytest.raises(errors.ClosedError):
        await backend.heads([Head("s")])
    for thread in backend._threads():
        thread.join(PATIENT)
        assert not thread._thread.is_alive()


async def test_threads_started_while_it_is_closed_are_ended(path, monkeypatch):
    backend = make(path)
    start = backend._thread

    def closed_meanwhile(connect):
        backend._closed = True
        return start(connect)

    monkeypatch.setattr(backend, "_thread", closed_meanwhile)
    with pytest.raises(errors.ClosedError):
        await backend.aopen()
    assert len(backend._threads()) == 2
    for thread in backend._threads():
        thread.join(PATIENT)
        assert not thread._thread.is_alive()


@pytest.mark.parametrize("ending", ["asyncio.run(backend.aclose())", "backend.close_at_exit()"])
def test_a_forked_process_neither_waits_nor_writes(path, ending):
    source = f"""
import asyncio, os, signal, sys, warnings
from agentstore.drivers.sqlite import SQLiteBackend
from agentstore.errors import UnavailableError
from agentstore.options import PoolOptions
from agentstore.protocol import Append
from agentstore.records import Message
from agentstore.url import StoreURL

warnings.filterwarnings("ignore", "This process .* is multi-threaded")
backend = SQLiteBackend(StoreURL.parse("sqlite:///" + sys.argv[1]), PoolOptions())

async def write():
    await backend.aopen()
    return (await backend.append([Append("s", (Message("user", "hello"),))]))[0][0].seq

assert asyncio.run(write()) == 1
child = os.fork()
if child == 0:
    signal.alarm({PATIENT // 2})
    try:
        asyncio.run(write())
    except UnavailableError as error:
        print(error, flush=True)
    {ending}
    os._exit(0)
print(os.waitpid(child, 0)[1], flush=True)
assert asyncio.run(write()) == 2
asyncio.run(backend.aclose())
"""
    done = run_script(source, path)
    assert (done.returncode, done.stderr) == (0, "")
    said, status = done.stdout.splitlines()
    assert "before a fork" in said
    assert status == "0"
