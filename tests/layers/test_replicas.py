"""Which reads a replica answers, and what becomes of those that it must not or cannot."""

import asyncio
import logging
import threading

import pytest
from replicas_kit import READS, STORED, WRITES, Fake, Rig, down
from retry_kit import turn

from agentstore.drivers.memory import MemoryBackend
from agentstore.errors import AccessDeniedError, ClosedError, ConfigurationError, SchemaError, UnavailableError
from agentstore.protocol import Append, Change, Find, GetItems, Head, Increment, LaggingError, Listing, Read, Scan
from agentstore.records import Session, utcnow
from agentstore.stats import ReplicaStats

pytestmark = pytest.mark.anyio

ASKED = {
    "read": [Read("s")],
    "find": [Find("s", ids=("m",))],
    "heads": [Head("s")],
    "list_sessions": Listing(),
    "get_items": [GetItems("n", ("k",))],
    "scan": Scan("n"),
}
WRITTEN = {
    "append": ([turn()],),
    "pop": ("s", 1),
    "clear": ("s",),
    "update": (Change("s", title="t"),),
    "delete": ("s",),
    "restore": (Session("new", created_at=utcnow(), updated_at=utcnow()), ()),
    "rewrite": (Session("s", created_at=utcnow(), updated_at=utcnow()), ()),
    "purge_sessions": (),
    "write_items": ([Increment("n", "k")],),
    "purge_state": (),
}


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


@pytest.fixture
async def rig():
    rig = await Rig().opened()
    await rig.store.append([turn("first")])
    rig.catch_up()
    assert await rig.words() == ["first"]
    rig.forget()
    return rig


# --- what goes where ---


@pytest.mark.parametrize("name", READS)
async def test_a_read_is_one_call_of_one_replica_and_nothing_else(rig, name):
    await getattr(rig.store, name)(ASKED[name])
    await getattr(rig.store, name)(ASKED[name])
    assert rig.replicas[0].calls == [name, name]
    assert rig.primary.calls == []


@pytest.mark.parametrize("name", WRITES)
async def test_a_write_goes_to_the_primary(rig, name):
    await getattr(rig.store, name)(*WRITTEN[name])
    assert rig.primary.calls == [name]
    assert rig.replicas[0].calls == []


@pytest.mark.parametrize("op", [Read("s", exact=True), Head("s", exact=True), Find("s", exact=True)])
async def test_who_must_know_exactly_asks_the_primary(rig, op):
    name = {Read: "read", Head: "heads", Find: "find"}[type(op)]
    await getattr(rig.store, name)([op])
    await getattr(rig.store, name)([type(op)("other"), op])
    assert rig.primary.calls == [name, name]
    assert rig.replicas[0].calls == []


async def test_replicas_take_turns():
    rig = await Rig(replicas=3).opened()
    for _ in range(6):
        await rig.words()
    assert [replica.count("read") for replica in rig.replicas] == [2, 2, 2]
    assert rig.primary.calls == []


async def test_the_answer_is_the_replica_s(rig):
    await rig.primary.append([turn("of another process")])
    assert await rig.words() == ["first"]
    rig.catch_up()
    assert await rig.words() == ["first", "of another process"]


async def test_an_operation_s_own_error_is_an_answer(rig):
    await rig.store.append([Append("owned", user_id="ann")])
    rig.catch_up()
    (outcome,) = await rig.store.read([Read("owned", user_id="bob")])
    assert isinstance(outcome, AccessDeniedError)
    assert rig.primary.count("read") == 0


