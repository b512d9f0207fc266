"""A group that fails as a whole is taken apart, until what is to blame fails alone."""

import asyncio

import pytest
from queue_kit import make, said, say, until

from agentstore import Message
from agentstore.concurrency import outcome_despite, uncancelled
from agentstore.errors import CorruptRecordError, UnavailableError
from agentstore.protocol import Append, DeleteKeys, Increment, SetItems
from agentstore.queue.halving import outcomes

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("puppets")]


@pytest.mark.parametrize("deferred", [{"durability": "commit"}, {"durability": "commit", "fallback": "memory"}])
async def test_a_bad_one_fails_alone_among_callers_who_wait(tmp_path, deferred):
    database, strings = make(tmp_path, **deferred)
    strings.poison.add("bad")
    async with database:
        with strings.holding():
            first = asyncio.create_task(database.append("first", say("0")))
            await until(lambda: strings.waiting)  # behind it the others gather
            texts = ["1", "2", "bad", "3", "4"]
            writes = [asyncio.create_task(database.append(f"s{text}", say(text))) for text in texts]
            await until(lambda: database.stats().queue.waiting == len(writes))
        await first
        told = dict(zip(texts, await asyncio.gather(*writes, return_exceptions=True), strict=True))
        assert isinstance(told.pop("bad"), CorruptRecordError)
        assert [message.seq for (message,) in told.values()] == [1] * 4
        assert [await said(database, f"s{text}") for text in texts] == [["1"], ["2"], [], ["3"], ["4"]]
        assert database.stats().queue.groups == 2


async def test_the_same_for_state(tmp_path):
    database, strings = make(tmp_path, durability="commit")
    strings.poison.add("bad")
    async with database:
        with strings.holding():
            writes = [asyncio.create_task(database.state.set("0", "first"))]
            await until(lambda: strings.waiting)
            writes += [
                asyncio.create_task(database.state.set(key, value)) for key, value in (("1", "bad"), ("2", "good"))
            ]
            await until(lambda: database.stats().queue.waiting == 2)
        told = await asyncio.gather(*writes, return_exceptions=True)
        assert [type(outcome) for outcome in told] == [int, CorruptRecordError, int]
        assert await database.state.get_many(["1", "2"]) == {"2": "good"}


class Backend:
    """Raises for every batch that holds a bad one, after it has stored the rest."""

    def __init__(self, error):
        self.error, self.batches = error, []

    async def run(self, ops):
        self.batches.append(list(ops))
        if any("bad" in str(op) for op in ops):
            raise self.error
        return [len(self.batches)] * len(ops)


BAD = SetItems("n", {"bad": 1})


@pytest.mark.parametrize("error", [CorruptRecordError("bad"), ZeroDivisionError()])
async def test_what_must_not_come_twice_is_not_tried_again(error):
    backend = Backend(error)
    once = [Increment("n", "k"), DeleteKeys("n", ("k",)), SetItems("n", {"k": 1}, if_version=1)]
    again = [SetItems("n", {"a": 1}), SetItems("n", {"b": 1})]
    told = await outcomes(backend.run, [*once, again[0], BAD, again[1]])
    assert told[:3] == [error] * 3
    assert told[4] is error
    assert not {error} & {told[3], told[5]}
    assert [len(batch) for batch in backend.batches] == [6, 3, 1, 2, 1, 1]


async def test_nothing_but_what_must_not_come_twice():
    backend = Backend(CorruptRecordError("bad"))
    assert await outcomes(backend.run, [Increment("n", "bad"), Increment("n", "k")]) == [backend.error] * 2
    assert len(backend.batches) == 1


async def test_what_another_attempt_may_mend_is_not_taken_apart():
    backend = Backend(UnavailableError("down"))
    assert await outcomes(backend.run, [BAD, SetItems("n", {"a": 1})]) == [backend.error] * 2
    assert len(backend.batches) == 1


async def test_a_backend_that_goes_in_the_second_half_leaves_the_first_as_it_is():
    async def run(ops):
        names = [op.session_id for op in ops]
        if names == ["2", "3"]:
            raise UnavailableError("gone")
        if "3" in names:
            raise CorruptRecordError("bad")
        return names

    told = await outcomes(run, [Append(str(number)) for number in range(4)])
    assert told[:2] == ["0", "1"]
    assert [type(outcome) for outcome in told[2:]] == [UnavailableError] * 2


async def test_cut_short_it_has_an_answer_for_each():
    begun = asyncio.Event()

    async def store(ops):
        await asyncio.sleep(0.01)
        return [op.session_id for op in ops]

    async def run(ops):
        if len(ops) > 2:
            raise CorruptRecordError("bad")
        if ops[0].session_id == "2":
            begun.set()
        return await uncancelled(asyncio.ensure_future(store(ops)))

    ops = [Append(str(number), (Message("user", "hello"),)) for number in range(8)]
    task = asyncio.create_task(outcomes(run, ops))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as cut:
        await task
    answer = outcome_despite(cut.value).result()
    assert list(answer[:4]) == ["0", "1", "2", "3"]
    assert [type(outcome) for outcome in answer[4:]] == [CorruptRecordError] * 4
