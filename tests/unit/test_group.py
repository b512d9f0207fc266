"""Natural batching, without a store."""

import asyncio

import pytest

from agentstore.concurrency import uncancelled
from agentstore.errors import ConflictError, UnavailableError
from agentstore.queue.group import Grouping, Tally

pytestmark = pytest.mark.anyio

EAGER = hasattr(asyncio, "eager_task_factory")  # Python 3.12 brought it


class Gate:
    """A store whose round trips last until the test says so, or end at once."""

    def __init__(self, *, shut=False):
        self.batches = []
        self.open = asyncio.Event()
        self.begun = asyncio.Event()
        if not shut:
            self.open.set()

    async def run(self, batch):
        self.batches.append(list(batch))
        self.begun.set()
        await self.open.wait()
        return [ConflictError(op) if op.startswith("bad") else op.upper() for op in batch]


async def test_a_lone_caller_goes_at_once_and_the_rest_gathers():
    gate = Gate(shut=True)
    tally = Tally()
    grouping = Grouping(gate.run, tally)
    first = asyncio.create_task(grouping.submit("a"))
    await gate.begun.wait()
    rest = [asyncio.create_task(grouping.submit(op)) for op in "bcd"]
    while grouping.waiting < 3:
        await asyncio.sleep(0)
    gate.open.set()
    assert await asyncio.gather(first, *rest) == ["A", "B", "C", "D"]
    assert gate.batches == [["a"], ["b", "c", "d"]]
    assert (tally.groups, tally.operations) == (2, 4)


async def test_a_bad_one_fails_alone():
    grouping = Grouping(Gate().run, Tally())
    outcomes = await asyncio.gather(*map(grouping.submit, ("a", "bad", "c")), return_exceptions=True)
    assert outcomes[::2] == ["A", "C"]
    assert isinstance(outcomes[1], ConflictError)


@pytest.mark.parametrize("error", [UnavailableError("down"), ZeroDivisionError()])
async def test_what_the_batch_raises_everyone_gets(error):
    async def run(batch):
        raise error

    grouping = Grouping(run, Tally())
    outcomes = await asyncio.gather(grouping.submit("a"), grouping.submit("b"), return_exceptions=True)
    assert outcomes == [error, error]


async def test_groups_are_bounded_in_items_and_bytes():
    gate = Gate()
    grouping = Grouping(gate.run, Tally(), weigh=len, max_items=3, max_bytes=10)
    ops = ["x" * 20, "a", "b", "c", "d", "y" * 8, "z" * 8]
    await asyncio.gather(*map(grouping.submit, ops))
    assert gate.batches == [["x" * 20], ["a", "b", "c"], ["d", "y" * 8], ["z" * 8]]


async def test_a_cancelled_caller_withdraws_what_still_waits():
    gate = Gate(shut=True)
    grouping = Grouping(gate.run, Tally())
    first = asyncio.create_task(grouping.submit("a"))
    await gate.begun.wait()
    second = asyncio.create_task(grouping.submit("b"))
    while not grouping.waiting:
        await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    gate.open.set()
    assert await first == "A"
    assert gate.batches == [["a"]]


async def test_a_cancelled_caller_waits_for_what_is_in_flight():
    gate = Gate(shut=True)
    grouping = Grouping(gate.run, Tally())
    call = asyncio.create_task(grouping.submit("a"))
    await gate.begun.wait()
    for _ in range(3):
        call.cancel()
        await asyncio.sleep(0)
    assert not call.done()
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_cancelled_reader_leaves_at_once():
    gate = Gate(shut=True)
    grouping = Grouping(gate.run, Tally(), wait_in_flight=False)
    call = asyncio.create_task(grouping.submit("a"))
    await gate.begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not gate.open.is_set()
    gate.open.set()
    await grouping.flush()


def test_a_dying_loop_leaves_nobody_waiting():
    async def main():
        grouping = Grouping(Gate(shut=True).run, Tally())
        for op in "ab":
            asyncio.create_task(grouping.submit(op))  # noqa: RUF006  asyncio.run ends them, which is the point
        await asyncio.sleep(0)

    asyncio.run(main())


async def test_flush_waits_for_what_came_before_and_no_longer():
    gate = Gate(shut=True)
    grouping = Grouping(gate.run, Tally())
    first = asyncio.create_task(grouping.submit("a"))
    await gate.begun.wait()
    second = asyncio.create_task(grouping.submit("b"))
    while not grouping.waiting:
        await asyncio.sleep(0)
    flushed = asyncio.create_task(grouping.flush())
    await asyncio.sleep(0)
    late = asyncio.create_task(grouping.submit("bad"))
    assert not flushed.done()
    gate.open.set()
    await flushed
    assert first.done()
    assert second.done()
    assert isinstance((await asyncio.gather(late, return_exceptions=True))[0], ConflictError)


async def test_a_cancelled_drainer_still_tells_what_was_done():
    future = asyncio.get_running_loop().create_future()

    async def run(batch):
        return await uncancelled(future)

    grouping = Grouping(run, Tally())
    call = asyncio.create_task(grouping.submit("a"))
    while not grouping.waiting:
        await asyncio.sleep(0)
    while grouping.waiting:
        await asyncio.sleep(0)
    (drainer,) = [task for task in asyncio.all_tasks() if "_drain" in repr(task)]
    drainer.cancel()
    await asyncio.sleep(0)
    future.set_result(["A"])
    assert await call == "A"


@pytest.mark.parametrize("factory", [None, *([asyncio.eager_task_factory] if EAGER else [])])
async def test_any_task_factory(factory):
    asyncio.get_running_loop().set_task_factory(factory)

    async def run(batch):
        return [op.upper() for op in batch]

    grouping = Grouping(run, Tally())
    assert [await grouping.submit(op) for op in "ab"] == ["A", "B"]
    await grouping.flush()