# --- own writes ---


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("how", ["done", "failed", "cancelled"])
async def test_after_a_write_a_replica_answers_only_when_it_has_come_that_far(rig, name, how):
    if how != "done":  # it may have been stored all the same
        rig.primary.before[name] = {"failed": UnavailableError("lost"), "cancelled": asyncio.CancelledError()}[how]
        rig.primary.written += 1
    try:
        await getattr(rig.store, name)(*WRITTEN[name])
    except (UnavailableError, asyncio.CancelledError):
        assert how != "done"
    asked = "get_items" if name in {"write_items", "purge_state"} else "heads"
    ask = [Head("new")] if name == "restore" else ASKED[asked]
    rig.forget()
    for _ in range(3):
        rig.clock.now += 1
        await getattr(rig.store, asked)(ask)
    assert rig.primary.calls == ["position", asked, asked, asked]
    rig.catch_up()
    rig.clock.now += 1
    rig.forget()
    await getattr(rig.store, asked)(ask)
    assert (rig.primary.calls, rig.replicas[0].calls) == ([], [asked])


async def test_every_kind_of_read_sees_own_writes(rig):
    await rig.store.append([turn("second")])
    await rig.store.write_items([Increment("n", "k", 7)])
    rig.clock.now += 1
    assert await rig.words() == ["first", "second"]
    assert (await rig.value(), await rig.scanned()) == ([7], [7])
    (head,) = await rig.store.heads([Head("s")])
    page = await rig.store.list_sessions(Listing())
    assert (head.message_count, page.items[0].message_count) == (2, 2)


async def test_what_was_there_before_this_process_counts_as_its_own():
    rig = Rig()
    await rig.primary.append([turn("before")])
    await rig.opened()
    assert await rig.words() == ["before"]
    assert rig.replicas[0].count("read") == 0


async def test_one_look_at_the_primary_serves_many_writes_and_none_is_taken_while_nobody_reads(rig):
    for number in range(20):
        await rig.store.append([turn(str(number))])
    assert rig.primary.count("position") == 0
    rig.catch_up()
    for _ in range(5):
        assert len(await rig.words()) == 21
    assert rig.primary.count("position") == 1
    assert rig.primary.count("read") == 0
    assert rig.replicas[0].calls == ["read"] * 5


async def test_what_was_not_written_lately_needs_no_position_of_late(rig):
    """So replicas are of use also to a process that writes all the time."""
    await rig.store.append([turn("hello", "other")])
    rig.catch_up()
    assert await rig.words("other") == ["hello"]
    rig.forget()
    for number in range(10):
        await rig.store.append([turn(str(number), "busy")])
        assert len(await rig.words("busy")) == number + 1
        assert (await rig.words(), await rig.words("other"), await rig.words("unknown")) == (["first"], ["hello"], [])
        assert await rig.value() == []
    assert rig.primary.count("read") == 10  # of the busy one
    assert rig.primary.count("get_items") == 0
    for ask in (rig.store.list_sessions(Listing()), rig.store.read([Read("s"), Read("busy")])):
        rig.forget()
        await ask
        assert rig.primary.count("list_sessions", "read") == 1


async def test_of_positions_those_that_replicas_may_have_reached_are_kept(rig):
    rig.clock.now += 1
    await rig.store.append([turn("hello", "earlier")])
    await rig.words("earlier")
    on_their_way = {name: getattr(rig.primary, name).copy() for name in STORED}
    arrives = rig.primary.written
    for number in range(30):
        rig.clock.now += 0.02
        await rig.store.append([turn(str(number), "later")])
        await rig.words("later")
    for name, value in on_their_way.items():
        setattr(rig.replicas[0], name, value)
    rig.replicas[0].reached = arrives
    rig.clock.now += 1
    rig.forget()
    assert await rig.words("earlier") == ["hello"]
    assert rig.primary.calls == []
    assert len(await rig.words("later")) == 30
    assert rig.primary.count("read") == 1


async def test_of_many_sessions_the_first_are_taken_for_written_later(rig, monkeypatch):
    monkeypatch.setattr("agentstore.layers.fence._KEPT", 10)
    for number in range(20):
        await rig.store.append([turn("hello", f"s{number}")])
    rig.replicas[0].reached = 0
    rig.clock.now += 1
    for session_id in ("s0", "s19", "never written"):
        rig.forget()
        await rig.words(session_id)
        assert rig.primary.count("read") == 1
    assert len(rig.replicated.fence._last) == 10


