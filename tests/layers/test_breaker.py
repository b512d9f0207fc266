"""A backend that is down is not waited for, and one call at a time looks whether it is back."""

import asyncio
import logging
import threading

import pytest
from retry_kit import Rig, Single, lost, refused, turn

from agentstore.errors import ConflictError, PoolTimeoutError, UnavailableError
from agentstore.layers.breaker import Breaker
from agentstore.protocol import Read

pytestmark = pytest.mark.anyio

LONGEST = 2.0


@pytest.fixture
async def rig():
    """One whose breaker is open."""
    rig = Rig(attempts=3)
    rig.fail(*[refused() for _ in range(3)])
    with pytest.raises(UnavailableError, match="refused"):
        await rig.store.ping()
    rig.backend.calls.clear()
    return rig


async def test_it_opens_when_the_attempts_are_used_up(rig):
    assert rig.breaker.is_open
    assert rig.breaker.since == rig.time.now
    rig.time.now += 0.1
    for run in (rig.store.ping, lambda: rig.store.pop("s", 1), lambda: rig.store.append([turn()])):
        with pytest.raises(
            UnavailableError, match=r"db://h/x has been unreachable for 0 s; next try in 0.\d s"
        ) as caught:
            await run()
        assert str(caught.value.__cause__) == "refused"
        assert caught.value.unsent
    assert rig.backend.calls == []
    assert rig.events.fast_failures == 3


async def test_a_blip_opens_nothing():
    rig = Rig(attempts=3)
    for _ in range(10):
        rig.fail(lost(), lost())
        await rig.store.ping()
    assert not rig.breaker.is_open
    assert rig.breaker.since is None


async def test_one_probe_goes_through_without_retries_and_success_closes(rig):
    rig.time.now += LONGEST
    await rig.store.ping()
    assert not rig.breaker.is_open
    assert rig.breaker.since is None
    await rig.store.append([turn()])


async def test_a_failed_probe_makes_the_pause_grow(rig):
    retries, pauses = rig.events.retries, []
    for _ in range(8):
        tried = rig.time.now
        while True:
            rig.fail(error := refused())
            rig.backend.calls.clear()
            with pytest.raises(UnavailableError) as caught:
                await rig.store.pop("s", 1)
            if rig.backend.calls:
                break
            rig.backend.plan.clear()
            rig.time.now += 0.01
        assert caught.value is error
        pauses.append(rig.time.now - tried)
    assert rig.events.retries == retries
    for pause, most in zip(pauses, (0.25, 0.5, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0), strict=True):
        assert most / 2 - 0.02 <= pause <= most + 0.02


async def test_there_is_one_probe_at_a_time_and_a_cancelled_one_leaves_its_place(rig):
    rig.time.now += LONGEST
    begun = asyncio.Event()
    ping = rig.backend.ping

    async def hang():
        begun.set()
        await asyncio.Event().wait()

    rig.backend.ping = rig.store._inner.ping = hang
    probe = asyncio.create_task(rig.store.ping())
    await begun.wait()
    with pytest.raises(UnavailableError, match="it is being tried now"):
        await rig.store.ping()
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    rig.backend.ping = rig.store._inner.ping = ping
    await rig.store.ping()
    assert not rig.breaker.is_open


async def test_a_probe_of_which_nobody_hears_is_given_up(rig):
    rig.time.now += LONGEST
    first = rig.breaker.enter()
    rig.time.now += 29.0
    with pytest.raises(UnavailableError):
        rig.breaker.enter()
    rig.time.now += 1.0
    second = rig.breaker.enter()
    rig.breaker.failed(lost(), first)  # too late to count
    rig.breaker.abandoned(first)
    with pytest.raises(UnavailableError, match="being tried"):
        rig.breaker.enter()
    rig.breaker.failed(lost(), second)
    with pytest.raises(UnavailableError, match="next try"):
        rig.breaker.enter()


