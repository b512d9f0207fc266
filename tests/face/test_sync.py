"""The blocking face: scripts, threads, notebook cells, interpreter exit."""

import asyncio
import contextlib
import gc
import signal
import subprocess
import sys
import textwrap
import threading

import anyio
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


def test_a_blocking_call_from_what_a_blocking_call_runs():
    async def nested(depth):
        with db("memory:") as database:
            database.sync.append("s", HELLO)
            if depth == 3:
                return depth
            # From the loop itself and from a thread of its in turn.
            further = lambda: run_blocking(lambda: nested(depth + 1))  # noqa: E731
            return further() if depth % 2 else await asyncio.to_thread(further)

    assert run_blocking(lambda: nested(0)) == 3
    assert run_blocking(lambda: nested(1)) == 3


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, pytest.fail.Exception])
def test_whatever_a_coroutine_raises_reaches_its_caller_alone(kind):
    async def work():
        raise kind("of the coroutine")

    async def in_a_task_of_its_own():
        await asyncio.gather(work())

    async def source():
        yield 1
        raise kind("of the coroutine")

    for function in (work, in_a_task_of_its_own):
        with pytest.raises(kind):
            run_blocking(function)
    with pytest.raises(kind):
        list(iterate_blocking(source))
    with db("memory:") as database:
        assert database.sync.messages("s") == []


@pytest.mark.parametrize("close", ["close", "aclose"])
def test_a_blocking_call_while_the_same_loop_opens_or_closes(url, close):
    async def main():
        database = db(url)
        opening = asyncio.create_task(database.append("s", HELLO))
        await asyncio.sleep(0)
        database.sync.append("s", HELLO)
        await opening
        assert len(await database.messages("s")) == 2
        closing = asyncio.create_task(database.aclose())
        await asyncio.sleep(0)
        if close == "close":
            database.close()
        else:
            await database.aclose()
        await closing

    asyncio.run(main())


def test_flush_and_close_end_while_others_keep_writing(url):
    async def main():
        database = db(url)
        going = True

        async def write():
            while going:
                with contextlib.suppress(ClosedError):
                    await database.append("s", HELLO)
                await asyncio.sleep(0)

        writers = [asyncio.create_task(write()) for _ in range(4)]
        await database.append("s", HELLO)
        async with asyncio.timeout(60):
            await database.flush()
            await database.aclose()
        going = False
        await asyncio.gather(*writers)

    asyncio.run(main())


@pytest.mark.parametrize("limit", [asyncio.timeout, anyio.move_on_after])
def test_a_timeout_around_a_direct_call_is_a_timeout_and_nothing_later(url, limit):
    async def main():
        async with db(url) as database:
            await database.append("s", [HELLO] * 2000)
            timed_out = False
            try:
                # It has begun and is waited for; its result is lost to us, for the time was up.
                if limit is asyncio.timeout:
                    async with limit(0):
                        await database.pop("s", 2000)
                else:
                    with limit(0) as scope:
                        await database.pop("s", 2000)
                    timed_out = scope.cancelled_caught
            except TimeoutError:
                timed_out = True
            await asyncio.sleep(0)
            assert timed_out or url == "memory:"  # which never lets the loop go on
            assert len(await database.messages("s")) in {0, 2000}

    asyncio.run(main())


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
    "a stream half read": """
        from agentstore import Agent, Model, Message
        class Slow(Model):
            async def complete(self, messages, tools):
                raise NotImplementedError
            async def stream(self, messages, tools):
                yield "hel"
                yield "lo"
        pieces = Agent("A", model=Slow(), db=database, session_id="other").stream("hi")
        next(pieces)
        database.sync.append("s", HELLO)
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
        assert [m.content for m in database.sync.messages("other")] in ([], ["hi", "hel"])


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
opened.close()
"""


def test_after_a_fork_the_child_works_with_what_it_opens_itself(tmp_path):
    path = str(tmp_path / "x.db")
    subprocess.run([sys.executable, "-c", FORK, path], check=True, timeout=60)
    with db(f"sqlite:///{path}") as database:
        assert len(database.sync.messages("s")) == 3


def test_an_iterator_that_the_garbage_collector_drops_on_the_private_thread():
    class Circle:
        pass

    closed = threading.Event()

    async def numbers():
        try:
            for number in range(10):
                yield number
        finally:
            closed.set()

    async def collect():
        gc.collect()

    gc.disable()
    try:
        circle = Circle()
        circle.itself, circle.iterator = circle, iterate_blocking(numbers)
        assert next(circle.iterator) == 0
        del circle
        run_blocking(collect)
    finally:
        gc.enable()
    assert closed.wait(20)