async def test_a_position_taken_before_a_write_has_ended_does_not_cover_it(rig):
    go_on = asyncio.Event()
    rig.primary.before["append"] = go_on.wait
    writing = asyncio.create_task(rig.store.append([turn("second")]))
    await until(lambda: rig.primary.count("append"))
    await rig.store.update(Change("s", title="t"))
    rig.catch_up()
    assert await rig.words() == ["first"]
    assert (rig.primary.count("position"), rig.replicas[0].count("read")) == (1, 1)
    go_on.set()
    await writing
    assert await rig.words() == ["first", "second"]
    assert rig.primary.count("position") == 2


async def test_a_write_during_the_look_is_not_covered_by_it(rig):
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slowly():
        asked.set()
        await go_on.wait()

    await rig.store.append([turn("second")])
    rig.catch_up()
    rig.primary.before["position"] = slowly
    reading = asyncio.create_task(rig.words())
    await asked.wait()
    await rig.store.append([turn("third")])
    rig.primary.before.clear()
    go_on.set()
    assert "second" in await reading
    assert await rig.words() == ["first", "second", "third"]


async def test_who_comes_while_another_looks_reads_from_the_primary_at_once(rig):
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slowly():
        asked.set()
        await go_on.wait()

    await rig.store.append([turn("second")])
    rig.catch_up()
    rig.primary.before["position"] = slowly
    reading = asyncio.create_task(rig.words())
    await asked.wait()
    for _ in range(3):
        assert await rig.words() == ["first", "second"]
    assert rig.primary.count("read") == 3
    go_on.set()
    await reading
    assert rig.primary.count("position") == 1


async def test_a_look_that_was_cancelled_keeps_nobody_from_the_next(rig):
    await rig.store.append([turn("second")])
    rig.catch_up()
    rig.primary.before["position"] = asyncio.Event().wait
    reading = asyncio.create_task(rig.words())
    await until(lambda: rig.primary.count("position"))
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    rig.primary.before.clear()
    rig.clock.now += 1
    assert await rig.words() == ["first", "second"]
    assert rig.replicas[0].count("read") == 1


def test_a_look_whose_loop_has_stopped_keeps_nobody_from_the_next():
    rig = asyncio.run(Rig().opened())
    asyncio.run(rig.store.append([turn("first")]))
    rig.catch_up()
    rig.primary.before["position"] = asyncio.Event().wait
    loop = asyncio.new_event_loop()
    reading = loop.create_task(rig.words())
    while not rig.primary.count("position"):
        loop.run_until_complete(asyncio.sleep(0))
    rig.primary.before.clear()
    assert asyncio.run(rig.words()) == ["first"]
    assert rig.replicas[0].count("read") == 0
    rig.clock.now += 10
    assert asyncio.run(rig.words()) == ["first"]
    assert rig.replicas[0].count("read") == 1
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(reading)
    loop.close()


async def test_where_the_position_cannot_be_known_the_primary_is_read_and_that_is_logged_once(rig, caplog):
    rig.primary.tells = False
    for number in range(3):
        await rig.store.append([turn("more")])
        rig.catch_up()
        rig.clock.now += 10
        assert len(await rig.words()) == number + 2
    assert rig.replicas[0].count("read") == 0
    assert [record.message for record in caplog.records if "all reads go to the primary" in record.message] == [
        "fake://primary: the replicas cannot be used, all reads go to the primary (it does not say how far it has come)"
    ]


async def test_while_the_primary_is_away_replicas_answer_unless_something_was_written(rig):
    for name in (*READS, *WRITES, "position"):
        rig.primary.before[name] = down()
    assert await rig.words() == ["first"]
    with pytest.raises(UnavailableError, match="it is away"):
        await rig.store.append([turn("second")])
    rig.clock.now += 10
    with pytest.raises(UnavailableError, match="it is away"):
        await rig.words()
    rig.primary.before.clear()
    rig.clock.now += 10
    assert await rig.words() == ["first"]


# --- replicas that lag ---