@pytest.mark.parametrize(
    "error", [ConflictError("no"), UnavailableError("full", passing=False), UnavailableError("standby", answered=True)]
)
async def test_an_error_of_the_backend_is_an_answer(rig, error):
    rig.time.now += LONGEST
    rig.fail(error)
    with pytest.raises(type(error)) as caught:
        await rig.store.ping()
    assert caught.value is error
    assert not rig.breaker.is_open


async def test_a_pool_that_stays_full_is_no_answer(rig):
    rig.time.now += LONGEST
    rig.fail(PoolTimeoutError("full"))
    with pytest.raises(PoolTimeoutError):
        await rig.store.ping()
    assert rig.breaker.is_open


async def test_what_the_backend_says_itself_does_not_open_it():
    rig = Rig(attempts=3)
    rig.fail(*[UnavailableError("read-only", answered=True) for _ in range(3)])
    with pytest.raises(UnavailableError, match="read-only"):
        await rig.store.append([turn()])
    assert rig.events.retries == 2
    assert not rig.breaker.is_open


async def test_outcomes_count_as_what_is_raised_does():
    rig = Rig(attempts=3)
    rig.fail(*[Single({0: lost(), 1: lost()}) for _ in range(3)])
    outcomes = await rig.store.append([turn("a"), turn("b")])
    assert [str(outcome) for outcome in outcomes] == ["lost", "lost"]
    assert rig.breaker.is_open
    rig.time.now += LONGEST
    rig.fail(Single({0: lost()}))
    (outcome,) = await rig.store.append([turn("c")])
    assert str(outcome) == "lost"
    assert len(rig.called("append")) == 4
    assert rig.breaker.is_open


async def test_a_part_that_is_down_does_not_open_it():
    rig = Rig(attempts=3)
    rig.fail(Single({1: lost()}), lost(), lost())
    stored, outcome = await rig.store.append([turn("a"), turn("b", "elsewhere")])
    assert stored[0].content == "a"
    assert str(outcome) == "lost"
    assert not rig.breaker.is_open


@pytest.mark.parametrize("attempts", [1, 3])
async def test_while_others_are_answered_it_stays_closed(attempts):
    rig = Rig(attempts=attempts)
    ping = rig.backend.ping

    async def answered_meanwhile():
        await rig.store.read([Read("s")])
        await ping()

    rig.store._inner.ping = answered_meanwhile
    rig.fail(*[step for _ in range(attempts) for step in (None, lost())])
    with pytest.raises(UnavailableError, match="lost"):
        await rig.store.ping()
    assert len(rig.called("ping")) == attempts
    assert not rig.breaker.is_open


async def test_it_logs_once_when_it_opens_and_once_when_it_closes(caplog):
    caplog.set_level(logging.INFO, "agentstore")
    rig = Rig(attempts=1)
    rig.fail(refused())
    for _ in range(5):
        with pytest.raises(UnavailableError):
            await rig.store.ping()
    rig.time.now += LONGEST
    for _ in range(5):
        await rig.store.ping()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "db://h/x is unreachable: until it answers, calls fail at once (refused)"),
        ("INFO", "db://h/x answers again, after 2.0 s"),
    ]


def test_many_threads_get_one_probe():
    now = 0.0
    breaker = Breaker("db://h/x", 30.0, lambda: now)
    breaker.failed(lost())
    now = LONGEST
    start = threading.Barrier(8)
    probes, refusals = [], []

    def enter():
        start.wait()
        for _ in range(200):
            try:
                probes.append(breaker.enter())
            except UnavailableError as error:
                refusals.append(error)

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(probes) == 1
    assert len(refusals) == 8 * 200 - 1


def test_it_serves_several_loops():
    rig = Rig(attempts=1)
    rig.fail(refused())
    with pytest.raises(UnavailableError, match="refused"):
        asyncio.run(rig.store.ping())
    with pytest.raises(UnavailableError, match="next try"):
        asyncio.run(rig.store.ping())
    rig.time.now += LONGEST
    asyncio.run(rig.store.ping())
    assert not rig.breaker.is_open
