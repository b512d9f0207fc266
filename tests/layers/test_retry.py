"""Which calls are tried again, how often, and what becomes of the rest of a batch."""

import asyncio
import subprocess
import sys
from datetime import timedelta

import pytest
from retry_kit import CALLS, After, Rig, Single, lost, refused, turn

from agentstore.concurrency import outcome_despite, uncancelled
from agentstore.drivers.memory import MemoryBackend
from agentstore.errors import (
    AgentstoreError,
    ClosedError,
    ConflictError,
    PoolTimeoutError,
    SessionNotFoundError,
    UnavailableError,
)
from agentstore.protocol import (
    Append,
    Change,
    DeleteKeys,
    Expire,
    Find,
    GetItems,
    Head,
    Increment,
    Listing,
    Read,
    Scan,
    SetItems,
)
from agentstore.records import Session, utcnow

pytestmark = pytest.mark.anyio

SET = SetItems("n", {"k": 1})
ARGUMENTS = {
    "append": ([turn()],),
    "read": ([Read("s")],),
    "heads": ([Head("s")],),
    "find": ([Find("s", ids=("m",))],),
    "namespaces": ("a", 10),
    "rewrite": (Session("s", created_at=utcnow(), updated_at=utcnow()), ()),
    "list_sessions": (Listing(),),
    "pop": ("s", 1),
    "clear": ("s",),
    "update": (Change("s", title="t"),),
    "delete": ("s",),
    "restore": (Session("new", created_at=utcnow(), updated_at=utcnow()), ()),
    "get_items": ([GetItems("n", ("k",))],),
    "write_items": ([SET],),
    "scan": (Scan("n"),),
}
ONCE = {"pop", "clear", "delete", "restore"}


@pytest.fixture
async def rig():
    rig = Rig()
    await MemoryBackend.append(rig.backend, [turn("there")])
    return rig


def call(rig, name):
    return getattr(rig.store, name)(*ARGUMENTS.get(name, ()))


@pytest.mark.parametrize("name", CALLS)
async def test_what_never_got_there_is_tried_again(rig, name):
    rig.fail(refused(), refused())
    await call(rig, name)
    assert len(rig.called(name)) == 3
    assert rig.events.retries == 2


@pytest.mark.parametrize("name", CALLS)
async def test_what_may_have_happened_is_tried_again_only_if_it_may_happen_twice(rig, name):
    rig.fail(error := lost())
    if name in ONCE:
        with pytest.raises(UnavailableError) as caught:
            await call(rig, name)
        assert caught.value is error
        assert not rig.breaker.is_open  # it has not exhausted anything
    else:
        await call(rig, name)
    assert len(rig.called(name)) == (1 if name in ONCE else 2)


async def test_a_pop_whose_answer_was_lost_has_popped_once(rig):
    await MemoryBackend.append(rig.backend, [turn("newer")])
    rig.fail(After(lost()))
    with pytest.raises(UnavailableError, match="lost"):
        await rig.store.pop("s", 1)
    assert await rig.words() == ["there"]


async def test_a_pop_that_was_refused_pops_once(rig):
    rig.fail(refused())
    assert [message.content for message in await rig.store.pop("s", 1)] == ["there"]


async def test_an_append_whose_answer_was_lost_is_stored_once(rig):
    rig.fail(After(lost()))
    ((message,),) = await rig.store.append([turn("new", expected_seq=1)])
    assert message.seq == 2
    assert await rig.words() == ["there", "new"]


@pytest.mark.parametrize(
    ("op", "again"),
    [
        (turn(), True),
        (turn(expected_seq=1), True),
        (Append("s"), True),
        (Append("s", expected_seq=1), False),
    ],
)
async def test_which_appends_may_happen_twice(rig, op, again):
    rig.fail(Single({0: lost()}))
    (outcome,) = await rig.store.append([op])
    assert isinstance(outcome, UnavailableError) is not again
    assert len(rig.called("append")) == 1 + again


@pytest.mark.parametrize(
    ("op", "again"),
    [
        (SET, True),
        (SetItems("n", {"a": 1, "b": 2}, ttl=timedelta(days=1)), True),
        (SetItems("n", {"k": 1}, if_version=0), False),
        (Expire("n", "k", None), True),
        (DeleteKeys("n", ("k",)), False),
        (DeleteKeys("n", ("k",), if_version=0), False),
        (Increment("n", "c"), False),
    ],
)
@pytest.mark.parametrize("raised", [True, False])
async def test_which_writes_to_the_state_may_happen_twice(rig, op, again, raised):
    rig.fail(lost() if raised else Single({0: lost()}))
    try:
        (outcome,) = await rig.store.write_items([op])
    except UnavailableError as error:
        outcome = error
    assert isinstance(outcome, UnavailableError) is not again
    assert len(rig.called("write_items")) == 1 + again


async def test_of_a_batch_that_was_lost_only_what_may_happen_twice_goes_again(rig):
    batch = [Increment("n", "c"), SetItems("n", {"a": 1}), DeleteKeys("n", ("x",)), SetItems("n", {"a": 2})]
    rig.fail(After(error := lost()))
    outcomes = await rig.store.write_items(batch)
    assert rig.called("write_items") == [[batch], [[batch[1], batch[3]]]]
    assert outcomes[0] is outcomes[2] is error
    items = await rig.store.scan(Scan("n"))
    assert [(item.key, item.value) for item in items] == [("a", 2), ("c", 1)]
    assert outcomes[3] == items[0].version