async def test_one_that_lags_is_asked_again_after_a_growing_pause(rig):
    await rig.store.append([turn("second")])
    for _ in range(100):
        assert await rig.words() == ["first", "second"]
    assert rig.replicas[0].calls == ["read"]
    for _ in range(100):
        rig.clock.now += 0.1
        assert await rig.words() == ["first", "second"]
    assert 10 < rig.replicas[0].count("read") < 35
    rig.catch_up()
    rig.clock.now += 0.5
    rig.forget()
    assert await rig.words() == ["first", "second"]
    assert rig.primary.calls == []


async def test_reads_go_to_those_that_do_not_lag():
    rig = await Rig(replicas=2).opened()
    await rig.store.append([turn("first")])
    rig.replicas[1].catch_up()
    for _ in range(10):
        assert await rig.words() == ["first"]
    assert rig.replicas[0].count("read") <= 1
    assert rig.replicas[1].count("read") >= 9


async def test_a_position_that_nobody_reaches_is_taken_anew(rig):
    """After a failover, or a restart of the primary, it may be void."""
    await rig.store.append([turn("second")])
    rig.primary.written = 10**6
    await rig.words()
    rig.primary.written = 2
    rig.catch_up()
    for _ in range(3):
        rig.clock.now += 10
        await rig.words()
    rig.forget()
    assert await rig.words() == ["first", "second"]
    assert rig.replicas[0].calls == ["read"]


# --- replicas that fail ---


