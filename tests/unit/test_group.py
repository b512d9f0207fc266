"""Natural batching, without a store."""

import asyncio

import pytest

from agentstore.concurrency import Lasting, uncancelled
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
@pytest.mark.parametrize("width", [1, 2])
async def test_any_task_factory(factory, width):
    asyncio.get_running_loop().set_task_factory(factory)

    async def run(batch):
        return [op.upper() for op in batch]

    grouping = Grouping(run, Tally(), width=width, key=str)
    assert [await grouping.submit(op) for op in "ab"] == ["A", "B"]
    assert await asyncio.gather(*map(grouping.submit, "abcabc")) == [*"ABCABC"]
    await grouping.flush()


async def test_a_group_in_flight_for_too_long_fails_its_callers_and_is_waited_for_by_the_next():
    gate = Gate(shut=True)
    grouping = Grouping(gate.run, tally := Tally(), 0.05)
    with pytest.raises(UnavailableError, match=r"no answer within 0\.05 s: .* may be stored or not") as caught:
        await grouping.submit("a")
    assert not caught.value.unsent
    late = asyncio.create_task(grouping.submit("b"))
    with pytest.raises(UnavailableError, match="given up without being tried") as caught:
        await late
    assert caught.value.unsent
    assert gate.batches == [["a"]]
    next_one = asyncio.create_task(grouping.submit("c"))
    while not grouping.waiting:
        await asyncio.sleep(0)
    gate.open.set()
    assert await next_one == "C"
    assert gate.batches == [["a"], ["c"]]
    assert (tally.groups, tally.operations) == (2, 2)


async def test_each_caller_has_the_whole_deadline():
    gate = Gate(shut=True)
    grouping = Grouping(gate.run, Tally(), 0.2)
    loop = asyncio.get_running_loop()
    waited = []

    async def call(op, pause):
        await asyncio.sleep(pause)
        start = loop.time()
        with pytest.raises(UnavailableError):
            await grouping.submit(op)
        waited.append(loop.time() - start)

    await asyncio.gather(*(call(op, place * 0.05) for place, op in enumerate("abcd")))
    assert min(waited) >= 0.199
    gate.open.set()
    await grouping.flush()
    assert await grouping.submit("e") == "E"  # and the deadline of the former callers is none of its concern
    assert gate.batches == [["a"], ["e"]]


async def test_a_cancelled_writer_waits_until_the_deadline_and_no_longer():
    gate = Gate(shut=True)
    grouping = Grouping(gate.run, Tally(), 0.1)
    call = asyncio.create_task(grouping.submit("a"))
    await gate.begun.wait()
    call.cancel()
    await asyncio.sleep(0)
    assert not call.done()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not gate.open.is_set()
    gate.open.set()
    assert await grouping.submit("b") == "B"


async def test_an_error_that_comes_too_late_is_told_to_nobody():
    answer = asyncio.get_running_loop().create_future()

    async def run(batch):
        return await answer

    grouping = Grouping(run, Tally(), 0.01)
    with pytest.raises(UnavailableError, match="no answer within"):
        await grouping.submit("a")
    answer.set_exception(ConflictError("too late"))
    with pytest.raises(ConflictError):
        await grouping.submit("b")


async def test_a_lone_caller_carries_its_operation_out_itself_while_it_stays_alone():
    tasks = []

    async def run(batch):
        tasks.append((len(batch), asyncio.current_task()))
        await asyncio.sleep(0)
        return list(batch)

    tally = Tally()
    grouping = Grouping(run, tally, in_place=True)
    assert await grouping.submit("a") == "a"
    assert tasks == [(1, asyncio.current_task())]
    for _ in range(2):  # the first time one goes ahead of the others; from then on they go together
        assert await asyncio.gather(*map(grouping.submit, "bcd")) == ["b", "c", "d"]
    assert [size for size, _ in tasks] == [1, 1, 2, 3]
    assert await grouping.submit("e") == "e"
    assert tasks[-1][1] is not asyncio.current_task()
    assert await grouping.submit("f") == "f"
    assert tasks[-1] == (1, asyncio.current_task())
    assert (tally.groups, tally.operations) == (6, 9)


async def test_what_befalls_a_lone_caller_it_is_told_and_the_next_goes_on():
    grouping = Grouping(Gate().run, Tally(), in_place=True)
    with pytest.raises(ConflictError):
        await grouping.submit("bad")
    assert await grouping.submit("a") == "A"