async def test_of_a_batch_that_was_refused_all_goes_again_in_order(rig):
    batch = [Increment("n", "c"), SetItems("n", {"c": 5}), Increment("n", "c")]
    rig.fail(refused())
    assert len(await rig.store.write_items(batch)) == 3
    assert (await rig.store.scan(Scan("n")))[0].value == 6


async def test_single_operations_go_again_in_order_and_the_others_keep_their_outcomes(rig):
    batch = [turn("1", "a"), turn("1", "b"), turn("2", "a"), turn("x", expected_seq=9), turn("2", "b")]
    rig.fail(Single({1: lost(), 4: refused()}), Single({0: refused()}))
    outcomes = await rig.store.append(batch)
    assert rig.called("append") == [[batch], [[batch[1], batch[4]]], [[batch[1]]]]
    assert isinstance(outcomes[3], ConflictError)
    assert [outcomes[place][0].content for place in (0, 1, 2, 4)] == ["1", "1", "2", "2"]
    assert rig.events.retries == 2


async def test_what_a_later_attempt_raises_concerns_only_those_it_was_for(rig):
    rig.fail(Single({1: lost()}), ConflictError("no more"))
    first, second = await rig.store.append([turn("a"), turn("b")])
    assert first[0].content == "a"
    assert isinstance(second, ConflictError)


@pytest.mark.parametrize(
    "error",
    [
        PoolTimeoutError("all in use"),
        UnavailableError("the disk is full", passing=False),
        ClosedError(),
        ConflictError("no"),
        SessionNotFoundError("none"),
        AgentstoreError("a bug"),
        ZeroDivisionError(),
    ],
)
async def test_what_no_retry_mends_is_told_at_once(rig, error):
    for run in (rig.store.ping, lambda: rig.store.read([Read("s")])):
        rig.backend.calls.clear()
        rig.fail(error)
        with pytest.raises(type(error)) as caught:
            await run()
        assert caught.value is error
        assert len(rig.backend.calls) == 1
    assert not rig.breaker.is_open
    assert not rig.time.pauses


async def test_the_attempts_are_bounded_and_the_pauses_grow():
    rig = Rig(attempts=8)
    rig.fail(*[lost() for _ in range(7)], last := lost())
    with pytest.raises(UnavailableError) as caught:
        await rig.store.ping()
    assert caught.value is last
    assert len(rig.backend.calls) == 8
    assert rig.events.retries == 7
    for pause, least in zip(rig.time.pauses, (0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0), strict=True):
        assert least <= pause <= 2 * least


async def test_one_attempt_is_one():
    rig = Rig(attempts=1)
    rig.fail(refused())
    with pytest.raises(UnavailableError, match="refused"):
        await rig.store.ping()
    assert len(rig.backend.calls) == 1
    assert (rig.events.retries, rig.time.pauses) == (0, [])


async def test_no_pause_passes_the_deadline():
    rig = Rig(attempts=1000, deadline=3.0)
    start = rig.time.now
    rig.fail(*[lost() for _ in range(1000)])
    with pytest.raises(UnavailableError):
        await rig.store.ping()
    assert start + 1.0 <= rig.time.now < start + 3.0
    assert rig.breaker.is_open


async def test_a_first_attempt_that_took_the_whole_time_is_the_only_one():
    rig = Rig(deadline=3.0)
    ping = rig.backend.ping

    async def slow():
        rig.time.now += 3.0
        await ping()

    rig.backend.ping = rig.store._inner.ping = slow
    rig.fail(lost())
    with pytest.raises(UnavailableError, match="lost"):
        await rig.store.ping()
    assert len(rig.backend.calls) == 1


async def test_a_pause_can_be_cancelled():
    rig = Rig()
    paused = asyncio.Event()

    async def pause(seconds):
        paused.set()
        await asyncio.sleep(3600)

    rig.store._sleep = pause
    rig.fail(refused())
    task = asyncio.create_task(rig.store.pop("s", 1))
    await paused.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(rig.backend.calls) == 1


async def test_a_cancelled_batch_still_tells_all_its_outcomes(rig):
    """As `uncancelled` does, which knows only of the operations that went again."""
    done = asyncio.get_running_loop().create_future()
    begun = asyncio.Event()
    append = rig.backend.append

    async def second(batch):
        if rig.called("append"):
            begun.set()
            return await uncancelled(done)
        return await append(batch)

    rig.store._inner.append = second
    rig.fail(Single({1: lost()}))
    task = asyncio.create_task(rig.store.append([turn("a"), turn("b")]))
    await begun.wait()
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    done.set_result([["b, stored"]])
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    first, last = outcome_despite(caught.value).result()
    assert first[0].content == "a"
    assert last == ["b, stored"]


async def test_the_rest_is_handed_on(rig):
    assert rig.store.lacks is rig.backend.lacks
    assert rig.store.pools() == ()
    await rig.store.aclose()
    with pytest.raises(ClosedError):
        await rig.store.ping()
    rig = Rig()
    rig.store.close_at_exit()
    with pytest.raises(ClosedError):
        await rig.store.ping()


def test_what_succeeds_imports_no_tenacity():
    code = (
        "import sys; from agentstore import db; database = db('memory:').sync; "
        "database.append('s', {'role': 'user', 'content': 'x'}); database.close(); sys.exit('tenacity' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
