"""Many writers of one folder of JSON files: processes, threads, loops, and their ends."""

import asyncio
import textwrap
from concurrent.futures import ThreadPoolExecutor

import filelock
import pytest
from json_kit import add, backend, texts

from agentstore.protocol import Append, Increment, Read
from agentstore.records import Message

pytestmark = pytest.mark.anyio

WRITER = """
    import asyncio, sys
    from agentstore.drivers.json import JSONBackend
    from agentstore.options import PoolOptions
    from agentstore.protocol import Append, Increment
    from agentstore.records import Message
    from agentstore.url import StoreURL

    async def main(folder, me):
        store = JSONBackend(StoreURL.parse(f"json:///{folder}"), PoolOptions())
        for n in range(100):
            [outcome] = await store.append([Append("s", (Message("user", f"{me}-{n}"),))])
            assert isinstance(outcome, list), outcome
            if n % 10 == 0:
                await store.write_items([Increment("n", "k")])
        await store.aclose()

    print("ready", flush=True)
    sys.stdin.readline()
    asyncio.run(main(*sys.argv[1:]))
"""


async def test_four_processes_open_one_folder_and_append_to_one_session(folder, store, run):
    writers = [run(WRITER, folder, n) for n in range(4)]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        assert writer.communicate(timeout=60)[1] == ""
        assert writer.returncode == 0
    [found] = await store.read([Read("s")])
    assert [message.seq for message in found] == list(range(1, 401))
    for n in range(4):
        mine = [m.content for m in found if m.content.startswith(f"{n}-")]
        assert mine == [f"{n}-{k}" for k in range(100)]
    assert await store.write_items([Increment("n", "k")]) == [41]


KILLED = """
    import asyncio, sys
    from agentstore.drivers.json import JSONBackend
    from agentstore.options import PoolOptions
    from agentstore.protocol import Append
    from agentstore.records import Message
    from agentstore.url import StoreURL

    async def main(folder, start):
        store = JSONBackend(StoreURL.parse(f"json:///{folder}"), PoolOptions())
        for n in range(int(start), 100_000):
            await store.append([Append(s, (Message("user", f"{n}a"), Message("user", f"{n}b"))) for s in "st"])
            print(n, flush=True)

    asyncio.run(main(*sys.argv[1:]))
"""


async def test_nothing_acknowledged_is_lost_when_a_process_is_killed(folder, run):
    start = 0
    for acknowledged in (1, 7, 20):
        writer = run(KILLED, folder, start)
        seen = [int(writer.stdout.readline()) for _ in range(acknowledged)]
        writer.kill()
        rest, _ = writer.communicate()
        last = int(rest.split("\n")[-2]) if "\n" in rest else seen[-1]
        store = backend(folder)
        for session in "st":
            found = await texts(store, session)
            assert found[: 2 * last + 2] == [f"{n}{x}" for n in range(last + 1) for x in "ab"]
            assert len(found) % 2 == 0
        ends = [len(await texts(store, session)) // 2 for session in "st"]
        start = max(ends)
        for session, end in zip("st", ends, strict=True):  # what was not acknowledged may be there or not
            for n in range(end, start):
                await store.append([Append(session, (Message("user", f"{n}a"), Message("user", f"{n}b")))])
        await store.aclose()


def test_one_object_serves_many_loops_and_threads(folder):
    store = backend(folder)

    async def turns(me):
        for n in range(20):
            await add(store, "s", f"{me}-{n}")
            assert f"{me}-{n}" in await texts(store, "s", limit=200)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda me: asyncio.run(turns(me)), range(4)))

    async def check():
        assert len(await texts(store, "s")) == 80
        await store.aclose()

    asyncio.run(check())


async def test_a_write_in_flight_is_waited_for_when_cancelled(folder, store):
    await store.aopen()
    with filelock.FileLock(folder / ".lock"):
        task = asyncio.create_task(add(store, "s", "one"))
        await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=0.05)
        assert not done
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await texts(store, "s") == ["one"]


@pytest.mark.parametrize("end", ["", "store.close_at_exit()", "del store"])
def test_an_interpreter_that_ends_without_closing(folder, run, end):
    code = """
        import asyncio, sys
        from agentstore.drivers.json import JSONBackend
        from agentstore.options import PoolOptions
        from agentstore.protocol import Append, Read
        from agentstore.records import Message
        from agentstore.url import StoreURL

        store = JSONBackend(StoreURL.parse(f"json:///{sys.argv[1]}"), PoolOptions())

        async def main():
            batch = [Append(str(n), (Message("user", "x"),)) for n in range(10)]
            await store.append(batch)
            await asyncio.gather(*(store.read([Read("1")]) for _ in range(10)))

        asyncio.run(main())
    """
    ended = run(textwrap.dedent(code) + end, folder, flags=("-X", "dev"))
    out, err = ended.communicate(timeout=30)
    assert (out, err, ended.returncode) == ("", "", 0)
