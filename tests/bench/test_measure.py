"""How it is measured: percentiles, ratios, turns, and groups by hand."""

import asyncio

import pytest
from by_hand import FakeRaw

from agentstore import UnavailableError
from agentstore.bench.group import Gatherer
from agentstore.bench.kit import turn
from agentstore.bench.measure import Case, Side, compare
from agentstore.bench.results import Sample

pytestmark = pytest.mark.anyio


class Recorded(Side):
    """Writes down when its turn came."""

    def __init__(self, name, order, error=None):
        super().__init__(name)
        self.order, self.error = order, error

    async def ready(self, sample, callers, each):
        self.order.append((self.name, sample))

    async def do(self, caller, number):
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error

    async def check(self, done):
        assert sum(done) in {2, 10}


def test_percentiles():
    sample = Sample.of([float(number) for number in range(100, 0, -1)], 50.0)
    assert (sample.operations, sample.rate) == (100, 2.0)
    assert (sample.p50, sample.p95, sample.p99) == (51.0, 95.0, 99.0)
    assert Sample.of([3.0], 1.0).p99 == 3.0


def test_ratios():
    one, other = Sample(100, 1.0, 0.3, 1, 1), Sample(100, 2.0, 0.2, 1, 1)
    assert one.ratio(other, "rate") == 2.0
    assert one.ratio(other, "time") == pytest.approx(1.5)
    assert one.ratio(other, "added") == pytest.approx(0.5)


async def test_sides_take_turns_and_each_begins_half_of_the_time():
    order, told = [], []
    sides = [Recorded("a", order), Recorded("b", order)]
    comparison = await compare(Case("work", "steps", sides, 2, 5), 3, 60, lambda *step: told.append(step))
    assert [name for name, _ in order] == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert [sample for _, sample in order] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert told[0] == ("work: b", 0, 8)
    assert [figure.side for figure in comparison.figures] == ["a", "b"]
    assert len(comparison.figures[1].ratios) == 3


async def test_an_error_of_an_operation_comes_as_it_is():
    side = Recorded("a", [], UnavailableError("down"))
    with pytest.raises(UnavailableError, match="down"):
        await compare(Case("work", "steps", [side], 4, 5), 3, 60, lambda *_: None)


async def test_groups_gather_while_one_is_in_flight():
    raw = FakeRaw()
    gate, commit, sizes = asyncio.Event(), raw.append_group, []

    async def held(turns):
        sizes.append(len(turns))
        await gate.wait()
        await commit(turns)

    raw.append_group = held
    gatherer = Gatherer(raw)
    first = asyncio.create_task(gatherer.append("s", turn()))
    await asyncio.sleep(0.01)
    others = [asyncio.create_task(gatherer.append(f"s{number}", turn())) for number in range(5)]
    await asyncio.sleep(0.01)
    assert (sizes, first.done()) == ([1], False)
    gate.set()
    await asyncio.gather(first, *others)
    assert sizes == [1, 5]
    assert len(await raw.last("s4", 10)) == 2


async def test_as_many_groups_at_once_as_the_driver_says():
    raw = FakeRaw()
    raw.groups = 2
    gate, sizes = asyncio.Event(), []

    async def held(turns):
        sizes.append(len(turns))
        await gate.wait()

    raw.append_group = held
    gatherer = Gatherer(raw)
    tasks = []
    for number in range(4):
        tasks.append(asyncio.create_task(gatherer.append(f"s{number}", turn())))
        await asyncio.sleep(0.01)
    assert sizes == [1, 1]
    gate.set()
    await asyncio.gather(*tasks)
    await gatherer.ended()
    assert sizes == [1, 1, 2]  # few go together

    gate.clear()
    tasks = [asyncio.create_task(gatherer.append(f"s{number}", turn())) for number in range(64)]
    await asyncio.sleep(0.01)
    assert sizes[3:] == [32, 32]
    gate.set()
    await asyncio.gather(*tasks)


async def test_a_group_that_fails_fails_all_its_callers_and_no_later_one():
    raw = FakeRaw()
    commit = raw.append_group

    async def down(turns):
        raise UnavailableError("down")

    raw.append_group = down
    gatherer = Gatherer(raw)
    answers = await asyncio.gather(*(gatherer.append(f"s{n}", turn()) for n in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [UnavailableError] * 3
    raw.append_group = commit
    await gatherer.append("s", turn())
    assert len(await raw.last("s", 10)) == 2
