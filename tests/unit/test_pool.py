"""The pool manager, over a native pool that is made of nothing and watches who breaks its rules."""

import asyncio
import contextlib
import gc
import logging
import os
import random
import socket
import threading

import pytest

from agentstore import ClosedError, PoolOptions, PoolTimeoutError, UnavailableError
from agentstore.pool import Pools, _registry, shut_down
from agentstore.url import StoreURL

pytestmark = pytest.mark.anyio

URL = StoreURL.parse("postgresql://u:s3cret@h/d")
HOUR = 3600.0


class Native:
    """A native pool: no more connections than allowed, on one loop, none lost."""

    def __init__(self, natives: "Natives") -> None:
        self.loop = asyncio.get_running_loop()
        self.natives = natives
        self.idle: list[int] = []
        self.used: set[int] = set()
        self.made = 0
        self.closed = self.terminated = False

    async def acquire(self) -> int:
        assert asyncio.get_running_loop() is self.loop
        assert not self.closed
        connection = self.idle.pop() if self.idle else None
        if connection is None:
            await self.natives.connect()
            self.made += 1
            connection = self.made
        self.used.add(connection)
        assert len(self.used) <= self.natives.size, "the bound"
        return connection

    def release(self, connection: int, error: BaseException | None) -> None:
        self.used.remove(connection)
        if error is None:
            self.idle.append(connection)
        self.natives.errors.append(error)

    async def aclose(self) -> None:
        assert asyncio.get_running_loop() is self.loop
        await asyncio.sleep(0)
        self.natives.used_at_close.append(len(self.used))
        await self.natives.goodbye()
        self.closed = True

    def terminate(self) -> None:
        self.terminated = True

    def size(self) -> int:
        return len(self.used) + len(self.idle)


async def nothing() -> None:
    """What `connect` and `goodbye` do unless a test says otherwise."""