@pytest.mark.parametrize(
    "error",
    [down(), UnavailableError("full", passing=False), ConfigurationError("no password"), SchemaError("newer")],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("name", READS)
async def test_what_a_replica_cannot_answer_the_primary_answers(rig, name, error):
    rig.replicas[0].before[name] = error
    answer = await getattr(rig.store, name)(ASKED[name])
    assert answer == await getattr(rig.primary, name)(ASKED[name])


@pytest.mark.parametrize("name", ["read", "find", "heads", "get_items"])
async def test_a_batch_of_which_a_replica_cannot_answer_a_part_goes_to_the_primary_whole(rig, name, monkeypatch):
    async def partly(self, batch):
        return [*await getattr(super(Fake, self), name)(batch[:-1]), down()]

    batch = ASKED[name] * 3
    monkeypatch.setattr(rig.replicas[0], name, partly.__get__(rig.replicas[0]))
    outcomes = await getattr(rig.store, name)(batch)
    assert not any(isinstance(outcome, Exception) for outcome in outcomes)
    assert rig.primary.calls == [name]


async def test_one_that_fails_is_left_out_and_found_again_on_the_side(rig, caplog):
    replica = rig.replicas[0]
    for name in ("read", "ping"):
        replica.before[name] = down()
    for _ in range(10):
        assert await rig.words() == ["first"]
    assert replica.calls == ["read"]
    assert "fake://replica-0 is unreachable: until it answers, reads go elsewhere (it is away)" in caplog.text
    assert rig.replicated.replicas[0].stats() == ReplicaStats("fake://replica-0", in_use=False, reason="it is away")
    for _ in range(100):
        rig.clock.now += 0.1
        assert await rig.words() == ["first"]
        await asyncio.sleep(0)
    assert 4 < replica.count("ping") < 12  # in 10 s, of which no reader waited for any
    assert replica.count("read") == 1
    replica.before.clear()
    rig.clock.now += 2
    await rig.words()
    await until(lambda: not rig.replicated._looks)
    assert rig.replicated.replicas[0].stats() == ReplicaStats("fake://replica-0", in_use=True)
    rig.forget()
    assert await rig.words() == ["first"]
    assert (rig.primary.calls, replica.calls) == ([], ["read"])


async def test_one_that_says_nothing_is_waited_for_once_and_not_longer_than_its_patience():
    rig = await Rig(patience=0.05).opened()
    replica = rig.replicas[0]
    replica.before = dict.fromkeys(("read", "ping"), asyncio.Event().wait)
    assert await rig.words() == []
    assert rig.primary.count("read") == 1
    rig.clock.now += 1
    assert await rig.words() == []  # the look is under way
    await until(lambda: not rig.replicated._looks)
    assert replica.calls == ["read", "aopen", "ping"]
    assert rig.primary.count("read") == 2


async def test_one_that_is_back_but_behind_stays_left_out(rig):
    replica = rig.replicas[0]
    replica.before["read"] = down()
    await rig.words()
    replica.before.clear()
    replica.reached = 0  # restarted from an earlier state
    for _ in range(3):
        rig.clock.now += 3
        assert await rig.words() == ["first"]
        await until(lambda: not rig.replicated._looks)
    assert replica.count("read") == 1
    replica.catch_up()
    rig.clock.now += 3
    await rig.words()
    await until(lambda: not rig.replicated._looks)
    await rig.words()
    assert replica.count("read") == 2


async def test_one_that_is_wrong_is_an_error_when_it_is_opened_and_a_log_line_later(rig, caplog):
    wrong = ConfigurationError("no such user")
    fresh = Rig()
    fresh.replicas[0].before["aopen"] = wrong
    with pytest.raises(ConfigurationError, match="no such user"):
        await fresh.store.aopen()
    rig.replicas[0].before = {"read": wrong, "ping": wrong}
    for _ in range(5):
        rig.clock.now += 3
        assert await rig.words() == ["first"]
        await until(lambda: not rig.replicated._looks)
    errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == ["the replica fake://replica-0 cannot be used as it is: no such user"]
    assert rig.replicated.replicas[0].stats().reason == "no such user"


# --- life ---


@pytest.mark.parametrize("error", [down(), LaggingError("no tables yet")], ids=lambda error: type(error).__name__)
async def test_one_that_cannot_be_opened_yet_is_opened_later(error):
    rig = Rig()
    replica = rig.replicas[0]
    replica.before["aopen"] = error
    await rig.opened()
    assert await rig.words() == []
    assert replica.calls == []
    replica.before.clear()
    rig.clock.now += 1
    await rig.words()
    await until(lambda: not rig.replicated._looks)
    assert replica.calls == ["aopen", "ping"]
    await rig.words()
    assert replica.count("read") == 1


async def test_before_it_is_opened_no_replica_is_read():
    rig = Rig()
    rig.primary.before["aopen"] = down()
    with pytest.raises(UnavailableError):
        await rig.store.aopen()
    assert await rig.words() == []
    assert rig.replicas[0].calls == []


async def test_closing_closes_all_and_ends_a_look_under_way(rig):
    replica = rig.replicas[0]
    replica.before = {"read": down(), "ping": asyncio.Event().wait}
    await rig.words()
    rig.clock.now += 1
    await rig.words()
    await until(lambda: replica.count("ping"))
    await rig.store.aclose()
    assert not rig.replicated._looks
    for backend in (rig.primary, replica):
        with pytest.raises(ClosedError):
            await MemoryBackend.ping(backend)


async def test_the_pools_of_all_are_told(rig, monkeypatch):
    for backend in (rig.primary, *rig.replicas):
        monkeypatch.setattr(backend, "pools", lambda backend=backend: [backend])
    assert rig.store.pools() == [rig.primary, *rig.replicas]


def test_many_loops_at_once_read_what_they_have_written():
    rig = asyncio.run(Rig(replicas=2).opened())
    stop = threading.Event()
    failures = []

    def replicate():
        while not stop.is_set():
            for replica in rig.replicas:
                with rig.primary._lock:  # a moment without writes
                    replica.catch_up()

    async def converse(session_id):
        for number in range(40):
            await rig.store.append([turn(str(number), session_id)])
            rig.clock.now += 0.01
            words = await rig.words(session_id)
            if words != [str(n) for n in range(number + 1)]:
                failures.append((session_id, number, words))

    copying = threading.Thread(target=replicate)
    threads = [threading.Thread(target=lambda n=n: asyncio.run(converse(f"s{n}"))) for n in range(4)]
    for thread in (copying, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    copying.join()
    assert failures == []
    assert sum(replica.count("read") for replica in rig.replicas) > 0
