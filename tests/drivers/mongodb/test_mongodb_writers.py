"""Writers that die, or sleep, between any two of their commands: what others see is whole."""

import asyncio
from dataclasses import replace

import pytest
from mongodb_kit import FIRST, append, begun, dying, expired, head, say, texts

from agentstore.protocol import Change
from agentstore.records import Session

pytestmark = pytest.mark.anyio


def restored(writer):
    messages = [say("r1", seq=3), say("r2", seq=4)]
    return lambda: writer.backend.restore(Session("s", last_seq=4), [replace(m) for m in messages])


OPERATIONS = {  # name: (before it, the call, what is there when it is done)
    "append": (begun, lambda w: lambda: w.backend.append([append("a", "b")]), [*FIRST, "a", "b"]),
    "first append": (None, lambda w: lambda: w.backend.append([append("a", "b")]), ["a", "b"]),
    "pop": (begun, lambda w: lambda: w.backend.pop("s", 2), FIRST[:3]),
    "clear": (begun, lambda w: lambda: w.backend.clear("s"), []),
    "delete": (begun, lambda w: lambda: w.backend.delete("s"), []),
    "update": (begun, lambda w: lambda: w.backend.update(Change("s", title="t")), FIRST),
    "restore": (None, restored, ["r1", "r2"]),
}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_writer_that_dies_leaves_all_or_nothing(pair, name, after):
    writer, other = pair
    prepare, make, done = OPERATIONS[name]
    for number in range(1, 20):
        if prepare:
            await prepare(other)
        before = await texts(other)
        died = await dying(writer, number, make(writer), after=after)
        found = await texts(other)
        assert found in (before, done), f"dead at command {number}"
        assert await texts(other, limit=2) == found[-2:]
        assert await texts(other, after=0) == found
        last = await head(other)
        assert (last.message_count if last else 0) == len(found)
        if found:
            await other.update(Change("s", metadata={"k": 1}))
            assert await texts(other) == found
        for _ in range(10):  # the next writers finish what it left, and settle
            await other.append([append("next")])
        assert await texts(other) == found + ["next"] * 10
        assert len(await other.pop("s", 10)) == 10
        assert await texts(other) == found, "nothing comes back"
        await other.delete("s")
        if not died:
            assert number > 1
            return
    raise AssertionError("it never got through")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_writer_that_dies_over_an_expired_session(pair, after):
    writer, other = pair
    for number in range(1, 20):
        await expired(other)
        last = (await other._read(lambda t: t.sessions.find_one({"_id": "s"})))["last_seq"]
        died = await dying(writer, number, lambda: writer.backend.append([append("new")]), after=after)
        found = await texts(other)
        assert found in ([], ["new"])
        ((stored,),) = await other.append([append("next")])
        assert stored.seq > last
        assert await texts(other) == [*found, "next"]
        await other.delete("s")
        if not died:
            return
    raise AssertionError("it never got through")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_purge_that_dies(pair, after):
    writer, other = pair
    for number in range(1, 20):
        await expired(other)
        died = await dying(writer, number, writer.backend.purge_sessions, after=after)
        assert await texts(other) == []
        await other.append([append("next")])
        await other.purge_sessions()
        assert await texts(other) == ["next"]
        await other.delete("s")
        if not died:
            return
    raise AssertionError("it never got through")


async def _meanwhile(other):
    """Much that others do while a writer sleeps; what is there afterwards."""
    await other.append([append("x1", "x2")])
    await other.pop("s", 1)
    await other.clear("s")
    await other.append([append("x3")])
    await other.delete("s")
    for number in range(12):
        await other.append([append(f"y{number}")])
    await other.pop("s", 2)
    await other.purge_sessions()
    return [f"y{number}" for number in range(10)]


@pytest.mark.parametrize("name", [*OPERATIONS])
async def test_a_writer_that_sleeps_does_no_harm_when_it_wakes(pair, name):
    writer, other = pair
    prepare, make, _ = OPERATIONS[name]
    for number in range(1, 20):
        if prepare:
            await prepare(other)
        asleep, wake = asyncio.Event(), asyncio.Event()

        async def sleep(now, number=number, asleep=asleep, wake=wake):
            if now == number:
                asleep.set()
                await wake.wait()

        writer.arm(before=sleep)
        call = asyncio.ensure_future(make(writer)())
        waiting = asyncio.ensure_future(asleep.wait())
        await asyncio.wait([call, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        slept = asleep.is_set()
        before = await _meanwhile(other)
        wake.set()
        await asyncio.wait([call])
        writer.arm()
        result = call.exception() or call.result()
        found = await texts(other)
        effects = {  # applied in the end, or long ago and gone with the session
            "append": (before, [*before, "a", "b"]),
            "first append": (before, [*before, "a", "b"], ["a", "b", *before]),
            "pop": (before, before[:-2]),
            "clear": (before, []),
            "delete": (before, []),
            "update": (before,),
            "restore": (before, ["r1", "r2", *before]),  # a conflict, once the session is there
        }[name]
        assert found in effects, f"asleep at command {number}: {found} after {result!r}"
        for _ in range(9):
            await other.append([append("next")])
        assert await texts(other) == found + ["next"] * 9
        await other.delete("s")
        if not slept:
            return
    raise AssertionError("it never got through")
