"""The blocking face: scripts, threads, notebook cells, interpreter exit."""

import asyncio
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from agentstore import ClosedError, db
from agentstore.sync import iterate_blocking, run_blocking

HELLO = {"role": "user", "content": "hello"}


@pytest.fixture(params=["memory:", "sqlite:///{}/x.db", "json:///{}/x"])
def url(request, tmp_path):
    return request.param.format(tmp_path)


def test_a_plain_script(url):
    with db(url) as database:
        stored = database.sync.append("s", [HELLO, HELLO])
        assert [m.seq for m in stored] == [m.seq for m in database.sync.messages("s")]
        assert list(database.sync.iter_messages("s", batch_size=1)) == stored
        assert database.sync.state.scope("user").set("k", 1) == 1
        assert database.sync.state.scope("user").get("k") == 1
        assert database.sync.session("s").message_count == 2
    with pytest.raises(ClosedError):
        database.sync.messages("s")
    database.close()


def test_inside_a_running_loop(url):
    async def cell():
        with db(url) as database:
            database.sync.append("s", HELLO)
            assert len(await database.messages("s")) == 1
            await database.append("s", HELLO)
            assert len(database.sync.messages("s")) == 2

    asyncio.run(cell())


def test_several_loops_one_after_another(url):
    database = db(url)
    for _ in range(3):
        asyncio.run(database.append("s", HELLO))
    database.sync.append("s", HELLO)
    assert len(asyncio.run(database.messages("s"))) == 4
    database.close()


def test_threads_sync_and_async_at_once(url):
    database = db(url)

    def blocking(name):
        for index in range(10):
            database.sync.append("s", {**HELLO, "id": f"{name}-{index}"})

    def looping(name):
        async def main():
            await asyncio.gather(*(database.append("s", {**HELLO, "id": f"{name}-{n}"}) for n in range(10)))

        asyncio.run(main())

    threads = [
        threading.Thread(target=work, args=(f"{work.__name__}{n}",)) for n in range(4) for work in (blocking, looping)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    messages = database.sync.messages("s")
    database.close()
    assert len({m.id for m in messages}) == len(messages) == 80
    for n in range(4):
        mine = [m.id for m in messages if m.id.startswith(f"blocking{n}-")]
        assert mine == [f"blocking{n}-{index}" for index in range(10)]


def test_a_blocking_call_on_the_private_loop_is_refused():
    async def nested():
        return run_blocking(lambda: asyncio.sleep(0))

    with pytest.raises(RuntimeError, match="await instead"):
        run_blocking(nested)


def test_an_interrupt_cancels_and_waits():
    ended = threading.Event()

    async def work():
        try:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            await asyncio.sleep(60)
        finally:
            ended.set()

    with pytest.raises(KeyboardInterrupt):
        run_blocking(work)
    assert ended.is_set()


def test_an_iterator_runs_one_item_ahead_of_nobody_and_closes_where_it_stands():
    seen = []

    async def source():
        try:
            for n in range(10):
                seen.append(n)
                yield n
        finally:
            await asyncio.sleep(0)
            seen.append("closed")

    iterator = iterate_blocking(source)
    assert next(iterator) == 0
    assert next(iterator) == 1
    assert seen == [0, 1]
    iterator.close()
    assert seen == [0, 1, "closed"]
    assert list(iterate_blocking(source)) == list(range(10))


def test_an_iterator_raises_what_its_source_raises():
    async def source():
        yield 1
        raise ZeroDivisionError

    iterator = iterate_blocking(source)
    assert next(iterator) == 1
    with pytest.raises(ZeroDivisionError):
        next(iterator)


EXITS = {
    "a script that never closes": """
        database.sync.append("s", HELLO)
    """,
    "asyncio only, never closed": """
        asyncio.run(database.append("s", HELLO))
    """,
    "a thread that outlives the main one": """
        def late():
            threading.main_thread().join()
            database.sync.append("s", HELLO)
        database.sync.ping()
        threading.Thread(target=late).start()
    """,
    "both faces": """
        async def main():
            await database.ping()
            database.sync.append("s", HELLO)
            await asyncio.to_thread(database.sync.messages, "s")
        asyncio.run(main())
    """,
    "sys.exit in the middle": """
        database.sync.append("s", HELLO)
        sys.exit(0)
    """,
    "a worker thread of the private loop": """
        import anyio.to_thread
        from agentstore.sync import run_blocking
        async def main():
            await anyio.to_thread.run_sync(int)
            await asyncio.to_thread(int)
            await database.append("s", HELLO)
        run_blocking(main)
    """,
}


@pytest.mark.parametrize("scheme", ["sqlite", "json"])
@pytest.mark.parametrize("what", EXITS)
def test_at_exit_nothing_is_lost_hangs_or_warns(what, scheme, tmp_path):
    url = f"{scheme}:///{tmp_path}/store"
    script = textwrap.dedent(f"""
        import asyncio, sys, threading
        from agentstore import db
        HELLO = {{"role": "user", "content": "hello"}}
        database = db({url!r})
    """) + textwrap.dedent(EXITS[what])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    with db(url) as database:
        assert len(database.sync.messages("s")) == 1


FORK = """
import os, sys
from agentstore import UnavailableError, db
HELLO = {"role": "user", "content": "hello"}
url = "sqlite:///" + sys.argv[1]
opened, fresh = db(url), db(url)
opened.sync.append("s", HELLO)
child = os.fork()
if child:
    opened.sync.append("s", HELLO)
    sys.exit(os.waitpid(child, 0)[1])
try:
    opened.sync.append("s", HELLO)
except UnavailableError as error:
    assert "before a fork" in str(error)
else:
    sys.exit(1)
fresh.sync.append("s", HELLO)
"""


def test_after_a_fork_the_child_works_with_what_it_opens_itself(tmp_path):
    path = str(tmp_path / "x.db")
    subprocess.run([sys.executable, "-c", FORK, path], check=True, timeout=60)
    with db(f"sqlite:///{path}") as database:
        assert len(database.sync.messages("s")) == 3