async def test_a_lone_caller_who_is_late_leaves_its_call_behind_and_those_who_waited_go_on():
    handed, done = [], []

    async def run(batch):
        loop = asyncio.get_running_loop()
        handed.append(Lasting(loop=loop))
        await uncancelled(handed[-1])
        done.append(list(batch))
        return list(batch)

    grouping = Grouping(run, Tally(), 0.05, in_place=True)
    first = asyncio.create_task(grouping.submit("a"))
    while not handed:
        await asyncio.sleep(0)
    second = asyncio.create_task(grouping.submit("b"))
    with pytest.raises(UnavailableError, match=r"no answer within 0\.05 s"):
        await first
    assert not first.cancelling()
    with pytest.raises(UnavailableError):
        await second
    await grouping.flush()
    assert done == []


async def test_a_lone_caller_who_is_cancelled_waits_for_what_is_in_flight_at_most_until_the_deadline():
    loop = asyncio.get_running_loop()
    handed = []

    async def run(batch):
        handed.append(Lasting(loop=loop))
        return await uncancelled(handed[-1])

    grouping = Grouping(run, Tally(), 0.05, in_place=True)
    for ends in (True, False):
        caller = asyncio.create_task(grouping.submit("a"))
        while not handed:
            await asyncio.sleep(0)
        caller.cancel()
        await asyncio.sleep(0)
        assert not caller.done()
        if ends:
            handed[0].set_result(["a"])
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert handed.pop().cancelled() is not ends


async def test_flush_waits_for_a_lone_caller_too():
    gate = Gate(shut=True)
    grouping = Grouping(gate.run, Tally(), in_place=True)
    caller = asyncio.create_task(grouping.submit("a"))
    await gate.begun.wait()
    flushing = asyncio.create_task(grouping.flush())
    await asyncio.sleep(0)
    assert not flushing.done()
    gate.open.set()
    await flushing
    assert await caller == "A"


async def test_flush_waits_for_what_a_cancelled_caller_has_left_in_flight():
    gate = Gate(shut=True)
    grouping = Grouping(gate.run, Tally())
    caller = asyncio.create_task(grouping.submit("a"))
    await gate.begun.wait()
    caller.cancel()
    flushing = asyncio.create_task(grouping.flush())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not flushing.done()
    gate.open.set()
    await flushing
    with pytest.raises(asyncio.CancelledError):
        await caller


# --- several batches at once ---


class Width:
    """Batches that are answered one by one, as the test says."""

    def __init__(self):
        self.batches = []
        self.answers = []

    async def run(self, batch):
        self.batches.append([op for op, _ in batch])
        self.answers.append(asyncio.get_running_loop().create_future())
        await self.answers[-1]
        return [op for op, _ in batch]

    def grouping(self, deadline=None):
        return Grouping(self.run, Tally(), deadline, width=2, key=lambda op: op[1])

    async def come(self, grouping, *ops):
        """Tasks that have handed in these: ``a0`` is of the session ``a``."""
        tasks = [asyncio.create_task(grouping.submit((op, op[0]))) for op in ops]
        for _ in range(5):
            await asyncio.sleep(0)
        return tasks


async def test_another_batch_goes_while_one_is_in_flight_but_never_of_the_same_session():
    store = Width()
    grouping = store.grouping()
    tasks = await store.come(grouping, "a0")
    tasks += await store.come(grouping, "a1", "b0", "a2", "c0")
    assert store.batches == [["a0"], ["b0", "c0"]]
    tasks += await store.come(grouping, "d0", "b1")
    assert len(store.batches) == 2, "two at once are the most"
    store.answers[1].set_result(None)
    tasks += await store.come(grouping, "a3")
    assert store.batches[2:] == [["d0", "b1"]]
    store.answers[0].set_result(None)
    await store.come(grouping)
    assert store.batches[3:] == [["a1", "a2", "a3"]], "in their order, and none is forgotten"
    for answer in store.answers[2:]:
        answer.set_result(None)
    assert await asyncio.gather(*tasks) == ["a0", "a1", "b0", "a2", "c0", "d0", "b1", "a3"]


async def test_many_who_wait_are_shared_out():
    store = Width()
    grouping = store.grouping()
    tasks = await store.come(grouping, *map(chr, range(65, 105)))
    assert [len(batch) for batch in store.batches] == [20, 20]
    flushed = asyncio.create_task(grouping.flush())
    for answer in store.answers:
        assert not flushed.done()
        answer.set_result(None)
        await store.come(grouping)
    await flushed
    assert all(task.done() for task in tasks)


async def test_who_waits_for_a_session_in_flight_is_late_at_the_deadline_like_all():
    store = Width()
    grouping = store.grouping(0.05)
    tasks = await store.come(grouping, "a0", "b0")
    tasks += await store.come(grouping, "a1")
    for task in tasks:
        with pytest.raises(UnavailableError):
            await task
    for answer in store.answers:
        answer.set_result(None)
    (last,) = await store.come(grouping, "a2")
    store.answers[-1].set_result(None)
    assert await last == "a2"
    assert [op for batch in store.batches for op in batch] == ["a0", "b0", "a2"]