class Natives:
    """Makes native pools, and remembers them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.made: list[Native] = []
        self.errors: list[BaseException | None] = []
        self.used_at_close: list[int] = []
        self.connect = self.goodbye = nothing

    def __call__(self) -> Native:
        self.made.append(Native(self))
        return self.made[-1]

    @property
    def one(self) -> Native:
        (native,) = self.made
        return native


@pytest.fixture
def make():
    """``make(size=1, ...)``: Pools, with their `Natives` as ``natives``; afterwards nothing is left of them."""
    made = []

    def make(size=1, *, natives=None, url=URL, **options):
        options = {"timeout": HOUR, "connect_timeout": HOUR, "statement_timeout": HOUR} | options
        natives = natives or Natives(size)
        pools = Pools(url, PoolOptions(size=size, **options), natives)
        pools.natives = natives
        made.append(pools)
        return pools

    yield make
    for pools in made:
        pools.close_at_exit()
    _registry.sweep()
    assert not any(pool.users & set(made) for pool in _registry.pools.values())


async def hold(pools, until, order=None, name=None):
    async with pools.connection():
        if order is not None:
            order.append(name)
        await until.wait()


def start(*coroutines):
    return [asyncio.ensure_future(coroutine) for coroutine in coroutines]


async def turns(count=10):
    """Let everybody else go on."""
    for _ in range(count):
        await asyncio.sleep(0)


def figures(pools):
    (stats,) = pools.stats()
    return stats.size, stats.in_use, stats.waiting, stats.waits


# --- the line ---


async def test_callers_are_served_in_order(make):
    pools, order, go = make(), [], asyncio.Event()
    tasks = start(*(hold(pools, go, order, number) for number in range(20)))
    await turns()
    assert order == [0]
    late = asyncio.ensure_future(hold(pools, go, order, 20))
    go.set()
    await asyncio.gather(*tasks, late)
    assert order == list(range(21))
    assert pools.natives.one.made == 1
    await pools.aclose()


async def test_a_newcomer_does_not_overtake(make):
    pools, order = make(), []
    first, second, third = (asyncio.Event() for _ in range(3))
    tasks = start(hold(pools, first, order, 1), hold(pools, second, order, 2))
    await turns()
    first.set()
    await tasks[0]  # its connection is the second's from here on, who has not run yet
    tasks += start(hold(pools, third, order, 3))
    await turns()
    assert order == [1, 2]
    second.set()
    third.set()
    await asyncio.gather(*tasks)
    await pools.aclose()


async def test_two_hundred_tasks_on_a_pool_of_five(make):
    pools, served = make(5), []

    async def turn(number):
        async with pools.connection() as connection:
            await turns(1 + number % 5)
            served.append((number, connection))

    await asyncio.gather(*map(turn, range(200)))
    assert sorted(number for number, _ in served) == list(range(200))
    assert {connection for _, connection in served} == {1, 2, 3, 4, 5}
    assert figures(pools) == (5, 0, 0, 195)
    await pools.aclose()


async def test_nobody_waits_for_ever(make):
    pools, go = make(timeout=0.01), asyncio.Event()
    holder = asyncio.ensure_future(hold(pools, go))
    await turns()
    with pytest.raises(PoolTimeoutError, match=r"all 1 connections stayed in use for 0.01 s") as caught:
        async with pools.connection():
            pytest.fail("there is none")
    assert "PoolOptions.size" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert figures(pools) == (1, 1, 0, 1)
    go.set()
    await holder
    async with pools.connection() as connection:
        assert connection == 1
    await pools.aclose()


async def test_those_who_leave_the_line_are_forgotten(make):
    pools, go, order = make(), asyncio.Event(), []
    tasks = start(*(hold(pools, go, order, number) for number in range(5)))
    await turns()
    for number in (1, 3):
        tasks[number].cancel()
    await turns()
    assert figures(pools) == (1, 1, 2, 2)
    go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in results] == [False, True, False, True, False]
    assert order == [0, 2, 4]
    await pools.aclose()


async def test_who_is_cancelled_on_being_served_passes_it_on(make):
    pools, first, go, order = make(), asyncio.Event(), asyncio.Event(), []

    async def hand_over():
        await hold(pools, first, order, 0)
        tasks[1].cancel()  # the place is his, and he has not run yet

    tasks = start(hand_over(), *(hold(pools, go, order, number) for number in (1, 2)))
    await turns()
    first.set()
    await turns()
    assert tasks[1].cancelled()
    assert order == [0, 2]
    go.set()
    await tasks[2]
    assert figures(pools)[:3] == (1, 0, 0)
    await pools.aclose()


async def test_a_place_is_not_lost_whoever_is_cancelled_when(make):
    dice = random.Random(7)
    pools, served = make(3, timeout=0.005), 0
    pools.natives.connect = lambda: turns(dice.randrange(4))

    async def turn():
        nonlocal served
        async with pools.connection():
            await turns(dice.randrange(6))
            if dice.random() < 0.2:
                raise ZeroDivisionError
        served += 1

    for _ in range(150):
        tasks = start(*(turn() for _ in range(12)))
        for task in dice.sample(tasks, 6):
            await turns(dice.randrange(4))
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, (type(None), asyncio.CancelledError, ZeroDivisionError, PoolTimeoutError)), result
    size, in_use, waiting, waits = figures(pools)
    assert (in_use, waiting) == (0, 0)
    assert size <= 3
    assert served > 100
    assert waits > 100
    await pools.aclose()
    assert pools.natives.used_at_close == [0]


async def test_the_figures(make):
    pools, go = make(2), asyncio.Event()
    assert pools.stats() == []
    tasks = start(*(hold(pools, go) for _ in range(5)))
    await turns()
    (stats,) = pools.stats()
    assert (stats.url, stats.size, stats.in_use, stats.waiting, stats.waits) == ("postgresql://u:***@h/d", 2, 2, 3, 0)
    go.set()
    await asyncio.gather(*tasks)
    (stats,) = pools.stats()
    assert (stats.in_use, stats.waiting, stats.waits) == (0, 0, 3)
    assert 0 < stats.wait_mean <= stats.wait_max
    await pools.aclose()
    assert pools.stats() == []


# --- connections ---


async def test_what_a_user_met_is_told_to_the_native_pool(make):
    pools = make()
    with pytest.raises(ZeroDivisionError):
        async with pools.connection():
            raise ZeroDivisionError
    async with pools.connection() as connection:
        assert connection == 2, "another one"
    assert [type(error) for error in pools.natives.errors] == [ZeroDivisionError, type(None)]
    await pools.aclose()


async def test_a_failed_connection_frees_the_place(make):
    pools = make()

    async def refuse():
        raise ConnectionRefusedError

    pools.natives.connect = refuse
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            async with pools.connection():
                pytest.fail("there is none")
    pools.natives.connect = nothing
    async with pools.connection():
        assert figures(pools)[:3] == (1, 1, 0)
    await pools.aclose()


async def test_a_connection_that_does_not_come(make):
    pools = make(connect_timeout=0.01)
    pools.natives.connect = lambda: asyncio.sleep(HOUR)
    with pytest.raises(UnavailableError, match=r"no connection could be made within 0.01 s") as caught:
        async with pools.connection():
            pytest.fail("there is none")
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert not isinstance(caught.value, PoolTimeoutError)
    assert "s3cret" not in str(caught.value)
    pools.natives.connect = nothing
    async with pools.connection():
        pass
    await pools.aclose()


async def test_a_native_pool_that_fails_to_take_back_loses_no_place(make, monkeypatch):
    pools = make()

    def fail(*_):
        raise OSError("no")

    monkeypatch.setattr(Native, "release", fail)
    with pytest.raises(OSError, match="no"):
        await hold(pools, set_event())
    assert figures(pools)[1] == 0
    pools.natives.one.used.clear()
    await pools.aclose()


# --- whose it is ---


async def test_two_share_a_pool_and_the_last_closes_it(make):
    natives = Natives(1)
    first, second = make(natives=natives), make(natives=natives)
    for pools in (first, second):
        async with pools.connection():
            pass
    native = natives.one
    assert len(first.stats()) == len(second.stats()) == 1
    await first.aclose()
    assert not native.closed
    assert first.stats() == []
    with pytest.raises(ClosedError):
        async with first.connection():
            pytest.fail("it is closed")
    async with second.connection():
        pass
    await second.aclose()
    assert native.closed
    await second.aclose()


@pytest.mark.parametrize("other", [{"size": 2}, {"max_lifetime": 5.0}, {"url": StoreURL.parse("postgresql://u:x@h/d")}])
async def test_what_differs_is_not_shared(make, other):
    first, second = make(), make(**other)
    for pools in (first, second):
        async with pools.connection():
            pass
        assert len(pools.stats()) == 1
    assert first.natives.one is not second.natives.one
    await first.aclose()
    assert not second.natives.one.closed
    await second.aclose()


async def test_one_that_comes_after_the_last_has_left_gets_a_new_pool(make):
    natives, go = Natives(1), asyncio.Event()
    first, second = make(natives=natives), make(natives=natives)
    holder = asyncio.ensure_future(hold(first, go))
    await turns()
    closing = asyncio.ensure_future(first.aclose())
    await turns()
    async with second.connection():
        assert len(natives.made) == 2
    go.set()
    await asyncio.gather(holder, closing)
    assert [native.closed for native in natives.made] == [True, False]
    await second.aclose()


# --- loops ---


def test_each_loop_has_its_own_and_closes_it(make):
    pools = make()

    async def use():
        async with pools.connection():
            pass
        await asyncio.gather(hold(pools, asyncio.Event()), cancel_soon(asyncio.current_task()), return_exceptions=True)

    async def cancel_soon(task):
        await turns()
        task.cancel()

    for _ in range(3):
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(use())
    assert [(native.closed, native.terminated) for native in pools.natives.made] == [(True, False)] * 3
    assert pools.stats() == []


def test_loops_in_several_threads(make):
    pools, inside = make(), threading.Barrier(4)

    async def use():
        async with pools.connection():
            await asyncio.to_thread(inside.wait, 20)
            assert [stats.in_use for stats in pools.stats()] == [1] * 4
            await asyncio.to_thread(inside.wait, 20)

    threads = [threading.Thread(target=asyncio.run, args=(use(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [native.closed for native in pools.natives.made] == [True] * 4


def test_what_a_generator_stores_while_its_loop_ends(make):
    pools, stored = make(), []

    async def stream():
        try:
            yield
        finally:
            for _ in range(3):
                async with pools.connection() as connection:
                    stored.append(connection)

    async def leave_open():
        async with pools.connection():
            pass
        streams = [stream() for _ in range(8)]
        for each in streams:
            await anext(each)
        left.extend(streams)

    left = []
    asyncio.run(leave_open())
    assert len(stored) == 24
    assert all(native.closed for native in pools.natives.made)


def test_a_first_use_while_the_loop_ends(make):
    pools = make()

    async def stream():
        try:
            yield
        finally:
            async with pools.connection():
                pass

    async def leave_open():
        left.append(stream())
        await anext(left[0])

    left = []
    asyncio.run(leave_open())
    assert pools.natives.one.closed


def test_a_loop_closed_without_a_word_is_swept(make):
    pools, other = make(), make(size=2)
    loop = asyncio.new_event_loop()

    async def use(which):
        async with which.connection():
            pass

    loop.run_until_complete(use(pools))
    native = pools.natives.one
    loop.close()
    assert not native.terminated
    assert pools.stats() == []
    asyncio.run(use(other))
    assert (native.terminated, native.closed) == (True, False)
    asyncio.run(use(pools))
    assert pools.natives.made[1].closed


def test_a_close_after_the_loop_was_closed_cuts(make):
    pools = make()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(hold(pools, set_event()))
    loop.close()
    asyncio.run(pools.aclose())
    assert pools.natives.one.terminated


def set_event():
    event = asyncio.Event()
    event.set()
    return event


def test_a_close_while_the_loop_rests_cuts_what_is_idle(make):
    pools = make()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(hold(pools, set_event()))
    asyncio.run(pools.aclose())
    native = pools.natives.one
    assert (native.terminated, native.closed) == (True, False)
    loop.run_until_complete(turns())  # it goes on after all
    assert native.closed
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def test_a_close_while_the_loop_rests_leaves_alone_what_is_in_use(make):
    pools, go = make(), asyncio.Event()
    loop = asyncio.new_event_loop()
    holder = loop.create_task(hold(pools, go))
    loop.run_until_complete(turns())
    asyncio.run(pools.aclose())
    native = pools.natives.one
    assert not native.terminated
    go.set()
    loop.run_until_complete(holder)
    loop.run_until_complete(turns())
    assert (native.closed, pools.natives.used_at_close) == (True, [0])
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


@pytest.mark.parametrize("way", ["aclose", "close_at_exit"])
def test_a_close_from_another_thread(make, way):
    pools, closed = make(), threading.Event()

    async def use():
        async with pools.connection():
            pass
        await asyncio.to_thread(close)
        while not pools.natives.one.closed:
            await asyncio.sleep(0)
        closed.set()

    def close():
        if way == "aclose":
            asyncio.run(pools.aclose())
        else:
            pools.close_at_exit()

    asyncio.run(use())
    assert closed.is_set()
    assert not pools.natives.one.terminated


# --- closing ---


async def test_a_close_waits_for_who_is_inside_and_in_line(make):
    pools, go, order = make(), asyncio.Event(), []
    tasks = start(*(hold(pools, go, order, number) for number in range(3)))
    await turns()
    closing = asyncio.ensure_future(pools.aclose())
    await turns()
    assert not closing.done()
    with pytest.raises(ClosedError):
        async with pools.connection():
            pytest.fail("it is closed")
    go.set()
    await asyncio.gather(*tasks, closing)
    assert order == [0, 1, 2]
    assert pools.natives.used_at_close == [0]
    assert pools.natives.one.closed


async def test_a_close_does_not_wait_for_ever(make):
    pools, go = make(statement_timeout=0.01), asyncio.Event()
    holder = asyncio.ensure_future(hold(pools, go))
    await turns()
    await pools.aclose()
    assert pools.natives.used_at_close == [1]
    go.set()
    await holder


async def test_a_cancelled_close_closes_all_the_same(make):
    pools, go = make(), asyncio.Event()
    holder = asyncio.ensure_future(hold(pools, go))
    await turns()
    closing = asyncio.ensure_future(pools.aclose())
    await turns()
    closing.cancel()
    await turns()
    assert not closing.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await holder
    assert pools.natives.one.closed


@pytest.mark.parametrize("moment", range(6))
def test_a_close_that_the_end_of_its_loop_cuts_short(make, moment):
    pools = make()

    async def use():
        async with pools.connection():
            pass
        closing.append(asyncio.ensure_future(pools.aclose()))
        await turns(moment)

    closing = []
    asyncio.run(use())
    native = pools.natives.one
    assert native.closed or native.terminated


def test_writes_in_flight_when_the_loop_ends_keep_their_connection(make):
    pools, done = make(), []

    async def write():
        async with pools.connection():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(HOUR)
            await turns(20)
            done.append(pools.natives.one.closed)

    async def use():
        writing.append(asyncio.ensure_future(write()))
        await turns()
        closing.append(asyncio.ensure_future(pools.aclose()))
        await turns()

    writing, closing = [], []
    asyncio.run(use())
    assert done == [False]
    assert pools.natives.used_at_close == [0]


async def test_a_goodbye_that_fails_is_logged_and_cuts(make, caplog):
    pools = make()

    async def fail():
        raise ConnectionResetError("gone")

    pools.natives.goodbye = fail
    async with pools.connection():
        pass
    await pools.aclose()
    assert pools.natives.one.terminated
    (record,) = [record for record in caplog.records if record.name.startswith("agentstore")]
    assert record.levelno == logging.WARNING
    assert "s3cret" not in caplog.text
    assert "gone" in caplog.text


async def test_a_close_by_another_thread_at_the_very_moment_of_the_first_use(make, monkeypatch):
    pools = make()
    sweep = _registry.sweep

    def close_then_sweep():
        monkeypatch.setattr(_registry, "sweep", sweep)
        thread = threading.Thread(target=pools.close_at_exit)
        thread.start()
        thread.join()

    monkeypatch.setattr(_registry, "sweep", close_then_sweep)
    with pytest.raises(ClosedError):
        async with pools.connection():
            pytest.fail("it is closed")
    assert pools.natives.made == []


async def test_the_garbage_collector_closes_where_this_thread_holds_the_guard(make):
    pools = make()
    async with pools.connection():
        pass
    with _registry.guarded():
        pools.close_at_exit()  # as a finalizer would: it must not wait for its own thread
        assert pools in next(iter(_registry.pools.values())).users
    while not pools.natives.one.closed:
        await asyncio.sleep(0)
    assert pools.stats() == []


async def test_nothing_is_kept_of_what_was_closed(make):
    before = len(_registry.pools), len(_registry._ending)
    for _ in range(3):
        pools = make()
        async with pools.connection():
            pass
        await pools.aclose()
    assert (len(_registry.pools), len(_registry._ending)) == before


# --- processes, sockets ---


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_leaves_the_connections_to_the_parent(make):
    pools = make()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(hold(pools, set_event()))
    native = pools.natives.one

    child = os.fork()
    if child == 0:
        code = 1
        try:
            with contextlib.suppress(BaseException):
                assert pools.stats() == []
                asyncio.run(hold(pools, set_event()))
                assert [n.closed for n in pools.natives.made] == [False, True]
                pools.close_at_exit()
                loop.run_until_complete(loop.shutdown_asyncgens())
                gc.collect()
                assert not native.closed
                assert not native.terminated
                code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(pools.stats()) == 1
    loop.run_until_complete(pools.aclose())
    assert native.closed
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def test_shutting_down_the_socket_of_a_transport(make):
    class Transport:
        def __init__(self, socket):
            self.socket = socket

        def get_extra_info(self, name):
            return self.socket if name == "socket" else None

    ours, peers = socket.socketpair()
    with ours, peers:
        shut_down(Transport(ours))
        assert peers.recv(1) == b""
        peers.close()
        shut_down(Transport(ours))
    shut_down(Transport(ours))
    shut_down(Transport(None))
    shut_down(None)
