"""The mutex across loops, and waiting that cannot be cut short."""

import asyncio
import threading

import pytest

from agentstore.concurrency import CrossLoopLock, DaemonExecutor, outcome_despite, uncancelled

pytestmark = pytest.mark.anyio


def test_threads_with_their_own_loops_exclude_one_another():
    lock, inside, most = CrossLoopLock(), [], []

    async def worker():
        for _ in range(50):
            async with lock:
                inside.append(1)
                await asyncio.sleep(0)
                most.append(len(inside))
                inside.pop()

    async def workers():
        await asyncio.gather(*(worker() for _ in range(4)))

    threads = [threading.Thread(target=asyncio.run, args=(workers(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 800


async def test_first_come_first_served():
    lock, order = CrossLoopLock(), []

    async def worker(n):
        async with lock:
            order.append(n)
            await asyncio.sleep(0)

    await asyncio.gather(*map(worker, range(10)))
    assert order == list(range(10))


async def test_a_cancelled_waiter_gives_its_turn_away():
    lock = CrossLoopLock()
    entered = []

    async def worker(name):
        async with lock:
            entered.append(name)

    async with lock:
        tasks = [asyncio.create_task(worker(name)) for name in "abc"]
        await asyncio.sleep(0)
        tasks[1].cancel()
    tasks[0].cancel()  # the turn is on its way to it
    await asyncio.wait(tasks)
    assert entered == ["c"]
    async with lock:
        pass


async def test_it_knows_the_loops_it_depends_on():
    lock, loop = CrossLoopLock(), asyncio.get_running_loop()
    assert not lock.needs(loop)
    async with lock:
        assert lock.needs(loop)
    assert not lock.needs(loop)


def test_a_holder_whose_loop_died_does_not_hold_for_ever():
    lock = CrossLoopLock()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(lock.__aenter__())
    loop.close()

    async def main():
        async with lock:
            return True

    assert asyncio.run(main())


async def test_uncancelled_waits_and_then_lets_the_cancellation_go_on():
    future = asyncio.get_running_loop().create_future()
    outcomes = []

    async def work():
        try:
            await uncancelled(future)
        except asyncio.CancelledError as error:
            outcomes.append(outcome_despite(error))
            raise

    task = asyncio.create_task(work())
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    future.set_result("kept")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert outcomes == [future]
    assert outcome_despite(asyncio.CancelledError()) is None


async def test_uncancelled_under_a_timeout_is_still_a_timeout():
    future = asyncio.get_running_loop().create_future()

    async def work():
        async with asyncio.timeout(0):
            asyncio.get_running_loop().call_later(0.01, future.set_result, None)
            await uncancelled(future)

    with pytest.raises(TimeoutError):
        await work()
    await asyncio.sleep(0)


def test_the_executor_runs_what_it_is_given():
    with DaemonExecutor(2, "test") as executor:
        assert list(executor.map(lambda n: n * n, range(20))) == [n * n for n in range(20)]
        with pytest.raises(ZeroDivisionError):
            executor.submit(lambda: 1 / 0).result()
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(int)


def test_the_executor_runs_side_by_side_up_to_its_size():
    together = threading.Barrier(3)
    with DaemonExecutor(3, "test") as executor:
        for future in [executor.submit(together.wait, 30) for _ in range(3)]:
            future.result()


def test_shutting_down_carries_out_what_was_submitted():
    done = []
    with DaemonExecutor(1, "test") as executor:
        for n in range(100):
            executor.submit(done.append, n)
    assert done == list(range(100))


def test_where_no_thread_can_start_the_work_is_done_all_the_same(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    executor = DaemonExecutor(3, "test")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert executor.submit(int, "7").result(timeout=30) == 7
    monkeypatch.undo()
    together = threading.Barrier(2)
    first = executor.submit(together.wait, 30)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    second = executor.submit(int, "8")
    together.wait(30)
    first.result(timeout=30)
    assert second.result(timeout=30) == 8
    executor.shutdown()
